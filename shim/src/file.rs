//! A device over a file or a block device of the host.
//!
//! ```text
//!   submit, flush --> waiting --> worker thread, or poll --> done --> poll
//! ```
//!
//! Input and output are positional and vectored (`preadv`, `pwritev`), so nobody shares a file offset. A flush is
//! `fdatasync`. Transfers that come back short are continued until they are whole or have failed.
//!
//! # Who does the work
//! Threads that run [`FileDevice::work`], as many as are wanted. While there are none, [`Device::poll`] carries out one
//! waiting job itself: simple and sound, with a queue depth of one in effect. See [`crate::threads::with_workers`].
//!
//! # Direct input and output
//! With [`FileOptions::direct`] the page cache is bypassed (`O_DIRECT`) if the file system can, and for as long as
//! addresses, lengths and buffers are multiples of 4096 bytes. The first transfer that is not switches to the page
//! cache for good, so that the two ways are never mixed for long; [`FileDevice::is_direct`] tells.
//!
//! # A flush that failed
//! Linux forgets what it could not write, and answers the next `fdatasync` with success. So here no flush succeeds
//! any more once one has failed.
//!
//! # Lock order
//! One lock, held for a few instructions, never across a system call.
#![forbid(unsafe_code)]

use crate::image::{out_of_range, ReadAt};
use arenite_core::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, IoSliceMut, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What every known disk and file system accepts as the unit of direct transfers, in bytes.
const DIRECT_ALIGN: usize = 4096;
/// Buffers in one system call; the least that POSIX systems offer is 16, Linux has 1024.
const MAX_SEGMENTS: u16 = 256;
const MAX_TRANSFER_LEN_BYTES: u32 = 4 << 20;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// Open for reading only; writes then fail.
    pub read_only: bool,
    /// Bypass the page cache where that is possible.
    pub direct: bool,
    /// Requests in flight, at least 1.
    pub queue_depth: u16,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self { read_only: false, direct: false, queue_depth: 32 }
    }
}

/// Why a file cannot be a device.
#[derive(Debug)]
pub enum OpenError {
    /// Another program, or another device of this one, uses the file.
    InUse,
    /// It is neither a regular file nor a block device.
    Kind,
    /// The system refused.
    Io(io::Error),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InUse => f.write_str("the file is in use"),
            Self::Kind => f.write_str("neither a regular file nor a block device"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

enum Job<'m> {
    Transfer(Request<'m>),
    Flush(FlushTag),
}

/// Jobs and completions.
struct Queue<'m> {
    waiting: VecDeque<Job<'m>>,
    done: VecDeque<Completion<'m>>,
    /// Jobs that were accepted and whose completion was not delivered.
    in_flight: usize,
    /// Threads in [`FileDevice::work`].
    workers: usize,
    stopping: bool,
}

/// A file whose lock is given up when this goes away, even while a process that is being started still has a duplicate
/// of it: until such a process runs its program, closing the file alone would leave the lock.
#[derive(Debug)]
struct OwnFile {
    file: File,
    /// Whether the lock was taken for this device alone.
    own_lock: bool,
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        if self.own_lock {
            // If this fails, closing the file does it.
            let _ = self.file.unlock();
        }
    }
}

impl std::ops::Deref for OwnFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

/// A device that serves a file.
pub struct FileDevice<'m> {
    file: OwnFile,
    /// The same file, opened for direct transfers.
    direct_file: Option<File>,
    direct: AtomicBool,
    flush_failed: AtomicBool,
    geometry: DeviceGeometry,
    queue: Mutex<Queue<'m>>,
    job_waits: Condvar,
}

/// Makes a new file of `len_bytes` bytes, all zero and without disk space of its own. Fails if the file exists.
pub fn create_file(path: &Path, len_bytes: u64) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path)?.set_len(len_bytes)
}

impl<'m> FileDevice<'m> {
    /// Opens a file that exists and locks it against other users (advisory: `flock`), shared if for reading only. A
    /// block device that is to be written to is opened exclusively besides, which fails while it is mounted.
    pub fn open(path: &Path, options: FileOptions) -> Result<Self, OpenError> {
        let mut device = Self::from_file(open_for(path, options, OFlags::empty())?, options)?;
        device.file.own_lock = true;
        device.direct_file = if options.direct { open_direct(path, options) } else { None };
        device.direct = AtomicBool::new(device.direct_file.is_some());
        Ok(device)
    }

    /// Takes a file that is open already, for writing too unless `options` say read-only, and locks it as
    /// [`FileDevice::open`] does. A lock that the same open file has, or a duplicate of it (`File::try_clone`), is no
    /// obstacle: so a file can be locked, looked at, given its length, and become a device, with the lock never gone in
    /// between. Transfers go through the page cache, whatever `options` say: without a path it cannot be bypassed.
    pub fn from_file(mut file: File, options: FileOptions) -> Result<Self, OpenError> {
        let geometry = take(&mut file, options)?;
        Ok(Self {
            file: OwnFile { file, own_lock: false },
            direct_file: None,
            direct: AtomicBool::new(false),
            flush_failed: AtomicBool::new(false),
            geometry,
            queue: Mutex::new(Queue {
                waiting: VecDeque::new(),
                done: VecDeque::new(),
                in_flight: 0,
                workers: 0,
                stopping: false,
            }),
            job_waits: Condvar::new(),
        })
    }

    /// Whether it may only be read.
    pub fn is_read_only(&self) -> bool {
        self.geometry.read_only
    }

    /// Whether transfers bypass the page cache at this moment.
    pub fn is_direct(&self) -> bool {
        self.direct.load(Ordering::Relaxed)
    }

    /// Writes bytes at once, beside the queue. [`DeviceError::Io`] if they are not all inside, or the device may only
    /// be read.
    pub fn write_at(&self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        if self.geometry.read_only || out_of_range(self.geometry.len_bytes, addr, bytes.len()) {
            return Err(DeviceError::Io);
        }
        self.file.write_all_at(bytes, addr).map_err(|error| device_error(&error))
    }

    /// Carries out jobs until [`FileDevice::stop_workers`]. For any number of threads at once.
    pub fn work(&self) {
        let mut queue = self.queue();
        queue.workers += 1;
        while !queue.stopping {
            let Some(job) = queue.waiting.pop_front() else {
                queue = self.job_waits.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(queue);
            let completion = self.carry_out(job);
            queue = self.queue();
            queue.done.push_back(completion);
        }
        queue.workers -= 1;
    }

    /// Makes all threads in [`FileDevice::work`] return after the job that they are at, and threads that come later at
    /// once. Jobs that wait are left to [`Device::poll`].
    pub fn stop_workers(&self) {
        self.queue().stopping = true;
        self.job_waits.notify_all();
    }

    fn queue(&self) -> MutexGuard<'_, Queue<'m>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push<T>(&self, content: T, job: impl FnOnce(T) -> Job<'m>) -> Result<(), T> {
        let mut queue = self.queue();
        if queue.in_flight >= usize::from(self.geometry.queue_depth) {
            return Err(content);
        }
        queue.in_flight += 1;
        queue.waiting.push_back(job(content));
        drop(queue);
        self.job_waits.notify_one();
        Ok(())
    }

    fn carry_out(&self, job: Job<'m>) -> Completion<'m> {
        match job {
            Job::Transfer(mut request) => {
                let result = self.transfer(&mut request);
                Completion::Transfer(request, result)
            }
            Job::Flush(tag) => Completion::Flush(tag, self.sync()),
        }
    }

    /// Makes durable all that was written, at once, beside the queue. Fails for good once it has failed.
    pub fn sync(&self) -> Result<(), DeviceError> {
        if self.flush_failed.load(Ordering::Acquire) {
            return Err(DeviceError::Io);
        }
        self.file.sync_data().map_err(|error| {
            self.flush_failed.store(true, Ordering::Release);
            device_error(&error)
        })
    }

    fn transfer(&self, request: &mut Request<'m>) -> Result<(), DeviceError> {
        let len = usize::try_from(request.len_bytes()).map_err(|_| DeviceError::Io)?;
        let addr = request.addr();
        if out_of_range(self.geometry.len_bytes, addr, len) {
            return Err(DeviceError::Io);
        }
        match request.kind() {
            RequestKind::Write if self.geometry.read_only => Err(DeviceError::Io),
            RequestKind::Write => {
                let mut parts: Vec<_> = request.buffers().into_iter().flatten().map(IoSlice::new).collect();
                let aligned = is_aligned(addr, parts.iter().map(|part| &**part));
                self.attempt(aligned, |file| write_all(file, addr, &mut parts))
            }
            RequestKind::Read => {
                let mut parts: Vec<_> = request.buffers_mut().into_iter().flatten().map(IoSliceMut::new).collect();
                let aligned = is_aligned(addr, parts.iter().map(|part| &**part));
                self.attempt(aligned, |file| read_all(file, addr, &mut parts))
            }
            RequestKind::Discard if self.geometry.discard => discard(&self.file, addr, request.len_bytes()),
            _ => Err(DeviceError::Unsupported),
        }
    }

    /// Tries a transfer directly, if that is still on; otherwise, or if alignment forbids it, through the page cache.
    fn attempt(&self, aligned: bool, mut transfer: impl FnMut(&File) -> io::Result<()>) -> Result<(), DeviceError> {
        if let Some(file) = self.direct_file.as_ref().filter(|_| self.is_direct()) {
            if aligned {
                match transfer(file) {
                    Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
                    result => return result.map_err(|error| device_error(&error)),
                }
            }
            self.direct.store(false, Ordering::Relaxed);
        }
        transfer(&self.file).map_err(|error| device_error(&error))
    }
}

fn how(options: FileOptions, flags: OFlags) -> OpenOptions {
    let mut how = OpenOptions::new();
    how.read(true).write(!options.read_only).custom_flags(flags.bits().cast_signed());
    how
}

/// Opens a file, or for writing a block device that nobody else may then have exclusively.
pub(crate) fn open_for(path: &Path, options: FileOptions, flags: OFlags) -> Result<File, OpenError> {
    let block_device = std::fs::metadata(path)?.file_type().is_block_device();
    let exclusive = if block_device && !options.read_only { OFlags::EXCL } else { OFlags::empty() };
    how(options, flags | exclusive).open(path).map_err(|error| match error.raw_os_error() {
        Some(code) if code == Errno::BUSY.raw_os_error() => OpenError::InUse,
        _ => OpenError::Io(error),
    })
}

/// The same file once more. Not exclusively: that can be had once.
fn open_direct(path: &Path, options: FileOptions) -> Option<File> {
    how(options, OFlags::DIRECT).open(path).ok()
}

/// Checks that a file can be a device, locks it, and says what it is like.
pub(crate) fn take(file: &mut File, options: FileOptions) -> Result<DeviceGeometry, OpenError> {
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(OpenError::Kind);
    }
    let locked = if options.read_only { file.try_lock_shared() } else { file.try_lock() };
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse),
        Err(TryLockError::Error(error)) => return Err(OpenError::Io(error)),
    }
    Ok(geometry(file, kind.is_block_device(), options)?)
}

fn geometry(file: &mut File, block_device: bool, options: FileOptions) -> io::Result<DeviceGeometry> {
    // Seeking finds the size of block devices too, whose metadata say 0.
    let end = file.seek(SeekFrom::End(0))?;
    let (logical, physical) = if block_device { sectors(file)? } else { (512, 512) };
    Ok(DeviceGeometry {
        len_bytes: end - end % u64::from(logical.max(1)),
        logical_sector_len_bytes: logical,
        physical_sector_len_bytes: physical,
        max_transfer_len_bytes: MAX_TRANSFER_LEN_BYTES,
        max_segments: MAX_SEGMENTS,
        queue_depth: options.queue_depth.max(1),
        read_only: options.read_only,
        volatile_cache: true,
        discard: cfg!(target_os = "linux") && !options.read_only,
    })
}

/// Punches a hole. Where the file system cannot, that is no loss: nobody relies on it.
#[cfg(target_os = "linux")]
fn discard(file: &File, addr: u64, len_bytes: u64) -> Result<(), DeviceError> {
    use rustix::fs::{fallocate, FallocateFlags};
    let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, how, addr, len_bytes).map_err(|error| device_error(&error.into()))
}

#[cfg(not(target_os = "linux"))]
fn discard(_file: &File, _addr: u64, _len_bytes: u64) -> Result<(), DeviceError> {
    Err(DeviceError::Unsupported)
}

#[cfg(target_os = "linux")]
fn sectors(file: &File) -> io::Result<(u32, u32)> {
    Ok((rustix::fs::ioctl_blksszget(file)?, rustix::fs::ioctl_blkpbszget(file)?))
}

#[cfg(not(target_os = "linux"))]
fn sectors(_file: &File) -> io::Result<(u32, u32)> {
    Ok((512, 4096))
}

fn is_aligned<'a>(addr: u64, mut parts: impl Iterator<Item = &'a [u8]>) -> bool {
    let unit = DIRECT_ALIGN;
    let aligned = |part: &[u8]| part.as_ptr().addr().is_multiple_of(unit) && part.len().is_multiple_of(unit);
    addr.is_multiple_of(unit as u64) && parts.all(aligned)
}

/// Writes all parts, or fails. A write that comes back short is continued.
fn write_all(file: &File, mut addr: u64, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !parts.is_empty() {
        match rustix::io::pwritev(file, parts, addr) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                addr += count as u64;
                IoSlice::advance_slices(&mut parts, count);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Fills all parts, or fails. A read that comes back short is continued; the end of the file is an error.
fn read_all(file: &File, mut addr: u64, mut parts: &mut [IoSliceMut<'_>]) -> io::Result<()> {
    while !parts.is_empty() {
        match rustix::io::preadv(file, parts, addr) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                addr += count as u64;
                IoSliceMut::advance_slices(&mut parts, count);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

pub(crate) fn device_error(error: &io::Error) -> DeviceError {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NODEV | Errno::NXIO) => DeviceError::Gone,
        Some(Errno::TIMEDOUT) => DeviceError::Timeout,
        Some(Errno::OPNOTSUPP) => DeviceError::Unsupported,
        _ => DeviceError::Io,
    }
}

impl<'m> Device<'m> for FileDevice<'m> {
    fn geometry(&self) -> DeviceGeometry {
        self.geometry
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        self.push(request, Job::Transfer)
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.push(tag, Job::Flush)
    }

    fn poll(&self) -> Option<Completion<'m>> {
        let mut queue = self.queue();
        if let Some(completion) = queue.done.pop_front() {
            queue.in_flight -= 1;
            return Some(completion);
        }
        if queue.workers > 0 {
            return None;
        }
        let job = queue.waiting.pop_front()?;
        drop(queue);
        let completion = self.carry_out(job);
        self.queue().in_flight -= 1;
        Some(completion)
    }
}

impl ReadAt for FileDevice<'_> {
    fn len_bytes(&self) -> u64 {
        self.geometry.len_bytes
    }

    fn read_at(&self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.file.read_exact_at(bytes, addr).map_err(|error| device_error(&error))
    }
}

impl std::fmt::Debug for FileDevice<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileDevice")
            .field("file", &self.file.file)
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}
