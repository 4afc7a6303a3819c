//! A simulated disk for the tests of the store: everything that the contract of `arenite_core::device` allows a disk to
//! do, and some of what it forbids.
//!
//! ```text
//!   submit, flush --> in flight --> completed in any order (or in order) by poll
//!                  \-> held, until released (a request that takes its time)
//! ```
//!
//! - a volatile cache, whose content survives a restart of the kernel but not a power failure ([`Media`]);
//! - requests that complete in any order, late, or after all others ([`Disk::hold`]);
//! - discards, after which any part of the range is lost;
//! - failures, after which any subset of the sectors of a write is there ([`Disk::fail`]);
//! - against the contract: reads that return what lies elsewhere, or altered bytes ([`Disk::misread`]), and
//!   completions of flushes that nobody asked for ([`Disk::stray_flush_after`]);
//! - crashes: at random moments the disk notes what would be left ([`Disk::crash_every`]).
//!
//! Everything random comes from a seed, so that each run of a single thread is repeatable.

// Each test file uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod image;
mod media;
mod volume;

pub use media::{Media, SectorWrite, SECTOR};
pub use volume::*;

use arenite_core::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

/// Requests that the disk takes at once.
pub const DEPTH: usize = 6;

/// A small, fast generator of random numbers (SplitMix64).
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, or 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Takes a random element out of a list.
    pub fn take<T>(&mut self, list: &mut Vec<T>) -> Option<T> {
        (!list.is_empty()).then(|| list.swap_remove(self.below(list.len() as u64) as usize))
    }
}

/// What the disk keeps to itself, from the moment that it is told so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// Nothing.
    Nothing,
    /// All that is submitted.
    Everything,
    /// Writes that touch the block at this byte address.
    WritesOf(u64),
    /// Reads of the block at this byte address.
    ReadsOf(u64),
    /// One flush, after so many others.
    Flush(u32),
}

/// How a read goes wrong without an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misread {
    /// It returns what lies at this byte address.
    From(u64),
    /// These eight bytes differ, that far into the block.
    Bytes(usize, u64),
}

/// A moment at which the machine might have died, and what would have been left.
pub struct Crash {
    /// The medium after a power failure.
    pub power: Vec<u8>,
    /// The disk after a restart of the kernel.
    pub restart: Media,
    /// The newest commit that was acknowledged, and the newest that was begun ([`Disk::note`]).
    pub span: (u64, u64),
}

enum Op<'m> {
    Transfer(Request<'m>),
    /// A flush, and how many of the unflushed sectors it covers.
    Flush(FlushTag, usize),
}

struct Inner<'m> {
    media: Media,
    rng: Rng,
    in_flight: VecDeque<Op<'m>>,
    held: Vec<Op<'m>>,
    hold: Hold,
    /// Polls that find nothing before the held requests complete by themselves.
    patience: u64,
    ready: VecDeque<Completion<'m>>,
    /// Completions until the failing one, if there is to be one, and how many fail from there on.
    failing: Option<(u64, DeviceError)>,
    stray: Option<(u64, FlushTag)>,
    misread: Option<(u64, Misread)>,
    lies: u32,
    crash_every: u64,
    crashes: Vec<Crash>,
    span: (u64, u64),
    writes: Vec<u64>,
    completed: u64,
}

/// The disk.
pub struct Disk<'m> {
    geometry: DeviceGeometry,
    /// Complete in the order of submission, and at once.
    in_order: bool,
    inner: Mutex<Inner<'m>>,
}

/// The sectors that a request writes. What is discarded may be anything afterwards.
fn sectors(request: &Request<'_>) -> Vec<SectorWrite> {
    let mut at = request.addr() as usize;
    let mut out = Vec::new();
    if request.kind() == RequestKind::Discard {
        let end = at + request.len_bytes() as usize;
        return (at..end).step_by(SECTOR).map(|at| SectorWrite { at, bytes: [0xdb; SECTOR] }).collect();
    }
    for part in request.buffers().into_iter().flatten().flat_map(|buffer| buffer.chunks_exact(SECTOR)) {
        out.push(SectorWrite { at, bytes: part.try_into().unwrap() });
        at += SECTOR;
    }
    out
}

impl<'m> Disk<'m> {
    /// A disk that completes requests in any order, and now and then nothing.
    pub fn new(media: Media, seed: u64) -> Self {
        Self::build(media, seed, false)
    }

    /// A disk that completes requests in their order, as soon as it is asked.
    pub fn in_order(media: Media) -> Self {
        Self::build(media, 1, true)
    }

    fn build(media: Media, seed: u64, in_order: bool) -> Self {
        let geometry = DeviceGeometry {
            len_bytes: media.view().len() as u64,
            logical_sector_len_bytes: SECTOR as u32,
            physical_sector_len_bytes: SECTOR as u32,
            max_transfer_len_bytes: 1 << 20,
            max_segments: 16,
            queue_depth: DEPTH as u16,
            read_only: false,
            volatile_cache: true,
            discard: false,
        };
        let inner = Inner {
            media,
            rng: Rng(seed),
            in_flight: VecDeque::new(),
            held: Vec::new(),
            hold: Hold::Nothing,
            patience: u64::MAX,
            ready: VecDeque::new(),
            failing: None,
            stray: None,
            misread: None,
            lies: 0,
            crash_every: 0,
            crashes: Vec::new(),
            span: (0, 0),
            writes: Vec::new(),
            completed: 0,
        };
        Self { geometry, in_order, inner: Mutex::new(inner) }
    }

    /// The same disk, saying something else about itself.
    pub fn with_geometry(mut self, change: impl FnOnce(&mut DeviceGeometry)) -> Self {
        change(&mut self.geometry);
        self
    }

    fn lock(&self) -> MutexGuard<'_, Inner<'m>> {
        self.inner.lock().unwrap()
    }

    /// A copy of medium and cache.
    pub fn media(&self) -> Media {
        self.lock().media.clone()
    }

    /// Medium and cache, when the disk is needed no more.
    pub fn into_media(self) -> Media {
        self.inner.into_inner().unwrap().media
    }

    /// Shows medium and cache.
    pub fn look<R>(&self, look: impl FnOnce(&Media) -> R) -> R {
        look(&self.lock().media)
    }

    /// Changes what is on the medium.
    pub fn edit(&self, edit: impl FnOnce(&mut [u8])) {
        self.lock().media.edit(edit);
    }

    /// Keeps some of what is submitted from now on.
    pub fn hold(&self, hold: Hold) {
        self.lock().hold = hold;
    }

    /// Completes what is held by itself after so many polls that find nothing.
    pub fn release_after(&self, polls: u64) {
        self.lock().patience = polls;
    }

    /// Ends what is held, and holds nothing any more.
    pub fn release(&self, result: Result<(), DeviceError>) {
        self.lock().release(result);
    }

    /// Requests and flushes that are held.
    pub fn held(&self) -> usize {
        self.lock().held.len()
    }

    /// Whether a flush is in flight.
    pub fn has_flush(&self) -> bool {
        self.lock().in_flight.iter().any(|op| matches!(op, Op::Flush(..)))
    }

    /// Fails the completion after `after` more, and all that follow, until told otherwise.
    pub fn fail(&self, failing: Option<(u64, DeviceError)>) {
        self.lock().failing = failing;
    }

    /// Answers reads of the block at `addr` wrongly.
    pub fn misread(&self, lie: Option<(u64, Misread)>) {
        self.lock().misread = lie;
    }

    /// Reads that were answered wrongly.
    pub fn lies(&self) -> u32 {
        self.lock().lies
    }

    /// Delivers the completion of a flush that nobody asked for at the poll after `polls` more.
    pub fn stray_flush_after(&self, polls: u64, tag: FlushTag) {
        self.lock().stray = Some((polls, tag));
    }

    /// Notes at one of so many events what a crash would leave.
    pub fn crash_every(&self, events: u64) {
        self.lock().crash_every = events;
    }

    /// What was noted.
    pub fn take_crashes(&self) -> Vec<Crash> {
        core::mem::take(&mut self.lock().crashes)
    }

    /// Says which commit is acknowledged, and which is begun, for what is noted from now on.
    pub fn note(&self, acknowledged: Option<u64>, begun: u64) {
        let mut inner = self.lock();
        inner.span = (acknowledged.unwrap_or(inner.span.0), begun);
    }

    /// Byte addresses of the write requests since this was asked last, in the order of submission.
    pub fn take_writes(&self) -> Vec<u64> {
        core::mem::take(&mut self.lock().writes)
    }

    /// Completions so far.
    pub fn completed(&self) -> u64 {
        self.lock().completed
    }
}

impl<'m> Inner<'m> {
    fn is_full(&self) -> bool {
        self.in_flight.len() + self.held.len() >= DEPTH
    }

    fn is_to_hold(&mut self, op: &Op<'m>) -> bool {
        match (self.hold, op) {
            (Hold::Everything, _) => true,
            (Hold::WritesOf(addr), Op::Transfer(request)) => {
                let range = request.addr()..request.addr() + request.len_bytes();
                request.kind() == RequestKind::Write && range.contains(&addr)
            }
            (Hold::ReadsOf(addr), Op::Transfer(request)) => {
                request.kind() == RequestKind::Read && request.addr() == addr
            }
            (Hold::Flush(0), Op::Flush(..)) => {
                self.hold = Hold::Nothing;
                true
            }
            (Hold::Flush(others), Op::Flush(..)) => {
                self.hold = Hold::Flush(others - 1);
                false
            }
            _ => false,
        }
    }

    fn accept(&mut self, op: Op<'m>) {
        if let Op::Transfer(request) = &op {
            if request.kind() == RequestKind::Write {
                self.writes.push(request.addr());
            }
        }
        if self.is_to_hold(&op) {
            self.held.push(op);
        } else {
            self.in_flight.push_back(op);
        }
        self.maybe_crash();
    }

    fn release(&mut self, result: Result<(), DeviceError>) {
        self.hold = Hold::Nothing;
        for op in core::mem::take(&mut self.held) {
            let done = self.complete(op, result);
            self.ready.push_back(done);
        }
    }

    /// A stray completion, if one is due.
    fn take_stray(&mut self) -> Option<Completion<'m>> {
        let (polls, tag) = self.stray.take()?;
        match polls.checked_sub(1) {
            Some(left) => self.stray = Some((left, tag)),
            None => return Some(Completion::Flush(tag, Ok(()))),
        }
        None
    }

    fn next_op(&mut self, in_order: bool) -> Option<Op<'m>> {
        if in_order {
            return self.in_flight.pop_front();
        }
        if self.in_flight.is_empty() || self.rng.below(3) == 0 {
            return None;
        }
        let index = self.rng.below(self.in_flight.len() as u64) as usize;
        self.in_flight.swap_remove_back(index)
    }

    /// The result of the next completion.
    fn next_result(&mut self) -> Result<(), DeviceError> {
        match &mut self.failing {
            Some((0, error)) => Err(*error),
            Some((after, _)) => {
                *after -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn complete(&mut self, op: Op<'m>, result: Result<(), DeviceError>) -> Completion<'m> {
        self.completed += 1;
        match op {
            Op::Flush(tag, covered) => {
                if result.is_ok() {
                    self.make_durable(covered);
                }
                Completion::Flush(tag, result)
            }
            Op::Transfer(mut request) => {
                let is_whole = result.is_ok() && request.kind() == RequestKind::Write;
                for sector in sectors(&request) {
                    // Of a write that fails, and of what is discarded, any part may be there.
                    if is_whole || self.rng.below(2) == 0 {
                        self.media.write(sector);
                    }
                }
                if result.is_ok() {
                    self.read(&mut request);
                }
                Completion::Transfer(request, result)
            }
        }
    }

    fn make_durable(&mut self, covered: usize) {
        self.media.make_durable(covered);
        for op in self.in_flight.iter_mut().chain(&mut self.held) {
            if let Op::Flush(_, count) = op {
                *count = count.saturating_sub(covered);
            }
        }
    }

    fn read(&mut self, request: &mut Request<'m>) {
        let addr = request.addr();
        let lie = self.misread.filter(|(at, _)| *at == addr && request.kind() == RequestKind::Read);
        let mut at = match lie {
            Some((_, Misread::From(other))) => other as usize,
            _ => addr as usize,
        };
        self.lies += u32::from(lie.is_some());
        for buffer in request.buffers_mut().into_iter().flatten() {
            buffer.copy_from_slice(&self.media.view()[at..][..buffer.len()]);
            if let Some((_, Misread::Bytes(offset, value))) = lie {
                buffer[offset..][..8].copy_from_slice(&value.to_be_bytes());
            }
            at += buffer.len();
        }
    }

    fn maybe_crash(&mut self) {
        if self.crash_every == 0 || self.rng.below(self.crash_every) != 0 {
            return;
        }
        let mut in_flight = Vec::new();
        for op in self.in_flight.iter().chain(&self.held) {
            if let Op::Transfer(request) = op {
                in_flight.extend(sectors(request));
            }
        }
        let mut rng = Rng(self.rng.next());
        let power = self.media.after_power_failure(&in_flight, &mut rng);
        let restart = self.media.after_restart(in_flight, &mut rng);
        self.crashes.push(Crash { power, restart, span: self.span });
    }
}

impl<'m> Device<'m> for Disk<'m> {
    fn geometry(&self) -> DeviceGeometry {
        self.geometry
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        let mut inner = self.lock();
        if inner.is_full() {
            return Err(request);
        }
        inner.accept(Op::Transfer(request));
        Ok(())
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        let mut inner = self.lock();
        if inner.is_full() {
            return Err(tag);
        }
        let covered = inner.media.unflushed().len();
        inner.accept(Op::Flush(tag, covered));
        Ok(())
    }

    fn poll(&self) -> Option<Completion<'m>> {
        let mut inner = self.lock();
        if std::thread::panicking() {
            // A test failed; the store that is dropped now waits for its requests.
            inner.release(Ok(()));
        }
        if let Some(done) = inner.take_stray() {
            return Some(done);
        }
        if let Some(done) = inner.ready.pop_front() {
            return Some(done);
        }
        let Some(op) = inner.next_op(self.in_order) else {
            inner.patience = inner.patience.saturating_sub(1);
            if inner.patience == 0 {
                inner.patience = u64::MAX;
                inner.release(Ok(()));
            }
            return None;
        };
        let result = inner.next_result();
        let done = inner.complete(op, result);
        inner.maybe_crash();
        Some(done)
    }
}
