//! A device that serves one block as it was before it was last written, as another one, or not at all: once, or for as
//! long as nobody writes it.
//!
//! # Lock order
//! The lock of the stale block is a leaf; no device is called under it.
#![forbid(unsafe_code)]

use crate::disk::Disk;
use crate::mem::{MemDevice, MemOptions};
use arenite_core::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};
use std::sync::{Arc, Mutex, PoisonError};

/// What is served instead of what is there.
#[derive(Debug)]
pub struct Stale {
    /// First byte of the block.
    pub addr: u64,
    /// What is served: what it held before, say.
    pub bytes: Vec<u8>,
    /// Nothing is served, but an error.
    pub unreadable: bool,
    /// For so many reads more.
    pub reads: u32,
}

/// The device. Clones of `stale` can serve several mounts in turn.
pub struct StaleDevice<'m> {
    inner: MemDevice<'m>,
    stale: Arc<Mutex<Option<Stale>>>,
}

impl StaleDevice<'_> {
    /// A device over a disk.
    pub fn new(disk: Arc<Disk>, stale: Arc<Mutex<Option<Stale>>>) -> Self {
        Self { inner: MemDevice::new(disk, MemOptions::default()), stale }
    }

    /// Puts the old bytes into what was read, as far as they lie there; a write ends it.
    fn alter(&self, request: &mut Request<'_>) -> Result<(), DeviceError> {
        let mut guard = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stale) = guard.as_mut() else { return Ok(()) };
        let (start, end) = (stale.addr, stale.addr + stale.bytes.len() as u64);
        if end <= request.addr() || request.addr() + request.len_bytes() <= start {
            return Ok(());
        }
        if request.kind() != RequestKind::Read {
            *guard = None;
            return Ok(());
        }
        let served = if stale.unreadable { Err(DeviceError::Io) } else { Ok(()) };
        let mut addr = request.addr();
        for bytes in request.buffers_mut().into_iter().flatten() {
            for (at, byte) in (addr..).zip(bytes.iter_mut()).filter(|(at, _)| (start..end).contains(at)) {
                *byte = stale.bytes[(at - start) as usize];
            }
            addr += bytes.len() as u64;
        }
        stale.reads -= 1;
        if stale.reads == 0 {
            *guard = None;
        }
        served
    }
}

impl<'m> Device<'m> for StaleDevice<'m> {
    fn geometry(&self) -> DeviceGeometry {
        self.inner.geometry()
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        self.inner.submit(request)
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.inner.flush(tag)
    }

    fn poll(&self) -> Option<Completion<'m>> {
        let mut completion = self.inner.poll()?;
        if let Completion::Transfer(request, result @ Ok(())) = &mut completion {
            *result = self.alter(request);
        }
        Some(completion)
    }
}

impl std::fmt::Debug for StaleDevice<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaleDevice").field("stale", &self.stale).finish_non_exhaustive()
    }
}
