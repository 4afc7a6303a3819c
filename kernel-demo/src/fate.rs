//! What the kernel does to the files of the archive after it has found them all: every third one is deleted, and of the
//! others every fifth is rewritten.
//!
//! This file has no dependencies: the host includes the same source, so that it knows what to expect.

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays as it is.
    Kept,
    /// It goes.
    Deleted,
    /// Every bit of it is inverted, and its path appended.
    Rewritten,
}

impl Fate {
    /// The fate of the regular file with this number, counted from 0 in the order of the archive.
    pub fn of(number: u64) -> Self {
        match number + 1 {
            count if count % 3 == 0 => Self::Deleted,
            count if count % 5 == 0 => Self::Rewritten,
            _ => Self::Kept,
        }
    }

    /// The byte that stands where `byte` was.
    pub fn byte(self, byte: u8) -> u8 {
        match self {
            Self::Rewritten => !byte,
            Self::Kept | Self::Deleted => byte,
        }
    }

    /// What follows the content.
    pub fn tail(self, path: &[u8]) -> &[u8] {
        match self {
            Self::Rewritten => path,
            Self::Kept | Self::Deleted => &[],
        }
    }
}
