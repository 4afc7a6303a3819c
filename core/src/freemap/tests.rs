//! The planes against a slow model that keeps one set of blocks for each state of the disk.

use super::*;
use std::collections::BTreeSet;
use std::vec::Vec;

/// What the planes stand for, spelled out.
struct Reference {
    durable: BTreeSet<u32>,
    flight: BTreeSet<u32>,
    next: BTreeSet<u32>,
    reserved: BTreeSet<u32>,
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
        assert_eq!(load(map.flight, at) & bit != 0, free_flight, "block {block} in flight");
        ranges += u32::from(free_flight && (block == 0 || !reference.flight.contains(&(block - 1))));
    }
    assert_eq!(counts.avail, (0..blocks).filter(|block| reference.may_hand_out(*block)).count() as u32);
    assert_eq!(counts.reserved, reference.reserved.len() as u32);
    let freed =
        reference.next.iter().filter(|block| !reference.durable.contains(block) || !reference.flight.contains(block));
    assert_eq!(counts.pending, freed.count() as u32);
    assert_eq!(counts.free_flight, reference.flight.len() as u32);
    assert_eq!(counts.ranges_flight, ranges);
    let mut moved = BTreeSet::new();
    for change in map.moves() {
        for block in change.first..change.first + change.count {
            assert_eq!(reference.flight.contains(&block), change.freed);
            moved.insert(block);
        }
    }
    let differ: BTreeSet<u32> = reference.flight.symmetric_difference(&reference.durable).copied().collect();
    assert_eq!(moved, differ);
    assert_eq!(map.is_moved(), reference.flight != reference.durable, "moved");
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
    for blocks in [1, 63, 64, 65, 200, 4097] {
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
            in_flight: false,
        };
        for step in 0..4000 {
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
                    let used = !reference.next.contains(&block) && !reference.reserved.contains(&block);
                    let result = map.free(&mut counts, block);
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
                    if let Some(log) = map.log_alloc(&mut counts, block) {
                        reference.flight.remove(&log);
                        reference.next.remove(&log);
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
    assert_eq!(map.next_flight_range(0), Some((10, 54)));
    assert_eq!(map.next_flight_range(64), Some((128, 82)));
    assert_eq!(map.next_flight_range(210), None);
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
