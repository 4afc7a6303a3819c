//! Stores on drivers that are awaited, on an executor that does nothing unless somebody was woken.
#![cfg(feature = "block-device-driver")]

mod common;

use aligned::{Aligned, A4};
use arenite_adapters::{AssumeWriteThrough, AsyncFlushDisk, BlockDriverDisk, Disk, FlushWith, Tasked};
use arenite_core::format::BlockSize;
use arenite_core::{
    Allocate, DeviceError, DeviceOp, Error, FormatOptions, Formatting, MountOptions, Mounting, Roots, Store,
};
use arenite_shim::{boxed_memory, HostPlatform, LargeMemory};
use block_device_driver::{blocks_to_slice, blocks_to_slice_mut, BlockDevice};
use common::VecDisk;
use std::cell::{Cell, RefCell};
use std::future::{poll_fn, Future};
use std::pin::{pin, Pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// Hardware with one operation under way, which only an interrupt ends.
#[derive(Default)]
struct Hardware {
    waiting: RefCell<Option<Waker>>,
    ended: Cell<bool>,
    interrupts: Cell<u32>,
}

impl Hardware {
    async fn operation(&self) {
        self.ended.set(false);
        poll_fn(|context| {
            if self.ended.take() {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// False if nothing is under way.
    fn interrupt(&self) -> bool {
        let Some(waker) = self.waiting.take() else { return false };
        self.ended.set(true);
        self.interrupts.set(self.interrupts.get() + 1);
        waker.wake();
        true
    }
}

/// A driver that is told by its interrupt when it is done.
struct Driver {
    hardware: Rc<Hardware>,
    disk: VecDisk,
}

impl Driver {
    async fn flush(disk: &mut BlockDriverDisk<Self, 512>) -> Result<(), DeviceError> {
        disk.driver_mut().hardware.clone().operation().await;
        disk.driver_mut().disk.sync()
    }
}

impl BlockDevice<512> for Driver {
    type Error = DeviceError;
    type Align = A4;

    async fn read(&mut self, block: u32, data: &mut [Aligned<A4, [u8; 512]>]) -> Result<(), DeviceError> {
        self.hardware.operation().await;
        self.disk.read(u64::from(block) * 512, blocks_to_slice_mut(data))
    }

    async fn write(&mut self, block: u32, data: &[Aligned<A4, [u8; 512]>]) -> Result<(), DeviceError> {
        self.hardware.operation().await;
        self.disk.write(u64::from(block) * 512, blocks_to_slice(data))
    }

    async fn size(&mut self) -> Result<u64, DeviceError> {
        self.hardware.operation().await;
        Ok(self.disk.geometry.len_bytes)
    }
}

/// Whether a task was woken.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs tasks until the first one ends. Between interrupts only those run that were woken; if nobody is, and no
/// interrupt is to come, somebody was forgotten. Returns how often a task was polled, too.
fn execute<T>(
    hardware: &Hardware,
    first: impl Future<Output = T>,
    others: &mut [Pin<&mut dyn Future<Output = ()>>],
) -> (T, u32) {
    let mut first = Box::pin(first);
    let flags: Vec<_> = (0..=others.len()).map(|_| Arc::new(Woken(AtomicBool::new(true)))).collect();
    let wakers: Vec<Waker> = flags.iter().map(|flag| Waker::from(flag.clone())).collect();
    let mut polls = 0;
    loop {
        let mut idle = true;
        for (index, _) in flags.iter().enumerate().filter(|(_, flag)| flag.0.swap(false, Ordering::Relaxed)) {
            (idle, polls) = (false, polls + 1);
            let mut context = Context::from_waker(&wakers[index]);
            match index {
                0 => {
                    if let Poll::Ready(output) = first.as_mut().poll(&mut context) {
                        return (output, polls);
                    }
                }
                _ => assert!(others[index - 1].as_mut().poll(&mut context).is_pending()),
            }
        }
        assert!(polls < 1_000_000, "the tasks go round and round");
        if idle && !hardware.interrupt() {
            // A store in it would wait for what never comes.
            std::mem::forget(first);
            panic!("nobody was woken");
        }
    }
}

/// Waits for something that comes by steps of the store.
async fn stepping<T>(store: &Store<'_, '_>, device: &Tasked<'_>, mut look: impl FnMut() -> Option<T>) -> T {
    poll_fn(|context| {
        while store.step() {}
        if let Some(found) = look() {
            return Poll::Ready(found);
        }
        device.wake(context.waker());
        Poll::Pending
    })
    .await
}

async fn commit(store: &Store<'_, '_>, device: &Tasked<'_>, roots: Roots) -> Result<u64, Error> {
    let ticket = store.commit_start(roots)?;
    stepping(store, device, || store.commit_poll(&ticket)).await
}

/// Writes 20 blocks, each with a task of its own to read it back, and commits the last as the root.
async fn work(store: &Store<'_, '_>, device: &Tasked<'_>) -> Result<u64, Error> {
    let mut last = None;
    for byte in 0..20 {
        let mut block = store.allocate(Allocate::data())?;
        block.bytes_mut().fill(byte);
        last = Some(store.enqueue(block)?.ptr());
    }
    commit(store, device, store.roots().with_root(last, 1)).await
}

async fn format<'d, 'm>(memory: &'m LargeMemory, device: &'d Tasked<'m>) -> Result<Store<'d, 'm>, Error> {
    let options = FormatOptions { block_size: BlockSize::new(4096).unwrap(), arenas: 4, force: false };
    let mut formatting = Formatting::new(memory.take().unwrap(), device, &HostPlatform, options);
    made(device, || formatting.step().map_err(|failed| failed.error)).await
}

async fn mount<'d, 'm>(memory: &'m LargeMemory, device: &'d Tasked<'m>) -> Result<Store<'d, 'm>, Error> {
    let mut mounting = Mounting::new(memory.take().unwrap(), device, &HostPlatform, MountOptions::default());
    made(device, || mounting.step().map_err(|failed| failed.error)).await
}

/// Steps until there is something, and sleeps while the device works.
async fn made<'m, T>(device: &Tasked<'m>, mut step: impl FnMut() -> Result<Option<T>, Error>) -> Result<T, Error> {
    poll_fn(|context| match step().transpose() {
        Some(made) => Poll::Ready(made),
        None => {
            device.wake(context.waker());
            Poll::Pending
        }
    })
    .await
}

/// Formats, writes and commits; then all that is still to be written goes out.
fn filled(hardware: &Hardware, disk: &mut impl AsyncFlushDisk) -> (Result<u64, Error>, u32) {
    let memory: Box<LargeMemory> = boxed_memory();
    let device = Tasked::new(disk);
    let mut driver = pin!(async {
        device.run(disk).await;
    });
    let user = async {
        let store = format(&memory, &device).await?;
        let generation = work(&store, &device).await?;
        // With nothing changed a second one does nothing, but it begins only when the first has written its second
        // copies.
        let begun = || match store.commit_start(store.roots()) {
            Err(Error::CommitInFlight) => None,
            other => Some(other),
        };
        stepping(&store, &device, begun).await?;
        Ok(generation)
    };
    execute(hardware, user, &mut [driver.as_mut()])
}

#[test]
fn a_store_lives_on_a_driver_that_is_awaited() {
    let hardware = Rc::new(Hardware::default());
    let open = BlockDriverDisk::<_, 512>::open(Driver { hardware: hardware.clone(), disk: VecDisk::new() });
    let (disk, _) = execute(&hardware, open, &mut []);
    let mut disk = FlushWith::new_async(disk.unwrap(), Driver::flush);
    let (generation, polls) = filled(&hardware, &mut disk);
    assert!(generation.unwrap() > 0);
    let interrupts = hardware.interrupts.get();
    assert!(interrupts > 40 && polls < 20 * interrupts, "{interrupts} interrupts, {polls} polls");
    let inner = &mut disk.disk_mut().driver_mut().disk;
    assert!(inner.flushes >= 3);
    // Power fails: only what was flushed remains.
    inner.cache.copy_from_slice(&inner.medium);

    let memory: Box<LargeMemory> = boxed_memory();
    let device = Tasked::new(&disk);
    let mut driver = pin!(async {
        device.run(&mut disk).await;
    });
    let user = async {
        let store = mount(&memory, &device).await.unwrap();
        let root = store.roots().root_ptr().unwrap();
        // Two who wait at once.
        let (one, other) = (store.start_read(root).unwrap(), store.start_read(root).unwrap());
        let first = stepping(&store, &device, || one.poll()).await.unwrap()[0];
        let last = stepping(&store, &device, || other.poll()).await.unwrap()[4095];
        (first, last)
    };
    assert_eq!(execute(&hardware, user, &mut [driver.as_mut()]).0, (19, 19));
}

#[test]
fn failures_of_an_awaited_driver_are_told() {
    let hardware = Rc::new(Hardware::default());
    let disk = || {
        let open = BlockDriverDisk::<_, 512>::open(Driver { hardware: hardware.clone(), disk: VecDisk::new() });
        execute(&hardware, open, &mut []).0.unwrap()
    };
    let refuse = async |_: &mut BlockDriverDisk<Driver, 512>| Err(DeviceError::Unsupported);
    let (result, _) = filled(&hardware, &mut FlushWith::new_async(disk(), refuse));
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Device { op: DeviceOp::Flush, cause: DeviceError::Unsupported, .. }), "{error:?}");
    // Without a flush only through the wrapper that says so.
    assert!(filled(&hardware, &mut AssumeWriteThrough(disk())).0.is_ok());
}
