//! Where a volume is: a file or block device, all of it or one partition of it.
//!
//! Addresses that commands print or take count from the start of that part. Nothing outside of it is read, once its
//! partition table was, and nothing outside of it is ever written.

use arenite_core::DeviceError;
use arenite_partition::{Error, Partition, ReadSectors, Table, Wanted};
use arenite_shim::nbd::Backing;
use arenite_shim::{FileDevice, ReadAt};
use clap::Args;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

/// Sectors that partition tables are made for. What kind an image in a file has, only its table tells.
const SECTOR_LENS: [u32; 2] = [512, 4096];

/// What the user names.
#[derive(Args, Clone, Debug)]
pub(crate) struct Place {
    /// Use this partition of IMAGE: its number in the table (GPT), or its name.
    #[arg(long, value_name = "WHICH")]
    partition: Option<String>,
    /// File or block device with the volume.
    image: PathBuf,
}

/// Bytes of a file or block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) start_bytes: u64,
    pub(crate) len_bytes: u64,
}

impl Part {
    /// The address in the file of so many bytes at an address of the part, if all of them are in the part.
    pub(crate) fn outward(self, addr: u64, count: usize) -> Option<u64> {
        let inside = addr.checked_add(count as u64).is_some_and(|end| end <= self.len_bytes);
        addr.checked_add(self.start_bytes).filter(|_| inside)
    }
}

impl Place {
    pub(crate) fn path(&self) -> &Path {
        &self.image
    }

    pub(crate) fn is_partition(&self) -> bool {
        self.partition.is_some()
    }

    /// How it is called in messages.
    pub(crate) fn shown(&self) -> String {
        match &self.partition {
            None => self.image.display().to_string(),
            Some(which) => format!("{}: partition {which}", self.image.display()),
        }
    }

    /// Whether all of a disk is meant that has partitions: mostly one of them should have been.
    pub(crate) fn has_partitions(&self) -> bool {
        // Opening anything else might wait for somebody at its other end.
        let is_disk = std::fs::metadata(&self.image).is_ok_and(|found| found.is_file() || is_block_device(&found));
        if !is_disk || self.is_partition() {
            return false;
        }
        let Ok(mut file) = File::open(&self.image) else { return false };
        let Ok(len_bytes) = file.seek(SeekFrom::End(0)) else { return false };
        SECTOR_LENS.iter().any(|len| {
            let mut disk = Sectors { file: &file, len_bytes, sector_len_bytes: *len };
            Table::open(&mut disk, &mut vec![0; *len as usize]).is_ok()
        })
    }

    /// Which bytes of the open file are meant.
    pub(crate) fn part(&self, file: &File, len_bytes: u64) -> io::Result<Part> {
        let Some(which) = &self.partition else { return Ok(Part { start_bytes: 0, len_bytes }) };
        let wanted = which.parse().map_or(Wanted::Name(which), Wanted::Number);
        let found = SECTOR_LENS.map(|sector_len_bytes| find(Sectors { file, len_bytes, sector_len_bytes }, wanted));
        let [usual, large] = found;
        // The complaint about the usual sectors, unless there is a table of the other kind.
        let partition = match (usual, large) {
            (Ok(partition), _) | (Err(Error::NoTable { .. }), Ok(partition)) => partition,
            (Err(Error::NoTable { .. }), Err(error)) if !matches!(error, Error::NoTable { .. }) => {
                return Err(io::Error::other(error.to_string()));
            }
            (Err(error), _) => return Err(io::Error::other(error.to_string())),
        };
        Ok(Part { start_bytes: partition.start_bytes(), len_bytes: partition.len_bytes() })
    }
}

fn is_block_device(found: &std::fs::Metadata) -> bool {
    found.file_type().is_block_device()
}

/// A file, as the reader of partition tables wants it.
struct Sectors<'f> {
    file: &'f File,
    len_bytes: u64,
    sector_len_bytes: u32,
}

impl ReadSectors for Sectors<'_> {
    type Error = io::Error;

    fn sector_len_bytes(&self) -> u32 {
        self.sector_len_bytes
    }

    fn sectors(&self) -> u64 {
        self.len_bytes / u64::from(self.sector_len_bytes)
    }

    fn read_sector(&mut self, lba: u64, sector: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(sector, lba.saturating_mul(u64::from(self.sector_len_bytes)))
    }
}

fn find(mut disk: Sectors<'_>, wanted: Wanted<'_>) -> Result<Partition, Error<io::Error>> {
    let mut sector = vec![0; disk.sector_len_bytes as usize];
    let table = Table::open(&mut disk, &mut sector)?;
    table.find(&mut disk, &mut sector, wanted)
}

/// A part of a file, for a server of bytes.
pub(crate) struct Served<'f> {
    pub(crate) file: &'f FileDevice<'static>,
    pub(crate) part: Part,
}

impl Served<'_> {
    fn outward(&self, addr: u64, count: usize) -> Result<u64, DeviceError> {
        self.part.outward(addr, count).ok_or(DeviceError::Io)
    }
}

impl ReadAt for Served<'_> {
    fn len_bytes(&self) -> u64 {
        self.part.len_bytes
    }

    fn read_at(&self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.file.read_at(self.outward(addr, bytes.len())?, bytes)
    }
}

impl Backing for Served<'_> {
    fn read_only(&self) -> bool {
        self.file.is_read_only()
    }

    fn write_at(&self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.file.write_at(self.outward(addr, bytes.len())?, bytes)
    }

    fn sync(&self) -> Result<(), DeviceError> {
        self.file.sync()
    }
}
