//! Waiting for what was begun, and the end of a store.
//!
//! Others may go on to enqueue and to commit for ever, so there need not be a moment at which nothing is queued or in
//! flight. Whoever waits therefore waits for what there was when it began: blocks of the present batch and earlier ones
//! (what is enqueued from then on is of the next batch, and comes behind them in the sync queue), and the commit in
//! flight.
//!
//! Only frames of the cache hold blocks that wait to be written. A frame that holds none of those batches never will
//! again, so one look at each, in order, with waits in between, is enough.

use super::Store;
use crate::error::Error;
use crate::sync::Ordering;

/// What a device has not given back when its store was unmounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StillOwned {
    /// Why the store had stopped to write, if it had.
    pub failure: Option<Error>,
    /// Requests and flushes that the device has not completed.
    pub requests: u32,
    /// Byte addresses of the blocks in the buffers that it still owns: the first few, then `None`.
    pub buffers: [Option<u64>; 4],
}

/// A wait for what was begun before it.
pub(crate) struct Settling {
    /// The newest batch that is waited for.
    batch: u32,
    /// Frames in front of this one hold none of it.
    frame: u32,
    /// The value of [`Store::commits_begun`] while the commit is in flight that is waited for.
    commit: Option<u32>,
}

impl Store<'_, '_> {
    /// Waits until everything that was enqueued before this call is written, and the commit that was in flight, if one
    /// was, has written its second copies and released what it freed. What others do meanwhile is not waited for. This
    /// is no commit.
    ///
    /// # Errors
    /// [`Error::Device`] if something failed meanwhile or before; [`Error::Stalled`].
    pub fn settle(&self) -> Result<(), Error> {
        let mut patience = self.patience_relaxations;
        let mut settling = self.start_settling();
        loop {
            if let Some(result) = self.poll_settling(&mut settling) {
                return result;
            }
            self.wait_for_workers(&mut patience)?;
        }
    }

    pub(crate) fn start_settling(&self) -> Settling {
        let commit = self.commit.with(self.engine.platform, |commit| {
            (!commit.is_idle()).then(|| self.commits_begun.load(Ordering::Relaxed))
        });
        Settling { batch: self.engine.batch.fetch_add(2, Ordering::AcqRel), frame: 0, commit }
    }

    /// Whether it has come true; a look at a number of frames.
    pub(crate) fn poll_settling(&self, settling: &mut Settling) -> Option<Result<(), Error>> {
        let cache = &self.engine.cache;
        while settling.frame < cache.len() {
            if cache.is_unwritten(settling.frame, settling.batch) {
                return None;
            }
            settling.frame += 1;
        }
        if let Some(error) = self.failure() {
            return Some(Err(error));
        }
        let in_flight = self.commit.with(self.engine.platform, |commit| {
            !commit.is_idle() && settling.commit == Some(self.commits_begun.load(Ordering::Relaxed))
        });
        (!in_flight).then_some(Ok(()))
    }

    /// [`Store::unmount`] for a device that may never answer: gives up after so many relaxations in which nothing
    /// moved. The store is then abandoned; the buffers in [`StillOwned`] stay with the device.
    ///
    /// # Errors
    /// [`StillOwned`] with the failure, if there was one, and what the device has not given back.
    #[allow(clippy::result_large_err)] // said once, at the very end
    pub fn unmount_within(self, relaxations: u32) -> Result<(), StillOwned> {
        self.engine.no_more_workers.store(true, Ordering::Release);
        let mut idle = 0;
        while idle < relaxations {
            if !self.is_busy() && (self.engine.has_failed() || self.commit_is_idle()) {
                break;
            }
            if self.step() {
                idle = 0;
            } else {
                self.engine.platform.relax();
                idle += 1;
            }
        }
        let (buffers, in_flight) = (self.engine.cache.owned_by_device(), self.in_flight.load(Ordering::Acquire));
        self.abandoned.store(true, Ordering::Release);
        match (self.failure(), in_flight) {
            (None, 0) => Ok(()),
            (failure, requests) => Err(StillOwned { failure, requests, buffers }),
        }
    }

    fn commit_is_idle(&self) -> bool {
        self.commit.with(self.engine.platform, |commit| commit.is_idle())
    }

    /// Ends the use of a volume: [`Store::settle`]. What was not committed is gone, as after a crash.
    ///
    /// # Errors
    /// As [`Store::settle`].
    pub fn unmount(self) -> Result<(), Error> {
        self.engine.no_more_workers.store(true, Ordering::Release);
        self.settle()
    }
}
