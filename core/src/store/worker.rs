//! Workers inside epochs, and what waits for them to leave.

use super::{Engine, Store};
use crate::arena::Place;
use crate::error::Error;
use crate::limbo::Retired;
use crate::sabotage::{sabotaged, Switch};
use crate::sync::Ordering;

/// Blocks that one step takes out of limbo at most.
const REAP_BUDGET: usize = 32;

/// Steps or relaxations that a free takes before it adds to a limbo that is so full: none below `least`, then one, and
/// four times as many with every eighth of what is left of its places. None when there is no place left: that wait is
/// another.
fn rounds(filled: u32, least: u32, places: u32) -> u32 {
    if filled < least || filled >= places {
        return 0;
    }
    // Not more than 7: `filled` is less than `places`.
    let (filled, places) = (u64::from(filled - least), u64::from(places - least));
    let eighth = (1..8).filter(|part| filled * 8 >= places * part).count();
    1 << (2 * eighth)
}

/// A worker inside an epoch: no block that it can reach by pointers that it found after entering is handed out again
/// until this is dropped. Keep it for one walk or one change, not for ever: see [`Store::enter`].
pub struct Worker<'s> {
    engine: &'s Engine<'s>,
    index: usize,
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        self.engine.epochs.leave(self.index);
    }
}

impl core::fmt::Debug for Worker<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Worker").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Store<'_, '_> {
    /// Enters an epoch, for whoever follows pointers while others free what they lead to. Never waits. `worker` is the
    /// name that others are told in [`Error::Stalled`] if this worker does not leave.
    ///
    /// Leave before you free much: from a quarter of the cache's blocks in limbo on [`Store::free`] gives workers time
    /// to leave, the more the fuller limbo is; when it is full it waits for them, and workers who all free from inside
    /// hold each other up until their patience ends in [`Error::Stalled`].
    ///
    /// A structure that is changed by one caller at a time, and read by nobody else meanwhile, needs no epochs.
    ///
    /// # Errors
    /// [`Error::NoWorker`] if as many are inside as the memory value has places for.
    pub fn enter(&self, worker: u32) -> Result<Worker<'_>, Error> {
        let index = self.engine.epochs.enter(worker).ok_or(Error::NoWorker)?;
        Ok(Worker { engine: self.engine, index })
    }

    /// Blocks that wait in limbo for readers.
    pub fn limbo_blocks(&self) -> u32 {
        self.engine.limbo.with(self.engine.platform, |limbo| limbo.storage_len() as u32)
    }

    /// Waits for a place in limbo and keeps it: at once while limbo is small; with some steps or relaxations before
    /// while it is not (see [`rounds`]); when it is full, for as long as the patience lasts.
    pub(super) fn promise_limbo(&self) -> Result<(), Error> {
        self.help_limbo();
        let mut patience = self.patience_relaxations;
        loop {
            let kept = self.engine.limbo.with(self.engine.platform, |limbo| {
                let promised = self.engine.limbo_promised.load(Ordering::Relaxed);
                let room = limbo.storage_len() + (promised as usize) < limbo.storage_capacity();
                self.engine.limbo_promised.store(promised + u32::from(room), Ordering::Relaxed);
                room
            });
            if kept {
                return Ok(());
            }
            self.wait_for_workers(&mut patience)?;
        }
    }

    /// Back-pressure on those who free, from a quarter of the cache on. It ends by itself, whether or not it helped:
    /// whoever frees from inside an epoch, on the only CPU, would wait for itself.
    fn help_limbo(&self) {
        let rounds = || {
            self.engine.limbo.with(self.engine.platform, |limbo| {
                let promised = self.engine.limbo_promised.load(Ordering::Relaxed);
                let filled = limbo.storage_len() as u32 + promised;
                rounds(filled, self.engine.cache.len() / 4, limbo.storage_capacity() as u32)
            })
        };
        let mut round = 0;
        while round < rounds() {
            self.step_or_relax();
            round += 1;
        }
    }

    /// Gives the place back.
    pub(super) fn drop_promise(&self) {
        self.engine.limbo.with(self.engine.platform, |_| self.forget_promise());
    }

    fn forget_promise(&self) {
        let promised = self.engine.limbo_promised.load(Ordering::Relaxed);
        self.engine.limbo_promised.store(promised.saturating_sub(1), Ordering::Relaxed);
    }

    /// Makes a block that no commit has available again, at once if nobody is inside an epoch. Uses up a promised
    /// place.
    pub(super) fn retire(&self, place: Place) {
        let stamp = self.engine.epochs.stamp();
        if self.engine.epochs.is_quiet() || sabotaged(Switch::SkipGrace) {
            self.drop_promise();
            self.give_back(place);
            return;
        }
        let kept = self.engine.limbo.with(self.engine.platform, |limbo| {
            self.forget_promise();
            let kept = limbo.push_back(Retired { block: place.block, stamp });
            self.engine.in_limbo.store(limbo.storage_len() as u32, Ordering::Relaxed);
            kept
        });
        // There is room: it was promised.
        debug_assert!(kept.is_ok());
    }

    fn give_back(&self, place: Place) {
        let given_back = self.engine.arenas.unreserve(place);
        debug_assert!(given_back.is_ok());
    }

    /// Takes blocks out of limbo whose epoch has passed.
    pub(super) fn reap_limbo(&self) -> bool {
        let mut worked = false;
        if self.engine.in_limbo.load(Ordering::Relaxed) == 0 {
            return worked;
        }
        for _ in 0..REAP_BUDGET {
            let passed = self.engine.limbo.with(self.engine.platform, |limbo| {
                let front = limbo.front()?;
                self.engine.epochs.has_passed(front.stamp).ok()?;
                let retired = limbo.pop_front();
                self.engine.in_limbo.store(limbo.storage_len() as u32, Ordering::Relaxed);
                retired
            });
            let Some(retired) = passed else { break };
            if let Some(place) = self.engine.arenas.locate_block(retired.block) {
                self.give_back(place);
            }
            worked = true;
        }
        worked
    }

    /// Somebody who holds up limbo or the end of a commit.
    fn stalled_worker(&self) -> Option<u32> {
        let front = self.engine.limbo.with(self.engine.platform, |limbo| limbo.front().map(|front| front.stamp));
        let in_limbo = front.and_then(|stamp| self.engine.epochs.has_passed(stamp).err());
        in_limbo.or_else(|| self.commit.with(self.engine.platform, |commit| commit.stalled_by()))
    }

    /// One step, or one relaxation, of a wait that a worker may hold up. Only relaxations in which nothing moved and a
    /// worker is in the way count against the caller's patience.
    pub(super) fn wait_for_workers(&self, patience: &mut u32) -> Result<(), Error> {
        if self.step() {
            return Ok(());
        }
        if let Some(worker) = self.stalled_worker() {
            *patience = patience.checked_sub(1).ok_or(Error::Stalled { worker })?;
        }
        self.engine.platform.relax();
        Ok(())
    }
}
