//! A device with a clock of its own: every write and every flush takes a fixed number of ticks, one after the other.
#![forbid(unsafe_code)]

use arenite_core::{Completion, Device, DeviceGeometry, FlushTag, Request, RequestKind};
use arenite_shim::MemDevice;
use std::sync::atomic::{AtomicU64, Ordering};

/// A disk in memory that counts ticks.
pub struct TimedDevice<'m> {
    disk: MemDevice<'m>,
    now: AtomicU64,
}

impl<'m> TimedDevice<'m> {
    /// Ticks of one block that is written.
    pub const WRITE_TICKS: u64 = 20;
    /// Ticks of a flush.
    pub const FLUSH_TICKS: u64 = 1000;

    /// Starts at tick 0.
    pub fn new(disk: MemDevice<'m>) -> Self {
        Self { disk, now: AtomicU64::new(0) }
    }

    /// Ticks that have passed.
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }
}

impl<'m> Device<'m> for TimedDevice<'m> {
    fn geometry(&self) -> DeviceGeometry {
        self.disk.geometry()
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        self.disk.submit(request)
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.disk.flush(tag)
    }

    fn poll(&self) -> Option<Completion<'m>> {
        let done = self.disk.poll()?;
        let ticks = match &done {
            Completion::Flush(..) => Self::FLUSH_TICKS,
            Completion::Transfer(request, _) if request.kind() == RequestKind::Write => {
                Self::WRITE_TICKS * request.segments() as u64
            }
            Completion::Transfer(..) => 0,
        };
        self.now.fetch_add(ticks, Ordering::Relaxed);
        Some(done)
    }
}
