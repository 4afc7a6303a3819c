//! A disk that waits, as a device that does not.
//!
//! ```text
//!   submit, flush        put one job into the mailbox; a full one gives it back
//!   poll                 takes disk and job out, carries the job out without the lock, puts the disk back
//! ```
//!
//! Invariants: the disk is in the mailbox or in the hands of one `poll`, so it is used by one CPU at a time. A flush is
//! carried out only when no transfer waits, so it covers all that was delivered before it was asked for.
//!
//! Lock order: the mailbox is a leaf, held for a few moves, never while the disk works.
#![forbid(unsafe_code)]

use crate::jobs::{check, Job, Jobs};
use crate::FlushDisk;
use arenite_core::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};
use core::fmt;
use spin::Mutex;

struct Mailbox<'m, D> {
    /// Gone while a `poll` works with it.
    disk: Option<D>,
    jobs: Jobs<'m>,
}

/// A [`FlushDisk`] as the device of a store. See the head of the crate for what that costs.
pub struct Blocking<'m, D> {
    geometry: DeviceGeometry,
    mailbox: Mutex<Mailbox<'m, D>>,
}

impl<D: FlushDisk> Blocking<'_, D> {
    /// A device that uses `disk` whenever it is polled.
    pub fn new(disk: D) -> Self {
        let geometry = DeviceGeometry { queue_depth: 1, discard: false, ..disk.geometry() };
        Self { geometry, mailbox: Mutex::new(Mailbox { disk: Some(disk), jobs: Jobs::default() }) }
    }

    /// The disk back, if no request is under way.
    pub fn into_disk(self) -> Option<D> {
        let mailbox = self.mailbox.into_inner();
        mailbox.disk.filter(|_| mailbox.jobs.is_empty())
    }

    /// Carries a transfer out, buffer by buffer.
    fn transfer(&self, disk: &mut D, request: &mut Request<'_>) -> Result<(), DeviceError> {
        check(&self.geometry, request)?;
        let mut addr = request.addr();
        match request.kind() {
            RequestKind::Read => {
                for buffer in request.buffers_mut().into_iter().flatten() {
                    disk.read(addr, buffer)?;
                    addr += buffer.len() as u64;
                }
                Ok(())
            }
            RequestKind::Write => {
                for buffer in request.buffers().into_iter().flatten() {
                    disk.write(addr, buffer)?;
                    addr += buffer.len() as u64;
                }
                Ok(())
            }
            _ => Err(DeviceError::Unsupported),
        }
    }
}

impl<'m, D> Mailbox<'m, D> {
    /// Takes the disk and what is to be done with it. A job without a disk stays where it is.
    fn take(&mut self) -> Option<(D, Job<'m>)> {
        if self.jobs.is_empty() {
            return None;
        }
        let disk = self.disk.take()?;
        self.jobs.take().map(|job| (disk, job))
    }
}

impl<'m, D: FlushDisk> Device<'m> for Blocking<'m, D> {
    fn geometry(&self) -> DeviceGeometry {
        self.geometry
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        self.mailbox.lock().jobs.put_request(request)
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.mailbox.lock().jobs.put_flush(tag)
    }

    fn poll(&self) -> Option<Completion<'m>> {
        let taken = self.mailbox.lock().take();
        let (mut disk, job) = taken?;
        let done = match job {
            Job::Transfer(mut request) => {
                let result = self.transfer(&mut disk, &mut request);
                Completion::Transfer(request, result)
            }
            Job::Flush(tag) => Completion::Flush(tag, disk.flush()),
        };
        self.mailbox.lock().disk = Some(disk);
        Some(done)
    }
}

impl<D> fmt::Debug for Blocking<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}
