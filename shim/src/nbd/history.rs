//! What sectors held before they were last written, for reads that are to be stale.
#![forbid(unsafe_code)]

use crate::trace::SECTOR_LEN_BYTES;
use std::collections::HashMap;

/// So many sectors are remembered at most (32 MiB); further ones are not.
const MAX_SECTORS: usize = 1 << 16;

/// Earlier contents, by number of the sector.
#[derive(Default)]
pub(crate) struct History(HashMap<u64, Vec<u8>>);

fn sectors(addr: u64) -> impl Iterator<Item = u64> {
    addr / SECTOR_LEN_BYTES as u64..
}

impl History {
    /// Remembers what a write to `addr` is about to replace.
    pub(crate) fn remember(&mut self, addr: u64, old: &[u8]) {
        for (number, bytes) in sectors(addr).zip(old.chunks(SECTOR_LEN_BYTES)) {
            if self.0.len() < MAX_SECTORS || self.0.contains_key(&number) {
                self.0.insert(number, bytes.to_vec());
            }
        }
    }

    /// Puts the earlier contents, where they are known, into what was read from `addr`.
    pub(crate) fn turn_back(&self, addr: u64, bytes: &mut [u8]) {
        for (number, now) in sectors(addr).zip(bytes.chunks_mut(SECTOR_LEN_BYTES)) {
            if let Some(old) = self.0.get(&number).filter(|old| old.len() == now.len()) {
                now.copy_from_slice(old);
            }
        }
    }
}
