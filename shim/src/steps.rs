//! A script for any tree: lives of seeded changes and commits, with all that a store can do meanwhile.
#![forbid(unsafe_code)]

use crate::disk::Disk;
use crate::explore::Options;
use crate::faults::FaultBench;
use crate::mem::{MemDevice, MemOptions};
use crate::platform::{reset_patience, ImpatientPlatform};
use crate::record::Tape;
use crate::rng::Rng;
use crate::room::Room;
use crate::runner::{record_script, Course};
use crate::tree::{End, Log, Recording, RunError, Script, Tree};
use arenite_core::format::BlockSize;
use arenite_core::{CommitTicket, Error, MountOptions, Store};
use std::sync::Arc;

/// What a script for any tree is like. Chances are in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// Blocks of the volume.
    pub volume_blocks: u64,
    /// Size of the blocks.
    pub block_size: BlockSize,
    /// Arenas.
    pub arenas: u32,
    /// Mounts.
    pub lives: u32,
    /// Commits in each.
    pub commits: u32,
    /// Most changes before each commit.
    pub changes: u64,
    /// Chance that changes go on while a commit is in flight.
    pub overlap: u64,
    /// Chance that the kernel goes down in the middle of a commit, and mounts again.
    pub go_down: u64,
    /// Chance that the store settles after a commit.
    pub settle: u64,
    /// Completions come late and in any order.
    pub reorder: bool,
}

impl Steps {
    /// Small blocks, two arenas.
    pub const SMALL: Self = Self {
        volume_blocks: 96,
        block_size: BlockSize::MIN,
        arenas: 2,
        lives: 3,
        commits: 4,
        changes: 2,
        overlap: 30,
        go_down: 15,
        settle: 33,
        reorder: false,
    };

    /// The same with blocks of 16 KiB.
    pub const PRODUCTION: Self = Self { block_size: BlockSize::ORIGINAL, ..Self::SMALL };

    /// Overlapping generations, completions in any order.
    pub const DISORDER: Self = Self { overlap: 80, reorder: true, ..Self::SMALL };

    /// One life whose commits are settled, each before the next: for damages to what a commit leaves behind.
    pub const SETTLED: Self = Self { lives: 1, overlap: 0, go_down: 0, settle: 100, ..Self::SMALL };

    /// A volume with little room to spare, for a long life.
    pub const ENDURANCE: Self = Self { changes: 6, ..Self::SMALL };

    fn prepare<T: Tree>(&self, shape: &T::Shape, seed: u64) -> Result<(Arc<Disk>, Work<T>, Course), String> {
        let len_bytes = self.volume_blocks * self.block_size.len_u64();
        let disk = Arc::new(Disk::zeroed(len_bytes));
        let plain = Course::plain(self.block_size, seed);
        let course = Course { lives: self.lives, reorder: self.reorder, ..plain };
        course.format(&disk, self.arenas).map_err(|error| format!("format: {error}"))?;
        let mut room = Room::new(self.block_size, len_bytes);
        let device = MemDevice::new(Arc::clone(&disk), MemOptions::default());
        let resources = room.fresh().ok_or("memory is taken")?;
        let store = Store::mount(resources, &device, &ImpatientPlatform, MountOptions::default());
        let store = store.map_err(|failed| format!("mount: {}", failed.error))?;
        let empty = T::open(shape, &store)?;
        let log = Log::new(store.roots(), empty.content());
        store.unmount().map_err(|error| format!("unmount: {error}"))?;
        Ok((disk, Work::new(*self, shape.clone(), seed, log), course))
    }

    /// Records what a seed gives on a tree of this shape.
    pub fn record<T: Tree>(&self, shape: &T::Shape, seed: u64) -> Result<Recording<T>, String> {
        let (disk, work, course) = self.prepare::<T>(shape, seed)?;
        record_script(&disk, &work, &course).map_err(|error| format!("{error:?}"))
    }

    /// A bench for errors at every call.
    pub fn bench<T: Tree>(&self, shape: &T::Shape, seed: u64, options: Options) -> Result<FaultBench<Work<T>>, String> {
        let calm = Self { go_down: 0, ..*self };
        let (disk, work, course) = calm.prepare::<T>(shape, seed)?;
        Ok(FaultBench::new(&disk, work, course, options))
    }
}

/// A script in progress.
pub struct Work<T: Tree> {
    steps: Steps,
    shape: T::Shape,
    rng: Rng,
    log: Log<T::Content>,
}

impl<T: Tree> Clone for Work<T> {
    fn clone(&self) -> Self {
        Self { steps: self.steps, shape: self.shape.clone(), rng: self.rng.clone(), log: self.log.clone() }
    }
}

impl<T: Tree> Work<T> {
    /// A script that goes on from what a log says.
    pub fn new(steps: Steps, shape: T::Shape, seed: u64, log: Log<T::Content>) -> Self {
        Self { steps, shape, rng: Rng::new(seed), log }
    }

    /// To go on from what another log says.
    pub fn set_log(&mut self, log: Log<T::Content>) {
        self.log = log;
    }

    /// Steps until a commit is durable, and returns its generation; or none, if the kernel goes down.
    fn finish(&mut self, store: &Store<'_, '_>, tree: &mut T, ticket: &CommitTicket) -> Result<Option<u64>, Error> {
        let overlap = self.rng.chance(self.steps.overlap, 100);
        let mut left = if self.rng.chance(self.steps.go_down, 100) { self.rng.below(12) } else { u64::MAX };
        loop {
            if let Some(result) = store.commit_poll(ticket) {
                return result.map(Some);
            }
            if left == 0 {
                return Ok(None);
            }
            left -= 1;
            store.step();
            if overlap && self.rng.chance(1, 4) {
                tree.change(store, &mut self.rng)?;
            }
        }
    }
}

impl<T: Tree> Script for Work<T> {
    type Tree = T;

    fn shape(&self) -> &T::Shape {
        &self.shape
    }

    fn log(&self) -> &Log<T::Content> {
        &self.log
    }

    fn put_on_tape(&mut self, tape: &Arc<Tape>) {
        self.log = self.log.on_tape(tape);
    }

    fn live(&mut self, store: &Store<'_, '_>, _enlarge: Option<&dyn Fn()>) -> Result<End, RunError> {
        reset_patience();
        let mut tree = T::open(&self.shape, store).map_err(|_| match store.failure() {
            Some(error) => RunError::Store(error),
            None => RunError::Unreadable,
        })?;
        self.log.arrive(store.roots(), &tree.content())?;
        for _ in 0..self.steps.commits {
            for _ in 0..1 + self.rng.below(self.steps.changes) {
                tree.change(store, &mut self.rng)?;
            }
            let roots = tree.prepare(store)?;
            self.log.begin(roots, tree.content());
            let ticket = loop {
                match store.commit_start(roots) {
                    Err(Error::CommitInFlight) => {
                        store.step();
                    }
                    result => break result?,
                }
            };
            match self.finish(store, &mut tree, &ticket)? {
                None => return Ok(End::GoDown),
                Some(generation) => self.log.acknowledge(generation),
            }
            if self.rng.chance(self.steps.settle, 100) {
                store.settle()?;
            }
        }
        Ok(End::Unmount)
    }
}

impl<T: Tree> std::fmt::Debug for Work<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("steps", &self.steps).finish_non_exhaustive()
    }
}
