//! Tests of the arena header codec.

use super::*;
use crate::format::{chain_digest, AddrHash, ArenaHeader, LogSeal, CHAIN_DIGEST_START, MAX_GENERATION};

const LEN: u64 = SMALL.len_u64();
const BASE: u64 = 7 * LEN;
const SIZE: u64 = 100 * LEN;

fn header(size: BlockSize, base: u64) -> ArenaHeader {
    let b = size.len_u64();
    ArenaHeader {
        log_head: AddrHash { addr: base + 5 * b, hash: 0x1112_1314_1516_1718 },
        size_bytes: 100 * b,
        used_bytes: 0x2122_2324_2526_2728,
        seal: Some(LogSeal { gen: 0x31, blocks: 2, digest: 0x4142_4344_4546_4748, tail_addr: base + 6 * b }),
    }
}

fn reseal(page: &mut [u8]) {
    if page.len() >= 78 {
        let check = hash64(&page[..70]);
        page[70..78].copy_from_slice(&check.to_be_bytes());
    }
}

#[test]
fn reads_and_repeats_what_the_original_wrote() {
    // The first arena of a fresh volume of 256 MiB, and its hash in that volume's superblock.
    let front = [
        0, 5, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0x27, 0xa8, 0xa3, 0x95, 0xbb, 0x38, 0x14, 0x7d, 0, 0, 0, 0, 1, 0xff, 0x40, 0,
        0, 0, 0, 0, 0, 1, 0x80, 0,
    ];
    let mut page = [0; 16384];
    page[..34].copy_from_slice(&front);
    assert_eq!(hash64(&page), 0x5df9_afbd_40e0_807d);
    let header = ArenaHeader::decode(&page, BlockSize::ORIGINAL, 0x4000).unwrap();
    let log_head = AddrHash { addr: 0xc000, hash: 0x27a8_a395_bb38_147d };
    assert_eq!(header, ArenaHeader { log_head, size_bytes: 0x1ff_4000, used_bytes: 0x1_8000, seal: None });
    let mut again = [0xff; 16384];
    header.encode(&mut again, BlockSize::ORIGINAL, 0x4000).unwrap();
    assert_eq!(again, page);
}

#[test]
fn round_trips_at_every_size() {
    each_size(|size, page| {
        let base = 7 * size.len_u64();
        let sealed = header(size, base);
        for header in [sealed, ArenaHeader { seal: None, ..sealed }] {
            header.encode(page, size, base).unwrap();
            assert_eq!(ArenaHeader::decode(page, size, base), Ok(header));
            assert!(page[78..].iter().all(|byte| *byte == 0));
        }
    });
}

#[test]
fn every_byte_has_its_place() {
    let mut page = [0; B];
    header(SMALL, BASE).encode(&mut page, SMALL, BASE).unwrap();
    assert_eq!(page[..2], [0, 5]);
    assert_eq!(page[2..10], (12 * LEN).to_be_bytes());
    assert_eq!(page[10..18], 0x1112_1314_1516_1718u64.to_be_bytes());
    assert_eq!(page[18..26], SIZE.to_be_bytes());
    assert_eq!(page[26..34], 0x2122_2324_2526_2728u64.to_be_bytes());
    assert_eq!(page[34..42], *b"arenite1");
    assert_eq!(page[42..50], 0x31u64.to_be_bytes());
    assert_eq!(page[50..54], 2u32.to_be_bytes());
    assert_eq!(page[54..62], 0x4142_4344_4546_4748u64.to_be_bytes());
    assert_eq!(page[62..70], (13 * LEN).to_be_bytes());
    assert_eq!(page[70..78], hash64(&page[..70]).to_be_bytes());
}

#[test]
fn a_seal_counts_only_if_whole_and_of_this_front() {
    let mut page = [0; B];
    header(SMALL, BASE).encode(&mut page, SMALL, BASE).unwrap();
    let valid = page;
    for bit in (26 * 8..34 * 8).chain(34 * 8..78 * 8) {
        page = valid;
        page[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(ArenaHeader::decode(&page, SMALL, BASE).unwrap().seal, None, "bit {bit}");
    }
    // A right check does not make up for another magic.
    page = valid;
    page[41] = b'2';
    reseal(&mut page);
    assert_eq!(ArenaHeader::decode(&page, SMALL, BASE).unwrap().seal, None);
    page = valid;
    reseal(&mut page);
    assert_eq!(page, valid);
}

#[test]
fn the_bounds_themselves_are_allowed() {
    let good = header(SMALL, BASE);
    let (first, last) = (BASE + 2 * LEN, BASE + LEN + SIZE);
    let seal = LogSeal { gen: MAX_GENERATION, blocks: 100, digest: 0, tail_addr: last };
    let log_head = AddrHash { addr: first, hash: 0 };
    let one = LogSeal { gen: 0, blocks: 1, digest: 0, tail_addr: first };
    for seal in [seal, one] {
        let mut page = [0; B];
        let header = ArenaHeader { log_head, seal: Some(seal), ..good };
        header.encode(&mut page, SMALL, BASE).unwrap();
        assert_eq!(ArenaHeader::decode(&page, SMALL, BASE), Ok(header));
    }
}

#[test]
fn each_field_is_checked_on_both_paths() {
    let good = header(SMALL, BASE);
    let seal = good.seal.unwrap();
    let log = |addr| ArenaHeader { log_head: AddrHash { addr, hash: 0 }, ..good };
    let size = |size_bytes| ArenaHeader { size_bytes, ..good };
    let sealed = |seal| ArenaHeader { seal: Some(seal), ..good };
    let bad = [
        (size(0), "arena size", 18),
        (size(SIZE + 1), "arena size", 18),
        (size(1 << 60), "", 0),
        (size(0u64.wrapping_sub(LEN)), "arena size", 18),
        (size(0u64.wrapping_sub(9 * LEN)), "arena size", 18),
        (log(BASE + 5 * LEN + 1), "log head", 2),
        (log(BASE + LEN), "log head", 2),
        (log(BASE + 2 * LEN + SIZE), "log head", 2),
        (log(NONE), "log head", 2),
        (sealed(LogSeal { gen: MAX_GENERATION + 1, ..seal }), "sealed generation", 42),
        (sealed(LogSeal { blocks: 0, ..seal }), "sealed log length", 50),
        (sealed(LogSeal { blocks: 101, ..seal }), "sealed log length", 50),
        (sealed(LogSeal { blocks: 1, ..seal }), "sealed log tail", 62),
        (sealed(LogSeal { tail_addr: good.log_head.addr, ..seal }), "sealed log tail", 62),
        (sealed(LogSeal { tail_addr: BASE + LEN, ..seal }), "sealed log tail", 62),
        (sealed(LogSeal { tail_addr: NONE, ..seal }), "sealed log tail", 62),
    ];
    for (header, name, offset) in bad {
        let mut page = [0xcc; B];
        let error = header.encode(&mut page, SMALL, BASE);
        if name.is_empty() {
            assert_eq!(error, Ok(()), "how far the device reaches is not known here");
            continue;
        }
        let error = error.unwrap_err();
        assert!(
            matches!(error, FormatError::Field { name: n, offset: o, .. } if n == name && o == offset),
            "{error:?}"
        );
        assert_eq!(page, [0xcc; B]);
        good.encode(&mut page, SMALL, BASE).unwrap();
        page[2..10].copy_from_slice(&header.log_head.addr.to_be_bytes());
        page[18..26].copy_from_slice(&header.size_bytes.to_be_bytes());
        let LogSeal { gen, blocks, tail_addr, .. } = header.seal.unwrap();
        page[42..50].copy_from_slice(&gen.to_be_bytes());
        page[50..54].copy_from_slice(&blocks.to_be_bytes());
        page[62..70].copy_from_slice(&tail_addr.to_be_bytes());
        reseal(&mut page);
        assert_eq!(ArenaHeader::decode(&page, SMALL, BASE), Err(error));
    }
}

#[test]
fn the_base_is_checked() {
    let mut page = [0; B];
    let good = header(SMALL, BASE);
    for base in [BASE + 1, NONE, 0u64.wrapping_sub(LEN), 0u64.wrapping_sub(2 * LEN), BASE + 4 * LEN] {
        assert!(good.encode(&mut page, SMALL, base).is_err(), "{base:#x}");
    }
    good.encode(&mut page, SMALL, BASE).unwrap();
    assert!(ArenaHeader::decode(&page, SMALL, BASE + 4 * LEN).is_err());
    page[1] = 3;
    let want = FormatError::BlockType { found: 3, want: Some(BlockType::ArenaHeader) };
    assert_eq!(ArenaHeader::decode(&page, SMALL, BASE), Err(want));
}

#[test]
fn chain_digests_cover_every_part() {
    let mut part = [0; 26];
    part[..8].copy_from_slice(&1u64.to_be_bytes());
    part[8..16].copy_from_slice(&2u64.to_be_bytes());
    part[16..24].copy_from_slice(&3u64.to_be_bytes());
    part[24..].copy_from_slice(&4u16.to_be_bytes());
    assert_eq!(chain_digest(1, 2, 3, 4), hash64(&part));
    assert_eq!(CHAIN_DIGEST_START, 0);
}

#[test]
fn hostile_bytes() {
    let mut page = [0; B];
    header(SMALL, BASE).encode(&mut page, SMALL, BASE).unwrap();
    let accepted = torture(&page, 78, reseal, |page| {
        let header = ArenaHeader::decode(page, SMALL, BASE)?;
        let mut again = [0; B];
        header.encode(&mut again, SMALL, BASE).expect("what decodes encodes");
        Ok(())
    });
    assert!(accepted > 0 && accepted < ROUNDS);
}
