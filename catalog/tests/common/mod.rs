//! What the tests share: stores on a disk in memory, and the check of a whole volume.
#![allow(dead_code, missing_docs)]

use arenite_catalog::{visit_blocks, Depth, VisitedBlock};
use arenite_core::format::{BlockSize, Pivot};
use arenite_core::memory::{map_words, pages_for, COMMIT_FRAMES, RECLAIM_FRAMES};
use arenite_core::{Device, FormatOptions, Memory, MountOptions, NoInterrupts, Resources, Store};
use arenite_shim::faulty::{Fault, Faulty};
use arenite_shim::record::{Recorder, Tape};
use arenite_shim::{boxed_memory, MemDevice, MemOptions, ReadAt};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The least memory that a store accepts: four buffers for everybody, besides those for the commit and for reclaiming.
pub const TINY: usize = 4 + (COMMIT_FRAMES + RECLAIM_FRAMES) as usize;
pub type TinyMemory = Memory<{ pages_for(TINY, 65536) }, TINY, { map_words(1 << 17, 8) }, 8, 16>;
/// A cache that holds most of what the tests work with.
pub type RoomyMemory = Memory<{ pages_for(256, 2048) }, 256, { map_words(1 << 17, 8) }, 8, 16>;

pub struct Disk {
    pub inner: Arc<arenite_shim::Disk>,
    pub size: BlockSize,
    pub arenas: u32,
    /// Use the larger memory.
    pub roomy: bool,
}

impl Disk {
    pub fn new(block_len_bytes: u32, blocks: u64, arenas: u32) -> Self {
        let size = BlockSize::new(block_len_bytes).unwrap();
        let inner = Arc::new(arenite_shim::Disk::zeroed(blocks * size.len_u64()));
        Self { inner, size, arenas, roomy: false }
    }

    /// A disk with this content.
    pub fn over(&self, bytes: &Arc<[u8]>) -> Self {
        let inner = Arc::new(arenite_shim::Disk::over(Arc::clone(bytes)));
        Self { inner, size: self.size, arenas: self.arenas, roomy: self.roomy }
    }

    pub fn flip(&self, addr: u64, at: u64) {
        let mut byte = [0];
        self.inner.read_at(addr + at, &mut byte).unwrap();
        self.inner.write_at(addr + at, &[byte[0] ^ 1]).unwrap();
    }

    fn with_memory<R>(&self, work: impl FnOnce(Resources<'_>) -> R) -> R {
        if self.roomy {
            let memory: Box<RoomyMemory> = boxed_memory();
            work(memory.take().unwrap())
        } else {
            let memory: Box<TinyMemory> = boxed_memory();
            work(memory.take().unwrap())
        }
    }

    fn device<'m>(&self) -> MemDevice<'m> {
        MemDevice::new(Arc::clone(&self.inner), MemOptions::default())
    }

    /// Formats and mounts; unmounts in the end.
    pub fn format<R>(&self, work: impl FnOnce(&Store<'_, '_>) -> R) -> R {
        self.with_memory(|memory| {
            let device = self.device();
            let options = FormatOptions { block_size: self.size, arenas: self.arenas, force: true };
            let store = Store::format(memory, &device, &NoInterrupts, options);
            run(store.map_err(|failed| failed.error).unwrap(), work)
        })
    }

    /// Mounts; unmounts in the end.
    pub fn mount<R>(&self, work: impl FnOnce(&Store<'_, '_>) -> R) -> R {
        self.with_memory(|memory| mount(memory, &self.device(), work))
    }

    /// Mounts, with everything that happens at the device written down.
    pub fn mount_recorded<R>(&self, tape: &Arc<Tape>, work: impl FnOnce(&Store<'_, '_>) -> R) -> R {
        self.with_memory(|memory| mount(memory, &Recorder::new(self.device(), Arc::clone(tape)), work))
    }

    /// Mounts on a device with faults; unmounts in the end, whether that succeeds or not.
    pub fn mount_faulty<R>(
        &self,
        faults: Vec<Fault>,
        work: impl for<'m> FnOnce(&Store<'_, 'm>, &Faulty<'m, MemDevice<'m>>) -> R,
    ) -> R {
        self.with_memory(|memory| {
            let device = Faulty::new(self.device(), faults);
            let store = Store::mount(memory, &device, &NoInterrupts, MountOptions::default());
            let store = store.map_err(|failed| failed.error).unwrap();
            let result = work(&store, &device);
            let _ = store.unmount();
            result
        })
    }
}

fn mount<'m, R>(memory: Resources<'m>, device: &dyn Device<'m>, work: impl FnOnce(&Store<'_, '_>) -> R) -> R {
    let store = Store::mount(memory, device, &NoInterrupts, MountOptions::default());
    run(store.map_err(|failed| failed.error).unwrap(), work)
}

fn run<R>(store: Store<'_, '_>, work: impl FnOnce(&Store<'_, '_>) -> R) -> R {
    let result = work(&store);
    store.unmount().unwrap();
    result
}

/// The shim's generator, with a name for bytes.
pub struct Rng(arenite_shim::rng::Rng);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(arenite_shim::rng::Rng::new(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        arenite_shim::rng::fill(self.next(), &mut bytes);
        bytes
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
