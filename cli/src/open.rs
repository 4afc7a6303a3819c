//! Files and block devices that are to be written to.
//!
//! Whoever changes a volume has its file locked (advisory, `flock`), so that two tools never work on one volume, and no
//! tool on one that is in use by another user of the file device.

use crate::failure::Failure;
use arenite_shim::{FileDevice, FileOptions, OpenError};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileTypeExt;
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

/// Opens and locks the device of a store.
pub(crate) fn device<'m>(path: &Path) -> Result<FileDevice<'m>, Failure> {
    existing(path)?;
    FileDevice::open(path, FileOptions::default()).map_err(|error| match error {
        OpenError::InUse => in_use(),
        other => Failure::no_volume(other.to_string()),
    })
}

fn in_use() -> Failure {
    Failure::no_volume("in use: another program has it locked")
}

/// Opens a regular file for what is done to it before it is the device of a store, and locks it.
pub(crate) fn file(path: &Path) -> Result<File, Failure> {
    let file =
        OpenOptions::new().read(true).write(true).open(path).map_err(|error| Failure::no_volume(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(in_use()),
        Err(TryLockError::Error(error)) => Err(Failure::io(&error)),
    }
}

/// Gives a regular file another length; nobody else may be using it.
pub(crate) fn resize(path: &Path, len_bytes: u64) -> Result<(), Failure> {
    file(path)?.set_len(len_bytes).map_err(|error| Failure::io(&error))
}
