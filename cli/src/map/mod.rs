//! `arenite map`: a volume as a picture.
//!
//! ```text
//!   superblock | arena: H H | block block log block ... | R R | next arena ... | superblock
//! ```
//!
//! The blocks of an arena are summed up in cells, as many as the picture has room for. What is free is what a mount
//! finds: the store itself reads the headers and replays the logs, read-only, and goes on behind an arena that is
//! damaged.

mod svg;
mod text;

pub(crate) use svg::{cells as picture_cells, picture};
pub(crate) use text::{cells as text_cells, lines};

use crate::failure::Failure;
use crate::image::{Image, ImageDevice};
use crate::memory::{with_memory, Job};
use crate::place::Place;
use crate::progress::{Progress, Unit};
use crate::volume::{steadily, ReadError};
use arenite_core::format::{BlockSize, LogBlock};
use arenite_core::{ArenaInfo, CopyState, Error, MountOptions, NoInterrupts, Resources, Store};
use std::collections::HashSet;

/// Blocks that are looked at between two signs of life.
const PULSE: u64 = 1 << 14;

/// A volume, summed up. Sizes in bytes.
#[derive(Debug)]
pub(crate) struct Map {
    len_bytes: u64,
    block_size: u64,
    generation: u64,
    superblocks: [CopyState; 2],
    bands: Vec<Band>,
}

/// An arena.
#[derive(Debug)]
struct Band {
    addr: u64,
    /// Blocks behind the headers, without the two at the end that are never handed out.
    blocks: u64,
    free: u64,
    logs: u64,
    /// Nothing is known of its blocks.
    damaged: bool,
    headers_good: [bool; 2],
    cells: Vec<Cell>,
}

/// Some blocks in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cell {
    blocks: u64,
    used: u64,
    /// Blocks of the log; not counted as used.
    log: u64,
}

impl Map {
    fn free_bytes(&self) -> u64 {
        self.bands.iter().map(|band| band.free).sum::<u64>() * self.block_size
    }

    fn damaged(&self) -> usize {
        self.bands.iter().filter(|band| band.damaged).count()
    }
}

impl Band {
    fn free_percent(&self) -> f64 {
        if self.blocks == 0 {
            0.0
        } else {
            100.0 * self.free as f64 / self.blocks as f64
        }
    }

    /// Byte address of the first block of a cell.
    fn cell_addr(&self, index: usize, block_size: u64) -> u64 {
        let before = self.blocks as u128 * index as u128 / self.cells.len().max(1) as u128;
        self.addr + (2 + before as u64) * block_size
    }
}

/// Reads a volume. `cells` says how many cells an arena gets at most, if there are so many arenas.
pub(crate) fn read(place: &Place, no_lock: bool, cells: fn(usize) -> usize, quiet: bool) -> Result<Map, Failure> {
    let no_volume = |error: ReadError| Failure::no_volume(error.to_string());
    let image = Image::open_unused(place, no_lock).map_err(|error| no_volume(ReadError::Open(error)))?;
    let progress = Progress::new(quiet, Unit::Blocks, 0);
    let read = || {
        let mut job = Mapping { image: &image, cells, progress: &progress };
        with_memory(image.len_bytes() / 16384, &mut job)
    };
    steadily(&image, read).map_err(no_volume)
}

struct Mapping<'a> {
    image: &'a Image,
    cells: fn(usize) -> usize,
    progress: &'a Progress,
}

impl Job for Mapping<'_> {
    type Output = Map;
    type Error = Error;

    fn run(&mut self, memory: Resources<'_>) -> Result<Self::Output, Self::Error> {
        let device = ImageDevice::new(self.image);
        let options = MountOptions { read_only: true, damaged: true, ..MountOptions::default() };
        let store = Store::mount(memory, &device, &NoInterrupts, options).map_err(|failed| failed.error)?;
        self.progress.set_total(store.space().total_blocks);
        let cells = (self.cells)(store.report().arenas as usize);
        let arenas = (0..).map_while(|index| store.arena(index));
        Ok(Map {
            len_bytes: self.image.len_bytes(),
            block_size: store.block_size().len_u64(),
            generation: store.generation(),
            superblocks: store.report().superblocks,
            bands: arenas.map(|arena| self.band(&store, &arena, cells)).collect(),
        })
    }
}

impl Mapping<'_> {
    fn band(&self, store: &Store<'_, '_>, arena: &ArenaInfo, cells: usize) -> Band {
        let size = store.block_size();
        let unit = size.len_u64();
        let blocks = (arena.size_bytes >> size.shift()).saturating_sub(2);
        // A log of no blocks is what mount leaves of an arena that it gave up.
        let damaged = arena.log_blocks == 0;
        let logs = log_addrs(self.image, size, arena);
        let count = cells.min(usize::try_from(blocks).unwrap_or(usize::MAX)).max(1);
        let mut band = Band {
            addr: arena.addr,
            blocks,
            free: arena.free_bytes >> size.shift(),
            logs: logs.len() as u64,
            damaged,
            headers_good: arena.copies_good,
            cells: vec![Cell::default(); count],
        };
        for index in 0..count {
            let (first, behind) = (band.cell_addr(index, unit), band.cell_addr(index + 1, unit));
            let mut cell = Cell { blocks: (behind - first) / unit, ..Cell::default() };
            for (number, addr) in (1..).zip((first..behind).step_by(size.len_bytes())) {
                if logs.contains(&addr) {
                    cell.log += 1;
                } else if !damaged && store.is_free(addr) != Ok(true) {
                    cell.used += 1;
                }
                if number % PULSE == 0 {
                    self.progress.advance(PULSE);
                }
            }
            self.progress.advance(cell.blocks % PULSE);
            band.cells[index] = cell;
        }
        band
    }
}

/// Byte addresses of the blocks of a log, which mount has found to be whole.
fn log_addrs(image: &Image, size: BlockSize, arena: &ArenaInfo) -> HashSet<u64> {
    let mut page = vec![0; size.len_bytes()];
    let mut logs = HashSet::new();
    let mut addr = arena.log_addr;
    for _ in 0..arena.log_blocks {
        let read = image.read(&mut page, addr);
        logs.insert(addr);
        let next = read.ok().and_then(|()| LogBlock::decode(&page, size).ok().map(|block| block.chain()));
        let Some(next) = next else { break };
        addr = next;
    }
    logs
}
