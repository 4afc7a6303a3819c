#![forbid(unsafe_code)]
//! The input: a tar archive on a read-only disk, read from front to back as often as wanted.
//!
//! Understood are regular files, symbolic links and directories (which are passed over), in the ustar format with GNU's
//! entries for long names. Everything else is an error that says where in the archive it is. Of an archive of any size,
//! one window is in memory.
//!
//! | file        | what                                            |
//! |-------------|-------------------------------------------------|
//! | `mod.rs`    | entries and their content                       |
//! | `header.rs` | the 512 bytes in front of each entry            |
//! | `window.rs` | read-ahead: which part of the disk is in memory |

mod header;
mod window;

use alloc::vec::Vec;
use core::fmt;

use crate::blk::{Disk, DiskError, Prefix};
use header::{Header, Type, HEADER_BYTES};
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
    /// A regular file of so many bytes, which [`Archive::read`] returns.
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

/// One entry of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path, not empty.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// What it is.
    pub kind: Kind,
}

/// An archive, and how far it has been read.
pub struct Archive {
    window: Window,
    /// Offset of the next byte.
    at: u64,
    /// Offset of the first byte of the current file.
    content: u64,
    /// Bytes of the current file's content from there on.
    content_left: u64,
    /// Where the next header is.
    next_header: u64,
}

impl Archive {
    /// Begins at the front. Takes memory for the window, for good.
    ///
    /// # Errors
    /// [`ArchiveError::NoMemory`].
    pub fn open(disk: &'static InputDisk) -> Result<Self, ArchiveError> {
        let window = Window::new(disk).ok_or(ArchiveError::NoMemory)?;
        Ok(Self { window, at: 0, content: 0, content_left: 0, next_header: 0 })
    }

    /// Begins at the front again.
    pub fn rewind(&mut self) {
        self.window.rewind();
        (self.at, self.content, self.content_left, self.next_header) = (0, 0, 0, 0);
    }

    /// Goes back to the first byte of the current file.
    pub fn restart_file(&mut self) {
        self.window.rewind();
        self.content_left += self.at - self.content;
        self.at = self.content;
    }

    /// Length of the disk that the archive is on, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.window.len_bytes()
    }

    /// Offset of the next byte.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The next entry, `None` behind the last. What was not read of the current one is passed over.
    ///
    /// # Errors
    /// See [`ArchiveError`]; the same again if called again.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let (mut long_path, mut long_target) = (None, None);
        loop {
            let offset = self.next_header;
            (self.at, self.content, self.content_left) = (offset, offset, 0);
            let Some(header) = self.header()? else { return Ok(None) };
            let content = offset + HEADER_BYTES;
            let bad = |what| ArchiveError::Bad { offset, what };
            let end = content.checked_add(header.size_bytes).ok_or(bad("an impossible size"))?;
            if end > self.len_bytes() {
                return Err(bad("the content goes beyond the end of the archive"));
            }
            let kind = match header.entry_type {
                Type::LongPath | Type::LongTarget => {
                    let name = self.long_name(&header, content)?;
                    let is_path = header.entry_type == Type::LongPath;
                    *if is_path { &mut long_path } else { &mut long_target } = Some(name);
                    self.next_header = end.next_multiple_of(HEADER_BYTES);
                    continue;
                }
                Type::Directory => {
                    (long_path, long_target) = (None, None);
                    self.next_header = end.next_multiple_of(HEADER_BYTES);
                    continue;
                }
                Type::File => Kind::File { size_bytes: header.size_bytes },
                Type::Symlink => Kind::Symlink { target: long_target.unwrap_or(header.target) },
            };
            let path = long_path.unwrap_or(header.path);
            if path.is_empty() || matches!(&kind, Kind::Symlink { target } if target.is_empty()) {
                return Err(bad("an empty name"));
            }
            (self.at, self.content) = (content, content);
            self.content_left = if header.entry_type == Type::File { header.size_bytes } else { 0 };
            self.next_header = end.next_multiple_of(HEADER_BYTES);
            return Ok(Some(Entry { path, mode: header.mode, kind }));
        }
    }

    /// The next bytes of the current file's content, as many as are at hand; `None` behind the last.
    ///
    /// # Errors
    /// [`ArchiveError::Disk`].
    pub fn read(&mut self) -> Result<Option<&[u8]>, ArchiveError> {
        if self.content_left == 0 {
            return Ok(None);
        }
        let bytes = self.window.bytes(self.at, self.content_left)?;
        self.at += bytes.len() as u64;
        self.content_left -= bytes.len() as u64;
        Ok(Some(bytes))
    }

    /// The header at the current offset; `None` if the archive ends there.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let offset = self.at;
        if offset + HEADER_BYTES > self.len_bytes() {
            return Err(ArchiveError::Bad { offset, what: "the archive ends without an end mark" });
        }
        // Windows begin and end at multiples of a header's length.
        let bytes = self.window.bytes(offset, HEADER_BYTES)?;
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        Header::parse(bytes).map(Some).map_err(|what| ArchiveError::Bad { offset, what })
    }

    /// The name that makes up the content of a long-name entry.
    fn long_name(&mut self, header: &Header, content: u64) -> Result<Vec<u8>, ArchiveError> {
        if header.size_bytes > MAX_NAME_BYTES {
            return Err(ArchiveError::Bad { offset: content, what: "a name that is too long" });
        }
        (self.at, self.content_left) = (content, header.size_bytes);
        let mut name = Vec::new();
        while let Some(bytes) = self.read()? {
            name.extend_from_slice(bytes);
        }
        name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
        Ok(name)
    }
}
