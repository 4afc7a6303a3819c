#![forbid(unsafe_code)]
//! Read-ahead: some chunks of the disk are in memory or on their way, for all CPUs.
//!
//! Whoever wants bytes gets the chunk that they are in, shared; it stays where it is until the last reader has dropped
//! it, and then until its buffer is wanted for another one, the longest unused first. Each demand also asks for the
//! chunks that follow. The lock is held for the length of one look, and for none while waiting. The disk belongs to one
//! window.
//!
//! ```text
//!   idle ---asked for---> on its way ---ended---> here (or failed) <--> read by some
//!     ^                                             |  nobody reads it, the buffer is wanted
//!     +---------------------------------------------+
//! ```
//!
//! Nobody holds one chunk while waiting for another, and there are more buffers than readers: one comes free.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::{Deref, Range};

use spin::Mutex;

use super::{ArchiveError, InputDisk};
use crate::blk::{DiskError, Op, Prefix, SECTOR_BYTES};
use crate::stacks::PAGE_BYTES;
use crate::{interrupts, memory};

/// Bytes of a chunk, a multiple of any sector and of a header.
const CHUNK_BYTES: u64 = 128 << 10;
/// Buffers whatever the number of CPUs, and buffers for each.
const BUFFERS: (usize, usize) = (4, 4);

/// See the head of this file.
pub struct Window {
    disk: &'static InputDisk,
    len_bytes: u64,
    /// Chunks to ask for behind the one that is wanted.
    ahead: u64,
    chunks: Mutex<Chunks>,
}

struct Chunks {
    idle: Vec<Prefix>,
    known: Vec<Chunk>,
    /// Counts demands, to tell which chunk was used last.
    now: u64,
}

struct Chunk {
    number: u64,
    last_used: u64,
    /// `None` while it is on its way.
    ended: Option<(Arc<Prefix>, Result<(), DiskError>)>,
}

/// Some bytes of the disk. Keep it for as long as it takes to look at them: its buffer is one of few.
pub struct Piece {
    buffer: Arc<Prefix>,
    range: Range<usize>,
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buffer.bytes.get(self.range.clone()).unwrap_or_default()
    }
}

impl Window {
    /// Takes memory for the chunks that so many CPUs read; `None` if there is too little.
    pub fn new(disk: &'static InputDisk, cpus: usize) -> Option<Self> {
        let count = BUFFERS.0 + BUFFERS.1 * cpus.max(1);
        let buffer = |_| {
            let bytes = memory::take_zeroed(CHUNK_BYTES as usize / PAGE_BYTES)?;
            Some(Prefix { tag: 0, bytes, len_bytes: 0 })
        };
        let idle = (0..count).map(buffer).collect::<Option<Vec<Prefix>>>()?;
        let len_bytes = disk.info().sectors * SECTOR_BYTES;
        // A buffer for what is being read, one in reserve.
        let ahead = (count / cpus.max(1)).saturating_sub(2) as u64;
        let chunks = Chunks { idle, known: Vec::with_capacity(count), now: 0 };
        Some(Self { disk, len_bytes, ahead, chunks: Mutex::new(chunks) })
    }

    /// Length of the disk.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The bytes from `offset` on, up to `max_bytes` and the end of the chunk, at least one. The caller holds no other
    /// piece.
    pub fn bytes(&self, offset: u64, max_bytes: u64) -> Result<Piece, ArchiveError> {
        let beyond = ArchiveError::Bad { offset, what: "beyond the end of the disk" };
        if offset >= self.len_bytes {
            return Err(beyond);
        }
        let number = offset / CHUNK_BYTES;
        let (buffer, result) = loop {
            match self.look_for(number) {
                Some(ended) => break ended,
                None => interrupts::relax(),
            }
        };
        result.map_err(|cause| ArchiveError::Disk { offset, cause })?;
        let start = (offset % CHUNK_BYTES) as usize;
        let end = buffer.len_bytes.min(start + max_bytes.min(CHUNK_BYTES) as usize);
        if start >= end {
            return Err(beyond);
        }
        Ok(Piece { buffer, range: start..end })
    }

    /// A chunk, if it is here; if not, it is asked for. So are the ones behind it.
    fn look_for(&self, number: u64) -> Option<(Arc<Prefix>, Result<(), DiskError>)> {
        let mut chunks = self.chunks.lock();
        chunks.take_ended(self.disk);
        chunks.now += 1;
        let now = chunks.now;
        for wanted in number..=number + self.ahead {
            if wanted * CHUNK_BYTES >= self.len_bytes || !chunks.ask_for(wanted, self.disk, self.len_bytes) {
                break;
            }
        }
        let chunk = chunks.known.iter_mut().find(|chunk| chunk.number == number)?;
        chunk.last_used = now;
        chunk.ended.clone()
    }
}

impl Chunks {
    /// Takes from the disk what it has read.
    fn take_ended(&mut self, disk: &'static InputDisk) {
        while let Some((buffer, result)) = disk.poll() {
            let number = buffer.tag as u64;
            if let Some(chunk) = self.known.iter_mut().find(|chunk| chunk.number == number) {
                chunk.ended = Some((Arc::new(buffer), result));
            }
        }
    }

    /// Has a chunk read, unless it is here or on its way; `false` if that is not possible now.
    fn ask_for(&mut self, number: u64, disk: &'static InputDisk, len_bytes: u64) -> bool {
        if self.known.iter().any(|chunk| chunk.number == number) {
            return true;
        }
        let Some(mut buffer) = self.idle.pop().or_else(|| self.release(number)) else { return false };
        let first = number * CHUNK_BYTES;
        buffer.tag = number as usize;
        buffer.len_bytes = CHUNK_BYTES.min(len_bytes - first) as usize;
        if let Err(buffer) = disk.submit(Op::Read(first / SECTOR_BYTES), buffer) {
            self.idle.push(buffer);
            return false;
        }
        self.known.push(Chunk { number, last_used: self.now, ended: None });
        true
    }

    /// Takes the buffer of the chunk that has not been used for the longest time, if nobody reads it. Chunks of the
    /// present demand stay.
    fn release(&mut self, wanted: u64) -> Option<Prefix> {
        let is_free = |chunk: &Chunk| match &chunk.ended {
            Some((buffer, _)) => {
                Arc::strong_count(buffer) == 1 && (chunk.last_used < self.now || chunk.number < wanted)
            }
            None => false,
        };
        let free = self.known.iter().enumerate().filter(|(_, chunk)| is_free(chunk));
        let (index, _) = free.min_by_key(|(_, chunk)| chunk.last_used)?;
        // Readers get their share under the lock alone, so the last one it is.
        self.known.swap_remove(index).ended.and_then(|(buffer, _)| Arc::into_inner(buffer))
    }
}
