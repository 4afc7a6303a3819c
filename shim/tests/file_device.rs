//! The device over files of the host.

use arenite_core::format::BlockSize;
use arenite_core::{Device, DeviceError, Error, FormatOptions, MountOptions, Store};
use arenite_shim::check::check_volume;
use arenite_shim::client::{Client, Version};
use arenite_shim::file::{create_file, FileDevice, FileOptions, OpenError};
use arenite_shim::memory_box::{boxed_memory, LargeMemory};
use arenite_shim::threads::with_workers;
use arenite_shim::{HostPlatform, ReadAt};
use std::path::PathBuf;

/// A file that goes away with the test.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, len_bytes: u64) -> Self {
        let path = std::env::temp_dir().join(format!("arenite-shim-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        create_file(&path, len_bytes).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn options(block_len: u32) -> FormatOptions {
    FormatOptions { block_size: BlockSize::new(block_len).unwrap(), arenas: 4, force: false }
}

const SLOTS: usize = 300;

/// Formats, fills, remounts and checks a volume in a file; returns whether transfers were direct to the end.
fn round_trip(file: &TempFile, block_len: u32, direct: bool, workers: usize) -> bool {
    let how = FileOptions { direct, ..FileOptions::default() };
    let with_discard = MountOptions { discard: true, ..MountOptions::default() };
    let mut was_direct = false;
    for life in 0..3 {
        let memory: Box<LargeMemory> = boxed_memory();
        let device = FileDevice::open(&file.0, how).unwrap();
        with_workers(&device, workers, || {
            let resources = memory.take().unwrap();
            let store = match life {
                0 => Store::format(resources, &device, &HostPlatform, options(block_len)).unwrap(),
                _ => Store::mount(resources, &device, &HostPlatform, with_discard).unwrap(),
            };
            let mut client = Client::load(&store, SLOTS, 2).unwrap();
            assert_eq!(client.versions().iter().filter(|version| **version != Version::NONE).count(), life * 100);
            for slot in life * 100..(life + 1) * 100 {
                client.put(slot, Version::new(slot as u64 + 1, true)).unwrap();
            }
            let roots = client.prepare().unwrap();
            store.commit(roots).unwrap();
            store.settle().unwrap();
            // The old nodes, as far as the file system can.
            let discarded = store.counters().commit.discarded_bytes;
            assert_eq!(discarded > 0, device.geometry().discard && life > 0, "{discarded} bytes discarded");
            let report = check_volume(&device, Some(&store), client.addresses()).unwrap();
            assert!(report.is_clean(), "{:?}", report.problems);
            store.unmount().unwrap();
        });
        was_direct = device.is_direct();
    }
    was_direct
}

#[test]
fn with_and_without_workers() {
    for (block_len, workers) in [(2048, 0), (4096, 1), (16384, 0), (16384, 3), (65536, 2)] {
        let file = TempFile::new("plain", 64 << 20);
        assert!(!round_trip(&file, block_len, false, workers));
    }
}

#[test]
fn direct_where_alignment_allows() {
    let file = TempFile::new("direct", 64 << 20);
    let possible =
        FileDevice::open(&file.0, FileOptions { direct: true, ..FileOptions::default() }).unwrap().is_direct();
    assert_eq!(round_trip(&file, 16384, true, 2), possible);
    let file = TempFile::new("unaligned", 64 << 20);
    assert!(!round_trip(&file, 2048, true, 2), "blocks of 2 KiB are not aligned");
}

#[test]
fn a_file_in_use_is_refused() {
    let file = TempFile::new("locked", 1 << 20);
    let reading = FileOptions { read_only: true, ..FileOptions::default() };
    let first = FileDevice::open(&file.0, FileOptions::default()).unwrap();
    assert!(matches!(FileDevice::open(&file.0, FileOptions::default()), Err(OpenError::InUse)));
    assert!(matches!(FileDevice::open(&file.0, reading), Err(OpenError::InUse)));
    drop(first);
    let readers = [FileDevice::open(&file.0, reading).unwrap(), FileDevice::open(&file.0, reading).unwrap()];
    assert!(matches!(FileDevice::open(&file.0, FileOptions::default()), Err(OpenError::InUse)));
    drop(readers);
    assert!(FileDevice::open(&file.0, FileOptions::default()).is_ok());
}

#[test]
fn read_only_files_show_and_do_not_change() {
    let file = TempFile::new("readonly", 64 << 20);
    round_trip(&file, 16384, false, 0);
    let before = std::fs::read(&file.0).unwrap();
    let memory: Box<LargeMemory> = boxed_memory();
    let device = FileDevice::open(&file.0, FileOptions { read_only: true, ..FileOptions::default() }).unwrap();
    let store = Store::mount(memory.take().unwrap(), &device, &HostPlatform, MountOptions::default()).unwrap();
    assert!(store.is_read_only());
    let client = Client::load(&store, SLOTS, 2).unwrap();
    assert!(client.versions().iter().all(|version| *version != Version::NONE));
    assert_eq!(store.commit_start(store.roots()).err(), Some(Error::ReadOnly));
    drop(client);
    store.unmount().unwrap();
    assert_eq!(std::fs::read(&file.0).unwrap(), before);
}

#[test]
fn what_the_file_lost_is_an_error() {
    let file = TempFile::new("cut", 64 << 20);
    round_trip(&file, 16384, false, 0);
    let memory: Box<LargeMemory> = boxed_memory();
    let device = FileDevice::open(&file.0, FileOptions::default()).unwrap();
    // Behind the device's back: reads behind the end of the file come back short.
    std::fs::OpenOptions::new().write(true).open(&file.0).unwrap().set_len(16384 + 8192).unwrap();
    let mounted = Store::mount(memory.take().unwrap(), &device, &HostPlatform, MountOptions::default()).is_ok();
    assert!(!mounted);
    assert_eq!(device.read_at(16384, &mut [0; 16384]), Err(DeviceError::Io));
}

#[test]
fn other_kinds_of_files_are_refused() {
    assert!(matches!(FileDevice::open("/dev/null".as_ref(), FileOptions::default()), Err(OpenError::Kind)));
    assert!(matches!(FileDevice::open("/nowhere/at/all".as_ref(), FileOptions::default()), Err(OpenError::Io(_))));
    let file = TempFile::new("exists", 1 << 20);
    assert!(create_file(&file.0, 5).is_err());
}

#[test]
fn the_size_is_that_of_whole_sectors() {
    let file = TempFile::new("odd", 100_000);
    let device = FileDevice::open(&file.0, FileOptions::default()).unwrap();
    assert_eq!(device.geometry().len_bytes, 99_840);
    assert_eq!(device.len_bytes(), 99_840);
}

/// From the first look to the last write under one lock.
#[test]
fn a_locked_file_becomes_a_device_without_a_gap() {
    let file = TempFile::new("locked-before", 1 << 20);
    let open = || std::fs::OpenOptions::new().read(true).write(true).open(&file.0).unwrap();
    let locked = open();
    locked.try_lock().unwrap();
    let device = FileDevice::from_file(locked.try_clone().unwrap(), FileOptions::default()).unwrap();
    assert_eq!(device.geometry().len_bytes, 1 << 20);
    drop(device);
    // The device is gone, the lock is not.
    assert!(matches!(FileDevice::from_file(open(), FileOptions::default()), Err(OpenError::InUse)));
    drop(locked);
    assert!(FileDevice::from_file(open(), FileOptions::default()).is_ok());
}
