//! Mounts an image read-only, and collects what is to be shown.
//!
//! # Volumes in use
//! Whoever insists may look at an image that somebody writes to. A commit that goes by while its headers and logs
//! are read can make them look damaged; if the superblocks have changed meanwhile, everything is read again.

use crate::image::{Image, ImageDevice};
use crate::memory::{with_memory, Job};
use crate::place::Place;
use arenite_core::hash::hash64;
use arenite_core::{ArenaInfo, CopyState, Damage, Error, MountOptions, NoInterrupts, Resources, Roots, Store};
use std::fmt;
use std::io;

/// Bytes that the shortest image has: less is not even looked at.
const SHORTEST_LEN_BYTES: u64 = 8192;
/// Two headers of the largest blocks. What lies nearer to the end of an image than that may be cut off.
const HEADERS_LEN_BYTES: u64 = 2 * 65536;
/// Readings of a volume that changes all the time.
const ATTEMPTS: u32 = 8;

/// What is known of a volume. Sizes in bytes.
pub(crate) struct Volume {
    pub(crate) len_bytes: u64,
    pub(crate) block_size: u64,
    pub(crate) qgen: u64,
    pub(crate) roots: Roots,
    pub(crate) superblocks: [CopyState; 2],
    pub(crate) arenas: Vec<ArenaInfo>,
    /// Whether Arenite wrote the last commit, and so the logs are known to be whole.
    pub(crate) sealed: bool,
}

impl Volume {
    pub(crate) fn free_bytes(&self) -> u64 {
        self.arenas.iter().map(|arena| arena.free_bytes).sum()
    }

    pub(crate) fn arena_bytes(&self) -> u64 {
        self.arenas.iter().map(|arena| arena.size_bytes).sum()
    }
}

/// Why an image cannot be read as a volume.
#[derive(Debug)]
pub(crate) enum ReadError {
    Open(io::Error),
    Empty,
    Short { len_bytes: u64 },
    Mount { error: Error, len_bytes: u64 },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => error.fmt(f),
            Self::Empty => f.write_str("not a volume (the image is empty)"),
            Self::Short { len_bytes } => write!(f, "not a volume (the image has only {len_bytes} bytes)"),
            // What is not there cannot be blamed on the device.
            Self::Mount { error: Error::Device { addr, .. }, len_bytes } if addr >= len_bytes => {
                write!(f, "read at {addr:#x} failed: the image ends at {len_bytes:#x}")
            }
            Self::Mount { error, len_bytes } => {
                error.fmt(f)?;
                match *error {
                    Error::Corrupt { addr, .. } | Error::Device { addr, .. }
                        if addr.saturating_add(HEADERS_LEN_BYTES) > *len_bytes =>
                    {
                        write!(f, " (the image ends at {len_bytes:#x})")
                    }
                    Error::Corrupt { damage: Damage::ArenaExtent, .. } => {
                        write!(f, " (the image ends at {len_bytes:#x})")
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

/// Reads the volume at a place that the caller has locked, or wants to see nevertheless.
pub(crate) fn read(place: &Place) -> Result<Volume, ReadError> {
    read_image(&Image::open(place).map_err(ReadError::Open)?)
}

/// Reads the volume in an image.
pub(crate) fn read_image(image: &Image) -> Result<Volume, ReadError> {
    steadily(image, || mount(image))
}

/// Reads something of a volume that may change meanwhile.
pub(crate) fn steadily<T>(image: &Image, read: impl Fn() -> Result<T, Error>) -> Result<T, ReadError> {
    let len_bytes = image.len_bytes();
    long_enough(image)?;
    let mut attempts = ATTEMPTS;
    loop {
        let before = front_hash(image);
        let outcome = read();
        attempts -= 1;
        match outcome {
            Err(Error::Corrupt { .. }) if attempts > 0 && front_hash(image) != before => {}
            Err(error) => return Err(ReadError::Mount { error, len_bytes }),
            Ok(value) => return Ok(value),
        }
    }
}

/// Fails for an image that is too short to be looked at.
pub(crate) fn long_enough(image: &Image) -> Result<(), ReadError> {
    match image.len_bytes() {
        0 => Err(ReadError::Empty),
        len_bytes @ 1..SHORTEST_LEN_BYTES => Err(ReadError::Short { len_bytes }),
        _ => Ok(()),
    }
}

/// Tells the first superblock of one commit from that of another.
fn front_hash(image: &Image) -> Option<u64> {
    let mut front = [0; 4096];
    image.read(&mut front, 0).ok().map(|()| hash64(&front))
}

struct Reading<'i> {
    image: &'i Image,
}

impl Job for Reading<'_> {
    type Output = Volume;
    type Error = Error;

    fn run(&mut self, memory: Resources<'_>) -> Result<Self::Output, Self::Error> {
        let device = ImageDevice::new(self.image);
        // A superblock that points to a free block is no reason not to show what it says.
        let options = MountOptions { read_only: true, damaged: true, ..MountOptions::default() };
        let store = Store::mount(memory, &device, &NoInterrupts, options).map_err(|failed| failed.error)?;
        let report = store.report();
        if let Some(error) = report.damage.filter(|_| report.damaged_arenas != 0) {
            return Err(error);
        }
        Ok(Volume {
            len_bytes: self.image.len_bytes(),
            block_size: store.block_size().len_u64(),
            qgen: store.generation(),
            roots: store.roots(),
            superblocks: report.superblocks,
            arenas: (0..report.arenas as usize).map_while(|index| store.arena(index)).collect(),
            sealed: report.sealed,
        })
    }
}

fn mount(image: &Image) -> Result<Volume, Error> {
    // As if blocks had 16 KiB; smaller ones are found to be more.
    with_memory(image.len_bytes() / 16384, &mut Reading { image })
}
