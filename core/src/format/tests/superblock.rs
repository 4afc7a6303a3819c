//! Tests of the superblock codec.

use super::*;
use crate::format::{
    encode_superblock, max_arenas, max_sealed_arenas, probe_block_size, AddrHash, ArenaRef, Extension, SuperHead,
    Superblock, MAX_GENERATION, SUPERBLOCK_FRONT_LEN,
};

/// The first 240 bytes of a superblock that the original wrote for a fresh volume of 256 MiB.
const ORIGINAL: [&str; 5] = [
    "67656673392e30300000400000001ffb00000008000000010000000001fec0004c6890046db4e32affffffffffffffff",
    "ffffffffffffffffffffffffffffffffffffffffffffffff000000000000000000000000000000030000000000000003",
    "000000000000000000000000000040005df9afbd40e0807d00000000020000009313c66e6bd249880000000003ffc000",
    "6c55aeb63ada3e650000000005ff80006b3794692bf9803a0000000007ff40004174c2c7379344730000000009ff0000",
    "4048d63da4bb8412000000000bfec0004c9bf023f0f2015d000000000dfe80009bce0e97c31e22c373eedf60fdbefc49",
];

fn original() -> [u8; 16384] {
    let mut page = [0; 16384];
    let digits = ORIGINAL.iter().flat_map(|line| line.bytes());
    let mut len = 0;
    for digit in digits {
        page[len / 2] = page[len / 2] << 4 | char::from(digit).to_digit(16).unwrap() as u8;
        len += 1;
    }
    assert_eq!(len, 2 * 240);
    page
}

fn head(size: BlockSize, narena: u32) -> SuperHead {
    SuperHead {
        block_size: size,
        bufspc: size.bufspc(),
        narena,
        root_height: 2,
        root_addr: 9 * size.len_u64(),
        root_hash: 0x1122_3344_5566_7788,
        deadlist_head: AddrHash { addr: 11 * size.len_u64(), hash: 5 },
        deadlist_tail: AddrHash { addr: 12 * size.len_u64(), hash: 6 },
        flag: 7,
        next_qid: 8,
        next_gen: 9,
        qgen: 0x1234,
    }
}

fn arena(size: BlockSize, index: u32) -> ArenaRef {
    ArenaRef { header_addr: (1 + 10 * u64::from(index)) * size.len_u64(), header_hash: !u64::from(index) }
}

fn encode(page: &mut [u8], head: &SuperHead, extended: bool) -> Result<(), FormatError> {
    let size = head.block_size;
    encode_superblock(page, head, &mut |index| arena(size, index), extended)
}

/// Makes the hash, and the extension's digest, right again.
fn reseal(page: &mut [u8]) {
    let narena = u32::from_be_bytes([page[16], page[17], page[18], page[19]]) as usize;
    for at in [104 + 16 * narena.min(256), 104 + 16 * narena.min(256) + 24] {
        if at + 8 <= page.len() {
            let hash = hash64(&page[..at]);
            page[at..at + 8].copy_from_slice(&hash.to_be_bytes());
        }
    }
}

fn field_of(error: FormatError) -> (&'static str, usize) {
    match error {
        FormatError::Field { name, offset, .. } => (name, offset),
        other => panic!("{other:?} is not about a field"),
    }
}

#[test]
fn reads_and_repeats_what_the_original_wrote() {
    let page = original();
    assert_eq!(probe_block_size(&page[..12]), Ok(BlockSize::ORIGINAL));
    let block = Superblock::decode(&page).unwrap();
    let head = *block.head();
    assert_eq!((head.block_size, head.bufspc, head.narena), (BlockSize::ORIGINAL, 8187, 8));
    assert_eq!((head.root_height, head.root_addr, head.root_hash), (1, 0x1fe_c000, 0x4c68_9004_6db4_e32a));
    assert_eq!((head.deadlist_head, head.deadlist_tail), (AddrHash::NULL, AddrHash::NULL));
    assert_eq!((head.flag, head.next_qid, head.next_gen, head.qgen), (0, 3, 3, 0));
    assert_eq!(block.arenas().count(), 8);
    assert_eq!(block.arena(7), block.arenas().last());
    assert_eq!(block.arena(7).unwrap().header_addr, 0xdfe_8000);
    assert_eq!((block.arena(8), block.arena(u32::MAX)), (None, None));
    assert_eq!(block.extension(), Extension::Absent);

    let mut again = [0x77; 16384];
    encode_superblock(&mut again, &head, &mut |index| block.arena(index).unwrap(), false).unwrap();
    assert_eq!(again, page);
}

#[test]
fn round_trips_at_every_size() {
    each_size(|size, page| {
        let most = max_arenas(size);
        assert_eq!(most as usize, ((size.len_bytes() - 112) / 16).min(256));
        for (narena, extended) in [(1, true), (2, true), (most - 2, true), (most, false)] {
            let head = head(size, narena);
            encode(page, &head, extended).unwrap();
            let block = Superblock::decode(page).unwrap();
            assert_eq!(*block.head(), head);
            assert!(block.arenas().eq((0..narena).map(|index| arena(size, index))));
            let want = if extended { Extension::Ours { gen: head.qgen } } else { Extension::Absent };
            assert_eq!(block.extension(), want);
            let end = 104 + 16 * narena as usize + if extended { 32 } else { 8 };
            assert!(page[end..].iter().all(|byte| *byte == 0));
        }
        assert_eq!(field_of(encode(page, &head(size, most + 1), false).unwrap_err()), ("arena count", 16));
    });
}

#[test]
fn the_front_is_enough_at_every_size() {
    each_size(|size, page| {
        let narena = max_arenas(size) - 2;
        encode(page, &head(size, narena), true).unwrap();
        let mut front = [0x3c; SUPERBLOCK_FRONT_LEN];
        let need = size.len_bytes().min(front.len());
        front[..need].copy_from_slice(&page[..need]);
        for len in [need, SUPERBLOCK_FRONT_LEN] {
            let block = Superblock::decode_front(&front[..len]).unwrap();
            assert_eq!(*block.head(), head(size, narena));
            assert_eq!(block.arena(narena - 1), Some(arena(size, narena - 1)));
            assert_eq!(block.extension(), Extension::Ours { gen: 0x1234 });
        }
        for len in 0..need {
            assert!(Superblock::decode_front(&front[..len]).is_err(), "{len}");
        }
        assert!(Superblock::decode(&page[..need - 1]).is_err());
        front[104 + 16 * narena as usize] ^= 1;
        assert!(matches!(Superblock::decode_front(&front), Err(FormatError::Hash { .. })));
    });
}

#[test]
fn the_extension_must_fit() {
    let mut page = [0; B];
    let most = max_arenas(SMALL);
    assert_eq!(most, 121);
    assert_eq!(encode(&mut page, &head(SMALL, most), true), Err(FormatError::Full));
    assert_eq!(encode(&mut page, &head(SMALL, most - 1), true), Err(FormatError::Full));
    encode(&mut page, &head(SMALL, most - 2), true).unwrap();
    assert_eq!(Superblock::decode(&page).unwrap().extension(), Extension::Ours { gen: 0x1234 });
}

/// What the two limits say is so: so many arenas are encoded, and not one more.
#[test]
fn as_many_arenas_as_there_can_be_are_encoded_at_every_size() {
    each_size(|size, page| {
        let (most, sealed) = (max_arenas(size), max_sealed_arenas(size));
        assert!(sealed <= most && sealed + 2 >= most);
        for (arenas, extended, fits) in
            [(most, false, true), (most + 1, false, false), (sealed, true, true), (sealed + 1, true, false)]
        {
            assert_eq!(encode(page, &head(size, arenas), extended).is_ok(), fits, "{size:?} {arenas} {extended}");
        }
    });
}

/// A copy that differs in anything that has a meaning is another one, and only then.
#[test]
fn the_fingerprint_covers_the_extension_and_nothing_behind_it() {
    let mut page = [0; B];
    encode(&mut page, &head(SMALL, 3), true).unwrap();
    let fingerprint = Superblock::decode(&page).unwrap().fingerprint();
    for at in 160..B {
        page[at] ^= 1;
        let other = Superblock::decode(&page).unwrap().fingerprint();
        assert_eq!(other != fingerprint, at < 160 + 24, "byte {at}");
        page[at] ^= 1;
    }
}

#[test]
fn the_extension_counts_only_if_whole_and_current() {
    let mut page = [0; B];
    encode(&mut page, &head(SMALL, 3), true).unwrap();
    let valid = page;
    for bit in 0..24 * 8 {
        page = valid;
        page[160 + bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Superblock::decode(&page).unwrap().extension(), Extension::Absent, "bit {bit}");
    }
    // A right digest does not make up for another magic.
    page = valid;
    page[167] = b'2';
    reseal(&mut page);
    assert_eq!(Superblock::decode(&page).unwrap().extension(), Extension::Absent);
    // Another program commits: it packs the front anew and leaves the rest.
    let mut newer = [0; B];
    encode(&mut newer, &SuperHead { qgen: 0x1235, ..head(SMALL, 3) }, false).unwrap();
    newer[160..184].copy_from_slice(&valid[160..184]);
    assert_eq!(Superblock::decode(&newer).unwrap().extension(), Extension::Absent);
    // Even a right digest over a stale generation does not count.
    reseal(&mut newer);
    assert_eq!(Superblock::decode(&newer).unwrap().extension(), Extension::Absent);
}

#[test]
fn each_field_is_checked_on_both_paths() {
    let mut page = [0; B];
    let good = head(SMALL, 3);
    let bad: [(SuperHead, &str, usize); 7] = [
        (SuperHead { bufspc: good.bufspc + 1, ..good }, "bufspc", 12),
        (SuperHead { narena: 0, ..good }, "arena count", 16),
        (SuperHead { narena: 300, ..good }, "arena count", 16),
        (SuperHead { root_addr: 1, ..good }, "root address", 24),
        (SuperHead { deadlist_head: AddrHash { addr: 1, hash: 0 }, ..good }, "dead list head", 40),
        (SuperHead { deadlist_tail: AddrHash { addr: 1, hash: 0 }, ..good }, "dead list tail", 56),
        (SuperHead { qgen: MAX_GENERATION + 1, ..good }, "committed generation", 96),
    ];
    for (head, name, offset) in bad {
        assert_eq!(field_of(encode(&mut page, &head, true).unwrap_err()), (name, offset));
        encode(&mut page, &good, true).unwrap();
        page[12..16].copy_from_slice(&head.bufspc.to_be_bytes());
        page[16..20].copy_from_slice(&head.narena.to_be_bytes());
        page[24..32].copy_from_slice(&head.root_addr.to_be_bytes());
        page[40..48].copy_from_slice(&head.deadlist_head.addr.to_be_bytes());
        page[56..64].copy_from_slice(&head.deadlist_tail.addr.to_be_bytes());
        page[96..104].copy_from_slice(&head.qgen.to_be_bytes());
        reseal(&mut page);
        assert_eq!(field_of(Superblock::decode(&page).unwrap_err()), (name, offset));
    }
}

#[test]
fn arenas_must_ascend_behind_the_superblock() {
    let mut page = [0; B];
    let head = head(SMALL, 2);
    let b = SMALL.len_u64();
    for (addrs, offset) in
        [([0, 9 * b], 104), ([b, 2 * b], 120), ([9 * b, b], 120), ([b, b], 120), ([b + 1, 9 * b], 104)]
    {
        let mut arena = |index: u32| ArenaRef { header_addr: addrs[index as usize], header_hash: 0 };
        let error = encode_superblock(&mut page, &head, &mut arena, false).unwrap_err();
        assert_eq!(field_of(error), ("arena address", offset));
        reseal(&mut page);
        assert_eq!(Superblock::decode(&page).unwrap_err(), error);
    }
    let mut last = |index: u32| ArenaRef { header_addr: [b, 0u64.wrapping_sub(b)][index as usize], header_hash: 0 };
    encode_superblock(&mut page, &head, &mut last, false).unwrap();
    let mut none = |index: u32| ArenaRef { header_addr: [b, NONE][index as usize], header_hash: 0 };
    assert_eq!(field_of(encode_superblock(&mut page, &head, &mut none, false).unwrap_err()), ("arena address", 120));
}

#[test]
fn magic_version_size_and_hash_are_told_apart() {
    let mut page = [0; B];
    encode(&mut page, &head(SMALL, 1), true).unwrap();
    let valid = page;
    page[5] = b'9';
    assert_eq!(Superblock::decode(&page).unwrap_err(), FormatError::Version { found: *b"9900" });
    page[0] = 0;
    assert_eq!(Superblock::decode(&page).unwrap_err(), FormatError::Magic { found: *b"\0efs9900" });
    page = valid;
    page[8..12].copy_from_slice(&3000u32.to_be_bytes());
    assert_eq!(field_of(Superblock::decode(&page).unwrap_err()), ("block size", 8));
    page[8..12].copy_from_slice(&4096u32.to_be_bytes());
    assert_eq!(Superblock::decode(&page).unwrap_err(), FormatError::BufferLen { got_bytes: B, want_bytes: 4096 });
    // Bits that no field check can judge are the hash's business, the hash's own included.
    for bit in (20 * 8..24 * 8).chain(32 * 8..40 * 8).chain(72 * 8..96 * 8).chain(112 * 8..128 * 8) {
        page = valid;
        page[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(Superblock::decode(&page).unwrap_err(), FormatError::Hash { .. }), "bit {bit}");
    }
    for len in 0..12 {
        assert!(probe_block_size(&valid[..len]).is_err());
    }
}

#[test]
fn the_encoder_wants_one_whole_block() {
    let mut page = [0; B + 1];
    for len in [0, 1, 103, B - 1, B + 1] {
        let want = FormatError::BufferLen { got_bytes: len, want_bytes: B };
        assert_eq!(encode(&mut page[..len], &head(SMALL, 1), false), Err(want));
    }
}

#[test]
fn hostile_bytes() {
    let mut page = [0; B];
    encode(&mut page, &head(SMALL, 4), true).unwrap();
    let accepted = torture(&page, 104 + 16 * 4 + 32, reseal, |page| {
        let block = Superblock::decode(page)?;
        assert_eq!(block.arenas().count(), block.head().narena as usize);
        let _ = block.extension();
        Ok(())
    });
    assert!(accepted > 0 && accepted < ROUNDS);
}
