//! The smallest kernel that keeps something: it counts how often it was booted. `cargo run`, again and again.
#![no_std]
#![no_main]

use arenite_adapters::{Blocking, VirtioDisk};
use arenite_core::{
    format::BlockSize, Allocate, Device, Error, Failed, FormatOptions, MountOptions, NoInterrupts, Store,
};
use core::sync::atomic::{AtomicUsize, Ordering};
use core::{fmt, fmt::Write, ptr::NonNull};
use virtio_drivers::transport::{mmio::MmioTransport, DeviceType, Transport};
use virtio_drivers::{BufferDirection, Hal, PhysAddr, PAGE_SIZE};

core::arch::global_asm!(include_str!("boot.s"), options(att_syntax));

arenite_core::memory! {
    /// All memory of the store: a cache of 64 blocks, volumes of up to 1 GiB.
    static MEMORY: cache_blocks = 64, block_len_bytes = 16384, volume_blocks = 65536, arenas = 8, queue = 64;
}

/// Mounts the volume, or makes one on a blank disk; adds one to the number in its root block.
fn count(disk: &dyn Device<'static>) -> Result<u64, Error> {
    let memory = MEMORY.take().ok_or(Error::NoBuffer)?;
    let store = match Store::mount(memory, disk, &NoInterrupts, MountOptions::default()) {
        Err(Failed { error: Error::NotAVolume { .. }, memory: Some(memory) }) => {
            let options = FormatOptions { block_size: BlockSize::ORIGINAL, arenas: 8, force: false };
            Store::format(memory, disk, &NoInterrupts, options)
        }
        mounted => mounted,
    };
    let store = store.map_err(|failed| failed.error)?;
    let mut boots = [0; 8];
    if let Some(root) = store.roots().root_ptr() {
        boots.copy_from_slice(&store.read(root)?[..8]);
        store.free(root)?;
    }
    let boots = u64::from_le_bytes(boots) + 1;
    let mut block = store.allocate(Allocate::data())?;
    block.bytes_mut()[..8].copy_from_slice(&boots.to_le_bytes());
    let root = store.enqueue(block)?.ptr();
    store.commit(store.roots().with_root(Some(root), 1))?;
    store.unmount().map(|()| boots)
}

/// Where `boot.s` hands over. Interrupts are off, and there is one CPU. To return ends the machine.
#[unsafe(no_mangle)]
extern "C" fn kernel() {
    let disk = find_disk().map(Blocking::new).expect("no disk");
    let boots = count(&disk).unwrap_or_else(|error| panic!("{error}"));
    writeln!(Console, "boot number {boots}").expect("the console never fails");
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Console, "{info}");
    out(0xf4, 1); // ends QEMU with status 3
    loop {}
}

/// The first of the machine's virtio devices that is a disk.
fn find_disk() -> Option<VirtioDisk<Machine, MmioTransport<'static>>> {
    let mut places = (0..24).filter_map(|index| NonNull::new((0xfeb0_0000_usize + index * 512) as *mut _));
    // SAFETY: QEMU's microvm has the registers of its virtio devices here; nothing else uses them.
    let device = places.find_map(|at| {
        unsafe { MmioTransport::new(at, 512) }.ok().filter(|found| found.device_type() == DeviceType::Block)
    })?;
    VirtioDisk::new(device).ok()
}

static PAGES_TAKEN: AtomicUsize = AtomicUsize::new(0);
struct Machine;

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

struct Console;
impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| out(0x3f8, byte));
        Ok(())
    }
}
