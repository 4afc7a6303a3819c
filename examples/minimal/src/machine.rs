//! QEMU's microvm: start, console, the disk, pages for devices, and how it ends. To be taken as it is.

use arenite_adapters::VirtioDisk;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::{fmt, fmt::Write, ptr::NonNull};
use virtio_drivers::transport::{mmio::MmioTransport, DeviceType, Transport};
use virtio_drivers::{BufferDirection, Hal, PhysAddr, PAGE_SIZE};

core::arch::global_asm!(include_str!("boot.s"), options(att_syntax));

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Console, "{info}");
    out(0xf4, 1); // ends QEMU with status 3
    loop {}
}

/// The first of the machine's virtio devices that is a disk.
pub fn find_disk() -> Option<VirtioDisk<Machine, MmioTransport<'static>>> {
    let mut places = (0..24).filter_map(|index| NonNull::new((0xfeb0_0000_usize + index * 512) as *mut _));
    // SAFETY: QEMU's microvm has the registers of its virtio devices here; nothing else uses them.
    let device = places.find_map(|at| {
        unsafe { MmioTransport::new(at, 512) }.ok().filter(|found| found.device_type() == DeviceType::Block)
    })?;
    VirtioDisk::new(device).ok()
}

static PAGES_TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Pages for devices.
pub struct Machine;

// SAFETY: pages are RAM, handed out once, zero since power-on; everything is mapped to itself; caches are coherent.
unsafe impl Hal for Machine {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let first = PAGES_TAKEN.fetch_add(pages, Ordering::Relaxed);
        assert!(first + pages <= 256, "no more pages for devices");
        let start = 0x10_0000 + first * PAGE_SIZE; // of the 256 pages below the image, which nothing else uses
        (start as PhysAddr, NonNull::new(start as *mut u8).expect("not at 0"))
    }
    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }
    unsafe fn mmio_phys_to_virt(addr: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(addr as *mut u8).expect("not at 0")
    }
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

fn out(port: u16, byte: u8) {
    // SAFETY: writes to the console and to QEMU's exit change no memory.
    unsafe { core::arch::asm!("out dx, al", in("dx") port, in("al") byte) };
}

/// The serial port.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| out(0x3f8, byte));
        Ok(())
    }
}
