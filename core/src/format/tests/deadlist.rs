//! Tests of the dead list codec.

use super::*;
use crate::format::{addrs_per_block, set_chain, DeadListBlock, DeadListWriter};

const LEN: u64 = SMALL.len_u64();

fn encode(page: &mut [u8], addrs: impl Iterator<Item = u64>, chain: u64) {
    let mut writer = DeadListWriter::new(page, SMALL).unwrap();
    addrs.for_each(|addr| writer.push(addr).unwrap());
    writer.finish(chain).unwrap();
}

fn walk(page: &[u8]) -> Result<(), FormatError> {
    DeadListBlock::decode(page, SMALL)?.addrs().try_for_each(|addr| addr.map(|_| ()))
}

#[test]
fn round_trips() {
    let mut page = [0xee; B];
    encode(&mut page, (1..=9).map(|block| block * LEN), 20 * LEN);
    let block = DeadListBlock::decode(&page, SMALL).unwrap();
    assert!(block.addrs().map(Result::unwrap).eq((1..=9).map(|block| block * LEN)));
    assert_eq!(block.chain(), 20 * LEN);
    assert_eq!((block.sum().len_bytes, block.sum().hash), (72, hash64(&page[36..108])));
    assert_eq!(page[..4], [0, 4, 0, 72]);
    assert_eq!(page[36..44], LEN.to_be_bytes());
    assert!(page[108..].iter().all(|byte| *byte == 0));
    set_chain(&mut page, SMALL, NONE).unwrap();
    assert_eq!(DeadListBlock::decode(&page, SMALL).unwrap().chain(), NONE);
}

#[test]
fn holds_what_it_says() {
    each_size(|size, page| {
        let one = size.len_u64();
        let mut writer = DeadListWriter::new(page, size).unwrap();
        let mut count = 0;
        while writer.push((count + 1) * one).is_ok() {
            count += 1;
        }
        assert_eq!(count as usize, addrs_per_block(size));
        assert_eq!(count as usize, (size.len_bytes() - 36) / 8);
        assert_eq!(writer.push(one), Err(FormatError::Full));
        writer.finish(NONE).unwrap();
        let block = DeadListBlock::decode(page, size).unwrap();
        assert!(block.addrs().map(Result::unwrap).eq((1..=count).map(|block| block * one)));
    });
}

#[test]
fn bad_addresses_are_refused_on_both_paths() {
    let mut page = [0; B];
    let mut writer = DeadListWriter::new(&mut page, SMALL).unwrap();
    writer.push(LEN).unwrap();
    let error = FormatError::Field { name: "dead list entry", offset: 44, found: LEN + 8 };
    assert_eq!(writer.push(LEN + 8), Err(error));
    assert!(writer.push(NONE).is_err());
    writer.push(3 * LEN).unwrap();
    assert!(writer.finish(5).is_err());
    encode(&mut page, [LEN, 3 * LEN].into_iter(), NONE);
    page[44..52].copy_from_slice(&(LEN + 8).to_be_bytes());
    assert!(matches!(walk(&page), Err(FormatError::Hash { .. })));
    reseal_chained(&mut page);
    assert_eq!(walk(&page), Err(error));
    page[1] = 3;
    assert_eq!(walk(&page), Err(FormatError::BlockType { found: 3, want: Some(BlockType::DeadList) }));
}

#[test]
fn hostile_bytes() {
    let mut page = [0; B];
    encode(&mut page, (1..=9).map(|block| block * LEN), 20 * LEN);
    let accepted = torture(&page, 36 + 72, reseal_chained, walk);
    assert!(accepted > 0 && accepted < ROUNDS);
}
