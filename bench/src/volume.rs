//! Stores to be measured: in a file, or in memory.
#![forbid(unsafe_code)]

use crate::unflushed::Unflushed;
use anyhow::{anyhow, Context, Result};
use arenite_core::format::BlockSize;
use arenite_core::memory::{map_words, pages_for};
use arenite_core::{Device, FormatOptions, Memory, Platform, Store};
use arenite_shim::disk::Disk;
use arenite_shim::threads::with_workers;
use arenite_shim::uring::{RingPlatform, UringDevice};
use arenite_shim::{boxed_memory, FileDevice, FileOptions, HostPlatform, MemDevice, MemOptions};
use std::path::Path;
use std::sync::Arc;

/// The platform of all benchmarks.
pub static HOST: HostPlatform = HostPlatform;

/// Memory for volumes of up to 64 Mi blocks (1 TiB at 16 KiB) with 256 buffers.
pub type VastMemory = Memory<{ pages_for(256, 16384) }, 256, { map_words(64 << 20, 256) }, 256, 1024>;
/// Memory for stores in files: 256 buffers of 16 KiB (4 MiB), volumes of up to 4 Mi blocks (64 GiB). Few buffers are
/// fast ones: what is filled, hashed and handed to the device is then still in the processor's caches. The raw side has
/// as few.
pub type FileMemory = Memory<{ pages_for(256, 16384) }, 256, { map_words(4 << 20, 256) }, 256, 128>;
/// Memory for small blocks: 4096 buffers of 2 KiB, volumes of up to 1 Mi blocks.
pub type ManyMemory = Memory<{ pages_for(4096, 2048) }, 4096, { map_words(1 << 20, 256) }, 256, 1024>;

/// How a store is made.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Its block size.
    pub block_size: BlockSize,
    /// Its arenas.
    pub arenas: u32,
}

impl Shape {
    /// 16 KiB blocks in so many arenas.
    pub const fn original(arenas: u32) -> Self {
        Self { block_size: BlockSize::ORIGINAL, arenas }
    }

    fn options(self) -> FormatOptions {
        FormatOptions { block_size: self.block_size, arenas: self.arenas, force: true }
    }
}

/// An error of the core with what was tried.
pub fn failed(what: &'static str) -> impl Fn(arenite_core::Error) -> anyhow::Error {
    move |error| anyhow!("{what}: {error}")
}

/// Threads that carry out a store's requests where there is no io_uring.
const DEVICE_THREADS: usize = 4;
/// Requests under way.
const QUEUE_DEPTH: u16 = 32;

/// A new store in a file that is there, over io_uring if the kernel has it, and its platform. Its memory and its
/// platform stay for ever, as io_uring wants it.
///
/// # Errors
/// Those of the file, of the store, and of `body`.
pub fn in_file<R>(
    path: &Path,
    direct: bool,
    shape: Shape,
    body: impl FnOnce(&Store<'_, '_>, &dyn Platform) -> Result<R>,
) -> Result<R> {
    let memory: &'static FileMemory = Box::leak(boxed_memory());
    let options = FileOptions { direct, queue_depth: QUEUE_DEPTH, ..FileOptions::default() };
    if crate::raw::has_ring() {
        let device = UringDevice::open(path, options).with_context(|| path.display().to_string())?;
        let platform: &'static RingPlatform = Box::leak(Box::new(device.platform()?));
        return on_device(memory, &device, platform, shape, body);
    }
    let device = FileDevice::open(path, options).with_context(|| path.display().to_string())?;
    let result = with_workers(&device, DEVICE_THREADS, || on_device(memory, &device, &HOST, shape, body))?;
    anyhow::ensure!(device.is_direct() == direct, "the file system has no direct transfers");
    Ok(result)
}

fn on_device<R>(
    memory: &'static FileMemory,
    device: &dyn Device<'static>,
    platform: &'static dyn Platform,
    shape: Shape,
    body: impl FnOnce(&Store<'_, '_>, &dyn Platform) -> Result<R>,
) -> Result<R> {
    let resources = memory.take().context("the memory is taken")?;
    let store = Store::format(resources, device, platform, shape.options()).map_err(|failed| failed.error);
    let store = store.map_err(failed("format"))?;
    let result = body(&store, platform)?;
    store.unmount().map_err(failed("unmount"))?;
    Ok(result)
}

/// A new store in a sparse file that is there, through the page cache, with flushes that cost nothing.
///
/// # Errors
/// Those of the file, of the store, and of `body`.
pub fn unflushed<R>(path: &Path, shape: Shape, body: impl FnOnce(&Store<'_, '_>) -> Result<R>) -> Result<R> {
    let memory: Box<VastMemory> = boxed_memory();
    let file = FileDevice::open(path, FileOptions::default()).with_context(|| path.display().to_string())?;
    let device = Unflushed::new(file);
    let resources = memory.take().context("the memory is taken")?;
    let store = Store::format(resources, &device, &HOST, shape.options()).map_err(|failed| failed.error);
    let store = store.map_err(failed("format"))?;
    body(&store)
}

/// A new store on a disk in memory.
///
/// # Errors
/// Those of the store and of `body`.
pub fn in_memory<
    R,
    const PAGES: usize,
    const FRAMES: usize,
    const WORDS: usize,
    const ARENAS: usize,
    const QUEUE: usize,
>(
    memory: &Memory<PAGES, FRAMES, WORDS, ARENAS, QUEUE>,
    len_bytes: u64,
    shape: Shape,
    body: impl FnOnce(&Store<'_, '_>) -> Result<R>,
) -> Result<R> {
    let options = MemOptions { queue_depth: 64, max_segments: 32, ..MemOptions::default() };
    let device = MemDevice::new(Arc::new(Disk::zeroed(len_bytes)), options);
    let resources = memory.take().context("the memory is taken")?;
    let store = Store::format(resources, &device, &HOST, shape.options()).map_err(|failed| failed.error);
    let store = store.map_err(failed("format"))?;
    body(&store)
}
