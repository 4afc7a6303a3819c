//! Volumes edited byte for byte, with all hashes made right again: what the original leaves, and what nobody should.

use super::BLOCK;
use arenite_core::format::{
    chain_digest, encode_superblock, ArenaHeader, ArenaRef, BlockSize, LogBlock, LogEntry, LogWriter, SuperHead,
    Superblock, CHAIN_DIGEST_START, NONE,
};
use arenite_core::hash::hash64;

/// Who seems to have written the last commit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// This code: headers are sealed, and the superblock says so.
    Ours,
    /// The original, which knows of no seals.
    Original,
}

/// Replaces the log of each arena of a small volume by one block of entries, which `edit` makes out of those of the
/// first block. Every hash is right afterwards, so that only the meaning can be found wrong.
pub fn rewrite_logs(image: &mut [u8], writer: Writer, edit: &mut dyn FnMut(usize, &mut Vec<LogEntry>)) {
    let size = BlockSize::MIN;
    let (head, mut arenas): (SuperHead, Vec<ArenaRef>) = {
        let superblock = Superblock::decode(&image[..BLOCK]).unwrap();
        (*superblock.head(), superblock.arenas().collect())
    };
    for (index, arena) in arenas.iter_mut().enumerate() {
        let base = arena.header_addr;
        let at = base as usize;
        let mut header = ArenaHeader::decode(&image[at..][..BLOCK], size, base).unwrap();
        let log_at = header.log_head.addr as usize;
        let log = LogBlock::decode(&image[log_at..][..BLOCK], size).unwrap();
        let mut entries: Vec<LogEntry> = log.entries().map(|entry| entry.unwrap()).collect();
        edit(index, &mut entries);
        let mut log = LogWriter::new(&mut image[log_at..][..BLOCK], size).unwrap();
        for entry in entries {
            log.push(entry).unwrap();
        }
        let sum = log.finish(NONE).unwrap();
        header.seal = header.seal.filter(|_| writer == Writer::Ours);
        if let Some(seal) = &mut header.seal {
            seal.digest = chain_digest(CHAIN_DIGEST_START, log_at as u64, sum.hash, sum.len_bytes);
        }
        for copy in 0..2 {
            header.encode(&mut image[at + copy * BLOCK..][..BLOCK], size, base).unwrap();
        }
        arena.header_hash = hash64(&image[at..][..BLOCK]);
    }
    let end = image.len() - BLOCK;
    for at in [0, end] {
        let mut entry = |index: u32| arenas[index as usize];
        encode_superblock(&mut image[at..][..BLOCK], &head, &mut entry, writer == Writer::Ours).unwrap();
    }
}

/// Makes every block of every arena be in use, as the original may leave a volume that is full.
pub fn fill_up(image: &mut [u8]) {
    let gen = Superblock::decode(&image[..BLOCK]).unwrap().head().qgen;
    rewrite_logs(image, Writer::Original, &mut |_, entries| *entries = vec![LogEntry::Barrier { gen }]);
}
