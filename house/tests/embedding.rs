//! Runs the program in docs/EMBEDDING.md on a pretended machine.

/// What the guide leaves to the reader's kernel: a disk, its queue, interrupts.
mod machine {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::sync::Mutex;

    pub const DISK_SECTORS: u64 = 64 << 11;
    pub static MEDIUM: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    pub static FLUSHES: AtomicU32 = AtomicU32::new(0);
    pub static SLEEPS: AtomicU32 = AtomicU32::new(0);
    static INTERRUPTS: AtomicBool = AtomicBool::new(true);
    static ENDS: Mutex<VecDeque<End>> = Mutex::new(VecDeque::new());

    pub enum End {
        Slot(usize, bool),
        Flush(bool),
    }

    fn with_medium<T>(act: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut medium = MEDIUM.lock().unwrap();
        medium.resize(DISK_SECTORS as usize * 512, 0);
        act(&mut medium)
    }

    pub fn read_sectors(sector: u64, bytes: &mut [u8]) -> bool {
        with_medium(|medium| bytes.copy_from_slice(&medium[sector as usize * 512..][..bytes.len()]));
        true
    }

    pub fn write_sectors(sector: u64, bytes: &[u8]) -> bool {
        with_medium(|medium| medium[sector as usize * 512..][..bytes.len()].copy_from_slice(bytes));
        true
    }

    pub fn flush_disk() -> bool {
        FLUSHES.fetch_add(1, Ordering::Relaxed);
        true
    }

    pub fn start_write(slot: usize, sector: u64, bytes: &[u8]) {
        let ok = write_sectors(sector, bytes);
        ENDS.lock().unwrap().push_back(End::Slot(slot, ok));
    }

    pub fn start_read(slot: usize, sector: u64, bytes: &mut [u8]) {
        let ok = read_sectors(sector, bytes);
        ENDS.lock().unwrap().push_back(End::Slot(slot, ok));
    }

    pub fn start_nothing(slot: usize) {
        ENDS.lock().unwrap().push_back(End::Slot(slot, false));
    }

    pub fn start_flush() {
        ENDS.lock().unwrap().push_back(End::Flush(flush_disk()));
    }

    pub fn next_end() -> Option<End> {
        ENDS.lock().unwrap().pop_front()
    }

    pub fn interrupts_off() -> bool {
        INTERRUPTS.swap(false, Ordering::Relaxed)
    }

    pub fn interrupts_on() {
        INTERRUPTS.store(true, Ordering::Relaxed);
    }

    pub fn wait_for_interrupt() {
        SLEEPS.fetch_add(1, Ordering::Relaxed);
    }
}

#[allow(missing_docs, dead_code, reason = "the text of the guide is its documentation")]
mod guide {
    include!(concat!(env!("OUT_DIR"), "/embedding.rs"));
}

use arenite_core::{Allocate, Error, MountOptions, Store};
use arenite_shim::{boxed_memory, HostPlatform, LargeMemory};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    for _ in 0..1_000_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
    panic!("the future does not end");
}

/// Everything in one test: there is one machine, and one memory.
#[test]
fn the_guide_does_what_it_says() {
    let store = guide::open(&guide::QUEUED).unwrap();
    assert_eq!(guide::count(&store), Ok(1));
    assert!(machine::FLUSHES.load(Ordering::Relaxed) >= 2);
    assert_eq!(guide::count(&store), Ok(2));
    guide::idle(&store);
    assert_eq!(machine::SLEEPS.load(Ordering::Relaxed), 1);

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| guide::syncer(&store, &stop));
        assert_eq!(guide::first_byte(&store, 1), Ok(2));
        assert_eq!(guide::count(&store), Ok(3));
        stop.store(true, Ordering::Relaxed);
    });

    let root = store.roots().root_ptr().unwrap();
    assert_eq!(wait(guide::read_first_byte(&store, root)), Ok(3));
    let mut block = store.allocate(Allocate::data()).unwrap();
    block.bytes_mut()[..8].copy_from_slice(&41u64.to_le_bytes());
    store.free(root).unwrap();
    let root = store.enqueue(block).unwrap().ptr();
    let generation = wait(guide::commit(&store, store.roots().with_root(Some(root), 1))).unwrap();
    assert_eq!(generation, store.generation());
    guide::on_disk_interrupt();
    guide::after_interrupts(&store);
    assert_eq!(guide::scrub(&store), Ok(0));
    store.unmount().unwrap();
    assert!(guide::open(&guide::QUEUED).is_err(), "the memory was taken");

    // The same volume through the driver that waits.
    let memory: &'static LargeMemory = Box::leak(boxed_memory());
    let disk = guide::WAITING.call_once(|| arenite_adapters::Blocking::new(guide::MyDisk));
    let store = Store::mount(memory.take().unwrap(), disk, &HostPlatform, MountOptions::default()).unwrap();
    assert_eq!(guide::count(&store), Ok(42));
    store.unmount().unwrap();
    the_guide_finds_a_partition();
}

fn the_guide_finds_a_partition() {
    assert!(guide::partition(&guide::QUEUED, "arenite").is_none(), "the disk has no table");
    let mut file = std::io::Cursor::new(vec![0; machine::DISK_SECTORS as usize * 512]);
    let mbr = gpt::mbr::ProtectiveMBR::with_lb_size((machine::DISK_SECTORS - 1) as u32);
    mbr.overwrite_lba0(&mut file).unwrap();
    let mut table = gpt::GptConfig::new().writable(true).create_from_device(&mut file, None).unwrap();
    table.add_partition("boot", 1 << 20, gpt::partition_types::LINUX_FS, 0, None).unwrap();
    table.add_partition("arenite", 32 << 20, gpt::partition_types::LINUX_FS, 0, None).unwrap();
    table.write().unwrap();
    *machine::MEDIUM.lock().unwrap() = file.into_inner();
    let window: &'static _ = Box::leak(Box::new(guide::partition(&guide::QUEUED, "arenite").unwrap()));
    assert!(guide::partition(&guide::QUEUED, "nobody").is_none());
    let memory: &'static LargeMemory = Box::leak(boxed_memory());
    let failed = Store::mount(memory.take().unwrap(), window, &HostPlatform, MountOptions::default()).unwrap_err();
    assert!(matches!(guide::next(&failed.error), guide::Next::Format));
    assert!(matches!(failed.error, Error::NotAVolume { .. }));
}

/// The table of sizes in section 2.
#[test]
fn the_sizes_in_the_guide_are_right() {
    use arenite_core::memory::{map_words, pages_for};
    macro_rules! size {
        ($cache:expr, $blocks:expr) => {
            arenite_core::Memory::<{ pages_for($cache, 16384) }, $cache, { map_words($blocks, 8) }, 8, 64>::SIZE_BYTES
        };
    }
    let sizes = [size!(16, 4096), size!(64, 65536), size!(1024, 4 << 20)];
    let guide = include_str!("../../docs/EMBEDDING.md");
    for size in sizes {
        let text = format!("{:.1} MiB", size as f64 / (1 << 20) as f64);
        assert!(guide.contains(&format!("| {text} |")), "{text} is not in the guide");
    }
}
