//! What can be wrong with a partition table.

use core::fmt;

/// What is wrong with one copy of a table, or with one of its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The disk could not be read there.
    Unreadable,
    /// No header: its signature is missing.
    Signature,
    /// A version other than 1.0.
    Revision(u32),
    /// The header is shorter than its fields or longer than a sector.
    HeaderLen(u32),
    /// The header's checksum is wrong.
    HeaderChecksum,
    /// The header says that it lies elsewhere.
    Place(u64),
    /// The range for partitions is empty or includes tables, or does not fit on the disk.
    UsableRange,
    /// Entries are smaller than 128 bytes, larger than a sector, or no power of two.
    EntryLen(u32),
    /// There are more entries than are understood, or none.
    EntryCount(u32),
    /// The entries lie in the range for partitions, on a header, or not on the disk.
    EntryPlace(u64),
    /// The checksum of the entries is wrong.
    EntryChecksum,
    /// A partition ends before it begins, or leaves the range for partitions.
    PartitionRange,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("it cannot be read"),
            Self::Signature => f.write_str("there is no header"),
            Self::Revision(revision) => write!(f, "the header has the unknown version {revision:#x}"),
            Self::HeaderLen(len) => write!(f, "the header cannot be {len} bytes long"),
            Self::HeaderChecksum => f.write_str("the header's checksum is wrong"),
            Self::Place(lba) => write!(f, "the header belongs into sector {lba}"),
            Self::UsableRange => f.write_str("the range for partitions makes no sense"),
            Self::EntryLen(len) => write!(f, "an entry cannot be {len} bytes long"),
            Self::EntryCount(count) => write!(f, "there cannot be {count} entries"),
            Self::EntryPlace(lba) => write!(f, "the entries cannot lie in sector {lba}"),
            Self::EntryChecksum => f.write_str("the checksum of the entries is wrong"),
            Self::PartitionRange => f.write_str("it leaves the range for partitions, or is empty"),
        }
    }
}

/// Why there is no partition to use. `E` is what the disk says when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// A sector could not be read that has no copy.
    Disk {
        /// The sector.
        lba: u64,
        /// What the disk said.
        cause: E,
    },
    /// Sectors are neither 512 nor 4096 bytes long.
    SectorLen(u32),
    /// The caller's buffer is not one sector long.
    Buffer {
        /// Bytes of a sector.
        needed: u32,
    },
    /// The disk has no room for two tables.
    TooSmall,
    /// The first sector is no protective boot record: by the rules the disk has no such table, whatever follows.
    NotProtected,
    /// Both copies of the table are bad.
    NoTable {
        /// What is wrong with the first copy.
        primary: Flaw,
        /// What is wrong with the second copy, at the end of the disk.
        backup: Flaw,
    },
    /// The table has no such partition.
    NotFound,
    /// More than one partition is meant.
    Ambiguous {
        /// The number of the first one.
        first: u32,
        /// The number of the second one.
        second: u32,
    },
    /// The partition's own entry makes no sense.
    Partition {
        /// Its number.
        number: u32,
        /// What is wrong.
        flaw: Flaw,
    },
    /// The partition shares sectors with another one.
    Overlap {
        /// Its number.
        number: u32,
        /// That of the other one.
        other: u32,
    },
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk { lba, cause } => write!(f, "partition table: sector {lba}: {cause}"),
            Self::SectorLen(len) => write!(f, "partition table: sectors of {len} bytes are not understood"),
            Self::Buffer { needed } => write!(f, "partition table: a buffer of {needed} bytes is needed"),
            Self::TooSmall => f.write_str("partition table: the disk is too small for one"),
            Self::NotProtected => f.write_str("partition table: there is none (no protective boot record)"),
            Self::NoTable { primary, backup } => {
                write!(f, "partition table: there is none: first copy: {primary}; second copy: {backup}")
            }
            Self::NotFound => f.write_str("partition table: there is no such partition"),
            Self::Ambiguous { first, second } => {
                write!(f, "partition table: partitions {first} and {second} both answer to this")
            }
            Self::Partition { number, flaw } => write!(f, "partition table: partition {number}: {flaw}"),
            Self::Overlap { number, other } => write!(f, "partition table: partitions {number} and {other} overlap"),
        }
    }
}
