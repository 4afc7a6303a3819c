#![forbid(unsafe_code)]
//! The store on its disk: found, mounted or made, and what is to be said about it.

use alloc::vec::Vec;

use arenite_catalog::{Catalog, Error as CatalogError};
use arenite_core::format::BlockSize;
use arenite_core::{CopyState, Device, Error as StoreError, Failed, FormatOptions, MountOptions, Resources, Store};
use spin::Mutex;

use crate::blk::SECTOR_BYTES;
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::platform::PLATFORM;
use crate::println;
use crate::stacks::MAX_CPUS;
use crate::store_disk::StoreDisk;

/// Buffers of 16 KiB for the cache.
pub const CACHE_BLOCKS: usize = if cfg!(feature = "static-256m") { 16384 } else { 512 };

arenite_core::memory! {
    /// All memory of the store, for volumes of up to 16 GiB.
    static MEMORY: cache_blocks = CACHE_BLOCKS, block_len_bytes = 16384, volume_blocks = 1 << 20, arenas = 32,
        queue = 256, workers = MAX_CPUS;
}

/// Blocks of a new volume for which it gets one more arena: 64 MiB.
const BLOCKS_PER_ARENA: u64 = 4096;

/// Where content goes: not into the arena that nodes of the catalogue go into, which has the hint 0, so that the blocks
/// of files lie side by side and are written in few requests.
pub const DATA_HINT: u32 = 1;

/// What may be done with a disk that holds no volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Nothing.
    Never,
    /// Make one if the disk is blank.
    IfBlank,
    /// Make one, whatever the disk holds.
    Always,
}

/// A copy of a structure that was not good when the volume was mounted.
#[derive(Clone, Copy, Debug)]
struct DamagedCopy {
    what: &'static str,
    number: usize,
}

/// The mounted store.
pub struct Volume {
    /// The disk under it.
    pub device: &'static StoreDisk,
    /// The store itself.
    pub store: Store<'static, 'static>,
    /// Copies that the next commit has to make good.
    damaged: Mutex<Vec<DamagedCopy>>,
}

impl Volume {
    /// Mounts the volume on a disk, or makes one.
    ///
    /// # Errors
    /// The disk cannot be flushed or written, holds something else, or is damaged.
    pub fn open(device: &'static StoreDisk, format: Format) -> Result<Self, Failure> {
        if !device.info().flush {
            return Err(Failure::new(Outcome::NoFlush, format_args!("the store's disk cannot be flushed")));
        }
        if device.info().read_only {
            return Err(Failure::new(Outcome::ReadOnly, format_args!("the store's disk is read-only")));
        }
        let store = open_store(take_memory()?, device, format)?;
        let volume = Self { device, store, damaged: Mutex::new(Vec::new()) };
        volume.describe();
        volume.look_at_copies();
        Ok(volume)
    }

    fn describe(&self) {
        let (space, report) = (self.store.space(), self.store.report());
        println!(
            "volume: generation {}, {} arenas, {} of {} blocks of {} bytes free",
            self.store.generation(),
            report.arenas,
            space.free_blocks,
            space.total_blocks,
            self.store.block_size().len_bytes()
        );
    }

    /// Says which copies of superblocks and headers are bad, and remembers them.
    fn look_at_copies(&self) {
        let mut damaged = Vec::new();
        for (number, copy) in self.store.report().superblocks.iter().enumerate() {
            if *copy == CopyState::Good {
                continue;
            }
            println!("volume: superblock copy {number}: {copy}; the other one is used");
            damaged.push(DamagedCopy { what: "superblock", number });
        }
        for (index, arena) in (0..).map_while(|index| Some((index, self.store.arena(index)?))) {
            for (copy, good) in arena.copies_good.into_iter().enumerate() {
                if !good {
                    println!("volume: header of arena {index}, copy {copy}: damaged or old; the other one is used");
                    damaged.push(DamagedCopy { what: "header", number: 2 * index + copy });
                }
            }
        }
        *self.damaged.lock() = damaged;
    }

    /// The catalogue of the newest commit.
    ///
    /// # Errors
    /// The volume holds something else, or is damaged.
    pub fn catalog(&self) -> Result<Catalog<'_, 'static, 'static>, Failure> {
        Ok(Catalog::open(&self.store)?)
    }

    /// Commits, and says which damaged copies that has made good.
    ///
    /// # Errors
    /// The disk failed.
    pub fn commit(&self, catalog: &mut Catalog<'_, 'static, 'static>) -> Result<(), Failure> {
        let generation = catalog.commit().map_err(|error| self.explain(error.into()))?;
        println!("volume: committed generation {generation}");
        let damaged = core::mem::take(&mut *self.damaged.lock());
        if self.store.counters().commit.repairs >= damaged.len() as u64 {
            damaged.iter().for_each(|copy| println!("@repaired what={} copy={}", copy.what, copy.number));
        } else {
            println!("volume: the damaged copies were not rewritten");
        }
        Ok(())
    }

    /// Makes a change; if the volume is full, commits, so that what was freed before can be used, and tries again.
    ///
    /// # Errors
    /// Those of the change; those of the commit.
    pub fn change<'s, T>(
        &'s self,
        catalog: &mut Catalog<'s, 'static, 'static>,
        mut change: impl FnMut(&mut Catalog<'s, 'static, 'static>) -> Result<T, CatalogError>,
    ) -> Result<T, Failure> {
        let result = match change(catalog) {
            Err(CatalogError::Store(StoreError::Full { .. })) => {
                self.commit(catalog)?;
                self.store.settle().map_err(|error| self.explain(error.into()))?;
                change(catalog)
            }
            result => result,
        };
        result.map_err(|error| self.explain(error.into()))
    }

    /// After a failed write the store only says that it is read-only; this says why.
    pub fn explain(&self, failure: Failure) -> Failure {
        match (failure.outcome, self.store.failure()) {
            (Outcome::ReadOnly, Some(cause)) => cause.into(),
            _ => failure,
        }
    }

    /// Ends the use of the volume. What was not committed is gone.
    ///
    /// # Errors
    /// The disk failed.
    pub fn unmount(self) -> Result<(), Failure> {
        Ok(self.store.unmount()?)
    }
}

/// The store's memory, once.
///
/// # Errors
/// It was taken before.
pub fn take_memory() -> Result<Resources<'static>, Failure> {
    MEMORY.take().ok_or_else(|| Failure::new(Outcome::Limit, format_args!("the store's memory is in use")))
}

fn open_store(
    memory: Resources<'static>,
    device: &'static StoreDisk,
    format: Format,
) -> Result<Store<'static, 'static>, Failure> {
    let memory = match format {
        Format::Always => memory,
        Format::Never | Format::IfBlank => {
            match Store::mount(memory, device, &PLATFORM, MountOptions::default()) {
                Ok(store) => return Ok(store),
                // Only of a disk without a volume does the memory come back.
                Err(Failed { error: StoreError::NotAVolume { .. }, memory: Some(memory) })
                    if format == Format::IfBlank =>
                {
                    memory
                }
                Err(Failed { error, .. }) => return Err(error.into()),
            }
        }
    };
    println!("volume: formatting a disk of {} sectors", device.geometry().len_bytes / SECTOR_BYTES);
    let options = format_options(device, format == Format::Always);
    Store::format(memory, device, &PLATFORM, options).map_err(|failed| failed.error.into())
}

/// How a disk is formatted.
pub fn format_options(device: &StoreDisk, force: bool) -> FormatOptions {
    let geometry = device.geometry();
    let sector = geometry.physical_sector_len_bytes;
    let block_size = BlockSize::new(sector).filter(|size| *size > BlockSize::ORIGINAL).unwrap_or(BlockSize::ORIGINAL);
    let arenas = (geometry.len_bytes / block_size.len_u64() / BLOCKS_PER_ARENA).clamp(2, 8) as u32;
    FormatOptions { block_size, arenas, force }
}

/// The blocks that a file of this size takes in a catalogue of this height, splits of nodes not counted.
pub fn blocks_for(size_bytes: u64, size: BlockSize, height: u8) -> u64 {
    const POINTER_BYTES: u64 = 24;
    let mut level = size_bytes.div_ceil(size.len_u64());
    let mut sum = level;
    while level > 1 {
        level = level.div_ceil(size.len_u64() / POINTER_BYTES);
        sum += level;
    }
    sum + u64::from(height).max(1)
}
