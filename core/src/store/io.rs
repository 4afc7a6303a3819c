//! To the device and back: submitting, completing, and the end of a store.

use super::Store;
use crate::commit::Action;
use crate::device::{drain, Completion, DeviceError, Payload, Purpose, Request, RequestKind};
use crate::error::{DeviceOp, Error};
use crate::pool::{Shared, SharedChain};
use crate::queue::Entry;
use crate::sabotage::{sabotaged, Switch};
use crate::sync::Ordering;
use crate::trace::trace;

/// Completions that one step takes from the device at most.
const POLL_BUDGET: usize = 32;
/// Requests that one step submits from the sync queue at most.
const SUBMIT_BUDGET: usize = 16;
/// Requests that the device had no room for, kept to be offered again.
const UNSENT_MAX: usize = 16;

/// Requests waiting to be offered to the device again.
pub(crate) struct Unsent<'m> {
    /// The one that waits longest comes first.
    pub(super) requests: heapless::Deque<Request<'m>, UNSENT_MAX>,
    /// Callers that may still add one each.
    pub(super) promised: usize,
}

impl Unsent<'_> {
    pub(super) fn new() -> Self {
        Self { requests: heapless::Deque::new(), promised: 0 }
    }
}

impl<'d, 'm> Store<'d, 'm> {
    /// Does a bounded piece of work; `false` if there was none. Call it while waiting for anything.
    pub fn step(&self) -> bool {
        let mut worked = false;
        for _ in 0..POLL_BUDGET {
            let Some(completion) = self.device.poll() else { break };
            self.complete(completion);
            worked = true;
        }
        worked |= self.reap_limbo();
        worked |= self.submit_unsent();
        worked |= self.submit_queued();
        worked | self.step_commit()
    }

    /// Offers a request; gives it back if the device has no room.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    pub(super) fn submit(&self, request: Request<'m>) -> Option<Request<'m>> {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        match self.device.submit(request) {
            Ok(()) => None,
            Err(refused) => {
                self.in_flight.fetch_sub(1, Ordering::AcqRel);
                Some(refused)
            }
        }
    }

    /// Reserves a place among the unsent requests, so that a refused one is never without one.
    pub(super) fn promise(&self) -> bool {
        self.unsent.with(self.engine.platform, |unsent| {
            let room = unsent.requests.len() + unsent.promised < UNSENT_MAX;
            unsent.promised += usize::from(room);
            room
        })
    }

    pub(super) fn keep_promise(&self, refused: Option<Request<'m>>) {
        self.unsent.with(self.engine.platform, |unsent| {
            unsent.promised -= 1;
            if let Some(request) = refused {
                // There is room: it was promised.
                let kept = unsent.requests.push_back(request);
                debug_assert!(kept.is_ok());
            }
        });
    }

    /// Keeps the promise for a request that was the first of the unsent ones; if it was refused again, it stays the
    /// first.
    fn put_back(&self, refused: Option<Request<'m>>) {
        self.unsent.with(self.engine.platform, |unsent| {
            unsent.promised -= 1;
            if let Some(request) = refused {
                let kept = unsent.requests.push_front(request);
                debug_assert!(kept.is_ok());
            }
        });
    }

    #[cfg_attr(target_pointer_width = "32", inline(never))]
    pub(super) fn submit_unsent(&self) -> bool {
        let mut worked = false;
        for _ in 0..UNSENT_MAX {
            let next = self.unsent.with(self.engine.platform, |unsent| {
                let request = unsent.requests.pop_front()?;
                unsent.promised += 1;
                Some(request)
            });
            let Some(request) = next else { break };
            if self.engine.has_failed() && request.kind() == RequestKind::Write {
                // Nothing is written any more.
                self.complete_transfer(request, Err(DeviceError::Gone));
                self.keep_promise(None);
                continue;
            }
            let refused = self.submit(request);
            let full = refused.is_some();
            self.put_back(refused);
            if full {
                break;
            }
            worked = true;
        }
        worked
    }

    /// Writes queued blocks, neighbours in one request.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    pub(super) fn submit_queued(&self) -> bool {
        let mut worked = false;
        for _ in 0..SUBMIT_BUDGET {
            let full = self.in_flight.load(Ordering::Relaxed) >= u32::from(self.geometry.queue_depth.max(1));
            if full || self.has_half() || !self.promise() {
                break;
            }
            let request = self.next_queued();
            let any = request.is_some();
            let refused = request.and_then(|request| self.submit(request));
            let full = refused.is_some();
            self.keep_promise(refused);
            worked |= any && !full;
            if !any || full {
                break;
            }
        }
        worked
    }

    /// Whether the device has half of the buffers for queued blocks. The others stay to be filled meanwhile: if it had
    /// them all it would be no faster, and whoever waits for a buffer would queue and submit no more blocks than the
    /// next request gives back, so that requests grew smaller and smaller.
    fn has_half(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) >= (self.engine.cache.len() / 2).max(1)
    }

    /// The next queued block that `wanted` accepts; cancelled ones and those of a failed store are dropped on the way.
    pub(super) fn pop_queued(&self, wanted: impl Fn(&Entry) -> bool) -> Option<(Entry, Shared<'m>)> {
        loop {
            let entry = self.engine.queue.with(self.engine.platform, |queue| {
                queue.peek().copied().filter(&wanted)?;
                queue.pop()
            })?;
            let Some(share) = self.engine.pool.by_link(entry.frame_link).and_then(|id| self.engine.pool.unpark(id))
            else {
                continue;
            };
            if !self.engine.cache.is_cancelled(&share, entry.block) && !self.engine.has_failed() {
                return Some((entry, share));
            }
            self.written(share, entry.block, (entry.generation & 1) as u8);
        }
    }

    pub(super) fn next_queued(&self) -> Option<Request<'m>> {
        let (first, share) = self.pop_queued(|_| true)?;
        let parity = (first.generation & 1) as u8;
        let block_len = self.engine.size.len_bytes();
        let Ok(mut chain) = SharedChain::new(share) else { return None };
        let by_bytes = self.geometry.max_transfer_len_bytes as usize / block_len;
        let most = by_bytes.min(usize::from(self.geometry.max_segments)).max(1) as u32;
        while chain.len() < most {
            let next = first.block + chain.len();
            let neighbour = |entry: &Entry| entry.generation == first.generation && entry.block == next;
            let Some((_, share)) = self.pop_queued(neighbour) else { break };
            if chain.push(share).is_err() {
                break;
            }
        }
        self.under_way.fetch_add(chain.len(), Ordering::Relaxed);
        self.written_blocks.fetch_add(chain.len(), Ordering::Relaxed);
        self.written_requests.fetch_add(1, Ordering::Relaxed);
        let addr = u64::from(first.block) << self.engine.size.shift();
        trace!(self.engine, Submitted, addr);
        Some(Request::write(addr, chain, Purpose::Queued { parity }))
    }

    /// A queued block needs no more writing.
    pub(super) fn written(&self, share: Shared<'m>, block: u32, parity: u8) {
        if self.engine.cache.written(&share, block) {
            if let Some(place) = self.engine.arenas.locate_block(block) {
                self.retire(place);
            }
        }
        trace!(self.engine, Written, u64::from(block) << self.engine.size.shift());
        drop(share);
        self.engine.pending[usize::from(parity & 1)].fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn complete(&self, completion: Completion<'m>) {
        // A device may still deliver what an earlier store has asked for; that is none of our business.
        match completion {
            Completion::Flush(tag, result) => {
                if !self.commit.with(self.engine.platform, |commit| commit.take_flush(tag)) {
                    return;
                }
                self.complete_flush(result);
            }
            Completion::Transfer(request, result) => {
                if !request.is_of(&self.engine.pool) {
                    return;
                }
                self.complete_transfer(request, result);
            }
        }
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn complete_flush(&self, result: Result<(), DeviceError>) {
        match result {
            Err(cause) if !sabotaged(Switch::IgnoreFlushError) => {
                self.engine.fail(Error::Device { op: DeviceOp::Flush, addr: 0, cause });
            }
            _ => self.commit.with(self.engine.platform, |commit| commit.flush_done(self.engine)),
        }
    }

    pub(super) fn complete_transfer(&self, request: Request<'m>, result: Result<(), DeviceError>) {
        let addr = request.addr();
        let result = if sabotaged(Switch::IgnoreWriteError) && matches!(request.payload, Payload::Shares(_)) {
            Ok(())
        } else {
            result
        };
        match (request.payload, request.purpose) {
            // Whether a discard succeeds is of no consequence: nobody relies on what the range reads as.
            (Payload::Nothing(..), _) => self.commit.with(self.engine.platform, |commit| commit.write_done()),
            (Payload::Slots(mut chain), Purpose::CacheRead) => {
                while let Some(slot) = chain.pop() {
                    #[cfg(feature = "trace")]
                    if slot.meta().is_in_table() && result.is_ok() {
                        trace!(self.engine, Cached, addr);
                    }
                    self.engine.cache.finish_read(slot, result);
                }
            }
            (Payload::Slots(mut chain), _) => match (chain.pop(), result) {
                (Some(slot), Ok(())) => self.commit.with(self.engine.platform, |commit| commit.read_done(slot)),
                (_, Err(cause)) => drop(self.engine.fail(Error::Device { op: DeviceOp::Read, addr, cause })),
                (None, Ok(())) => {}
            },
            (Payload::Shares(mut chain), purpose) => {
                if let Err(cause) = result {
                    self.engine.fail(Error::Device { op: DeviceOp::Write, addr, cause });
                }
                if matches!(purpose, Purpose::Queued { .. }) {
                    self.under_way.fetch_sub(chain.len(), Ordering::Relaxed);
                }
                let mut block = (addr >> self.engine.size.shift()) as u32;
                while let Some(share) = chain.pop() {
                    if let Purpose::Queued { parity } = purpose {
                        self.written(share, block, parity);
                    }
                    block += 1;
                }
                if purpose == Purpose::Commit && result.is_ok() {
                    self.commit.with(self.engine.platform, |commit| commit.write_done());
                }
            }
        }
    }

    /// Advances the commit by a few actions.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    pub(super) fn step_commit(&self) -> bool {
        let mut worked = false;
        for _ in 0..SUBMIT_BUDGET {
            let platform = self.engine.platform;
            match self.commit.with(platform, |commit| commit.next(self.engine)) {
                Action::Wait => break,
                Action::Worked => {}
                Action::Submit(request) => {
                    let refused = self.submit(request);
                    let full = refused.is_some();
                    self.commit.with(platform, |commit| commit.handed_out(refused));
                    if full {
                        break;
                    }
                }
                Action::Flush(tag) => {
                    self.in_flight.fetch_add(1, Ordering::AcqRel);
                    let refused = self.device.flush(tag).is_err();
                    self.commit.with(platform, |commit| match refused {
                        true => commit.flush_refused(),
                        false => commit.handed_out(None),
                    });
                    if refused {
                        self.in_flight.fetch_sub(1, Ordering::AcqRel);
                        break;
                    }
                }
            }
            worked = true;
        }
        worked
    }
}

impl Drop for Store<'_, '_> {
    /// Waits until the device has given every buffer back, and submits nothing more: a write that is still on its way
    /// must not land on what the next store puts there. Every request ends in finite time (rule 5 of the contract); a
    /// device that breaks that rule is given up after a bounded wait.
    fn drop(&mut self) {
        if self.abandoned.load(Ordering::Acquire) || self.in_flight.load(Ordering::Acquire) == 0 {
            return;
        }
        drain(self.device, self.engine.platform, &mut |completion| {
            self.complete(completion);
            self.in_flight.load(Ordering::Acquire) != 0
        });
    }
}
