//! One copy of a superblock or header that the device cannot read, at any moment of a run: a crash, and a bad block.
//!
//! ```text
//!   flush   write  write  write   flush        after each of these events the power goes, and one block after the
//!        |      ^      ^      ^       |        other cannot be read; of the writes behind the last flush either all
//!                                              are there, or the last alone
//! ```
//!
//! Whatever block that is, a mount for writing shows the last commit that was acknowledged or the one in flight, or
//! refuses: it never goes on from an older one, and it never refuses because of the second superblock. Mounted for
//! reading only without the first superblock, it shows one of these or the commit before, whole. At the end of a flush
//! either superblock suffices for that; behind it, the one of the two commits is there while the other is written.
#![forbid(unsafe_code)]

use crate::check::{RawVolume, Rule};
use crate::corrupt_stale::{Stale, StaleDevice};
use crate::disk::Disk;
use crate::explore::without_panic;
use crate::image::ReadAt;
use crate::platform::{reset_patience, ImpatientPlatform};
use crate::room::Room;
use crate::trace::{Event, Mark};
use crate::tree::{Recording, Tree};
use arenite_core::format::Superblock;
use arenite_core::{DeviceError, MountOptions, Store};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

/// What was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Mounts.
    pub mounts: u64,
    /// Of these, the ones that were refused.
    pub refused: u64,
}

/// A recording at one moment.
struct Moment<'r, T: Tree> {
    recording: &'r Recording<T>,
    disk: Arc<Disk>,
    /// As the last flush left it.
    flushed: Arc<Disk>,
    room: Room,
    acknowledged: usize,
    begun: usize,
    tried: Tried,
}

/// Tries every moment of a run that begins with a volume whose copies are all good. The error says what is wrong when.
pub fn lose_copies<T: Tree>(recording: &Recording<T>) -> Result<Tried, String> {
    let trace = &recording.trace;
    let disk = Arc::new(Disk::over(Arc::clone(&trace.base)));
    let room = Room::new(recording.block_size, trace.base.len() as u64);
    let arenas = RawVolume::read(&*disk, Rule::Sealed).map_err(|error| error.to_string())?.arenas.len();
    let flushed = Arc::new(Disk::over(Arc::clone(&trace.base)));
    let mut moment = Moment { recording, disk, flushed, room, acknowledged: 0, begun: 0, tried: Tried::default() };
    for (number, event) in trace.events.iter().enumerate() {
        let tried = match event {
            Event::Issue { addr, bytes, .. } => without_panic(|| moment.write(*addr, bytes)),
            Event::Mark(mark) => {
                match mark {
                    Mark::Begun(commit) => moment.begun = *commit,
                    Mark::Acknowledged(commit) => moment.acknowledged = *commit,
                }
                continue;
            }
            Event::FlushComplete { .. } => without_panic(|| moment.flush(arenas)),
            _ => continue,
        };
        tried.map_err(|what| format!("after event {number}: {what}"))?;
    }
    Ok(moment.tried)
}

impl<T: Tree> Moment<'_, T> {
    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), String> {
        let failed = |error: DeviceError| error.to_string();
        self.disk.write_at(addr, bytes).map_err(failed)?;
        let all = Arc::clone(&self.disk);
        self.every_copy(&all, false)?;
        let alone = Arc::new(Disk::over(self.flushed.snapshot()));
        alone.write_at(addr, bytes).map_err(failed)?;
        self.every_copy(&alone, false)
    }

    /// A device that has grown has nothing at its end before the volume has, which began with so many arenas.
    fn flush(&mut self, arenas: usize) -> Result<(), String> {
        self.flushed = Arc::new(Disk::over(self.disk.snapshot()));
        let disk = Arc::clone(&self.disk);
        let first = self.block(&disk, 0)?;
        let narena = Superblock::decode(&first).map_err(|error| error.to_string())?.head().narena;
        let grown = narena as usize > arenas || Superblock::decode(&self.block(&disk, self.last_addr())?).is_ok();
        self.every_copy(&disk, grown)
    }

    fn last_addr(&self) -> u64 {
        let unit = self.recording.block_size.len_u64();
        (self.disk.len_bytes() / unit - 1) * unit
    }

    fn block(&self, disk: &Disk, addr: u64) -> Result<Vec<u8>, String> {
        let mut page = vec![0; self.recording.block_size.len_bytes()];
        disk.read_at(addr, &mut page).map_err(|error| error.to_string())?;
        Ok(page)
    }

    /// Every copy in turn; whether the second superblock must suffice.
    fn every_copy(&mut self, disk: &Arc<Disk>, suffices: bool) -> Result<(), String> {
        let (unit, last_addr) = (self.recording.block_size.len_u64(), self.last_addr());
        let first = self.block(disk, 0)?;
        let first = Superblock::decode(&first).map_err(|error| error.to_string())?;
        let (acknowledged, begun) = (self.acknowledged, self.begun);
        let (new, old) = (acknowledged..=begun, acknowledged.saturating_sub(1)..=begun);
        self.without(disk, 0, false, new.clone(), false)?;
        self.without(disk, 0, true, old, suffices)?;
        self.without(disk, last_addr, false, new.clone(), true)?;
        self.without(disk, last_addr, true, new.clone(), true)?;
        let headers: Vec<u64> =
            first.arenas().flat_map(|arena| [arena.header_addr, arena.header_addr + unit]).collect();
        headers.into_iter().try_for_each(|addr| self.without(disk, addr, false, new.clone(), false))
    }

    /// Mounts without one block; what may be shown, and whether something must be.
    fn without(
        &mut self,
        disk: &Arc<Disk>,
        addr: u64,
        read_only: bool,
        may: RangeInclusive<usize>,
        must: bool,
    ) -> Result<(), String> {
        reset_patience();
        self.tried.mounts += 1;
        let bytes = vec![0; self.recording.block_size.len_bytes()];
        let stale = Arc::new(Mutex::new(Some(Stale { addr, bytes, unreadable: true, reads: u32::MAX })));
        let device = StaleDevice::new(Arc::clone(disk), stale);
        let options = MountOptions { read_only, ..MountOptions::default() };
        let resources = self.room.fresh().ok_or("memory is taken")?;
        let how = if read_only { "for reading only" } else { "for writing" };
        let name = |what: String| format!("mounted {how} without the block at {addr:#x}: {what}");
        let store = match Store::mount(resources, &device, &ImpatientPlatform, options) {
            Ok(store) => store,
            Err(failed) if must => return Err(name(failed.error.to_string())),
            Err(_) => {
                self.tried.refused += 1;
                return Ok(());
            }
        };
        let tree = T::open(&self.recording.shape, &store).map_err(name)?;
        let content = tree.content();
        let shows = |number: usize| {
            let snapshot = self.recording.model.get(number);
            snapshot.is_some_and(|snapshot| snapshot.roots == store.roots() && snapshot.content == content)
        };
        if may.clone().any(shows) {
            return Ok(());
        }
        Err(name(format!("shows none of the commits {may:?}")))
    }
}

impl<T: Tree> std::fmt::Debug for Moment<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Moment").field("tried", &self.tried).finish_non_exhaustive()
    }
}
