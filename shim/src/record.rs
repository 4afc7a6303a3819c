//! A device that writes down what happens at another one.
//!
//! A discard is recorded as a write of what the range may read as afterwards.
//!
//! The record is what the store can know: a write counts as completed when its completion was delivered, a flush covers
//! what had completed when it was issued. One [`Tape`] runs on through any number of mounts.
//!
//! The recorder also watches for two offences of the store, each of which it reports by panicking, as a test wants it:
//! bytes that change while a write is in flight, and two writes to one place in flight at once (their order would be
//! undefined).
//!
//! # Lock order
//! The tape's lock is never held while the wrapped device is called.
#![forbid(unsafe_code)]

use crate::image::ReadAt;
use crate::mem::garbage;
use crate::trace::{Event, Mark, Trace};
use arenite_core::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A write between its issue and its completion.
struct InFlight {
    first_id: u64,
    buffers: u64,
    addr: u64,
    len_bytes: u64,
}

#[derive(Default)]
struct Reel {
    events: Vec<Event>,
    /// Bytes of the writes, by number of the event that issued them, are in `events`; here is what is in flight.
    writes: Vec<InFlight>,
    flushes: Vec<(FlushTag, u64)>,
    next_id: u64,
}

/// A record in the making, shared by the recorders that write it.
#[derive(Default)]
pub struct Tape(Mutex<Reel>);

impl Tape {
    /// An empty record.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Says how far the user's commits are.
    pub fn mark(&self, mark: Mark) {
        self.reel().events.push(Event::Mark(mark));
    }

    /// Records what another recorder saw: the block server writes its events here.
    pub fn push(&self, event: Event) {
        self.reel().events.push(event);
    }

    /// What was recorded so far, on a disk that was `base` at the beginning.
    pub fn trace(&self, base: Arc<[u8]>) -> Trace {
        Trace { base, events: self.reel().events.clone() }
    }

    fn reel(&self) -> MutexGuard<'_, Reel> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reel {
    /// Records a write, one event for each buffer: a crash may tear a request between any two.
    fn issue(&mut self, addr: u64, buffers: Vec<Arc<[u8]>>) {
        let len_bytes = buffers.iter().map(|bytes| bytes.len() as u64).sum();
        let overlaps = |other: &InFlight| addr < other.addr + other.len_bytes && other.addr < addr + len_bytes;
        assert!(!self.writes.iter().any(overlaps), "two writes to {addr:#x} are in flight at once");
        self.writes.push(InFlight { first_id: self.next_id, buffers: buffers.len() as u64, addr, len_bytes });
        let mut addr = addr;
        for bytes in buffers {
            let id = self.next_id;
            self.next_id += 1;
            let next = addr + bytes.len() as u64;
            self.events.push(Event::Issue { id, addr, bytes });
            addr = next;
        }
    }

    /// Forgets a write that the device did not take.
    fn retract(&mut self, addr: u64) {
        let Some(at) = self.writes.iter().position(|write| write.addr == addr) else { return };
        let write = self.writes.swap_remove(at);
        let end = write.addr + write.len_bytes;
        self.events.retain(|event| {
            !matches!(event, Event::Issue { id, addr, .. } if *id >= write.first_id && (write.addr..end).contains(addr))
        });
    }

    fn complete(&mut self, request: &Request<'_>, result: Result<(), DeviceError>) {
        let position = self.writes.iter().position(|write| write.addr == request.addr());
        let at = position.expect("a write completed that was never issued");
        let first_id = self.writes.swap_remove(at).first_id;
        if request.kind() == RequestKind::Discard {
            self.events.push(Event::Complete { id: first_id, result });
            return;
        }
        for (id, bytes) in (first_id..).zip(request.buffers().into_iter().flatten()) {
            let issued = self.events.iter().rev().find_map(|event| match event {
                Event::Issue { id: found, bytes, .. } if *found == id => Some(bytes),
                _ => None,
            });
            assert!(issued.is_some_and(|issued| **issued == *bytes), "bytes changed while a write was in flight");
            self.events.push(Event::Complete { id, result });
        }
    }
}

fn changes_the_disk(request: &Request<'_>) -> bool {
    request.kind() != RequestKind::Read
}

/// Wraps a device and records what happens there.
#[derive(Debug)]
pub struct Recorder<D> {
    inner: D,
    tape: Option<Arc<Tape>>,
}

impl<D> Recorder<D> {
    /// Records on `tape`, behind what is there already.
    pub fn new(inner: D, tape: Arc<Tape>) -> Self {
        Self { inner, tape: Some(tape) }
    }

    /// Records nothing.
    pub fn off(inner: D) -> Self {
        Self { inner, tape: None }
    }

    /// The wrapped device.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// Forgets everything that is in flight, as a reset of the device does: it is neither carried out nor completed.
    pub fn reset(&self) {
        let Some(tape) = self.tape.as_deref() else { return };
        let mut reel = tape.reel();
        reel.flushes.clear();
        let lost: Vec<_> =
            reel.writes.drain(..).flat_map(|write| write.first_id..write.first_id + write.buffers).collect();
        reel.events.extend(lost.into_iter().map(|id| Event::Lost { id }));
    }

    /// Whether writes or flushes are recorded that are not completed.
    pub fn in_flight(&self) -> bool {
        self.tape.as_deref().is_some_and(|tape| {
            let reel = tape.reel();
            !reel.writes.is_empty() || !reel.flushes.is_empty()
        })
    }
}

impl<'m, D: Device<'m>> Device<'m> for Recorder<D> {
    fn geometry(&self) -> DeviceGeometry {
        self.inner.geometry()
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        let Some(tape) = self.tape.as_deref().filter(|_| changes_the_disk(&request)) else {
            return self.inner.submit(request);
        };
        // Recorded first: another thread may take the completion before `submit` returns.
        let buffers = match request.kind() {
            RequestKind::Discard => vec![garbage(request.addr(), request.len_bytes() as usize).into()],
            _ => request.buffers().into_iter().flatten().map(Arc::from).collect(),
        };
        tape.reel().issue(request.addr(), buffers);
        let result = self.inner.submit(request);
        if let Err(refused) = &result {
            tape.reel().retract(refused.addr());
        }
        result
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        let Some(tape) = self.tape.as_deref() else { return self.inner.flush(tag) };
        let id = {
            let mut reel = tape.reel();
            let id = reel.next_id;
            reel.next_id += 1;
            reel.flushes.push((tag, id));
            // Before the call, so that completions which arrive meanwhile do not count as covered.
            reel.events.push(Event::FlushIssue { id });
            id
        };
        let result = self.inner.flush(tag);
        if result.is_err() {
            let mut reel = tape.reel();
            reel.flushes.retain(|(_, known)| *known != id);
            reel.events.retain(|event| !matches!(event, Event::FlushIssue { id: known } if *known == id));
        }
        result
    }

    fn poll(&self) -> Option<Completion<'m>> {
        let completion = self.inner.poll()?;
        let Some(tape) = self.tape.as_deref() else { return Some(completion) };
        let mut reel = tape.reel();
        match &completion {
            Completion::Transfer(request, result) if changes_the_disk(request) => {
                reel.complete(request, *result);
            }
            Completion::Transfer(..) => {}
            Completion::Flush(tag, result) => {
                let position = reel.flushes.iter().position(|(known, _)| known == tag);
                let at = position.expect("a flush completed that was never issued");
                let (_, id) = reel.flushes.swap_remove(at);
                reel.events.push(Event::FlushComplete { id, result: *result });
            }
        }
        drop(reel);
        Some(completion)
    }
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tape").field("events", &self.reel().events.len()).finish_non_exhaustive()
    }
}

/// What was read through a [`ReadLog`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reads {
    /// Blocks read.
    pub count: u64,
    /// Depends on the addresses and bytes of all of them, and not on their order.
    pub digest: u64,
}

/// Where somebody read, in order: first byte and number of bytes.
pub type Places = Vec<(u64, u64)>;

/// Wraps a device or an image and notes what is read through it, so that images can be counted by what mount looks at.
#[derive(Debug)]
pub struct ReadLog<D> {
    inner: D,
    notes: Arc<Mutex<(Reads, Places)>>,
}

impl<D> ReadLog<D> {
    /// Wraps a device.
    pub fn new(inner: D) -> Self {
        Self { inner, notes: Arc::default() }
    }

    /// Wraps another one and notes in the same place.
    pub fn beside<E>(&self, inner: E) -> ReadLog<E> {
        ReadLog { inner, notes: Arc::clone(&self.notes) }
    }

    /// What was read from the device so far.
    pub fn reads(&self) -> Reads {
        self.notes().0
    }

    /// Where anything was read so far.
    pub fn places(&self) -> Places {
        self.notes().1.clone()
    }

    fn notes(&self) -> MutexGuard<'_, (Reads, Places)> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: ReadAt> ReadAt for ReadLog<D> {
    fn len_bytes(&self) -> u64 {
        self.inner.len_bytes()
    }

    fn read_at(&self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.notes().1.push((addr, bytes.len() as u64));
        self.inner.read_at(addr, bytes)
    }
}

impl<'m, D: Device<'m>> Device<'m> for ReadLog<D> {
    fn geometry(&self) -> DeviceGeometry {
        self.inner.geometry()
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        self.inner.submit(request)
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.inner.flush(tag)
    }

    fn poll(&self) -> Option<Completion<'m>> {
        let mut completion = self.inner.poll()?;
        if let Completion::Transfer(request, Ok(())) = &mut completion {
            if request.kind() == RequestKind::Read {
                let mut addr = request.addr();
                let mut notes = self.notes();
                for bytes in request.buffers_mut().into_iter().flatten() {
                    let sum = crate::rng::mix64(addr ^ crate::rng::mix64(arenite_core::hash::hash64(bytes)));
                    notes.0.digest = notes.0.digest.wrapping_add(sum);
                    notes.0.count += 1;
                    notes.1.push((addr, bytes.len() as u64));
                    addr += bytes.len() as u64;
                }
            }
        }
        Some(completion)
    }
}
