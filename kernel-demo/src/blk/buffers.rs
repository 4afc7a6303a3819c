//! The buffers of one request in the form that the ring takes them: what the device reads, then what it writes.

use super::owner::Segment;
use super::queue::MAX_SEGMENTS;

/// Bytes of the header, which comes first.
pub(super) const HEADER_BYTES: usize = 16;

/// The part of a request that the device sees beside the buffers. It never moves while the queue exists.
#[repr(C)]
pub(super) struct Shared {
    /// Little endian: u32 kind, u32 zero, u64 sector.
    pub(super) header: [u8; HEADER_BYTES],
    /// What the device says in the end.
    pub(super) status: u8,
}

const _: () = assert!(core::mem::offset_of!(Shared, status) == HEADER_BYTES, "the status follows the header");

/// The address of the status byte.
pub(super) fn status_of(shared: *mut Shared) -> *mut u8 {
    shared.cast::<u8>().wrapping_add(HEADER_BYTES)
}

/// See the head of this file.
pub(super) struct Buffers<'b> {
    inputs: [&'b [u8]; MAX_SEGMENTS + 1],
    input_count: usize,
    outputs: [&'b mut [u8]; MAX_SEGMENTS + 1],
    output_count: usize,
}

impl<'b> Buffers<'b> {
    pub(super) fn new() -> Self {
        Self {
            inputs: [&[]; MAX_SEGMENTS + 1],
            input_count: 0,
            outputs: core::array::from_fn(|_| Default::default()),
            output_count: 0,
        }
    }

    /// Lists header, segments and status of a request in the order that the protocol demands.
    ///
    /// # Safety
    /// While `self` is in use, the segments must be valid, must not be changed elsewhere, and unless the device only
    /// reads them (`to_device`) not be accessed elsewhere; the same goes for `shared`.
    pub(super) unsafe fn fill(&mut self, to_device: bool, segments: &[Segment], shared: *mut Shared) {
        // SAFETY: the caller promises that the memory is valid and not changed elsewhere.
        self.add_input(unsafe { core::slice::from_raw_parts(shared.cast::<u8>(), HEADER_BYTES) });
        for segment in segments {
            let (ptr, len) = (segment.ptr, segment.len_bytes as usize);
            if to_device {
                // SAFETY: as above; the device only reads it.
                self.add_input(unsafe { core::slice::from_raw_parts(ptr, len) });
            } else {
                // SAFETY: the caller promises that nothing else accesses it.
                self.add_output(unsafe { core::slice::from_raw_parts_mut(ptr, len) });
            }
        }
        // SAFETY: as for the header; the two do not overlap.
        self.add_output(unsafe { core::slice::from_raw_parts_mut(status_of(shared), 1) });
    }

    fn add_input(&mut self, buffer: &'b [u8]) {
        self.inputs[self.input_count] = buffer;
        self.input_count += 1;
    }

    fn add_output(&mut self, buffer: &'b mut [u8]) {
        self.outputs[self.output_count] = buffer;
        self.output_count += 1;
    }

    pub(super) fn lists(&mut self) -> (&[&'b [u8]], &mut [&'b mut [u8]]) {
        (&self.inputs[..self.input_count], &mut self.outputs[..self.output_count])
    }
}
