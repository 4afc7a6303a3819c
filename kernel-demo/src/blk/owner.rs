//! Who owns the memory that a device reads and writes.

use alloc::vec::Vec;
use core::marker::PhantomData;

use super::queue::{DiskError, MAX_SEGMENTS};

/// One buffer of a request.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    pub(super) ptr: *mut u8,
    pub(super) len_bytes: u32,
}

// SAFETY: a segment is only an address. Whoever accesses the memory behind it argues for that access.
unsafe impl Send for Segment {}

/// The list of buffers that an [`Owner`] fills in, in the order of their addresses on the disk.
pub struct Segments {
    list: [Segment; MAX_SEGMENTS],
    len: usize,
    overflow: bool,
    writable: bool,
    /// Segments of one owner are not to be sent along without it.
    _not_send: PhantomData<*mut u8>,
}

impl Segments {
    pub(super) const EMPTY: [Segment; MAX_SEGMENTS] =
        [Segment { ptr: core::ptr::null_mut(), len_bytes: 0 }; MAX_SEGMENTS];

    pub(super) fn new() -> Self {
        Self { list: Self::EMPTY, len: 0, overflow: false, writable: true, _not_send: PhantomData }
    }

    /// Adds a buffer that the device may read, for requests that write to the disk.
    pub fn push(&mut self, buffer: &[u8]) {
        self.writable = false;
        self.add(buffer.as_ptr().cast_mut(), buffer.len());
    }

    /// Adds a buffer that the device may read or write.
    pub fn push_mut(&mut self, buffer: &mut [u8]) {
        self.add(buffer.as_mut_ptr(), buffer.len());
    }

    fn add(&mut self, ptr: *mut u8, len: usize) {
        match (self.list.get_mut(self.len), u32::try_from(len)) {
            (Some(place), Ok(len_bytes)) if len > 0 => {
                *place = Segment { ptr, len_bytes };
                self.len += 1;
            }
            _ => self.overflow = true,
        }
    }

    pub(super) fn as_slice(&self) -> &[Segment] {
        &self.list[..self.len]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0 && !self.overflow
    }

    /// Whether the device may write to all buffers.
    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    /// The sum of all lengths, if number and lengths are within the limits.
    pub(super) fn checked_len_bytes(&self, max_segments: usize, max_segment_bytes: u32) -> Result<u64, DiskError> {
        let fits = self.as_slice().iter().all(|segment| segment.len_bytes <= max_segment_bytes);
        if self.overflow || self.len > max_segments || !fits {
            return Err(DiskError::Invalid);
        }
        Ok(self.as_slice().iter().map(|segment| u64::from(segment.len_bytes)).sum())
    }
}

/// A value that owns the buffers of one request. The driver keeps it while the device may touch them.
///
/// # Safety
/// Whatever [`Owner::segments`] lists must stay valid, at the same addresses, for as long as the value exists, even
/// when the value is moved or forgotten. In that time nothing may change it, and what was added with
/// [`Segments::push_mut`] may not be accessed at all but through the value.
pub unsafe trait Owner: Send + 'static {
    /// Lists the buffers, none for a flush. Called once per request, before the device sees it.
    fn segments(&mut self, segments: &mut Segments);
}

/// A buffer that lives for ever.
pub enum Piece {
    /// Others may read it too: for requests that write to the disk.
    Shared(&'static [u8]),
    /// Nobody else has it.
    Exclusive(&'static mut [u8]),
}

/// The plainest owner: a number to know the request by, and a list of buffers.
pub struct Pieces {
    /// For the submitter's use.
    pub tag: usize,
    /// The buffers, in the order of their addresses on the disk.
    pub list: Vec<Piece>,
}

// SAFETY: the bytes stay where they are when the references move, and live for ever. Shared references forbid changes
// and exclusive ones forbid any other access; both are in the driver's hands.
unsafe impl Owner for Pieces {
    fn segments(&mut self, segments: &mut Segments) {
        for piece in &mut self.list {
            match piece {
                Piece::Shared(buffer) => segments.push(buffer),
                Piece::Exclusive(buffer) => segments.push_mut(buffer),
            }
        }
    }
}

/// A buffer that lives for ever, of which a request uses the front.
pub struct Prefix {
    /// For the submitter's use.
    pub tag: usize,
    /// The buffer. Nobody else has it.
    pub bytes: &'static mut [u8],
    /// How much of it a request uses; nothing if this is more than there is.
    pub len_bytes: usize,
}

// SAFETY: the bytes stay where they are when the reference moves, and live for ever; the exclusive reference forbids
// any other access and is in the driver's hands.
unsafe impl Owner for Prefix {
    fn segments(&mut self, segments: &mut Segments) {
        segments.push_mut(self.bytes.get_mut(..self.len_bytes).unwrap_or_default());
    }
}
