//! A device that is a part of another device.
//!
//! Requests go on to the device below at their address plus the start of the part, and come back at the address that
//! they had. Nothing is copied, and nothing waits: the buffers that a request owns stay where they are.
//!
//! Invariant: no request reaches the device below that is not wholly within the part. The store asks for no such thing;
//! if it did, the request would come back as [`DeviceError::Unsupported`], so that whatever lies beside the part is
//! safe from it.
//!
//! The device below belongs to the window while the window is in use: completions that it delivers are taken for those
//! of the window's requests.
//!
//! Lock order: one lock around the refused request, a leaf, never held while the device below is called.

use core::fmt;

use arenite_core::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request};
use spin::Mutex;

use crate::partition::Partition;

/// Why a range of a device cannot be a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowError {
    /// It leaves the device, or is empty.
    Range {
        /// Its first byte.
        start_bytes: u64,
        /// Its length.
        len_bytes: u64,
        /// The length of the device.
        device_len_bytes: u64,
    },
    /// It does not begin at a physical sector, so that writes of blocks would not be whole sectors.
    Misaligned {
        /// Its first byte.
        start_bytes: u64,
        /// Bytes of a physical sector.
        physical_sector_len_bytes: u32,
    },
    /// Its length is no multiple of the logical sector.
    Len {
        /// Its length.
        len_bytes: u64,
        /// Bytes of a logical sector.
        logical_sector_len_bytes: u32,
    },
}

impl fmt::Display for WindowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range { start_bytes, len_bytes, device_len_bytes } => write!(
                f,
                "{len_bytes} bytes from byte {start_bytes} on are not a part of a device of {device_len_bytes} bytes"
            ),
            Self::Misaligned { start_bytes, physical_sector_len_bytes } => {
                write!(f, "byte {start_bytes} is not aligned to physical sectors of {physical_sector_len_bytes} bytes")
            }
            Self::Len { len_bytes, logical_sector_len_bytes } => {
                write!(f, "{len_bytes} bytes are no multiple of sectors of {logical_sector_len_bytes} bytes")
            }
        }
    }
}

/// A range of bytes of a device, as a device. See the head of this file.
pub struct Window<'d, 'm> {
    device: &'d dyn Device<'m>,
    start_bytes: u64,
    len_bytes: u64,
    /// A request that was not passed on; the next poll delivers it.
    refused: Mutex<Option<Request<'m>>>,
}

impl<'d, 'm> Window<'d, 'm> {
    /// The `len_bytes` bytes of `device` from byte `start_bytes` on.
    ///
    /// # Errors
    /// See [`WindowError`].
    pub fn new(device: &'d dyn Device<'m>, start_bytes: u64, len_bytes: u64) -> Result<Self, WindowError> {
        let geometry = device.geometry();
        let (logical, physical) = (geometry.logical_sector_len_bytes, geometry.physical_sector_len_bytes);
        let device_len_bytes = geometry.len_bytes;
        let end = start_bytes.checked_add(len_bytes);
        if len_bytes == 0 || end.is_none_or(|end| end > device_len_bytes) {
            return Err(WindowError::Range { start_bytes, len_bytes, device_len_bytes });
        }
        let unit = logical.max(physical).max(1);
        if !start_bytes.is_multiple_of(u64::from(unit)) {
            return Err(WindowError::Misaligned { start_bytes, physical_sector_len_bytes: unit });
        }
        if !len_bytes.is_multiple_of(u64::from(logical.max(1))) {
            return Err(WindowError::Len { len_bytes, logical_sector_len_bytes: logical });
        }
        Ok(Self { device, start_bytes, len_bytes, refused: Mutex::new(None) })
    }

    /// This partition of `device`.
    ///
    /// # Errors
    /// See [`WindowError`].
    pub fn of_partition(device: &'d dyn Device<'m>, partition: &Partition) -> Result<Self, WindowError> {
        Self::new(device, partition.start_bytes(), partition.len_bytes())
    }

    /// The first byte of the device below that is seen.
    pub fn start_bytes(&self) -> u64 {
        self.start_bytes
    }

    /// The same request as the device below is to see it, or as it is if it leaves the range.
    fn outward(&self, request: Request<'m>) -> Result<Request<'m>, Request<'m>> {
        let end = request.addr().checked_add(request.len_bytes());
        match end {
            Some(end) if end <= self.len_bytes => {
                let addr = request.addr() + self.start_bytes;
                Ok(request.at(addr))
            }
            _ => Err(request),
        }
    }

    /// The same request as the store has made it.
    fn inward(&self, request: Request<'m>) -> Request<'m> {
        let addr = request.addr().wrapping_sub(self.start_bytes);
        request.at(addr)
    }

    /// Keeps a request for the next poll; gives it back if there is one already.
    fn refuse(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        let mut refused = self.refused.lock();
        if refused.is_some() {
            return Err(request);
        }
        *refused = Some(request);
        Ok(())
    }
}

impl<'m> Device<'m> for Window<'_, 'm> {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry { len_bytes: self.len_bytes, ..self.device.geometry() }
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        match self.outward(request) {
            Ok(request) => self.device.submit(request).map_err(|request| self.inward(request)),
            Err(request) => self.refuse(request),
        }
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.device.flush(tag)
    }

    fn poll(&self) -> Option<Completion<'m>> {
        let refused = self.refused.lock().take();
        if let Some(request) = refused {
            return Some(Completion::Transfer(request, Err(DeviceError::Unsupported)));
        }
        Some(match self.device.poll()? {
            Completion::Transfer(request, result) => Completion::Transfer(self.inward(request), result),
            flush @ Completion::Flush(..) => flush,
        })
    }
}
