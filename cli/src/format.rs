//! `arenite format`: makes a new volume.
//!
//! Nothing that anybody could miss is overwritten or cut off unless forced. The store itself looks at both ends of a
//! device; of a regular file every byte is looked at, which is quick, because holes need not be read.

use crate::failure::{Failure, EXIT_FAILURE, EXIT_INTERRUPTED};
use crate::interrupt::Interrupt;
use crate::memory::{with_memory, Job};
use crate::open::{self, Kind, Locked};
use crate::place::{Part, Place};
use crate::progress::{Progress, Unit};
use crate::size::binary;
use arenite_core::format::{max_arenas, BlockSize};
use arenite_core::{Device, Error, FormatOptions, Resources, Store};
use arenite_shim::HostPlatform;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Volumes that are shorter have smaller blocks, if nothing else is said.
const SMALL_LEN_BYTES: u64 = 4 << 20;
const SMALL_BLOCK: u32 = 4096;
/// Arenas of the original: one for each 4 TiB, but at least 8 and at most 32.
const ARENA_LEN_BYTES: u64 = 4 << 40;
const ARENAS: std::ops::RangeInclusive<u64> = 8..=32;
/// Arenas that nobody asked for have at least so many blocks.
const LEAST_BLOCKS: u64 = 64;

/// What the user asks for.
pub(crate) struct Request {
    pub(crate) size_bytes: Option<u64>,
    pub(crate) block_size: Option<BlockSize>,
    pub(crate) arenas: Option<u32>,
    pub(crate) force: bool,
    pub(crate) quiet: bool,
}

/// Formats; returns a line for the user.
pub(crate) fn run(place: &Place, request: &Request) -> Result<String, Failure> {
    // "Cannot be read as a volume" is no outcome of this command.
    prepare_and_write(place, request).map_err(|failure| match failure.code {
        EXIT_INTERRUPTED => failure,
        _ => Failure { code: EXIT_FAILURE, ..failure },
    })
}

fn prepare_and_write(place: &Place, request: &Request) -> Result<String, Failure> {
    let path = place.path();
    // Looked at until the first byte is written; the rest takes no time, and is finished.
    let interrupt = Interrupt::new()?;
    match (open::kind(path)?, request.size_bytes) {
        (Kind::Missing, None) if place.is_partition() => Err(Failure::new("no such file")),
        (Kind::Missing, None) => Err(Failure::new("no such file; --size creates it")),
        (Kind::Missing, Some(len_bytes)) => {
            plan(len_bytes, request)?;
            let file = Locked::create(path)?;
            let made = file.resize(len_bytes).and_then(|()| write(&file, len_bytes, request));
            made.inspect_err(|_| {
                // It did not exist before. If it cannot be removed, the failure that is reported is the other one.
                let _ = std::fs::remove_file(path);
            })
        }
        (Kind::File { len_bytes: 0 }, None) if !place.is_partition() => {
            Err(Failure::new("the file is empty; --size says how long it is to be"))
        }
        (Kind::File { .. }, size_bytes) => {
            let file = Locked::open(place)?;
            let old = file.len_bytes()?;
            let len_bytes = size_bytes.unwrap_or(old);
            plan(len_bytes, request)?;
            fit_file(&file, len_bytes, request, &interrupt)?;
            write(&file, len_bytes, request).inspect_err(|failure| {
                if failure.nothing_written && old != len_bytes {
                    let _ = file.resize(old);
                }
            })
        }
        (Kind::BlockDevice, Some(_)) => Err(Failure::new("a block device has the size it has; leave out --size")),
        (Kind::BlockDevice, None) => {
            let device = Locked::open(place)?;
            let len_bytes = device.len_bytes()?;
            plan(len_bytes, request)?;
            write(&device, len_bytes, request)
        }
    }
}

/// Looks for content, and gives the file its length.
fn fit_file(file: &Locked, len_bytes: u64, request: &Request, interrupt: &Interrupt) -> Result<(), Failure> {
    if !request.force {
        let progress = Progress::new(request.quiet, Unit::Bytes, file.len_bytes()?);
        if let Some(addr) = first_content(file.file(), file.part()?, interrupt, &progress)? {
            return Err(not_blank(addr));
        }
    }
    if file.len_bytes()? != len_bytes {
        file.resize(len_bytes)?;
    }
    Ok(())
}

fn not_blank(addr: u64) -> Failure {
    Failure::new(format!("not blank: it holds something at {addr:#x}; --force overwrites it"))
}

/// Address in the part of its first byte that is not zero.
fn first_content(file: &File, part: Part, interrupt: &Interrupt, progress: &Progress) -> Result<Option<u64>, Failure> {
    let io = |error: std::io::Error| Failure::io(&error);
    let end = part.start_bytes + part.len_bytes;
    let mut bytes = vec![0; 1 << 20];
    let mut at = part.start_bytes;
    while let Some(addr) = next_data(file, at).map_err(io)? {
        interrupt.check()?;
        progress.advance(addr.min(end) - at);
        if addr >= end {
            break;
        }
        let count = usize::try_from(end - addr).unwrap_or(usize::MAX).min(bytes.len());
        file.read_exact_at(&mut bytes[..count], addr).map_err(io)?;
        if let Some(index) = bytes[..count].iter().position(|byte| *byte != 0) {
            return Ok(Some(addr + index as u64 - part.start_bytes));
        }
        progress.advance(count as u64);
        at = addr + count as u64;
    }
    Ok(None)
}

/// Byte address at or behind `at` from which there may be something; `None` if there is only a hole.
#[cfg(target_os = "linux")]
fn next_data(file: &File, at: u64) -> std::io::Result<Option<u64>> {
    use rustix::io::Errno;
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
        Ok(addr) => Ok(Some(addr)),
        Err(Errno::NXIO) => Ok(None),
        // Not every file system knows about holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(at)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn next_data(_file: &File, at: u64) -> std::io::Result<Option<u64>> {
    Ok(Some(at))
}

/// What is made of the request for a device of this length.
fn plan(len_bytes: u64, request: &Request) -> Result<FormatOptions, Failure> {
    let default = if len_bytes < SMALL_LEN_BYTES { BlockSize::new(SMALL_BLOCK) } else { None };
    let block_size = request.block_size.or(default).unwrap_or(BlockSize::ORIGINAL);
    let blocks = len_bytes >> block_size.shift();
    if blocks > u64::from(u32::MAX) {
        return Err(Failure::new(format!(
            "{} are more than 2^32 blocks of {} bytes; take a larger --block-size",
            binary(len_bytes),
            block_size.len_bytes()
        )));
    }
    let least = if block_size == BlockSize::ORIGINAL { 2 } else { 1 };
    let most = max_arenas(block_size);
    let arenas = request.arenas.unwrap_or_else(|| default_arenas(len_bytes, blocks, least));
    if arenas < least || arenas > most {
        return Err(Failure::new(format!(
            "a volume with blocks of {} bytes has {least} to {most} arenas, not {arenas}",
            block_size.len_bytes()
        )));
    }
    Ok(FormatOptions { block_size, arenas, force: request.force })
}

/// As many arenas as the original makes, or fewer if those were tiny.
fn default_arenas(len_bytes: u64, blocks: u64, least: u32) -> u32 {
    let mut arenas = len_bytes.div_ceil(ARENA_LEN_BYTES).clamp(*ARENAS.start(), *ARENAS.end()) as u32;
    while arenas > least && blocks / u64::from(arenas) < LEAST_BLOCKS {
        arenas /= 2;
    }
    arenas
}

struct Formatting<'a> {
    file: &'a Locked,
    options: FormatOptions,
}

impl Job for Formatting<'_> {
    type Output = String;
    type Error = Failure;

    fn run(&mut self, memory: Resources<'_>) -> Result<Self::Output, Self::Error> {
        let len_bytes = self.file.len_bytes()?;
        let file = self.file.device()?;
        let window = self.file.window(&file)?;
        let device: &dyn Device<'_> = window.as_ref().map_or(&file, |window| window);
        let store = Store::format(memory, device, &HostPlatform, self.options).map_err(|failed| {
            let nothing_written = failed.memory.is_some();
            Failure { nothing_written, ..refusal(failed.error, device, len_bytes) }
        })?;
        let (space, size) = (store.space(), store.block_size());
        let line = format!(
            "formatted: {}, {} arenas, {} blocks of {} bytes, {} bytes free",
            binary(device.geometry().len_bytes),
            self.options.arenas,
            space.total_blocks,
            size.len_bytes(),
            space.free_blocks << size.shift()
        );
        store.unmount().map_err(Failure::store)?;
        Ok(line)
    }
}

/// Why the store does not format, in the terms of the command line.
fn refusal(error: Error, device: &dyn Device<'_>, len_bytes: u64) -> Failure {
    let sector = u64::from(device.geometry().physical_sector_len_bytes);
    match error {
        Error::NotBlank { addr } => not_blank(addr),
        Error::Geometry { need_bytes, have_bytes } if need_bytes == sector && have_bytes < sector => {
            Failure::new(format!("the device has sectors of {sector} bytes; take a --block-size that is not smaller"))
        }
        Error::Geometry { need_bytes, .. } => Failure::new(format!(
            "too small: {need_bytes} bytes are needed for such arenas and blocks, {len_bytes} are there"
        )),
        other => Failure::store(other),
    }
}

fn write(file: &Locked, len_bytes: u64, request: &Request) -> Result<String, Failure> {
    let options = plan(len_bytes, request)?;
    let blocks = len_bytes >> options.block_size.shift();
    with_memory(blocks, &mut Formatting { file, options })
}
