//! One entry of a table.
//!
//! ```text
//!   0 16 bytes type, all zero if the entry is unused     40 u64 last sector, inclusive
//!  16 16 bytes identity of the partition                 48 u64 attributes
//!  32 u64 first sector                                   56 36 units of UTF-16, ends with a zero if there is room
//! ```

use core::fmt::{self, Write};

use uguid::Guid;

use crate::header::field;

const NAME_UNITS: usize = 36;

/// The name of a partition, UTF-16 as it is on the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name([u16; NAME_UNITS]);

impl Name {
    fn units(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().copied().take_while(|&unit| unit != 0)
    }

    /// Whether the name is this text.
    pub fn is(&self, text: &str) -> bool {
        self.units().eq(text.encode_utf16())
    }
}

impl fmt::Display for Name {
    /// Without control characters, whatever the disk holds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for unit in char::decode_utf16(self.units()) {
            match unit {
                Ok(letter) if !letter.is_control() => f.write_char(letter)?,
                _ => f.write_char(char::REPLACEMENT_CHARACTER)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its place in the table, counted from 1.
    pub number: u32,
    /// What kind of content it is for.
    pub type_guid: Guid,
    /// Its identity.
    pub unique_guid: Guid,
    /// First sector.
    pub first_lba: u64,
    /// Last sector; it belongs to the partition.
    pub last_lba: u64,
    /// Bytes of a sector.
    pub sector_len_bytes: u32,
    /// Attributes, as on the disk.
    pub attributes: u64,
    /// Its name.
    pub name: Name,
}

impl Partition {
    /// Reads an entry; `None` if it is unused. Nothing is checked.
    pub(crate) fn parse(entry: &[u8], number: u32, sector_len_bytes: u32) -> Option<Self> {
        let type_guid = Guid::from_bytes(field(entry, 0));
        if type_guid.is_zero() {
            return None;
        }
        Some(Self {
            number,
            type_guid,
            unique_guid: Guid::from_bytes(field(entry, 16)),
            first_lba: u64::from_le_bytes(field(entry, 32)),
            last_lba: u64::from_le_bytes(field(entry, 40)),
            sector_len_bytes,
            attributes: u64::from_le_bytes(field(entry, 48)),
            name: Name(core::array::from_fn(|unit| u16::from_le_bytes(field(entry, 56 + 2 * unit)))),
        })
    }

    /// Whether the two have a sector in common.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.first_lba <= other.last_lba && other.first_lba <= self.last_lba
    }

    /// First byte on the disk. Partitions that [`crate::Table::find`] returns lie on their disk.
    pub fn start_bytes(&self) -> u64 {
        self.first_lba.saturating_mul(u64::from(self.sector_len_bytes))
    }

    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        let sectors = self.last_lba.saturating_sub(self.first_lba).saturating_add(1);
        sectors.saturating_mul(u64::from(self.sector_len_bytes))
    }
}
