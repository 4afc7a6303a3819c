//! The planes against a slow model that keeps one set of blocks for each state of the disk.

use super::*;
use crate::format::Ones;
use std::collections::BTreeSet;
use std::vec::Vec;

/// One of so many steps is taken under Miri, where each takes most of a second to compare.
const FEWER: u32 = if cfg!(miri) { 80 } else { 1 };

/// What the planes stand for, spelled out.
struct Reference {
    durable: BTreeSet<u32>,
    flight: BTreeSet<u32>,
    next: BTreeSet<u32>,
    reserved: BTreeSet<u32>,
    log: BTreeSet<u32>,
    in_flight: bool,
}

impl Reference {
    fn may_hand_out(&self, block: u32) -> bool {
        self.durable.contains(&block)
            && self.flight.contains(&block)
            && self.next.contains(&block)
            && !self.reserved.contains(&block)
    }
}

/// All runs, looked at `budget` words at a time.
pub(crate) fn all_runs(map: &FreeMap<'_>, runs: Runs, budget: usize) -> Vec<Run> {
    let (mut all, mut walk) = (Vec::new(), Walk::default());
    let mut see = |run| {
        all.push(run);
        true
    };
    while map.walk(runs, &mut walk, budget, &mut see) != Walked::All {}
    assert_eq!(map.walk(runs, &mut walk, budget, &mut |run| panic!("{run:?} is shown twice")), Walked::All);
    if runs == Runs::Changes {
        let (mut count, mut from) = (0, Some(0));
        while let Some(at) = from {
            let (some, next) = map.count_changes(at, budget);
            (count, from) = (count + some, next);
        }
        assert_eq!(count as usize, all.len(), "counted by words");
    }
    if runs == Runs::FreeInFlight {
        assert_eq!(all_listed(map, budget), all, "listed by words");
    }
    all
}

/// All runs of free blocks, listed `budget` words at a time by one who often takes a part and then stops.
fn all_listed(map: &FreeMap<'_>, budget: usize) -> Vec<Run> {
    let (mut all, mut walk, mut stops) = (Vec::new(), Walk::default(), 0_usize);
    loop {
        let walked = map.list(&mut walk, budget, &mut |found| {
            stops += 1;
            // After so many of them there is no room.
            let room = if stops % 3 == 0 { stops % 7 } else { usize::MAX };
            match found {
                Found::Run(_) if room == 0 => 1,
                Found::Run(run) => {
                    all.push(run);
                    0
                }
                Found::Bits { first, mut bits } => {
                    for _ in 0..room {
                        if bits == 0 {
                            break;
                        }
                        let (from, run) =
                            (bits.trailing_zeros(), bits & !bits.wrapping_add(1 << bits.trailing_zeros()));
                        all.push(Run { first: first + from, count: run.count_ones(), freed: true });
                        bits &= !run;
                    }
                    bits
                }
            }
        });
        match walked {
            Walked::All => return all,
            Walked::Stopped => {
                let position = walk.position();
                assert!(all.last().is_none_or(|run| run.end() < position), "{all:?} up to {position}");
            }
            Walked::Part => {}
        }
    }
}

fn words(blocks: u32) -> Vec<AtomicUsize> {
    (0..FreeMap::words_needed(blocks)).map(|_| AtomicUsize::new(0)).collect()
}

fn compare(map: &FreeMap<'_>, counts: &Counts, reference: &Reference, blocks: u32) {
    let mut ranges = 0;
    for block in 0..blocks {
        let state = map.state(block);
        assert_eq!(state == State::Free, reference.may_hand_out(block), "block {block} {state:?}");
        assert_eq!(state == State::Reserved, reference.reserved.contains(&block), "block {block} {state:?}");
        let free_flight = reference.flight.contains(&block);
        let (at, bit) = place(block);
        assert_eq!(map.get(FLIGHT, at) & bit != 0, free_flight, "block {block} in flight");
        ranges += u32::from(free_flight && (block == 0 || !reference.flight.contains(&(block - 1))));
    }
    assert_eq!(counts.avail, (0..blocks).filter(|block| reference.may_hand_out(*block)).count() as u32);
    assert_eq!(counts.reserved, reference.reserved.len() as u32);
    let freed =
        reference.next.iter().filter(|block| !reference.durable.contains(block) || !reference.flight.contains(block));
    assert_eq!(counts.pending, freed.count() as u32);
    assert_eq!(counts.free_flight, reference.flight.len() as u32);
    assert_eq!(counts.ranges_flight, ranges);
    for budget in [1, 3, usize::MAX] {
        let free = all_runs(map, Runs::FreeInFlight, budget);
        assert_eq!(free.len() as u32, ranges, "in the longest runs there are");
        let listed: BTreeSet<u32> = free.iter().flat_map(|run| run.first..run.first + run.count).collect();
        assert_eq!(listed, reference.flight);
    }
    let mut moved = BTreeSet::new();
    for change in all_runs(map, Runs::Changes, 2) {
        for block in change.first..change.first + change.count {
            assert_eq!(reference.flight.contains(&block), change.freed);
            moved.insert(block);
        }
    }
    let differ: BTreeSet<u32> = reference.flight.symmetric_difference(&reference.durable).copied().collect();
    assert_eq!(moved, differ);
    assert_eq!(map.is_moved(), reference.flight != reference.durable, "moved");
    assert_eq!(map.is_changed(), reference.flight != reference.next, "changed");
    for at in 0..map.words() {
        let word = map.word(at);
        let kinds = [word.avail() != 0, word.is_changed(), word.is_moved()];
        let noted = [map.avail(), map.changed(), map.moved()].map(|summary| summary.next(at) == Some(at));
        assert_eq!(noted, kinds, "summaries of word {at}");
        let is_free = |block: u32| reference.flight.contains(&block);
        let first = (at * WORD_BITS) as u32;
        let edge = (first..first + WORD_BITS as u32).any(|block| is_free(block) != (block > 0 && is_free(block - 1)));
        assert_eq!(map.edges().next(at) == Some(at), edge, "edges of word {at}");
    }
}

#[test]
fn random_walk_agrees_with_sets() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = move |bound: u32| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 33) as u32 % bound
    };
    let sizes = [1, 63, 64, 65, 200, 4097].into_iter().filter(|blocks| !cfg!(miri) || [1, 65].contains(blocks));
    for blocks in sizes {
        let memory = words(blocks);
        let map = FreeMap::new(&memory, blocks);
        map.clear();
        map.load_range(0, blocks, true).unwrap();
        let mut counts = map.load_done();
        let all: BTreeSet<u32> = (0..blocks).collect();
        let mut reference = Reference {
            durable: all.clone(),
            flight: all.clone(),
            next: all,
            reserved: BTreeSet::new(),
            log: BTreeSet::new(),
            in_flight: false,
        };
        for step in 0..4000 / FEWER {
            let block = roll(blocks);
            match roll(10) {
                0..=3 => match map.reserve(&mut counts, block) {
                    Some(got) => {
                        assert!(reference.may_hand_out(got));
                        reference.reserved.insert(got);
                    }
                    None => assert!((0..blocks).all(|block| !reference.may_hand_out(block))),
                },
                4 | 5 => {
                    let known = reference.reserved.remove(&block);
                    assert_eq!(map.enqueue(&mut counts, block).is_ok(), known);
                    if known {
                        reference.next.remove(&block);
                    }
                }
                6 => {
                    let known = reference.reserved.remove(&block);
                    assert_eq!(map.unreserve(&mut counts, block).is_ok(), known);
                }
                7 | 8 => {
                    let used = !reference.next.contains(&block)
                        && !reference.reserved.contains(&block)
                        && !reference.log.contains(&block);
                    let at_once = map.state(block) == State::New && roll(2) == 0;
                    let result = match at_once {
                        true => map.new_block(block).ok_or_else(|| map.state(block)).map(|new| {
                            map.free_new(&mut counts, new);
                            State::Free
                        }),
                        false => map.free(&mut counts, block),
                    };
                    assert_eq!(result.is_ok(), used, "block {block}");
                    if used {
                        reference.next.insert(block);
                        if result == Ok(State::Reserved) {
                            reference.reserved.insert(block);
                        }
                    }
                }
                _ if reference.in_flight => {
                    while !map.settle(&mut counts, 3) {}
                    reference.durable = reference.flight.clone();
                    reference.in_flight = false;
                }
                _ => {
                    while !map.roll(&mut counts, 3) {}
                    reference.flight = reference.next.clone();
                    reference.in_flight = true;
                    if !reference.log.contains(&block) {
                        assert!(map.log_free(&mut counts, block).is_err());
                    }
                    if let Some(old) = reference.log.first().copied().filter(|_| step % 3 != 0) {
                        reference.log.remove(&old);
                        map.log_free(&mut counts, old).unwrap();
                        reference.flight.insert(old);
                        reference.next.insert(old);
                    }
                    for _ in 0..2 {
                        let Some(log) = map.log_alloc(&mut counts, block) else { break };
                        reference.flight.remove(&log);
                        reference.next.remove(&log);
                        reference.log.insert(log);
                    }
                }
            }
            if step % 16 == 0 || blocks < 100 {
                compare(&map, &counts, &reference, blocks);
            }
        }
    }
}

#[test]
fn loading_refuses_double_entries_and_finds_ranges() {
    let memory = words(300);
    let map = FreeMap::new(&memory, 300);
    map.clear();
    map.load_range(10, 200, true).unwrap();
    assert_eq!(map.load_range(5, 10, true), Err(10));
    assert_eq!(map.load_range(5, 5, false), Err(5));
    map.load_range(64, 64, false).unwrap();
    let counts = map.load_done();
    assert_eq!((counts.avail, counts.ranges_flight), (136, 2));
    let free = |first, count| Run { first, count, freed: true };
    for budget in 1..5 {
        assert_eq!(all_runs(&map, Runs::FreeInFlight, budget), [free(10, 54), free(128, 82)]);
    }
}

#[test]
fn entries_loaded_together_are_refused_together() {
    let memory = words(200);
    let map = FreeMap::new(&memory, 200);
    map.clear();
    let first = WORD_BITS as u32;
    let ones = |free, bits, count| Ones { free, first, bits, count };
    assert!(map.load_ones(&ones(true, 0b1011, 3)));
    assert!(!map.load_ones(&ones(true, 0b1100, 2)), "one is free already");
    assert!(!map.load_ones(&ones(true, 0b0100, 2)), "one was named twice");
    assert!(!map.load_ones(&ones(false, 0b0110, 2)), "one is in use already");
    assert!(map.load_ones(&ones(false, 0b0010, 1)));
    let free: std::vec::Vec<u32> = (0..200).filter(|block| map.is_free_in_flight(*block)).collect();
    assert_eq!(free, [first, first + 3]);
}

#[test]
fn a_freed_block_waits_for_the_commit_that_frees_it() {
    let memory = words(8);
    let map = FreeMap::new(&memory, 8);
    map.clear();
    map.load_range(0, 8, true).unwrap();
    let mut counts = map.load_done();
    let block = map.reserve(&mut counts, 3).unwrap();
    map.enqueue(&mut counts, block).unwrap();
    while !map.roll(&mut counts, 3) {} // commit 1 in flight with the block
    assert_eq!(map.free(&mut counts, block), Ok(State::NewInFlightFreed));
    while !map.settle(&mut counts, 3) {}
    assert_eq!(map.state(block), State::Freed);
    while !map.roll(&mut counts, 3) {} // commit 2 in flight without the block
    assert_eq!(map.state(block), State::FreedInFlight);
    assert_eq!(map.free(&mut counts, block), Err(State::FreedInFlight));
    while !map.settle(&mut counts, 3) {}
    assert_eq!(map.state(block), State::Free);
}

/// A run that reaches over the words of many sections is shown as one; and after the walk was stopped in front of it,
/// as what is left of it.
#[test]
fn a_run_across_sections_is_one_run() {
    let memory = words(10_000);
    let map = FreeMap::new(&memory, 10_000);
    map.clear();
    map.load_range(3, 9990, true).unwrap();
    let mut counts = map.load_done();
    let free = |first, count| Run { first, count, freed: true };
    for budget in [1, 2, 7, 64, 1000] {
        assert_eq!(all_runs(&map, Runs::FreeInFlight, budget), [free(3, 9990)]);
        let mut walk = Walk::default();
        let mut refuse = |_| false;
        while map.walk(Runs::FreeInFlight, &mut walk, budget, &mut refuse) != Walked::Stopped {}
        assert_eq!(walk.position(), 3);
    }
    let mut walk = Walk::default();
    while map.walk(Runs::FreeInFlight, &mut walk, 5, &mut |_| false) != Walked::Stopped {}
    assert_eq!(map.log_alloc(&mut counts, 5000), Some(5000));
    let mut rest = Vec::new();
    let mut see = |run| {
        rest.push(run);
        true
    };
    while map.walk(Runs::FreeInFlight, &mut walk, 5, &mut see) != Walked::All {}
    assert_eq!(rest, [free(3, 4997), free(5001, 4992)]);
    assert_eq!(counts.ranges_flight, 2);
    assert_eq!(all_runs(&map, Runs::Changes, 1), [Run { first: 5000, count: 1, freed: false }]);
}

/// The words between two ends of runs cost nothing.
#[test]
fn a_walk_takes_as_long_as_there_are_runs() {
    let blocks = 1 << 20;
    let memory = words(blocks);
    let map = FreeMap::new(&memory, blocks);
    map.clear();
    let free = [(0, 70_000), (128_000, 64), (128_065, 1), (200_000, 1), (500_000, 548_576)];
    free.iter().for_each(|(first, count)| map.load_range(*first, *count, true).unwrap());
    let mut counts = map.load_done();
    let take = |counts: &mut Counts, block| assert_eq!(map.log_alloc(counts, block), Some(block));
    take(&mut counts, 700_000);
    let expected = [free[0], free[1], free[2], free[3], (500_000, 200_000), (700_001, 348_575)];
    let (mut found, mut walk) = (Vec::new(), Walk::default());
    let mut see = |run: Run| {
        found.push((run.first, run.count));
        true
    };
    assert_eq!(map.walk(Runs::FreeInFlight, &mut walk, 4 * expected.len(), &mut see), Walked::All);
    assert_eq!(found, expected);
}

/// What callers may do between two sections of a walk changes nothing that the walk sees.
#[test]
fn callers_do_not_change_what_is_walked() {
    let blocks = 640;
    let memory = words(blocks);
    let map = FreeMap::new(&memory, blocks);
    map.clear();
    map.load_range(0, blocks, true).unwrap();
    let mut counts = map.load_done();
    let mut used = BTreeSet::new();
    for round in 0..60_u32.div_ceil(FEWER) {
        for step in 0..40 {
            let block = map.reserve(&mut counts, (round * 37 + step * 19) % blocks).unwrap();
            match step % 4 {
                0 => map.unreserve(&mut counts, block).unwrap(),
                _ => {
                    map.enqueue(&mut counts, block).unwrap();
                    used.insert(block);
                }
            }
        }
        while !map.roll(&mut counts, 3) {}
        let before = [Runs::FreeInFlight, Runs::Changes].map(|runs| all_runs(&map, runs, 64));
        let mut walks = [(Vec::new(), Walk::default()), (Vec::new(), Walk::default())];
        for step in 0..500 {
            for (runs, (seen, walk)) in [Runs::FreeInFlight, Runs::Changes].into_iter().zip(&mut walks) {
                map.walk(runs, walk, 1, &mut |run| {
                    seen.push(run);
                    true
                });
            }
            // Every transition that is open to callers, somewhere.
            if let Some(block) = map.reserve(&mut counts, (step * 7) % blocks) {
                match step % 3 {
                    0 => map.unreserve(&mut counts, block).unwrap(),
                    1 => {
                        map.enqueue(&mut counts, block).unwrap();
                        assert_eq!(map.free(&mut counts, block), Ok(State::Reserved));
                        map.unreserve(&mut counts, block).unwrap();
                    }
                    _ => {
                        map.enqueue(&mut counts, block).unwrap();
                        used.insert(block);
                    }
                }
            }
            if used.len() > 100 {
                let block = *used.iter().nth(step as usize % 90).unwrap();
                used.remove(&block);
                if map.free(&mut counts, block).unwrap() == State::Reserved {
                    map.unreserve(&mut counts, block).unwrap();
                }
            }
        }
        assert_eq!(walks.map(|walk| walk.0), before);
        while !map.settle(&mut counts, 3) {}
    }
}

/// However many levels it has, a summary finds what was put in, and nothing else.
#[test]
fn a_summary_of_many_levels_agrees_with_a_set() {
    // Miri gets three levels too, of the fewest words.
    let many = if cfg!(miri) { WORD_BITS.pow(2) + 7 } else { 5 * WORD_BITS.pow(2) + 7 };
    let sizes = [1, WORD_BITS, WORD_BITS + 1, many, many * 3];
    for len in sizes.into_iter().filter(|len| !cfg!(miri) || *len <= many) {
        let memory: Vec<AtomicUsize> = (0..Summary::words_needed(len)).map(|_| AtomicUsize::new(0)).collect();
        let (summary, mut set) = (Summary::new(&memory, len), BTreeSet::new());
        assert_eq!(summary.next(0), None);
        let mut random = 7_usize;
        for _ in 0..2000 / FEWER {
            random = random.wrapping_mul(0x5851_f42d).wrapping_add(12345);
            let word = (random >> 8) % len;
            let on = random & 0x40 != 0;
            summary.set(word, on);
            if on {
                set.insert(word);
            } else {
                set.remove(&word);
            }
            let from = (random >> 5) % len;
            assert_eq!(summary.next(from), set.range(from..).next().copied(), "from {from} of {len}");
        }
        set.iter().for_each(|word| summary.set(*word, false));
        assert_eq!(summary.next(0), None);
        assert!(memory.iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }
}

/// A search begins where it is told to: what lies in front of that, if only in the same word, is found last.
#[test]
fn what_lies_in_front_of_the_place_to_begin_is_found_last() {
    let blocks = 5 * WORD_BITS as u32;
    let memory = words(blocks);
    let map = FreeMap::new(&memory, blocks);
    map.clear();
    let free = [3, 10, 2 * WORD_BITS as u32 + 7];
    free.iter().for_each(|block| map.load_range(*block, 1, true).unwrap());
    let mut counts = map.load_done();
    let mut found = |from| {
        let block = map.reserve(&mut counts, from).unwrap();
        map.unreserve(&mut counts, block).unwrap();
        block
    };
    for from in 0..blocks {
        let expected = free.into_iter().find(|block| *block >= from).unwrap_or(free[0]);
        assert_eq!(found(from), expected, "from {from}");
    }
}

/// Nothing of what the memory held before is left in a map that was cleared.
#[test]
fn a_map_over_memory_that_was_used_is_cleared() {
    let blocks = 3 * WORD_BITS as u32 + 5;
    let memory: Vec<AtomicUsize> =
        (0..FreeMap::words_needed(blocks)).map(|at| AtomicUsize::new(usize::MAX / (at + 1))).collect();
    let map = FreeMap::new(&memory, blocks);
    map.clear();
    let nothing = Reference {
        durable: BTreeSet::new(),
        flight: BTreeSet::new(),
        next: BTreeSet::new(),
        reserved: BTreeSet::new(),
        log: BTreeSet::new(),
        in_flight: false,
    };
    compare(&map, &Counts::default(), &nothing, blocks);
    assert!((0..blocks).all(|block| !map.is_log(block)));
    assert_eq!(map.load_done(), Counts::default());
    compare(&map, &Counts::default(), &nothing, blocks);
}

/// What a log says twice is refused, with the block; and so is a log in a block that is free.
#[test]
fn what_cannot_be_is_named_by_its_block_when_a_map_is_loaded() {
    let blocks = 5 * WORD_BITS as u32;
    let word = WORD_BITS as u32;
    let memory = words(blocks);
    let map = FreeMap::new(&memory, blocks);
    map.clear();
    map.load_range(word + 3, 2 * word, true).unwrap();
    assert_eq!(map.load_range(word, 9, true), Err(word + 3));
    assert_eq!(map.load_range(3 * word + 1, 9, false), Err(3 * word + 3));
    assert_eq!(map.load_free_log_block(), None);
    assert!(map.load_log_block(7) && map.load_log_block(4 * word));
    assert_eq!(map.load_free_log_block(), None, "these are in use");
    assert!(!map.load_log_block(7) && map.is_log(7), "noted before, and still");
    map.load_range(2 * word, word, false).unwrap();
    assert!(map.load_log_block(3 * word + 2));
    assert_eq!(map.load_free_log_block(), Some(3 * word + 2));
}

/// What was freed since the last barrier, and not taken again, is kept in use at the end; what was freed before it is
/// free.
#[test]
fn what_was_freed_behind_the_last_barrier_can_be_kept() {
    let blocks = 4 * WORD_BITS as u32;
    let word = WORD_BITS as u32;
    let free = |map: &FreeMap<'_>, first, count, free| {
        map.load_range(first, count, free).unwrap();
        map.load_doubt(first, count, free);
    };
    let memory = words(blocks);
    let map = FreeMap::new(&memory, blocks);
    map.clear();
    free(&map, 2, 4, true);
    free(&map, 2 * word, 3, true);
    map.load_certain();
    // A part is taken, given back, and taken again; a part is freed and stays so.
    free(&map, word - 2, 6, true);
    free(&map, word, 2, false);
    free(&map, 3 * word + 1, 2, true);
    map.load_doubt(3 * word + 2, 1, true);
    free(&map, 3, 1, false);
    free(&map, 3, 1, true);
    assert_eq!(map.load_keep_doubtful(), 4 + 2 + 1);
    let counts = map.load_done();
    let run = |first, count| Run { first, count, freed: true };
    assert_eq!(all_runs(&map, Runs::FreeInFlight, 1), [run(2, 1), run(4, 2), run(2 * word, 3)]);
    assert_eq!((counts.avail, counts.ranges_flight), (6, 3));
}
