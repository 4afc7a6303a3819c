#![forbid(unsafe_code)]
//! Why a phase of the demonstration ended early: an outcome for QEMU's exit status, and a reason for people.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use arenite_catalog::Error as CatalogError;
use arenite_core::Error as StoreError;

use crate::archive::ArchiveError;
use crate::outcome::Outcome;

/// Why a phase ended early.
#[derive(Clone, Debug)]
pub struct Failure {
    /// How the run is to end.
    pub outcome: Outcome,
    /// What happened.
    pub reason: String,
}

impl Failure {
    /// A failure with a reason of its own.
    pub fn new(outcome: Outcome, reason: fmt::Arguments<'_>) -> Self {
        Self { outcome, reason: reason.to_string() }
    }

    /// The same, with the file that was being worked on.
    #[must_use]
    pub fn at(self, path: &[u8]) -> Self {
        Self { reason: format!("{}: {}", PathText(path), self.reason), ..self }
    }
}

/// What a store's error means for the run.
fn outcome_of(error: &StoreError) -> Outcome {
    match error {
        StoreError::Device { .. } => Outcome::Io,
        StoreError::Corrupt { .. } | StoreError::BadAddress { .. } | StoreError::NotAllocated { .. } => {
            Outcome::Corrupt
        }
        StoreError::NotAVolume { .. } => Outcome::NoVolume,
        StoreError::NotBlank { .. } => Outcome::NotBlank,
        StoreError::Full { .. } => Outcome::Full,
        StoreError::ReadOnly => Outcome::ReadOnly,
        StoreError::NoBuffer
        | StoreError::CommitInFlight
        | StoreError::Stalled { .. }
        | StoreError::NoWorker
        | StoreError::MemoryTooSmall { .. }
        | StoreError::Geometry { .. }
        | StoreError::BadParameter { .. } => Outcome::Limit,
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { outcome: outcome_of(&error), reason: error.to_string() }
    }
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Self {
        let outcome = match &error {
            CatalogError::Store(cause) | CatalogError::Unfreed { cause } => outcome_of(cause),
            CatalogError::PathLen { .. } => Outcome::BadInput,
            CatalogError::TooHigh { .. } | CatalogError::FileTooLarge => Outcome::Limit,
            CatalogError::NotCatalog { .. } => Outcome::Corrupt,
        };
        Self { outcome, reason: error.to_string() }
    }
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        let outcome = match error {
            ArchiveError::Bad { .. } => Outcome::BadInput,
            ArchiveError::Disk { .. } => Outcome::Io,
            ArchiveError::NoMemory => Outcome::Limit,
        };
        Self { outcome, reason: error.to_string() }
    }
}

/// A path as one word of printable ASCII, whatever bytes it consists of.
pub struct PathText<'p>(pub &'p [u8]);

impl fmt::Display for PathText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| match byte {
            b' ' => f.write_str("\\x20"),
            byte => byte.escape_ascii().fmt(f),
        })
    }
}
