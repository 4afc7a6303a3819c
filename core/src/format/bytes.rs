//! Checked access to big-endian integers in a byte slice.
//!
//! Every read and write of the codecs goes through these few functions. They answer `None` when the integer does not
//! lie wholly inside the slice, so that no offset, whatever it was computed from, can panic.
#![forbid(unsafe_code)]

/// Bytes `at .. at + N`.
#[inline]
pub(super) fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}

/// 16-bit integer at `at`.
#[inline]
pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    field(bytes, at).map(|b| u16::from_be_bytes(*b))
}

/// 32-bit integer at `at`.
#[inline]
pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(|b| u32::from_be_bytes(*b))
}

/// 64-bit integer at `at`.
#[inline]
pub(super) fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(|b| u64::from_be_bytes(*b))
}

/// Copies an array to `at`.
#[inline]
pub(super) fn put_array<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value;
    Some(())
}

/// Copies a slice to `at`.
#[inline]
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Option<()> {
    bytes.get_mut(at..)?.get_mut(..value.len())?.copy_from_slice(value);
    Some(())
}

/// Writes a 16-bit integer at `at`.
#[inline]
pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    put_array(bytes, at, value.to_be_bytes())
}

/// Writes a 32-bit integer at `at`.
#[inline]
pub(super) fn put32(bytes: &mut [u8], at: usize, value: u32) -> Option<()> {
    put_array(bytes, at, value.to_be_bytes())
}

/// Writes a 64-bit integer at `at`.
#[inline]
pub(super) fn put64(bytes: &mut [u8], at: usize, value: u64) -> Option<()> {
    put_array(bytes, at, value.to_be_bytes())
}
