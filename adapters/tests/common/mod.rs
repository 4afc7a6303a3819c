//! What a store must be able to do on any device, and disks to do it on.
#![allow(dead_code, reason = "each test uses a part")]

use arenite_adapters::{Blocking, Disk, FlushDisk};
use arenite_core::format::BlockSize;
use arenite_core::{Allocate, Device, DeviceError, DeviceGeometry, Error, FormatOptions, MountOptions, Store};
use arenite_shim::{boxed_memory, HostPlatform, LargeMemory};

/// Length of the disks in these tests.
pub const LEN_BYTES: usize = 8 << 20;

/// A geometry of 512-byte sectors.
pub fn geometry() -> DeviceGeometry {
    DeviceGeometry {
        len_bytes: LEN_BYTES as u64,
        logical_sector_len_bytes: 512,
        physical_sector_len_bytes: 512,
        max_transfer_len_bytes: 1 << 20,
        max_segments: 64,
        queue_depth: 7,
        read_only: false,
        volatile_cache: true,
        discard: true,
    }
}

/// A disk with a volatile cache, in memory.
pub struct VecDisk {
    pub cache: Vec<u8>,
    pub medium: Vec<u8>,
    pub flushes: u32,
    pub geometry: DeviceGeometry,
}

impl VecDisk {
    pub fn new() -> Self {
        let zero = || vec![0; LEN_BYTES];
        Self { cache: zero(), medium: zero(), flushes: 0, geometry: geometry() }
    }

    pub fn sync(&mut self) -> Result<(), DeviceError> {
        self.flushes += 1;
        self.medium.copy_from_slice(&self.cache);
        Ok(())
    }
}

impl Disk for VecDisk {
    fn geometry(&self) -> DeviceGeometry {
        self.geometry
    }

    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        bytes.copy_from_slice(&self.cache[addr as usize..][..bytes.len()]);
        Ok(())
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.cache[addr as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// Formats a blank device with blocks of 4 KiB and commits 40 blocks under a root.
pub fn fill<'m>(memory: &'m LargeMemory, device: &dyn Device<'m>) -> Result<u64, Error> {
    let options = FormatOptions { block_size: BlockSize::new(4096).unwrap(), arenas: 4, force: false };
    let memory = memory.take().unwrap();
    let store = Store::format(memory, device, &HostPlatform, options).map_err(|failed| failed.error)?;
    let mut ptrs = Vec::new();
    for index in 0..40u8 {
        let mut block = store.allocate(Allocate::data().hint(index.into()))?;
        block.bytes_mut().fill(index);
        ptrs.push(store.enqueue(block)?.ptr());
    }
    let mut root = store.allocate(Allocate::data())?;
    for (place, ptr) in root.bytes_mut().chunks_exact_mut(16).zip(&ptrs) {
        place[..8].copy_from_slice(&ptr.addr.to_le_bytes());
        place[8..].copy_from_slice(&ptr.hash.to_le_bytes());
    }
    let root = store.enqueue(root)?.ptr();
    let generation = store.commit(store.roots().with_root(Some(root), 1))?;
    store.unmount()?;
    Ok(generation)
}

/// Mounts what [`fill`] has left, and reads every block.
pub fn check<'m>(memory: &'m LargeMemory, device: &dyn Device<'m>) -> Result<(), Error> {
    let memory = memory.take().unwrap();
    let store = Store::mount(memory, device, &HostPlatform, MountOptions::default()).map_err(|failed| failed.error)?;
    let root = store.read(store.roots().root_ptr().unwrap())?;
    for (index, place) in root.chunks_exact(16).take(40).enumerate() {
        let number = |at: usize| u64::from_le_bytes(place[at..at + 8].try_into().unwrap());
        let block = store.read(arenite_core::BlockPtr { addr: number(0), hash: number(8), gen: u64::MAX })?;
        assert!(block.iter().all(|byte| usize::from(*byte) == index), "block {index}");
    }
    drop(root);
    store.unmount()
}

/// Both, on one disk; gives the disk back.
pub fn round_trip<D: FlushDisk>(disk: D) -> D {
    let memory = boxed_memory();
    let device = Blocking::new(disk);
    let generation = fill(&memory, &device).unwrap();
    assert!(generation > 0);
    let disk = device.into_disk().unwrap();
    let memory = boxed_memory();
    let device = Blocking::new(disk);
    check(&memory, &device).unwrap();
    device.into_disk().unwrap()
}
