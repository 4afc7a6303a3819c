#![forbid(unsafe_code)]
//! The 512 bytes in front of each entry of a tar archive.
//!
//! ```text
//!   0 name[100]  100 mode[8]  124 size[12]  148 checksum[8]  156 type  157 target[100]  257 magic[6]  345 prefix[155]
//! ```
//! Numbers are octal text, ended by a blank or a zero. The checksum is the sum of all bytes, its own taken for blanks.

use alloc::vec::Vec;
use core::ops::Range;

/// Bytes of a header; content is padded to a multiple of it.
pub const HEADER_BYTES: u64 = 512;

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const SIZE: Range<usize> = 124..136;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const TARGET: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..263;
const PREFIX: Range<usize> = 345..500;

/// Types of entries that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// Its content is the path of the next entry.
    LongPath,
    /// Its content is the link target of the next entry.
    LongTarget,
}

/// What a header says.
pub struct Header {
    /// What follows.
    pub entry_type: Type,
    /// Path, as far as it fits here.
    pub path: Vec<u8>,
    /// Link target, as far as it fits here.
    pub target: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Length of the content.
    pub size_bytes: u64,
}

impl Header {
    /// Parses a header, whose checksum must be right.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let bytes: &[u8; HEADER_BYTES as usize] = bytes.try_into().map_err(|_| "a header that is cut off")?;
        let blank = |at: usize| if CHECKSUM.contains(&at) { b' ' } else { bytes[at] };
        let sum: u64 = (0..bytes.len()).map(|at| u64::from(blank(at))).sum();
        if octal(&bytes[CHECKSUM]) != Some(sum) {
            return Err("no header: the checksum is wrong");
        }
        let entry_type = match bytes[TYPE] {
            b'0' | 0 => Type::File,
            b'2' => Type::Symlink,
            b'5' => Type::Directory,
            b'L' => Type::LongPath,
            b'K' => Type::LongTarget,
            _ => return Err("an entry of a type that is not understood"),
        };
        let mut path = Vec::new();
        if &bytes[MAGIC] == b"ustar\0" && bytes[PREFIX.start] != 0 {
            path.extend_from_slice(text(&bytes[PREFIX]));
            path.push(b'/');
        }
        path.extend_from_slice(text(&bytes[NAME]));
        let mode = octal(&bytes[MODE]).ok_or("the mode is no number")?;
        Ok(Self {
            entry_type,
            path,
            target: text(&bytes[TARGET]).to_vec(),
            mode: (mode & 0o7777) as u32,
            size_bytes: octal(&bytes[SIZE]).ok_or("the size is no number")?,
        })
    }
}

/// What comes before the first zero.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// An octal number, between blanks at the front and blanks or zeroes behind.
fn octal(field: &[u8]) -> Option<u64> {
    let field = text(field).trim_ascii();
    field.iter().try_fold(0u64, |value, byte| match byte {
        b'0'..=b'7' => Some(value.checked_mul(8)? | u64::from(byte - b'0')),
        _ => None,
    })
}
