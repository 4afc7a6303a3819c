//! A disk in memory. A request is carried out when it is submitted, and returned by the next poll, so that a store on
//! such a disk does the same at the same instruction in every run.

use alloc::collections::VecDeque;

use arenite_core::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};
use spin::Mutex;

use crate::memory;
use crate::stacks::PAGE_BYTES;

/// Requests that may wait to be polled.
const DEPTH: usize = 64;
const SECTOR_BYTES: u32 = 512;
/// Buffers of one request.
const SEGMENTS: u16 = 32;

/// The disk.
pub struct RamDisk {
    len_bytes: u64,
    bytes: Mutex<&'static mut [u8]>,
    /// Never grows beyond its first capacity.
    done: Mutex<VecDeque<Completion<'static>>>,
}

impl RamDisk {
    /// A disk of zeroes; `None` if there is not so much memory.
    pub fn new(len_bytes: usize) -> Option<Self> {
        let bytes = memory::take_zeroed(len_bytes / PAGE_BYTES)?;
        let done = Mutex::new(VecDeque::with_capacity(DEPTH));
        Some(Self { len_bytes: bytes.len() as u64, bytes: Mutex::new(bytes), done })
    }

    fn has_room(&self) -> bool {
        self.done.lock().len() < DEPTH
    }

    fn carry_out(&self, request: &mut Request<'static>) -> Result<(), DeviceError> {
        let first = usize::try_from(request.addr()).map_err(|_| DeviceError::Unsupported)?;
        let mut disk = self.bytes.lock();
        let mut rest = disk.get_mut(first..).ok_or(DeviceError::Unsupported)?;
        let mut next = |len| {
            let (part, behind) = core::mem::take(&mut rest).split_at_mut_checked(len)?;
            rest = behind;
            Some(part)
        };
        match request.kind() {
            RequestKind::Read => request.buffers_mut().into_iter().flatten().try_for_each(|buffer| {
                buffer.copy_from_slice(next(buffer.len())?);
                Some(())
            }),
            RequestKind::Write => request.buffers().into_iter().flatten().try_for_each(|buffer| {
                next(buffer.len())?.copy_from_slice(buffer);
                Some(())
            }),
            _ => None,
        }
        .ok_or(DeviceError::Unsupported)
    }
}

impl Device<'static> for RamDisk {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            len_bytes: self.len_bytes,
            logical_sector_len_bytes: SECTOR_BYTES,
            physical_sector_len_bytes: SECTOR_BYTES,
            max_transfer_len_bytes: 1 << 20,
            max_segments: SEGMENTS,
            queue_depth: DEPTH as u16,
            read_only: false,
            volatile_cache: true,
            discard: false,
        }
    }

    fn submit(&self, mut request: Request<'static>) -> Result<(), Request<'static>> {
        if !self.has_room() {
            return Err(request);
        }
        let result = self.carry_out(&mut request);
        self.done.lock().push_back(Completion::Transfer(request, result));
        Ok(())
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        if !self.has_room() {
            return Err(tag);
        }
        self.done.lock().push_back(Completion::Flush(tag, Ok(())));
        Ok(())
    }

    fn poll(&self) -> Option<Completion<'static>> {
        self.done.lock().pop_front()
    }
}
