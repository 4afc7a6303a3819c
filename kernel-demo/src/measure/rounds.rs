//! `phase=bench`: the store and the raw driver in turn, on two halves of the disk `store`, in one boot.
//!
//! The words `blocks=` and `rounds=` say how much. First the raw driver looks for its best ways; then comes a round
//! that does not count, and the others. Each measures both sides of every comparison, in alternating order, and prints
//! a line. Whatever the disk held is lost.

use alloc::boxed::Box;
use alloc::vec::Vec;

use arenite_core::format::BlockSize;
use arenite_core::{FormatOptions, Store};
use arenite_partition::Window;

use super::moving::{Moving, READ_DEPTH};
use super::raw::{Raw, To, Way};
use super::small::{self, Small};
use super::BLOCK_BYTES;
use crate::blk::{ReadyDisk, SECTOR_BYTES};
use crate::cmdline::CmdLine;
use crate::device::QueueDisk;
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::platform::PLATFORM;
use crate::println;
use crate::volume::{take_memory, CACHE_BLOCKS};

const ARENAS: u32 = 4;
/// Both halves of the disk, and the raw side's bytes, are multiples of this.
const UNIT_BYTES: u64 = 1 << 20;
/// Blocks of a volume that are not the round's: the fillers, those for [`small`], logs.
const OTHER_BLOCKS: u64 = 2048;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    blocks: u64,
    rounds: u64,
}

impl Plan {
    /// What the command line asks for.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn of(cmdline: &CmdLine) -> Result<Self, Failure> {
        let number = |key, default| match cmdline.get_number(key) {
            Ok(number) => Ok(number.unwrap_or(default)),
            Err(text) => Err(Failure::new(Outcome::BadOption, format_args!("{key}={text} is not a number"))),
        };
        let plan = Self { blocks: number("blocks", 4096)?, rounds: number("rounds", 5)? };
        let is_whole = plan.blocks > 0 && (plan.blocks * BLOCK_BYTES as u64).is_multiple_of(UNIT_BYTES);
        if !is_whole || plan.rounds == 0 {
            return Err(Failure::new(Outcome::BadOption, format_args!("blocks= is whole MiB, rounds= at least 1")));
        }
        Ok(plan)
    }

    fn len_bytes(self) -> u64 {
        self.blocks * BLOCK_BYTES as u64
    }
}

/// Everything that is measured in turn.
struct Sides<'s> {
    plan: Plan,
    moving: Moving<'s>,
    small: Small<'s>,
    raw: Raw,
    write: Way,
    read: Way,
    read_blocks: Way,
}

/// Measures.
///
/// # Errors
/// The disk is too small or has failed.
pub fn run(disk: ReadyDisk, plan: Plan) -> Result<(), Failure> {
    let disk = disk.claim();
    let half = disk.info().sectors * SECTOR_BYTES / 2 / UNIT_BYTES * UNIT_BYTES;
    if half < plan.len_bytes() + OTHER_BLOCKS * BLOCK_BYTES as u64 {
        return Err(Failure::new(Outcome::Full, format_args!("a disk of twice {half} bytes is too small")));
    }
    let device: &'static QueueDisk = Box::leak(Box::new(QueueDisk::new(disk)));
    let no_window = |error| Failure::new(Outcome::Limit, format_args!("{error}"));
    let window: &'static Window<'_, '_> = Box::leak(Box::new(Window::new(device, 0, half).map_err(no_window)?));
    let options = FormatOptions { block_size: BlockSize::ORIGINAL, arenas: ARENAS, force: true };
    let store = Store::format(take_memory()?, window, &PLATFORM, options).map_err(|failed| failed.error)?;
    let mut raw = Raw::new(disk, half..half + plan.len_bytes())?;
    let write = raw.best(To::Disk, false)?;
    let (read, read_blocks) = (raw.best(To::Memory, false)?, raw.best(To::Memory, true)?);
    println!("@ways write={write} read={read} read_blocks={read_blocks} read_depth={READ_DEPTH}");
    println!("@calls hits={} pairs={}", small::HITS, small::PAIRS);
    let (moving, small) = (Moving::new(&store, CACHE_BLOCKS + 64)?, Small::new(&store)?);
    let mut sides = Sides { plan, moving, small, raw, write, read, read_blocks };
    for number in 0..=plan.rounds {
        sides.round(number)?;
    }
    drop(sides);
    Ok(store.unmount()?)
}

impl Sides<'_> {
    /// Measures everything once, and prints it; round 0 is for warming up.
    fn round(&mut self, number: u64) -> Result<(), Failure> {
        let is_ours_first = number % 2 == 1;
        let mut figures: Vec<(&str, u64)> = Vec::new();
        for is_ours in [is_ours_first, !is_ours_first] {
            figures.push(match is_ours {
                true => ("write_us", self.moving.write(self.plan.blocks as usize)?),
                false => ("raw_write_us", self.raw.transfer(To::Disk, self.write)?),
            });
        }
        for is_ours in [is_ours_first, !is_ours_first] {
            if is_ours {
                figures.push(("read_us", self.moving.read()?));
            } else {
                figures.push(("raw_read_us", self.raw.transfer(To::Memory, self.read)?));
                figures.push(("raw_read_blocks_us", self.raw.transfer(To::Memory, self.read_blocks)?));
            }
        }
        self.moving.release()?;
        figures.push(("hash_us", small::hash_us(self.plan.blocks as usize)));
        let ([hits, table], [pairs, bitmap]) = (self.small.hits()?, self.small.pairs()?);
        figures.extend([("hit_ticks", hits), ("table_ticks", table), ("pair_ticks", pairs), ("bitmap_ticks", bitmap)]);
        let text: Vec<_> = figures.iter().map(|(name, value)| alloc::format!("{name}={value}")).collect();
        println!("@round number={number} bytes={} {}", self.plan.len_bytes(), text.join(" "));
        Ok(())
    }
}
