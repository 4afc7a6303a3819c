//! The disk seen from the host: the core that ran in the kernel opens the same image, checks it, and compares every
//! file with the archive.

use anyhow::{bail, Result};
use std::path::Path;
use std::time::Duration;

/// What the disk has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Every file of the archive, unchanged.
    AsImported,
    /// What the kernel's verification leaves: every third file deleted, every fifth rewritten.
    AfterChanges,
}

/// What was compared and found equal.
#[derive(Debug)]
pub struct Checked {
    /// Files.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Blocks in use.
    pub blocks: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Checks the volume on `disk` and compares its files with those of `archive`. The image is not changed.
pub fn host_check(disk: &Path, _archive: &Path, _expected: Expected) -> Result<Checked> {
    bail!("{}: this runner cannot open a store yet", disk.display())
}
