//! Finding virtio devices whose registers lie in memory: what QEMU's `microvm` machine has in place of PCI.
//!
//! Such devices cannot be probed for. The machine names those that it has on the kernel's command line, one word each,
//! in the form that Linux has introduced: `virtio_mmio.device=SIZE@ADDRESS:INTERRUPT[:ID]`, sizes with an optional `K`
//! or `M`, addresses in hexadecimal with `0x`. Interrupts are of no interest here: the kernel polls.
//!
//! The words come from whoever starts the machine, so they are not trusted further than need be: registers must lie
//! where this kernel never uses RAM, and no two words may name the same ones.

use alloc::vec::Vec;
use core::ops::Range;
use core::ptr::NonNull;

use virtio_drivers::transport::mmio::{MmioError, MmioTransport, MmioVersion, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, DeviceTypeError, Transport};

use crate::blk::{FoundDisk, Place};
use crate::cmdline::CmdLine;
use crate::{paging, println};

/// The key of the words that name devices.
pub const WORD: &str = "virtio_mmio.device";
/// Where registers may be: no machine type has RAM here, and `memory` hands none of it out.
const WINDOW: Range<u64> = 0xC000_0000..1 << 32;
/// Bytes of the registers, without the device's own configuration behind them.
const HEADER_BYTES: u64 = 0x100;
const MAX_BYTES: u64 = 1 << 20;

/// Finds all virtio block devices that the command line names, in its order. What cannot be used is reported on the
/// console and left out.
pub fn find_disks(cmdline: &CmdLine) -> Vec<FoundDisk> {
    let mut taken: Vec<Range<u64>> = Vec::new();
    let mut disks = Vec::new();
    for (_, value) in cmdline.words().filter(|(key, _)| *key == WORD) {
        let text = value.unwrap_or_default();
        let found = parse(text).and_then(|range| {
            if taken.iter().any(|other| range.start < other.end && other.start < range.end) {
                return Err("its registers overlap with those of another device");
            }
            taken.push(range.clone());
            open(range)
        });
        match found {
            Ok(Some(disk)) => disks.push(disk),
            Ok(None) => {}
            Err(reason) => println!("mmio: {WORD}={text}: not usable: {reason}"),
        }
    }
    disks
}

/// The range that a word names, if it can be one of registers.
fn parse(text: &str) -> Result<Range<u64>, &'static str> {
    const SYNTAX: &str = "it is not SIZE@ADDRESS:INTERRUPT";
    let (size, rest) = text.split_once('@').ok_or(SYNTAX)?;
    let (addr, _interrupt) = rest.split_once(':').ok_or(SYNTAX)?;
    let (size, unit) = match (size.strip_suffix(['K', 'k']), size.strip_suffix(['M', 'm'])) {
        (Some(size), _) => (size, 1 << 10),
        (_, Some(size)) => (size, 1 << 20),
        (None, None) => (size, 1),
    };
    let len = number(size).and_then(|size| size.checked_mul(unit)).ok_or(SYNTAX)?;
    let start = number(addr).ok_or(SYNTAX)?;
    if !(HEADER_BYTES..=MAX_BYTES).contains(&len) || !start.is_multiple_of(4) {
        return Err("its size or its alignment makes no sense");
    }
    match start.checked_add(len) {
        Some(end) if start >= WINDOW.start && end <= WINDOW.end => Ok(start..end),
        _ => Err("its registers do not lie in the fourth GiB"),
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The block device with these registers; `None` if there is no device, or one of another kind.
fn open(range: Range<u64>) -> Result<Option<FoundDisk>, &'static str> {
    let (addr, len) = (range.start, range.end - range.start);
    paging::map_device(range).map_err(|_| "its registers cannot be mapped")?;
    let header = NonNull::new(addr as *mut VirtIOHeader).ok_or("its registers cannot be mapped")?;
    // SAFETY: the range is mapped uncached for good, is aligned, holds header and configuration, and is not RAM, so
    // that no object of the kernel lies there; `find_disks`, which runs once, makes no second transport for it. Where
    // no device answers, reads return nonsense, which is checked.
    let transport = unsafe { MmioTransport::new(header, len as usize) };
    let transport = match transport {
        Ok(transport) => transport,
        Err(MmioError::InvalidDeviceID(DeviceTypeError::InvalidDeviceType(_))) => return Ok(None),
        Err(MmioError::BadMagic(_)) => return Err("no virtio device is there"),
        Err(_) => return Err("a version of virtio that is not known"),
    };
    if transport.version() == MmioVersion::Legacy {
        return Err("older than virtio 1.0 (QEMU: -global virtio-mmio.force-legacy=false)");
    }
    let is_disk = transport.device_type() == DeviceType::Block;
    Ok(is_disk.then(|| FoundDisk { place: Place::Mmio(addr), transport: transport.into() }))
}
