//! What the raw driver makes of the disk: the same bytes, in requests of one size, so many at once.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::blk::{Disk, DiskError, Op, Prefix, SECTOR_BYTES};
use crate::device::StoreOwner;
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::stacks::PAGE_BYTES;
use crate::{interrupts, memory, time};

/// Buffers by their size in bytes, and how many there are of each: so many requests can be under way.
const BUFFERS: [(usize, usize); 3] = [(64 << 10, 64), (1 << 20, 32), (4 << 20, 16)];
/// Sizes of requests that are tried.
const REQUEST_BYTES: [usize; 4] = [64 << 10, 256 << 10, 1 << 20, 4 << 20];
/// Numbers of requests at once that are tried.
const DEPTHS: [usize; 5] = [1, 4, 16, 32, 64];
/// How often each way is tried.
const TRIES: usize = 2;

/// How the raw side transfers.
#[derive(Clone, Copy)]
pub struct Way {
    /// Bytes of a request.
    pub request_bytes: usize,
    /// Requests at once.
    pub depth: usize,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.request_bytes, self.depth)
    }
}

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// Read.
    Memory,
    /// Write, then flush.
    Disk,
}

/// A part of a disk, and buffers. Nobody else may have requests on the disk during a transfer.
pub struct Raw {
    disk: &'static Disk<StoreOwner>,
    part: Range<u64>,
    /// As [`BUFFERS`] lists them.
    idle: [Vec<Prefix>; BUFFERS.len()],
}

fn failed(error: DiskError) -> Failure {
    Failure::new(Outcome::Io, format_args!("the raw driver's transfer: {error:?}"))
}

impl Raw {
    /// These bytes of a disk.
    ///
    /// # Errors
    /// There is too little memory.
    pub fn new(disk: &'static Disk<StoreOwner>, part: Range<u64>) -> Result<Self, Failure> {
        let buffer = |len_bytes: usize, tag| {
            let bytes = memory::take_zeroed(len_bytes / PAGE_BYTES)?;
            bytes.fill(0xA5);
            Some(Prefix { tag, bytes, len_bytes })
        };
        let mut idle = [const { Vec::new() }; BUFFERS.len()];
        for (kind, (len_bytes, count)) in BUFFERS.into_iter().enumerate() {
            let all: Option<_> = (0..count).map(|_| buffer(len_bytes, kind)).collect();
            let none = || Failure::new(Outcome::Limit, format_args!("no memory for buffers of {len_bytes} bytes"));
            idle[kind] = all.ok_or_else(none)?;
        }
        Ok(Self { disk, part, idle })
    }

    /// The ways that disk and buffers allow; requests of a block's size only, or larger ones only.
    fn ways(&self, is_block: bool) -> impl Iterator<Item = Way> {
        let info = self.disk.info();
        let (max_bytes, max_depth) = (info.max_segment_bytes as usize, info.max_requests);
        let len_bytes = self.part.end - self.part.start;
        let sizes = if is_block { &[super::BLOCK_BYTES][..] } else { &REQUEST_BYTES };
        let fits = move |way: &Way| {
            let is_whole = len_bytes.is_multiple_of(way.request_bytes as u64);
            is_whole && way.request_bytes <= max_bytes && way.depth <= max_depth.min(BUFFERS[kind_for(way)].1)
        };
        let ways = sizes.iter().flat_map(|&request_bytes| DEPTHS.map(|depth| Way { request_bytes, depth }));
        ways.filter(fits)
    }

    /// The fastest way.
    ///
    /// # Errors
    /// The disk failed.
    pub fn best(&mut self, to: To, is_block: bool) -> Result<Way, Failure> {
        let mut best = (u64::MAX, Way { request_bytes: super::BLOCK_BYTES, depth: 1 });
        for way in self.ways(is_block).collect::<Vec<_>>() {
            let mut sum_us = 0;
            for _ in 0..TRIES {
                sum_us += self.transfer(to, way)?;
            }
            if sum_us < best.0 {
                best = (sum_us, way);
            }
        }
        Ok(best.1)
    }

    /// Transfers the whole part; returns microseconds.
    ///
    /// # Errors
    /// The disk failed.
    pub fn transfer(&mut self, to: To, way: Way) -> Result<u64, Failure> {
        let idle = &mut self.idle[kind_for(&way)];
        let mut ours = idle.split_off(idle.len() - way.depth);
        ours.iter_mut().for_each(|buffer| buffer.len_bytes = way.request_bytes);
        let (begin_us, mut next) = (time::micros(), self.part.start);
        while next < self.part.end || ours.len() < way.depth {
            let buffer = if next < self.part.end { ours.pop() } else { None };
            if let Some(buffer) = buffer {
                let sector = next / SECTOR_BYTES;
                let op = if to == To::Disk { Op::Write(sector) } else { Op::Read(sector) };
                match self.disk.submit(op, StoreOwner::Bare(buffer)) {
                    Ok(()) => {
                        next += way.request_bytes as u64;
                        continue;
                    }
                    Err(owner) => ours.extend(owner.bare()),
                }
            }
            self.wait(&mut ours)?;
        }
        if to == To::Disk {
            self.flush(&mut ours)?;
        }
        let took_us = time::micros() - begin_us;
        self.idle[kind_for(&way)].append(&mut ours);
        Ok(took_us.max(1))
    }

    /// Makes durable what was written, by a request that has a buffer and uses nothing of it.
    fn flush(&self, idle: &mut Vec<Prefix>) -> Result<(), Failure> {
        let all = idle.len();
        if let Some(mut buffer) = idle.pop() {
            buffer.len_bytes = 0;
            self.disk.submit(Op::Flush, StoreOwner::Bare(buffer)).map_err(|_| failed(DiskError::Gone))?;
        }
        while idle.len() < all {
            self.wait(idle)?;
        }
        Ok(())
    }

    /// Takes one buffer back, if one has come back.
    fn wait(&self, idle: &mut Vec<Prefix>) -> Result<(), Failure> {
        match self.disk.poll() {
            Some((owner, result)) => {
                idle.extend(owner.bare());
                result.map_err(failed)
            }
            None => {
                interrupts::relax();
                Ok(())
            }
        }
    }
}

/// The kind of buffer that a request of this size takes.
fn kind_for(way: &Way) -> usize {
    BUFFERS.iter().position(|(len_bytes, _)| way.request_bytes <= *len_bytes).unwrap_or(BUFFERS.len() - 1)
}
