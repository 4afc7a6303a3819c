#![forbid(unsafe_code)]
//! The input: a tar archive on a read-only disk, read from front to back as often as wanted, by all CPUs.
//!
//! Entries are taken one by one, each by one CPU; their content is read side by side.
//!
//! Understood are regular files, symbolic links and directories (which are passed over), in the ustar format with GNU's
//! entries for long names. Everything else is an error that says where in the archive it is. Of an archive of any size,
//! one window is in memory.
//!
//! | file        | what                                            |
//! |-------------|-------------------------------------------------|
//! | `mod.rs`    | entries and their content                       |
//! | `header.rs` | the 512 bytes in front of each entry            |
//! | `window.rs` | read-ahead: which parts of the disk are in memory |

mod header;
mod window;

use alloc::vec::Vec;
use core::fmt;

use spin::Mutex;

use crate::blk::{Disk, DiskError, Prefix};
use crate::crew;
use header::{Header, Type, HEADER_BYTES};
pub use window::Piece;
use window::Window;

/// Bytes of the longest name that a long-name entry may carry.
const MAX_NAME_BYTES: u64 = 4096;

/// The kind of disk that holds the archive.
pub type InputDisk = Disk<Prefix>;

/// Why the archive cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveError {
    /// It is malformed, or holds something that is not understood.
    Bad {
        /// Byte offset in the archive.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// The disk failed.
    Disk {
        /// Byte offset in the archive.
        offset: u64,
        /// The disk's reason.
        cause: DiskError,
    },
    /// There is no memory for the window.
    NoMemory,
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bad { offset, what } => write!(f, "archive, byte {offset}: {what}"),
            Self::Disk { offset, cause } => write!(f, "archive, byte {offset}: the disk failed: {cause:?}"),
            Self::NoMemory => f.write_str("no memory left for reading the archive"),
        }
    }
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of so many bytes, which [`Archive::content`] leads to.
    File {
        /// Length of the content.
        size_bytes: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Where it leads.
        target: Vec<u8>,
    },
}

impl Kind {
    /// Bytes in the file, or in the target.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::File { size_bytes } => *size_bytes,
            Self::Symlink { target } => target.len() as u64,
        }
    }
}

/// One entry of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path, not empty.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// What it is.
    pub kind: Kind,
    /// How many regular files come before it.
    pub number: u64,
    /// Offset of its content.
    at: u64,
}

/// An archive, and which of its entries is the next.
pub struct Archive {
    window: Window,
    cursor: Mutex<Cursor>,
}

/// Where the next header is, and how many regular files come before it.
#[derive(Clone, Copy, Default)]
struct Cursor {
    next_header: u64,
    number: u64,
}

/// The content of a file, from front to back.
pub struct Content<'a> {
    window: &'a Window,
    at: u64,
    end: u64,
}

impl Content<'_> {
    /// The next bytes, as many as are at hand; `None` behind the last. The caller has dropped the piece before.
    ///
    /// # Errors
    /// [`ArchiveError::Disk`].
    pub fn next_piece(&mut self) -> Result<Option<Piece>, ArchiveError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let piece = self.window.bytes(self.at, self.end - self.at)?;
        self.at += piece.len() as u64;
        Ok(Some(piece))
    }
}

impl Archive {
    /// Begins at the front. Takes memory for the window, for good.
    ///
    /// # Errors
    /// [`ArchiveError::NoMemory`].
    pub fn open(disk: &'static InputDisk) -> Result<Self, ArchiveError> {
        let window = Window::new(disk, crew::size()).ok_or(ArchiveError::NoMemory)?;
        Ok(Self { window, cursor: Mutex::new(Cursor::default()) })
    }

    /// Begins at the front again.
    pub fn rewind(&self) {
        *self.cursor.lock() = Cursor::default();
    }

    /// Length of the disk that the archive is on, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.window.len_bytes()
    }

    /// The next entry, `None` behind the last. No two CPUs get the same.
    ///
    /// # Errors
    /// See [`ArchiveError`]; the same again if called again.
    pub fn next_entry(&self) -> Result<Option<Entry>, ArchiveError> {
        let mut cursor = crew::lock(&self.cursor, || false);
        let (mut long_path, mut long_target) = (None, None);
        loop {
            let offset = cursor.next_header;
            let Some(header) = self.header(offset)? else { return Ok(None) };
            let at = offset + HEADER_BYTES;
            let bad = |what| ArchiveError::Bad { offset, what };
            let end = at.checked_add(header.size_bytes).ok_or(bad("an impossible size"))?;
            if end > self.len_bytes() {
                return Err(bad("the content goes beyond the end of the archive"));
            }
            let kind = match header.entry_type {
                Type::LongPath | Type::LongTarget => {
                    let name = self.long_name(&header, at)?;
                    let is_path = header.entry_type == Type::LongPath;
                    *if is_path { &mut long_path } else { &mut long_target } = Some(name);
                    cursor.next_header = end.next_multiple_of(HEADER_BYTES);
                    continue;
                }
                Type::Directory => {
                    (long_path, long_target) = (None, None);
                    cursor.next_header = end.next_multiple_of(HEADER_BYTES);
                    continue;
                }
                Type::File => Kind::File { size_bytes: header.size_bytes },
                Type::Symlink => Kind::Symlink { target: long_target.unwrap_or(header.target) },
            };
            let path = long_path.unwrap_or(header.path);
            if path.is_empty() || matches!(&kind, Kind::Symlink { target } if target.is_empty()) {
                return Err(bad("an empty name"));
            }
            cursor.next_header = end.next_multiple_of(HEADER_BYTES);
            let number = cursor.number;
            cursor.number += u64::from(matches!(kind, Kind::File { .. }));
            return Ok(Some(Entry { path, mode: header.mode, kind, number, at }));
        }
    }

    /// The content of a regular file; of anything else, nothing.
    pub fn content(&self, entry: &Entry) -> Content<'_> {
        let len_bytes = match entry.kind {
            Kind::File { size_bytes } => size_bytes,
            Kind::Symlink { .. } => 0,
        };
        Content { window: &self.window, at: entry.at, end: entry.at + len_bytes }
    }

    /// The header at `offset`; `None` if the archive ends there.
    fn header(&self, offset: u64) -> Result<Option<Header>, ArchiveError> {
        if offset + HEADER_BYTES > self.len_bytes() {
            return Err(ArchiveError::Bad { offset, what: "the archive ends without an end mark" });
        }
        // Chunks begin and end at multiples of a header's length.
        let bytes = self.window.bytes(offset, HEADER_BYTES)?;
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        Header::parse(&bytes).map(Some).map_err(|what| ArchiveError::Bad { offset, what })
    }

    /// The name that makes up the content of a long-name entry.
    fn long_name(&self, header: &Header, at: u64) -> Result<Vec<u8>, ArchiveError> {
        if header.size_bytes > MAX_NAME_BYTES {
            return Err(ArchiveError::Bad { offset: at, what: "a name that is too long" });
        }
        let mut content = Content { window: &self.window, at, end: at + header.size_bytes };
        let mut name = Vec::new();
        while let Some(bytes) = content.next_piece()? {
            name.extend_from_slice(&bytes);
        }
        name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
        Ok(name)
    }
}
