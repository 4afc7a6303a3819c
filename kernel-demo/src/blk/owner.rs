//! Who owns the memory that a device reads and writes.

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
    /// Segments of one owner are not to be sent along without it.
    _not_send: PhantomData<*mut u8>,
}

impl Segments {
    pub(super) const EMPTY: [Segment; MAX_SEGMENTS] =
        [Segment { ptr: core::ptr::null_mut(), len_bytes: 0 }; MAX_SEGMENTS];

    pub(super) fn new() -> Self {
        Self { list: Self::EMPTY, len: 0, overflow: false, _not_send: PhantomData }
    }

    /// Adds a buffer that the device may read.
    pub fn push(&mut self, buffer: &[u8]) {
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
/// Whatever [`Owner::segments`] lists must stay valid, at the same addresses, for as long as the value exists, even when
/// the value is moved or forgotten. For a request that reads from the disk nothing else may access it in that time, and
/// it must have been added with [`Segments::push_mut`]; for one that writes to the disk nothing may change it. A value
/// that is submitted with [`Op::Read`](super::Op::Read) and lists buffers added with [`Segments::push`] breaks this.
pub unsafe trait Owner: Send + 'static {
    /// Lists the buffers, none for a flush. Called once per request, before the device sees it.
    fn segments(&mut self, segments: &mut Segments);
}

// SAFETY: the bytes stay where they are when the reference moves, live for ever, and are accessible only through the
// reference, which is exclusive and in the driver's hands.
unsafe impl Owner for &'static mut [u8] {
    fn segments(&mut self, segments: &mut Segments) {
        if !self.is_empty() {
            segments.push_mut(self);
        }
    }
}
