//! Mount, read, allocate, write, free, commit, on a device of which the compiler knows nothing: what of the store
//! ends up in a kernel's image. It is never run.
#![no_std]
#![no_main]

use arenite_core::{
    Allocate, Completion, Device, DeviceGeometry, Error, FlushTag, MountOptions, NoInterrupts, Request, Store,
};
use core::hint::black_box;

arenite_core::memory! {
    static MEMORY: cache_blocks = 16, block_len_bytes = 4096, volume_blocks = 16384, arenas = 4, queue = 16;
}

struct Disk;

impl Device<'static> for Disk {
    fn geometry(&self) -> DeviceGeometry {
        black_box(DeviceGeometry {
            len_bytes: 64 << 20,
            logical_sector_len_bytes: 512,
            physical_sector_len_bytes: 512,
            max_transfer_len_bytes: 65536,
            max_segments: 8,
            queue_depth: 8,
            read_only: false,
            volatile_cache: true,
            discard: false,
        })
    }
    fn submit(&self, request: Request<'static>) -> Result<(), Request<'static>> {
        Err(black_box(request))
    }
    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        Err(black_box(tag))
    }
    fn poll(&self) -> Option<Completion<'static>> {
        black_box(None)
    }
}

static DISK: Disk = Disk;

fn use_all() -> Result<(), Error> {
    let memory = MEMORY.take().ok_or(Error::NoBuffer)?;
    let store = Store::mount(memory, &DISK, &NoInterrupts, MountOptions::default()).map_err(|failed| failed.error)?;
    let old = store.roots().root_ptr().ok_or(Error::NoBuffer)?;
    black_box(store.read(old)?.bytes());
    let mut block = store.allocate(Allocate::data())?;
    black_box(block.bytes_mut());
    let new = store.enqueue(block)?.ptr();
    store.free(old)?;
    store.commit(store.roots().with_root(Some(new), 1))?;
    store.unmount()
}

/// The entry.
#[no_mangle]
pub extern "C" fn _start() -> ! {
    let _ = black_box(use_all());
    loop {}
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
