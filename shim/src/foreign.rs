//! Makes a volume look as the original leaves it: no seals, and entries behind the committed end of each log.
//!
//! The original keeps appending to a log after the barrier of a commit. A volume that it did not unmount in good order
//! therefore has entries behind the barrier at which replay ends. They never happened, and must never come alive: not
//! even when a later commit reaches the generation of a barrier among them and leaves that arena alone.
#![forbid(unsafe_code)]

use crate::check::{RawArena, RawVolume, Rule, Unreadable};
use crate::disk::Disk;
use crate::image::ReadAt;
use arenite_core::format::{
    encode_superblock, AddrHash, ArenaHeader, ArenaRef, FormatError, LogEntry, LogWriter, NONE,
};
use arenite_core::hash::hash64;

/// Rewrites superblocks, arena headers and logs. Each log must fit one block.
pub fn make_foreign(disk: &Disk) -> Result<(), Unreadable> {
    let raw = RawVolume::read(disk, Rule::Sealed)?;
    let mut hashes = Vec::new();
    for arena in &raw.arenas {
        hashes.push(rewrite_arena(disk, &raw, arena)?);
    }
    let mut page = vec![0; raw.size.len_bytes()];
    let mut entry = |index: u32| {
        let at = index as usize;
        ArenaRef { header_addr: raw.arenas[at].addr, header_hash: hashes[at] }
    };
    encode_superblock(&mut page, &raw.head, &mut entry, false).map_err(|error| at(0, error))?;
    let last = disk.len_bytes() / raw.size.len_u64() - 1;
    disk.write_at(0, &page)?;
    disk.write_at(last * raw.size.len_u64(), &page)?;
    Ok(())
}

fn at(addr: u64, error: FormatError) -> Unreadable {
    Unreadable::Format { addr, error }
}

/// Writes one arena's log and headers; returns the hash of the header.
fn rewrite_arena(disk: &Disk, raw: &RawVolume, arena: &RawArena) -> Result<u64, Unreadable> {
    let log_addr = *arena.log.first().ok_or(Unreadable::Header { addr: arena.addr })?;
    let mut page = vec![0; raw.size.len_bytes()];
    write_log(&mut page, raw, arena).map_err(|error| at(log_addr, error))?;
    disk.write_at(log_addr, &page)?;
    let header = ArenaHeader {
        log_head: AddrHash { addr: log_addr, hash: NONE },
        size_bytes: arena.blocks as u64 * raw.size.len_u64(),
        used_bytes: 0,
        seal: None,
    };
    header.encode(&mut page, raw.size, arena.addr).map_err(|error| at(arena.addr, error))?;
    disk.write_at(arena.addr, &page)?;
    disk.write_at(arena.addr + raw.size.len_u64(), &page)?;
    Ok(hash64(&page))
}

fn write_log(page: &mut [u8], raw: &RawVolume, arena: &RawArena) -> Result<(), FormatError> {
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
    log.push(LogEntry::Barrier { gen: raw.head.qgen })?;
    if let Some(addr) = first_free {
        // What never happened: a block taken, and a commit that was not completed.
        log.push(LogEntry::Alloc { addr, len_bytes: unit })?;
        log.push(LogEntry::Barrier { gen: raw.head.qgen + 1 })?;
    }
    log.finish(NONE).map(drop)
}
