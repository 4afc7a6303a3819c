//! Tests of the leaf and pivot codecs.

use super::*;
use crate::format::{Child, Leaf, LeafBuilder, Message, Pivot, PivotBuilder};

const LEN: u64 = SMALL.len_u64();

const ITEMS: [(&[u8], &[u8]); 6] =
    [(b"", b"empty key"), (b"a", b""), (b"aa", b"longer later"), (b"ab", b"1"), (b"b", b"22"), (b"\xff", b"333")];

fn ptr(block: u64) -> RawPtr {
    RawPtr { addr: block * LEN, hash: 0x1111 * block, gen: block }
}

fn leaf(page: &mut [u8]) -> u16 {
    let mut builder = LeafBuilder::new(page, SMALL).unwrap();
    ITEMS.iter().for_each(|(key, value)| builder.push(key, value).unwrap());
    builder.finish().unwrap()
}

fn message<'a>(op: u8, key: &'a [u8], value: &'a [u8]) -> Message<'a> {
    Message { op, key, value }
}

const MESSAGES: [(u8, &[u8], &[u8]); 4] = [(1, b"a", b"new"), (2, b"a", b""), (5, b"m", b"xy"), (1, b"z", b"last")];

fn pivot(page: &mut [u8]) -> u16 {
    let mut builder = PivotBuilder::new(page, SMALL).unwrap();
    for (block, key) in [b"b", b"k", b"t"].into_iter().enumerate() {
        builder.push(key, ptr(block as u64 + 3), 100 * block as u16).unwrap();
    }
    for (op, key, value) in MESSAGES {
        builder.push_message(message(op, key, value)).unwrap();
    }
    builder.finish().unwrap()
}

#[test]
fn a_leaf_round_trips() {
    let mut page = [0xee; B];
    let fill = leaf(&mut page);
    let leaf = Leaf::parse(&page, SMALL).unwrap();
    let items: usize = ITEMS.iter().map(|(key, value)| 6 + key.len() + value.len()).sum();
    assert_eq!((leaf.fill(), usize::from(fill)), (items, items));
    assert_eq!((leaf.len(), leaf.is_empty()), (6, false));
    assert!(leaf.iter().eq(ITEMS));
    for (index, (key, value)) in ITEMS.iter().enumerate() {
        assert_eq!((leaf.key(index), leaf.value(index)), (Some(*key), Some(*value)));
        assert_eq!(leaf.search(key), Ok(index));
    }
    assert_eq!((leaf.key(6), leaf.value(6), leaf.key(usize::MAX)), (None, None, None));
    let places = [(b"\0".as_slice(), 1), (b"a\0", 2), (b"aaa", 3), (b"az", 4), (b"c", 5), (b"\xff\0", 6)];
    for (key, index) in places {
        assert_eq!(leaf.search(key), Err(index), "{key:?}");
    }
}

#[test]
fn a_leaf_has_its_bytes_in_place() {
    let mut page = [0xee; B];
    let mut builder = LeafBuilder::new(&mut page, SMALL).unwrap();
    assert!(builder.is_empty());
    builder.push(b"ab", b"xyz").unwrap();
    builder.push(b"c", b"").unwrap();
    assert_eq!((builder.len(), builder.fill()), (2, 18));
    assert_eq!(builder.finish(), Ok(18));
    assert_eq!(page[..6], [0, 2, 0, 2, 0, 14]);
    let area = &page[6..];
    let end = area.len();
    assert_eq!(area[..2], ((end - 9) as u16).to_be_bytes());
    assert_eq!(area[2..4], ((end - 14) as u16).to_be_bytes());
    assert_eq!(area[end - 14..], *b"\0\x01c\0\0\0\x02ab\0\x03xyz");
    assert!(area[4..end - 14].iter().all(|byte| *byte == 0));
}

#[test]
fn an_empty_leaf_is_a_leaf() {
    let mut page = [0xee; B];
    let mut builder = LeafBuilder::new(&mut page, SMALL).unwrap();
    assert!(builder.is_empty());
    builder.push(b"x", b"y").unwrap();
    assert!(!builder.is_empty());
    assert_eq!(LeafBuilder::new(&mut page, SMALL).unwrap().finish(), Ok(0));
    let leaf = Leaf::parse(&page, SMALL).unwrap();
    assert!(leaf.is_empty() && leaf.iter().next().is_none());
    assert_eq!(leaf.search(b"x"), Err(0));
}

#[test]
fn leaves_fill_to_the_last_byte() {
    each_size(|size, page| {
        let space = size.len_bytes() - 6;
        let value = [7; 65536];
        let mut builder = LeafBuilder::new(page, size).unwrap();
        assert!(builder.has_room(4, space - 10) && !builder.has_room(4, space - 9));
        assert!(!builder.has_room(usize::MAX, usize::MAX) && !builder.has_room(0, usize::MAX));
        assert_eq!(builder.push(b"key0", &value[..space - 9]), Err(FormatError::Full));
        builder.push(b"key0", &value[..space - 30]).unwrap();
        assert_eq!(builder.push(b"key1", &value[..11]), Err(FormatError::Full));
        builder.push(b"key1", &value[..10]).unwrap();
        assert_eq!(builder.push(b"", b""), Err(FormatError::Full));
        assert_eq!(usize::from(builder.finish().unwrap()), space);
        let leaf = Leaf::parse(page, size).unwrap();
        assert_eq!((leaf.len(), leaf.fill()), (2, space));
        assert_eq!(leaf.value(0), Some(&value[..space - 30]));
        let mut builder = LeafBuilder::new(page, size).unwrap();
        let mut count = 0u32;
        while builder.push(&count.to_be_bytes(), b"").is_ok() {
            count += 1;
        }
        assert_eq!(count as usize, space / 10);
        builder.finish().unwrap();
        assert_eq!(Leaf::parse(page, size).unwrap().iter().count(), count as usize);
    });
}

#[test]
fn keys_must_ascend_on_both_paths() {
    let mut page = [0; B];
    let mut builder = LeafBuilder::new(&mut page, SMALL).unwrap();
    builder.push(b"a1", b"").unwrap();
    builder.push(b"a2", b"").unwrap();
    for key in [b"a2".as_slice(), b"a1", b"a", b""] {
        assert_eq!(builder.push(key, b""), Err(FormatError::Order { index: 2 }));
    }
    builder.push(b"a3", b"").unwrap();
    builder.finish().unwrap();
    for digit in [b'2', b'1', b'0'] {
        // Item 2 begins 18 bytes before the end; the second letter of its key is its fourth byte.
        page[B - 18 + 3] = digit;
        assert_eq!(Leaf::parse(&page, SMALL).err(), Some(FormatError::Order { index: 2 }));
    }
}

#[test]
fn offsets_and_lengths_are_checked() {
    let mut page = [0; B];
    leaf(&mut page);
    let valid = page;
    let used = u16::from_be_bytes([page[4], page[5]]);
    for (at, value) in [
        (2, 7u16),         // an item more than there are
        (2, 5),            // one less
        (2, 0xffff),       // far too many
        (4, used + 1),     // lengths do not add up
        (4, used - 1),     // the last item begins in front of the items
        (4, 0xffff),       // more than the block holds
        (6, 0xffff),       // an offset behind the block
        (6, B as u16 - 6), // at its end
        (6, 0),            // into the directory
        (6, B as u16 - 7), // half a key length
    ] {
        page = valid;
        page[at..at + 2].copy_from_slice(&value.to_be_bytes());
        let error = Leaf::parse(&page, SMALL).unwrap_err();
        assert!(matches!(error, FormatError::Field { .. } | FormatError::Order { .. }), "{at} {value}: {error:?}");
    }
    page = valid;
    let first = B - 13;
    page[first..first + 2].copy_from_slice(&10u16.to_be_bytes());
    assert!(Leaf::parse(&page, SMALL).is_err(), "a key that runs over the end");
    page = valid;
    page[1] = 1;
    let want = FormatError::BlockType { found: 1, want: Some(BlockType::Leaf) };
    assert_eq!(Leaf::parse(&page, SMALL).err(), Some(want));
}

#[test]
fn items_lie_behind_the_directory_and_do_not_overlap() {
    // An item over the whole area, whose lengths share their bytes with the directory.
    let mut page = [0; B];
    page[..10].copy_from_slice(&[0, 2, 0, 1, 0x07, 0xfa, 0, 0, 0x07, 0xf6]);
    let fill = FormatError::Field { name: "fill of the table", offset: 6, found: B as u64 - 4 };
    assert_eq!(Leaf::parse(&page, SMALL).err(), Some(fill));
    // An item in the gap.
    let mut builder = LeafBuilder::new(&mut page, SMALL).unwrap();
    builder.push(b"key", b"value").unwrap();
    builder.finish().unwrap();
    page.copy_within(B - 12.., 1000);
    page[6..8].copy_from_slice(&994u16.to_be_bytes());
    let gap = FormatError::Field { name: "item offset", offset: 6, found: 994 };
    assert_eq!(Leaf::parse(&page, SMALL).err(), Some(gap));
    // Two messages in the same place.
    let mut builder = PivotBuilder::new(&mut page, SMALL).unwrap();
    builder.push(b"k", ptr(1), 0).unwrap();
    builder.push_message(message(1, b"m", b"")).unwrap();
    builder.finish().unwrap();
    let buffer = B - 1019;
    page[7] = 2;
    page.copy_within(buffer..buffer + 2, buffer + 2);
    let sum = FormatError::Field { name: "length of the items", offset: buffer, found: 12 };
    assert_eq!(Pivot::parse(&page, SMALL).err(), Some(sum));
}

#[test]
fn a_pivot_round_trips() {
    let mut page = [0xee; B];
    let fill = pivot(&mut page);
    let pivot = Pivot::parse(&page, SMALL).unwrap();
    let messages: usize = MESSAGES.iter().map(|(_, key, value)| 7 + key.len() + value.len()).sum();
    assert_eq!((pivot.fill(), usize::from(fill)), (3 * 33 + messages, 3 * 33 + messages));
    assert_eq!((pivot.len(), pivot.is_empty(), pivot.message_count()), (3, false, 4));
    for (index, key) in [b"b", b"k", b"t"].into_iter().enumerate() {
        assert_eq!(pivot.key(index), Some(key.as_slice()));
        let want = Child { ptr: ptr(index as u64 + 3), fill: 100 * index as u16 };
        assert_eq!(pivot.child(index), Some(want));
    }
    assert_eq!((pivot.key(3), pivot.child(3), pivot.message(4)), (None, None, None));
    for (key, index) in [("a", None), ("b", Some(0)), ("j", Some(0)), ("k", Some(1)), ("tt", Some(2)), ("z", Some(2))] {
        assert_eq!(pivot.child_for(key.as_bytes()), index, "{key}");
    }
    for (index, (op, key, value)) in MESSAGES.into_iter().enumerate() {
        assert_eq!(pivot.message(index), Some(message(op, key, value)));
    }
    for (key, index) in [("", 0), ("a", 0), ("b", 2), ("m", 2), ("n", 3), ("zz", 4)] {
        assert_eq!(pivot.first_message(key.as_bytes()), index, "{key}");
    }
}

#[test]
fn a_pivot_has_its_bytes_in_place() {
    let mut page = [0xee; B];
    let mut builder = PivotBuilder::new(&mut page, SMALL).unwrap();
    builder.push(b"k", RawPtr { addr: LEN, hash: 2, gen: 3 }, 4).unwrap();
    builder.push_message(message(9, b"m", b"v")).unwrap();
    assert_eq!((builder.len(), builder.is_empty(), builder.fill()), (1, false, 42));
    assert_eq!(builder.finish(), Ok(42));
    assert_eq!(page[..10], [0, 1, 0, 1, 0, 31, 0, 1, 0, 7]);
    let buffer = B - 1019;
    assert_eq!(page[10..12], ((buffer - 10 - 31) as u16).to_be_bytes());
    assert_eq!(page[buffer - 31..buffer - 26], *b"\0\x01k\0\x1a");
    assert_eq!(page[buffer - 26..buffer - 18], LEN.to_be_bytes());
    assert_eq!(page[buffer - 18..buffer - 10], 2u64.to_be_bytes());
    assert_eq!(page[buffer - 10..buffer - 2], 3u64.to_be_bytes());
    assert_eq!(page[buffer - 2..buffer], [0, 4]);
    assert_eq!(page[buffer..buffer + 2], (1019u16 - 7).to_be_bytes());
    assert_eq!(page[B - 7..], *b"\x09\0\x01m\0\x01v");
    let gaps = page[12..buffer - 31].iter().chain(&page[buffer + 2..B - 7]);
    assert!(gaps.copied().all(|byte| byte == 0));
}

#[test]
fn pivots_fill_to_the_last_byte() {
    each_size(|size, page| {
        let bufspc = size.bufspc() as usize;
        let space = size.len_bytes() - 10 - bufspc;
        let ptr = RawPtr { addr: size.len_u64(), hash: 0, gen: 0 };
        let text = [7; 65536];
        let mut builder = PivotBuilder::new(page, size).unwrap();
        assert!(builder.has_room(space - 32) && !builder.has_room(space - 31));
        assert!(builder.has_message_room(3, bufspc - 10) && !builder.has_message_room(3, bufspc - 9));
        assert_eq!(builder.push(&text[..space - 31], ptr, 0), Err(FormatError::Full));
        builder.push(&text[..space - 32], ptr, 0).unwrap();
        assert_eq!(builder.push_message(message(1, b"key", &text[..bufspc - 9])), Err(FormatError::Full));
        builder.push_message(message(1, b"key", &text[..bufspc - 10])).unwrap();
        assert_eq!(usize::from(builder.finish().unwrap()), space + bufspc);
        let pivot = Pivot::parse(page, size).unwrap();
        assert_eq!(pivot.fill(), space + bufspc);
        assert_eq!(pivot.message(0), Some(message(1, b"key", &text[..bufspc - 10])));
    });
}

#[test]
fn pivots_are_checked_on_both_paths() {
    let mut page = [0; B];
    let none = FormatError::Field { name: "child count", offset: 2, found: 0 };
    assert_eq!(PivotBuilder::new(&mut page, SMALL).unwrap().finish(), Err(none));
    let mut builder = PivotBuilder::new(&mut page, SMALL).unwrap();
    let bad = |found| FormatError::Field { name: "child address", offset: 10, found };
    for addr in [LEN + 1, NONE] {
        assert_eq!(builder.push(b"k", RawPtr { addr, ..ptr(1) }, 0), Err(bad(addr)));
    }
    builder.push(b"k", ptr(1), 0).unwrap();
    assert_eq!(builder.push(b"k", ptr(2), 0), Err(FormatError::Order { index: 1 }));
    builder.push_message(message(1, b"m", b"")).unwrap();
    builder.push_message(message(1, b"m", b"")).unwrap();
    assert_eq!(builder.push_message(message(1, b"l", b"")), Err(FormatError::Order { index: 2 }));
    builder.finish().unwrap();
    let valid = page;
    let buffer = B - 1019;
    let parse = |page: &[u8; B]| Pivot::parse(page, SMALL).err();
    page[buffer - 26..buffer - 18].copy_from_slice(&(LEN + 1).to_be_bytes());
    assert_eq!(parse(&page), Some(bad(LEN + 1)));
    page = valid;
    page[buffer - 27] = 25;
    page[5] = 30;
    let offset = u16::from_be_bytes([page[10], page[11]]) + 1;
    page.copy_within(buffer - 31..buffer - 1, buffer - 30);
    page[10..12].copy_from_slice(&offset.to_be_bytes());
    assert_eq!(parse(&page), Some(FormatError::Field { name: "child length", offset: 10, found: 25 }));
    page = valid;
    page[2..6].fill(0);
    assert_eq!(parse(&page), Some(none));
    page = valid;
    page[B - 12 + 3] = b'l';
    assert_eq!(parse(&page), Some(FormatError::Order { index: 1 }));
    page = valid;
    page[9] += 1;
    assert!(matches!(parse(&page), Some(FormatError::Field { .. })));
}

#[test]
fn hostile_leaves() {
    let mut page = [0; B];
    let fill = leaf(&mut page);
    // The items lie at the end: half of the mutations shall hit them.
    let decode = |page: &[u8]| {
        let leaf = Leaf::parse(page, SMALL)?;
        assert_eq!(leaf.iter().count(), leaf.len());
        assert!(leaf.iter().enumerate().all(|(index, (key, _))| leaf.search(key) == Ok(index)));
        Ok(())
    };
    let accepted = torture(&page, 6 + 2 * ITEMS.len(), |_| (), decode);
    assert!(accepted > 0 && accepted < ROUNDS);
    let mut rng = Rng(99);
    for _ in 0..ROUNDS {
        let mut page = page;
        rng.mutate(&mut page[B - usize::from(fill)..], usize::from(fill));
        let _ = decode(&page);
    }
}

#[test]
fn hostile_pivots() {
    let mut page = [0; B];
    pivot(&mut page);
    let decode = |page: &[u8]| {
        let pivot = Pivot::parse(page, SMALL)?;
        for index in 0..pivot.len() {
            assert_eq!(pivot.child_for(pivot.key(index).unwrap()), Some(index));
            assert!(pivot.child(index).is_some());
        }
        assert!((0..pivot.message_count()).all(|index| pivot.message(index).is_some()));
        Ok(())
    };
    let accepted = torture(&page, 16, |_| (), decode);
    assert!(accepted > 0 && accepted < ROUNDS);
    let mut rng = Rng(99);
    for _ in 0..ROUNDS {
        let mut page = page;
        let (front, buffer) = page.split_at_mut(B - 1019);
        rng.mutate(&mut front[B - 1019 - 93..], 93);
        rng.mutate(buffer, 8);
        rng.mutate(&mut buffer[1019 - 40..], 40);
        let _ = decode(&page);
    }
}
