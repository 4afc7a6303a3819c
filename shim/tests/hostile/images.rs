//! The volumes that the hostile images are made of, and access to their bytes.
//!
//! | base | blocks | arenas | what |
//! |---|---|---|---|
//! | `Sealed2k` | 2 KiB | 2 of 40 blocks | a few commits, one log block each |
//! | `Bare2k` | 2 KiB | 2 of 40 blocks | the same with logs as the original writes them, no extension |
//! | `Sealed16k` | 16 KiB | 2 of 20 blocks | as `Sealed2k` |
//! | `Long2k` | 2 KiB | 2 of 400 blocks | so fragmented that the first arena's log has several blocks |
//! | `LongBare2k` | 2 KiB | 2 of 400 blocks | the same without extension |
//!
//! In each, the root and the tail of the dead list are in the first arena, the head of the dead list in the second.

use arenite_core::format::{BlockSize, BlockType, DeadListWriter, NONE};
use arenite_core::memory::{map_words, pages_for};
use arenite_core::{Allocate, Block, Error, FormatOptions, Memory, Store};
use arenite_shim::check::{RawVolume, Rule};
use arenite_shim::platform::ImpatientPlatform;
use arenite_shim::{boxed_memory, Disk, MemDevice, MemOptions};
use std::sync::{Arc, OnceLock};

/// Memory for every volume here: 32 buffers of up to 16 KiB.
pub type TestMemory = Memory<{ pages_for(32, 16384) }, 32, { map_words(1024, 32) }, 32, 64>;

/// A volume to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    Sealed2k,
    Bare2k,
    Sealed16k,
    Long2k,
    LongBare2k,
}

impl Base {
    pub const ALL: [Self; 5] = [Self::Sealed2k, Self::Bare2k, Self::Sealed16k, Self::Long2k, Self::LongBare2k];
    /// Those whose logs have one block.
    pub const SHORT: &'static [Self] = &[Self::Sealed2k, Self::Bare2k, Self::Sealed16k];
    pub const SEALED: &'static [Self] = &[Self::Sealed2k, Self::Sealed16k];
    pub const BARE: &'static [Self] = &[Self::Bare2k];
    /// Those with a log of several blocks.
    pub const LONG: &'static [Self] = &[Self::Long2k, Self::LongBare2k];

    /// A copy of the volume.
    pub fn image(self) -> Image {
        static IMAGES: [OnceLock<Image>; 5] = [const { OnceLock::new() }; 5];
        IMAGES[self as usize].get_or_init(|| self.build()).clone()
    }

    fn build(self) -> Image {
        let small = |size, blocks| Image::new(volume(size, blocks, few_commits));
        match self {
            Self::Sealed2k => small(2048, 40),
            Self::Sealed16k => small(16384, 20),
            Self::Long2k => Image::new(volume(2048, 400, fragment)),
            Self::Bare2k => {
                let mut image = Self::Sealed2k.image();
                image.strip();
                (0..image.arenas.len()).for_each(|arena| image.write_original_log(arena));
                image.seal_logs();
                image
            }
            Self::LongBare2k => {
                let mut image = Self::Long2k.image();
                image.strip();
                image.seal_logs();
                image
            }
        }
    }
}

/// One arena of a base volume.
#[derive(Clone, Debug)]
pub struct Arena {
    /// Byte address of the first header.
    pub addr: u64,
    /// Bytes behind the headers.
    pub size: u64,
    /// Byte addresses of the log blocks that sealing goes through, in order.
    pub log: Vec<u64>,
    /// Whether each block is free in the base volume.
    pub free: Vec<bool>,
}

/// The bytes of a volume, and what is where in them.
#[derive(Clone)]
pub struct Image {
    pub bytes: Vec<u8>,
    /// Block size.
    pub unit: u64,
    pub arenas: Vec<Arena>,
    pub root: u64,
    pub dead_head: u64,
    pub dead_tail: u64,
    /// The committed generation.
    pub qgen: u64,
    /// Superblock and headers carry the extension.
    pub sealed: bool,
}

impl Image {
    fn new(bytes: Vec<u8>) -> Self {
        let raw = RawVolume::read(&Disk::over(bytes.clone().into()), Rule::Sealed).expect("a sound volume");
        let unit = raw.size.len_u64();
        let arenas = raw.arenas.into_iter().map(|arena| Arena {
            addr: arena.addr,
            size: arena.blocks as u64 * unit,
            log: arena.log,
            free: arena.free,
        });
        Self {
            bytes,
            unit,
            arenas: arenas.collect(),
            root: raw.head.root_addr,
            dead_head: raw.head.deadlist_head.addr,
            dead_tail: raw.head.deadlist_tail.addr,
            qgen: raw.head.qgen,
            sealed: true,
        }
    }

    /// Big-endian integer of `len` bytes.
    pub fn get(&self, addr: u64, len: usize) -> u64 {
        let at = addr as usize;
        self.bytes[at..at + len].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// Writes a big-endian integer of `len` bytes.
    pub fn put(&mut self, addr: u64, len: usize, value: u64) {
        let at = addr as usize;
        self.bytes[at..at + len].copy_from_slice(&value.to_be_bytes()[8 - len..]);
    }

    /// One block.
    pub fn page(&self, addr: u64) -> &[u8] {
        &self.bytes[addr as usize..(addr + self.unit) as usize]
    }

    pub fn copy_block(&mut self, from: u64, to: u64) {
        self.bytes.copy_within(from as usize..(from + self.unit) as usize, to as usize);
    }

    /// Where the second superblock is.
    pub fn second(&self) -> u64 {
        let len = self.bytes.len() as u64;
        len - len % self.unit - self.unit
    }

    /// Writes a field of both superblocks.
    pub fn put_super(&mut self, offset: u64, len: usize, value: u64) {
        self.put(offset, len, value);
        self.put(self.second() + offset, len, value);
    }

    /// Writes bytes of both superblocks.
    pub fn put_super_bytes(&mut self, offset: u64, bytes: &[u8]) {
        for at in [offset, self.second() + offset] {
            self.bytes[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Writes a field of both copies of an arena header.
    pub fn put_header(&mut self, arena: usize, offset: u64, len: usize, value: u64) {
        let addr = self.arenas[arena].addr;
        self.put(addr + offset, len, value);
        self.put(addr + self.unit + offset, len, value);
    }

    /// Makes a log begin, and if it has a seal end, at this address.
    pub fn move_log_head(&mut self, arena: usize, addr: u64) {
        self.put_header(arena, 2, 8, addr);
        if self.sealed {
            self.put_header(arena, 62, 8, addr);
        }
    }

    /// The first block of an arena that is free, counted from `nth`.
    pub fn free_block(&self, arena: usize, nth: usize) -> u64 {
        let Arena { addr, free, .. } = &self.arenas[arena];
        let at = (0..free.len()).filter(|at| free[*at]).nth(nth).expect("a free block");
        addr + (at as u64 + 2) * self.unit
    }

    /// First byte behind an arena.
    pub fn arena_end(&self, arena: usize) -> u64 {
        self.arenas[arena].addr + 2 * self.unit + self.arenas[arena].size
    }

    /// Words of entries of a log block.
    pub fn words(&self, addr: u64) -> Vec<u64> {
        (0..self.get(addr + 2, 2) / 8).map(|word| self.get(addr + 36 + 8 * word, 8)).collect()
    }

    /// Replaces the entries of a log block. Not its hash.
    pub fn set_words(&mut self, addr: u64, words: &[u64]) {
        assert!(36 + 8 * words.len() <= self.unit as usize, "the entries do not fit");
        self.put(addr + 2, 2, 8 * words.len() as u64);
        for (at, word) in words.iter().enumerate() {
            self.put(addr + 36 + 8 * at as u64, 8, *word);
        }
    }

    /// Puts words in front of the closing barrier of an arena's log; returns where they begin in the block.
    pub fn insert(&mut self, arena: usize, words: &[u64]) -> usize {
        let addr = self.log_end(arena);
        let mut all = self.words(addr);
        let barrier = all.pop().expect("a barrier");
        let offset = 36 + 8 * all.len();
        all.extend_from_slice(words);
        all.push(barrier);
        self.set_words(addr, &all);
        self.seal_logs();
        offset
    }

    /// The last block of an arena's log.
    pub fn log_end(&self, arena: usize) -> u64 {
        *self.arenas[arena].log.last().expect("a log")
    }

    /// Makes the volume look as if the original had committed last: no extension.
    fn strip(&mut self) {
        self.sealed = false;
        let end = 104 + 16 * self.arenas.len() as u64 + 8;
        self.put_super_bytes(end, &[0; 24]);
        for arena in 0..self.arenas.len() {
            for at in (34..78).step_by(4) {
                self.put_header(arena, at, 4, 0);
            }
        }
    }

    /// A log as the original builds it up: all is freed at first, then allocated bit by bit.
    fn write_original_log(&mut self, arena: usize) {
        let Arena { addr, size, log, free } = self.arenas[arena].clone();
        let first = addr + 2 * self.unit;
        let mut words = vec![first | 5, size - 2 * self.unit, log[0] | 1];
        for (at, free) in free[..free.len() - 2].iter().enumerate() {
            let block = first + at as u64 * self.unit;
            if !free && block != log[0] {
                words.push(block | 1);
            }
        }
        words.push(self.qgen << 8 | 3);
        self.set_words(log[0], &words);
        self.put(log[0] + 12, 8, NONE);
    }
}

/// Formats a volume with two arenas of so many blocks, and fills it. A part of a block is left at the end.
fn volume(unit: u32, blocks: u64, fill: fn(&Store<'_, '_>) -> Result<(), Error>) -> Vec<u8> {
    let disk = Arc::new(Disk::zeroed(u64::from(unit) * (2 + 2 * (2 + blocks)) + 1024));
    let memory: Box<TestMemory> = boxed_memory();
    let device = MemDevice::new(Arc::clone(&disk), MemOptions::default());
    let options = FormatOptions { block_size: BlockSize::new(unit).expect("a block size"), arenas: 2, force: false };
    let resources = memory.take().expect("fresh memory");
    let store = Store::format(resources, &device, &ImpatientPlatform, options).expect("a new volume");
    fill(&store).expect("a volume with something in it");
    store.unmount().expect("unmounted in good order");
    disk.snapshot().to_vec()
}

/// A block whose bytes are no block of any type.
fn data<'s>(store: &'s Store<'_, '_>, hint: u32) -> Result<Block<'s>, Error> {
    let mut block = store.allocate(Allocate::data().hint(hint))?;
    block.bytes_mut().fill(0xab);
    store.enqueue(block)
}

// Nodes begin one arena further than data of the same hint.
fn dead_list<'s>(store: &'s Store<'_, '_>, hint: u32) -> Result<Block<'s>, Error> {
    let mut block = store.allocate(Allocate::new(BlockType::DeadList).hint(hint.wrapping_sub(1)))?;
    let empty = DeadListWriter::new(block.bytes_mut(), store.block_size()).and_then(|list| list.finish(NONE));
    empty.expect("an empty dead list");
    store.enqueue(block)
}

/// Commits that touch both arenas, then one that touches the first alone.
fn few_commits(store: &Store<'_, '_>) -> Result<(), Error> {
    let mut old = None;
    for round in 0..3 {
        let (root, other) = (data(store, 0)?.ptr(), data(store, 1)?.ptr());
        let (head, tail) = (dead_list(store, 1)?.ptr(), dead_list(store, 0)?.ptr());
        if let Some(old) = old.replace(other) {
            store.free(old)?;
        }
        let mut roots = store.roots().with_root(Some(root), 1);
        (roots.deadlist_head.addr, roots.deadlist_head.hash) = (head.addr, head.hash);
        (roots.deadlist_tail.addr, roots.deadlist_tail.hash) = (tail.addr, tail.hash);
        roots.next_qid = round;
        store.commit(roots)?;
    }
    let root = data(store, 0)?.ptr();
    store.commit(store.roots().with_root(Some(root), 1))?;
    Ok(())
}

/// Leaves free space in so many pieces that the log has several blocks, some of them with changes only.
fn fragment(store: &Store<'_, '_>) -> Result<(), Error> {
    few_commits(store)?;
    let blocks = (0..330).map(|_| data(store, 0).map(|block| block.ptr())).collect::<Result<Vec<_>, _>>()?;
    store.commit(store.roots())?;
    for ptr in blocks.iter().step_by(2) {
        store.free(*ptr)?;
    }
    store.commit(store.roots())?;
    for ptr in &blocks[1..4] {
        if store.is_free(ptr.addr) == Ok(false) {
            store.free(*ptr)?;
        }
        store.commit(store.roots())?;
    }
    Ok(())
}
