//! A device that costs next to nothing: for questions about processor time that a real one would drown. What is
//! measured with it says nothing about durability.
#![forbid(unsafe_code)]

use arenite_core::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What such a device serves: the content of a file, kept in memory from the first time on that it is read.
pub struct Content {
    len_bytes: u64,
    /// Without it all is zeros.
    file: Option<File>,
    /// What was read before, by address.
    kept: Mutex<HashMap<u64, Box<[u8]>>>,
}

impl Content {
    /// So many bytes, of this file or zeros.
    pub fn new(len_bytes: u64, file: Option<File>) -> Self {
        Self { len_bytes, file, kept: Mutex::default() }
    }

    /// Copies what is at `addr`: out of memory, if the same was read before.
    ///
    /// # Errors
    /// Those of the file.
    pub fn read(&self, addr: u64, bytes: &mut [u8]) -> std::io::Result<()> {
        let mut kept = lock(&self.kept);
        if let Some(from) = kept.get(&addr).filter(|from| from.len() == bytes.len()) {
            bytes.copy_from_slice(from);
            return Ok(());
        }
        bytes.fill(0);
        if let Some(file) = &self.file {
            file.read_exact_at(bytes, addr)?;
        }
        kept.insert(addr, Box::from(&*bytes));
        Ok(())
    }
}

/// Serves a content; what is written is taken and forgotten, and a flush is answered at once.
pub struct LightDevice<'a, 'm> {
    content: &'a Content,
    done: Mutex<VecDeque<Completion<'m>>>,
}

impl<'a> LightDevice<'a, '_> {
    /// A device with this content.
    pub fn new(content: &'a Content) -> Self {
        Self { content, done: Mutex::default() }
    }

    fn carry_out(&self, request: &mut Request<'_>) -> Result<(), DeviceError> {
        if request.kind() != RequestKind::Read {
            return Ok(());
        }
        let mut addr = request.addr();
        for bytes in request.buffers_mut().into_iter().flatten() {
            self.content.read(addr, bytes).map_err(|_| DeviceError::Io)?;
            addr += bytes.len() as u64;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'m> Device<'m> for LightDevice<'_, 'm> {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            len_bytes: self.content.len_bytes,
            logical_sector_len_bytes: 512,
            physical_sector_len_bytes: 512,
            max_transfer_len_bytes: 1 << 20,
            max_segments: 64,
            queue_depth: 64,
            read_only: false,
            volatile_cache: true,
            discard: false,
        }
    }

    fn submit(&self, mut request: Request<'m>) -> Result<(), Request<'m>> {
        let result = self.carry_out(&mut request);
        lock(&self.done).push_back(Completion::Transfer(request, result));
        Ok(())
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        lock(&self.done).push_back(Completion::Flush(tag, Ok(())));
        Ok(())
    }

    fn poll(&self) -> Option<Completion<'m>> {
        lock(&self.done).pop_front()
    }
}
