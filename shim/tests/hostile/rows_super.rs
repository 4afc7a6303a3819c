//! Superblocks: every field out of its bounds, in both copies.

use crate::images::{Base, Image};
use crate::{corrupt, field, row, Row};
use arenite_core::format::{FormatError, NONE};
use arenite_core::hash::hash64;
use arenite_core::{Damage, Error, MemoryPart};

const SHORT: &[Base] = Base::SHORT;

/// Both superblocks have this fault.
const fn both(error: FormatError) -> Error {
    Error::NotAVolume { first: error, second: Some(error) }
}

impl Image {
    /// Sets a field of both superblocks, which then is what is wrong with them.
    fn bad_super(&mut self, name: &'static str, offset: u64, len: usize, value: u64) -> Error {
        self.put_super(offset, len, value);
        self.seal_superblocks();
        both(field(name, offset as usize, value))
    }
}

/// The magic that is found where the last guess at the second superblock looks, which is all there is to say about it.
fn no_magic(image: &Image) -> FormatError {
    let len = image.bytes.len() as u64;
    let at = (len - len % 65536 - 65536) as usize;
    FormatError::Magic { found: image.bytes[at..at + 8].try_into().expect("8 bytes") }
}

/// So many arenas, each in the next two blocks.
fn many_arenas(image: &mut Image, arenas: u64) -> Error {
    image.put_super(16, 4, arenas);
    for arena in 0..arenas {
        image.put_super(104 + 16 * arena, 8, image.unit * (1 + 2 * arena));
    }
    image.seal_superblocks();
    Error::MemoryTooSmall { part: MemoryPart::Arenas, need: arenas, have: 32 }
}

fn with_magic(image: &mut Image, magic: &[u8; 8]) {
    image.put_super_bytes(0, magic);
    image.seal_superblocks();
}

pub fn rows() -> Vec<Row> {
    [sizes(), magics(), pointers(), table(), seals()].into_iter().flatten().collect()
}

fn sizes() -> Vec<Row> {
    vec![
        row("no arena", SHORT, |i| i.bad_super("arena count", 16, 4, 0)),
        row("300 arenas", SHORT, |i| i.bad_super("arena count", 16, 4, 300)),
        row("2^32-1 arenas", SHORT, |i| i.bad_super("arena count", 16, 4, u64::from(u32::MAX))),
        row("122 arenas at 2 KiB", &[Base::Sealed2k, Base::Bare2k], |i| i.bad_super("arena count", 16, 4, 122)),
        row("257 arenas at 16 KiB", &[Base::Sealed16k], |i| i.bad_super("arena count", 16, 4, 257)),
        row("blocks of 0 bytes", SHORT, |i| i.bad_super("block size", 8, 4, 0)),
        row("blocks of 1 byte", SHORT, |i| i.bad_super("block size", 8, 4, 1)),
        row("blocks of 1024 bytes", SHORT, |i| i.bad_super("block size", 8, 4, 1024)),
        row("blocks of 3000 bytes", SHORT, |i| i.bad_super("block size", 8, 4, 3000)),
        row("blocks of 131072 bytes", SHORT, |i| i.bad_super("block size", 8, 4, 131_072)),
        row("blocks of 2^31 bytes", SHORT, |i| i.bad_super("block size", 8, 4, 1 << 31)),
        row("blocks of 4096 bytes that are 2048", &[Base::Sealed2k], |i| {
            i.put_super(8, 4, 4096);
            i.seal_superblocks();
            // The second copy is not where one of blocks of 4 KiB would be.
            Error::NotAVolume { first: field("bufspc", 12, 1019), second: Some(no_magic(i)) }
        }),
        row("blocks of 4096 bytes, bufspc to match", &[Base::Sealed2k], |i| {
            i.put_super(8, 4, 4096);
            i.put_super(12, 4, 2043);
            for pointer in [24, 40, 56] {
                i.put_super(pointer, 8, NONE);
            }
            i.seal_superblocks();
            let first = field("arena address", 104, i.arenas[0].addr);
            Error::NotAVolume { first, second: Some(no_magic(i)) }
        }),
        row("bufspc 0", SHORT, |i| i.bad_super("bufspc", 12, 4, 0)),
        row("bufspc one too large", SHORT, |i| {
            let value = i.get(12, 4) + 1;
            i.bad_super("bufspc", 12, 4, value)
        }),
        row("bufspc 2^32-1", SHORT, |i| i.bad_super("bufspc", 12, 4, u64::from(u32::MAX))),
    ]
}

fn magics() -> Vec<Row> {
    vec![
        row("version 8.00", SHORT, |i| {
            with_magic(i, b"gefs8.00");
            both(FormatError::Version { found: *b"8.00" })
        }),
        row("version 9.01", SHORT, |i| {
            with_magic(i, b"gefs9.01");
            both(FormatError::Version { found: *b"9.01" })
        }),
        row("another magic", SHORT, |i| {
            with_magic(i, b"xefs9.00");
            Error::NotAVolume { first: FormatError::Magic { found: *b"xefs9.00" }, second: Some(no_magic(i)) }
        }),
        row("no superblock at all", SHORT, |i| {
            i.put_super_bytes(0, &vec![0; i.unit as usize]);
            Error::NotAVolume { first: FormatError::Magic { found: [0; 8] }, second: Some(no_magic(i)) }
        }),
    ]
}

fn pointers() -> Vec<Row> {
    vec![
        row("root not aligned", SHORT, |i| i.bad_super("root address", 24, 8, i.root + 512)),
        row("head of the dead list not aligned", SHORT, |i| i.bad_super("dead list head", 40, 8, i.dead_head + 1)),
        row("tail of the dead list not aligned", SHORT, |i| i.bad_super("dead list tail", 56, 8, i.dead_tail - 8)),
        row("root just below none", SHORT, |i| i.bad_super("root address", 24, 8, u64::MAX - 1)),
        row("generation of 57 bits", SHORT, |i| i.bad_super("committed generation", 96, 8, 1 << 56)),
        row("generation 2^64-1", SHORT, |i| i.bad_super("committed generation", 96, 8, u64::MAX)),
    ]
}

fn table() -> Vec<Row> {
    vec![
        row("arena not aligned", SHORT, |i| i.bad_super("arena address", 104, 8, i.arenas[0].addr + 512)),
        row("arena at the superblock", SHORT, |i| i.bad_super("arena address", 104, 8, 0)),
        row("arena nowhere", SHORT, |i| i.bad_super("arena address", 120, 8, u64::MAX)),
        row("arenas that descend", SHORT, |i| {
            i.put_super(104, 8, i.arenas[1].addr);
            i.bad_super("arena address", 120, 8, i.arenas[0].addr)
        }),
        row("the same arena twice", SHORT, |i| i.bad_super("arena address", 120, 8, i.arenas[0].addr)),
        row("an arena in the header of another", SHORT, |i| {
            i.bad_super("arena address", 120, 8, i.arenas[0].addr + i.unit)
        }),
        row("last arena behind the device", SHORT, |i| {
            let addr = i.second() + 2 * i.unit;
            i.bad_super("arena address", 120, 8, addr);
            corrupt(addr, Damage::ArenaExtent)
        }),
        row("last arena at 2^40", SHORT, |i| {
            i.bad_super("arena address", 120, 8, 1 << 40);
            corrupt(1 << 40, Damage::ArenaExtent)
        }),
        row("all arenas behind the device", SHORT, |i| {
            i.bad_super("arena address", 104, 8, 1 << 40);
            i.bad_super("arena address", 120, 8, 1 << 41);
            corrupt(1 << 40, Damage::ArenaExtent)
        }),
        row("an arena that begins inside another", SHORT, |i| {
            i.bad_super("arena address", 120, 8, i.arenas[1].addr - 4 * i.unit);
            corrupt(i.arenas[0].addr, Damage::ArenaExtent)
        }),
        row("an arena at the second superblock", SHORT, |i| {
            let addr = i.second();
            i.bad_super("arena address", 120, 8, addr);
            // Its second header would be behind the device, its first is no header.
            corrupt(addr + i.unit, Damage::ArenaExtent)
        }),
        row("33 arenas where there is memory for 32", &[Base::Sealed2k, Base::Bare2k], |i| many_arenas(i, 33)),
        row("121 arenas where there is memory for 32", &[Base::Sealed2k, Base::Bare2k], |i| many_arenas(i, 121)),
        row("a third arena that is not there", &[Base::Bare2k], |i| {
            let addr = i.second() - 2 * i.unit;
            i.put_super(16, 4, 3);
            i.put_super(136, 8, addr);
            i.put_super(144, 8, 0x1234);
            i.seal_superblocks();
            corrupt(i.arenas[1].addr, Damage::ArenaExtent)
        }),
    ]
}

fn seals() -> Vec<Row> {
    vec![
        row("superblocks not sealed again", SHORT, |i| {
            let stored = i.get(136, 8);
            i.put_super(72, 8, 1);
            both(FormatError::Hash { stored, computed: hash64(&i.bytes[..136]) })
        }),
        row("another hash in the superblocks", SHORT, |i| {
            let computed = i.get(136, 8);
            i.put_super(136, 8, 0);
            both(FormatError::Hash { stored: 0, computed })
        }),
        row("header hashes of zero", SHORT, |i| {
            i.put_super(112, 8, 0);
            i.put_super(128, 8, 0);
            i.seal_superblocks();
            corrupt(i.arenas[0].addr, Damage::Header { expected: 0 })
        }),
    ]
}
