//! The store's disk: the core's [`Device`] over the disk driver. (`simple_disk.rs` is another one, over a plainer
//! driver.)
//!
//! A request of the store owns the blocks that it names, and the driver wants an owner for the memory that it gives to
//! the device, so the two fit: the request itself is the owner, goes into the driver, and comes back with the result.
//! Nothing is copied, and nothing waits.

use arenite_core::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};

use arenite_partition::ReadSectors;

use crate::blk::{Disk, DiskError, Op, Owner, Prefix, Segments, SECTOR_BYTES};
use crate::memory;
use crate::stacks::PAGE_BYTES;

/// Largest transfer that the store is told of, in bytes. Blocks are adjacent more often than buffers can be listed.
const MAX_TRANSFER_BYTES: u32 = 1 << 20;

/// What the driver keeps while the device works for the store.
pub enum StoreOwner {
    /// A read or write, with its buffers.
    Transfer(Request<'static>),
    /// A flush, which has none.
    Flush(FlushTag),
    /// A request without the store, before there is one or while it has none under way. A flush uses nothing of the
    /// buffer.
    Bare(Prefix),
}

impl StoreOwner {
    /// The buffer of a request without the store.
    pub fn bare(self) -> Option<Prefix> {
        match self {
            Self::Bare(buffer) => Some(buffer),
            Self::Transfer(_) | Self::Flush(_) => None,
        }
    }
}

// SAFETY: the buffers of a request lie in the store's memory, which is a static: they stay at their addresses and valid
// for ever, whatever happens to the request. While the request exists, the blocks of a write are final (the core hands
// out shared references to them only), and those of a read are reached through the request alone.
unsafe impl Owner for StoreOwner {
    fn segments(&mut self, segments: &mut Segments) {
        let request = match self {
            Self::Transfer(request) => request,
            Self::Flush(_) => return,
            Self::Bare(buffer) if buffer.len_bytes == 0 => return,
            Self::Bare(buffer) => return buffer.segments(segments),
        };
        match request.kind() {
            RequestKind::Read => request.buffers_mut().into_iter().flatten().for_each(|bytes| segments.push_mut(bytes)),
            RequestKind::Write => request.buffers().into_iter().flatten().for_each(|bytes| segments.push(bytes)),
            // Without buffers the driver refuses it, which is what is to happen to a request of unknown kind.
            _ => {}
        }
    }
}

/// The device.
pub struct QueueDisk(&'static Disk<StoreOwner>);

impl QueueDisk {
    /// Makes a device of a disk.
    pub fn new(disk: &'static Disk<StoreOwner>) -> Self {
        Self(disk)
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

impl Device<'static> for QueueDisk {
    fn geometry(&self) -> DeviceGeometry {
        let info = self.0.info();
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
        match self.0.submit(op, StoreOwner::Transfer(request)) {
            Err(StoreOwner::Transfer(request)) => Err(request),
            Err(StoreOwner::Flush(_) | StoreOwner::Bare(_)) => {
                unreachable!("the driver gives back what it was given")
            }
            Ok(()) => Ok(()),
        }
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        // A tag that comes back is the one that was given.
        self.0.submit(Op::Flush, StoreOwner::Flush(tag)).map_err(|_| tag)
    }

    fn poll(&self) -> Option<Completion<'static>> {
        let (owner, result) = self.0.poll()?;
        let result = result.map_err(device_error);
        match owner {
            StoreOwner::Transfer(request) => Some(Completion::Transfer(request, result)),
            StoreOwner::Flush(tag) => Some(Completion::Flush(tag, result)),
            // Such are polled by whoever submitted them.
            StoreOwner::Bare(_) => None,
        }
    }
}

/// Reads single sectors and waits for each: while no store uses the disk.
pub struct Looker<'d> {
    disk: &'d QueueDisk,
    buffer: Option<&'static mut [u8]>,
}

impl<'d> Looker<'d> {
    /// Takes memory for a sector; `None` if there is none left.
    pub fn new(disk: &'d QueueDisk) -> Option<Self> {
        let len = disk.0.info().logical_sector_bytes as usize;
        let (buffer, _) = memory::take_zeroed(len.div_ceil(PAGE_BYTES))?.split_at_mut_checked(len)?;
        Some(Self { disk, buffer: Some(buffer) })
    }
}

impl ReadSectors for Looker<'_> {
    type Error = DeviceError;

    fn sector_len_bytes(&self) -> u32 {
        self.disk.0.info().logical_sector_bytes
    }

    fn sectors(&self) -> u64 {
        self.disk.0.info().sectors * SECTOR_BYTES / u64::from(self.sector_len_bytes())
    }

    fn read_sector(&mut self, lba: u64, sector: &mut [u8]) -> Result<(), DeviceError> {
        let first = lba.saturating_mul(u64::from(self.sector_len_bytes()) / SECTOR_BYTES);
        let buffer = self.buffer.take().ok_or(DeviceError::Gone)?;
        let len_bytes = buffer.len();
        let look = StoreOwner::Bare(Prefix { tag: 0, bytes: buffer, len_bytes });
        let (owner, result) = self.disk.0.run(Op::Read(first), look);
        let buffer = owner.bare().ok_or(DeviceError::Gone)?.bytes;
        let read = buffer.get(..sector.len()).map(|bytes| sector.copy_from_slice(bytes));
        self.buffer = Some(buffer);
        result.map_err(device_error)?;
        read.ok_or(DeviceError::Unsupported)
    }
}
