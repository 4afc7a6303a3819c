//! What mount makes of logs and headers, one rule at a time: volumes of one arena with logs made by hand.

use super::disk::Disk;
use super::mounting::Late;
use super::store::{memory, options, BLOCK};
use crate::format::{
    chain_digest, encode_superblock, AddrHash, ArenaHeader, ArenaRef, BlockSize, LogEntry, LogSeal, LogWriter,
    CHAIN_DIGEST_START, NONE,
};
use crate::freemap::FreeMap;
use crate::hash::hash64;
use crate::memory::pages_for;
use crate::{Damage, DeviceError, DeviceOp, Error, FormatOptions, Memory, MountOptions, NoInterrupts, Roots, Store};
use std::boxed::Box;
use std::sync::atomic::Ordering::SeqCst;
use std::vec;
use std::vec::Vec;

const SIZE: BlockSize = BlockSize::MIN;
const UNIT: u64 = BLOCK as u64;
/// Blocks of the only arena: a multiple of 32 and the two that are never free.
const BLOCKS: u64 = 98;
const ARENA: u64 = UNIT;
const LEN: usize = (BLOCKS as usize + 4) * BLOCK;

/// Address of a block of the arena.
fn addr(block: u64) -> u64 {
    ARENA + (2 + block) * UNIT
}

fn free(block: u64, count: u64) -> LogEntry {
    LogEntry::Free { addr: addr(block), len_bytes: count * UNIT }
}

fn alloc(block: u64, count: u64) -> LogEntry {
    LogEntry::Alloc { addr: addr(block), len_bytes: count * UNIT }
}

fn barrier(gen: u64) -> LogEntry {
    LogEntry::Barrier { gen }
}

/// A volume to be made: its log lies in the arena's first blocks.
#[derive(Clone)]
struct Volume {
    generation: u64,
    logs: Vec<Vec<LogEntry>>,
    /// Where the last log block leads.
    behind: u64,
    /// What the header vouches for: this generation, and these logs.
    seal: Option<(u64, Vec<Vec<LogEntry>>)>,
    tail_addr: Option<u64>,
    root_addr: u64,
    size_bytes: u64,
    /// Whether the superblock says that the last commit was ours, if that is not what the header says.
    ours: Option<bool>,
}

impl Volume {
    fn new(generation: u64, log: &[LogEntry]) -> Self {
        let (logs, size_bytes) = (vec![log.to_vec()], BLOCKS * UNIT);
        Self { generation, logs, behind: NONE, seal: None, tail_addr: None, root_addr: NONE, size_bytes, ours: None }
    }

    fn sealed(generation: u64, log: &[LogEntry], gen: u64) -> Self {
        Self { seal: Some((gen, vec![log.to_vec()])), ..Self::new(generation, log) }
    }

    fn pages(&self, logs: &[Vec<LogEntry>]) -> (Vec<Vec<u8>>, u64) {
        let (mut pages, mut digest) = (Vec::new(), CHAIN_DIGEST_START);
        for (number, entries) in logs.iter().enumerate() {
            let mut page = vec![0; BLOCK];
            let mut writer = LogWriter::new(&mut page, SIZE).unwrap();
            entries.iter().for_each(|entry| writer.push(*entry).unwrap());
            let next = if number + 1 < logs.len() { addr(number as u64 + 1) } else { self.behind };
            let sum = writer.finish(next).unwrap();
            digest = chain_digest(digest, addr(number as u64), sum.hash, sum.len_bytes);
            pages.push(page);
        }
        (pages, digest)
    }

    fn image(&self) -> Vec<u8> {
        let mut bytes = vec![0; LEN];
        for (number, page) in self.pages(&self.logs).0.iter().enumerate() {
            let at = addr(number as u64) as usize;
            bytes[at..at + BLOCK].copy_from_slice(page);
        }
        let seal = self.seal.as_ref().map(|(gen, logs)| {
            let tail_addr = self.tail_addr.unwrap_or(addr(logs.len() as u64 - 1));
            LogSeal { gen: *gen, blocks: logs.len() as u32, digest: self.pages(logs).1, tail_addr }
        });
        let log_head = AddrHash { addr: addr(0), hash: NONE };
        let header = ArenaHeader { log_head, size_bytes: self.size_bytes, used_bytes: UNIT, seal };
        let mut page = vec![0; BLOCK];
        header.encode(&mut page, SIZE, ARENA).unwrap();
        for copy in [ARENA, ARENA + UNIT] {
            bytes[copy as usize..copy as usize + BLOCK].copy_from_slice(&page);
        }
        let arena = ArenaRef { header_addr: ARENA, header_hash: hash64(&page) };
        let head = self.head();
        encode_superblock(&mut page, &head, &mut |_| arena, self.ours.unwrap_or(self.seal.is_some())).unwrap();
        bytes[..BLOCK].copy_from_slice(&page);
        bytes[LEN - BLOCK..].copy_from_slice(&page);
        bytes
    }

    fn head(&self) -> crate::format::SuperHead {
        let none = AddrHash { addr: NONE, hash: NONE };
        crate::format::SuperHead {
            block_size: SIZE,
            bufspc: SIZE.bufspc(),
            narena: 1,
            root_height: 0,
            root_addr: self.root_addr,
            root_hash: 0,
            deadlist_head: none,
            deadlist_tail: none,
            flag: 0,
            next_qid: 3,
            next_gen: 3,
            qgen: self.generation,
        }
    }
}

/// What a mount came to.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    free: Vec<u64>,
    doubtful: u32,
    /// The first commit writes the log anew, even if nothing else changes.
    anew: bool,
    log_blocks: u64,
}

fn mounted(volume: &Volume, read_only: bool) -> Result<Found, Error> {
    let memory = memory();
    let disk = Disk::new(volume.image());
    let options = MountOptions { read_only, ..MountOptions::default() };
    let store = Store::mount(memory.take().unwrap(), &disk, &NoInterrupts, options).map_err(|failed| failed.error)?;
    let anew = store.engine.arenas.with(0, |state, _| state.must_rewrite);
    let blocks = volume.size_bytes / UNIT;
    let free = (0..blocks).filter(|block| store.is_free(addr(*block)) == Ok(true)).collect();
    let (doubtful, log_blocks) = (store.report().doubtful_blocks, store.report().log_blocks);
    Ok(Found { free, doubtful, anew, log_blocks })
}

fn good(free: impl IntoIterator<Item = u64>, doubtful: u32, anew: bool) -> Result<Found, Error> {
    Ok(Found { free: free.into_iter().collect(), doubtful, anew, log_blocks: 1 })
}

fn bad(block: u64, damage: Damage) -> Result<Found, Error> {
    Err(Error::corrupt(addr(block), damage))
}

/// The rule of the original, which knows no seal.
#[test]
fn a_log_without_a_seal_is_read_up_to_the_committed_barrier() {
    let all = free(1, 50);
    let cases: [(u64, &[LogEntry], Result<Found, Error>); 12] = [
        (2, &[all, barrier(2)], good(1..51, 0, false)),
        // An arena that the last commits did not change has an older barrier.
        (2, &[all, barrier(1)], good(1..51, 0, false)),
        (2, &[all, barrier(1), free(60, 4), barrier(2)], good((1..51).chain(60..64), 0, false)),
        (2, &[all, barrier(1), alloc(5, 2), barrier(2)], good((1..5).chain(7..51), 0, false)),
        // Whatever is behind the committed barrier never was, and must not come alive.
        (2, &[all, barrier(2), free(60, 4)], good(1..51, 0, true)),
        // What was freed without the committed barrier is kept; what was taken is taken.
        (2, &[all, barrier(1), free(60, 4)], good(1..51, 4, true)),
        (2, &[all, barrier(1), free(60, 4), barrier(5)], good(1..51, 4, true)),
        (2, &[all, barrier(1), free(60, 4), alloc(61, 1)], good(1..51, 3, true)),
        (2, &[all, barrier(1), alloc(5, 2)], good((1..5).chain(7..51), 0, false)),
        // In front of the first barrier is what the arena began with; without any commit that is the first entry.
        (2, &[all, free(60, 4)], good((1..51).chain(60..64), 0, false)),
        (0, &[all], good(1..51, 0, false)),
        (0, &[all, free(60, 4)], good(1..51, 4, true)),
    ];
    for (generation, log, expected) in cases {
        let volume = Volume::new(generation, log);
        assert_eq!(mounted(&volume, false), expected, "generation {generation}: {log:?}");
    }
    // Barriers of the original may be in any order.
    let volume = Volume::new(3, &[all, barrier(2), barrier(1), barrier(3)]);
    assert_eq!(mounted(&volume, false), good(1..51, 0, false));
    // A link behind the committed barrier leads to what never was.
    let linked = Volume { behind: addr(70), ..Volume::new(2, &[all, barrier(2)]) };
    assert_eq!(mounted(&linked, false), good(1..51, 0, true));
    // Of a log that no commit of ours has changed since, nothing is in doubt.
    let ours = Volume { ours: Some(true), ..Volume::new(2, &[all, barrier(1), free(60, 4)]) };
    assert_eq!(mounted(&ours, false), good((1..51).chain(60..64), 0, false));
    // For reading, what may be free counts as free.
    let volume = Volume::new(2, &[all, barrier(1), free(60, 4)]);
    assert_eq!(mounted(&volume, true), good((1..51).chain(60..64), 0, false));
}

/// What the header vouches for is all there is, however old its barrier.
#[test]
fn a_log_with_a_seal_is_what_the_seal_says() {
    let all = free(1, 50);
    let two: &[LogEntry] = &[all, barrier(1), free(60, 4), barrier(2)];
    for volume in [Volume::sealed(2, two, 2), Volume::sealed(9, two, 2)] {
        assert_eq!(mounted(&volume, false), good((1..51).chain(60..64), 0, false));
    }
    let end = || bad(0, Damage::LogEnd);
    let one: &[LogEntry] = &[all, barrier(2)];
    let cases = [
        ("behind the barrier", Volume::sealed(2, &[all, barrier(2), free(60, 4)], 2), end()),
        ("another barrier", Volume::sealed(2, one, 1), end()),
        ("not committed", Volume::sealed(1, one, 2), end()),
        (
            "descending",
            Volume::sealed(2, &[all, barrier(2), barrier(1)], 1),
            bad(0, Damage::BarrierOrder { offset: 36 + 16 + 8 }),
        ),
    ];
    for (what, volume, expected) in cases {
        assert_eq!(mounted(&volume, false), expected, "{what}");
    }
    // Other blocks than those that are vouched for, all of them whole.
    let logs = vec![vec![all], vec![barrier(2)]];
    let chain = Volume { logs: logs.clone(), seal: Some((2, logs)), ..Volume::new(2, &[]) };
    let expected = Ok(Found { free: (2..51).collect(), doubtful: 0, anew: false, log_blocks: 2 });
    let fewer = |mut volume: Volume, entries: Vec<LogEntry>| {
        volume.logs[0] = entries;
        volume
    };
    let chain = fewer(chain, vec![free(2, 49)]);
    let sealed = Volume { seal: Some((2, chain.logs.clone())), ..chain };
    assert_eq!(mounted(&sealed, false), expected);
    let elsewhere = Volume { tail_addr: Some(addr(5)), ..sealed.clone() };
    assert_eq!(mounted(&elsewhere, false), bad(1, Damage::LogEnd));
    let error = mounted(&fewer(sealed, vec![free(2, 48)]), false).unwrap_err();
    assert!(matches!(error, Error::Corrupt { damage: Damage::LogDigest { .. }, .. }), "{error:?}");
}

/// The original adds to the last block of a log in place. If it did so and never committed, what the seal vouches for
/// is found all the same; the next commit, be it of nothing, writes that log anew.
#[test]
fn what_an_original_added_to_a_sealed_log_and_did_not_commit_is_cut_off() {
    let all = free(2, 49);
    for front in [vec![], vec![vec![all]]] {
        let first = if front.is_empty() { vec![all] } else { vec![] };
        let with = |more: &[LogEntry]| {
            let last: Vec<LogEntry> = first.iter().chain(more).copied().collect();
            let mut logs = front.clone();
            logs.push(last);
            logs
        };
        let seal = Some((2, with(&[barrier(2)])));
        let blocks = front.len() as u64 + 1;
        let added = Volume { logs: with(&[barrier(2), alloc(5, 2)]), seal: seal.clone(), ..Volume::new(2, &[]) };
        let linked = Volume { logs: with(&[barrier(2)]), seal: seal.clone(), behind: addr(70), ..Volume::new(2, &[]) };
        let untouched = Volume { behind: NONE, ..linked.clone() };
        for (volume, anew) in [(added, true), (linked, true), (untouched, false)] {
            let expected = Ok(Found { free: (2..51).collect(), doubtful: 0, anew, log_blocks: blocks });
            assert_eq!(mounted(&volume, false), expected, "{blocks} blocks");
            let memory = memory();
            let disk = Disk::new(volume.image());
            let store = Store::mount(memory.take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
            assert_eq!(store.commit(store.roots()), Ok(2 + u64::from(anew)));
        }
    }
}

/// A root must be in use; only where it may have been freed by a commit that was cut off nobody can tell.
#[test]
fn a_free_root_is_refused_unless_its_log_is_in_doubt() {
    let all = free(1, 50);
    let with_root = |volume: Volume, block| Volume { root_addr: addr(block), ..volume };
    let doubtful = Volume::new(2, &[all, barrier(1), free(60, 4)]);
    let certain = Volume::new(2, &[all, barrier(1)]);
    let free_root = |block| bad(block, Damage::RootFree);
    for read_only in [false, true] {
        assert_eq!(mounted(&with_root(certain.clone(), 7), read_only), free_root(7));
        assert!(mounted(&with_root(certain.clone(), 70), read_only).is_ok());
        assert!(mounted(&with_root(doubtful.clone(), 61), read_only).is_ok());
    }
    assert_eq!(mounted(&with_root(doubtful, 7), false), free_root(7));
}

/// A log may list every block a few times over and no more often.
#[test]
fn a_log_that_lists_everything_over_and_over_is_refused() {
    let usable = BLOCKS - 2;
    assert_eq!(usable % 32, 0);
    for times in [2, 30, 32, 34, 60] {
        let mut log: Vec<LogEntry> = (0..times / 2).flat_map(|_| [free(0, usable), alloc(0, usable)]).collect();
        log.push(barrier(2));
        let expected = match times > 32 {
            true => bad(0, Damage::ReplayWork),
            false => good(0..0, 0, false),
        };
        assert_eq!(mounted(&Volume::new(2, &log), false), expected, "{times} times");
    }
}

/// An arena has a block for its log and the two that are never free, and ends in front of whatever comes next.
#[test]
fn an_arena_is_of_three_blocks_at_least_and_ends_where_the_next_thing_begins() {
    let misplaced = || Err(Error::corrupt(ARENA, Damage::ArenaExtent));
    for (blocks, fits) in [(2, false), (3, true), (BLOCKS - 1, true), (BLOCKS, true), (BLOCKS + 1, false)] {
        let volume = Volume { size_bytes: blocks * UNIT, ..Volume::new(2, &[barrier(2)]) };
        let expected = if fits { good(0..0, 0, false) } else { misplaced() };
        assert_eq!(mounted(&volume, false), expected, "{blocks} blocks");
    }
}

/// Blocks of each of three arenas in a megabyte, and memory for exactly these, and for a little less.
const THIRD: u32 = 168;
const WORDS: usize = 3 * FreeMap::words_needed(THIRD);
type Exact = Memory<{ pages_for(24, BLOCK) }, 24, WORDS, 3, 16>;
type Less = Memory<{ pages_for(24, BLOCK) }, 24, { WORDS - 1 }, 3, 16>;

fn three_arenas() -> (Vec<u8>, Vec<u64>) {
    let memory = Box::new(Exact::new());
    let disk = Disk::new(vec![0; 1 << 20]);
    let options = FormatOptions { arenas: 3, ..options(3) };
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options).unwrap();
    let arenas = [0, 1, 2].map(|arena| store.arena(arena).unwrap());
    assert!(arenas.iter().all(|arena| arena.size_bytes == u64::from(THIRD) * UNIT), "{arenas:?}");
    let roots = store.roots();
    store.commit(Roots { next_qid: 9, ..roots }).unwrap();
    store.unmount().unwrap();
    (disk.bytes(), arenas.map(|arena| arena.addr).to_vec())
}

/// An arena whose header or log is lost counts as in use, up to where the next thing begins, and takes the memory of so
/// many blocks; the others are what they were.
#[test]
fn a_lost_arena_is_in_use_and_the_others_are_what_they_were() {
    let (image, bases) = three_arenas();
    let options = MountOptions { damaged: true, read_only: true, ..MountOptions::default() };
    for lost in 0..3 {
        for header in [true, false] {
            let memory = Box::new(Exact::new());
            let disk = Disk::new(image.clone());
            disk.edit(|bytes| {
                let base = bases[lost] as usize;
                // Either both copies of the header, or the block that the log begins with.
                let at = u64::from_be_bytes(*bytes[base + 2..].first_chunk().unwrap()) as usize;
                let spoiled = if header { [base, base + BLOCK] } else { [at + 20, at + 21] };
                spoiled.iter().for_each(|at| bytes[at + 20] ^= 1);
            });
            let store = Store::mount(memory.take().unwrap(), &disk, &NoInterrupts, options).unwrap();
            assert_eq!(store.report().damaged_arenas, 1);
            for (number, base) in bases.iter().enumerate() {
                let arena = store.arena(number).unwrap();
                assert_eq!((arena.addr, arena.size_bytes), (*base, u64::from(THIRD) * UNIT), "{lost} {header}");
                assert_eq!(arena.free_bytes == 0, number == lost, "arena {number} of which {lost} is lost");
            }
        }
    }
}

/// Memory for one word less is refused, and says for what.
#[test]
fn one_word_of_a_map_too_few_is_refused() {
    let (image, bases) = three_arenas();
    for lost in [false, true] {
        let memories = (Box::new(Exact::new()), Box::new(Less::new()));
        let disks = [0, 1].map(|_| Disk::new(image.clone()));
        let base = bases[2] as usize;
        if lost {
            disks.iter().for_each(|disk| {
                disk.edit(|bytes| {
                    [base, base + BLOCK].iter().for_each(|at| bytes[at + 20] ^= 1);
                })
            });
        }
        let options = MountOptions { damaged: true, read_only: true, ..MountOptions::default() };
        Store::mount(memories.0.take().unwrap(), &disks[0], &NoInterrupts, options).unwrap();
        let failed = Store::mount(memories.1.take().unwrap(), &disks[1], &NoInterrupts, options).unwrap_err();
        assert!(matches!(failed.error, Error::MemoryTooSmall { need, have, .. } if need > have), "{failed:?}");
    }
}

/// If neither copy of a header is good and the device could not read one, that is what is told.
#[test]
fn a_header_that_could_not_be_read_is_the_devices_fault() {
    let memory = memory();
    let device = Late::new(Volume::new(2, &[barrier(2)]).image());
    device.disk.edit(|bytes| bytes[ARENA as usize + 20] ^= 1);
    device.unreadable.store(ARENA + UNIT, SeqCst);
    let failed = Store::mount(memory.take().unwrap(), &device, &NoInterrupts, MountOptions::default());
    let (op, cause) = (DeviceOp::Read, DeviceError::Io);
    assert_eq!(failed.map(drop).map_err(|failed| failed.error), Err(Error::Device { op, addr: ARENA + UNIT, cause }));
}
