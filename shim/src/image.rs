//! Bytes of a volume that are read without a store: for checks and for building crash states.
#![forbid(unsafe_code)]

use arenite_core::DeviceError;
use std::sync::Arc;

/// Something with bytes at addresses: a disk in memory, a file.
pub trait ReadAt {
    /// Number of bytes.
    fn len_bytes(&self) -> u64;

    /// Fills `bytes` from `addr` on, wholly or not at all. [`DeviceError::Io`] if they are not all there.
    fn read_at(&self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;
}

impl<R: ReadAt + ?Sized> ReadAt for &R {
    fn len_bytes(&self) -> u64 {
        (**self).len_bytes()
    }

    fn read_at(&self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        (**self).read_at(addr, bytes)
    }
}

impl ReadAt for Arc<[u8]> {
    fn len_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let start = usize::try_from(addr).map_err(|_| DeviceError::Io)?;
        let end = start.checked_add(bytes.len()).ok_or(DeviceError::Io)?;
        bytes.copy_from_slice(self.get(start..end).ok_or(DeviceError::Io)?);
        Ok(())
    }
}

/// Whether a range is not wholly inside `len_bytes` bytes.
pub(crate) fn out_of_range(len_bytes: u64, addr: u64, count: usize) -> bool {
    addr.checked_add(count as u64).is_none_or(|end| end > len_bytes)
}
