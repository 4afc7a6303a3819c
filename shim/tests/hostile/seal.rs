//! What an attacker does after changing something: every hash that vouches for it is made right again.
//!
//! ```text
//!   log hash -> chain digest -> check of the header's extension -> hash in the arena table -> superblock -> extension
//! ```
//!
//! Each function does one of these and all behind it. Nothing here refuses values that make no sense.

use crate::images::Image;
use arenite_core::format::{chain_digest, CHAIN_DIGEST_START};
use arenite_core::hash::hash64;

const MAGIC: &[u8; 8] = b"arenite1";

impl Image {
    /// Hashes of all log blocks, and everything behind.
    pub fn seal_logs(&mut self) {
        for arena in 0..self.arenas.len() {
            for addr in self.arenas[arena].log.clone() {
                self.seal_log_block(addr);
            }
        }
        self.seal_chains();
    }

    /// The hash of one log block over as many entries as it says it has, if they are in the block.
    pub fn seal_log_block(&mut self, addr: u64) {
        let len = self.get(addr + 2, 2) as usize;
        if let Some(entries) = self.page(addr)[36..].get(..len) {
            let hash = hash64(entries);
            self.put(addr + 4, 8, hash);
        }
    }

    /// What headers say about their logs: number of blocks, digest, last block.
    pub fn seal_chains(&mut self) {
        for arena in 0..self.arenas.len() {
            if self.sealed {
                let log = self.arenas[arena].log.clone();
                self.put_header(arena, 50, 4, log.len() as u64);
                self.put_header(arena, 54, 8, self.digest(&log));
                self.put_header(arena, 62, 8, self.log_end(arena));
            }
        }
        self.seal_headers();
    }

    /// The digest of a chain of blocks as they are.
    pub fn digest(&self, log: &[u64]) -> u64 {
        log.iter().fold(CHAIN_DIGEST_START, |digest, addr| {
            chain_digest(digest, *addr, self.get(addr + 4, 8), self.get(addr + 2, 2) as u16)
        })
    }

    /// The headers' extensions and the table of the superblocks.
    pub fn seal_headers(&mut self) {
        for arena in 0..self.arenas.len() {
            let addr = self.arenas[arena].addr;
            if self.sealed {
                let check = hash64(&self.page(addr)[..70]);
                self.put_header(arena, 70, 8, check);
            }
            let hash = hash64(self.page(addr));
            self.put_super(104 + 16 * arena as u64 + 8, 8, hash);
        }
        self.seal_superblocks();
    }

    /// Both superblocks.
    pub fn seal_superblocks(&mut self) {
        self.seal_superblock(0);
        self.seal_superblock(self.second());
    }

    /// One superblock. Where so many arenas leave no room for a hash there is nothing to seal.
    pub fn seal_superblock(&mut self, addr: u64) {
        let end = 104 + 16 * self.get(addr + 16, 4) as usize;
        if end + 8 > self.unit as usize {
            return;
        }
        let hash = hash64(&self.page(addr)[..end]);
        self.put(addr + end as u64, 8, hash);
        if !self.sealed || end + 32 > self.unit as usize {
            return;
        }
        let at = addr as usize + end + 8;
        self.bytes[at..at + 8].copy_from_slice(MAGIC);
        self.put(at as u64 + 8, 8, self.get(addr + 96, 8));
        let digest = hash64(&self.page(addr)[..end + 24]);
        self.put(at as u64 + 16, 8, digest);
    }
}

impl Image {
    /// The bytes after sealing everything once more: of a sound volume, the same.
    pub fn seal_again(mut self) -> Vec<u8> {
        self.seal_logs();
        self.bytes
    }
}
