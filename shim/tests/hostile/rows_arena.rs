//! Arena headers: every field out of its bounds, in both copies, and the seal of the log.

use crate::images::{Base, Image};
use crate::{corrupt, field, malformed, row, Row};
use arenite_core::format::{BlockType, FormatError, NONE};
use arenite_core::{Damage, Error};

const SHORT: &[Base] = Base::SHORT;
const SEALED: &[Base] = Base::SEALED;

impl Image {
    /// Sets a field of an arena's headers, which then is what is wrong with them.
    fn bad_header(&mut self, arena: usize, name: &'static str, offset: u64, len: usize, value: u64) -> Error {
        self.put_header(arena, offset, len, value);
        self.seal_headers();
        malformed(self.arenas[arena].addr, field(name, offset as usize, value))
    }

    /// The same for a size of which the codec cannot know that it is wrong.
    fn misplaced(&mut self, arena: usize, size: u64) -> Error {
        self.bad_header(arena, "arena size", 18, 8, size);
        corrupt(self.arenas[arena].addr, Damage::ArenaExtent)
    }

    fn bad_head(&mut self, addr: u64) -> Error {
        self.bad_header(0, "log head", 2, 8, addr)
    }

    fn bad_tail(&mut self, addr: u64) -> Error {
        self.bad_header(0, "sealed log tail", 62, 8, addr)
    }
}

fn typed(image: &mut Image, arena: usize, found: u16) -> Error {
    image.bad_header(arena, "type", 0, 2, u64::from(found));
    malformed(image.arenas[arena].addr, FormatError::BlockType { found, want: Some(BlockType::ArenaHeader) })
}

/// An arena so small that nothing fits, its log in the first block.
fn tiny(image: &mut Image, blocks: u64) -> Error {
    let first = image.arenas[0].addr + 2 * image.unit;
    let log = image.arenas[0].log[0];
    image.copy_block(log, first);
    image.arenas[0].log = vec![first];
    image.move_log_head(0, first);
    image.seal_logs();
    image.misplaced(0, blocks * image.unit)
}

pub fn rows() -> Vec<Row> {
    [copies(), extents(), heads(), seals()].into_iter().flatten().collect()
}

fn copies() -> Vec<Row> {
    vec![
        row("header that is a dead list", SHORT, |i| typed(i, 0, 4)),
        row("header that is data", SHORT, |i| typed(i, 1, 0)),
        row("header that is a superblock", SHORT, |i| typed(i, 1, 0x6765)),
        row("header of no type", SHORT, |i| typed(i, 0, 0xffff)),
        row("both headers changed, not sealed", SHORT, |i| {
            i.put_header(0, 26, 8, 0);
            corrupt(i.arenas[0].addr, Damage::Header { expected: i.get(112, 8) })
        }),
        row("both headers lost", SHORT, |i| {
            let unit = i.unit as usize;
            let at = i.arenas[1].addr as usize;
            i.bytes[at..at + 2 * unit].fill(0);
            corrupt(i.arenas[1].addr, Damage::Header { expected: i.get(128, 8) })
        }),
        row("headers of another arena", SHORT, |i| {
            let (from, to) = (i.arenas[0].addr, i.arenas[1].addr);
            i.copy_block(from, to);
            i.copy_block(from, to + i.unit);
            corrupt(to, Damage::Header { expected: i.get(128, 8) })
        }),
        row("headers of another arena, sealed", SHORT, |i| {
            let (from, to) = (i.arenas[0].addr, i.arenas[1].addr);
            i.copy_block(from, to);
            i.copy_block(from, to + i.unit);
            i.seal_headers();
            malformed(to, field("log head", 2, i.arenas[0].log[0]))
        }),
    ]
}

fn extents() -> Vec<Row> {
    vec![
        row("arena of 0 bytes", SHORT, |i| i.bad_header(0, "arena size", 18, 8, 0)),
        row("arena of a part of a block", SHORT, |i| i.bad_header(0, "arena size", 18, 8, i.arenas[0].size - 512)),
        row("arena up to the end of all addresses", SHORT, |i| {
            i.bad_header(1, "arena size", 18, 8, 0u64.wrapping_sub(i.unit))
        }),
        row("arena of 2^60 bytes", SHORT, |i| i.misplaced(0, 1 << 60)),
        row("last arena of 2^60 bytes", SHORT, |i| i.misplaced(1, 1 << 60)),
        row("arena of 2^33 blocks", SHORT, |i| i.misplaced(1, i.unit << 33)),
        row("arena into the next", SHORT, |i| i.misplaced(0, i.arenas[0].size + i.unit)),
        row("last arena into the second superblock", SHORT, |i| i.misplaced(1, i.arenas[1].size + i.unit)),
        row("last arena far into nothing", SHORT, |i| i.misplaced(1, i.arenas[1].size + 64 * i.unit)),
        row("arena of one block", SHORT, |i| tiny(i, 1)),
        row("arena of two blocks", SHORT, |i| tiny(i, 2)),
    ]
}

fn heads() -> Vec<Row> {
    vec![
        row("log nowhere", SHORT, |i| i.bad_head(NONE)),
        row("log not aligned", SHORT, |i| i.bad_head(i.arenas[0].log[0] + 512)),
        row("log at the superblock", SHORT, |i| i.bad_head(0)),
        row("log in the first header", SHORT, |i| i.bad_head(i.arenas[0].addr)),
        row("log in the second header", SHORT, |i| i.bad_head(i.arenas[0].addr + i.unit)),
        row("log in the next arena's header", SHORT, |i| i.bad_head(i.arena_end(0))),
        row("log in another arena", SHORT, |i| i.bad_head(i.arenas[1].log[0])),
        row("log at 2^60", SHORT, |i| i.bad_head(1 << 60)),
        row("log on a block of data", SHORT, |i| {
            i.move_log_head(0, i.root);
            i.seal_headers();
            malformed(i.root, FormatError::BlockType { found: 0xabab, want: Some(BlockType::Log) })
        }),
        row("log on a dead list", SHORT, |i| {
            i.move_log_head(0, i.dead_tail);
            i.seal_headers();
            malformed(i.dead_tail, FormatError::BlockType { found: 4, want: Some(BlockType::Log) })
        }),
        row("log on an empty block", SHORT, |i| {
            let addr = i.free_block(0, 3);
            let unit = i.unit as usize;
            i.bytes[addr as usize..][..unit].fill(0);
            i.move_log_head(0, addr);
            i.seal_headers();
            malformed(addr, FormatError::BlockType { found: 0, want: Some(BlockType::Log) })
        }),
        row("log in a block that it says is free", SHORT, |i| {
            let (from, to) = (i.arenas[0].log[0], i.free_block(0, 2));
            i.copy_block(from, to);
            i.arenas[0].log = vec![to];
            i.move_log_head(0, to);
            i.seal_logs();
            corrupt(to, Damage::LogNotInUse)
        }),
    ]
}

fn seals() -> Vec<Row> {
    vec![
        row("sealed log of no block", SEALED, |i| i.bad_header(0, "sealed log length", 50, 4, 0)),
        row("sealed log longer than its arena", SEALED, |i| {
            let blocks = i.arenas[0].size / i.unit + 1;
            i.bad_header(0, "sealed log length", 50, 4, blocks)
        }),
        row("sealed log of 2^32-1 blocks", SEALED, |i| {
            i.bad_header(0, "sealed log length", 50, 4, u64::from(u32::MAX))
        }),
        row("sealed generation of 57 bits", SEALED, |i| i.bad_header(0, "sealed generation", 42, 8, 1 << 56)),
        row("sealed tail nowhere", SEALED, |i| i.bad_tail(NONE)),
        row("sealed tail not aligned", SEALED, |i| i.bad_tail(i.arenas[0].log[0] + 8)),
        row("sealed tail in a header", SEALED, |i| i.bad_tail(i.arenas[0].addr + i.unit)),
        row("sealed tail behind the arena", SEALED, |i| i.bad_tail(i.arena_end(0))),
        row("sealed tail that is not the only block", SEALED, |i| i.bad_tail(i.free_block(0, 0))),
        row("sealed tail that is the head of two blocks", SEALED, |i| {
            i.put_header(0, 50, 4, 2);
            i.bad_tail(i.arenas[0].log[0])
        }),
        row("seal of two blocks over one", SEALED, |i| {
            i.put_header(0, 50, 4, 2);
            i.bad_tail(i.free_block(0, 0));
            corrupt(i.arenas[0].log[0], Damage::LogEnd)
        }),
        row("seal with another digest", SEALED, |i| {
            let found = i.digest(&i.arenas[0].log);
            i.put_header(0, 54, 8, 1);
            i.seal_headers();
            corrupt(i.arenas[0].log[0], Damage::LogDigest { expected: 1, found })
        }),
        row("seal of an older generation", SEALED, |i| {
            i.put_header(0, 42, 8, i.qgen - 1);
            i.seal_headers();
            corrupt(i.arenas[0].log[0], Damage::LogEnd)
        }),
        row("seal of a generation to come, barrier and all", SEALED, |i| {
            let (log, gen) = (i.arenas[0].log[0], i.qgen + 1);
            i.put_header(0, 42, 8, gen);
            let mut words = i.words(log);
            words.pop();
            words.push(gen << 8 | 3);
            i.set_words(log, &words);
            i.seal_logs();
            corrupt(log, Damage::LogEnd)
        }),
        row("seal of one block over several", &[Base::Long2k], |i| {
            i.put_header(0, 50, 4, 1);
            let log = i.arenas[0].log[0];
            i.bad_tail(log);
            let (expected, found) = (i.get(i.arenas[0].addr + 54, 8), i.digest(&[log]));
            corrupt(log, Damage::LogDigest { expected, found })
        }),
        row("seal of one block over several, digest and all", &[Base::Long2k], |i| {
            let log = i.arenas[0].log[0];
            i.arenas[0].log = vec![log];
            i.seal_logs();
            corrupt(log, Damage::LogEnd)
        }),
        row("sealed tail that is not the last block", &[Base::Long2k], |i| {
            let addr = i.arenas[0].log[1];
            let last = i.log_end(0);
            i.bad_tail(addr);
            corrupt(last, Damage::LogEnd)
        }),
    ]
}
