//! What a recorded run is like.
#![forbid(unsafe_code)]

use crate::mem::MemOptions;
use crate::runner::Course;
use arenite_core::format::BlockSize;

/// What a run is like. All chances are in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Everything random follows from it.
    pub seed: u64,
    /// Size of the blocks.
    pub block_size: BlockSize,
    /// Blocks of the volume.
    pub volume_blocks: u64,
    /// Arenas.
    pub arenas: u32,
    /// Slots of the structure.
    pub slots: usize,
    /// Levels of the structure: 1 or 2.
    pub levels: u32,
    /// Mounts.
    pub lives: u32,
    /// Commits in each life.
    pub commits: u32,
    /// Most changes before each commit.
    pub changes: u64,
    /// Chance that a change empties its slot.
    pub delete: u64,
    /// Chance that new content fills its whole block instead of one sector.
    pub dense: u64,
    /// Chance that the next generation begins while a commit is in flight.
    pub overlap: u64,
    /// Chance that the store settles after a commit.
    pub settle: u64,
    /// Chance that a block is being filled while a commit runs.
    pub hold: u64,
    /// Buffers in one request.
    pub max_segments: u16,
    /// Requests in flight.
    pub queue_depth: u16,
    /// Completions come late and in any order.
    pub reorder: bool,
    /// Chance that a block is read between two changes.
    pub reread: u64,
    /// Chance that the kernel goes down in the middle of a commit while the device keeps what it was given, and mounts
    /// again. What was in the device's queue is carried out or lost.
    pub restart: u64,
    /// The device is told what commits freed.
    pub discard: bool,
    /// Blocks that the device has at first, if it is to grow to `volume_blocks` in every life but the first.
    pub grow_from: Option<u64>,
    /// What the volume holds before the recording begins.
    pub prelude: Prelude,
}

/// What a volume holds before a recording begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prelude {
    /// Nothing: it was formatted just now.
    Empty,
    /// Every slot.
    Filled,
    /// Every other block of a volume that was filled in order, so that its free space is in as many pieces as can be
    /// and its logs are long.
    Fragmented,
    /// Filled, then two of each three blocks of every arena freed: most entries in a log, for several arenas.
    Shattered,
    /// The same as `Filled`, with every second copy damaged, so that the first commit begins with repairs.
    Damaged,
    /// The same as `Filled`, in the form in which the original leaves a volume, see [`crate::foreign`].
    Foreign,
    /// The same as `Filled`, with what the original had added to the logs when it was killed.
    Interrupted,
}

impl Config {
    /// Small commits of one or two changes: their epochs are enumerated exhaustively.
    pub const fn small(seed: u64) -> Self {
        Self {
            seed,
            block_size: BlockSize::MIN,
            volume_blocks: 64,
            arenas: 1,
            slots: 8,
            levels: 1,
            lives: 2,
            commits: 6,
            changes: 1,
            delete: 20,
            dense: 30,
            overlap: 0,
            settle: 30,
            hold: 20,
            max_segments: 1,
            queue_depth: 16,
            reorder: false,
            reread: 10,
            restart: 0,
            discard: false,
            grow_from: None,
            prelude: Prelude::Empty,
        }
    }

    /// Several arenas of which each commit touches some.
    pub const fn arenas(seed: u64) -> Self {
        Self {
            volume_blocks: 128,
            queue_depth: 1 + (seed % 4) as u16,
            arenas: 4,
            changes: 8,
            dense: 0,
            ..Self::small(seed)
        }
    }

    /// So many arenas that a superblock is longer than a sector and can be torn.
    pub const fn many_arenas(seed: u64) -> Self {
        Self { volume_blocks: 600, arenas: 30, changes: 2, dense: 0, ..Self::small(seed) }
    }

    /// Crashes of the kernel alone, in the middle of commits.
    pub const fn restarts(seed: u64) -> Self {
        Self { arenas: 2, lives: 10, commits: 4, changes: 3, dense: 0, restart: 50, ..Self::small(seed) }
    }

    /// Discards.
    pub const fn discards(seed: u64) -> Self {
        Self {
            arenas: 2,
            changes: 2,
            delete: 40,
            dense: 0,
            overlap: 30,
            discard: true,
            restart: 10,
            ..Self::small(seed)
        }
    }

    /// A volume that grows while it is in use.
    pub const fn growing(seed: u64) -> Self {
        Self {
            volume_blocks: 128,
            grow_from: Some(64),
            lives: 3,
            overlap: 30,
            dense: 0,
            restart: 10,
            ..Self::small(seed)
        }
    }

    /// A volume of the original.
    pub const fn foreign(seed: u64) -> Self {
        Self { volume_blocks: 128, arenas: 4, changes: 2, dense: 0, prelude: Prelude::Foreign, ..Self::small(seed) }
    }

    /// A volume of ours to which the original had begun to add when it was killed.
    pub const fn interrupted(seed: u64) -> Self {
        Self { prelude: Prelude::Interrupted, ..Self::foreign(seed) }
    }

    /// Several arenas, two levels, overlapping generations, merged requests.
    pub const fn large(seed: u64) -> Self {
        Self {
            volume_blocks: 256,
            arenas: 3,
            slots: 96,
            levels: 2,
            commits: 8,
            changes: 6,
            overlap: 70,
            max_segments: 4,
            reorder: true,
            ..Self::small(seed)
        }
    }

    /// Second copies that want repair, after a damage and after crashes of the kernel.
    pub const fn repairs(seed: u64) -> Self {
        Self { arenas: 3, volume_blocks: 96, lives: 4, commits: 2, prelude: Prelude::Damaged, ..Self::restarts(seed) }
    }

    /// A volume that is kept nearly full.
    pub const fn full(seed: u64) -> Self {
        Self { volume_blocks: 48, slots: 70, commits: 10, changes: 12, delete: 15, overlap: 30, ..Self::small(seed) }
    }

    /// Logs of several blocks.
    pub const fn long_logs(seed: u64) -> Self {
        Self {
            volume_blocks: 640,
            slots: 560,
            levels: 2,
            commits: 4,
            changes: 2,
            dense: 0,
            prelude: Prelude::Fragmented,
            ..Self::small(seed)
        }
    }

    /// Such logs in two arenas, of which a commit may leave one alone.
    pub const fn linked_logs(seed: u64) -> Self {
        Self { arenas: 2, volume_blocks: 880, slots: 780, changes: 1, ..Self::long_logs(seed) }
    }

    /// A run with blocks of 16 KiB, in at least two arenas, as the original wants it.
    #[must_use]
    pub const fn production(self) -> Self {
        let arenas = if self.arenas < 2 { 2 } else { self.arenas };
        Self { block_size: BlockSize::ORIGINAL, arenas, ..self }
    }

    /// The device and the mounts of such a run.
    pub fn course(&self) -> Course {
        Course {
            block_size: self.block_size,
            lives: self.lives,
            mem: MemOptions {
                max_segments: self.max_segments,
                queue_depth: self.queue_depth,
                discard: self.discard,
                ..MemOptions::default()
            },
            reorder: self.reorder,
            grow_from_bytes: self.grow_from.map(|blocks| blocks * self.block_size.len_u64()),
            seed: self.seed,
        }
    }
}
