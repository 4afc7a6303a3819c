//! The one damage that nobody can see, and where it ends.
//!
//! A log that the original wrote last has no digest anywhere: if the device lost its last write, or serves what was
//! there before, the block is a log, valid in itself, of a state before. Blocks that are in use may then count as
//! free. With the first commit of ours to that arena its header has a digest, and the same damage is noticed. Every
//! other damage is noticed, or repaired, with and without.
//!
//! ```text
//!   moment 0   as the original left it      no log of it has a digest
//!   moment n   after n commits of ours      the logs of the arenas that these touched have one
//! ```
#![forbid(unsafe_code)]

use crate::corrupt::{told, Depth, Examiner, Kind, Outcome, Subject};
use crate::corrupt_writes::Run;
use crate::disk::Disk;
use crate::mem::{MemDevice, MemOptions};
use crate::platform::{reset_patience, ImpatientPlatform};
use crate::room::Room;
use crate::tree::{Recording, Tree};
use arenite_core::format::{ArenaHeader, Extension, LogBlock, LogEntry, LogWriter, Superblock, NONE};
use arenite_core::{Error, MountOptions, Store};
use std::sync::Arc;

/// What was tried, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Logs of the original's served as before, which nobody noticed: the exception.
    pub unnoticed: u64,
    /// Logs of ours served as before: noticed, each.
    pub noticed: u64,
    /// Arenas that still had a log of the original's after a commit of ours: the exception is one of arenas.
    pub untouched: u64,
    /// Other damages: noticed or repaired, each.
    pub others: u64,
}

/// Whether there is a digest of an arena's log.
fn is_sealed<T: Tree>(subject: &Subject<T>, arena: usize) -> Result<bool, String> {
    let first = subject.bytes(0);
    let superblock = Superblock::decode(&first).map_err(|error| error.to_string())?;
    let addr = subject.raw.arenas[arena].addr;
    let header = ArenaHeader::decode(&subject.bytes(addr), subject.block_size, addr);
    let header = header.map_err(|error| error.to_string())?;
    Ok(matches!(superblock.extension(), Extension::Ours { .. }) && header.seal.is_some())
}

/// The log of an arena, in one block, as it was when one block of the structure there was still free; not that of the
/// root, to which mount looks.
fn log_before<T: Tree>(subject: &Subject<T>, arena: usize) -> Option<(u64, Vec<u8>)> {
    let (raw, unit) = (&subject.raw.arenas[arena], subject.block_size.len_u64());
    let [addr] = raw.log.as_slice() else { return None };
    let root = subject.snapshot.roots.root.addr;
    let inside = |addr: u64| addr > raw.addr && addr < raw.addr + (raw.blocks as u64 + 2) * unit && addr != root;
    let block = subject.tree.iter().copied().find(|addr| inside(*addr))?;
    let page = subject.bytes(*addr);
    let mut entries: Vec<_> =
        LogBlock::decode(&page, subject.block_size).ok()?.entries().collect::<Result<_, _>>().ok()?;
    entries.insert(0, LogEntry::Free { addr: block, len_bytes: unit });
    let mut before = vec![0; page.len()];
    let mut log = LogWriter::new(&mut before, subject.block_size).ok()?;
    entries.into_iter().try_for_each(|entry| log.push(entry)).ok()?;
    log.finish(NONE).ok()?;
    Some((*addr, before))
}

/// Mounts with one block changed. Whether anything was noticed; it is an error if nothing was and nothing is wrong.
fn is_noticed<T: Tree>(subject: &Subject<T>, addr: u64, bytes: &[u8]) -> Result<bool, String> {
    reset_patience();
    let disk = Arc::new(Disk::over(Arc::clone(&subject.image)));
    disk.write_at(addr, bytes).map_err(|error| error.to_string())?;
    let mut room = Room::new(subject.block_size, subject.image.len() as u64);
    let device = MemDevice::new(disk, MemOptions::default());
    let resources = room.fresh().ok_or("memory is taken")?;
    let store = match Store::mount(resources, &device, &ImpatientPlatform, MountOptions::default()) {
        Err(failed) if matches!(failed.error, Error::Corrupt { .. }) => return Ok(true),
        Err(failed) => return Err(format!("mount: {}", failed.error)),
        Ok(store) => store,
    };
    if told(&store.report()) {
        return Ok(true);
    }
    match subject.same_space(&store) {
        Err(_) => Ok(false),
        Ok(()) => Err(format!("the log at {addr:#x} makes no difference")),
    }
}

fn stale_logs<T: Tree>(subject: &Subject<T>, moment: usize, tally: &mut Tally) -> Result<(), String> {
    for arena in 0..subject.raw.arenas.len() {
        let Some((addr, before)) = log_before(subject, arena) else { continue };
        let (sealed, noticed) = (is_sealed(subject, arena)?, is_noticed(subject, addr, &before)?);
        match (sealed, noticed) {
            (true, true) => tally.noticed += 1,
            (false, false) => tally.unnoticed += 1,
            (true, false) => return Err(format!("moment {moment}: arena {arena}: a stale log of ours is not noticed")),
            // It would be welcome, and the documentation wrong.
            (false, true) => return Err(format!("moment {moment}: arena {arena}: a stale bare log is noticed")),
        }
        tally.untouched += u64::from(!sealed && moment > 0);
    }
    Ok(())
}

/// Every block of metadata, and some of the structure, with the bytes of another block, as it was before, or with none.
fn others<T: Tree>(subject: &Subject<T>, before: Option<&Subject<T>>, tally: &mut Tally) -> Result<(), String> {
    let mut examiner = Examiner::new(subject);
    let places = subject.places();
    for (at, place) in places.iter().enumerate() {
        let next = places[(at + 1) % places.len()];
        let mut wrong = vec![vec![0; subject.block_size.len_bytes()], subject.bytes(next.addr)];
        // What an older log of the same block does is the matter of `stale_logs`.
        let old = before.filter(|_| !matches!(place.kind, Kind::Log(_)));
        wrong.extend(old.map(|old| old.bytes(place.addr)));
        for bytes in wrong.into_iter().filter(|bytes| *bytes != subject.bytes(place.addr)) {
            let want = match place.kind {
                Kind::Superblock | Kind::Header => Outcome::Repaired,
                Kind::Log(_) | Kind::Tree => Outcome::Detected,
            };
            let outcome = examiner.damaged(&[(place.addr, &bytes)], Depth::Commit)?;
            if outcome != want {
                return Err(format!("another block at {:#x} ({:?}) is {outcome:?}", place.addr, place.kind));
            }
            tally.others += 1;
        }
    }
    Ok(())
}

/// Tries all of it on a run that begins with a volume of the original and settles after each commit.
pub fn examine<T: Tree>(recording: &Recording<T>) -> Result<Tally, String> {
    let mut tally = Tally::default();
    let run = Run::new(recording)?;
    let mut before = Subject::at(recording, 0, 0)?;
    stale_logs(&before, 0, &mut tally)?;
    others(&before, None, &mut tally)?;
    let first = tally.unnoticed;
    for (moment, (_, subject)) in run.moments.into_iter().enumerate() {
        stale_logs(&subject, moment + 1, &mut tally)?;
        others(&subject, Some(&before), &mut tally)?;
        before = subject;
    }
    let all = first > 0 && tally.noticed > 0;
    all.then_some(tally).ok_or(format!("{tally:?}: not everything was tried that is to be"))
}
