//! Tests of the allocation log codec.

use super::*;
use crate::format::{
    chain_digest, ranges_per_block, restore_sealed, set_chain, BlockSum, LogBlock, LogEntry, LogSeal, LogWriter, Ones,
    MAX_GENERATION,
};
use std::vec;

const LEN: u64 = SMALL.len_u64();

fn alloc(block: u64, blocks: u64) -> LogEntry {
    LogEntry::Alloc { addr: block * LEN, len_bytes: blocks * LEN }
}

fn free(block: u64, blocks: u64) -> LogEntry {
    LogEntry::Free { addr: block * LEN, len_bytes: blocks * LEN }
}

const SAMPLE_LEN: usize = 8 + 16 + 8 + 8 + 16;

fn sample() -> [LogEntry; 5] {
    [alloc(3, 1), free(5, 9), free(4, 1), LogEntry::Barrier { gen: 0x0011_2233_4455_6677 }, alloc(6, 2)]
}

fn encode(page: &mut [u8], size: BlockSize, entries: &[LogEntry], chain: u64) -> Result<BlockSum, FormatError> {
    let mut writer = LogWriter::new(page, size)?;
    for entry in entries {
        writer.push(*entry)?;
    }
    writer.finish(chain)
}

/// A log block with the given words as its entries, whatever they are.
fn raw(words: &[u64]) -> [u8; B] {
    let mut page = [0; B];
    page[1] = 3;
    page[2..4].copy_from_slice(&(8 * words.len() as u16).to_be_bytes());
    page[12..36].fill(0xff);
    for (at, word) in page[36..].chunks_exact_mut(8).zip(words) {
        at.copy_from_slice(&word.to_be_bytes());
    }
    reseal_chained(&mut page);
    page
}

fn walk(page: &[u8]) -> Result<(), FormatError> {
    LogBlock::decode(page, SMALL)?.entries().try_for_each(|entry| entry.map(|_| ()))
}

#[test]
fn reads_and_repeats_what_the_original_wrote() {
    // The first log block of a fresh volume of 256 MiB.
    let words = [0xc005, 0x1fe_c000, 0xc004, 0x4000, 0x1ff_4001, 0x1ff_0001, 0x1fe_c001u64];
    let mut page = [0; 16384];
    page[..4].copy_from_slice(&[0, 3, 0, 0x38]);
    page[4..12].copy_from_slice(&0xbedf_38d2_d712_bef9u64.to_be_bytes());
    page[12..36].fill(0xff);
    for (at, word) in page[36..].chunks_exact_mut(8).zip(words) {
        at.copy_from_slice(&word.to_be_bytes());
    }
    let block = LogBlock::decode(&page, BlockSize::ORIGINAL).unwrap();
    assert_eq!(block.sum(), BlockSum { hash: 0xbedf_38d2_d712_bef9, len_bytes: 56 });
    assert_eq!(block.chain(), NONE);
    let one = 0x4000;
    let want = [
        LogEntry::Free { addr: 0xc000, len_bytes: 0x1fe_c000 },
        LogEntry::Alloc { addr: 0xc000, len_bytes: one },
        LogEntry::Alloc { addr: 0x1ff_4000, len_bytes: one },
        LogEntry::Alloc { addr: 0x1ff_0000, len_bytes: one },
        LogEntry::Alloc { addr: 0x1fe_c000, len_bytes: one },
    ];
    assert!(block.entries().map(Result::unwrap).eq(want));
    // A range of one block, as the original writes here, is read; our writer has a shorter form for it.
    let mut again = [0xee; 16384];
    let sum = encode(&mut again, BlockSize::ORIGINAL, &want, NONE).unwrap();
    assert_eq!(sum.len_bytes, 48);
    assert!(LogBlock::decode(&again, BlockSize::ORIGINAL).unwrap().entries().map(Result::unwrap).eq(want));
    assert!(again[36 + 48..].iter().all(|byte| *byte == 0));
}

#[test]
fn round_trips_with_its_offsets() {
    let mut page = [0xee; B];
    let sum = encode(&mut page, SMALL, &sample(), 8 * LEN).unwrap();
    let block = LogBlock::decode(&page, SMALL).unwrap();
    assert_eq!((block.sum(), block.chain()), (sum, 8 * LEN));
    assert_eq!(usize::from(sum.len_bytes), SAMPLE_LEN);
    assert_eq!(sum.hash, hash64(&page[36..36 + SAMPLE_LEN]));
    assert_eq!(page[12..20], (8 * LEN).to_be_bytes());
    assert_eq!(page[20..36], [0xff; 16]);
    assert!(page[36 + SAMPLE_LEN..].iter().all(|byte| *byte == 0));
    let mut entries = block.entries();
    for (want, offset) in sample().into_iter().zip([36, 44, 60, 68, 76]) {
        assert_eq!(entries.offset(), offset);
        assert_eq!(entries.next(), Some(Ok(want)));
    }
    assert_eq!((entries.offset(), entries.next()), (92, None));
    assert_eq!(page[68..76], 0x1122_3344_5566_7703u64.to_be_bytes());
}

#[test]
fn an_empty_block_is_a_log() {
    let mut page = [0xee; B];
    let sum = encode(&mut page, SMALL, &[], NONE).unwrap();
    assert_eq!(sum, BlockSum { hash: hash64(&[]), len_bytes: 0 });
    let block = LogBlock::decode(&page, SMALL).unwrap();
    assert_eq!((block.chain(), block.entries().next()), (NONE, None));
}

#[test]
fn relinking_leaves_all_else_alone() {
    let mut page = [0; B];
    encode(&mut page, SMALL, &sample(), NONE).unwrap();
    let before = page;
    set_chain(&mut page, SMALL, 3 * LEN).unwrap();
    assert_eq!(LogBlock::decode(&page, SMALL).unwrap().chain(), 3 * LEN);
    assert!((0..B).all(|at| page[at] == before[at] || (12..20).contains(&at)));
    assert!(set_chain(&mut page, SMALL, 3 * LEN + 1).is_err());
    assert!(set_chain(&mut page[..B - 1], SMALL, 3 * LEN).is_err());
    assert_eq!(LogBlock::decode(&page, SMALL).unwrap().chain(), 3 * LEN);
    set_chain(&mut page, SMALL, NONE).unwrap();
    assert_eq!(page, before);
}

#[test]
fn blocks_keep_room_for_a_barrier_and_a_link() {
    assert_eq!(ranges_per_block(BlockSize::ORIGINAL), 1019);
    each_size(|size, page| {
        let one = size.len_u64();
        let range = LogEntry::Free { addr: one, len_bytes: 2 * one };
        let single = LogEntry::Alloc { addr: one, len_bytes: one };
        let barrier = LogEntry::Barrier { gen: 5 };
        let mut writer = LogWriter::new(page, size).unwrap();
        let mut ranges = 0;
        while writer.push(range).is_ok() {
            ranges += 1;
        }
        assert_eq!(ranges, ranges_per_block(size));
        while writer.push(single).is_ok() {}
        let full = writer.len_bytes();
        // What the original asks for before it appends, with nothing wasted.
        assert!(full <= size.len_bytes() - 36 - 40 && full + 8 > size.len_bytes() - 36 - 40);
        assert_eq!(writer.push(range), Err(FormatError::Full));
        assert_eq!(writer.push(barrier), Ok(()));
        assert_eq!(writer.push(barrier), Err(FormatError::Full));
        assert_eq!(writer.push_link(3 * one), Ok(()));
        assert_eq!(writer.push_link(3 * one), Err(FormatError::Full));
        assert_eq!(writer.len_bytes(), full + 16);
        writer.finish(3 * one).unwrap();
        let block = LogBlock::decode(page, size).unwrap();
        assert_eq!(block.entries().filter(|entry| *entry == Ok(range)).count(), ranges);
        assert_eq!(block.entries().last(), Some(Ok(LogEntry::Alloc { addr: 3 * one, len_bytes: one })));
    });
}

#[test]
fn bad_entries_are_refused_on_both_paths() {
    let overflow = 0u64.wrapping_sub(LEN);
    let cases = [
        (LogEntry::Alloc { addr: LEN + 256, len_bytes: LEN }, [LEN + 256 + 1, 0], 1),
        (LogEntry::Free { addr: LEN + 256, len_bytes: LEN }, [LEN + 256 + 2, 0], 1),
        (LogEntry::Alloc { addr: LEN, len_bytes: 0 }, [LEN + 4, 0], 2),
        (LogEntry::Free { addr: LEN, len_bytes: LEN + 8 }, [LEN + 5, LEN + 8], 2),
        (LogEntry::Free { addr: LEN, len_bytes: overflow }, [LEN + 5, overflow], 2),
        (LogEntry::Alloc { addr: overflow, len_bytes: LEN }, [overflow + 1, 0], 1),
    ];
    for (entry, words, count) in cases {
        let mut page = [0; B];
        let mut writer = LogWriter::new(&mut page, SMALL).unwrap();
        let error = writer.push(entry).unwrap_err();
        assert!(matches!(error, FormatError::Field { .. }));
        assert_eq!(writer.len_bytes(), 0);
        assert_eq!(walk(&raw(&words[..count])), Err(error));
    }
    let mut page = [0; B];
    let mut writer = LogWriter::new(&mut page, SMALL).unwrap();
    let gen = MAX_GENERATION + 1;
    let want = FormatError::Field { name: "barrier generation", offset: 36, found: gen };
    assert_eq!(writer.push(LogEntry::Barrier { gen }), Err(want));
    writer.push(LogEntry::Barrier { gen: MAX_GENERATION }).unwrap();
    assert!(writer.push_link(LEN + 1).is_err() && writer.push_link(NONE).is_err());
    assert!(writer.finish(LEN + 1).is_err());
    assert_eq!(
        LogWriter::new(&mut page[1..], SMALL).err(),
        Some(FormatError::BufferLen { got_bytes: B - 1, want_bytes: B })
    );
}

#[test]
fn the_writer_and_the_reader_agree_on_where_an_entry_is_bad() {
    let page = raw(&[LEN + 1, 2 * LEN + 9, 3 * LEN + 1]);
    let block = LogBlock::decode(&page, SMALL).unwrap();
    let mut entries = block.entries();
    assert_eq!(entries.next(), Some(Ok(alloc(1, 1))));
    assert_eq!(entries.next(), Some(Err(FormatError::LogOp { offset: 44, found: 9 })));
    assert_eq!((entries.offset(), entries.next()), (44, None));
    let cut = raw(&[LEN + 1, 2 * LEN + 5]);
    assert_eq!(walk(&cut), Err(FormatError::LogCut { offset: 44 }));
    for op in 0..=u8::MAX {
        let want = match op {
            1..=3 => Err(FormatError::LogOp { offset: 44, found: 0 }),
            4 | 5 => Ok(()),
            found => Err(FormatError::LogOp { offset: 36, found }),
        };
        assert_eq!(walk(&raw(&[LEN + u64::from(op), LEN])), want);
    }
}

#[test]
fn headers_are_checked() {
    let mut page = [0; B];
    encode(&mut page, SMALL, &sample(), NONE).unwrap();
    let valid = page;
    for len in [1u16, 7, 57, 0xffff, B as u16, B as u16 - 35] {
        page = valid;
        page[2..4].copy_from_slice(&len.to_be_bytes());
        reseal_chained(&mut page);
        let want = FormatError::Field { name: "entries length", offset: 2, found: u64::from(len) };
        assert_eq!(walk(&page), Err(want));
    }
    page = valid;
    page[19] = 1;
    assert!(matches!(walk(&page), Err(FormatError::Field { name: "chain pointer", offset: 12, .. })));
    page = valid;
    page[1] = 4;
    assert_eq!(walk(&page), Err(FormatError::BlockType { found: 4, want: Some(BlockType::Log) }));
    for bit in (4 * 8..12 * 8).chain(36 * 8..(36 + SAMPLE_LEN) * 8) {
        page = valid;
        page[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(walk(&page), Err(FormatError::Hash { .. })), "bit {bit}");
    }
}

#[test]
fn hostile_bytes() {
    let mut page = [0; B];
    encode(&mut page, SMALL, &sample(), 8 * LEN).unwrap();
    let accepted = torture(&page, 36 + SAMPLE_LEN, reseal_chained, |page| {
        let block = LogBlock::decode(page, SMALL)?;
        assert!(block.entries().count() <= B / 8);
        walk(page)
    });
    assert!(accepted > 0 && accepted < ROUNDS);
}

#[test]
fn a_sealed_tail_is_restored_from_what_the_original_added_to_it() {
    let size = BlockSize::MIN;
    let (addr, before) = (0x8000, 77);
    let write = |extra: &[LogEntry], closing: bool| {
        let mut page = vec![0; size.len_bytes()];
        let mut writer = LogWriter::new(&mut page, size).unwrap();
        writer.push(LogEntry::Free { addr: 0x10000, len_bytes: 0x8000 }).unwrap();
        writer.push(LogEntry::Free { addr: 0x20000, len_bytes: 0x800 }).unwrap();
        if closing {
            writer.push(LogEntry::Barrier { gen: 9 }).unwrap();
        }
        for entry in extra {
            writer.push(*entry).unwrap();
        }
        let sum = writer.finish(NONE).unwrap();
        (page, sum)
    };
    let (clean, sum) = write(&[], true);
    let digest = chain_digest(before, addr, sum.hash, sum.len_bytes);
    let seal = LogSeal { gen: 9, blocks: 2, digest, tail_addr: addr };
    let alloc = LogEntry::Alloc { addr: 0x10000, len_bytes: 0x800 };
    for (extra, closing) in [(&[alloc][..], true), (&[alloc][..], false), (&[alloc, alloc][..], false), (&[], false)] {
        let (mut page, _) = write(extra, closing);
        assert!(restore_sealed(&mut page, size, before, addr, &seal));
        assert_eq!(page, clean, "{extra:?} {closing}");
        // A torn write of the header leaves a wrong length and hash.
        let (mut page, _) = write(extra, closing);
        page[2] ^= 0x55;
        page[7] ^= 0x55;
        assert!(restore_sealed(&mut page, size, before, addr, &seal));
        assert_eq!(page, clean);
    }
    let (mut page, _) = write(&[alloc], true);
    page[45] ^= 1;
    let damaged = page.clone();
    assert!(!restore_sealed(&mut page, size, before, addr, &seal));
    assert_eq!(page, damaged, "untouched when there is nothing to restore");
}

/// The entries that `take_ones` may pass, one by one: all of the first one's kind, in its word of the map.
fn ones_by_hand(block: &LogBlock<'_>, map_addr: u64, usable: u32) -> Option<Ones> {
    let mut entries = block.entries();
    let mut all: Option<Ones> = None;
    loop {
        // A range of one block is an entry of two words.
        let at = entries.offset();
        let (free, addr) = match entries.next() {
            Some(Ok(LogEntry::Free { addr, len_bytes: LEN })) => (true, addr),
            Some(Ok(LogEntry::Alloc { addr, len_bytes: LEN })) => (false, addr),
            _ => return all,
        };
        let block = addr.checked_sub(map_addr).map_or(u64::MAX, |addr| addr / LEN);
        if entries.offset() - at != 8 || block >= u64::from(usable) {
            return all;
        }
        let (first, bit) = (block as u32 / usize::BITS * usize::BITS, block as u32 % usize::BITS);
        let ones = all.get_or_insert(Ones { free, first, bits: 0, count: 0 });
        if ones.free != free || ones.first != first {
            return all;
        }
        (ones.bits, ones.count) = (ones.bits | 1 << bit, ones.count + 1);
    }
}

#[test]
fn entries_of_one_block_are_taken_together_only_where_each_is_good() {
    let (map_addr, usable, mut seed, mut longest) = (7 * LEN, 150, 1_u64, 0);
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    for round in 0..20_000 {
        // Mostly good neighbours; and now and then something that is wrong or something else.
        let (op, start) = (1 + random(2), 7 + random(140));
        let words: [u64; 12] = core::array::from_fn(|at| {
            let good = ((start + at as u64) * LEN) | op;
            match random(24) {
                0 => good ^ (1 << random(64)),
                1 => (random(170) * LEN) | (1 + random(5)),
                2 => u64::MAX - random(1 << 20),
                _ => good,
            }
        });
        let page = raw(&words);
        let block = LogBlock::decode(&page, SMALL).unwrap();
        let mut entries = block.entries();
        let taken = entries.take_ones(map_addr, usable);
        assert_eq!(taken, ones_by_hand(&block, map_addr, usable), "round {round}: {words:x?}");
        let count = taken.map_or(0, |ones| ones.count as usize);
        assert_eq!(entries.offset(), 36 + 8 * count);
        assert!(entries.eq(block.entries().skip(count)), "the rest is as it was");
        longest = longest.max(count);
    }
    assert_eq!(longest, 12);
}

/// However many entries a seal vouches for, up to the last that there is room for.
#[test]
fn a_sealed_tail_is_restored_however_long_it_is() {
    let size = BlockSize::MIN;
    let (addr, before) = (0x8000, 77);
    for count in [0, 1, 30, 60, ranges_per_block(size) as u64] {
        let write = |closing: LogEntry| {
            let mut page = vec![0; size.len_bytes()];
            let mut writer = LogWriter::new(&mut page, size).unwrap();
            for entry in 0..count {
                writer.push(LogEntry::Free { addr: (0x20 + 4 * entry) * 0x800, len_bytes: 0x1000 }).unwrap();
            }
            writer.push(closing).unwrap();
            let sum = writer.finish(NONE).unwrap();
            (page, sum)
        };
        let (clean, sum) = write(LogEntry::Barrier { gen: 9 });
        let digest = chain_digest(before, addr, sum.hash, sum.len_bytes);
        let seal = LogSeal { gen: 9, blocks: 2, digest, tail_addr: addr };
        let (mut page, _) = write(LogEntry::Barrier { gen: 10 });
        assert!(restore_sealed(&mut page, size, before, addr, &seal), "{count} entries");
        assert_eq!(page, clean);
    }
}

#[test]
fn frees_of_a_word_are_what_they_are_one_by_one() {
    let mut seed = 7_u64;
    for round in 0..500 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let bits = (seed ^ (seed >> 29)) as usize & if round % 3 == 0 { 0x5555_5555 } else { usize::MAX };
        let (mut together, mut apart) = ([0xee; B], [0x77; B]);
        // From an empty block to one that is full already.
        let before = round % 256;
        let start = |page| {
            let mut writer = LogWriter::new(page, SMALL).unwrap();
            while writer.len_bytes() < 8 * before && writer.push(alloc(3, 1)).is_ok() {}
            writer
        };
        let mut writer = start(&mut together);
        let rest = writer.push_frees(100 * LEN, bits).unwrap();
        let sum = writer.finish(NONE).unwrap();
        let (mut writer, mut left) = (start(&mut apart), bits);
        while left != 0 {
            let first = left.trailing_zeros();
            let count = (left >> first).trailing_ones();
            if writer.push(free(100 + u64::from(first), u64::from(count))).is_err() {
                break;
            }
            left &= left.wrapping_add(1 << first);
        }
        assert_eq!((rest, sum), (left, writer.finish(NONE).unwrap()), "round {round}: {bits:x}");
        assert_eq!(together, apart);
    }
    let mut page = [0; B];
    let mut writer = LogWriter::new(&mut page, SMALL).unwrap();
    assert!(writer.push_frees(100 * LEN + 1, 1).is_err() && writer.push_frees(u64::MAX - LEN + 1, 2).is_err());
}
