//! The device over io_uring: the store works on it, and sees what the file device sees. Where the kernel has no
//! io_uring, or does not let this program use it, there is nothing to be tested, and the tests say so.

use arenite_core::format::BlockSize;
use arenite_core::{Allocate, BlockPtr, Error, FormatOptions, MountOptions, Resources, Store};
use arenite_shim::file::create_file;
use arenite_shim::rng::fill;
use arenite_shim::uring::{RingPlatform, UringDevice};
use arenite_shim::{boxed_memory, FileDevice, FileOptions, HostPlatform, OpenError, SmallMemory};
use std::path::PathBuf;

static HOST: HostPlatform = HostPlatform;
const BLOCKS: u64 = 300;
/// What Linux answers where the call does not exist or is forbidden.
const ENOSYS: i32 = 38;
/// The same.
const EPERM: i32 = 1;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("arenite-uring-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        create_file(&path, 2 << 20).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Whether there is an io_uring to be had here. If not, says so.
fn has_ring(file: &Scratch) -> bool {
    match UringDevice::open(&file.0, FileOptions::default()) {
        Err(OpenError::Io(error)) if matches!(error.raw_os_error(), Some(ENOSYS | EPERM)) => {
            eprintln!("NOT TRIED: no io_uring here ({error})");
            false
        }
        _ => true,
    }
}

/// Memory for ever, as the device wants it.
fn memory() -> Resources<'static> {
    let memory: &'static SmallMemory = Box::leak(boxed_memory());
    memory.take().unwrap()
}

fn options() -> FormatOptions {
    FormatOptions { block_size: BlockSize::new(2048).unwrap(), arenas: 2, force: false }
}

fn write_all(store: &Store<'_, '_>) -> Vec<BlockPtr> {
    let block = |number| {
        let mut block = store.allocate(Allocate::data())?;
        fill(number, block.bytes_mut());
        Ok::<_, Error>(store.enqueue(block)?.ptr())
    };
    let ptrs: Vec<_> = (0..BLOCKS).map(|number| block(number).unwrap()).collect();
    store.commit(store.roots().with_root(Some(ptrs[0]), 1)).unwrap();
    ptrs
}

fn read_all(store: &Store<'_, '_>, ptrs: &[BlockPtr]) {
    assert_eq!(store.roots().root_ptr().map(|ptr| ptr.addr), Some(ptrs[0].addr));
    let mut expected = [0; 2048];
    for (number, ptr) in ptrs.iter().enumerate() {
        fill(number as u64, &mut expected);
        assert_eq!(store.read(*ptr).unwrap()[..], expected, "block {number}");
    }
}

#[test]
fn a_store_is_written_and_found_again_by_both_devices() {
    let file = Scratch::new("both");
    if !has_ring(&file) {
        return;
    }
    let device = UringDevice::open(&file.0, FileOptions { queue_depth: 8, ..FileOptions::default() }).unwrap();
    let store = Store::format(memory(), &device, &HOST, options()).unwrap();
    let ptrs = write_all(&store);
    read_all(&store, &ptrs);
    store.unmount().unwrap();
    drop(device);

    let device = UringDevice::open(&file.0, FileOptions { read_only: true, ..FileOptions::default() }).unwrap();
    let read_only = MountOptions { read_only: true, ..MountOptions::default() };
    let store = Store::mount(memory(), &device, &HOST, read_only).unwrap();
    read_all(&store, &ptrs);
    store.unmount().unwrap();
    drop(device);

    let device = FileDevice::open(&file.0, FileOptions::default()).unwrap();
    let store = Store::mount(memory(), &device, &HOST, MountOptions::default()).unwrap();
    read_all(&store, &ptrs);
    store.unmount().unwrap();
}

/// Threads that sleep while they wait are woken, whoever takes the completion that they wait for.
#[test]
fn threads_that_sleep_while_they_wait_go_on() {
    let file = Scratch::new("sleep");
    if !has_ring(&file) {
        return;
    }
    let device = UringDevice::open(&file.0, FileOptions { queue_depth: 2, ..FileOptions::default() }).unwrap();
    let platform: &'static RingPlatform = Box::leak(Box::new(device.platform().unwrap()));
    let store = Store::format(memory(), &device, platform, options()).unwrap();
    let churn = |store: &Store<'_, '_>| {
        for number in 0..BLOCKS {
            let mut block = store.allocate(Allocate::data()).unwrap();
            fill(number, block.bytes_mut());
            let ptr = store.enqueue(block).unwrap().ptr();
            store.free(ptr).unwrap();
        }
    };
    std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(|| churn(&store)))));
    let ptrs = write_all(&store);
    read_all(&store, &ptrs);
    store.unmount().unwrap();
    // The platform stays, and holds neither the file nor its lock.
    drop(device);
    FileDevice::open(&file.0, FileOptions::default()).unwrap();
}

#[test]
fn the_file_is_locked_and_its_end_is_an_error() {
    let file = Scratch::new("end");
    if !has_ring(&file) {
        return;
    }
    let device = UringDevice::open(&file.0, FileOptions::default()).unwrap();
    assert!(matches!(UringDevice::open(&file.0, FileOptions::default()), Err(OpenError::InUse)));
    let store = Store::format(memory(), &device, &HOST, options()).unwrap();
    let ptrs = write_all(&store);
    store.unmount().unwrap();
    // Somebody else cuts the file off behind the superblock and the first blocks.
    std::fs::OpenOptions::new().write(true).open(&file.0).unwrap().set_len(64 << 10).unwrap();
    let store = Store::mount(memory(), &device, &HOST, MountOptions { read_only: true, ..MountOptions::default() });
    let found = store
        .map_err(|failed| failed.error)
        .and_then(|store| ptrs.iter().try_for_each(|ptr| store.read(*ptr).map(drop)));
    assert!(matches!(found, Err(Error::Device { .. })), "{found:?}");
}
