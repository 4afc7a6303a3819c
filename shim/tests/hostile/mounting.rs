//! Mounting an image, and what that cost.

use crate::images::{Image, TestMemory};
use arenite_core::format::Superblock;
use arenite_core::{Error, MountOptions, MountReport, Mounting, Roots, Store};
use arenite_shim::faulty::{Faulty, Op};
use arenite_shim::platform::{reset_patience, ImpatientPlatform};
use arenite_shim::{boxed_memory, Disk, MemDevice, MemOptions};
use std::sync::Arc;

/// What a mount showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    pub report: MountReport,
    pub generation: u64,
    pub roots: Roots,
}

/// A mount and its cost.
#[derive(Debug)]
pub struct Outcome {
    pub result: Result<Shown, Error>,
    /// The memory came back with the error.
    pub memory_back: bool,
    pub steps: u64,
    pub reads: u64,
    pub writes: u64,
    pub flushes: u64,
    /// The device has the bytes that it had before.
    pub unchanged: bool,
}

/// Most steps of a mount with so many reads: each is asked for and taken, and so is the flush at the end.
pub const fn most_steps(reads: u64) -> u64 {
    2 * reads + 2
}

/// Most reads that mount needs for an image: a superblock at the start and one at the end, or one for each of six block
/// sizes there if the first one is none; two headers for each arena; every log block; and one more block where a log
/// leads astray.
pub fn most_reads(image: &Image) -> u64 {
    let first = image.bytes.get(..image.unit as usize).map(Superblock::decode);
    let superblocks = if matches!(first, Some(Ok(_))) { 2 } else { 7 };
    let log_blocks: usize = image.arenas.iter().map(|arena| arena.log.len()).sum();
    superblocks + 2 * image.arenas.len() as u64 + log_blocks as u64 + 1
}

/// Mounts an image step by step. `then` gets the store, if there is one, after everything was counted.
pub fn mount_and(image: &[u8], read_only: bool, then: impl FnOnce(&Store<'_, '_>)) -> (Outcome, Vec<u8>) {
    mount_with(image, MountOptions { read_only, ..MountOptions::default() }, then)
}

fn mount_with(image: &[u8], options: MountOptions, then: impl FnOnce(&Store<'_, '_>)) -> (Outcome, Vec<u8>) {
    let disk = Arc::new(Disk::over(image.into()));
    let memory: Box<TestMemory> = boxed_memory();
    let device = Faulty::new(MemDevice::new(Arc::clone(&disk), MemOptions::default()), Vec::new());
    let resources = memory.take().expect("fresh memory");
    reset_patience();
    let mut mounting = Mounting::new(resources, &device, &ImpatientPlatform, options);
    let mut steps = 0;
    let mounted = loop {
        steps += 1;
        assert!(steps < 100_000, "mount does not end");
        match mounting.step() {
            Ok(None) => {}
            Ok(Some(store)) => break Ok(store),
            Err(failed) => break Err((failed.error, failed.memory.is_some())),
        }
    };
    let calls = Op::ALL.map(|op| device.calls(op));
    let outcome = Outcome {
        memory_back: matches!(mounted, Err((_, true))),
        result: match &mounted {
            Ok(store) => Ok(Shown { report: store.report(), generation: store.generation(), roots: store.roots() }),
            Err((error, _)) => Err(*error),
        },
        steps,
        reads: calls[0],
        writes: calls[1],
        flushes: calls[2],
        unchanged: disk.snapshot()[..] == *image,
    };
    if let Ok(store) = mounted {
        then(&store);
        drop(store);
    }
    drop(mounting);
    (outcome, disk.snapshot().to_vec())
}

/// Mounts an image although it is damaged, which counts if it is for reading only, and does nothing with it.
pub fn mount_damaged(image: &[u8], read_only: bool) -> Outcome {
    let options = MountOptions { read_only, damaged: true, ..MountOptions::default() };
    mount_with(image, options, |_| ()).0
}

/// Mounts an image and does nothing with it.
pub fn mount(image: &[u8], read_only: bool) -> Outcome {
    mount_and(image, read_only, |_| ()).0
}
