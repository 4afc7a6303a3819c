//! Why a command did not do what it was asked to, in one line, and the exit code that says so.

use crate::memory::MemoryError;
use arenite_core::Error;
use std::io;

/// Wrong arguments, a request that was refused, or something that went wrong on the way.
pub(crate) const EXIT_FAILURE: u8 = 1;
/// The image cannot be read as a volume.
pub(crate) const EXIT_NO_VOLUME: u8 = 2;
/// Ended by a signal, in good order; shells use this number for Ctrl-C.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// A command that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) text: String,
    /// A larger memory would have done. Nothing was written.
    pub(crate) wants_memory: bool,
    /// The store refused before it wrote anything.
    pub(crate) nothing_written: bool,
}

impl Failure {
    /// Refused, or failed.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { code: EXIT_FAILURE, text: text.into(), wants_memory: false, nothing_written: true }
    }

    /// Ended by a signal before anything was changed.
    pub(crate) fn interrupted() -> Self {
        Self { code: EXIT_INTERRUPTED, ..Self::new("interrupted; nothing was changed") }
    }

    /// The image is no volume that could be read.
    pub(crate) fn no_volume(text: impl Into<String>) -> Self {
        Self { code: EXIT_NO_VOLUME, ..Self::new(text) }
    }

    /// The volume could not be mounted.
    pub(crate) fn mount(error: Error) -> Self {
        Self { code: EXIT_NO_VOLUME, ..Self::store(error) }
    }

    /// A mounted store failed.
    pub(crate) fn store(error: Error) -> Self {
        let refused = !matches!(error, Error::Device { .. } | Error::Corrupt { .. } | Error::ReadOnly);
        Self { wants_memory: error.wants_memory(), nothing_written: refused, ..Self::new(error.to_string()) }
    }

    /// The host failed.
    pub(crate) fn io(error: &io::Error) -> Self {
        Self::new(error.to_string())
    }
}
