#![forbid(unsafe_code)]
//! The words `driver=`, `partition=` and `timeout_us=`: the store's disk, by which driver and how much of it.
//!
//! ```text
//!   StoreDisk            counts what goes through
//!     `- Window          with `partition=N` (a number) or `partition=first`: that partition only
//!          `- QueueDisk  the driver in `blk`, many requests at once
//!           | SimpleDisk with `driver=simple`: the driver of `virtio-drivers`
//! ```

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

use arenite_core::{Completion, Device, DeviceGeometry, FlushTag, Request, RequestKind};
use arenite_partition::{ReadSectors, Source, Table, Wanted, Window};

use crate::blk::{DiskInfo, ReadyDisk};
use crate::cmdline::CmdLine;
use crate::device::{Looker, QueueDisk};
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::println;
use crate::simple_disk::SimpleDisk;

/// Bytes of the largest sector.
const MAX_SECTOR_BYTES: usize = 4096;

/// What went over the wire, completed requests only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Flushes.
    pub flushes: u64,
}

/// The disk that holds the store.
pub struct StoreDisk {
    device: &'static dyn Device<'static>,
    info: DiskInfo,
    read_bytes: AtomicU64,
    write_bytes: AtomicU64,
    flushes: AtomicU64,
}

impl StoreDisk {
    /// Makes the store's device of a disk, as the command line wants it. It lives for ever.
    ///
    /// # Errors
    /// A word makes no sense, the driver cannot use the disk, or there is no such partition.
    pub fn open(disk: ReadyDisk, cmdline: &CmdLine) -> Result<&'static Self, Failure> {
        let bad = |what| Failure::new(Outcome::BadOption, format_args!("{what}"));
        let wanted = match (cmdline.has("partition"), cmdline.get("partition")) {
            (false, _) => None,
            (true, Some("first")) => Some(Wanted::First),
            (true, text) => match text.and_then(|text| text.parse().ok()) {
                Some(number) => Some(Wanted::Number(number)),
                None => return Err(bad("partition= is a number or first")),
            },
        };
        let timeout_us = cmdline.get_number("timeout_us").map_err(|_| bad("timeout_us= is a number"))?;
        let info = disk.info().clone();
        let device: &'static dyn Device<'static> = match (cmdline.has("driver"), cmdline.get("driver")) {
            (false, _) | (true, Some("queue")) => {
                let disk = disk.claim();
                if let Some(timeout_us) = timeout_us {
                    disk.set_timeout_us(timeout_us);
                }
                let disk: &'static QueueDisk = Box::leak(Box::new(QueueDisk::new(disk)));
                let looker = || Looker::new(disk);
                on_partition(disk, wanted, looker)?
            }
            (true, Some("simple")) => {
                let disk: &'static SimpleDisk = Box::leak(Box::new(SimpleDisk::open(disk, timeout_us)?));
                println!("disk {}: driven by VirtIOBlk", info.place);
                on_partition(disk, wanted, || Some(disk))?
            }
            _ => return Err(bad("driver= is queue or simple")),
        };
        let [read_bytes, write_bytes, flushes] = [const { AtomicU64::new(0) }; 3];
        Ok(Box::leak(Box::new(Self { device, info, read_bytes, write_bytes, flushes })))
    }

    /// What the disk is like.
    pub fn info(&self) -> &DiskInfo {
        &self.info
    }

    /// What was transferred so far.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            write_bytes: self.write_bytes.load(Ordering::Relaxed),
            flushes: self.flushes.load(Ordering::Relaxed),
        }
    }

    fn count(&self, completion: &Completion<'static>) {
        let (counter, amount) = match completion {
            Completion::Flush(_, Ok(())) => (&self.flushes, 1),
            Completion::Transfer(request, Ok(())) => match request.kind() {
                RequestKind::Read => (&self.read_bytes, request.len_bytes()),
                _ => (&self.write_bytes, request.len_bytes()),
            },
            _ => return,
        };
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

impl Device<'static> for StoreDisk {
    fn geometry(&self) -> DeviceGeometry {
        self.device.geometry()
    }

    fn submit(&self, request: Request<'static>) -> Result<(), Request<'static>> {
        self.device.submit(request)
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.device.flush(tag)
    }

    fn poll(&self) -> Option<Completion<'static>> {
        let completion = self.device.poll()?;
        self.count(&completion);
        Some(completion)
    }
}

/// The wanted partition of a device, or the device itself.
fn on_partition<R: ReadSectors<Error: core::fmt::Display>>(
    device: &'static dyn Device<'static>,
    wanted: Option<Wanted<'_>>,
    looker: impl FnOnce() -> Option<R>,
) -> Result<&'static dyn Device<'static>, Failure> {
    let Some(wanted) = wanted else { return Ok(device) };
    let no_disk = |why: &dyn core::fmt::Display| Failure::new(Outcome::NoDisk, format_args!("{why}"));
    let Some(mut disk) = looker() else {
        return Err(Failure::new(Outcome::Limit, format_args!("no memory for a sector")));
    };
    let mut buffer = [0; MAX_SECTOR_BYTES];
    let Some(sector) = buffer.get_mut(..disk.sector_len_bytes() as usize) else {
        return Err(no_disk(&"partition table: sectors of this size are not understood"));
    };
    let table = Table::open(&mut disk, sector).map_err(|error| no_disk(&error))?;
    for (copy, state) in [("first", table.primary()), ("second", table.backup())] {
        if let Err(flaw) = state {
            println!("partition table: the {copy} copy is bad: {flaw}");
        }
    }
    if table.primary().is_ok() && table.backup().is_ok() && !table.copies_agree() {
        println!("partition table: the two copies differ; the first one is used");
    }
    let partition = table.find(&mut disk, sector, wanted).map_err(|error| no_disk(&error))?;
    let window = Window::of_partition(device, &partition).map_err(|error| no_disk(&error))?;
    println!(
        "partition {} \"{}\": {} bytes from byte {} on, from the {} copy of the table",
        partition.number,
        partition.name,
        partition.len_bytes(),
        partition.start_bytes(),
        if table.source() == Source::Primary { "first" } else { "second" }
    );
    Ok(Box::leak(Box::new(window)))
}
