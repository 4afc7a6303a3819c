//! What the original writes in a commit, block by block, in its order:
//!
//! ```text
//!   blocks of the user, log blocks as they fill up     whenever it likes
//!   the tail of each arena's log                       in place, ends with a barrier of the new generation
//!   header copy A of each arena
//!   superblock 0, superblock 1
//!   header copy B of each arena
//! ```
//!
//! It never flushes; what is left of it after a kill is any first part of these writes.

use super::reference::{be16, be64, Arena, State};
use crate::scratch::{Scratch, BLOCK, BLOCK_LEN};
use arenite_core::hash::hash64;

/// A log block with that many bytes of entries is followed by another.
const LOG_FULL: usize = BLOCK - 76;

/// What a write is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Content,
    LogTail,
    FirstHeader,
    FirstSuperblock,
    SecondSuperblock,
    SecondHeader,
}

pub struct Write {
    pub part: Part,
    pub arena: usize,
    pub addr: u64,
    pub bytes: Vec<u8>,
}

/// Where the entries of a commit go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Behind everything that is in the tail.
    Append,
    /// Over the committed barrier and what follows it: what the original does after it was started anew.
    Cut,
    /// Into a new log, which begins with the free ranges.
    Compress,
    /// As `Cut`, and then the log is compressed before the commit.
    CutAndCompress,
}

/// What a commit does to an arena.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// Blocks that it allocates.
    pub allocate: usize,
    /// Blocks that it frees.
    pub free: usize,
    /// Blocks that it allocates and frees again, which fills logs.
    pub churn: usize,
}

/// One arena's log while entries are appended.
struct Logger<'w> {
    arena: &'w mut Arena,
    index: usize,
    head: u64,
    addr: u64,
    block: Vec<u8>,
    /// A block that stays in use.
    root: u64,
    writes: &'w mut Vec<Write>,
}

fn log_block() -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[12..36].fill(0xff);
    block[1] = 3;
    finish(&mut block);
    block
}

fn finish(block: &mut [u8]) {
    let hash = hash64(&block[36..36 + be16(block, 2)]);
    block[4..12].copy_from_slice(&hash.to_be_bytes());
}

fn set_len(block: &mut [u8], len: usize) {
    block[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
}

impl Logger<'_> {
    fn write(&mut self, part: Part, addr: u64, bytes: Vec<u8>) {
        self.writes.push(Write { part, arena: self.index, addr, bytes });
    }

    fn take(&mut self) -> u64 {
        let block = self.arena.free.iter().position(|free| *free).expect("a free block");
        let addr = self.arena.addr + (2 + block as u64) * BLOCK_LEN;
        self.arena.set(addr, BLOCK_LEN, false);
        addr
    }

    fn push(&mut self, words: &[u64]) {
        if be16(&self.block, 2) >= LOG_FULL {
            let next = self.take();
            self.write(Part::Content, next, log_block());
            self.put(next | 1);
            self.block[12..20].copy_from_slice(&next.to_be_bytes());
            let full = std::mem::replace(&mut self.block, log_block());
            self.write(Part::Content, self.addr, full);
            self.addr = next;
        }
        for word in words {
            self.put(*word);
        }
    }

    fn put(&mut self, word: u64) {
        let at = 36 + be16(&self.block, 2);
        self.block[at..at + 8].copy_from_slice(&word.to_be_bytes());
        set_len(&mut self.block, at + 8 - 36);
        finish(&mut self.block);
    }

    /// Begins a new log with the free ranges.
    fn compress(&mut self) {
        self.addr = self.take();
        self.head = self.addr;
        self.block = log_block();
        let free = self.arena.free.clone();
        let mut at = 0;
        while let Some(first) = free[at..].iter().position(|free| *free).map(|skip| at + skip) {
            let len = free[first..].iter().take_while(|free| **free).count();
            let addr = self.arena.addr + (2 + first as u64) * BLOCK_LEN;
            self.push(&[addr | 5, len as u64 * BLOCK_LEN]);
            at = first + len;
        }
    }

    /// Frees the old log, at the end: a block of it that is used again at once is beyond anybody's help.
    fn free_old(&mut self) {
        for addr in self.arena.log.clone() {
            self.arena.set(addr, BLOCK_LEN, true);
            self.push(&[addr | 2]);
        }
    }

    /// Allocates blocks and writes them, and frees blocks at the arena's end.
    fn change(&mut self, change: Change) {
        let logs = self.arena.log.clone();
        let address = |block: usize, arena: &Arena| arena.addr + (2 + block as u64) * BLOCK_LEN;
        let used: Vec<u64> = (0..self.arena.free.len() - 2)
            .filter(|block| !self.arena.free[*block])
            .map(|block| address(block, self.arena))
            .filter(|addr| !logs.contains(addr) && ![self.addr, self.root].contains(addr))
            .collect();
        for _ in 0..change.churn {
            let addr = self.take();
            self.push(&[addr | 1]);
            self.push(&[addr | 2]);
            self.arena.set(addr, BLOCK_LEN, true);
        }
        for turn in 0..change.allocate.max(change.free) {
            if turn < change.allocate {
                let addr = self.take();
                self.push(&[addr | 1]);
                // One write stands for all that follow it: a block that nothing reads changes nothing.
                if turn == 0 {
                    self.write(Part::Content, addr, vec![0x5a; BLOCK]);
                }
            }
            if let Some(addr) = used.get(turn).filter(|_| turn < change.free) {
                self.push(&[*addr | 2]);
                self.arena.set(*addr, BLOCK_LEN, true);
            }
        }
    }
}

/// The writes of the next commit of the original on an image, `step` generations on, and nothing written yet.
pub fn commit(image: &Scratch, before: &State, step: u64, log: Log, change: impl Fn(usize) -> Change) -> Vec<Write> {
    let qgen = before.qgen + step;
    let mut writes = Vec::new();
    let mut superblock = before.superblock.clone();
    let mut headers = Vec::new();
    for (index, arena) in before.arenas.iter().enumerate() {
        let mut arena = arena.clone();
        let addr = *arena.log.last().unwrap();
        let mut block = image.read(addr);
        if let (Log::Cut | Log::CutAndCompress, Some(at)) = (log, arena.barrier_at) {
            set_len(&mut block, at - 36);
            finish(&mut block);
        }
        let head = be64(&arena.header, 2);
        let root = be64(&superblock, 24);
        let mut logger = Logger { arena: &mut arena, index, head, addr, block, root, writes: &mut writes };
        match log {
            Log::Append | Log::Cut => logger.change(change(index)),
            Log::Compress => {
                logger.compress();
                logger.change(change(index));
                logger.free_old();
            }
            Log::CutAndCompress => {
                logger.change(change(index));
                let (addr, block) = (logger.addr, logger.block.clone());
                logger.write(Part::Content, addr, block);
                logger.compress();
                logger.free_old();
            }
        }
        logger.push(&[qgen << 8 | 3]);
        let Logger { head, addr, block, .. } = logger;
        writes.push(Write { part: Part::LogTail, arena: index, addr, bytes: block });
        let mut header = arena.header.clone();
        header[2..10].copy_from_slice(&head.to_be_bytes());
        header[26..34].copy_from_slice(&(arena.size - arena.free_bytes()).to_be_bytes());
        let entry = 104 + 16 * index + 8;
        superblock[entry..entry + 8].copy_from_slice(&hash64(&header).to_be_bytes());
        headers.push((arena.addr, header));
    }
    // The root stays where it is, and has another hash, which tells one generation from another.
    superblock[32..40].copy_from_slice(&hash64(&qgen.to_be_bytes()).to_be_bytes());
    superblock[96..104].copy_from_slice(&qgen.to_be_bytes());
    let end = 104 + 16 * before.arenas.len();
    let hash = hash64(&superblock[..end]);
    superblock[end..end + 8].copy_from_slice(&hash.to_be_bytes());
    for (part, offset) in [(Part::FirstHeader, 0), (Part::SecondHeader, BLOCK_LEN)] {
        for (arena, (addr, header)) in headers.iter().enumerate() {
            writes.push(Write { part, arena, addr: addr + offset, bytes: header.clone() });
        }
    }
    for (part, addr) in [(Part::FirstSuperblock, 0), (Part::SecondSuperblock, image.second())] {
        writes.push(Write { part, arena: 0, addr, bytes: superblock.clone() });
    }
    writes.sort_by_key(|write| write.part);
    writes
}
