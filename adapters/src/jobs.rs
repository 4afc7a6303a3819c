//! What a device of this crate has been asked for and has not begun: one transfer and one flush at most.
//!
//! Invariant: a flush is given out only when no transfer waits, so it covers all that was delivered before it was asked
//! for.
#![forbid(unsafe_code)]

use arenite_core::{DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};

/// What is given out at a time.
pub(crate) enum Job<'m> {
    Transfer(Request<'m>),
    Flush(FlushTag),
}

/// Jobs that wait.
#[derive(Default)]
pub(crate) struct Jobs<'m> {
    request: Option<Request<'m>>,
    flush: Option<FlushTag>,
}

impl<'m> Jobs<'m> {
    pub(crate) fn is_empty(&self) -> bool {
        self.request.is_none() && self.flush.is_none()
    }

    /// Keeps a transfer; gives it back if one waits already.
    pub(crate) fn put_request(&mut self, request: Request<'m>) -> Result<(), Request<'m>> {
        if self.request.is_some() {
            return Err(request);
        }
        self.request = Some(request);
        Ok(())
    }

    /// The same for a flush.
    pub(crate) fn put_flush(&mut self, tag: FlushTag) -> Result<(), FlushTag> {
        if self.flush.is_some() {
            return Err(tag);
        }
        self.flush = Some(tag);
        Ok(())
    }

    /// What is to be done next.
    pub(crate) fn take(&mut self) -> Option<Job<'m>> {
        self.request.take().map(Job::Transfer).or_else(|| self.flush.take().map(Job::Flush))
    }
}

/// Whether a disk like this one can carry a request out.
pub(crate) fn check(geometry: &DeviceGeometry, request: &Request<'_>) -> Result<(), DeviceError> {
    let end = request.addr().checked_add(request.len_bytes());
    let inside = end.is_some_and(|end| end <= geometry.len_bytes);
    match request.kind() {
        RequestKind::Read if inside => Ok(()),
        RequestKind::Write if inside && !geometry.read_only => Ok(()),
        _ => Err(DeviceError::Unsupported),
    }
}
