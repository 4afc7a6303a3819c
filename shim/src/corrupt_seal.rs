//! After something was changed in an image, every hash that vouches for it is made right again:
//!
//! ```text
//!   log blocks -> chain digest -> check of the header's extension -> second copy -> arena table -> superblocks
//! ```
//!
//! What was changed may lead anywhere, so every access is checked, and what makes no sense stays as it is.
#![forbid(unsafe_code)]

use arenite_core::format::{chain_digest, CHAIN_DIGEST_START};
use arenite_core::hash::hash64;

/// Blocks of one log that are sealed.
const MAX_LOG_BLOCKS: u64 = 600;

/// An image being sealed.
struct Seals<'a> {
    bytes: &'a mut [u8],
    unit: u64,
}

/// Makes the hashes of an image right. Without `chains`, digests of logs stay as they are; without `extended`, the
/// hashes of extensions do: where the original was the last to write, they do not count, and must not be made to.
pub fn seal_all(bytes: &mut [u8], chains: bool, extended: bool) {
    let mut seals = Seals { bytes, unit: 0 };
    seals.unit = seals.get(8, 4).clamp(512, 65536);
    let arenas = seals.get(16, 4).min(256);
    for arena in 0..arenas {
        let entry = 104 + 16 * arena;
        let base = seals.get(entry, 8);
        seals.seal_log(base, chains);
        if extended {
            seals.hash(base, 70, base.saturating_add(70));
        }
        seals.copy(base, base.saturating_add(seals.unit));
        seals.hash(base, seals.unit, entry + 8);
    }
    let end = 104 + 16 * arenas;
    seals.hash(0, end, end);
    if extended {
        seals.hash(0, end + 24, end + 24);
    }
    let len = seals.bytes.len() as u64;
    seals.copy(0, (len / seals.unit).saturating_sub(1) * seals.unit);
}

impl Seals<'_> {
    fn slice(&self, at: u64, len: u64) -> Option<&[u8]> {
        self.bytes.get(usize::try_from(at).ok()?..)?.get(..usize::try_from(len).ok()?)
    }

    /// A number of so many bytes; 0 outside of the image.
    fn get(&self, at: u64, len: u64) -> u64 {
        self.slice(at, len).unwrap_or(&[]).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn put(&mut self, at: u64, value: u64) {
        let target = usize::try_from(at).ok().and_then(|at| self.bytes.get_mut(at..)?.first_chunk_mut());
        if let Some(target) = target {
            *target = value.to_be_bytes();
        }
    }

    fn hash(&mut self, at: u64, len: u64, to: u64) {
        if let Some(hash) = self.slice(at, len).map(hash64) {
            self.put(to, hash);
        }
    }

    /// Copies a block.
    fn copy(&mut self, from: u64, to: u64) {
        let Some(block) = self.slice(from, self.unit).map(<[u8]>::to_vec) else { return };
        let target = usize::try_from(to).ok().and_then(|to| self.bytes.get_mut(to..)?.get_mut(..block.len()));
        if let Some(target) = target {
            target.copy_from_slice(&block);
        }
    }

    /// Hashes of the blocks of a log, and their digest in the header.
    fn seal_log(&mut self, base: u64, chains: bool) {
        let (mut at, mut digest) = (self.get(base.saturating_add(2), 8), CHAIN_DIGEST_START);
        for _ in 0..self.get(base.saturating_add(50), 4).min(MAX_LOG_BLOCKS) {
            let len = self.get(at.saturating_add(2), 2);
            self.hash(at.saturating_add(36), len, at.saturating_add(4));
            digest = chain_digest(digest, at, self.get(at.saturating_add(4), 8), len as u16);
            at = self.get(at.saturating_add(12), 8);
        }
        if chains {
            self.put(base.saturating_add(54), digest);
        }
    }
}
