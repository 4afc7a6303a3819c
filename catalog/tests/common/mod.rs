//! What the tests share: a disk in memory, stores on it, a source of random numbers, and the check of a whole volume.
#![allow(dead_code, missing_docs)]

use arenite_catalog::{visit_blocks, Depth, VisitedBlock};
use arenite_core::format::{BlockSize, Pivot};
use arenite_core::memory::{map_words, pages_for};
use arenite_core::{
    Completion, Device, DeviceError, DeviceGeometry, FlushTag, FormatOptions, Memory, MountOptions, NoInterrupts,
    Request, RequestKind, Resources, Store,
};
use std::collections::{BTreeSet, VecDeque};
use std::mem::ManuallyDrop;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::Mutex;

/// The least memory that a store accepts: four buffers for the commit, four for the cache.
pub type TinyMemory = Memory<{ pages_for(8, 65536) }, 8, { map_words(1 << 17, 8) }, 8, 16>;
/// A cache that holds most of what the tests work with.
pub type RoomyMemory = Memory<{ pages_for(256, 2048) }, 256, { map_words(1 << 17, 8) }, 8, 16>;

pub struct Disk {
    pub bytes: Mutex<Vec<u8>>,
    pub size: BlockSize,
    pub arenas: u32,
    /// Use the larger memory.
    pub roomy: bool,
    /// Requests that are carried out before the device changes its behaviour for one request, or for good.
    pub fuse: AtomicI64,
    pub fault: Fault,
}

/// What happens when the fuse has burnt down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Power is lost: writes and flushes succeed and do nothing. The fuse counts written blocks.
    PowerLoss,
    /// One read fails. The fuse counts reads.
    ReadError,
    /// One write fails. The fuse counts writes.
    WriteError,
}

impl Disk {
    pub fn new(block_len_bytes: u32, blocks: usize, arenas: u32) -> Self {
        let size = BlockSize::new(block_len_bytes).unwrap();
        Self::over(vec![0; blocks * size.len_bytes()], size, arenas)
    }

    pub fn over(bytes: Vec<u8>, size: BlockSize, arenas: u32) -> Self {
        let (fuse, fault) = (AtomicI64::new(i64::MAX), Fault::PowerLoss);
        Self { bytes: Mutex::new(bytes), size, arenas, roomy: false, fuse, fault }
    }

    /// The same bytes on another disk, which fails after `fuse` requests.
    pub fn copy(&self, fault: Fault, fuse: i64) -> Self {
        let bytes = self.bytes.lock().unwrap().clone();
        Self { fuse: AtomicI64::new(fuse), fault, roomy: self.roomy, ..Self::over(bytes, self.size, self.arenas) }
    }

    /// Whether the fault has not happened yet.
    pub fn is_sound(&self) -> bool {
        self.fuse.load(Ordering::Relaxed) >= 0
    }

    /// No faults from now on.
    pub fn defuse(&self) {
        self.fuse.store(i64::MAX, Ordering::Relaxed);
    }

    pub fn flip(&self, addr: u64, at: usize) {
        self.bytes.lock().unwrap()[addr as usize + at] ^= 1;
    }

    fn with_memory<R>(&self, work: impl FnOnce(Resources<'_>) -> R) -> R {
        if self.roomy {
            let memory = Box::new(RoomyMemory::new());
            work(memory.take().unwrap())
        } else {
            let memory = Box::new(TinyMemory::new());
            work(memory.take().unwrap())
        }
    }

    /// Formats and mounts; unmounts in the end.
    pub fn format<R>(&self, work: impl FnOnce(&Store<'_, '_>) -> R) -> R {
        self.with_memory(|memory| {
            let device = TestDevice { disk: self, queue: Mutex::default() };
            let options = FormatOptions { block_size: self.size, arenas: self.arenas, force: true };
            let store = Store::format(memory, &device, &NoInterrupts, options);
            run(store.map_err(|failed| failed.error).unwrap(), self.fault, work)
        })
    }

    /// Mounts; unmounts in the end.
    pub fn mount<R>(&self, work: impl FnOnce(&Store<'_, '_>) -> R) -> R {
        self.with_memory(|memory| {
            let device = TestDevice { disk: self, queue: Mutex::default() };
            let store = Store::mount(memory, &device, &NoInterrupts, MountOptions::default());
            run(store.map_err(|failed| failed.error).unwrap(), self.fault, work)
        })
    }
}

fn run<R>(store: Store<'_, '_>, fault: Fault, work: impl FnOnce(&Store<'_, '_>) -> R) -> R {
    let result = work(&store);
    let outcome = store.unmount();
    assert!(outcome.is_ok() || fault == Fault::WriteError, "{outcome:?}");
    result
}

enum Job<'m> {
    Transfer(Request<'m>),
    Flush(FlushTag),
}

struct TestDevice<'k, 'm> {
    disk: &'k Disk,
    queue: Mutex<VecDeque<ManuallyDrop<Job<'m>>>>,
}

impl<'m> TestDevice<'_, 'm> {
    /// Counts the fuse down by `count`; whether it is at its end, or past it.
    fn burn(&self, count: usize) -> (bool, bool) {
        let left = self.disk.fuse.fetch_sub(count as i64, Ordering::Relaxed) - count as i64;
        (left == -1, left < 0)
    }

    fn transfer(&self, request: &mut Request<'m>) -> Result<(), DeviceError> {
        let mut bytes = self.disk.bytes.lock().unwrap();
        let mut at = request.addr() as usize;
        if at as u64 + request.len_bytes() > bytes.len() as u64 {
            return Err(DeviceError::Io);
        }
        match request.kind() {
            RequestKind::Write => {
                if self.disk.fault == Fault::WriteError && self.burn(1).0 {
                    return Err(DeviceError::Io);
                }
                for buffer in request.buffers().into_iter().flatten() {
                    if self.disk.fault != Fault::PowerLoss || !self.burn(1).1 {
                        bytes[at..at + buffer.len()].copy_from_slice(buffer);
                    }
                    at += buffer.len();
                }
            }
            _ => {
                if self.disk.fault == Fault::ReadError && self.burn(1).0 {
                    return Err(DeviceError::Io);
                }
                for buffer in request.buffers_mut().into_iter().flatten() {
                    buffer.copy_from_slice(&bytes[at..at + buffer.len()]);
                    at += buffer.len();
                }
            }
        }
        Ok(())
    }
}

impl<'m> Device<'m> for TestDevice<'_, 'm> {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            len_bytes: self.disk.bytes.lock().unwrap().len() as u64,
            logical_sector_len_bytes: 512,
            physical_sector_len_bytes: 512,
            max_transfer_len_bytes: 1 << 20,
            max_segments: 8,
            queue_depth: 8,
            read_only: false,
            volatile_cache: true,
            discard: false,
        }
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        self.queue.lock().unwrap().push_back(ManuallyDrop::new(Job::Transfer(request)));
        Ok(())
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.queue.lock().unwrap().push_back(ManuallyDrop::new(Job::Flush(tag)));
        Ok(())
    }

    fn poll(&self) -> Option<Completion<'m>> {
        let job = self.queue.lock().unwrap().pop_front()?;
        Some(match ManuallyDrop::into_inner(job) {
            Job::Transfer(mut request) => {
                let result = self.transfer(&mut request);
                Completion::Transfer(request, result)
            }
            Job::Flush(tag) => Completion::Flush(tag, Ok(())),
        })
    }
}

/// SplitMix64: the same numbers for the same seed.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Blocks that are in use on disk besides those of the catalogue: the logs, and two at the end of each arena.
pub fn overhead(store: &Store<'_, '_>) -> u64 {
    let arenas = (0..).take_while(|arena| store.arena(*arena).is_some()).count() as u64;
    store.space().log_blocks + 2 * arenas
}

/// Blocks in use on disk that a catalogue can have.
pub fn used(store: &Store<'_, '_>) -> u64 {
    store.settle().unwrap();
    let space = store.space();
    space.total_blocks - space.free_blocks - overhead(store)
}

/// Checks the committed catalogue as a whole: every block is good, none is reached twice, each is in use, and nothing
/// else is. Returns the number of blocks.
pub fn check(store: &Store<'_, '_>) -> u64 {
    let mut seen = BTreeSet::new();
    visit_blocks(store, &store.roots(), Depth::Everything, &mut |block: VisitedBlock<'_>| {
        assert_eq!(block.outcome, Ok(()), "{block:?}");
        assert!(seen.insert(block.ptr.addr), "reached twice: {block:?}");
        assert_eq!(store.is_free(block.ptr.addr), Ok(false), "{block:?}");
        ControlFlow::Continue(())
    })
    .unwrap();
    if store.roots().height > 1 {
        let root = store.read(store.roots().root_ptr().unwrap()).unwrap();
        let children = Pivot::parse(&root, store.block_size()).unwrap().len();
        assert!(children > 1, "a root that is of no use");
    }
    let blocks = seen.len() as u64;
    assert_eq!(used(store), blocks, "blocks in use, and blocks reached");
    blocks
}
