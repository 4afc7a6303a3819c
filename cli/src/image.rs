//! A file or block device of the host as a device that can only be read.
//!
//! What is in use by another program is refused, unless the user insists ([`Image::open`], then nothing is locked).
//! Reads are carried out one at a time, when they are polled.

use crate::guest;
use crate::place::{Part, Place};
use arenite_core::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};
use std::fs::{File, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Unit of addressing. Buffered reads of the host have no alignment of their own.
const SECTOR_LEN_BYTES: u32 = 512;

/// An open image.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    part: Part,
}

impl Image {
    /// Opens for reading only.
    pub(crate) fn open(place: &Place) -> io::Result<Self> {
        let path = place.path();
        // Asked before opening: opening a pipe would wait for somebody to write to it.
        let kind = std::fs::metadata(path)?.file_type();
        if kind.is_dir() {
            return Err(io::Error::other("a directory, not an image"));
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::other("neither a regular file nor a block device"));
        }
        let mut file = File::open(path)?;
        // The metadata of a block device say nothing about its size.
        let len_bytes = file.seek(SeekFrom::End(0))?;
        let part = place.part(&file, len_bytes)?;
        Ok(Self { file, part })
    }

    /// Opens what nobody writes to. One of our programs cannot begin to, for as long as this value is there; QEMU can.
    pub(crate) fn open_unused(place: &Place, no_lock: bool) -> io::Result<Self> {
        let image = Self::open(place)?;
        if !no_lock {
            let hint = "; --no-lock shows it nevertheless";
            image.lock().map_err(|error| io::Error::other(format!("{error}{hint}")))?;
            if guest::is_written(&image.file) {
                return Err(io::Error::other(format!("in use: {}{hint}", guest::HAS_IT)));
            }
        }
        Ok(image)
    }

    /// Opens what nobody writes to, and nobody can begin to for as long as this value is there.
    pub(crate) fn open_locked(place: &Place) -> io::Result<Self> {
        let image = Self::open(place)?;
        image.lock()?;
        match guest::forbid_writing(&image.file) {
            true => Ok(image),
            false => Err(io::Error::other(format!("in use: {}", guest::HAS_IT))),
        }
    }

    fn lock(&self) -> io::Result<()> {
        self.file.try_lock_shared().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other("in use: another program has it locked"),
            TryLockError::Error(error) => error,
        })
    }

    /// The open file, and which bytes of it are meant.
    pub(crate) fn into_parts(self) -> (File, Part) {
        (self.file, self.part)
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.part.len_bytes
    }

    pub(crate) fn read(&self, bytes: &mut [u8], addr: u64) -> io::Result<()> {
        let at = self.part.outward(addr, bytes.len());
        self.file.read_exact_at(bytes, at.ok_or(io::ErrorKind::UnexpectedEof)?)
    }
}

enum Job<'m> {
    Transfer(Request<'m>),
    Flush(FlushTag),
}

/// What the store sees of an [`Image`].
pub(crate) struct ImageDevice<'i, 'm> {
    image: &'i Image,
    /// Says that it can be written to, though it cannot.
    seems_writable: bool,
    waiting: Mutex<Option<Job<'m>>>,
}

impl<'i, 'm> ImageDevice<'i, 'm> {
    pub(crate) fn new(image: &'i Image) -> Self {
        Self { image, seems_writable: false, waiting: Mutex::new(None) }
    }

    /// A device that passes for one that can be written to, so that a mount sees the volume as one for writing would.
    /// Flushes succeed, as there is never anything to be flushed; writes fail.
    pub(crate) fn seeming_writable(image: &'i Image) -> Self {
        Self { seems_writable: true, ..Self::new(image) }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Job<'m>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn transfer(&self, request: &mut Request<'m>) -> Result<(), DeviceError> {
        if request.kind() != RequestKind::Read {
            return Err(DeviceError::Unsupported);
        }
        let mut addr = request.addr();
        for buffer in request.buffers_mut().into_iter().flatten() {
            self.image.read(buffer, addr).map_err(|_| DeviceError::Io)?;
            addr += buffer.len() as u64;
        }
        Ok(())
    }
}

impl<'m> Device<'m> for ImageDevice<'_, 'm> {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            len_bytes: self.image.len_bytes() - self.image.len_bytes() % u64::from(SECTOR_LEN_BYTES),
            logical_sector_len_bytes: SECTOR_LEN_BYTES,
            physical_sector_len_bytes: SECTOR_LEN_BYTES,
            max_transfer_len_bytes: 1 << 20,
            max_segments: 1,
            queue_depth: 1,
            read_only: !self.seems_writable,
            volatile_cache: false,
            discard: false,
        }
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        let mut waiting = self.waiting();
        if waiting.is_some() {
            return Err(request);
        }
        *waiting = Some(Job::Transfer(request));
        Ok(())
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        let mut waiting = self.waiting();
        if waiting.is_some() {
            return Err(tag);
        }
        *waiting = Some(Job::Flush(tag));
        Ok(())
    }

    fn poll(&self) -> Option<Completion<'m>> {
        let job = self.waiting().take()?;
        Some(match job {
            Job::Transfer(mut request) => {
                let result = self.transfer(&mut request);
                Completion::Transfer(request, result)
            }
            Job::Flush(tag) if self.seems_writable => Completion::Flush(tag, Ok(())),
            Job::Flush(tag) => Completion::Flush(tag, Err(DeviceError::Unsupported)),
        })
    }
}
