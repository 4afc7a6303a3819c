//! `arenite grow`: makes a volume larger, in new arenas behind the old ones.
//!
//! ```text
//!   first superblock not good?  mount, repair it      (the second is no longer found where the longer file ends)
//!   lengthen the file
//!   mount, grow, settle                               a refusal before anything was written takes the length back
//! ```

use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::memory::{with_memory, Job};
use crate::open::{self, Kind, Locked};
use crate::place::Place;
use crate::size::binary;
use crate::volume;
use arenite_core::{CopyState, Device, Error, MountOptions, Resources, Store};
use arenite_shim::HostPlatform;

/// Grows; returns a line for the user.
pub(crate) fn run(place: &Place, size_bytes: Option<u64>) -> Result<String, Failure> {
    let kind = open::existing(place.path())?;
    let file = Locked::open(place)?;
    // Looked at before the first byte is written; the rest takes no time, and is finished.
    let interrupt = Interrupt::new()?;
    let before = volume::read(place).map_err(|error| Failure::no_volume(error.to_string()))?;
    interrupt.check()?;
    if before.superblocks[0] != CopyState::Good {
        work(&file, before.len_bytes, before.block_size, Step::Repair)?;
    }
    let (old, new) = match (kind, size_bytes) {
        (Kind::BlockDevice, Some(_)) => {
            return Err(Failure::new("a block device has the size it has; leave out --size"));
        }
        (Kind::File { .. }, Some(size_bytes)) => (before.len_bytes, size_bytes),
        _ => (before.len_bytes, before.len_bytes),
    };
    if new < old {
        return Err(Failure::new(format!("a volume cannot shrink: the image has {old} bytes, {new} were asked for")));
    }
    if new > old {
        file.resize(new)?;
    }
    let grown = work(&file, new, before.block_size, Step::Grow).inspect_err(|failure| {
        if failure.nothing_written && new > old {
            let _ = file.resize(old);
        }
    });
    match (kind, size_bytes) {
        _ if place.is_partition() => grown.map_err(|failure| with_hint(failure, "; make the partition larger first")),
        (Kind::File { .. }, None) => grown.map_err(|failure| with_hint(failure, "; --size makes the file longer")),
        _ => grown,
    }
}

fn work(file: &Locked, len_bytes: u64, block_size: u64, step: Step) -> Result<String, Failure> {
    let blocks = len_bytes / block_size;
    with_memory(blocks, &mut Growing { file, step })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Repair,
    Grow,
}

struct Growing<'a> {
    file: &'a Locked,
    step: Step,
}

impl Job for Growing<'_> {
    type Output = String;
    type Error = Failure;

    fn run(&mut self, memory: Resources<'_>) -> Result<Self::Output, Self::Error> {
        let file = self.file.device()?;
        let window = self.file.window(&file)?;
        let device: &dyn Device<'_> = window.as_ref().map_or(&file, |window| window);
        let mounted = Store::mount(memory, device, &HostPlatform, MountOptions::default());
        let store = mounted.map_err(|failed| Failure::mount(failed.error))?;
        if self.step == Step::Repair {
            // A commit of a volume on which nothing changed repairs the copies that are not good.
            let repaired = store.commit(store.roots()).and_then(|_| store.settle());
            repaired.map_err(|error| Failure { nothing_written: false, ..Failure::store(error) })?;
            return store.unmount().map(|()| String::new()).map_err(Failure::store);
        }
        let before = (arenas(&store), store.space().total_blocks);
        store.grow().map_err(refusal)?;
        store.settle().map_err(Failure::store)?;
        let (space, size) = (store.space(), store.block_size());
        let line = format!(
            "grown: {} -> {} arenas, {} -> {} blocks of {} bytes, {} in all, {} bytes free",
            before.0,
            arenas(&store),
            before.1,
            space.total_blocks,
            size.len_bytes(),
            binary(device.geometry().len_bytes),
            space.free_blocks << size.shift()
        );
        store.unmount().map_err(Failure::store)?;
        Ok(line)
    }
}

fn arenas(store: &Store<'_, '_>) -> usize {
    (0..).take_while(|index| store.arena(*index).is_some()).count()
}

/// What whoever left out --size may not know.
fn with_hint(failure: Failure, hint: &str) -> Failure {
    match failure.text.starts_with(TOO_SMALL) {
        true => Failure { text: failure.text + hint, ..failure },
        false => failure,
    }
}

const TOO_SMALL: &str = "too small for one more arena";

fn refusal(error: Error) -> Failure {
    match error {
        Error::Geometry { need_bytes, have_bytes } if need_bytes > have_bytes => {
            Failure::new(format!("{TOO_SMALL}: {need_bytes} bytes are needed, {have_bytes} are there"))
        }
        Error::Geometry { need_bytes, .. } => Failure::new(format!("{need_bytes} bytes are more than 2^32 blocks")),
        other => Failure::store(other),
    }
}
