//! Images with damage that a volume is made to live with: mount accepts them, says what it found, writes nothing; one
//! commit makes them whole, and nothing of the committed state is lost on the way.

use crate::images::{Base, Image};
use crate::mounting::{most_reads, most_steps, mount, mount_and, Shown};
use arenite_core::format::{FormatError, NONE};
use arenite_core::hash::hash64;
use arenite_core::{Allocate, CopyState, Error};
use arenite_shim::check::{RawVolume, Rule};
use arenite_shim::Disk;

/// What mount says about an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    superblocks: [CopyState; 2],
    bad_header_copies: u32,
    sealed: bool,
    /// Only if the volume is to be written.
    doubtful_blocks: u32,
}

/// What mount says about a sound volume.
const fn sound(image: &Image) -> Note {
    let superblocks = [CopyState::Good; 2];
    Note { superblocks, bad_header_copies: 0, sealed: image.sealed, doubtful_blocks: 0 }
}

const fn superblocks(image: &Image, superblocks: [CopyState; 2]) -> Note {
    Note { superblocks, ..sound(image) }
}

const fn headers(image: &Image, bad_header_copies: u32) -> Note {
    Note { bad_header_copies, ..sound(image) }
}

struct Accepted {
    name: &'static str,
    bases: &'static [Base],
    /// Changes the image and returns what mount must say.
    change: fn(&mut Image) -> Note,
}

const fn row(name: &'static str, bases: &'static [Base], change: fn(&mut Image) -> Note) -> Accepted {
    Accepted { name, bases, change }
}

const SHORT: &[Base] = Base::SHORT;
const GOOD: CopyState = CopyState::Good;
const LOST: CopyState = CopyState::Bad(FormatError::Magic { found: [0; 8] });

fn first_copies() -> Vec<Accepted> {
    vec![
        row("first superblock lost", SHORT, |i| {
            i.bytes[..512].fill(0);
            superblocks(i, [LOST, GOOD])
        }),
        row("first superblock of version 8.00", SHORT, |i| {
            i.bytes[..8].copy_from_slice(b"gefs8.00");
            i.seal_superblock(0);
            superblocks(i, [CopyState::Bad(FormatError::Version { found: *b"8.00" }), GOOD])
        }),
        row("first superblock of the next generation, torn", SHORT, |i| {
            let stored = i.get(136, 8);
            i.put(96, 8, i.qgen + 1);
            let computed = hash64(&i.bytes[..136]);
            superblocks(i, [CopyState::Bad(FormatError::Hash { stored, computed }), GOOD])
        }),
        row("first superblock of the generation before", SHORT, |i| {
            let generation = i.qgen - 1;
            i.put(96, 8, generation);
            i.seal_superblock(0);
            superblocks(i, [CopyState::Lagging { generation }, GOOD])
        }),
        row("first header of an arena lost", SHORT, |i| {
            let (at, unit) = (i.arenas[0].addr as usize, i.unit as usize);
            i.bytes[at..at + unit].fill(0);
            headers(i, 1)
        }),
        row("first header of an arena of another type", SHORT, |i| {
            i.put(i.arenas[1].addr, 2, 2);
            headers(i, 1)
        }),
    ]
}

fn second_copies() -> Vec<Accepted> {
    vec![
        row("second superblock lost", SHORT, |i| {
            let at = i.second() as usize;
            i.bytes[at..].fill(0);
            superblocks(i, [GOOD, LOST])
        }),
        row("second superblock without an arena", SHORT, |i| {
            let at = i.second();
            i.put(at + 16, 4, 0);
            i.seal_superblock(at);
            let error = FormatError::Field { name: "arena count", offset: 16, found: 0 };
            superblocks(i, [GOOD, CopyState::Bad(error)])
        }),
        row("second superblock of the generation before", SHORT, |i| {
            let (at, generation) = (i.second(), i.qgen - 1);
            i.put(at + 96, 8, generation);
            i.seal_superblock(at);
            superblocks(i, [GOOD, CopyState::Lagging { generation }])
        }),
        row("second superblock of the generation before, pointing nowhere", SHORT, |i| {
            let (at, generation) = (i.second(), i.qgen - 1);
            i.put(at + 96, 8, generation);
            i.put(at + 24, 8, 1 << 60);
            i.put(at + 112, 8, 1);
            i.seal_superblock(at);
            superblocks(i, [GOOD, CopyState::Lagging { generation }])
        }),
        row("second header of an arena lost", SHORT, |i| {
            let (at, unit) = ((i.arenas[1].addr + i.unit) as usize, i.unit as usize);
            i.bytes[at..at + unit].fill(0xff);
            headers(i, 1)
        }),
        row("a header of each arena lost", SHORT, |i| {
            i.put(i.arenas[0].addr, 8, 0);
            i.put(i.arenas[1].addr + i.unit, 8, 0);
            headers(i, 2)
        }),
        row("device larger than the volume", SHORT, |i| {
            let len = i.bytes.len() + 10 * i.unit as usize;
            i.bytes.resize(len, 0);
            superblocks(i, [GOOD, LOST])
        }),
    ]
}

fn ignored() -> Vec<Accepted> {
    vec![
        row("used bytes beyond all measure", SHORT, |i| {
            i.put_header(0, 26, 8, u64::MAX);
            i.seal_headers();
            sound(i)
        }),
        row("a hash of the log's head that nobody has", SHORT, |i| {
            i.put_header(0, 10, 8, 12345);
            i.seal_headers();
            sound(i)
        }),
        row("garbage behind the superblocks", SHORT, |i| {
            i.put_super_bytes(168, &[0xee; 256]);
            sound(i)
        }),
        row("garbage behind the entries of a log", SHORT, |i| {
            let addr = i.arenas[0].log[0];
            let end = addr + 36 + i.get(addr + 2, 2);
            i.put(end, 8, u64::MAX);
            i.put(end + 8, 8, i.root | 2);
            sound(i)
        }),
        row("a superblock of ours that is not sealed", Base::SEALED, |i| {
            i.put_super(144, 8, 0);
            Note { sealed: false, ..sound(i) }
        }),
        row("a sealed log that leads on to itself", Base::SEALED, |i| {
            i.put(i.arenas[0].log[0] + 12, 8, i.arenas[0].log[0]);
            sound(i)
        }),
        row("a sealed log that leads on to data", &[Base::Sealed2k, Base::Long2k], |i| {
            i.put(i.log_end(0) + 12, 8, i.root);
            sound(i)
        }),
        row("what never happened behind a barrier", Base::BARE, |i| {
            let addr = i.log_end(0);
            let mut words = i.words(addr);
            words.extend([i.root | 2, (i.qgen + 1) << 8 | 3, 6, 1 << 60 | 2]);
            i.set_words(addr, &words);
            i.put(addr + 12, 8, 0);
            i.seal_logs();
            sound(i)
        }),
    ]
}

fn originals() -> Vec<Accepted> {
    vec![
        row("a volume that was never mounted", Base::BARE, |i| {
            for arena in 0..2 {
                let addr = i.arenas[arena].log[0];
                let mut words = i.words(addr);
                words.pop();
                i.set_words(addr, &words);
            }
            i.qgen = 0;
            i.put_super(96, 8, 0);
            i.seal_logs();
            sound(i)
        }),
        row("a sealed log that the original added to", Base::SEALED, |i| {
            let addr = i.log_end(0);
            let seal = i.clone();
            let mut words = i.words(addr);
            let barrier = words.pop().expect("a barrier");
            words.extend([i.root | 2, barrier]);
            i.set_words(addr, &words);
            i.seal_log_block(addr);
            sound(&seal)
        }),
        row("a block freed by whoever was killed then", Base::BARE, |i| {
            let addr = i.log_end(0);
            let mut words = i.words(addr);
            words.pop();
            words.extend([1 << 8 | 3, i.root | 2, i.dead_tail | 2]);
            i.set_words(addr, &words);
            i.seal_logs();
            Note { doubtful_blocks: 2, ..sound(i) }
        }),
        row("one block allocated and freed over and over", SHORT, |i| {
            let addr = i.free_block(0, 0);
            let words: Vec<u64> = [addr | 1, addr | 2].iter().copied().cycle().take(200).collect();
            i.insert(0, &words);
            sound(i)
        }),
        row("ranges of 31 blocks freed and allocated over and over", Base::BARE, |i| {
            let log = i.arenas[0].log[0];
            let (first, len) = (i.arenas[0].addr + 2 * i.unit, 31 * i.unit);
            let turn = [first | 5, len, first | 4, len];
            let mut words: Vec<u64> = turn.iter().copied().cycle().take(240).collect();
            words.push(i.qgen << 8 | 3);
            i.set_words(log, &words);
            i.seal_logs();
            sound(i)
        }),
        row("no free block in any arena", Base::BARE, |i| {
            for arena in 0..2 {
                let addr = i.arenas[arena].log[0];
                i.set_words(addr, &[i.qgen << 8 | 3]);
            }
            i.put(i.arenas[0].log[0] + 12, 8, NONE);
            i.seal_logs();
            sound(i)
        }),
    ]
}

fn rows() -> Vec<Accepted> {
    [first_copies(), second_copies(), ignored(), originals()].into_iter().flatten().collect()
}

/// What is wrong with the way in which mount treats one image, if anything is.
fn check(row: &Accepted, base: Base) -> Result<(), String> {
    let mut image = base.image();
    let note = (row.change)(&mut image);
    let read_only = mount(&image.bytes, true);
    let (outcome, after) = mount_and(&image.bytes, false, |store| {
        let mut roots = store.roots();
        roots.next_qid += 1;
        let committed = store.commit(roots);
        assert_eq!(committed, Ok(image.qgen + 1), "{}", row.name);
        store.settle().expect("settled");
    });
    let mut shown = None;
    for (outcome, doubtful) in [(read_only, 0), (outcome, note.doubtful_blocks)] {
        let seen = outcome.result.map_err(|error| error.to_string())?;
        let report = seen.report;
        let said = Note {
            superblocks: report.superblocks,
            bad_header_copies: report.bad_header_copies,
            sealed: report.sealed,
            doubtful_blocks: report.doubtful_blocks,
        };
        let expected = Note { doubtful_blocks: doubtful, ..note };
        if said != expected || seen.generation != image.qgen || !outcome.unchanged || outcome.writes != 0 {
            return Err(format!("{said:?}\n  instead of {expected:?}, generation {}", seen.generation));
        }
        if outcome.reads > most_reads(&image) || outcome.steps > most_steps(outcome.reads) {
            return Err(format!("{} reads, {} steps", outcome.reads, outcome.steps));
        }
        shown = Some(seen);
    }
    shown.map_or(Ok(()), |shown| whole(&image, &after, &shown))
}

/// What is not whole after a commit.
fn whole(image: &Image, after: &[u8], before: &Shown) -> Result<(), String> {
    let shown = mount(after, false).result.map_err(|error| format!("after a commit: {error}"))?;
    let mut roots = before.roots;
    roots.next_qid += 1;
    let report = shown.report;
    let is_whole = report.superblocks == [GOOD; 2]
        && report.bad_header_copies == 0
        && report.sealed
        && report.doubtful_blocks == 0
        && (shown.generation, shown.roots) == (image.qgen + 1, roots);
    if !is_whole {
        return Err(format!("after a commit: {shown:?}"));
    }
    for addr in [image.root, image.dead_head, image.dead_tail] {
        if image.page(addr) != &after[addr as usize..(addr + image.unit) as usize] {
            return Err(format!("after a commit: another block at {addr:#x}"));
        }
    }
    let disk = Disk::over(after.into());
    for rule in [Rule::Sealed, Rule::Bare] {
        RawVolume::read(&disk, rule).map_err(|error| format!("after a commit, {rule:?}: {error}"))?;
    }
    Ok(())
}

#[test]
fn what_a_volume_must_live_with_is_noted_and_repaired() {
    let rows = rows();
    let mut failures = Vec::new();
    for row in &rows {
        for base in row.bases {
            if let Err(what) = check(row, *base) {
                failures.push(format!("{} on {base:?}: {what}", row.name));
            }
        }
    }
    println!("{} rows", rows.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn behind_the_largest_generation_nothing_is_committed() {
    for base in Base::SHORT {
        let mut image = base.image();
        image.put_super(96, 8, (1 << 56) - 1);
        image.seal_superblocks();
        let (outcome, after) = mount_and(&image.bytes, false, |store| {
            let block = store.allocate(Allocate::data()).and_then(|block| store.enqueue(block)).expect("a block");
            let refused = store.commit(store.roots().with_root(Some(block.ptr()), 1));
            assert_eq!(refused, Err(Error::BadParameter { name: "generation", found: 1 << 56 }));
            assert_eq!(store.settle(), Ok(()));
        });
        let shown = outcome.result.expect("a volume");
        assert_eq!(shown.generation, (1 << 56) - 1);
        assert_eq!(mount(&after, false).result, Ok(shown));
    }
}
