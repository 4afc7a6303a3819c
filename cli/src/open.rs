//! Files and block devices that are to be written to.
//!
//! Whoever changes a volume has its file locked (advisory, `flock`), so that two tools never work on one volume, and no
//! tool on one that is in use by another user of the file device. The lock is taken once, before the file is looked at,
//! and held until the command ends: what was found is still so when it is acted upon. A block device is opened
//! exclusively besides, which fails while it is mounted. Disks of a running QEMU are locked in its own way
//! ([`crate::guest`]).

use crate::failure::Failure;
use crate::guest;
use crate::place::{Part, Place};
use arenite_core::Device;
use arenite_partition::Window;
use arenite_shim::{FileDevice, FileOptions, OpenError};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Missing,
    File { len_bytes: u64 },
    BlockDevice,
}

/// Looks, without opening anything: opening a pipe would wait for somebody at its other end.
pub(crate) fn kind(path: &Path) -> Result<Kind, Failure> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Kind::File { len_bytes: metadata.len() }),
        Ok(metadata) if metadata.file_type().is_block_device() => Ok(Kind::BlockDevice),
        Ok(metadata) if metadata.is_dir() => Err(Failure::no_volume("a directory, not an image")),
        Ok(_) => Err(Failure::no_volume("neither a regular file nor a block device")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kind::Missing),
        Err(error) => Err(Failure::no_volume(error.to_string())),
    }
}

/// The same of an image that must be there.
pub(crate) fn existing(path: &Path) -> Result<Kind, Failure> {
    match kind(path)? {
        Kind::Missing => Err(Failure::no_volume(io::Error::from(io::ErrorKind::NotFound).to_string())),
        found => Ok(found),
    }
}

/// A file or block device that is open for writing, and locked for as long as this value is there.
pub(crate) struct Locked {
    file: File,
    /// A partition, which was looked for when the file was locked; without one all of the file, however long it is.
    partition: Option<Part>,
}

impl Locked {
    /// Opens and locks what must be there.
    pub(crate) fn open(place: &Place) -> Result<Self, Failure> {
        let path = place.path();
        let mut how = OpenOptions::new();
        how.read(true).write(true);
        if existing(path)? == Kind::BlockDevice {
            how.custom_flags(OFlags::EXCL.bits().cast_signed());
        }
        let mut locked = Self::lock(how.open(path))?;
        if place.is_partition() {
            let part = place.part(&locked.file, locked.end_bytes()?);
            locked.partition = Some(part.map_err(|error| Failure::no_volume(error.to_string()))?);
        }
        Ok(locked)
    }

    /// Makes and locks a file that must not be there.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        Self::lock(OpenOptions::new().read(true).write(true).create_new(true).open(path))
    }

    fn lock(opened: io::Result<File>) -> Result<Self, Failure> {
        let file = opened.map_err(|error| match error.raw_os_error() {
            Some(code) if code == Errno::BUSY.raw_os_error() => in_use("the device is mounted or held exclusively"),
            _ => Failure::no_volume(error.to_string()),
        })?;
        match file.try_lock() {
            Ok(()) if !guest::take_for_writing(&file) => Err(in_use(guest::HAS_IT)),
            Ok(()) => Ok(Self { file, partition: None }),
            Err(TryLockError::WouldBlock) => Err(in_use(LOCKED)),
            Err(TryLockError::Error(error)) => Err(Failure::io(&error)),
        }
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Length in bytes, of block devices too, or of the partition.
    pub(crate) fn len_bytes(&self) -> Result<u64, Failure> {
        self.part().map(|part| part.len_bytes)
    }

    /// Which bytes of the file are meant.
    pub(crate) fn part(&self) -> Result<Part, Failure> {
        match self.partition {
            Some(part) => Ok(part),
            None => Ok(Part { start_bytes: 0, len_bytes: self.end_bytes()? }),
        }
    }

    fn end_bytes(&self) -> Result<u64, Failure> {
        (&self.file).seek(SeekFrom::End(0)).map_err(|error| Failure::io(&error))
    }

    /// Gives a regular file another length.
    pub(crate) fn resize(&self, len_bytes: u64) -> Result<(), Failure> {
        self.file.set_len(len_bytes).map_err(|error| Failure::io(&error))
    }

    /// The whole file as a device, under the same lock. Not to be used for longer than this value is there.
    pub(crate) fn device<'m>(&self) -> Result<FileDevice<'m>, Failure> {
        let file = self.file.try_clone().map_err(|error| Failure::io(&error))?;
        FileDevice::from_file(file, FileOptions::default()).map_err(not_opened)
    }

    /// The part of that device that is meant, if it is not all of it.
    pub(crate) fn window<'d, 'm>(&self, device: &'d dyn Device<'m>) -> Result<Option<Window<'d, 'm>>, Failure> {
        let window = self.partition.map(|part| Window::new(device, part.start_bytes, part.len_bytes));
        window.transpose().map_err(|error| Failure::no_volume(error.to_string()))
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Its devices are gone. Closing would do, were there no process being started by another thread at this moment.
        let _ = self.file.unlock();
    }
}

/// Why there is no device.
pub(crate) fn not_opened(error: OpenError) -> Failure {
    match error {
        OpenError::InUse => in_use(LOCKED),
        other => Failure::no_volume(other.to_string()),
    }
}

const LOCKED: &str = "another program has it locked";

fn in_use(why: &str) -> Failure {
    Failure::no_volume(format!("in use: {why}"))
}
