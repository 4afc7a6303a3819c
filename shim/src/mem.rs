//! A device over a [`Disk`] in memory.
//!
//! Requests are carried out in the order in which they were submitted, one at each poll. What the store sees is a disk
//! with a queue that never fails; [`crate::faulty`] and [`crate::record`] wrap it to make it fail and to watch it.
//!
//! # Lock order
//! The queue's lock and the disk's are taken one after the other, never together.
#![forbid(unsafe_code)]

use crate::disk::Disk;
use crate::image::ReadAt;
use crate::rng::fill;
use crate::trace::SECTOR_LEN_BYTES;
use arenite_core::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a device in memory looks like to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemOptions {
    /// Requests in flight, at least 1.
    pub queue_depth: u16,
    /// Buffers in one request, at least 1.
    pub max_segments: u16,
    /// Bytes in one request.
    pub max_transfer_len_bytes: u32,
    /// Unit of atomic writing, in bytes.
    pub physical_sector_len_bytes: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether discards are understood: the range then reads as [`garbage`].
    pub discard: bool,
}

impl Default for MemOptions {
    fn default() -> Self {
        Self {
            queue_depth: 16,
            max_segments: 8,
            max_transfer_len_bytes: 1 << 20,
            physical_sector_len_bytes: 512,
            read_only: false,
            discard: false,
        }
    }
}

/// What discarded bytes read as: nothing that anybody wrote. One sector in four, so that a discard makes no more crash
/// states than a write of little content.
pub fn garbage(addr: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (at, block) in bytes.chunks_mut(4 * SECTOR_LEN_BYTES).enumerate() {
        let sector = block.len().min(SECTOR_LEN_BYTES);
        fill(!addr ^ at as u64, &mut block[..sector]);
    }
    bytes
}

enum Job<'m> {
    Transfer(Request<'m>),
    Flush(FlushTag),
}

/// A device that serves a [`Disk`].
pub struct MemDevice<'m> {
    disk: Arc<Disk>,
    /// Bytes of the disk that can be seen.
    len_bytes: AtomicU64,
    options: MemOptions,
    queue: Mutex<VecDeque<Job<'m>>>,
}

impl<'m> MemDevice<'m> {
    /// A device with an empty queue.
    pub fn new(disk: Arc<Disk>, options: MemOptions) -> Self {
        let len_bytes = AtomicU64::new(disk.len_bytes());
        Self { disk, len_bytes, options, queue: Mutex::new(VecDeque::new()) }
    }

    /// Shows only so many bytes of the disk, or more again: a device that grows. Never more than the disk has.
    pub fn set_len_bytes(&self, len_bytes: u64) {
        self.len_bytes.store(len_bytes.min(self.disk.len_bytes()), Ordering::Release);
    }

    /// The disk behind it.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Job<'m>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push<T>(&self, content: T, job: impl FnOnce(T) -> Job<'m>) -> Result<(), T> {
        let mut queue = self.queue();
        if queue.len() >= usize::from(self.options.queue_depth) {
            return Err(content);
        }
        queue.push_back(job(content));
        Ok(())
    }

    fn transfer(&self, request: &mut Request<'m>) -> Result<(), DeviceError> {
        let mut addr = request.addr();
        let end = addr.checked_add(request.len_bytes()).ok_or(DeviceError::Io)?;
        if end > self.len_bytes.load(Ordering::Acquire) {
            return Err(DeviceError::Io);
        }
        match request.kind() {
            RequestKind::Write if self.options.read_only => return Err(DeviceError::Io),
            RequestKind::Write => {
                for bytes in request.buffers().into_iter().flatten() {
                    self.disk.write_at(addr, bytes)?;
                    addr += bytes.len() as u64;
                }
            }
            RequestKind::Read => {
                for bytes in request.buffers_mut().into_iter().flatten() {
                    self.disk.read_at(addr, bytes)?;
                    addr += bytes.len() as u64;
                }
            }
            RequestKind::Discard if self.options.discard && !self.options.read_only => {
                self.disk.write_at(addr, &garbage(addr, request.len_bytes() as usize))?;
            }
            _ => return Err(DeviceError::Unsupported),
        }
        Ok(())
    }
}

impl<'m> Device<'m> for MemDevice<'m> {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            len_bytes: self.len_bytes.load(Ordering::Acquire),
            logical_sector_len_bytes: 512,
            physical_sector_len_bytes: self.options.physical_sector_len_bytes,
            max_transfer_len_bytes: self.options.max_transfer_len_bytes,
            max_segments: self.options.max_segments,
            queue_depth: self.options.queue_depth,
            read_only: self.options.read_only,
            volatile_cache: true,
            discard: self.options.discard,
        }
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        self.push(request, Job::Transfer)
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.push(tag, Job::Flush)
    }

    fn poll(&self) -> Option<Completion<'m>> {
        let job = self.queue().pop_front()?;
        Some(match job {
            Job::Transfer(mut request) => {
                let result = self.transfer(&mut request);
                Completion::Transfer(request, result)
            }
            // The bytes are where they were to go as soon as a write completes.
            Job::Flush(tag) => Completion::Flush(tag, Ok(())),
        })
    }
}

impl std::fmt::Debug for MemDevice<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemDevice").field("disk", &self.disk).field("options", &self.options).finish_non_exhaustive()
    }
}
