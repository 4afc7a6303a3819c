//! Finding devices on the PCI buses.
//!
//! Configuration space is reached through ports 0xCF8 and 0xCFC, which work on every PC and need no address from
//! firmware. The firmware that QEMU runs before the kernel has normally numbered the buses and placed the devices'
//! memory windows (BARs); [`place_bars`] places those of a disk that it has not.

use alloc::vec::Vec;

use spin::Mutex;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, HeaderType, MemoryBarType, PciRoot,
};
use virtio_drivers::transport::pci::{virtio_device_type, PciTransport};
use virtio_drivers::transport::DeviceType;

use crate::blk::{FoundDisk, Place};
use crate::dma::KernelHal;
use crate::{paging, port, println};

/// Where windows go that firmware has not placed: device memory on q35 and i440fx, clear of what firmware, which
/// starts at the bottom of the hole, and the fixed devices at its top use.
const WINDOW_START: u64 = 0xF000_0000;
const WINDOW_END: u64 = 0xFE00_0000;
const BUS_NUMBERS: u8 = 0x18;

/// The two ports are one register pair. A leaf lock.
static PORTS: Mutex<()> = Mutex::new(());

/// Access to configuration space through the ports.
pub struct PortAccess;

fn select(device_function: DeviceFunction, register: u8) {
    let DeviceFunction { bus, device, function } = device_function;
    let address = u32::from(bus) << 16 | u32::from(device) << 11 | u32::from(function) << 8;
    port::PCI_ADDRESS.write(1 << 31 | address | u32::from(register & 0xFC));
}

impl ConfigurationAccess for PortAccess {
    fn read_word(&self, device_function: DeviceFunction, register_offset: u8) -> u32 {
        let _ports = PORTS.lock();
        select(device_function, register_offset);
        port::PCI_DATA.read()
    }

    fn write_word(&mut self, device_function: DeviceFunction, register_offset: u8, data: u32) {
        let _ports = PORTS.lock();
        select(device_function, register_offset);
        port::PCI_DATA.write(data);
    }

    // Every access takes the lock, so a second handle is harmless, whatever it is used for.
    unsafe fn unsafe_clone(&self) -> Self {
        Self
    }
}

/// Finds all virtio block devices, bus by bus in the order of their device numbers, which is the order of QEMU's
/// command line. A device that cannot be used is reported on the console and left out.
pub fn find_disks() -> Vec<FoundDisk> {
    let mut root = PciRoot::new(PortAccess);
    let mut window = WINDOW_START;
    let mut disks = Vec::new();
    for place in find_functions(&root) {
        match set_up(&mut root, place, &mut window) {
            Ok(transport) => disks.push(FoundDisk { place: Place::Pci(place), transport: transport.into() }),
            Err(reason) => println!("pci: disk at {place} is not usable: {reason}"),
        }
    }
    disks
}

/// The places of all virtio block devices, on bus 0 and behind bridges.
fn find_functions(root: &PciRoot<PortAccess>) -> Vec<DeviceFunction> {
    let mut found = Vec::new();
    let mut buses = alloc::vec![0u8];
    let mut next = 0;
    while let Some(&bus) = buses.get(next) {
        next += 1;
        for (place, info) in root.enumerate_bus(bus) {
            if info.header_type == HeaderType::PciPciBridge {
                let behind = (PortAccess.read_word(place, BUS_NUMBERS) >> 8) as u8;
                // Firmware numbers upwards from 0; anything else is a bridge that it has not set up, or a loop.
                if behind != 0 && !buses.contains(&behind) {
                    buses.push(behind);
                }
            } else if virtio_device_type(&info) == Some(DeviceType::Block) {
                found.push(place);
            }
        }
    }
    found
}

fn set_up(
    root: &mut PciRoot<PortAccess>,
    place: DeviceFunction,
    window: &mut u64,
) -> Result<PciTransport, &'static str> {
    place_bars(root, place, window)?;
    let (_, command) = root.get_status_command(place);
    let wanted = Command::MEMORY_SPACE | Command::BUS_MASTER | Command::INTERRUPT_DISABLE;
    root.set_command(place, command | wanted);
    PciTransport::new::<KernelHal, _>(root, place).map_err(|error| {
        println!("pci: {place}: {error}");
        "not a virtio 1.0 device"
    })
}

/// Gives an address to each memory window of a device that has none, and makes sure that all of them can be mapped.
fn place_bars(root: &mut PciRoot<PortAccess>, place: DeviceFunction, window: &mut u64) -> Result<(), &'static str> {
    let bars = root.bars(place).map_err(|_| "a window of unknown type")?;
    for (index, bar) in (0u8..).zip(bars) {
        let Some(BarInfo::Memory { address_type, address, size, .. }) = bar else { continue };
        if size == 0 {
            continue;
        }
        let mut start = address;
        if start == 0 {
            start = window.next_multiple_of(size);
            *window = start.checked_add(size).filter(|&end| end <= WINDOW_END).ok_or("no room for its windows")?;
            match address_type {
                MemoryBarType::Width64 => root.set_bar_64(place, index, start),
                MemoryBarType::Width32 => root.set_bar_32(place, index, start as u32),
                MemoryBarType::Below1MiB => return Err("a window below 1 MiB"),
            }
            println!("pci: {place}: window {index} placed at {start:#x}");
        }
        paging::map_device(start..start.saturating_add(size)).map_err(|_| "a window that cannot be mapped")?;
    }
    Ok(())
}
