//! A driver whose methods are asynchronous, as a device: a task of the executor works for it.
//!
//! ```text
//!   submit, flush        put one job into the mailbox, wake the task
//!   Tasked::run          takes the job, awaits the driver, puts the completion back, wakes who waits for it
//!   poll                 takes the completion
//! ```
//!
//! So nothing spins and nothing blocks: while the disk works, the executor runs whatever else there is, or sleeps. Who
//! waits for the store steps it, then leaves its waker with [`Tasked::wake`].
//!
//! Invariants: one job is in the hands of `run` at a time, and the next is taken only when the completion of the last
//! one was fetched. A flush is carried out only when no transfer waits, so it covers all that was delivered before it
//! was asked for. Whoever left a waker since the last completion is woken by the next one.
//!
//! Lock order: the mailbox is a leaf, held for a few moves, never while the disk works or somebody is woken.
#![forbid(unsafe_code)]

use crate::jobs::{check, Job, Jobs};
use crate::{AssumeWriteThrough, FlushWith};
use arenite_core::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};
use core::fmt;
use core::future::poll_fn;
use core::task::{Poll, Waker};
use spin::{Mutex, MutexGuard};

/// Tasks that can wait at once without being woken early.
const SLEEPERS: usize = 8;

/// As [`crate::Disk`], for a driver that is awaited.
#[allow(async_fn_in_trait, reason = "for executors of one thread, as the drivers' own traits are")]
pub trait AsyncDisk {
    /// What the disk is like. Constant. `queue_depth` and `discard` do not count.
    fn geometry(&self) -> DeviceGeometry;

    /// Fills `bytes` from byte address `addr` on. Address and length are multiples of the logical sector.
    ///
    /// # Errors
    /// Whatever went wrong; `bytes` may hold anything then.
    async fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Writes `bytes` from byte address `addr` on. Ready when the disk has taken them, be it into a cache.
    ///
    /// # Errors
    /// Whatever went wrong; any part may have been written then.
    async fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError>;
}

/// As [`crate::FlushDisk`], for a driver that is awaited.
#[allow(async_fn_in_trait, reason = "for executors of one thread, as the drivers' own traits are")]
pub trait AsyncFlushDisk: AsyncDisk {
    /// Makes durable everything that was written, and is ready when it is.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the disk turns out to know no flush; never `Ok` in that case.
    async fn flush(&mut self) -> Result<(), DeviceError>;
}

impl<D: AsyncDisk> AsyncDisk for AssumeWriteThrough<D> {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry { volatile_cache: false, ..self.0.geometry() }
    }

    async fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.0.read(addr, bytes).await
    }

    async fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.0.write(addr, bytes).await
    }
}

impl<D: AsyncDisk> AsyncFlushDisk for AssumeWriteThrough<D> {
    async fn flush(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

impl<D: AsyncDisk, F> AsyncDisk for FlushWith<D, F> {
    fn geometry(&self) -> DeviceGeometry {
        self.disk.geometry()
    }

    async fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.disk.read(addr, bytes).await
    }

    async fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.disk.write(addr, bytes).await
    }
}

impl<D: AsyncDisk, F: AsyncFnMut(&mut D) -> Result<(), DeviceError>> AsyncFlushDisk for FlushWith<D, F> {
    async fn flush(&mut self) -> Result<(), DeviceError> {
        (self.flush)(&mut self.disk).await
    }
}

struct Mailbox<'m> {
    jobs: Jobs<'m>,
    /// A job is in the hands of the task.
    busy: bool,
    done: Option<Completion<'m>>,
    /// The task that runs the driver, when it has nothing to do.
    worker: Option<Waker>,
    /// Those who wait for a completion.
    sleepers: [Option<Waker>; SLEEPERS],
}

/// A device whose work is done by a task, which awaits [`Tasked::run`]. See the head of this module.
pub struct Tasked<'m> {
    geometry: DeviceGeometry,
    mailbox: Mutex<Mailbox<'m>>,
}

impl<'m> Tasked<'m> {
    /// A device for a disk like this one, which is then to be given to [`Tasked::run`].
    pub fn new(disk: &impl AsyncFlushDisk) -> Self {
        let geometry = DeviceGeometry { queue_depth: 1, discard: false, ..disk.geometry() };
        let sleepers = [const { None }; SLEEPERS];
        let mailbox = Mailbox { jobs: Jobs::default(), busy: false, done: None, worker: None, sleepers };
        Self { geometry, mailbox: Mutex::new(mailbox) }
    }

    /// Carries out all requests, for ever, one after the other. For one task: a task of its own, or joined with what
    /// uses the store. The blocking calls of the store (`mount`, `read`, `commit`, `unmount`) would keep that task from
    /// running on the same CPU, and wait for ever: use those that go by steps.
    ///
    /// A future that is dropped while the driver works takes its request with it, which the store then waits for. Drop
    /// it after the store.
    pub async fn run(&self, disk: &mut impl AsyncFlushDisk) -> ! {
        loop {
            let done = match self.next_job().await {
                Job::Transfer(mut request) => {
                    let result = self.transfer(disk, &mut request).await;
                    Completion::Transfer(request, result)
                }
                Job::Flush(tag) => Completion::Flush(tag, disk.flush().await),
            };
            let mut mailbox = self.mailbox.lock();
            mailbox.busy = false;
            mailbox.done = Some(done);
            let sleepers = core::mem::take(&mut mailbox.sleepers);
            drop(mailbox);
            sleepers.into_iter().flatten().for_each(Waker::wake);
        }
    }

    /// Wakes the caller's task when there is a completion for `step` to fetch. At once, if there is one now, or if none
    /// is to come. To be called after a `step` and before `Pending`.
    pub fn wake(&self, waker: &Waker) {
        let mut mailbox = self.mailbox.lock();
        let under_way = mailbox.busy || !mailbox.jobs.is_empty();
        if mailbox.done.is_some() || !under_way {
            drop(mailbox);
            waker.wake_by_ref();
            return;
        }
        if mailbox.sleepers.iter().flatten().any(|sleeper| sleeper.will_wake(waker)) {
            return;
        }
        // Of too many, one looks again early, and comes back.
        let place = mailbox.sleepers.iter().position(Option::is_none).unwrap_or(0);
        let ousted = mailbox.sleepers[place].replace(waker.clone());
        drop(mailbox);
        if let Some(ousted) = ousted {
            ousted.wake();
        }
    }

    async fn next_job(&self) -> Job<'m> {
        poll_fn(|context| {
            let mut mailbox = self.mailbox.lock();
            let job = match mailbox.done {
                Some(_) => None,
                None => mailbox.jobs.take(),
            };
            mailbox.busy = job.is_some();
            if job.is_none() {
                mailbox.worker = Some(context.waker().clone());
            }
            job.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Carries a transfer out, buffer by buffer.
    async fn transfer(&self, disk: &mut impl AsyncFlushDisk, request: &mut Request<'m>) -> Result<(), DeviceError> {
        check(&self.geometry, request)?;
        let mut addr = request.addr();
        match request.kind() {
            RequestKind::Read => {
                for buffer in request.buffers_mut().into_iter().flatten() {
                    disk.read(addr, buffer).await?;
                    addr += buffer.len() as u64;
                }
                Ok(())
            }
            RequestKind::Write => {
                for buffer in request.buffers().into_iter().flatten() {
                    disk.write(addr, buffer).await?;
                    addr += buffer.len() as u64;
                }
                Ok(())
            }
            _ => Err(DeviceError::Unsupported),
        }
    }
}

/// There is something to do. Nobody is woken under the lock.
fn wake_worker(mut mailbox: MutexGuard<'_, Mailbox<'_>>) {
    let worker = mailbox.worker.take();
    drop(mailbox);
    if let Some(worker) = worker {
        worker.wake();
    }
}

impl<'m> Device<'m> for Tasked<'m> {
    fn geometry(&self) -> DeviceGeometry {
        self.geometry
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        let mut mailbox = self.mailbox.lock();
        mailbox.jobs.put_request(request)?;
        wake_worker(mailbox);
        Ok(())
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        let mut mailbox = self.mailbox.lock();
        mailbox.jobs.put_flush(tag)?;
        wake_worker(mailbox);
        Ok(())
    }

    fn poll(&self) -> Option<Completion<'m>> {
        let mut mailbox = self.mailbox.lock();
        let done = mailbox.done.take()?;
        wake_worker(mailbox);
        Some(done)
    }
}

impl fmt::Debug for Tasked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasked").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}
