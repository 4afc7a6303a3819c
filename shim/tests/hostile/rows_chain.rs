//! Log blocks and the way from one to the next, and what the superblock points to.

use crate::images::{Base, Image};
use crate::{corrupt, field, malformed, row, Row};
use arenite_core::format::{BlockType, FormatError, NONE};
use arenite_core::hash::hash64;
use arenite_core::{Damage, Error};

const SHORT: &[Base] = Base::SHORT;
const BARE: &[Base] = Base::BARE;
const LONG: &[Base] = Base::LONG;
/// Volumes and the log block in each that another one must follow, or that has no seal.
const OPEN: &[Base] = &[Base::Bare2k, Base::Long2k, Base::LongBare2k];

const fn not_a_log(found: u16) -> FormatError {
    FormatError::BlockType { found, want: Some(BlockType::Log) }
}

impl Image {
    /// Sets the number of bytes of entries in the first log block, however impossible.
    fn bad_len(&mut self, len: u64) -> Error {
        let addr = self.arenas[0].log[0];
        self.put(addr + 2, 2, len);
        self.seal_logs();
        malformed(addr, field("entries length", 2, len))
    }

    /// Makes the first log block another type.
    fn bad_type(&mut self, found: u16) -> Error {
        let addr = self.arenas[0].log[0];
        self.put(addr, 2, u64::from(found));
        self.seal_logs();
        malformed(addr, not_a_log(found))
    }

    /// Makes the first arena's first log block lead elsewhere. In a log of one block nothing then stops replay before.
    fn lead_to(&mut self, addr: u64) {
        let log = self.arenas[0].log[0];
        self.put(log + 12, 8, addr);
        if self.arenas[0].log.len() == 1 {
            let mut words = self.words(log);
            words.pop();
            self.set_words(log, &words);
            self.seal_logs();
        }
    }

    /// Makes the first log block lead to what is no log block of this arena.
    fn astray(&mut self, addr: u64, damage: Damage) -> Error {
        self.lead_to(addr);
        corrupt(addr, damage)
    }

    /// Makes the root, which is at 24, or an end of the dead list lead elsewhere.
    fn bad_pointer(&mut self, offset: u64, addr: u64) -> Error {
        self.put_super(offset, 8, addr);
        self.seal_superblocks();
        corrupt(addr, Damage::RootFree)
    }
}

pub fn rows() -> Vec<Row> {
    [blocks(), chains(), long_chains(), pointers()].into_iter().flatten().collect()
}

fn blocks() -> Vec<Row> {
    vec![
        row("log block that is data", OPEN, |i| i.bad_type(0)),
        row("log block that is a pivot", OPEN, |i| i.bad_type(1)),
        row("log block that is a dead list", OPEN, |i| i.bad_type(4)),
        row("log block that is a header", OPEN, |i| i.bad_type(5)),
        row("log block of no type", OPEN, |i| i.bad_type(0x0300)),
        row("entries of an odd length", SHORT, |i| i.bad_len(i.get(i.arenas[0].log[0] + 2, 2) - 1)),
        row("entries of half a word", SHORT, |i| i.bad_len(i.get(i.arenas[0].log[0] + 2, 2) + 4)),
        row("entries up to a word behind the block", SHORT, |i| i.bad_len((i.unit - 36) / 8 * 8 + 8)),
        row("65528 bytes of entries", SHORT, |i| i.bad_len(65528)),
        row("entries not sealed again", OPEN, |i| {
            let addr = i.arenas[0].log[0];
            let stored = i.get(addr + 4, 8);
            i.put(addr + 36, 8, i.get(addr + 36, 8) + i.unit);
            let len = i.get(addr + 2, 2) as usize;
            let computed = hash64(&i.page(addr)[36..36 + len]);
            malformed(addr, FormatError::Hash { stored, computed })
        }),
        row("another hash in a log block", OPEN, |i| {
            let addr = i.arenas[0].log[0];
            let computed = i.get(addr + 4, 8);
            i.put(addr + 4, 8, 7);
            i.seal_chains();
            malformed(addr, FormatError::Hash { stored: 7, computed })
        }),
        row("an older log in place of the newest", Base::SEALED, |i| {
            let addr = i.arenas[0].log[0];
            let expected = i.digest(&[addr]);
            // As it was when its first block was not free yet.
            let mut words = i.words(addr);
            assert_eq!(words.remove(0) & 0xff, 2, "the log begins with a single block");
            i.set_words(addr, &words);
            i.seal_log_block(addr);
            corrupt(addr, Damage::LogDigest { expected, found: i.digest(&[addr]) })
        }),
    ]
}

fn chains() -> Vec<Row> {
    vec![
        row("chain not aligned", OPEN, |i| {
            let log = i.arenas[0].log[0];
            let addr = i.free_block(0, 0) + 512;
            i.put(log + 12, 8, addr);
            malformed(log, field("chain pointer", 12, addr))
        }),
        row("chain just below none", OPEN, |i| {
            i.put(i.arenas[0].log[0] + 12, 8, NONE - 1);
            malformed(i.arenas[0].log[0], field("chain pointer", 12, NONE - 1))
        }),
        row("chain to itself", OPEN, |i| i.astray(i.arenas[0].log[0], Damage::ChainLoop)),
        row("chain to another arena's log", OPEN, |i| i.astray(i.arenas[1].log[0], Damage::ForeignLog)),
        row("chain to another arena's data", OPEN, |i| i.astray(i.dead_head, Damage::ForeignLog)),
        row("chain to data of the arena before", OPEN, |i| {
            let (log, addr) = (i.arenas[1].log[0], i.root);
            i.put(log + 12, 8, addr);
            if i.sealed {
                // Of one block, which is then not the last.
                i.put_header(1, 50, 4, 2);
                i.put_header(1, 62, 8, i.free_block(1, 0));
                i.seal_headers();
            } else {
                let mut words = i.words(log);
                words.pop();
                i.set_words(log, &words);
                i.seal_logs();
            }
            corrupt(addr, Damage::ForeignLog)
        }),
        row("chain to a header", OPEN, |i| i.astray(i.arenas[0].addr + i.unit, Damage::ForeignLog)),
        row("chain to the superblock", OPEN, |i| i.astray(0, Damage::ForeignLog)),
        row("chain to the second superblock", OPEN, |i| i.astray(i.second(), Damage::ForeignLog)),
        row("chain to a block of data", OPEN, |i| i.astray(i.root, Damage::Format(not_a_log(0xabab)))),
        row("chain to a dead list", OPEN, |i| i.astray(i.dead_tail, Damage::Format(not_a_log(4)))),
        row("chain to an empty block", OPEN, |i| {
            let addr = i.arena_end(0) - i.unit;
            i.astray(addr, Damage::Format(not_a_log(0)))
        }),
        row("chain to an empty log block that is free", BARE, |i| {
            let addr = i.free_block(0, 0);
            i.put(addr, 2, 3);
            i.set_words(addr, &[]);
            i.put(addr + 12, 8, NONE);
            i.seal_log_block(addr);
            i.astray(addr, Damage::LogNotInUse)
        }),
        row("chain of two blocks in a circle", BARE, |i| {
            let (log, next) = (i.arenas[0].log[0], i.free_block(0, 0));
            i.put(next, 2, 3);
            i.set_words(next, &[]);
            i.put(next + 12, 8, log);
            i.seal_log_block(next);
            i.lead_to(next);
            i.arenas[0].log.push(next);
            corrupt(log, Damage::ChainLoop)
        }),
    ]
}

/// Makes every block of the second arena a log block, in a circle.
fn all_log(image: &mut Image) -> Error {
    let (first, end) = (image.arenas[1].addr + 2 * image.unit, image.arena_end(1));
    let blocks: Vec<u64> = (first..end).step_by(image.unit as usize).collect();
    for (at, addr) in blocks.iter().enumerate() {
        image.put(*addr, 2, 3);
        image.set_words(*addr, &[]);
        image.put(addr + 12, 8, blocks[(at + 1) % blocks.len()]);
        image.put(addr + 20, 8, NONE);
        image.put(addr + 28, 8, NONE);
    }
    image.arenas[1].log = blocks;
    image.put_header(1, 2, 8, first);
    image.seal_logs();
    corrupt(first, Damage::ChainLoop)
}

fn long_chains() -> Vec<Row> {
    vec![
        row("second log block back to the first", LONG, |i| {
            i.put(i.arenas[0].log[1] + 12, 8, i.arenas[0].log[0]);
            corrupt(i.arenas[0].log[0], Damage::ChainLoop)
        }),
        row("second log block to itself", LONG, |i| {
            i.put(i.arenas[0].log[1] + 12, 8, i.arenas[0].log[1]);
            corrupt(i.arenas[0].log[1], Damage::ChainLoop)
        }),
        row("second log block nowhere", &[Base::Long2k], |i| {
            i.put(i.arenas[0].log[1] + 12, 8, NONE);
            corrupt(i.arenas[0].log[1], Damage::LogEnd)
        }),
        row("second log block left out", &[Base::Long2k], |i| {
            i.put(i.arenas[0].log[0] + 12, 8, i.arenas[0].log[2]);
            corrupt(i.log_end(0), Damage::LogEnd)
        }),
        row("second log block left out and not counted", &[Base::Long2k], |i| {
            let expected = i.digest(&i.arenas[0].log);
            let blocks = i.arenas[0].log.len() as u64 - 1;
            i.arenas[0].log.remove(1);
            i.put(i.arenas[0].log[0] + 12, 8, i.arenas[0].log[1]);
            i.put_header(0, 50, 4, blocks);
            i.seal_headers();
            corrupt(i.log_end(0), Damage::LogDigest { expected, found: i.digest(&i.arenas[0].log) })
        }),
        row("an older log block in the middle of a log", &[Base::Long2k], |i| {
            let (addr, expected) = (i.arenas[0].log[1], i.digest(&i.arenas[0].log));
            let mut words = i.words(addr);
            assert_eq!(words.remove(1) & 0xff, 2, "a barrier, then what the commit has freed");
            i.set_words(addr, &words);
            i.seal_log_block(addr);
            corrupt(i.log_end(0), Damage::LogDigest { expected, found: i.digest(&i.arenas[0].log) })
        }),
        row("log blocks in another order", &[Base::Long2k], |i| {
            i.arenas[0].log.swap(0, 1);
            let log = i.arenas[0].log.clone();
            for (at, addr) in log.iter().enumerate() {
                i.put(addr + 12, 8, log.get(at + 1).copied().unwrap_or(NONE));
            }
            i.put_header(0, 2, 8, log[0]);
            i.seal_chains();
            // The changes come before what they change: the first block that was taken was never freed.
            let taken = i.words(log[0]).iter().position(|word| word & 0xff == 1).expect("an allocation");
            corrupt(log[0], Damage::AllocTwice { offset: 36 + 8 * taken })
        }),
        row("all blocks of an arena in a circle of log blocks", BARE, all_log),
    ]
}

fn pointers() -> Vec<Row> {
    vec![
        row("root that is free", SHORT, |i| i.bad_pointer(24, i.free_block(0, 1))),
        row("head of the dead list that is free", SHORT, |i| i.bad_pointer(40, i.free_block(1, 0))),
        row("tail of the dead list that is free", SHORT, |i| i.bad_pointer(56, i.free_block(0, 0))),
        row("root in a log", SHORT, |i| i.bad_pointer(24, i.arenas[0].log[0])),
        row("root in the log of the last arena", SHORT, |i| i.bad_pointer(24, i.arenas[1].log[0])),
        row("root in the last block of an arena", SHORT, |i| i.bad_pointer(24, i.arena_end(0) - i.unit)),
        row("root in the last block but one of an arena", SHORT, |i| i.bad_pointer(24, i.arena_end(1) - 2 * i.unit)),
        row("root in the first block of a long log", LONG, |i| i.bad_pointer(24, i.arenas[0].log[0])),
        row("root in the middle of a long log", LONG, |i| i.bad_pointer(24, i.arenas[0].log[1])),
        row("root at the end of a long log", LONG, |i| i.bad_pointer(24, i.log_end(0))),
        row("root in the superblock", SHORT, |i| i.bad_pointer(24, 0)),
        row("root in the second superblock", SHORT, |i| i.bad_pointer(24, i.second())),
        row("root in a header", SHORT, |i| i.bad_pointer(24, i.arenas[1].addr)),
        row("root in a second header", SHORT, |i| i.bad_pointer(24, i.arenas[0].addr + i.unit)),
        row("root behind the device", SHORT, |i| i.bad_pointer(24, i.second() + i.unit)),
        row("root at 2^60", SHORT, |i| i.bad_pointer(24, 1 << 60)),
        row("root at the end of all addresses", SHORT, |i| i.bad_pointer(24, 0u64.wrapping_sub(i.unit))),
        row("head of the dead list in a header", SHORT, |i| i.bad_pointer(40, i.arenas[1].addr + i.unit)),
        row("head of the dead list at 2^40", SHORT, |i| i.bad_pointer(40, 1 << 40)),
        row("tail of the dead list in the superblock", SHORT, |i| i.bad_pointer(56, 0)),
        row("tail of the dead list behind the device", SHORT, |i| i.bad_pointer(56, i.second() + 4 * i.unit)),
    ]
}
