//! What a simulated disk is made of: a medium, and a cache in front of it that a power failure empties.
//!
//! ```text
//!   write completes -> view, and a note among the unflushed sectors
//!   flush completes -> what was unflushed when it was issued becomes durable
//!   power fails     -> durable, plus any subset of the sectors that are unflushed or in flight, in any order
//!   kernel restarts -> view, plus any subset of the sectors in flight; the unflushed ones stay unflushed
//! ```

use super::Rng;
use std::collections::BTreeMap;

/// Bytes that are written whole or not at all.
pub const SECTOR: usize = 512;

/// One sector on its way to the medium.
#[derive(Clone)]
pub struct SectorWrite {
    /// Byte address.
    pub at: usize,
    /// What is to be there.
    pub bytes: [u8; SECTOR],
}

/// Medium and cache of a disk. Survives the store, and a restart of the kernel.
#[derive(Clone)]
pub struct Media {
    durable: Vec<u8>,
    view: Vec<u8>,
    unflushed: Vec<SectorWrite>,
}

impl Media {
    /// A disk on which these bytes are durable.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { view: bytes.clone(), durable: bytes, unflushed: Vec::new() }
    }

    /// A disk of zeros.
    pub fn blank(len_bytes: usize) -> Self {
        Self::new(vec![0; len_bytes])
    }

    /// What a reader sees.
    pub fn view(&self) -> &[u8] {
        &self.view
    }

    /// What is on the medium for certain.
    pub fn durable(&self) -> &[u8] {
        &self.durable
    }

    /// Sectors that are written and not yet durable, oldest first.
    pub fn unflushed(&self) -> &[SectorWrite] {
        &self.unflushed
    }

    /// Changes bytes behind the back of everybody, as decay does.
    pub fn edit(&mut self, edit: impl FnOnce(&mut [u8])) {
        edit(&mut self.view);
        self.durable.copy_from_slice(&self.view);
        self.unflushed.clear();
    }

    /// A sector reaches the cache.
    pub fn write(&mut self, sector: SectorWrite) {
        self.view[sector.at..][..SECTOR].copy_from_slice(&sector.bytes);
        self.unflushed.push(sector);
    }

    /// The oldest `count` unflushed sectors reach the medium.
    pub fn make_durable(&mut self, count: usize) {
        for sector in self.unflushed.drain(..count) {
            self.durable[sector.at..][..SECTOR].copy_from_slice(&sector.bytes);
        }
    }

    /// The medium after a power failure: each sector shows one of the versions that it may have. Some crashes lose all
    /// that is not durable, some nothing, most something.
    pub fn after_power_failure(&self, in_flight: &[SectorWrite], rng: &mut Rng) -> Vec<u8> {
        let mut versions: BTreeMap<usize, Vec<&SectorWrite>> = BTreeMap::new();
        for sector in self.unflushed.iter().chain(in_flight) {
            versions.entry(sector.at).or_default().push(sector);
        }
        let mut bytes = self.durable.clone();
        let mode = rng.below(4);
        for (at, versions) in versions {
            let survives = match mode {
                0 => 0,
                1 => versions.len() as u64,
                _ => rng.below(versions.len() as u64 + 1),
            };
            if let Some(last) = survives.checked_sub(1) {
                bytes[at..][..SECTOR].copy_from_slice(&versions[last as usize].bytes);
            }
        }
        bytes
    }

    /// The disk after the kernel alone restarted.
    pub fn after_restart(&self, in_flight: Vec<SectorWrite>, rng: &mut Rng) -> Self {
        let mut media = self.clone();
        for sector in in_flight {
            if rng.below(2) == 0 {
                media.write(sector);
            }
        }
        media
    }
}
