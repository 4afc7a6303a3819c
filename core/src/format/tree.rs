//! Tree blocks: leaves and pivots (FORMAT, sections 9 and 10).
//!
//! A leaf is a sorted table of keys and values. A pivot has two tables: its children, each under the least key
//! that belongs to it, and messages that wait to be passed down. Both views check a whole block once, on parsing; the
//! builders append in key order, which is how copy-on-write trees make blocks.
//!
//! ```text
//!   leaf    0 type   2 items    4 bytes of items                                         6 table, to the end
//!   pivot   0 type   2 children 4 bytes of them   6 messages   8 bytes of them          10 children
//!                                                                          B - bufspc   messages
//! ```
#![forbid(unsafe_code)]

use super::bytes::{be16, put16};
use super::table::{Item, Shape, Table, TableWriter};
use super::{check_addr, BlockSize, BlockType, FormatError, RawPtr};
use static_assertions::const_assert;

const AT_COUNT: usize = 2;
const AT_USED: usize = 4;
const AT_MESSAGES: usize = 6;
const AT_MESSAGES_USED: usize = 8;
const LEAF_HEADER: usize = 6;
const PIVOT_HEADER: usize = 10;
const CHILD_LEN: usize = RawPtr::LEN_BYTES + 2;

// Every fill, count and offset fits 16 bits, even in the largest block.
const_assert!(BlockSize::MAX.len_bytes() - LEAF_HEADER <= u16::MAX as usize);

const LEAF: Shape = Shape { base: LEAF_HEADER, prefix: 0, repeats: false };
const CHILDREN: Shape = Shape { base: PIVOT_HEADER, prefix: 0, repeats: false };

const fn messages(size: BlockSize) -> Shape {
    Shape { base: size.len_bytes() - size.bufspc() as usize, prefix: 1, repeats: true }
}

fn short(page: &[u8], want_bytes: usize) -> FormatError {
    FormatError::BufferLen { got_bytes: page.len(), want_bytes }
}

fn check_type(page: &[u8], size: BlockSize, want: BlockType) -> Result<(), FormatError> {
    size.check_page(page)?;
    let found = be16(page, 0).ok_or(short(page, AT_COUNT))?;
    if found == want as u16 {
        Ok(())
    } else {
        Err(FormatError::BlockType { found, want: Some(want) })
    }
}

/// A leaf whose every item has been checked, borrowed from the block that holds it.
#[derive(Clone, Copy, Debug)]
pub struct Leaf<'a> {
    table: Table<'a>,
}

impl<'a> Leaf<'a> {
    /// Parses a whole block. Fails unless it is a leaf, all offsets and lengths stay inside it and agree with its
    /// header, and keys strictly ascend, bytewise, a prefix before what it begins.
    pub fn parse(page: &'a [u8], size: BlockSize) -> Result<Self, FormatError> {
        check_type(page, size, BlockType::Leaf)?;
        let (header, area) = page.split_first_chunk::<LEAF_HEADER>().ok_or(short(page, LEAF_HEADER))?;
        let count = |at| be16(header, at).unwrap_or(0);
        Ok(Self { table: Table::parse(area, count(AT_COUNT), count(AT_USED), LEAF)? })
    }

    /// Number of items.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are no items.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in use, as the parent records them: two for each item, and the items.
    #[must_use]
    pub const fn fill(&self) -> usize {
        self.table.fill()
    }

    /// Key of item `index`, or `None` behind the last.
    #[must_use]
    pub fn key(&self, index: usize) -> Option<&'a [u8]> {
        self.table.item(index).map(|item| item.key)
    }

    /// Value of item `index`, or `None` behind the last.
    #[must_use]
    pub fn value(&self, index: usize) -> Option<&'a [u8]> {
        self.table.item(index).map(|item| item.value)
    }

    /// The number of the item under `key`, or as an error the number that such an item would get.
    pub fn search(&self, key: &[u8]) -> Result<usize, usize> {
        match self.table.search(key) {
            (index, true) => Ok(index),
            (index, false) => Err(index),
        }
    }

    /// Keys and values in ascending order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + 'a {
        let table = self.table;
        (0..table.len()).filter_map(move |index| table.item(index).map(|item| (item.key, item.value)))
    }
}

/// Makes a leaf, item by item. The page is a whole block whose old contents do not matter; it holds a leaf only after
/// [`LeafBuilder::finish`].
#[derive(Debug)]
pub struct LeafBuilder<'a> {
    header: &'a mut [u8],
    table: TableWriter<'a>,
}

impl<'a> LeafBuilder<'a> {
    /// Begins an empty leaf.
    pub fn new(page: &'a mut [u8], size: BlockSize) -> Result<Self, FormatError> {
        size.check_page(page)?;
        let error = short(page, LEAF_HEADER);
        let (header, area) = page.split_at_mut_checked(LEAF_HEADER).ok_or(error)?;
        Ok(Self { header, table: TableWriter::new(area, LEAF) })
    }

    /// Number of items so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are no items so far.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in use so far, as [`Leaf::fill`] counts them.
    #[must_use]
    pub const fn fill(&self) -> usize {
        self.table.fill()
    }

    /// Whether an item with a key and a value of these lengths, in bytes, still fits.
    #[must_use]
    pub const fn has_room(&self, key_len: usize, value_len: usize) -> bool {
        self.table.has_room(key_len, value_len)
    }

    /// Appends an item. Fails with [`FormatError::Full`], or with [`FormatError::Order`] when `key` is not above
    /// the key before it; the leaf is then as it was.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), FormatError> {
        self.table.push(Item { op: 0, key, value })
    }

    /// Completes the block: writes the header, clears the gap, returns the fill.
    pub fn finish(self) -> Result<u16, FormatError> {
        let Self { header, table } = self;
        let fill = table.fill();
        let write = move || {
            let (count, used) = table.finish()?;
            put16(header, 0, BlockType::Leaf as u16)?;
            put16(header, AT_COUNT, count)?;
            put16(header, AT_USED, used)?;
            u16::try_from(fill).ok()
        };
        write().ok_or(FormatError::Full)
    }
}

/// A child of a pivot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Child {
    /// Where the child lies.
    pub ptr: RawPtr,
    /// Bytes in use in the child.
    pub fill: u16,
}

impl Child {
    fn decode(value: &[u8]) -> Option<Self> {
        let value: &[u8; CHILD_LEN] = value.try_into().ok()?;
        Some(Self { ptr: RawPtr::decode(value, 0)?, fill: be16(value, RawPtr::LEN_BYTES)? })
    }

    fn encode(&self) -> Option<[u8; CHILD_LEN]> {
        let mut value = [0; CHILD_LEN];
        self.ptr.encode(&mut value, 0)?;
        put16(&mut value, RawPtr::LEN_BYTES, self.fill)?;
        Some(value)
    }

    /// What holds for every child: it lies at a block's address.
    fn check(&self, size: BlockSize) -> Result<(), FormatError> {
        check_addr(size, self.ptr.addr, "child address", PIVOT_HEADER)
    }
}

/// A change that waits in a pivot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// What to do; the tree gives the numbers their meaning.
    pub op: u8,
    /// Key that it is about.
    pub key: &'a [u8],
    /// Operand.
    pub value: &'a [u8],
}

/// A pivot whose every child and message has been checked, borrowed from the block that holds it.
#[derive(Clone, Copy, Debug)]
pub struct Pivot<'a> {
    children: Table<'a>,
    messages: Table<'a>,
}

impl<'a> Pivot<'a> {
    /// Parses a whole block. Fails unless it is a pivot with at least one child, all offsets and lengths stay inside
    /// their half and agree with the header, keys of children strictly ascend, keys of messages do not descend, and
    /// each child lies at a block's address.
    pub fn parse(page: &'a [u8], size: BlockSize) -> Result<Self, FormatError> {
        check_type(page, size, BlockType::Pivot)?;
        let shape = messages(size);
        let (front, buffer) = page.split_at_checked(shape.base).ok_or(short(page, shape.base))?;
        let (header, area) = front.split_first_chunk::<PIVOT_HEADER>().ok_or(short(page, PIVOT_HEADER))?;
        // Of known length, so that every count is there.
        let count = |at| be16(header, at).unwrap_or(0);
        let children = Table::parse(area, count(AT_COUNT), count(AT_USED), CHILDREN)?;
        let messages = Table::parse(buffer, count(AT_MESSAGES), count(AT_MESSAGES_USED), shape)?;
        let pivot = Self { children, messages };
        if pivot.is_empty() {
            return Err(FormatError::Field { name: "child count", offset: AT_COUNT, found: 0 });
        }
        for index in 0..pivot.len() {
            let value = children.item(index).map_or(&[][..], |item| item.value);
            let found = value.len() as u64;
            let child = Child::decode(value);
            let child = child.ok_or(FormatError::Field { name: "child length", offset: PIVOT_HEADER, found })?;
            child.check(size)?;
        }
        Ok(pivot)
    }

    /// Number of children.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.children.len()
    }

    /// Whether there are no children; never true of a parsed pivot.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in use, as the parent records them: two for each child and message, and both their items.
    #[must_use]
    pub const fn fill(&self) -> usize {
        self.children.fill() + self.messages.fill()
    }

    /// Least key of child `index`, or `None` behind the last.
    #[must_use]
    pub fn key(&self, index: usize) -> Option<&'a [u8]> {
        self.children.item(index).map(|item| item.key)
    }

    /// Child `index`, or `None` behind the last.
    #[must_use]
    pub fn child(&self, index: usize) -> Option<Child> {
        Child::decode(self.children.item(index)?.value)
    }

    /// The number of the child to which `key` belongs: the last one whose key is not above it. `None` when `key` is
    /// below all of them.
    #[must_use]
    pub fn child_for(&self, key: &[u8]) -> Option<usize> {
        match self.children.search(key) {
            (index, true) => Some(index),
            (index, false) => index.checked_sub(1),
        }
    }

    /// Number of messages.
    #[must_use]
    pub const fn message_count(&self) -> usize {
        self.messages.len()
    }

    /// Message `index` in order of keys, or `None` behind the last.
    #[must_use]
    pub fn message(&self, index: usize) -> Option<Message<'a>> {
        self.messages.item(index).map(|Item { op, key, value }| Message { op, key, value })
    }

    /// The number of the first message whose key is not below `key`.
    #[must_use]
    pub fn first_message(&self, key: &[u8]) -> usize {
        self.messages.search(key).0
    }
}

/// Makes a pivot: children and messages, each in order of keys, in any interleaving. The page is a whole block whose
/// old contents do not matter; it holds a pivot only after [`PivotBuilder::finish`].
#[derive(Debug)]
pub struct PivotBuilder<'a> {
    header: &'a mut [u8; PIVOT_HEADER],
    children: TableWriter<'a>,
    messages: TableWriter<'a>,
    size: BlockSize,
}

impl<'a> PivotBuilder<'a> {
    /// Begins a pivot without children.
    pub fn new(page: &'a mut [u8], size: BlockSize) -> Result<Self, FormatError> {
        size.check_page(page)?;
        let shape = messages(size);
        let error = short(page, shape.base);
        let (front, buffer) = page.split_at_mut_checked(shape.base).ok_or(error)?;
        let (header, area) = front.split_first_chunk_mut().ok_or(error)?;
        let (children, messages) = (TableWriter::new(area, CHILDREN), TableWriter::new(buffer, shape));
        Ok(Self { header, children, messages, size })
    }

    /// Number of children so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.children.len()
    }

    /// Whether there are no children so far.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in use so far, as [`Pivot::fill`] counts them.
    #[must_use]
    pub const fn fill(&self) -> usize {
        self.children.fill() + self.messages.fill()
    }

    /// Whether a child under a key of this length, in bytes, still fits.
    #[must_use]
    pub const fn has_room(&self, key_len: usize) -> bool {
        self.children.has_room(key_len, CHILD_LEN)
    }

    /// Whether a message with a key and a value of these lengths, in bytes, still fits.
    #[must_use]
    pub const fn has_message_room(&self, key_len: usize, value_len: usize) -> bool {
        self.messages.has_room(key_len, value_len)
    }

    /// Appends a child under the least key that belongs to it. Fails with [`FormatError::Full`], with
    /// [`FormatError::Order`] when `key` is not above the key before it, or when the child's address is no
    /// block's; the pivot is then as it was.
    pub fn push(&mut self, key: &[u8], ptr: RawPtr, fill: u16) -> Result<(), FormatError> {
        let child = Child { ptr, fill };
        child.check(self.size)?;
        let value = child.encode().ok_or(FormatError::Full)?;
        self.children.push(Item { op: 0, key, value: &value })
    }

    /// Appends a message. Fails with [`FormatError::Full`], or with [`FormatError::Order`] when its key is below the
    /// key of the message before it; the pivot is then as it was.
    pub fn push_message(&mut self, message: Message<'_>) -> Result<(), FormatError> {
        let Message { op, key, value } = message;
        self.messages.push(Item { op, key, value })
    }

    /// Completes the block: writes the header, clears the gaps, returns the fill. Fails when there is no child.
    pub fn finish(self) -> Result<u16, FormatError> {
        if self.is_empty() {
            return Err(FormatError::Field { name: "child count", offset: AT_COUNT, found: 0 });
        }
        let fill = self.fill();
        let Self { header, children, messages, .. } = self;
        let write = move || {
            let (count, used) = children.finish()?;
            let (message_count, messages_used) = messages.finish()?;
            put16(header, 0, BlockType::Pivot as u16)?;
            put16(header, AT_COUNT, count)?;
            put16(header, AT_USED, used)?;
            put16(header, AT_MESSAGES, message_count)?;
            put16(header, AT_MESSAGES_USED, messages_used)?;
            u16::try_from(fill).ok()
        };
        write().ok_or(FormatError::Full)
    }
}
