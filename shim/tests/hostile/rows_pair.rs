//! Two superblocks that are bad in different ways or disagree, and devices that were cut short. A newer superblock
//! whose volume does not resolve is damage, even if the older one is in order.

use crate::images::{Base, Image};
use crate::{corrupt, field, malformed, row, Row};
use arenite_core::format::{BlockType, FormatError};
use arenite_core::hash::hash64;
use arenite_core::{Damage, Error};

const SHORT: &[Base] = Base::SHORT;

impl Image {
    /// Changes one superblock into that of the next generation, and seals it.
    fn newer(&mut self, addr: u64, change: impl FnOnce(&mut Self, u64)) {
        self.put(addr + 96, 8, self.qgen + 1);
        change(self, addr);
        self.seal_superblock(addr);
    }

    /// Sets a field of one superblock, and seals it.
    fn one(&mut self, addr: u64, offset: u64, len: usize, value: u64) {
        self.put(addr + offset, len, value);
        self.seal_superblock(addr);
    }

    /// Writes a header as an unfinished commit does, the first copy only, and makes a superblock name it.
    fn newer_header(&mut self, addr: u64, change: impl FnOnce(&mut Self, u64)) {
        let header = self.arenas[0].addr;
        change(self, header);
        if self.sealed {
            let check = hash64(&self.page(header)[..70]);
            self.put(header + 70, 8, check);
        }
        let hash = hash64(self.page(header));
        self.newer(addr, |image, addr| image.put(addr + 112, 8, hash));
    }

    /// Cuts the device.
    fn cut(&mut self, len: u64) {
        self.bytes.truncate(len as usize);
    }
}

/// A device of so many bytes, which are fewer than mount looks at first.
fn short(image: &mut Image, len: usize) -> Error {
    image.cut(len as u64);
    let none = |got_bytes| FormatError::BufferLen { got_bytes, want_bytes: 8192 };
    Error::NotAVolume { first: none(len), second: Some(none(0)) }
}

pub fn rows() -> Vec<Row> {
    [bad_both(), newer(), cut()].into_iter().flatten().collect()
}

fn bad_both() -> Vec<Row> {
    vec![
        row("no arena in one, another hash in the other", SHORT, |i| {
            let second = i.second();
            i.one(0, 16, 4, 0);
            let computed = i.get(second + 136, 8);
            i.put(second + 136, 8, 1);
            let other = FormatError::Hash { stored: 1, computed };
            Error::NotAVolume { first: field("arena count", 16, 0), second: Some(other) }
        }),
        row("version 8.00 in one, bufspc 0 in the other", SHORT, |i| {
            i.bytes[..8].copy_from_slice(b"gefs8.00");
            i.one(i.second(), 12, 4, 0);
            Error::NotAVolume { first: FormatError::Version { found: *b"8.00" }, second: Some(field("bufspc", 12, 0)) }
        }),
        row("one lost, 300 arenas in the other", SHORT, |i| {
            i.bytes[..512].fill(0);
            i.one(i.second(), 16, 4, 300);
            let first = FormatError::Magic { found: [0; 8] };
            Error::NotAVolume { first, second: Some(field("arena count", 16, 300)) }
        }),
        row("one torn, a root not aligned in the other", SHORT, |i| {
            let stored = i.get(136, 8);
            i.put(96, 8, i.qgen + 1);
            let computed = hash64(&i.bytes[..136]);
            i.one(i.second(), 24, 8, 24);
            Error::NotAVolume {
                first: FormatError::Hash { stored, computed },
                second: Some(field("root address", 24, 24)),
            }
        }),
        row("one torn, generation 2^63 in the other", SHORT, |i| {
            let stored = i.get(136, 8);
            i.put(80, 8, 77);
            let computed = hash64(&i.bytes[..136]);
            i.one(i.second(), 96, 8, 1 << 63);
            let second = field("committed generation", 96, 1 << 63);
            Error::NotAVolume { first: FormatError::Hash { stored, computed }, second: Some(second) }
        }),
    ]
}

fn newer() -> Vec<Row> {
    vec![
        row("first superblock newer, its header nowhere", SHORT, |i| {
            i.newer(0, |i, addr| i.put(addr + 112, 8, 5));
            corrupt(i.arenas[0].addr, Damage::Header { expected: 5 })
        }),
        row("second superblock newer, its header nowhere", SHORT, |i| {
            i.newer(i.second(), |i, addr| i.put(addr + 128, 8, 6));
            corrupt(i.arenas[1].addr, Damage::Header { expected: 6 })
        }),
        row("second superblock newer, its arena elsewhere", SHORT, |i| {
            let moved = i.arenas[1].addr + 2 * i.unit;
            i.newer(i.second(), |i, addr| i.put(addr + 120, 8, moved));
            corrupt(moved, Damage::Header { expected: i.get(128, 8) })
        }),
        row("first superblock newer, its root free", SHORT, |i| {
            let free = i.free_block(0, 0);
            i.newer(0, |i, addr| i.put(addr + 24, 8, free));
            corrupt(free, Damage::RootFree)
        }),
        row("second superblock newer, its dead list outside", SHORT, |i| {
            i.newer(i.second(), |i, addr| i.put(addr + 40, 8, 0));
            corrupt(0, Damage::RootFree)
        }),
        row("first superblock newer, its header no header", SHORT, |i| {
            i.newer_header(0, |i, header| i.put(header, 2, 2));
            let error = FormatError::BlockType { found: 2, want: Some(BlockType::ArenaHeader) };
            malformed(i.arenas[0].addr, error)
        }),
        row("second superblock newer, its arena too large", SHORT, |i| {
            let size = i.arenas[0].size + i.unit;
            i.newer_header(i.second(), |i, header| i.put(header + 18, 8, size));
            corrupt(i.arenas[0].addr, Damage::ArenaExtent)
        }),
        row("first superblock newer, its log not written", &[Base::Bare2k], |i| {
            let log = i.arena_end(0) - i.unit;
            i.newer_header(0, |i, header| i.put(header + 2, 8, log));
            malformed(log, FormatError::BlockType { found: 0, want: Some(BlockType::Log) })
        }),
        row("second superblock newer, with an arena less", SHORT, |i| {
            i.newer(i.second(), |i, addr| i.put(addr + 16, 4, 1));
            // The head of the dead list was in the other one.
            corrupt(i.dead_head, Damage::RootFree)
        }),
    ]
}

fn cut() -> Vec<Row> {
    vec![
        row("device of no bytes", SHORT, |i| short(i, 0)),
        row("device of one sector", SHORT, |i| short(i, 512)),
        row("device a sector shorter than a superblock may be", SHORT, |i| short(i, 7680)),
        row("device without its last block", SHORT, |i| {
            i.cut(i.second());
            corrupt(i.arenas[1].addr, Damage::ArenaExtent)
        }),
        row("device that ends in the last arena", SHORT, |i| {
            i.cut(i.arenas[1].addr + 8 * i.unit);
            corrupt(i.arenas[1].addr, Damage::ArenaExtent)
        }),
        row("device that ends in the first arena", SHORT, |i| {
            i.cut(i.arenas[0].addr + 8 * i.unit);
            corrupt(i.arenas[0].addr, Damage::ArenaExtent)
        }),
        row("device that ends behind the superblock", &[Base::Sealed16k], |i| {
            i.cut(i.unit);
            corrupt(i.arenas[0].addr, Damage::ArenaExtent)
        }),
        row("device of zeros", SHORT, |i| {
            i.bytes.fill(0);
            let none = FormatError::Magic { found: [0; 8] };
            Error::NotAVolume { first: none, second: Some(none) }
        }),
    ]
}
