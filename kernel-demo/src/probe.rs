#![forbid(unsafe_code)]
//! The word `phase=stack`: how many bytes of the stack each call of the store takes.
//!
//! On the disk `store`, which is formatted if it is blank, and mounted otherwise: what `format` and `mount` take comes
//! out of two boots. Of calls that are made often the largest figure counts. The last block of a boot becomes the root,
//! which the next one reads from the disk. What is on the disk afterwards is of no use to the other phases.

use alloc::vec::Vec;

use arenite_core::{Allocate, Error as StoreError, Failed, MountOptions, Store};

use crate::failure::Failure;
use crate::platform::PLATFORM;
use crate::println;
use crate::stacks;
use crate::store_disk::StoreDisk;
use crate::volume::{format_options, take_memory};

/// Blocks that are written, read and freed in a round between two commits.
const BLOCKS: usize = 100;
const ROUNDS: usize = 4;

/// The largest figure of each call.
struct Depths(Vec<(&'static str, usize)>);

impl Depths {
    /// Makes a call.
    fn call<R>(&mut self, name: &'static str, body: impl FnOnce() -> R) -> R {
        let (result, bytes) = stacks::measure(body);
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, most)) => *most = bytes.max(*most),
            None => self.0.push((name, bytes)),
        }
        result
    }
}

/// Calls everything, and prints a line for each function.
///
/// # Errors
/// The disk failed, or holds something else than a volume.
pub fn run(device: &'static StoreDisk) -> Result<(), Failure> {
    let mut depths = Depths(Vec::new());
    let store = open(&mut depths, device)?;
    if let Some(ptr) = store.roots().root_ptr() {
        depths.call("read_from_disk", || store.read(ptr).map(drop))?;
    }
    for _ in 0..ROUNDS {
        round(&mut depths, &store)?;
    }
    depths.call("settle", || store.settle())?;
    depths.call("unmount", || store.unmount())?;
    println!("stack: a store is {} bytes long", size_of::<Store<'_, '_>>());
    for (name, bytes) in &depths.0 {
        println!("@stack call={name} bytes={bytes}");
    }
    Ok(())
}

#[allow(clippy::result_large_err, reason = "a conversion inside would be measured too")]
fn open(depths: &mut Depths, device: &'static StoreDisk) -> Result<Store<'static, 'static>, Failure> {
    let memory = take_memory()?;
    let mounted = depths.call("mount", || Store::mount(memory, device, &PLATFORM, MountOptions::default()));
    match mounted {
        Ok(store) => Ok(store),
        Err(Failed { error: StoreError::NotAVolume { .. }, memory: Some(memory) }) => {
            let options = format_options(device, false);
            let made = depths.call("format", || Store::format(memory, device, &PLATFORM, options));
            made.map_err(|failed| failed.error.into())
        }
        Err(Failed { error, .. }) => Err(error.into()),
    }
}

/// Writes blocks, reads them, frees all but one, which becomes the root, and commits.
fn round(depths: &mut Depths, store: &Store<'_, '_>) -> Result<(), Failure> {
    let mut written = Vec::new();
    for number in 0..BLOCKS {
        let mut filling = depths.call("allocate", || store.allocate(Allocate::data()))?;
        filling.bytes_mut().fill(number as u8);
        let block = depths.call("enqueue", || store.enqueue(filling))?;
        written.push(block.ptr());
        drop(block);
        depths.call("step", || store.step());
    }
    for ptr in &written {
        let worker = depths.call("enter", || store.enter(0))?;
        depths.call("read", || store.read(*ptr).map(drop))?;
        depths.call("leave", || drop(worker));
    }
    let old = store.roots().root_ptr();
    let last = written.pop();
    for ptr in written.into_iter().chain(old) {
        depths.call("free", || store.free(ptr))?;
    }
    depths.call("commit", || store.commit(store.roots().with_root(last, 1)))?;
    while depths.call("step", || store.step()) {}
    Ok(())
}
