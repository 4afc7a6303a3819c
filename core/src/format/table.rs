//! Slotted tables: how tree blocks store sorted items of varying length (FORMAT, section 9).
//!
//! A table occupies one area of a block. A directory of 16-bit offsets grows up from the area's start, the items
//! grow down from its end, in the order in which they were appended; an offset counts from the start of the area.
//!
//! ```text
//!   | off 0 | off 1 | ... | off n-1 |    gap    | item n-1 | ... | item 1 | item 0 |
//!
//!   item:  prefix (0 or 1 byte)   key length (2)   key   value length (2)   value
//! ```
//!
//! Invariant: in a [`Table`] all items lie between the directory and the end of the area, their lengths add up to what
//! the block's header says, and keys ascend. Accessors check their bounds all the same.
#![forbid(unsafe_code)]

use super::bytes::{be16, put, put16};
use super::FormatError;

/// Bytes of one directory entry.
pub(super) const SLOT: usize = 2;
/// Bytes of the two lengths inside an item.
const LENGTHS: usize = 4;

/// What the tables of the three uses differ in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Where the area begins in its block; for error messages alone.
    pub(super) base: usize,
    /// Bytes in front of an item's key length: 1 for messages, else 0.
    pub(super) prefix: usize,
    /// Whether equal keys may follow each other.
    pub(super) repeats: bool,
}

/// An item, borrowed from its block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Item<'a> {
    /// The byte in front of the key length; 0 in tables without a prefix.
    pub(super) op: u8,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
}

impl Item<'_> {
    /// Bytes in the item area.
    const fn len(&self, prefix: usize) -> usize {
        prefix + LENGTHS + self.key.len() + self.value.len()
    }
}

/// A table that has been checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    area: &'a [u8],
    count: usize,
    used: usize,
    shape: Shape,
}

impl<'a> Table<'a> {
    /// Takes `area` as a table of `count` items that are `used` bytes long in all, and checks every one of them.
    pub(super) fn parse(area: &'a [u8], count: u16, used: u16, shape: Shape) -> Result<Self, FormatError> {
        let table = Self { area, count: usize::from(count), used: usize::from(used), shape };
        if table.fill() > area.len() {
            let (name, found) = ("fill of the table", table.fill() as u64);
            return Err(FormatError::Field { name, offset: shape.base, found });
        }
        let mut sum = 0;
        let mut before: Option<&[u8]> = None;
        for index in 0..table.count {
            let item = table.item(index).ok_or_else(|| FormatError::Field {
                name: "item offset",
                offset: shape.base + SLOT * index,
                found: be16(area, SLOT * index).map_or(0, u64::from),
            })?;
            // Items may overlap here, hence the sum may exceed the area by far, even 32 bits.
            sum += item.len(shape.prefix) as u64;
            if before.is_some_and(|before| !ascends(before, item.key, shape.repeats)) {
                return Err(FormatError::Order { index });
            }
            before = Some(item.key);
        }
        if sum != table.used as u64 {
            return Err(FormatError::Field { name: "length of the items", offset: shape.base, found: sum });
        }
        Ok(table)
    }

    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// Bytes that are taken: directory and items.
    pub(super) const fn fill(&self) -> usize {
        SLOT * self.count + self.used
    }

    pub(super) fn item(&self, index: usize) -> Option<Item<'a>> {
        if index >= self.count {
            return None;
        }
        let offset = usize::from(be16(self.area, SLOT * index)?);
        if offset < self.area.len().checked_sub(self.used)? {
            return None;
        }
        let rest = self.area.get(offset..)?;
        let (prefix, rest) = rest.split_at_checked(self.shape.prefix)?;
        let (key, rest) = counted(rest)?;
        let (value, _) = counted(rest)?;
        Some(Item { op: prefix.first().copied().unwrap_or(0), key, value })
    }

    /// Number of the first item whose key is not below `key`, and whether that item's key equals it.
    pub(super) fn search(&self, key: &[u8]) -> (usize, bool) {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.item(middle) {
                Some(item) if item.key < key => low = middle + 1,
                _ => high = middle,
            }
        }
        (low, self.item(low).is_some_and(|item| item.key == key))
    }
}

fn ascends(before: &[u8], key: &[u8], repeats: bool) -> bool {
    before < key || (repeats && before == key)
}

/// Splits a length and that many bytes off the front.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

/// Appends items to an area in ascending order.
#[derive(Debug)]
pub(super) struct TableWriter<'a> {
    area: &'a mut [u8],
    count: usize,
    used: usize,
    shape: Shape,
}

impl<'a> TableWriter<'a> {
    pub(super) fn new(area: &'a mut [u8], shape: Shape) -> Self {
        Self { area, count: 0, used: 0, shape }
    }

    pub(super) const fn len(&self) -> usize {
        self.count
    }

    pub(super) const fn fill(&self) -> usize {
        SLOT * self.count + self.used
    }

    /// Whether an item with a key and a value of these lengths fits.
    pub(super) const fn has_room(&self, key_len: usize, value_len: usize) -> bool {
        let free = self.area.len() - self.fill();
        let fixed = SLOT + self.shape.prefix + LENGTHS;
        // The lengths are compared one by one: their sum might overflow.
        free >= fixed && key_len <= free - fixed && value_len <= free - fixed - key_len
    }

    /// Appends `item`. Fails, with the table as it was, when it does not fit or when its key does not ascend.
    pub(super) fn push(&mut self, item: Item<'_>) -> Result<(), FormatError> {
        if !self.has_room(item.key.len(), item.value.len()) {
            return Err(FormatError::Full);
        }
        let Shape { prefix, repeats, .. } = self.shape;
        let table = Table { area: self.area, count: self.count, used: self.used, shape: self.shape };
        let last = self.count.checked_sub(1).and_then(|index| table.item(index));
        if last.is_some_and(|last| !ascends(last.key, item.key, repeats)) {
            return Err(FormatError::Order { index: self.count });
        }
        let used = self.used + item.len(prefix);
        self.write(self.area.len() - used, &item).ok_or(FormatError::Full)?;
        self.used = used;
        self.count += 1;
        Ok(())
    }

    /// Writes an item and its directory entry. The item fits, hence so does each length into its 16 bits.
    fn write(&mut self, offset: usize, item: &Item<'_>) -> Option<()> {
        put16(self.area, SLOT * self.count, u16::try_from(offset).ok()?)?;
        if self.shape.prefix > 0 {
            put(self.area, offset, &[item.op])?;
        }
        let key_at = offset + self.shape.prefix;
        put16(self.area, key_at, u16::try_from(item.key.len()).ok()?)?;
        put(self.area, key_at + 2, item.key)?;
        let value_at = key_at + 2 + item.key.len();
        put16(self.area, value_at, u16::try_from(item.value.len()).ok()?)?;
        put(self.area, value_at + 2, item.value)
    }

    /// Clears the gap, and returns the number of items and their length.
    pub(super) fn finish(self) -> Option<(u16, u16)> {
        let end = self.area.len().checked_sub(self.used)?;
        self.area.get_mut(SLOT * self.count..end)?.fill(0);
        Some((u16::try_from(self.count).ok()?, u16::try_from(self.used).ok()?))
    }
}
