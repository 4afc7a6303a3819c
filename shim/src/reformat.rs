//! A format that is cut off: the one operation after which a mount may show nothing.
//!
//! At any point of a format over an old volume, a mount shows the old volume whole, or the new one, which is empty, or
//! says that there is none. Once the format is done, it shows the new one. In every case another format works.
#![forbid(unsafe_code)]

use crate::check::check_volume;
use crate::crash::{CrashSpace, Limits};
use crate::disk::Disk;
use crate::explore::{without_panic, Failure};
use crate::image::ReadAt;
use crate::mem::{MemDevice, MemOptions};
use crate::platform::{reset_patience, ImpatientPlatform};
use crate::record::{ReadLog, Reads, Recorder, Tape};
use crate::room::Room;
use crate::tree::{Recording, Tree};
use arenite_core::format::BlockSize;
use arenite_core::{Error, FormatOptions, MountOptions, Roots, Store};
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What came of the crash states of one format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// States enumerated, flush epochs, distinct images of what mount reads.
    pub counts: [u64; 3],
    /// States that showed nothing, the old volume, the new one.
    pub shown: [u64; 3],
    /// What was wrong; `epoch:mask:tear`.
    pub failures: Vec<Failure>,
}

/// Formats the disk that a recording left behind, and enumerates the crash states of that.
pub fn explore_format<T: Tree>(old: &Recording<T>, arenas: u32, limits: Limits) -> Result<Formats, String> {
    let mut base = Arc::clone(&old.trace.base);
    let _ = old.trace.visit_epochs(0, |epoch| {
        base = Arc::clone(&epoch.base);
        ControlFlow::<()>::Continue(())
    });
    let tape = Tape::new();
    let mut room = Room::new(old.block_size, base.len_bytes());
    {
        let device = MemDevice::new(Arc::new(Disk::over(Arc::clone(&base))), MemOptions::default());
        let device = Recorder::new(device, Arc::clone(&tape));
        let resources = room.fresh().ok_or("memory is taken")?;
        let store = Store::format(resources, &device, &ImpatientPlatform, options(old.block_size, arenas));
        store.map_err(|failed| failed.error.to_string())?.unmount().map_err(|error| error.to_string())?;
    }
    let trace = tape.trace(base);
    let last = trace.epoch_count() - 1;
    let mut formats = Formats::default();
    let mut seen = HashSet::new();
    let disk = Arc::new(Disk::zeroed(trace.base.len_bytes()));
    let _ = trace.visit_epochs(0, |epoch| {
        formats.counts[1] += 1;
        let space = CrashSpace::new(epoch, limits);
        space.visit(1, |point, choice| {
            formats.counts[0] += 1;
            let judged = without_panic(|| {
                space.apply(choice, &disk).map_err(|error| error.to_string())?;
                judge(&disk, old, &mut room, arenas, &mut seen)
            });
            let what = match judged {
                Ok(found) if epoch.index < last || found == NEW => {
                    formats.shown[found] += 1;
                    return ControlFlow::Continue(());
                }
                Ok(found) => format!("the format was done, and what shows is {}", ["nothing", "the old one"][found]),
                Err(what) => what,
            };
            formats.failures.push(Failure { replay: format!("{}:{point}", epoch.index), what });
            if formats.failures.len() < 3 {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })
    });
    formats.counts[2] = seen.len() as u64;
    Ok(formats)
}

const NOTHING: usize = 0;
const OLD: usize = 1;
const NEW: usize = 2;

fn options(block_size: BlockSize, arenas: u32) -> FormatOptions {
    FormatOptions { block_size, arenas, force: true }
}

/// What a mount shows. If it reads what no state before had, another format is tried.
fn judge<T: Tree>(
    disk: &Arc<Disk>,
    old: &Recording<T>,
    room: &mut Room,
    arenas: u32,
    seen: &mut HashSet<Reads>,
) -> Result<usize, String> {
    reset_patience();
    let (found, reads) = {
        let device = ReadLog::new(MemDevice::new(Arc::clone(disk), MemOptions::default()));
        let resources = room.fresh().ok_or("memory is taken")?;
        let mounted = Store::mount(resources, &device, &ImpatientPlatform, MountOptions::default());
        let reads = device.reads();
        let found = match mounted {
            // Damaged, if the old volume lost its headers before its superblocks.
            Err(failed) => match failed.error {
                Error::NotAVolume { .. } | Error::Corrupt { .. } => NOTHING,
                error => return Err(format!("mount: {error}")),
            },
            Ok(store) => what_shows(disk, old, &store)?,
        };
        (found, reads)
    };
    if seen.insert(reads) {
        let device = MemDevice::new(Arc::clone(disk), MemOptions::default());
        let resources = room.fresh().ok_or("memory is taken")?;
        let store = Store::format(resources, &device, &ImpatientPlatform, options(old.block_size, arenas + 1));
        let store = store.map_err(|failed| format!("another format: {}", failed.error))?;
        if store.roots() != Roots::EMPTY {
            return Err("another format is not empty".into());
        }
        store.unmount().map_err(|error| format!("another format: {error}"))?;
    }
    Ok(found)
}

fn what_shows<T: Tree>(disk: &Disk, old: &Recording<T>, store: &Store<'_, '_>) -> Result<usize, String> {
    let clean = |addresses: Vec<u64>| match check_volume(disk, Some(store), addresses) {
        Ok(report) => report.problems.first().map_or(Ok(()), |first| Err(format!("space: {first}"))),
        Err(error) => Err(format!("check: {error}")),
    };
    if store.roots() == Roots::EMPTY {
        return clean(Vec::new()).map(|()| NEW);
    }
    let tree = T::open(&old.shape, store).map_err(|error| format!("content: {error}"))?;
    if old.model.last().is_none_or(|last| last.content != tree.content()) {
        return Err("neither the old volume nor a new one".into());
    }
    clean(tree.addresses()).map(|()| OLD)
}
