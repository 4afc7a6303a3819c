//! A device that fails on demand.
//!
//! It wraps another one and counts the calls of each kind. A [`Fault`] names a call by its number and says what happens
//! to it; completions can also be delivered late and in another order, as a seed decides.
//!
//! # Lock order
//! The lock here is never held while the wrapped device is called.
#![forbid(unsafe_code)]

use crate::rng::{fill, Rng};
use arenite_core::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Kinds of calls, each counted on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A request that reads.
    Read,
    /// A request that writes.
    Write,
    /// A flush.
    Flush,
    /// A request that discards.
    Discard,
}

impl Op {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Flush, Self::Discard];
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It completes with the error and does nothing.
    Refuse(DeviceError),
    /// It is carried out and then completes with the error.
    FailLate(DeviceError),
    /// It completes as if all were well, a read with wrong bytes in its buffers. Changes nothing else.
    Garbage,
    /// It is carried out, but its completion is held back until [`Faulty::release`].
    Withhold,
}

/// One fault: which calls it meets, and what happens to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Kind of the calls.
    pub op: Op,
    /// Number of the first call, from 0.
    pub index: u64,
    /// Whether all later calls of that kind meet it too.
    pub sticky: bool,
    /// What happens.
    pub effect: Effect,
}

/// A completion that is not to be given on as it comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Request { addr: u64, kind: RequestKind, effect: Effect },
    Flush { tag: FlushTag, effect: Effect },
}

struct State<'m> {
    faults: Vec<Fault>,
    counts: [u64; 4],
    marks: Vec<Mark>,
    /// Completions for the next polls.
    ready: Vec<Completion<'m>>,
    withheld: Vec<Completion<'m>>,
    order: Option<Rng>,
}

/// A device with faults.
pub struct Faulty<'m, D> {
    inner: D,
    state: Mutex<State<'m>>,
}

impl<'m, D: Device<'m>> Faulty<'m, D> {
    /// Wraps a device. Without faults, it behaves as the device itself.
    pub fn new(inner: D, faults: Vec<Fault>) -> Self {
        let state =
            State { faults, counts: [0; 4], marks: Vec::new(), ready: Vec::new(), withheld: Vec::new(), order: None };
        Self { inner, state: Mutex::new(state) }
    }

    /// From now on delivers completions late and in an order that follows from `seed`.
    pub fn reorder(&self, seed: u64) {
        self.state().order = Some(Rng::new(seed));
    }

    /// The wrapped device.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// Replaces the faults. Calls are counted on.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.state().faults = faults;
    }

    /// Calls of one kind so far.
    pub fn calls(&self, op: Op) -> u64 {
        self.state().counts[op as usize]
    }

    /// Completions that are held back.
    pub fn withheld(&self) -> usize {
        self.state().withheld.len()
    }

    /// Delivers what was held back, with this result instead of its own.
    pub fn release(&self, result: Result<(), DeviceError>) {
        let mut state = self.state();
        let State { ready, withheld, .. } = &mut *state;
        ready.extend(withheld.drain(..).map(|held| match held {
            Completion::Transfer(request, _) => Completion::Transfer(request, result),
            Completion::Flush(tag, _) => Completion::Flush(tag, result),
        }));
    }

    fn state(&self) -> MutexGuard<'_, State<'m>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'m> State<'m> {
    /// What happens to the call of this kind that would be the next one.
    fn effect(&self, op: Op) -> Option<Effect> {
        let number = self.counts[op as usize];
        let meets =
            |fault: &&Fault| fault.op == op && (fault.index == number || (fault.sticky && fault.index < number));
        self.faults.iter().find(meets).map(|fault| fault.effect)
    }

    /// Counts a call that the wrapped device took, or forgets what was to happen to it.
    fn entered(&mut self, op: Op, mark: Option<Mark>, taken: bool) {
        if taken {
            self.counts[op as usize] += 1;
        } else if let Some(at) = self.marks.iter().position(|known| Some(*known) == mark) {
            self.marks.swap_remove(at);
        }
    }

    fn unmark(&mut self, of: impl Fn(&Mark) -> Option<Effect>) -> Option<Effect> {
        let (at, effect) = self.marks.iter().enumerate().find_map(|(at, mark)| Some((at, of(mark)?)))?;
        self.marks.swap_remove(at);
        Some(effect)
    }

    /// Files a completion of the wrapped device.
    fn take_in(&mut self, completion: Completion<'m>) {
        let effect = match &completion {
            Completion::Transfer(request, _) => self.unmark(|mark| match *mark {
                Mark::Request { addr, kind, effect } if addr == request.addr() && kind == request.kind() => {
                    Some(effect)
                }
                _ => None,
            }),
            Completion::Flush(found, _) => self.unmark(|mark| match *mark {
                Mark::Flush { tag, effect } if tag == *found => Some(effect),
                _ => None,
            }),
        };
        let completion = match (effect, completion) {
            (Some(Effect::FailLate(error)), Completion::Transfer(request, _)) => {
                Completion::Transfer(request, Err(error))
            }
            (Some(Effect::FailLate(error)), Completion::Flush(tag, _)) => Completion::Flush(tag, Err(error)),
            (Some(Effect::Garbage), Completion::Transfer(mut request, result)) => {
                let seed = request.addr() ^ 0x6765;
                request.buffers_mut().into_iter().flatten().for_each(|bytes| fill(seed, bytes));
                Completion::Transfer(request, result)
            }
            (_, completion) => completion,
        };
        let target = if effect == Some(Effect::Withhold) { &mut self.withheld } else { &mut self.ready };
        target.push(completion);
    }

    fn give_out(&mut self) -> Option<Completion<'m>> {
        if self.ready.is_empty() {
            return None;
        }
        let count = self.ready.len() as u64;
        let at = match &mut self.order {
            None => 0,
            Some(rng) => {
                if rng.chance(1, 4) {
                    return None;
                }
                rng.below(count) as usize
            }
        };
        Some(self.ready.remove(at))
    }
}

impl<'m, D: Device<'m>> Device<'m> for Faulty<'m, D> {
    fn geometry(&self) -> DeviceGeometry {
        self.inner.geometry()
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        let kind = request.kind();
        let op = match kind {
            RequestKind::Read => Op::Read,
            RequestKind::Discard => Op::Discard,
            _ => Op::Write,
        };
        let effect = self.state().effect(op);
        if let Some(Effect::Refuse(error)) = effect {
            let mut state = self.state();
            state.counts[op as usize] += 1;
            state.ready.push(Completion::Transfer(request, Err(error)));
            return Ok(());
        }
        let addr = request.addr();
        let mark = effect.map(|effect| Mark::Request { addr, kind, effect });
        self.state().marks.extend(mark);
        let result = self.inner.submit(request);
        self.state().entered(op, mark, result.is_ok());
        result
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        let effect = self.state().effect(Op::Flush);
        if let Some(Effect::Refuse(error)) = effect {
            let mut state = self.state();
            state.counts[Op::Flush as usize] += 1;
            state.ready.push(Completion::Flush(tag, Err(error)));
            return Ok(());
        }
        let mark = effect.map(|effect| Mark::Flush { tag, effect });
        self.state().marks.extend(mark);
        let result = self.inner.flush(tag);
        self.state().entered(Op::Flush, mark, result.is_ok());
        result
    }

    fn poll(&self) -> Option<Completion<'m>> {
        let reordering = self.state().order.is_some();
        while let Some(completion) = self.inner.poll() {
            self.state().take_in(completion);
            if !reordering {
                break;
            }
        }
        self.state().give_out()
    }
}

impl<D> std::fmt::Debug for Faulty<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faulty").finish_non_exhaustive()
    }
}
