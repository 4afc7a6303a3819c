//! Makes a volume look as the original leaves it.
//!
//! - *committed*: its superblock, no seal that counts, and entries behind the committed end of some logs. The original
//!   keeps appending to a log after the barrier of a commit; what is behind the barrier at which replay ends never
//!   happened, and must never come alive: not even when a later commit reaches the generation of a barrier among them
//!   and leaves that arena alone. Our extensions are still there, as it leaves them: of an older commit, or behind a
//!   front that they do not vouch for.
//! - *interrupted*: our own commit, with what the original added to the logs' last blocks before it was killed.
//! - *killed*: one of its own, killed while it wrote a log over: what it freed behind the last barrier may be in use.
#![forbid(unsafe_code)]

use crate::check::{RawArena, RawVolume, Rule, Unreadable};
use crate::disk::Disk;
use crate::image::ReadAt;
use arenite_core::format::{
    encode_superblock, AddrHash, ArenaHeader, ArenaRef, BlockSize, FormatError, LogBlock, LogEntry, LogWriter, NONE,
};
use arenite_core::hash::hash64;

/// Where the extension of an arena header lies.
const SEAL: std::ops::Range<usize> = 34..78;

/// Rewrites superblocks, arena headers and logs, as a commit of the original. Each log must fit one block.
pub fn make_foreign(disk: &Disk) -> Result<(), Unreadable> {
    commit_of_the_original(disk, None)
}

/// The same, with the log of the arena that holds the block at `addr` cut off as it was written over: its last entry
/// frees that block, and no barrier follows.
pub fn make_killed(disk: &Disk, addr: u64) -> Result<(), Unreadable> {
    commit_of_the_original(disk, Some(addr))
}

fn commit_of_the_original(disk: &Disk, doubtful: Option<u64>) -> Result<(), Unreadable> {
    let mut raw = RawVolume::read(disk, Rule::Sealed)?;
    raw.head.qgen += 1;
    let mut hashes = Vec::new();
    for (number, arena) in raw.arenas.iter().enumerate() {
        let end = arena.addr + (arena.blocks as u64 + 2) * raw.size.len_u64();
        let doubtful = doubtful.filter(|addr| (arena.addr..end).contains(addr));
        hashes.push(rewrite_arena(disk, &raw, number, arena, doubtful)?);
    }
    let mut page = page_of(disk, raw.size, 0)?;
    let carried = 112 + 16 * raw.arenas.len()..136 + 16 * raw.arenas.len();
    let extension = page.get(carried.clone()).unwrap_or(&[]).to_vec();
    let mut entry = |index: u32| {
        let at = index as usize;
        ArenaRef { header_addr: raw.arenas[at].addr, header_hash: hashes[at] }
    };
    encode_superblock(&mut page, &raw.head, &mut entry, false).map_err(|error| at(0, error))?;
    if let Some(room) = page.get_mut(carried) {
        room.copy_from_slice(&extension);
    }
    let last = disk.len_bytes() / raw.size.len_u64() - 1;
    disk.write_at(0, &page)?;
    disk.write_at(last * raw.size.len_u64(), &page)?;
    Ok(())
}

fn at(addr: u64, error: FormatError) -> Unreadable {
    Unreadable::Format { addr, error }
}

fn page_of(disk: &Disk, size: BlockSize, addr: u64) -> Result<Vec<u8>, Unreadable> {
    let mut page = vec![0; size.len_bytes()];
    disk.read_at(addr, &mut page)?;
    Ok(page)
}

/// Writes one arena's log and headers; returns the hash of the header. Of four arenas, the first two have entries
/// behind the end of their logs; of two, the second has its log in another block.
fn rewrite_arena(
    disk: &Disk,
    raw: &RawVolume,
    number: usize,
    arena: &RawArena,
    doubtful: Option<u64>,
) -> Result<u64, Unreadable> {
    let unit = raw.size.len_u64();
    let mut arena = arena.clone();
    let mut log_addr = *arena.log.first().ok_or(Unreadable::Header { addr: arena.addr })?;
    let mut header = page_of(disk, raw.size, arena.addr)?;
    let seal = header.get(SEAL).unwrap_or(&[]).to_vec();
    let old = ArenaHeader::decode(&header, raw.size, arena.addr).map_err(|error| at(arena.addr, error))?;
    let free = arena.free.iter().rposition(|free| *free).filter(|_| !number.is_multiple_of(2));
    if let Some(free) = free {
        let was = ((log_addr - arena.addr) / unit - 2) as usize;
        arena.free.swap(was, free);
        log_addr = arena.addr + (free as u64 + 2) * unit;
    }
    let mut page = vec![0; raw.size.len_bytes()];
    let last = match doubtful {
        Some(addr) => Last::Cut(addr),
        None if number % 4 < 2 => Last::Trailing,
        None => Last::Barrier,
    };
    write_log(&mut page, raw, &arena, last).map_err(|error| at(log_addr, error))?;
    disk.write_at(log_addr, &page)?;
    let front = ArenaHeader { log_head: AddrHash { addr: log_addr, hash: NONE }, seal: None, ..old };
    front.encode(&mut header, raw.size, arena.addr).map_err(|error| at(arena.addr, error))?;
    if let Some(room) = header.get_mut(SEAL) {
        room.copy_from_slice(&seal);
    }
    disk.write_at(arena.addr, &header)?;
    disk.write_at(arena.addr + unit, &header)?;
    Ok(hash64(&header))
}

/// How a log of the original ends.
enum Last {
    /// With the barrier of the commit.
    Barrier,
    /// With entries behind that.
    Trailing,
    /// With a block that was freed behind the barrier before.
    Cut(u64),
}

fn write_log(page: &mut [u8], raw: &RawVolume, arena: &RawArena, last: Last) -> Result<(), FormatError> {
    let unit = raw.size.len_u64();
    let addr = |block: usize| arena.addr + (block as u64 + 2) * unit;
    let mut log = LogWriter::new(page, raw.size)?;
    let mut first_free = None;
    let mut block = 0;
    while block < arena.blocks {
        let run = arena.free[block..].iter().take_while(|free| **free).count();
        if run > 0 {
            first_free.get_or_insert(addr(block));
            log.push(LogEntry::Free { addr: addr(block), len_bytes: run as u64 * unit })?;
        }
        block += run + 1;
    }
    let gen = raw.head.qgen;
    log.push(LogEntry::Barrier { gen: gen - u64::from(matches!(last, Last::Cut(_))) })?;
    match (last, first_free) {
        (Last::Cut(addr), _) => log.push(LogEntry::Free { addr, len_bytes: unit })?,
        (Last::Trailing, Some(addr)) => {
            // What never happened: a block taken, and a commit that was not completed.
            log.push(LogEntry::Alloc { addr, len_bytes: unit })?;
            log.push(LogEntry::Barrier { gen: gen + 1 })?;
        }
        _ => {}
    }
    log.finish(NONE).map(drop)
}

/// Adds to the last block of each log of ours what the original writes there before it commits: behind the closing
/// barrier in every other arena, and over it in the others.
pub fn make_interrupted(disk: &Disk) -> Result<(), Unreadable> {
    let raw = RawVolume::read(disk, Rule::Sealed)?;
    for (number, arena) in raw.arenas.iter().enumerate() {
        let tail_addr = *arena.log.last().ok_or(Unreadable::Header { addr: arena.addr })?;
        let mut page = page_of(disk, raw.size, tail_addr)?;
        let free = arena.free.iter().position(|free| *free);
        let free = free.map(|block| arena.addr + (block as u64 + 2) * raw.size.len_u64());
        add_to_log(&mut page, raw.size, !number.is_multiple_of(2), free).map_err(|error| at(tail_addr, error))?;
        disk.write_at(tail_addr, &page)?;
    }
    Ok(())
}

fn add_to_log(page: &mut [u8], size: BlockSize, over: bool, free: Option<u64>) -> Result<(), FormatError> {
    let block = LogBlock::decode(page, size)?;
    let (chain, mut entries) = (block.chain(), block.entries().collect::<Result<Vec<_>, _>>()?);
    if over {
        entries.pop();
    }
    entries.extend(free.map(|addr| LogEntry::Alloc { addr, len_bytes: size.len_u64() }));
    let mut log = LogWriter::new(page, size)?;
    entries.into_iter().try_for_each(|entry| log.push(entry))?;
    log.finish(chain).map(drop)
}
