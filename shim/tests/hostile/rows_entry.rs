//! Entries of the logs: operations, addresses, lengths, barriers, and what they say about blocks that are in use.

use crate::images::{Base, Image};
use crate::{corrupt, field, malformed, row, Row};
use arenite_core::format::FormatError;
use arenite_core::{Damage, Error};

const SHORT: &[Base] = Base::SHORT;
const SEALED: &[Base] = Base::SEALED;

const ALLOC: u64 = 1;
const FREE: u64 = 2;
const BARRIER: u64 = 3;
const ALLOC_RANGE: u64 = 4;
const FREE_RANGE: u64 = 5;

const FOREIGN: fn(usize) -> Damage = |offset| Damage::ForeignRange { offset };
const ALLOC_TWICE: fn(usize) -> Damage = |offset| Damage::AllocTwice { offset };
const FREE_TWICE: fn(usize) -> Damage = |offset| Damage::FreeTwice { offset };
const BARRIER_ORDER: fn(usize) -> Damage = |offset| Damage::BarrierOrder { offset };

impl Image {
    /// Adds entries to the first arena's log, of which the first cannot be there for this reason.
    fn bad_entry(&mut self, words: &[u64], damage: fn(usize) -> Damage) -> Error {
        let offset = self.insert(0, words);
        corrupt(self.log_end(0), damage(offset))
    }

    /// The same for what comes behind the first word.
    fn bad_second(&mut self, words: &[u64], damage: fn(usize) -> Damage) -> Error {
        let offset = self.insert(0, words);
        corrupt(self.log_end(0), damage(offset + 8))
    }

    /// Adds an entry with a bad address.
    fn bad_entry_addr(&mut self, word: u64) -> Error {
        let offset = self.insert(0, &[word, self.unit]);
        malformed(self.log_end(0), field("log entry address", offset, word & !0xff))
    }

    /// Adds an entry for a range, with a bad length.
    fn bad_entry_len(&mut self, word: u64, len: u64) -> Error {
        let offset = self.insert(0, &[word, len]);
        malformed(self.log_end(0), field("log entry length", offset + 8, len))
    }

    /// Adds an entry that does not exist.
    fn bad_op(&mut self, op: u8) -> Error {
        let offset = self.insert(0, &[self.free_block(0, 0) | u64::from(op)]);
        malformed(self.log_end(0), FormatError::LogOp { offset, found: op })
    }

    /// Ends the first arena's log with these words instead of its barrier; returns where they begin.
    fn end_with(&mut self, words: &[u64]) -> usize {
        let addr = self.log_end(0);
        let mut all = self.words(addr);
        all.pop();
        let offset = 36 + 8 * all.len();
        all.extend_from_slice(words);
        self.set_words(addr, &all);
        self.seal_logs();
        offset
    }

    /// The same, for a log that then does not end as its header says.
    fn bad_end(&mut self, words: &[u64], damage: Damage) -> Error {
        self.end_with(words);
        corrupt(self.log_end(0), damage)
    }

    /// The first of the last two blocks of the first arena.
    fn spare(&self) -> u64 {
        self.arena_end(0) - 2 * self.unit
    }

    /// Frees a block that the superblock points to.
    fn free_live(&mut self, arena: usize, addr: u64) -> Error {
        self.insert(arena, &[addr | FREE]);
        corrupt(addr, Damage::RootFree)
    }

    /// Frees and allocates a range over and over.
    fn turn_over(&mut self, first: u64, blocks: u64, words: usize) -> Error {
        let len = blocks * self.unit;
        let pair = [first | FREE_RANGE, len, first | ALLOC_RANGE, len];
        let addr = self.arenas[0].log[0];
        let mut all: Vec<u64> = pair.iter().copied().cycle().take(words / 4 * 4).collect();
        all.push(self.qgen << 8 | BARRIER);
        self.set_words(addr, &all);
        self.seal_logs();
        corrupt(addr, Damage::ReplayWork)
    }
}

pub fn rows() -> Vec<Row> {
    [operations(), lengths(), foreign(), twice(), live(), barriers(), bombs()].into_iter().flatten().collect()
}

fn operations() -> Vec<Row> {
    vec![
        row("operation 0", SHORT, |i| i.bad_op(0)),
        row("operation 6", SHORT, |i| i.bad_op(6)),
        row("operation 255", SHORT, |i| i.bad_op(255)),
        row("a word of zeros", SHORT, |i| {
            let offset = i.insert(0, &[0]);
            malformed(i.log_end(0), FormatError::LogOp { offset, found: 0 })
        }),
        row("a word of ones", SHORT, |i| {
            let offset = i.insert(0, &[u64::MAX]);
            malformed(i.log_end(0), FormatError::LogOp { offset, found: 255 })
        }),
        row("a range cut off, to be allocated", SHORT, |i| {
            let offset = i.end_with(&[i.free_block(0, 0) | ALLOC_RANGE]);
            malformed(i.log_end(0), FormatError::LogCut { offset })
        }),
        row("a range cut off, to be freed", SHORT, |i| {
            let offset = i.end_with(&[i.root | FREE_RANGE]);
            malformed(i.log_end(0), FormatError::LogCut { offset })
        }),
    ]
}

fn lengths() -> Vec<Row> {
    vec![
        row("no block allocated", SHORT, |i| i.bad_entry_len(i.free_block(0, 0) | ALLOC_RANGE, 0)),
        row("no block freed", SHORT, |i| i.bad_entry_len(i.root | FREE_RANGE, 0)),
        row("a part of a block allocated", SHORT, |i| i.bad_entry_len(i.free_block(0, 0) | ALLOC_RANGE, i.unit / 2)),
        row("a block and a byte freed", SHORT, |i| i.bad_entry_len(i.root | FREE_RANGE, i.unit + 1)),
        row("2^64-1 bytes freed", SHORT, |i| i.bad_entry_len(i.root | FREE_RANGE, u64::MAX)),
        row("blocks up to 2^64 freed", SHORT, |i| i.bad_entry_len(i.root | FREE_RANGE, 0u64.wrapping_sub(i.root))),
        row("the last of all blocks freed", SHORT, |i| {
            let addr = 0u64.wrapping_sub(i.unit);
            let offset = i.insert(0, &[addr | FREE]);
            malformed(i.log_end(0), field("log entry length", offset + 8, i.unit))
        }),
        row("one block allocated, not aligned", SHORT, |i| i.bad_entry_addr((i.free_block(0, 0) + 512) | ALLOC)),
        row("one block freed, not aligned", SHORT, |i| i.bad_entry_addr((i.root + 1024) | FREE)),
        row("a range allocated, not aligned", SHORT, |i| i.bad_entry_addr((i.free_block(0, 0) + 256) | ALLOC_RANGE)),
        row("a range freed, not aligned", SHORT, |i| i.bad_entry_addr((i.root + 256) | FREE_RANGE)),
    ]
}

fn foreign() -> Vec<Row> {
    vec![
        row("the superblock freed", SHORT, |i| i.bad_entry(&[FREE], FOREIGN)),
        row("the second superblock freed", SHORT, |i| i.bad_entry(&[i.second() | FREE], FOREIGN)),
        row("a header freed", SHORT, |i| i.bad_entry(&[i.arenas[0].addr | FREE], FOREIGN)),
        row("a second header freed", SHORT, |i| i.bad_entry(&[(i.arenas[0].addr + i.unit) | FREE], FOREIGN)),
        row("a block of another arena freed", SHORT, |i| i.bad_entry(&[i.dead_head | FREE], FOREIGN)),
        row("a block of another arena allocated", SHORT, |i| i.bad_entry(&[i.free_block(1, 0) | ALLOC], FOREIGN)),
        row("a block of the arena before freed", SHORT, |i| {
            let offset = i.insert(1, &[i.root | FREE]);
            corrupt(i.log_end(1), FOREIGN(offset))
        }),
        row("a block of the arena before allocated", SHORT, |i| {
            let offset = i.insert(1, &[i.free_block(0, 0) | ALLOC]);
            corrupt(i.log_end(1), FOREIGN(offset))
        }),
        row("a block at 2^40 freed", SHORT, |i| i.bad_entry(&[1 << 40 | FREE], FOREIGN)),
        row("a block at 2^60 freed", SHORT, |i| i.bad_entry(&[1 << 60 | FREE], FOREIGN)),
        row("a block at 2^60 allocated", SHORT, |i| i.bad_entry(&[1 << 60 | ALLOC], FOREIGN)),
        row("a range over the end of an arena freed", SHORT, |i| {
            i.bad_entry(&[(i.spare() - i.unit) | FREE_RANGE, 4 * i.unit], FOREIGN)
        }),
        row("a range over the end of an arena allocated", SHORT, |i| {
            i.bad_entry(&[i.free_block(0, 0) | ALLOC_RANGE, i.arenas[0].size], FOREIGN)
        }),
        row("a range over two arenas freed", SHORT, |i| {
            i.bad_entry(&[i.root | FREE_RANGE, i.arenas[1].addr + 4 * i.unit - i.root], FOREIGN)
        }),
        row("2^33 blocks freed", SHORT, |i| i.bad_entry(&[i.root | FREE_RANGE, i.unit << 33], FOREIGN)),
        row("2^32-1 blocks allocated", SHORT, |i| {
            i.bad_entry(&[i.free_block(0, 0) | ALLOC_RANGE, i.unit * u64::from(u32::MAX)], FOREIGN)
        }),
        row("the last block but one of an arena freed", SHORT, |i| i.bad_entry(&[i.spare() | FREE], FOREIGN)),
        row("the last block of an arena freed", SHORT, |i| i.bad_entry(&[(i.spare() + i.unit) | FREE], FOREIGN)),
        row("the last two blocks of an arena freed", SHORT, |i| {
            i.bad_entry(&[i.spare() | FREE_RANGE, 2 * i.unit], FOREIGN)
        }),
        row("the last block of an arena allocated", SHORT, |i| i.bad_entry(&[(i.spare() + i.unit) | ALLOC], FOREIGN)),
    ]
}

fn twice() -> Vec<Row> {
    vec![
        row("a block allocated that is in use", SHORT, |i| i.bad_entry(&[i.root | ALLOC], ALLOC_TWICE)),
        row("a block allocated twice", SHORT, |i| {
            let word = i.free_block(0, 0) | ALLOC;
            i.bad_second(&[word, word], ALLOC_TWICE)
        }),
        row("a range allocated of which a part is in use", SHORT, |i| {
            let first = i.arenas[0].addr + 2 * i.unit;
            i.bad_entry(&[first | ALLOC_RANGE, i.arenas[0].size - 2 * i.unit], ALLOC_TWICE)
        }),
        row("the log allocated once more", SHORT, |i| i.bad_entry(&[i.arenas[0].log[0] | ALLOC], ALLOC_TWICE)),
        row("a block freed that is free", SHORT, |i| i.bad_entry(&[i.free_block(0, 1) | FREE], FREE_TWICE)),
        row("a block freed twice", SHORT, |i| i.bad_second(&[i.root | FREE, i.root | FREE], FREE_TWICE)),
        row("a range freed of which a part is free", SHORT, |i| {
            let first = i.arenas[0].addr + 2 * i.unit;
            i.bad_entry(&[first | FREE_RANGE, i.arenas[0].size - 2 * i.unit], FREE_TWICE)
        }),
    ]
}

fn live() -> Vec<Row> {
    vec![
        row("the live root freed", SHORT, |i| i.free_live(0, i.root)),
        row("the live head of the dead list freed", SHORT, |i| i.free_live(1, i.dead_head)),
        row("the live tail of the dead list freed", SHORT, |i| i.free_live(0, i.dead_tail)),
        row("the live root freed in a range", SHORT, |i| {
            i.insert(0, &[i.root | FREE_RANGE, i.unit]);
            corrupt(i.root, Damage::RootFree)
        }),
        row("the log itself freed", SHORT, |i| {
            let log = i.arenas[0].log[0];
            i.insert(0, &[log | FREE]);
            corrupt(log, Damage::LogNotInUse)
        }),
        row("the log of the last arena freed", SHORT, |i| {
            let log = i.arenas[1].log[0];
            i.insert(1, &[log | FREE]);
            corrupt(log, Damage::LogNotInUse)
        }),
        row("a block in the middle of a log freed", Base::LONG, |i| {
            let log = i.arenas[0].log[1];
            i.insert(0, &[log | FREE]);
            corrupt(log, Damage::LogNotInUse)
        }),
    ]
}

fn barriers() -> Vec<Row> {
    vec![
        row("barriers that descend", SEALED, |i| i.bad_second(&[(i.qgen + 1) << 8 | BARRIER], BARRIER_ORDER)),
        row("barriers that descend from the largest", SEALED, |i| i.bad_second(&[!0xff | BARRIER], BARRIER_ORDER)),
        row("no barrier", SEALED, |i| i.bad_end(&[], Damage::LogEnd)),
        row("no entry at all", SEALED, |i| {
            let addr = i.log_end(0);
            i.set_words(addr, &[]);
            i.seal_logs();
            // Nothing is free then, so nothing else is wrong.
            corrupt(addr, Damage::LogEnd)
        }),
        row("an older barrier at the end", SEALED, |i| i.bad_end(&[(i.qgen - 1) << 8 | BARRIER], Damage::LogEnd)),
        row("a newer barrier at the end", SEALED, |i| i.bad_end(&[(i.qgen + 1) << 8 | BARRIER], Damage::LogEnd)),
        row("a newer barrier behind the end", SEALED, |i| {
            i.bad_end(&[i.qgen << 8 | BARRIER, (i.qgen + 1) << 8 | BARRIER], Damage::LogEnd)
        }),
        row("something behind the barrier at the end", SEALED, |i| {
            i.bad_end(&[i.qgen << 8 | BARRIER, i.free_block(0, 0) | ALLOC], Damage::LogEnd)
        }),
        row("the barrier in front of the last frees", SEALED, |i| {
            i.bad_end(&[i.qgen << 8 | BARRIER, i.root | FREE], Damage::LogEnd)
        }),
    ]
}

fn bombs() -> Vec<Row> {
    const HERE: &[Base] = &[Base::Sealed2k, Base::Bare2k];
    vec![
        row("all blocks freed and allocated over and over", HERE, |i| {
            let first = i.arenas[0].addr + 2 * i.unit;
            i.turn_over(first, i.arenas[0].size / i.unit - 2, 240)
        }),
        row("one map word freed and allocated over and over", HERE, |i| {
            let first = i.arenas[0].addr + 2 * i.unit;
            i.turn_over(first, 32, 240)
        }),
        row("a barrier between each turn of all blocks", HERE, |i| {
            let (first, len) = (i.arenas[0].addr + 2 * i.unit, i.arenas[0].size - 2 * i.unit);
            let turn = [first | FREE_RANGE, len, 1 << 8 | BARRIER, first | ALLOC_RANGE, len, 1 << 8 | BARRIER];
            let addr = i.arenas[0].log[0];
            let all: Vec<u64> = turn.iter().copied().cycle().take(240).collect();
            i.set_words(addr, &all);
            i.seal_logs();
            corrupt(addr, Damage::ReplayWork)
        }),
    ]
}
