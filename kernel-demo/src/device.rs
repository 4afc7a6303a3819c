//! The store's disk: the core's [`Device`] over the disk driver.
//!
//! A request of the store owns the blocks that it names, and the driver wants an owner for the memory that it gives to
//! the device, so the two fit: the request itself is the owner, goes into the driver, and comes back with the result.
//! Nothing is copied, and nothing waits.

use core::sync::atomic::{AtomicU64, Ordering};

use arenite_core::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};

use crate::blk::{Disk, DiskError, DiskInfo, Op, Owner, Segments, SECTOR_BYTES};

/// Largest transfer that the store is told of, in bytes. Blocks are adjacent more often than buffers can be listed.
const MAX_TRANSFER_BYTES: u32 = 1 << 20;

/// What the driver keeps while the device works for the store.
pub enum StoreOwner {
    /// A read or write, with its buffers.
    Transfer(Request<'static>),
    /// A flush, which has none.
    Flush(FlushTag),
}

// SAFETY: the buffers of a request lie in the store's memory, which is a static: they stay at their addresses and valid
// for ever, whatever happens to the request. While the request exists, the blocks of a write are final (the core hands
// out shared references to them only), and those of a read are reached through the request alone.
unsafe impl Owner for StoreOwner {
    fn segments(&mut self, segments: &mut Segments) {
        let Self::Transfer(request) = self else { return };
        match request.kind() {
            RequestKind::Read => request.buffers_mut().into_iter().flatten().for_each(|bytes| segments.push_mut(bytes)),
            RequestKind::Write => request.buffers().into_iter().flatten().for_each(|bytes| segments.push(bytes)),
            // Without buffers the driver refuses it, which is what is to happen to a request of unknown kind.
            _ => {}
        }
    }
}

/// What went over the wire, completed requests only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Flushes.
    pub flushes: u64,
}

/// The disk that holds the store.
pub struct StoreDisk {
    disk: &'static Disk<StoreOwner>,
    read_bytes: AtomicU64,
    write_bytes: AtomicU64,
    flushes: AtomicU64,
}

impl StoreDisk {
    /// Makes a device of a disk.
    pub fn new(disk: &'static Disk<StoreOwner>) -> Self {
        let [read_bytes, write_bytes, flushes] = [const { AtomicU64::new(0) }; 3];
        Self { disk, read_bytes, write_bytes, flushes }
    }

    /// What the disk is like.
    pub fn info(&self) -> &DiskInfo {
        self.disk.info()
    }

    /// What was transferred so far.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            write_bytes: self.write_bytes.load(Ordering::Relaxed),
            flushes: self.flushes.load(Ordering::Relaxed),
        }
    }

    fn count(&self, owner: &StoreOwner) {
        let (counter, amount) = match owner {
            StoreOwner::Flush(_) => (&self.flushes, 1),
            StoreOwner::Transfer(request) => match request.kind() {
                RequestKind::Read => (&self.read_bytes, request.len_bytes()),
                _ => (&self.write_bytes, request.len_bytes()),
            },
        };
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

fn device_error(error: DiskError) -> DeviceError {
    match error {
        DiskError::Io => DeviceError::Io,
        DiskError::Timeout => DeviceError::Timeout,
        DiskError::Gone => DeviceError::Gone,
        DiskError::Unsupported | DiskError::Invalid => DeviceError::Unsupported,
    }
}

impl Device<'static> for StoreDisk {
    fn geometry(&self) -> DeviceGeometry {
        let info = self.disk.info();
        DeviceGeometry {
            len_bytes: info.sectors * SECTOR_BYTES,
            logical_sector_len_bytes: info.logical_sector_bytes,
            physical_sector_len_bytes: info.physical_sector_bytes,
            max_transfer_len_bytes: MAX_TRANSFER_BYTES,
            max_segments: info.max_segments as u16,
            queue_depth: info.max_requests as u16,
            read_only: info.read_only,
            volatile_cache: info.volatile_cache,
            discard: false,
        }
    }

    fn submit(&self, request: Request<'static>) -> Result<(), Request<'static>> {
        let sector = request.addr() / SECTOR_BYTES;
        let op = if request.kind() == RequestKind::Write { Op::Write(sector) } else { Op::Read(sector) };
        match self.disk.submit(op, StoreOwner::Transfer(request)) {
            Err(StoreOwner::Transfer(request)) => Err(request),
            Err(StoreOwner::Flush(_)) => unreachable!("the driver gives back what it was given"),
            Ok(()) => Ok(()),
        }
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        // A tag that comes back is the one that was given.
        self.disk.submit(Op::Flush, StoreOwner::Flush(tag)).map_err(|_| tag)
    }

    fn poll(&self) -> Option<Completion<'static>> {
        let (owner, result) = self.disk.poll()?;
        if result.is_ok() {
            self.count(&owner);
        }
        let result = result.map_err(device_error);
        Some(match owner {
            StoreOwner::Transfer(request) => Completion::Transfer(request, result),
            StoreOwner::Flush(tag) => Completion::Flush(tag, result),
        })
    }
}
