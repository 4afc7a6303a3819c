//! The raw side: what this program gets out of a file without a store, with the request size and the number of threads
//! that turn out best.
//!
//! It moves the same bytes: a writer makes each block's content in the buffer that the device then takes, once for
//! every block of the file, as the store's callers do (and as `dd` does, which reads its input into its buffer). A
//! raw side that sent the same buffer over and over would write one request's bytes many times, not the bytes of
//! the file. How many buffers it has, and so how hot they are, is its own affair: as many as it has requests under
//! way. What the filling costs it is a line of the table of its own.
#![forbid(unsafe_code)]

use crate::measure::{median, seconds};
use crate::raw_ring;
use anyhow::{bail, Context, Result};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// Request sizes of sequential transfers that are tried.
const REQUEST_LEN_BYTES: [usize; 3] = [256 << 10, 1 << 20, 4 << 20];
/// Numbers of requests at once that are tried.
const DEPTHS: [usize; 4] = [1, 2, 4, 8];
/// Ways that did best and are tried again with more bytes.
const FINALISTS: usize = 3;
/// Transfers of a direct file begin at multiples of this.
const ALIGN: usize = 4096;

/// How the raw side transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Bytes of one request.
    pub request_len_bytes: usize,
    /// Requests at once.
    pub depth: usize,
    /// By a thread each, or by one thread over io_uring.
    pub ring: bool,
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = if self.ring { "io_uring" } else { "threads" };
        write!(f, "{} KiB x {} {how}", self.request_len_bytes >> 10, self.depth)
    }
}

/// A buffer whose bytes begin at a multiple of [`ALIGN`].
pub struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// One that the system has given its pages.
    pub fn new(len: usize) -> Self {
        let bytes = vec![0x5a; len + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { bytes, start, len }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    /// All of it.
    pub fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// Opens a file, past the page cache if `direct`.
///
/// # Errors
/// Those of the system; some file systems have no direct transfers.
pub fn open(path: &Path, direct: bool) -> Result<File> {
    let mut how = OpenOptions::new();
    how.read(true).write(true);
    if direct {
        how.custom_flags(i32::try_from(rustix::fs::OFlags::DIRECT.bits())?);
    }
    how.open(path).with_context(|| format!("{} cannot be opened (direct: {direct})", path.display()))
}

/// Writes a file of `len_bytes` whole, so that no later write has to find space for it.
///
/// # Errors
/// Those of the system.
pub fn lay_out(path: &Path, len_bytes: u64) -> Result<()> {
    let file = File::create(path)?;
    let part = vec![0x5a; 4 << 20];
    let mut at = 0;
    while at < len_bytes {
        let len = part.len().min((len_bytes - at) as usize);
        file.write_all_at(&part[..len], at)?;
        at += len as u64;
    }
    file.sync_all()?;
    Ok(())
}

/// Runs `transfer` over the requests of `len_bytes`, on so many threads.
fn spread(len_bytes: u64, way: Way, transfer: impl Fn(&mut Aligned, u64) -> std::io::Result<()> + Sync) -> Result<()> {
    let next = AtomicU64::new(0);
    let step = way.request_len_bytes as u64;
    let work = || -> Result<()> {
        let mut buffer = Aligned::new(way.request_len_bytes);
        loop {
            let at = next.fetch_add(step, Ordering::Relaxed);
            if at + step > len_bytes {
                return Ok(());
            }
            transfer(&mut buffer, at)?;
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..way.depth).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread of the raw side has failed"),
        })
    })
}

/// Makes the content of a request, block by block; `None` leaves the buffer as it is.
pub fn fill(buffer: &mut [u8], content: Option<&[u8]>) {
    let Some(content) = content else { return };
    for block in buffer.chunks_exact_mut(content.len()) {
        block.copy_from_slice(content);
    }
}

/// Bytes a second of writing the first `len_bytes` of a file, each block with this content, and making them durable.
///
/// # Errors
/// Those of the system.
pub fn write(file: &File, len_bytes: u64, way: Way, content: Option<&[u8]>) -> Result<f64> {
    let time = seconds(|| {
        if way.ring {
            let step = way.request_len_bytes;
            let transfer = raw_ring::Transfer::Write(content);
            raw_ring::transfer(file, (0..len_bytes).step_by(step), step, way.depth, transfer)?;
        } else {
            spread(len_bytes, way, |buffer, at| {
                fill(buffer.get_mut(), content);
                file.write_all_at(buffer.get(), at)
            })?;
        }
        file.sync_data()?;
        Ok(())
    })?;
    Ok(len_bytes as f64 / time)
}

/// Bytes a second of reading the requests at these addresses, each of which is shown to `see`.
///
/// # Errors
/// Those of the system.
pub fn read(file: &File, addrs: &[u64], way: Way, see: fn(&[u8])) -> Result<f64> {
    let len_bytes = addrs.len() as u64 * way.request_len_bytes as u64;
    let time = seconds(|| {
        if way.ring {
            let transfer = raw_ring::Transfer::Read(see);
            return raw_ring::transfer(file, addrs.iter().copied(), way.request_len_bytes, way.depth, transfer);
        }
        spread(len_bytes, way, |buffer, at| {
            let addr = addrs.get((at / way.request_len_bytes as u64) as usize).copied().unwrap_or_default();
            file.read_exact_at(buffer.get_mut(), addr)?;
            see(buffer.get());
            Ok(())
        })
    })?;
    Ok(len_bytes as f64 / time)
}

/// The best way to write this file: all are tried with a quarter of the bytes, and the first few once more with all.
///
/// # Errors
/// Those of the system.
pub fn best_write(file: &File, len_bytes: u64, content: &[u8]) -> Result<Way> {
    let ways = REQUEST_LEN_BYTES.iter().flat_map(|len| DEPTHS.iter().map(move |depth| (*len, *depth)));
    let ways = ways.flat_map(|(request_len_bytes, depth)| {
        [false, true]
            .map(|ring| Way { request_len_bytes, depth, ring })
            .into_iter()
            .filter(|way| !way.ring || has_ring())
    });
    let finalists = ranked(ways, |way| write(file, len_bytes / 4, way, Some(content)))?;
    best(finalists.into_iter().take(FINALISTS), |way| write(file, len_bytes, way, Some(content)))
}

/// Whether the kernel has io_uring.
pub fn has_ring() -> bool {
    io_uring::IoUring::new(1).is_ok()
}

/// The best of these ways.
///
/// # Errors
/// Those of the tries.
pub fn best(ways: impl Iterator<Item = Way>, rate: impl FnMut(Way) -> Result<f64>) -> Result<Way> {
    ranked(ways, rate)?.into_iter().next().context("no way to try")
}

/// These ways, the best first. Each is tried three times, all of them in turn, and has the middle of its rates.
fn ranked(ways: impl Iterator<Item = Way>, mut rate: impl FnMut(Way) -> Result<f64>) -> Result<Vec<Way>> {
    let mut tried: Vec<(Way, Vec<f64>)> = ways.map(|way| (way, Vec::new())).collect();
    for _ in 0..3 {
        for (way, rates) in &mut tried {
            rates.push(rate(*way)?);
        }
    }
    tried.sort_by(|(_, left), (_, right)| median(right).total_cmp(&median(left)));
    Ok(tried.into_iter().map(|(way, _)| way).collect())
}

/// Bytes a second of `dd` with the same bytes, or an error if there is no `dd`.
///
/// # Errors
/// Those of the program.
pub fn dd_write(path: &Path, len_bytes: u64) -> Result<f64> {
    let (block, flags) = (1 << 20, "conv=notrunc,fdatasync");
    let time = seconds(|| {
        let status = Command::new("dd")
            .arg("if=/dev/zero")
            .arg(format!("of={}", path.display()))
            .args([format!("bs={block}"), format!("count={}", len_bytes / block), "oflag=direct".into(), flags.into()])
            .stderr(Stdio::null())
            .status()?;
        if !status.success() {
            bail!("dd has failed: {status}");
        }
        Ok(())
    })?;
    Ok(len_bytes as f64 / time)
}
