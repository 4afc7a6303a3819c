//! A table: finding its good copy, and a partition in it.
//!
//! A disk has two copies, one behind the boot record and one in its last sectors. The first one is used if it is good,
//! otherwise the second; [`Table::primary`] and [`Table::backup`] tell what was found, for the caller to report: a disk
//! that has lost one copy wants repair. Both header and entries of a copy must be good for it to be used.

use uguid::Guid;

use crate::error::{Error, Flaw};
use crate::header::{is_protective, Header, CRC};
use crate::partition::Partition;

/// A disk, as far as reading a table needs one.
pub trait ReadSectors {
    /// What goes wrong.
    type Error;

    /// Bytes of a logical sector.
    fn sector_len_bytes(&self) -> u32;

    /// Sectors in all.
    fn sectors(&self) -> u64;

    /// Reads sector number `lba` into `sector`, which is as long as one.
    ///
    /// # Errors
    /// The disk failed.
    fn read_sector(&mut self, lba: u64, sector: &mut [u8]) -> Result<(), Self::Error>;
}

/// Which copy of the table is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The first one.
    Primary,
    /// The one at the end of the disk.
    Backup,
}

/// Which partition is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'w> {
    /// The first one that there is.
    First,
    /// The one with this number, counted from 1.
    Number(u32),
    /// The one with this name.
    Name(&'w str),
    /// The one of this type.
    Type(Guid),
    /// The one with this identity.
    Unique(Guid),
}

impl Wanted<'_> {
    fn matches(&self, partition: &Partition) -> bool {
        match self {
            Self::First => true,
            Self::Number(number) => partition.number == *number,
            Self::Name(name) => partition.name.is(name),
            Self::Type(guid) => partition.type_guid == *guid,
            Self::Unique(guid) => partition.unique_guid == *guid,
        }
    }
}

/// A table whose header and entries were found to be good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    header: Header,
    source: Source,
    primary: Result<(), Flaw>,
    backup: Result<(), Flaw>,
    copies_agree: bool,
}

impl Table {
    /// Finds a disk's table. `sector` is memory for one sector.
    ///
    /// # Errors
    /// There is none, or both copies are bad.
    pub fn open<R: ReadSectors>(disk: &mut R, sector: &mut [u8]) -> Result<Self, Error<R::Error>> {
        let (len, sectors) = (disk.sector_len_bytes(), disk.sectors());
        if !matches!(len, 512 | 4096) {
            return Err(Error::SectorLen(len));
        }
        if sector.len() != len as usize {
            return Err(Error::Buffer { needed: len });
        }
        // Boot record, two headers, a sector of entries for each, and one for a partition.
        if sectors < 6 {
            return Err(Error::TooSmall);
        }
        disk.read_sector(0, sector).map_err(|cause| Error::Disk { lba: 0, cause })?;
        if !is_protective(sector) {
            return Err(Error::NotProtected);
        }
        let primary = read_copy(disk, sector, 1);
        let backup = read_copy(disk, sector, sectors - 1);
        let (header, source) = match (primary, backup) {
            (Ok(header), _) => (header, Source::Primary),
            (_, Ok(header)) => (header, Source::Backup),
            (Err(primary), Err(backup)) => return Err(Error::NoTable { primary, backup }),
        };
        let copies_agree = matches!((primary, backup), (Ok(one), Ok(other)) if one.agrees_with(&other));
        Ok(Self { header, source, primary: primary.map(drop), backup: backup.map(drop), copies_agree })
    }

    /// Which copy is used.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Whether the first copy is good.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn primary(&self) -> Result<(), Flaw> {
        self.primary
    }

    /// Whether the copy at the end of the disk is good. (On a disk that has grown it is not there.)
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn backup(&self) -> Result<(), Flaw> {
        self.backup
    }

    /// Whether both copies are good and describe the same partitions.
    pub fn copies_agree(&self) -> bool {
        self.copies_agree
    }

    /// The identity of the disk.
    pub fn disk_guid(&self) -> Guid {
        self.header.disk_guid
    }

    /// Calls `see` with each entry in use, in the order of their numbers, until it returns `false`. What is in them is
    /// as it is on the disk, and may make no sense.
    ///
    /// # Errors
    /// The disk fails, or `sector` is not one sector long.
    pub fn each<R: ReadSectors>(
        &self,
        disk: &mut R,
        sector: &mut [u8],
        mut see: impl FnMut(&Partition) -> bool,
    ) -> Result<(), Error<R::Error>> {
        let len = disk.sector_len_bytes();
        if sector.len() != len as usize {
            return Err(Error::Buffer { needed: len });
        }
        let mut number = 0;
        for lba in self.header.entries_lba.. {
            if number >= self.header.entry_count {
                break;
            }
            disk.read_sector(lba, sector).map_err(|cause| Error::Disk { lba, cause })?;
            for entry in sector.chunks_exact(self.header.entry_len as usize) {
                number += 1;
                let partition = Partition::parse(entry, number, len).filter(|_| number <= self.header.entry_count);
                if partition.is_some_and(|partition| !see(&partition)) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The partition that is wanted. It lies in the range for partitions, and overlaps with no other one.
    ///
    /// # Errors
    /// There is none, or more than one, or its entry makes no sense; the disk fails.
    pub fn find<R: ReadSectors>(
        &self,
        disk: &mut R,
        sector: &mut [u8],
        wanted: Wanted<'_>,
    ) -> Result<Partition, Error<R::Error>> {
        let (mut found, mut second) = (None::<Partition>, None);
        self.each(disk, sector, |partition| {
            match found {
                _ if !wanted.matches(partition) => {}
                None => found = Some(*partition),
                Some(_) if wanted == Wanted::First => return false,
                Some(_) => second = Some(partition.number),
            }
            second.is_none()
        })?;
        let found = found.ok_or(Error::NotFound)?;
        let number = found.number;
        if let Some(second) = second {
            return Err(Error::Ambiguous { first: number, second });
        }
        let Header { first_usable, last_usable, .. } = self.header;
        if found.first_lba < first_usable || found.first_lba > found.last_lba || found.last_lba > last_usable {
            return Err(Error::Partition { number, flaw: Flaw::PartitionRange });
        }
        let mut other = None;
        self.each(disk, sector, |partition| {
            let overlaps = partition.number != number && partition.overlaps(&found);
            other = overlaps.then_some(partition.number);
            !overlaps
        })?;
        match other {
            Some(other) => Err(Error::Overlap { number, other }),
            None => Ok(found),
        }
    }
}

/// Reads and checks the copy whose header lies in sector `lba`.
fn read_copy<R: ReadSectors>(disk: &mut R, sector: &mut [u8], lba: u64) -> Result<Header, Flaw> {
    disk.read_sector(lba, sector).map_err(|_| Flaw::Unreadable)?;
    let header = Header::parse(sector, lba, disk.sectors())?;
    let mut digest = CRC.digest();
    let mut left = header.entries_len();
    for lba in header.entries_lba.. {
        if left == 0 {
            break;
        }
        disk.read_sector(lba, sector).map_err(|_| Flaw::Unreadable)?;
        let now = left.min(sector.len() as u64);
        digest.update(&sector[..now as usize]);
        left -= now;
    }
    if digest.finalize() != header.entries_crc {
        return Err(Flaw::EntryChecksum);
    }
    Ok(header)
}
