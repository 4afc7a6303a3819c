//! A store in a window: all of it is there, and nothing is anywhere else.
#![forbid(unsafe_code)]

use arenite_core::format::BlockSize;
use arenite_core::{
    Allocate, BlockPtr, Completion, Device, DeviceGeometry, FlushTag, FormatOptions, MountOptions, Request, Store,
};
use arenite_partition::{Window, WindowError};
use arenite_shim::disk::Disk;
use arenite_shim::mem::{MemDevice, MemOptions};
use arenite_shim::memory_box::{boxed_memory, SmallMemory};
use arenite_shim::platform::HostPlatform;
use std::sync::Arc;

const DISK: usize = 1 << 20;
const START: u64 = 64 << 10;
const LEN: u64 = 512 << 10;
const FOREIGN: u8 = 0xA5;

fn disk() -> Arc<Disk> {
    let mut bytes = vec![FOREIGN; DISK];
    bytes[START as usize..(START + LEN) as usize].fill(0);
    Arc::new(Disk::over(bytes.into()))
}

fn nothing_outside_changed(disk: &Disk) -> bool {
    let bytes = disk.snapshot();
    let (before, rest) = bytes.split_at(START as usize);
    let after = &rest[LEN as usize..];
    before.iter().chain(after).all(|&byte| byte == FOREIGN)
}

fn options(force: bool) -> FormatOptions {
    FormatOptions { block_size: BlockSize::new(2048).unwrap(), arenas: 4, force }
}

fn content(number: u64) -> Vec<u8> {
    (0..2048u64).map(|at| (at * 31 + number * 7) as u8).collect()
}

#[test]
fn a_store_lives_in_a_window() {
    let disk = disk();
    let mut ptrs: Vec<BlockPtr> = Vec::new();
    {
        let memory: Box<SmallMemory> = boxed_memory();
        let device = MemDevice::new(Arc::clone(&disk), MemOptions::default());
        let window = Window::new(&device, START, LEN).unwrap();
        assert_eq!((window.geometry().len_bytes, window.start_bytes()), (LEN, START));
        let store = Store::format(memory.take().unwrap(), &window, &HostPlatform, options(false)).unwrap();
        for number in 0..20 {
            let mut filling = store.allocate(Allocate::data()).unwrap();
            let len = filling.bytes().len();
            filling.bytes_mut().copy_from_slice(&content(number)[..len]);
            ptrs.push(store.enqueue(filling).unwrap().ptr());
        }
        store.commit(store.roots()).unwrap();
        store.unmount().unwrap();
    }
    assert!(nothing_outside_changed(&disk));
    assert!(disk.snapshot()[START as usize..(START + LEN) as usize].iter().any(|&byte| byte != 0));

    let memory: Box<SmallMemory> = boxed_memory();
    let device = MemDevice::new(Arc::clone(&disk), MemOptions::default());
    let window = Window::new(&device, START, LEN).unwrap();
    let store = Store::mount(memory.take().unwrap(), &window, &HostPlatform, MountOptions::default()).unwrap();
    for (number, ptr) in (0..).zip(ptrs) {
        let block = store.read(ptr).unwrap();
        assert_eq!(block.bytes(), &content(number)[..block.bytes().len()], "block {number}");
    }
}

#[test]
fn ranges_that_are_no_part_are_refused() {
    let options = MemOptions { physical_sector_len_bytes: 4096, ..MemOptions::default() };
    let device = MemDevice::new(disk(), options);
    let len = DISK as u64;
    let refused = |start, len| Window::new(&device, start, len).err();
    assert_eq!(refused(0, len), None);
    assert_eq!(refused(4096, len - 4096), None);
    for (start, len) in [(0, 0), (0, len + 512), (4096, len), (u64::MAX - 4095, 8192), (len, 512)] {
        assert!(matches!(refused(start, len), Some(WindowError::Range { .. })), "{start} {len}");
    }
    let misaligned = WindowError::Misaligned { start_bytes: 34 * 512, physical_sector_len_bytes: 4096 };
    assert_eq!(refused(34 * 512, 4096), Some(misaligned));
    assert!(misaligned.to_string().contains("physical sectors of 4096 bytes"), "{misaligned}");
    assert_eq!(refused(4096, 1000), Some(WindowError::Len { len_bytes: 1000, logical_sector_len_bytes: 512 }));
}

/// Says that a window is larger than it is.
struct Boaster<'d, 'm>(Window<'d, 'm>);

impl<'m> Device<'m> for Boaster<'_, 'm> {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry { len_bytes: DISK as u64 - START, ..self.0.geometry() }
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        self.0.submit(request)
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.0.flush(tag)
    }

    fn poll(&self) -> Option<Completion<'m>> {
        self.0.poll()
    }
}

#[test]
fn requests_beyond_the_end_are_not_passed_on() {
    let disk = disk();
    let memory: Box<SmallMemory> = boxed_memory();
    let device = MemDevice::new(Arc::clone(&disk), MemOptions::default());
    let boaster = Boaster(Window::new(&device, START, LEN).unwrap());
    let failed = Store::format(memory.take().unwrap(), &boaster, &HostPlatform, options(true)).err().unwrap();
    assert!(failed.error.to_string().contains("does not support"), "{}", failed.error);
    assert!(nothing_outside_changed(&disk));
}
