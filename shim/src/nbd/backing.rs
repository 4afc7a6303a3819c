//! Where the bytes of an export are.
#![forbid(unsafe_code)]

use crate::disk::Disk;
use crate::file::FileDevice;
use crate::image::ReadAt;
use arenite_core::DeviceError;

/// Bytes that can be read, written and made durable, each at once.
pub trait Backing: ReadAt {
    /// Whether writes are refused.
    fn read_only(&self) -> bool {
        false
    }

    /// Writes all bytes, or fails; then any of their sectors may have changed.
    fn write_at(&self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Makes durable all that was written before.
    fn sync(&self) -> Result<(), DeviceError>;
}

impl Backing for Disk {
    fn write_at(&self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        Self::write_at(self, addr, bytes)
    }

    /// The bytes outlive the devices on them, and nothing else.
    fn sync(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

impl Backing for FileDevice<'_> {
    fn read_only(&self) -> bool {
        self.is_read_only()
    }

    fn write_at(&self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        Self::write_at(self, addr, bytes)
    }

    fn sync(&self) -> Result<(), DeviceError> {
        Self::sync(self)
    }
}
