//! Tests of the codecs: what the original wrote, round trips, every refusal, and hostile bytes.

mod arena_header;
mod deadlist;
mod log;
mod superblock;
mod tree;

use super::{BlockSize, BlockType, FormatError, RawPtr, NONE};
use crate::hash::hash64;

/// The size of most tests: 2 KiB, where every limit is near.
const SMALL: BlockSize = BlockSize::MIN;
const B: usize = SMALL.len_bytes();
const SIZES: [u32; 6] = [2048, 4096, 8192, 16384, 32768, 65536];
/// Miri tries 2 and 16 KiB: it takes a minute to hash 64 KiB a few times.
const SIZES_STEP: usize = if cfg!(miri) { 3 } else { 1 };
/// Rounds of each test on hostile bytes.
const ROUNDS: usize = if cfg!(miri) { 50 } else { 40_000 };

/// Runs `test` on a page of every block size.
fn each_size(mut test: impl FnMut(BlockSize, &mut [u8])) {
    let mut page = [0xa5; 65536];
    for len_bytes in SIZES.into_iter().step_by(SIZES_STEP) {
        test(BlockSize::new(len_bytes).unwrap(), &mut page[..len_bytes as usize]);
    }
}

/// A xorshift generator: the same numbers on every run.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.next() as u8;
        }
    }

    /// Changes one to eight bytes, mostly among the first `live`: by a bit, to an extreme, or to anything.
    fn mutate(&mut self, page: &mut [u8], live: usize) {
        for _ in 0..=self.below(8) {
            let end = if self.below(4) == 0 { page.len() } else { live };
            let at = self.below(end);
            page[at] = match self.below(4) {
                0 => page[at] ^ (1 << self.below(8)),
                1 => 0,
                2 => 0xff,
                _ => self.next() as u8,
            };
        }
    }
}

/// Hands `decode` every proper prefix of a valid page, a page with a byte too many, random pages, and mutations of the
/// valid page, which `reseal` may give a matching hash again. Prefixes must be refused; nothing may panic. Returns
/// how many mutations were accepted.
fn torture(
    valid: &[u8; B],
    live: usize,
    reseal: impl Fn(&mut [u8]),
    decode: impl Fn(&[u8]) -> Result<(), FormatError>,
) -> usize {
    assert_eq!(decode(valid), Ok(()));
    for len in 0..B {
        assert!(decode(&valid[..len]).is_err(), "{len} bytes of a block were enough");
    }
    let mut long = [0; B + 1];
    long[..B].copy_from_slice(valid);
    assert_eq!(decode(&long), Err(FormatError::BufferLen { got_bytes: B + 1, want_bytes: B }));

    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    let mut page = [0; B];
    for _ in 0..ROUNDS / 20 {
        rng.fill(&mut page);
        page[..2].copy_from_slice(&valid[..2]);
        let _ = decode(&page);
        reseal(&mut page);
        let _ = decode(&page);
    }
    let mut accepted = 0;
    for round in 0..ROUNDS {
        page = *valid;
        rng.mutate(&mut page, live);
        if round % 4 != 0 {
            reseal(&mut page);
        }
        accepted += usize::from(decode(&page).is_ok());
    }
    accepted
}

/// Makes the hash of a log or dead list block right, if its length allows it.
fn reseal_chained(page: &mut [u8]) {
    let len = usize::from(u16::from_be_bytes([page[2], page[3]]));
    if let Some(entries) = page.get(36..36 + len) {
        let hash = hash64(entries);
        page[4..12].copy_from_slice(&hash.to_be_bytes());
    }
}

#[test]
fn block_types_have_their_numbers() {
    let types = [
        (0, BlockType::Data),
        (1, BlockType::Pivot),
        (2, BlockType::Leaf),
        (3, BlockType::Log),
        (4, BlockType::DeadList),
        (5, BlockType::ArenaHeader),
        (0x6765, BlockType::Superblock),
    ];
    // Miri tries one in 61, and those that are in the table.
    let step = if cfg!(miri) { 61 } else { 1 };
    for raw in (0..=u16::MAX).step_by(step).chain(types.map(|(number, _)| number)) {
        let want = types.iter().find(|(number, _)| *number == raw).map(|(_, kind)| *kind);
        match BlockType::try_from(raw) {
            Ok(kind) => assert_eq!((Some(kind), kind as u16), (want, raw)),
            Err(error) => assert_eq!((want, error), (None, FormatError::BlockType { found: raw, want: None })),
        }
    }
}

#[test]
fn block_sizes_are_powers_of_two_in_bounds() {
    // Miri takes minutes for all of them: it tries those around the powers of two.
    let near = (1..18).flat_map(|shift| (1u32 << shift) - 2..=(1 << shift) + 2).filter(|_| cfg!(miri));
    for len_bytes in near.chain(0..if cfg!(miri) { 0 } else { 0x20_001 }) {
        let size = BlockSize::new(len_bytes);
        assert_eq!(size.is_some(), SIZES.contains(&len_bytes), "{len_bytes}");
        if let Some(size) = size {
            assert_eq!(size.len_bytes(), len_bytes as usize);
            assert_eq!(size.len_u64(), u64::from(len_bytes));
            assert_eq!(1u32 << size.shift(), len_bytes);
            assert_eq!(size.bufspc(), (len_bytes - 10) / 2);
            assert!(size.divides(0) && size.divides(3 * u64::from(len_bytes)));
            assert!(!size.divides(1) && !size.divides(u64::from(len_bytes) / 2) && !size.divides(NONE));
        }
    }
    assert_eq!(BlockSize::new(1 << 31), None);
    assert_eq!(BlockSize::ORIGINAL.bufspc(), 8187);
}

#[test]
fn pointers_round_trip() {
    let ptr = RawPtr { addr: 0x0102_0304_0506_0708, hash: 0x1112_1314_1516_1718, gen: 0x2122_2324_2526_2728 };
    let mut bytes = [0xee; 30];
    ptr.encode(&mut bytes, 3).unwrap();
    assert_eq!(bytes[3..11], [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(bytes[11..19], [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
    assert_eq!(bytes[19..27], [0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28]);
    assert_eq!((bytes[2], bytes[27]), (0xee, 0xee));
    assert_eq!(RawPtr::decode(&bytes, 3), Some(ptr));
    assert!(!ptr.is_none() && RawPtr::NULL.is_none());
    for at in [7, 30, 31, usize::MAX] {
        let before = bytes;
        assert_eq!(RawPtr::decode(&bytes, at), None);
        assert_eq!(ptr.encode(&mut bytes, at), None);
        assert_eq!(bytes, before);
    }
}

#[test]
fn errors_print() {
    extern crate std;
    use std::string::ToString;
    let errors = [
        (FormatError::BufferLen { got_bytes: 1, want_bytes: 2 }, "buffer of 1 bytes, not 2"),
        (FormatError::Magic { found: *b"\0bc\xff    " }, "not a superblock: begins with \"\\x00bc\\xff    \""),
        (FormatError::Version { found: *b"8.00" }, "disk version \"8.00\" is not supported"),
        (FormatError::BlockType { found: 9, want: None }, "unknown block type 0x9"),
        (FormatError::BlockType { found: 1, want: Some(BlockType::Leaf) }, "block type 0x1 where Leaf belongs"),
        (FormatError::Hash { stored: 1, computed: 2 }, "hash 0x0000000000000001 stored, 0x0000000000000002 computed"),
        (FormatError::Field { name: "arena count", offset: 16, found: 300 }, "bad arena count at byte 16: 0x12c"),
        (FormatError::LogOp { offset: 36, found: 9 }, "unknown log operation 0x9 at byte 36"),
        (FormatError::LogCut { offset: 44 }, "log entry at byte 44 is cut short"),
        (FormatError::Order { index: 3 }, "key 3 is not above the key before it"),
        (FormatError::Full, "the block is full"),
    ];
    for (error, text) in errors {
        assert_eq!(error.to_string(), text);
    }
}
