//! A file whose flushes cost nothing: for questions about processor time that a real flush would drown. What is
//! measured with it says nothing about durability.
#![forbid(unsafe_code)]

use arenite_core::{Completion, Device, DeviceGeometry, FlushTag, Request};
use arenite_shim::FileDevice;
use std::sync::{Mutex, PoisonError};

/// A file device that answers every flush at once.
pub struct Unflushed<'m> {
    file: FileDevice<'m>,
    flushed: Mutex<Vec<FlushTag>>,
}

impl<'m> Unflushed<'m> {
    /// Over this file.
    pub fn new(file: FileDevice<'m>) -> Self {
        Self { file, flushed: Mutex::default() }
    }
}

impl<'m> Device<'m> for Unflushed<'m> {
    fn geometry(&self) -> DeviceGeometry {
        self.file.geometry()
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        self.file.submit(request)
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.flushed.lock().unwrap_or_else(PoisonError::into_inner).push(tag);
        Ok(())
    }

    fn poll(&self) -> Option<Completion<'m>> {
        let tag = self.flushed.lock().unwrap_or_else(PoisonError::into_inner).pop();
        tag.map(|tag| Completion::Flush(tag, Ok(()))).or_else(|| self.file.poll())
    }
}
