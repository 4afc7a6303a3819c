//! The header of a table, and the boot record in front of it.
//!
//! ```text
//!  header, little endian                      protective boot record
//!   0  8 bytes "EFI PART"                     446 four records of 16 bytes; byte 4 of each is the type,
//!   8  u32 revision, 0x00010000                   0xEE for "this disk has a GPT"
//!  12  u32 length of the header               510 0x55 0xAA
//!  16  u32 CRC-32 of the header, this field taken as 0
//!  24  u64 sector of this header
//!  32  u64 sector of the other header
//!  40  u64 first sector for partitions
//!  48  u64 last sector for partitions
//!  56  16 bytes identity of the disk
//!  72  u64 first sector of the entries
//!  80  u32 number of entries
//!  84  u32 length of an entry
//!  88  u32 CRC-32 of all entries
//! ```

use uguid::Guid;

use crate::error::Flaw;

/// The checksum that these tables use.
pub(crate) const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// Bytes of the fields above.
const FIELDS_LEN: u32 = 92;
/// Bytes of the smallest entry.
pub(crate) const ENTRY_LEN: u32 = 128;
/// Entries of the largest table that is understood; usual are 128.
const MAX_ENTRIES: u32 = 4096;
const REVISION: u32 = 0x0001_0000;

/// What a good header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) disk_guid: Guid,
    pub(crate) first_usable: u64,
    pub(crate) last_usable: u64,
    pub(crate) entries_lba: u64,
    pub(crate) entry_count: u32,
    pub(crate) entry_len: u32,
    pub(crate) entries_crc: u32,
}

/// Copies a field; zeroes where the bytes end.
pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

/// Whether the first sector of a disk says that a table follows.
pub(crate) fn is_protective(sector: &[u8]) -> bool {
    const PROTECTIVE: u8 = 0xEE;
    field(sector, 510) == [0x55, 0xAA] && (0..4).any(|record| field::<1>(sector, 446 + 16 * record + 4) == [PROTECTIVE])
}

impl Header {
    /// Reads and checks the header in sector `lba` of a disk of `sectors` sectors. What it says about the entries is
    /// checked as far as that can be done without reading them.
    pub(crate) fn parse(sector: &[u8], lba: u64, sectors: u64) -> Result<Self, Flaw> {
        if field(sector, 0) != *b"EFI PART" {
            return Err(Flaw::Signature);
        }
        let (revision, len) = (u32_at(sector, 8), u32_at(sector, 12));
        if revision != REVISION {
            return Err(Flaw::Revision(revision));
        }
        let header = sector.get(..len as usize).filter(|_| len >= FIELDS_LEN).ok_or(Flaw::HeaderLen(len))?;
        let mut digest = CRC.digest();
        digest.update(&header[..16]);
        digest.update(&[0; 4]);
        digest.update(&header[20..]);
        if digest.finalize() != u32_at(sector, 16) {
            return Err(Flaw::HeaderChecksum);
        }
        let own_lba = u64_at(sector, 24);
        if own_lba != lba {
            return Err(Flaw::Place(own_lba));
        }
        let header = Self {
            disk_guid: Guid::from_bytes(field(sector, 56)),
            first_usable: u64_at(sector, 40),
            last_usable: u64_at(sector, 48),
            entries_lba: u64_at(sector, 72),
            entry_count: u32_at(sector, 80),
            entry_len: u32_at(sector, 84),
            entries_crc: u32_at(sector, 88),
        };
        header.check(sector.len() as u64, sectors)?;
        Ok(header)
    }

    fn check(&self, sector_len: u64, sectors: u64) -> Result<(), Flaw> {
        // Sectors 0 and 1 and the last one are those of the boot record and the two headers.
        let last = sectors.saturating_sub(1);
        if self.first_usable < 2 || self.first_usable > self.last_usable || self.last_usable >= last {
            return Err(Flaw::UsableRange);
        }
        let (count, len) = (self.entry_count, self.entry_len);
        if len < ENTRY_LEN || !len.is_power_of_two() || u64::from(len) > sector_len {
            return Err(Flaw::EntryLen(len));
        }
        if count == 0 || count > MAX_ENTRIES {
            return Err(Flaw::EntryCount(count));
        }
        let start = self.entries_lba;
        let end = start.checked_add(self.entries_len().div_ceil(sector_len)).ok_or(Flaw::EntryPlace(start))?;
        if start < 2 || end > last || (start <= self.last_usable && end > self.first_usable) {
            return Err(Flaw::EntryPlace(start));
        }
        Ok(())
    }

    /// Bytes of all entries.
    pub(crate) fn entries_len(&self) -> u64 {
        u64::from(self.entry_count) * u64::from(self.entry_len)
    }

    /// Whether the other copy describes the same partitions.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        *self == Self { entries_lba: self.entries_lba, ..*other }
    }
}
