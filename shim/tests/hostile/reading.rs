//! Volumes that mount rightly accepts, because it does not read what is above the block layer: a root of another hash
//! is not given out, and one of the right hash whose content makes no sense is refused by the codec of its type.

use crate::images::{Base, Image};
use crate::mounting::mount_and;
use crate::{corrupt, field};
use arenite_core::format::{
    BlockSize, BlockType, DeadListBlock, DeadListWriter, FormatError, Leaf, LeafBuilder, Message, Pivot, PivotBuilder,
    RawPtr, NONE,
};
use arenite_core::hash::hash64;
use arenite_core::{Damage, Error};

/// Mounts an image in both ways and reads its root.
fn read_root(image: &Image) -> [Result<Vec<u8>, Error>; 2] {
    [false, true].map(|read_only| {
        let mut found = Ok(Vec::new());
        let (outcome, after) = mount_and(&image.bytes, read_only, |store| {
            let root = store.roots().root_ptr().expect("a root");
            found = store.read(root).map(|block| block.to_vec());
        });
        assert!(outcome.result.is_ok() && outcome.unchanged && after == image.bytes);
        found
    })
}

#[test]
fn a_root_of_another_hash_is_not_read() {
    for base in Base::ALL {
        let image = base.image();
        let whole = image.page(image.root).to_vec();
        assert_eq!(read_root(&image), [Ok(whole.clone()), Ok(whole)]);
        let found = image.get(32, 8);

        let mut other = image.clone();
        other.put_super(32, 8, 1);
        other.seal_superblocks();
        assert_eq!(
            read_root(&other).map(Result::err),
            [Some(corrupt(image.root, Damage::Hash { expected: 1, found })); 2]
        );

        let mut torn = image.clone();
        torn.put(image.root + image.unit - 8, 8, 0);
        let now = hash64(torn.page(image.root));
        let damage = Damage::Hash { expected: found, found: now };
        assert_eq!(read_root(&torn).map(Result::err), [Some(corrupt(image.root, damage)); 2]);

        let mut moved = image.clone();
        moved.put_super(24, 8, image.dead_tail);
        moved.seal_superblocks();
        let now = hash64(image.page(image.dead_tail));
        let damage = Damage::Hash { expected: found, found: now };
        assert_eq!(read_root(&moved).map(Result::err), [Some(corrupt(image.dead_tail, damage)); 2]);
    }
}

const SIZE: BlockSize = BlockSize::MIN;
/// Where the messages of a pivot begin.
const BUFFER: usize = 2048 - 1019;

/// What is wrong with a block by the codec of its type.
fn parse(page: &[u8], kind: BlockType) -> Option<FormatError> {
    match kind {
        BlockType::Leaf => Leaf::parse(page, SIZE).err(),
        BlockType::Pivot => Pivot::parse(page, SIZE).err(),
        _ => match DeadListBlock::decode(page, SIZE) {
            Ok(list) => list.addrs().find_map(Result::err),
            Err(error) => Some(error),
        },
    }
}

/// A sound block of this type: three items, two children with two messages, or two addresses.
fn sound(kind: BlockType) -> Vec<u8> {
    let mut page = vec![0; SIZE.len_bytes()];
    let built = match kind {
        BlockType::Leaf => LeafBuilder::new(&mut page, SIZE).and_then(|mut leaf| {
            [b"a", b"b", b"c"].iter().try_for_each(|key| leaf.push(*key, b"value"))?;
            leaf.finish().map(drop)
        }),
        BlockType::Pivot => PivotBuilder::new(&mut page, SIZE).and_then(|mut pivot| {
            let child = RawPtr { addr: 4096, hash: 1, gen: 1 };
            [b"a", b"b"].iter().try_for_each(|key| pivot.push(*key, child, 100))?;
            let message = |key| Message { op: 1, key, value: b"" };
            [b"a", b"b"].iter().try_for_each(|key| pivot.push_message(message(*key)))?;
            pivot.finish().map(drop)
        }),
        _ => DeadListWriter::new(&mut page, SIZE).and_then(|mut list| {
            [4096, 8192].iter().try_for_each(|addr| list.push(*addr))?;
            list.finish(NONE).map(drop)
        }),
    };
    built.expect("a sound block");
    page
}

/// One field of a block of this type: its place, its bytes, what they are to hold, and what is wrong then.
struct Content {
    name: &'static str,
    kind: BlockType,
    at: usize,
    bytes: &'static [u8],
    error: FormatError,
}

fn contents() -> Vec<Content> {
    let leaf = |name, at, bytes, error| Content { name, kind: BlockType::Leaf, at, bytes, error };
    let pivot = |name, at, bytes, error| Content { name, kind: BlockType::Pivot, at, bytes, error };
    let list = |name, at, bytes, error| Content { name, kind: BlockType::DeadList, at, bytes, error };
    let typed = |found, want| FormatError::BlockType { found, want: Some(want) };
    vec![
        leaf("leaf of another type", 0, &[0, 1], typed(1, BlockType::Leaf)),
        leaf("leaf with more items than fit", 2, &[4, 0], field("fill of the table", 6, 2 * 1024 + 30)),
        leaf("leaf with an item less", 2, &[0, 2], field("length of the items", 6, 20)),
        leaf("leaf with an item more", 2, &[0, 4], field("item offset", 12, 0)),
        leaf("leaf with more bytes than fit", 4, &[8, 0], field("fill of the table", 6, 2048 + 6)),
        leaf("leaf with a byte less", 4, &[0, 29], field("item offset", 10, 2042 - 30)),
        leaf("leaf with an item in the directory", 6, &[0, 0], field("item offset", 6, 0)),
        leaf("leaf with an item behind the block", 8, &[8, 0], field("item offset", 8, 2048)),
        leaf("leaf with a key longer than the block", 2048 - 10, &[8, 0], field("item offset", 6, 2042 - 10)),
        leaf("leaf with a value longer than the block", 2048 - 7, &[0, 6], field("item offset", 6, 2042 - 10)),
        leaf("leaf with keys that descend", 2048 - 8, b"z", FormatError::Order { index: 1 }),
        leaf("leaf with equal keys", 2048 - 8, b"b", FormatError::Order { index: 1 }),
        pivot("pivot of another type", 0, &[0, 2], typed(2, BlockType::Pivot)),
        pivot("pivot without a child", 2, &[0, 0, 0, 0], field("child count", 2, 0)),
        pivot("pivot with a child more", 2, &[0, 3], field("item offset", 14, 0)),
        pivot("pivot with more bytes of children than fit", 4, &[4, 0], field("fill of the table", 10, 1024 + 4)),
        pivot("pivot with more messages than fit", 6, &[2, 0], field("fill of the table", BUFFER, 1024 + 12)),
        pivot("pivot with a message less", 6, &[0, 1], field("length of the items", BUFFER, 6)),
        pivot("pivot with a byte more of messages", 8, &[0, 13], field("length of the items", BUFFER, 12)),
        pivot("pivot with a child in its messages", 10, &[4, 0], field("item offset", 10, 1024)),
        pivot("pivot with a child not aligned", BUFFER - 19, &[8], field("child address", 10, 4104)),
        pivot("pivot with messages that descend", 2048 - 3, b"z", FormatError::Order { index: 1 }),
        list("dead list of another type", 0, &[0, 3], typed(3, BlockType::DeadList)),
        list("dead list of an odd length", 2, &[0, 15], field("entries length", 2, 15)),
        list("dead list longer than its block", 2, &[8, 0], field("entries length", 2, 2048)),
        list("dead list that leads astray", 12, &[0, 0, 0, 0, 0, 0, 0, 8], field("chain pointer", 12, 8)),
    ]
}

#[test]
fn roots_that_make_no_sense_are_refused_by_their_codecs() {
    for kind in [BlockType::Leaf, BlockType::Pivot, BlockType::DeadList] {
        assert_eq!(parse(&sound(kind), kind), None);
    }
    let mut failures = Vec::new();
    for Content { name, kind, at, bytes, error } in contents() {
        let mut image = Base::Sealed2k.image();
        let mut page = sound(kind);
        page[at..at + bytes.len()].copy_from_slice(bytes);
        let root = image.root;
        image.bytes[root as usize..][..page.len()].copy_from_slice(&page);
        image.put_super(32, 8, hash64(&page));
        image.seal_superblocks();
        for read in read_root(&image) {
            let read = read.expect("a block of the right hash");
            let found = parse(&read, kind);
            if found != Some(error) {
                failures.push(format!("{name}: {found:?}\n  instead of {error:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
