#![forbid(unsafe_code)]
//! Read-ahead: a few chunks of the disk are in memory or on their way, from the one that is being read onwards.
//!
//! ```text
//!   chunk    0   1   2 | 3   4   5   6   7   8   9   10 | 11 ...
//!                        ^front                           ^next
//!            released    in memory, being read, or failed   not asked for
//! ```
//!
//! Chunk `n` has place `n % CHUNKS`. Requests may end in any order. The disk belongs to one window.

use alloc::vec::Vec;

use super::{ArchiveError, InputDisk};
use crate::blk::{DiskError, Op, Prefix, SECTOR_BYTES};
use crate::memory;
use crate::stacks::PAGE_BYTES;

/// Bytes of a chunk, a multiple of any sector and of a header.
const CHUNK_BYTES: u64 = 128 << 10;
/// Chunks of the window.
const CHUNKS: u64 = 8;

/// See the head of this file.
pub struct Window {
    disk: &'static InputDisk,
    len_bytes: u64,
    /// Buffers that are not in use.
    idle: Vec<Prefix>,
    /// Chunks that were read or have failed, by place.
    ended: [Option<(Prefix, Result<(), DiskError>)>; CHUNKS as usize],
    front: u64,
    next: u64,
}

fn place(chunk: u64) -> usize {
    (chunk % CHUNKS) as usize
}

impl Window {
    /// Takes memory for the chunks; `None` if there is too little.
    pub fn new(disk: &'static InputDisk) -> Option<Self> {
        let buffer = |_| {
            let bytes = memory::take_zeroed(CHUNK_BYTES as usize / PAGE_BYTES)?;
            Some(Prefix { tag: 0, bytes, len_bytes: 0 })
        };
        let idle = (0..CHUNKS).map(buffer).collect::<Option<Vec<Prefix>>>()?;
        let len_bytes = disk.info().sectors * SECTOR_BYTES;
        Some(Self { disk, len_bytes, idle, ended: [const { None }; CHUNKS as usize], front: 0, next: 0 })
    }

    /// Length of the disk.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Forgets everything, to begin at the front again.
    pub fn rewind(&mut self) {
        self.release_before(self.next);
        (self.front, self.next) = (0, 0);
    }

    /// The bytes from `offset` on, up to `max_bytes` and the end of the chunk, at least one. `offset` is not before
    /// that of an earlier call, unless there was a [`Window::rewind`].
    pub fn bytes(&mut self, offset: u64, max_bytes: u64) -> Result<&[u8], ArchiveError> {
        if offset >= self.len_bytes {
            return Err(ArchiveError::Bad { offset, what: "beyond the end of the disk" });
        }
        let chunk = offset / CHUNK_BYTES;
        self.release_before(chunk);
        self.work();
        while self.ended[place(chunk)].is_none() {
            self.work();
        }
        let Some((buffer, result)) = &self.ended[place(chunk)] else { return Err(ArchiveError::NoMemory) };
        result.map_err(|cause| ArchiveError::Disk { offset, cause })?;
        let start = (offset % CHUNK_BYTES) as usize;
        let end = buffer.len_bytes.min(start + max_bytes.min(CHUNK_BYTES) as usize);
        buffer.bytes.get(start..end).ok_or(ArchiveError::Bad { offset, what: "beyond the end of the disk" })
    }

    /// Releases all chunks before this one, once they have come. Asks for none.
    fn release_before(&mut self, chunk: u64) {
        while self.front < chunk {
            if self.front == self.next {
                // Nothing is under way: a long way is one jump.
                (self.front, self.next) = (chunk, chunk);
                return;
            }
            match self.ended[place(self.front)].take() {
                Some((buffer, _)) => {
                    self.idle.push(buffer);
                    self.front += 1;
                }
                None => self.poll(),
            }
        }
    }

    /// Asks for what is not yet asked for, and takes what has ended.
    fn work(&mut self) {
        while self.next < self.front + CHUNKS && self.next * CHUNK_BYTES < self.len_bytes {
            let Some(mut buffer) = self.idle.pop() else { break };
            let first = self.next * CHUNK_BYTES;
            buffer.tag = place(self.next);
            buffer.len_bytes = CHUNK_BYTES.min(self.len_bytes - first) as usize;
            if let Err(buffer) = self.disk.submit(Op::Read(first / SECTOR_BYTES), buffer) {
                self.idle.push(buffer);
                break;
            }
            self.next += 1;
        }
        self.poll();
    }

    fn poll(&mut self) {
        core::hint::spin_loop();
        while let Some((buffer, result)) = self.disk.poll() {
            let place = buffer.tag;
            self.ended[place] = Some((buffer, result));
        }
    }
}
