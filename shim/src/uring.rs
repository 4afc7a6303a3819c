//! A device over a file or block device of Linux, by io_uring: many requests under way without a thread for each.
//!
//! ```text
//!   submit, flush --> a slot of the table, an entry of the submission ring --> kernel --> completion ring --> poll
//! ```
//!
//! The kernel reads and writes the buffers by itself while the request lies in its slot, as a disk controller does in a
//! bare machine; so this device serves memory that lives for ever (`'static`) and no other, and a buffer leaves its
//! slot only when the kernel has said that it is done with it.
//!
//! Transfers past the page cache (`O_DIRECT`) if [`FileOptions::direct`] asks for it; opening fails where the file
//! system cannot, and a request that is not aligned fails by itself. A flush is `fdatasync`; once one has failed none
//! succeeds any more, because Linux forgets what it could not write. Transfers that come back short are continued.
//!
//! # How many system calls
//! A transfer that begins where the one before it ended waits until a few have come together, or until a poll finds
//! nothing completed: one system call then takes all of them, and the kernel sees them side by side and merges them.
//! Any other is handed over at once, and so is one that finds the kernel idle.
//!
//! # Waiting
//! [`RingPlatform`] is the host's platform for a store on this device: whoever waits sleeps until the kernel has
//! completed something, instead of taking the processor from those who could complete it.
//!
//! # Invariant
//! Slot `i` of the table is occupied exactly while the kernel has an entry with user data `i`. The entry's list of
//! buffers lies on the heap in that slot and is not touched while the kernel has it.
//!
//! # Lock order
//! One lock, a leaf, held while entries are put in and taken out; the system call that hands them over never waits.
//! Nobody holds it while it sleeps.
//!
//! This and `memory_box` are the only files of the crate with `unsafe`.

use crate::file::{device_error, open_for, take, FileOptions, OpenError};
use crate::image::out_of_range;
use crate::HostPlatform;
use arenite_core::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Platform, Request, RequestKind};
use io_uring::{opcode, squeue, types, IoUring};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Entries of transfers side by side that are handed over together, while the kernel has others to go on with.
const TOLD_TOGETHER: usize = 8;
/// Turns of a wait before it sleeps.
const TURNS_AWAKE: u32 = 64;
/// The longest sleep, in nanoseconds: what is waited for may be the doing of another thread, which wakes nobody.
const SLEEP_NS: i64 = 500_000;

/// What the kernel is at.
enum Job {
    /// A transfer; its buffers, from the byte on that is not done yet; bytes done.
    Transfer {
        request: Request<'static>,
        buffers: Vec<libc::iovec>,
        done_bytes: u64,
    },
    Flush(FlushTag),
}

// SAFETY: the pointers in `buffers` are those of the buffers that the request beside them owns, which may be sent
// between threads; nothing is reached through them but by the kernel.
unsafe impl Send for Job {}

struct Ring {
    ring: IoUring,
    jobs: Vec<Option<Job>>,
    free: Vec<usize>,
    /// Ended without the kernel.
    ended: Vec<Completion<'static>>,
    /// Entries that the kernel was not told of yet.
    untold: usize,
    /// Where the newest transfer ends.
    end_addr: u64,
    flush_failed: bool,
}

/// A device that serves a file through io_uring.
pub struct UringDevice {
    file: File,
    geometry: DeviceGeometry,
    ring: Mutex<Ring>,
    /// Calls of [`Device::poll`] that had something.
    delivered: Arc<AtomicUsize>,
}

impl UringDevice {
    /// Opens a file that exists and locks it against other users (advisory: `flock`), shared if for reading only.
    ///
    /// # Errors
    /// [`OpenError`]; also where the kernel has no io_uring, or the file system no direct transfers and they were asked
    /// for.
    pub fn open(path: &Path, options: FileOptions) -> Result<Self, OpenError> {
        let flags = if options.direct { OFlags::DIRECT } else { OFlags::empty() };
        let mut file = open_for(path, options, flags)?;
        let geometry = DeviceGeometry { discard: false, ..take(&mut file, options)? };
        let depth = usize::from(geometry.queue_depth);
        let ring = IoUring::new(u32::from(geometry.queue_depth).next_power_of_two())?;
        let jobs = (0..depth).map(|_| None).collect();
        let free = (0..depth).rev().collect();
        let ring = Ring { ring, jobs, free, ended: Vec::new(), untold: 0, end_addr: 0, flush_failed: false };
        Ok(Self { file, geometry, ring: Mutex::new(ring), delivered: Arc::default() })
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A platform for a store on this device, whose threads sleep while they wait for it.
    ///
    /// # Errors
    /// Those of duplicating a descriptor.
    pub fn platform(&self) -> io::Result<RingPlatform> {
        let ring = self.ring().ring.as_raw_fd();
        // SAFETY: the descriptor is that of the ring inside this device, which is borrowed, so it stays open meanwhile.
        let ring = unsafe { BorrowedFd::borrow_raw(ring) };
        Ok(RingPlatform { ring: ring.try_clone_to_owned()?, delivered: self.delivered.clone() })
    }

    fn allows(&self, request: &Request<'static>) -> Result<(), DeviceError> {
        let len = usize::try_from(request.len_bytes()).map_err(|_| DeviceError::Io)?;
        match request.kind() {
            _ if out_of_range(self.geometry.len_bytes, request.addr(), len) => Err(DeviceError::Io),
            RequestKind::Write if self.geometry.read_only => Err(DeviceError::Io),
            RequestKind::Read | RequestKind::Write => Ok(()),
            _ => Err(DeviceError::Unsupported),
        }
    }
}

fn buffers_of(request: &mut Request<'static>) -> Vec<libc::iovec> {
    let part = |start: *const u8, len| libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len };
    match request.kind() {
        RequestKind::Write => {
            request.buffers().into_iter().flatten().map(|bytes| part(bytes.as_ptr(), bytes.len())).collect()
        }
        _ => request
            .buffers_mut()
            .into_iter()
            .flatten()
            .map(|bytes| part(bytes.as_mut_ptr().cast_const(), bytes.len()))
            .collect(),
    }
}

/// Leaves out the first `bytes` bytes.
fn advance(buffers: &mut Vec<libc::iovec>, mut bytes: usize) {
    let whole = buffers.iter().take_while(|part| {
        let all = part.iov_len <= bytes;
        bytes -= if all { part.iov_len } else { 0 };
        all
    });
    let whole = whole.count();
    buffers.drain(..whole);
    if let Some(first) = buffers.first_mut() {
        // Inside the buffer: `bytes` is less than its length.
        first.iov_base = first.iov_base.wrapping_byte_add(bytes);
        first.iov_len -= bytes;
    }
}

impl Ring {
    /// Puts the job of an occupied slot into the submission ring.
    fn enter(&mut self, file: &File, slot: usize) {
        let fd = types::Fd(file.as_raw_fd());
        let Some(Some(job)) = self.jobs.get(slot) else { return };
        let entry = match job {
            Job::Flush(_) => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            Job::Transfer { request, buffers, done_bytes } => {
                let (start, count) = (buffers.as_ptr(), buffers.len() as u32);
                let offset = request.addr() + done_bytes;
                match request.kind() {
                    RequestKind::Write => opcode::Writev::new(fd, start, count).offset(offset).build(),
                    _ => opcode::Readv::new(fd, start, count).offset(offset).build(),
                }
            }
        };
        self.push(&entry.user_data(slot as u64));
        self.untold += 1;
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            let mut queue = self.ring.submission();
            // SAFETY: what the entry points to (the list of buffers, and the buffers) lies in the job's slot and in
            // memory that lives for ever, and stays there until the kernel's completion for this slot was taken (the
            // module's invariant).
            if unsafe { queue.push(entry) }.is_ok() {
                return;
            }
            drop(queue);
            // The ring has as many places as the table has slots, so there is room once the kernel was told.
            self.tell();
        }
    }

    /// Tells the kernel of new entries; never waits. If it cannot be told now (no memory), the next poll tries again.
    fn tell(&mut self) {
        // Nothing is lost if this fails: the entries stay where they are.
        let _ = self.ring.submit();
        self.untold = self.ring.submission().len();
    }

    /// Gives the kernel a job, in a slot that was free.
    fn start(&mut self, file: &File, slot: usize, job: Job) {
        let mut continues = false;
        if let Job::Transfer { request, .. } = &job {
            continues = request.addr() == self.end_addr;
            self.end_addr = request.addr().saturating_add(request.len_bytes());
        }
        self.jobs[slot] = Some(job);
        self.enter(file, slot);
        let occupied = self.jobs.len() - self.free.len();
        // With nothing else under way, or nothing to be merged with, nobody would be the better for waiting.
        if !continues || self.untold == occupied || self.untold >= TOLD_TOGETHER {
            self.tell();
        }
    }

    /// What one completion of the kernel means; `None` if the job goes on.
    fn end(&mut self, file: &File, slot: usize, result: i32) -> Option<Completion<'static>> {
        let error = |result: i32| device_error(&io::Error::from_raw_os_error(-result));
        let job = self.jobs.get_mut(slot)?.take()?;
        let completion = match job {
            Job::Flush(tag) => {
                self.flush_failed |= result < 0;
                let result = if self.flush_failed { Err(DeviceError::Io) } else { Ok(()) };
                Completion::Flush(tag, result)
            }
            Job::Transfer { request, mut buffers, done_bytes } => {
                let again = matches!(-result, libc::EINTR | libc::EAGAIN);
                let done_bytes = done_bytes + result.max(0) as u64;
                if again || (result > 0 && done_bytes < request.len_bytes()) {
                    advance(&mut buffers, result.max(0) as usize);
                    self.jobs[slot] = Some(Job::Transfer { request, buffers, done_bytes });
                    self.enter(file, slot);
                    return None;
                }
                let whole = done_bytes == request.len_bytes();
                // Nothing at all, and no error: the end of the file.
                let result = if whole { Ok(()) } else { Err(if result < 0 { error(result) } else { DeviceError::Io }) };
                Completion::Transfer(request, result)
            }
        };
        self.free.push(slot);
        Some(completion)
    }

    /// The next completion that the kernel has ready.
    fn next_end(&mut self, file: &File) -> Option<Completion<'static>> {
        loop {
            let entry = self.ring.completion().next()?;
            let slot = entry.user_data() as usize;
            if let Some(completion) = self.end(file, slot, entry.result()) {
                return Some(completion);
            }
            self.tell();
        }
    }
}

impl Device<'static> for UringDevice {
    fn geometry(&self) -> DeviceGeometry {
        self.geometry
    }

    fn submit(&self, mut request: Request<'static>) -> Result<(), Request<'static>> {
        let mut ring = self.ring();
        if let Err(error) = self.allows(&request) {
            ring.ended.push(Completion::Transfer(request, Err(error)));
            return Ok(());
        }
        let Some(slot) = ring.free.pop() else { return Err(request) };
        let buffers = buffers_of(&mut request);
        ring.start(&self.file, slot, Job::Transfer { request, buffers, done_bytes: 0 });
        Ok(())
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        let mut ring = self.ring();
        if ring.flush_failed {
            ring.ended.push(Completion::Flush(tag, Err(DeviceError::Io)));
            return Ok(());
        }
        let slot = ring.free.pop().ok_or(tag)?;
        ring.start(&self.file, slot, Job::Flush(tag));
        Ok(())
    }

    fn poll(&self) -> Option<Completion<'static>> {
        let mut ring = self.ring();
        let mut completion = ring.ended.pop().or_else(|| ring.next_end(&self.file));
        if completion.is_none() && ring.untold > 0 {
            ring.tell();
            completion = ring.next_end(&self.file);
        }
        let completion = completion?;
        self.delivered.fetch_add(1, Ordering::Relaxed);
        Some(completion)
    }
}

std::thread_local! {
    /// What [`UringDevice::delivered`] was when this thread waited last, and how often it has waited since.
    static WAITED: Cell<(usize, u32)> = const { Cell::new((0, 0)) };
}

/// The host's platform for a store on a [`UringDevice`]: threads that wait sleep until the kernel has completed
/// something. It holds neither the file nor its lock.
#[derive(Debug)]
pub struct RingPlatform {
    ring: OwnedFd,
    delivered: Arc<AtomicUsize>,
}

impl Platform for RingPlatform {
    fn relax(&self) {
        let delivered = self.delivered.load(Ordering::Relaxed);
        let (seen, turns) = WAITED.get();
        let turns = if seen == delivered { turns.saturating_add(1) } else { 0 };
        WAITED.set((delivered, turns));
        if turns < TURNS_AWAKE {
            return std::hint::spin_loop();
        }
        let moment = Timespec { tv_sec: 0, tv_nsec: SLEEP_NS };
        if poll(&mut [PollFd::new(&self.ring, PollFlags::IN)], Some(&moment)).is_err() {
            std::thread::yield_now();
        }
    }

    fn enter_critical(&self) -> usize {
        HostPlatform.enter_critical()
    }

    fn leave_critical(&self, saved: usize) {
        HostPlatform.leave_critical(saved);
    }

    fn cpu(&self) -> usize {
        HostPlatform.cpu()
    }

    fn ticks(&self) -> Option<u64> {
        HostPlatform.ticks()
    }
}

impl std::fmt::Debug for UringDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringDevice")
            .field("file", &self.file)
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}

impl Drop for UringDevice {
    /// Waits until the kernel is done with every buffer. Requests that it never gives back are leaked rather than
    /// freed.
    fn drop(&mut self) {
        let ring = self.ring.get_mut().unwrap_or_else(PoisonError::into_inner);
        while ring.free.len() < ring.jobs.len() {
            if ring.ring.submit_and_wait(1).is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) {
                ring.jobs.drain(..).for_each(std::mem::forget);
                return;
            }
            loop {
                let entry = ring.ring.completion().next();
                let Some(entry) = entry else { break };
                let _ = ring.end(&self.file, entry.user_data() as usize, entry.result());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: usize, len: usize) -> libc::iovec {
        libc::iovec { iov_base: std::ptr::without_provenance_mut(start), iov_len: len }
    }

    #[test]
    fn short_transfers_go_on_where_they_ended() {
        let list = |parts: &[libc::iovec]| -> Vec<(usize, usize)> {
            parts.iter().map(|part| (part.iov_base.addr(), part.iov_len)).collect()
        };
        for (bytes, expected) in [
            (0, vec![(100, 10), (200, 20)]),
            (4, vec![(104, 6), (200, 20)]),
            (10, vec![(200, 20)]),
            (15, vec![(205, 15)]),
            (30, vec![]),
        ] {
            let mut parts = vec![part(100, 10), part(200, 20)];
            advance(&mut parts, bytes);
            assert_eq!(list(&parts), expected, "{bytes} bytes");
        }
    }
}
