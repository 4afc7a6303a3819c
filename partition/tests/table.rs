//! Tables made by another implementation are read; hostile ones are refused with the reason.
#![forbid(unsafe_code)]

use arenite_partition::{Error, Flaw, ReadSectors, Source, Table, Wanted};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types::{EFI, LINUX_FS};
use std::io::Cursor;

/// A disk in memory, of which single sectors may not be readable.
#[derive(Clone)]
struct Image {
    bytes: Vec<u8>,
    sector_len: u32,
    unreadable: Vec<u64>,
}

impl ReadSectors for Image {
    type Error = &'static str;

    fn sector_len_bytes(&self) -> u32 {
        self.sector_len
    }

    fn sectors(&self) -> u64 {
        self.bytes.len() as u64 / u64::from(self.sector_len)
    }

    fn read_sector(&mut self, lba: u64, sector: &mut [u8]) -> Result<(), &'static str> {
        if self.unreadable.contains(&lba) {
            return Err("bad sector");
        }
        let at = usize::try_from(lba).unwrap() * self.sector_len as usize;
        sector.copy_from_slice(self.bytes.get(at..at + sector.len()).ok_or("beyond the end")?);
        Ok(())
    }
}

impl Image {
    fn open(&mut self) -> Result<Table, Error<&'static str>> {
        let mut sector = vec![0; self.sector_len as usize];
        Table::open(self, &mut sector)
    }

    fn find(&mut self, wanted: Wanted<'_>) -> Result<arenite_partition::Partition, Error<&'static str>> {
        let mut sector = vec![0; self.sector_len as usize];
        let table = Table::open(self, &mut sector)?;
        table.find(self, &mut sector, wanted)
    }

    fn sector(&mut self, lba: u64) -> &mut [u8] {
        let len = self.sector_len as usize;
        let at = usize::try_from(lba).unwrap() * len;
        &mut self.bytes[at..at + len]
    }

    fn last(&self) -> u64 {
        self.sectors() - 1
    }

    /// Changes bytes of a header and makes its checksum right again.
    fn edit_header(&mut self, lba: u64, at: usize, bytes: &[u8]) {
        let sector = self.sector(lba);
        sector[at..at + bytes.len()].copy_from_slice(bytes);
        let len = u32::from_le_bytes(sector[12..16].try_into().unwrap()) as usize;
        sector[16..20].fill(0);
        let Some(header) = sector.get(..len) else { return };
        let sum = crc32(header);
        sector[16..20].copy_from_slice(&sum.to_le_bytes());
    }

    /// Changes bytes of the entry with this number in the first copy, and makes both checksums right again.
    fn edit_entry(&mut self, number: usize, at: usize, bytes: &[u8]) {
        let start = 2 * self.sector_len as usize;
        let at = start + (number - 1) * 128 + at;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        let sum = crc32(&self.bytes[start..start + 128 * 128]);
        self.edit_header(1, 88, &sum.to_le_bytes());
    }
}

/// Bit by bit, so that it shares nothing with the crate that is tested.
fn crc32(bytes: &[u8]) -> u32 {
    let shift = |crc: u32, _| (crc >> 1) ^ (0xEDB8_8320 & 0u32.wrapping_sub(crc & 1));
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), shift))
}

/// Partitions 1, 2 and 3, on a disk of 8 MiB.
fn image(sector_len: u32) -> Image {
    let size = if sector_len == 512 { LogicalBlockSize::Lb512 } else { LogicalBlockSize::Lb4096 };
    let bytes = vec![0; 8 << 20];
    let sectors = u32::try_from(bytes.len()).unwrap() / sector_len;
    let mut device = Cursor::new(bytes);
    ProtectiveMBR::with_lb_size(sectors - 1).overwrite_lba0(&mut device).unwrap();
    let config = gpt::GptConfig::new().writable(true).logical_block_size(size);
    let mut disk = config.create_from_device(device, None).unwrap();
    disk.add_partition_at("boot", 1, 64, 100, EFI, 0).unwrap();
    disk.add_partition_at("store \u{e9}\u{1f980}", 2, 256, 512, LINUX_FS, 0).unwrap();
    disk.add_partition_at("rest", 3, 1024, 512, LINUX_FS, 0).unwrap();
    Image { bytes: disk.write().unwrap().into_inner(), sector_len, unreadable: Vec::new() }
}

fn guid(uuid: &str) -> arenite_partition::Guid {
    uuid.parse().unwrap()
}

#[test]
fn a_good_table_is_read() {
    for sector_len in [512, 4096] {
        let mut image = image(sector_len);
        let table = image.open().unwrap();
        assert_eq!((table.source(), table.primary(), table.backup()), (Source::Primary, Ok(()), Ok(())));
        assert!(table.copies_agree());
        let two = image.find(Wanted::Number(2)).unwrap();
        assert_eq!((two.first_lba, two.last_lba), (256, 767));
        assert_eq!(two.start_bytes(), 256 * u64::from(sector_len));
        assert_eq!(two.len_bytes(), 512 * u64::from(sector_len));
        assert_eq!(two.name.to_string(), "store \u{e9}\u{1f980}");
        assert_eq!(image.find(Wanted::Name("store \u{e9}\u{1f980}")), Ok(two));
        assert_eq!(image.find(Wanted::Unique(two.unique_guid)), Ok(two));
        assert_eq!(image.find(Wanted::First).unwrap().number, 1);
        assert_eq!(image.find(Wanted::Number(3)).unwrap().name.to_string(), "rest");
        let efi = guid("C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
        assert_eq!(image.find(Wanted::Type(efi)).unwrap().number, 1);
        let linux = Wanted::Type(two.type_guid);
        assert_eq!(image.find(linux), Err(Error::Ambiguous { first: 2, second: 3 }));
        for absent in [Wanted::Number(0), Wanted::Number(4), Wanted::Number(u32::MAX), Wanted::Name("sto")] {
            assert_eq!(image.find(absent), Err(Error::NotFound), "{absent:?}");
        }
        image.edit_entry(2, 0, &[0; 16]);
        assert_eq!(image.find(Wanted::Number(2)), Err(Error::NotFound));
        assert_eq!(image.find(Wanted::Number(3)).unwrap().first_lba, 1024);
    }
}

#[test]
fn the_second_copy_is_used_and_that_is_told() {
    for sector_len in [512, 4096] {
        let good = image(sector_len);
        let mut damaged = good.clone();
        damaged.sector(1)[60] ^= 1;
        let table = damaged.open().unwrap();
        assert_eq!((table.source(), table.primary()), (Source::Backup, Err(Flaw::HeaderChecksum)));
        assert!(!table.copies_agree());
        assert_eq!(damaged.find(Wanted::Number(2)).unwrap().first_lba, 256);

        let mut damaged = good.clone();
        damaged.sector(2)[130] ^= 1;
        assert_eq!(damaged.open().unwrap().primary(), Err(Flaw::EntryChecksum));
        assert_eq!(damaged.find(Wanted::Number(2)).unwrap().first_lba, 256);

        let mut damaged = good.clone();
        damaged.unreadable = vec![1];
        assert_eq!(damaged.open().unwrap().primary(), Err(Flaw::Unreadable));
        assert_eq!(damaged.find(Wanted::First).unwrap().number, 1);

        let mut damaged = good.clone();
        let last = damaged.last();
        damaged.sector(last)[0] = 0;
        let table = damaged.open().unwrap();
        assert_eq!((table.source(), table.backup()), (Source::Primary, Err(Flaw::Signature)));
    }
}

#[test]
fn a_disk_without_a_table_has_none() {
    let mut nothing = Image { bytes: vec![0; 1 << 20], sector_len: 512, unreadable: Vec::new() };
    assert_eq!(nothing.open(), Err(Error::NotProtected));
    let mut plain = image(512);
    plain.sector(0)[450] = 0x83;
    assert_eq!(plain.open(), Err(Error::NotProtected));
    let mut both = image(512);
    let last = both.last();
    both.sector(1)[8] = 2;
    both.sector(last)[16] ^= 1;
    let flaws = Error::NoTable { primary: Flaw::Revision(0x0001_0002), backup: Flaw::HeaderChecksum };
    assert_eq!(both.open(), Err(flaws));
    assert!(flaws.to_string().contains("unknown version 0x10002"), "{flaws}");
    let mut first = image(512);
    first.unreadable = vec![0];
    assert_eq!(first.open(), Err(Error::Disk { lba: 0, cause: "bad sector" }));
    let mut small = Image { bytes: vec![0; 5 * 512], sector_len: 512, unreadable: Vec::new() };
    assert_eq!(small.open(), Err(Error::TooSmall));
    let mut odd = Image { bytes: vec![0; 1 << 20], sector_len: 1024, unreadable: Vec::new() };
    assert_eq!(odd.open(), Err(Error::SectorLen(1024)));
    assert_eq!(Table::open(&mut image(512), &mut [0; 511]), Err(Error::Buffer { needed: 512 }));
}

/// With right checksums: somebody has written this on purpose.
#[test]
fn headers_that_make_no_sense_are_refused() {
    let last = image(512).last();
    let cases: [(usize, &[u8], Flaw); 16] = [
        (12, &91u32.to_le_bytes(), Flaw::HeaderLen(91)),
        (12, &513u32.to_le_bytes(), Flaw::HeaderLen(513)),
        (12, &u32::MAX.to_le_bytes(), Flaw::HeaderLen(u32::MAX)),
        (24, &2u64.to_le_bytes(), Flaw::Place(2)),
        (40, &1u64.to_le_bytes(), Flaw::UsableRange),
        (40, &u64::MAX.to_le_bytes(), Flaw::UsableRange),
        (48, &last.to_le_bytes(), Flaw::UsableRange),
        (48, &u64::MAX.to_le_bytes(), Flaw::UsableRange),
        (84, &0u32.to_le_bytes(), Flaw::EntryLen(0)),
        (84, &192u32.to_le_bytes(), Flaw::EntryLen(192)),
        (84, &1024u32.to_le_bytes(), Flaw::EntryLen(1024)),
        (80, &0u32.to_le_bytes(), Flaw::EntryCount(0)),
        (80, &u32::MAX.to_le_bytes(), Flaw::EntryCount(u32::MAX)),
        (72, &1u64.to_le_bytes(), Flaw::EntryPlace(1)),
        (72, &40u64.to_le_bytes(), Flaw::EntryPlace(40)),
        (72, &u64::MAX.to_le_bytes(), Flaw::EntryPlace(u64::MAX)),
    ];
    for (at, bytes, flaw) in cases {
        let mut hostile = image(512);
        hostile.edit_header(1, at, bytes);
        assert_eq!(hostile.open().unwrap().primary(), Err(flaw), "{bytes:?} at {at}");
        assert!(!flaw.to_string().is_empty());
    }
}

#[test]
fn partitions_that_make_no_sense_are_refused() {
    let range = Err(Error::Partition { number: 2, flaw: Flaw::PartitionRange });
    let last = image(512).last();
    for (first, end) in [(0, 767), (33, 767), (768, 767), (256, last), (256, u64::MAX), (u64::MAX, 0)] {
        let mut hostile = image(512);
        hostile.edit_entry(2, 32, &u64::to_le_bytes(first));
        hostile.edit_entry(2, 40, &u64::to_le_bytes(end));
        assert_eq!(hostile.find(Wanted::Number(2)), range, "{first}..={end}");
        let neighbour = if first <= 64 { Err(Error::Overlap { number: 1, other: 2 }) } else { Ok(1) };
        assert_eq!(hostile.find(Wanted::Number(1)).map(|one| one.number), neighbour, "{first}..={end}");
    }
    let mut hostile = image(512);
    hostile.edit_entry(3, 32, &767u64.to_le_bytes());
    assert_eq!(hostile.find(Wanted::Number(2)), Err(Error::Overlap { number: 2, other: 3 }));
    assert_eq!(hostile.find(Wanted::Number(3)), Err(Error::Overlap { number: 3, other: 2 }));
    assert_eq!(hostile.find(Wanted::First).unwrap().number, 1);
    let mut hostile = image(512);
    hostile.edit_entry(2, 56, &0xD800u16.to_le_bytes());
    hostile.edit_entry(2, 58, &7u16.to_le_bytes());
    assert!(hostile.find(Wanted::Number(2)).unwrap().name.to_string().starts_with("\u{fffd}\u{fffd}ore"));
}

/// No byte of a table can be changed unnoticed, or make anything panic.
#[test]
fn every_changed_byte_is_noticed() {
    let mut image = image(512);
    for at in (512..512 + 92).chain(1024..1024 + 16 * 128) {
        image.bytes[at] ^= 0x41;
        let table = image.open().unwrap();
        assert!(table.primary().is_err(), "byte {at}");
        assert_eq!(table.source(), Source::Backup);
        image.bytes[at] ^= 0x41;
    }
}

/// Any bytes at all in the places that are read.
#[test]
fn noise_is_an_error() {
    let mut state = 0x5EED_u64;
    let good = image(512);
    for round in 0..500 {
        let mut noise = good.clone();
        let last = noise.last();
        for lba in [1, last] {
            for at in 8..92 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if (state >> 60) < 4 {
                    noise.sector(lba)[at] = (state >> 33) as u8;
                }
            }
            if round % 2 == 0 {
                noise.edit_header(lba, 0, b"EFI PART");
            }
        }
        assert!(matches!(noise.open(), Err(Error::NoTable { .. })), "round {round}");
    }
}
