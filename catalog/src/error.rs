//! Why an operation of the catalogue did not succeed.

use arenite_core::format::FormatError;
use arenite_core::{Damage, Error as StoreError};
use core::fmt;

/// Result of the catalogue's operations.
pub type Result<T> = core::result::Result<T, Error>;

/// Why an operation of the catalogue did not succeed. No path is kept here: whoever asked knows it.
///
/// Unless the variant says otherwise, a change that fails leaves the catalogue as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The store failed, or found damage. After [`StoreError::Full`], a commit and a second try may help.
    Store(StoreError),
    /// A path is empty or too long for the block size of the volume.
    PathLen {
        /// Its length.
        len_bytes: usize,
        /// The longest that is possible.
        max_bytes: usize,
    },
    /// The tree would need more levels than a catalogue may have.
    TooHigh {
        /// Levels that it may have.
        max_levels: u8,
    },
    /// A file would need more pointer levels than content may have.
    FileTooLarge,
    /// The block at this byte address is whole, but not what a catalogue has there.
    NotCatalog {
        /// Byte address; 0 for the superblock.
        addr: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The change **took effect**, but blocks of what it replaced could not all be freed: they stay in use, and a walk
    /// of the catalogue no longer meets them.
    Unfreed {
        /// The first reason.
        cause: StoreError,
    },
}

impl Error {
    /// A block that does not decode.
    pub(crate) fn format(addr: u64, error: FormatError) -> Self {
        Self::Store(StoreError::Corrupt { addr, damage: Damage::Format(error) })
    }

    /// The store's error inside this one, if there is one.
    #[must_use]
    pub fn store_error(&self) -> Option<StoreError> {
        match *self {
            Self::Store(error) | Self::Unfreed { cause: error } => Some(error),
            _ => None,
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Store(error) => error.fmt(f),
            Self::PathLen { len_bytes: 0, .. } => f.write_str("the path is empty"),
            Self::PathLen { len_bytes, max_bytes } => {
                write!(f, "a path of {len_bytes} bytes is too long: {max_bytes} are possible in this volume")
            }
            Self::TooHigh { max_levels } => write!(f, "the catalogue would need more than {max_levels} levels"),
            Self::FileTooLarge => f.write_str("the file is too large"),
            Self::NotCatalog { addr, what } => write!(f, "no catalogue at {addr:#x}: {what}"),
            Self::Unfreed { cause } => write!(f, "done, but replaced blocks could not all be freed: {cause}"),
        }
    }
}

impl core::error::Error for Error {}
