//! Mount after mount of a script, recorded: the raw material of crash states.
#![forbid(unsafe_code)]

use crate::disk::Disk;
use crate::faulty::Faulty;
use crate::image::ReadAt;
use crate::mem::{MemDevice, MemOptions};
use crate::platform::{reset_patience, ImpatientPlatform};
use crate::record::{Recorder, Tape};
use crate::rng::Rng;
use crate::room::Room;
use crate::tree::{End, Recording, RunError, Script};
use arenite_core::format::BlockSize;
use arenite_core::{Device, Error, FormatOptions, MountOptions, Store};
use std::sync::Arc;

/// The device of a run, and how often it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// Size of the blocks.
    pub block_size: BlockSize,
    /// Mounts.
    pub lives: u32,
    /// The device. If it understands discards, the store makes them.
    pub mem: MemOptions,
    /// Completions come late and in any order.
    pub reorder: bool,
    /// Bytes that the device shows at first, if it is to grow to its full length in the second life.
    pub grow_from_bytes: Option<u64>,
    /// For what is random.
    pub seed: u64,
}

impl Course {
    /// A device without surprises, mounted twice.
    pub fn plain(block_size: BlockSize, seed: u64) -> Self {
        let mem = MemOptions { max_segments: 1, ..MemOptions::default() };
        Self { block_size, lives: 2, mem, reorder: false, grow_from_bytes: None, seed }
    }

    /// Puts an empty volume on a disk (on the part that shows at first).
    pub fn format(&self, disk: &Arc<Disk>, arenas: u32) -> Result<(), Error> {
        let len_bytes = self.grow_from_bytes.unwrap_or(disk.len_bytes());
        let mut room = Room::new(self.block_size, disk.len_bytes());
        let device = MemDevice::new(Arc::clone(disk), MemOptions::default());
        device.set_len_bytes(len_bytes);
        let options = FormatOptions { block_size: self.block_size, arenas, force: false };
        let resources = room.fresh().ok_or(Error::NoBuffer)?;
        let store = Store::format(resources, &device, &ImpatientPlatform, options).map_err(|failed| failed.error)?;
        store.unmount()
    }
}

/// Runs a script on a disk and records what its device sees.
pub fn record_script<S: Script>(disk: &Arc<Disk>, script: &S, course: &Course) -> Result<Recording<S::Tree>, RunError> {
    let tape = Tape::new();
    let mut script = script.clone();
    script.put_on_tape(&tape);
    let base = disk.snapshot();
    let mut room = Room::new(course.block_size, disk.len_bytes());
    let mut rng = Rng::new(course.seed ^ 0x636f_7572_7365);
    for life in 0..course.lives {
        reset_patience();
        let device = MemDevice::new(Arc::clone(disk), course.mem);
        if let Some(len_bytes) = course.grow_from_bytes.filter(|_| life < 2) {
            device.set_len_bytes(len_bytes);
        }
        let device = Recorder::new(Faulty::new(device, Vec::new()), Arc::clone(&tape));
        if course.reorder {
            device.inner().reorder(rng.next_u64());
        }
        let resources = room.fresh().ok_or(Error::NoBuffer)?;
        let options = MountOptions { discard: course.mem.discard, ..MountOptions::default() };
        let store = Store::mount(resources, &device, &ImpatientPlatform, options);
        let store = store.map_err(|failed| failed.error)?;
        let enlarge = || device.inner().inner().set_len_bytes(u64::MAX);
        let grows = course.grow_from_bytes.is_some() && life == 1;
        match script.live(&store, grows.then_some(&enlarge))? {
            End::Unmount => store.unmount()?,
            // A kernel that goes down drops nothing. What is in the queue is lost in a reset of the device (one that
            // reorders has done some of it) ...
            End::GoDown if !course.reorder && rng.chance(1, 2) => {
                device.reset();
                std::mem::forget(store);
            }
            // ... or carried out, and nobody hears of it.
            End::GoDown => {
                while device.poll().is_some() || device.in_flight() {}
                std::mem::forget(store);
            }
        }
    }
    let model = script.log().model.clone();
    let (shape, block_size) = (script.shape().clone(), course.block_size);
    Ok(Recording { shape, block_size, trace: tape.trace(base), model })
}
