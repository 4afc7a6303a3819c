//! What a mount waits for, whom it believes, and what it tells.

use super::disk::Disk;
use super::store::{memory, options, write, BLOCK};
use crate::error::MemoryPart;
use crate::format::{encode_superblock, FormatError, Superblock};
use crate::memory::{map_words, pages_for};
use crate::{
    BlockPtr, Completion, CopyState, Damage, Device, DeviceError, DeviceGeometry, DeviceOp, Error, FlushTag, Memory,
    MountOptions, Mounting, NoInterrupts, Platform, Request, Store,
};
use std::format;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::Mutex;
use std::vec;
use std::vec::Vec;

const LEN: usize = 512 << 10;

/// A disk whose completions arrive late, and among them what an earlier store had asked for.
pub(super) struct Late<'m> {
    pub(super) disk: Disk<'m>,
    /// Requests and flushes that were taken and not given back.
    pub(super) held: AtomicU32,
    flushes: AtomicU32,
    /// Nothing completes, and no flush is taken.
    pub(super) stalled: AtomicBool,
    /// The next flush stalls it.
    stalls_at_flush: AtomicBool,
    refuses_flushes: AtomicBool,
    /// Completions of other stores' flushes that come first.
    strays: AtomicU32,
    /// Polls and refusals since the last relaxation.
    restless: AtomicU32,
    /// Reads of the block here fail, and of what is not there.
    pub(super) unreadable: AtomicU64,
    /// What it says that it is like, if that is not what it is.
    pub(super) like: Mutex<Option<DeviceGeometry>>,
}

impl Late<'_> {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self {
            disk: Disk::new(bytes),
            held: AtomicU32::new(0),
            flushes: AtomicU32::new(0),
            stalled: AtomicBool::new(false),
            stalls_at_flush: AtomicBool::new(false),
            refuses_flushes: AtomicBool::new(false),
            strays: AtomicU32::new(0),
            restless: AtomicU32::new(0),
            unreadable: AtomicU64::new(u64::MAX),
            like: Mutex::new(None),
        }
    }

    fn is_asked_in_vain(&self) {
        assert!(self.restless.fetch_add(1, SeqCst) < 1000, "the device is asked over and over, and nobody relaxes");
    }
}

impl<'m> Device<'m> for Late<'m> {
    fn geometry(&self) -> DeviceGeometry {
        self.like.lock().unwrap().unwrap_or_else(|| self.disk.geometry())
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        let beyond = request.addr() + request.len_bytes() > self.disk.geometry().len_bytes;
        let fails = beyond || self.unreadable.load(SeqCst) == request.addr();
        self.disk.fail(fails.then_some(DeviceError::Io));
        let taken = self.disk.submit(request);
        self.disk.fail(None);
        self.held.fetch_add(u32::from(taken.is_ok()), SeqCst);
        taken
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        if self.refuses_flushes.load(SeqCst) {
            self.is_asked_in_vain();
            return Err(tag);
        }
        self.flushes.fetch_add(1, SeqCst);
        self.stalled.fetch_or(self.stalls_at_flush.swap(false, SeqCst), SeqCst);
        self.held.fetch_add(1, SeqCst);
        self.disk.flush(tag)
    }

    fn poll(&self) -> Option<Completion<'m>> {
        if self.strays.load(SeqCst) != 0 {
            self.strays.fetch_sub(1, SeqCst);
            return Some(Completion::Flush(FlushTag::fresh(), Ok(())));
        }
        if self.stalled.load(SeqCst) {
            self.is_asked_in_vain();
            return None;
        }
        let completion = self.disk.poll()?;
        self.held.fetch_sub(1, SeqCst);
        Some(completion)
    }
}

/// A kernel under which the device goes on only when somebody relaxes who was refused.
struct Calm<'a, 'm> {
    device: &'a Late<'m>,
    relaxed: AtomicU32,
}

impl Platform for Calm<'_, '_> {
    fn relax(&self) {
        let in_vain = self.device.restless.swap(0, SeqCst) != 0;
        if in_vain && self.relaxed.fetch_add(1, SeqCst) % 3 == 2 {
            self.device.stalled.store(false, SeqCst);
            self.device.refuses_flushes.store(false, SeqCst);
        }
    }
    fn enter_critical(&self) -> usize {
        0
    }
    fn leave_critical(&self, _saved: usize) {}
}

/// A committed volume of so many arenas, and its root.
fn image(arenas: u32) -> (Vec<u8>, BlockPtr) {
    let memory = memory();
    let disk = Disk::new(vec![0; LEN]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(arenas)).unwrap();
    let ptr = write(&store, 1).unwrap();
    store.commit(store.roots().with_root(Some(ptr), 1)).unwrap();
    store.unmount().unwrap();
    (disk.bytes(), ptr)
}

/// What a crash of the kernel alone has left in the device's cache is durable before anything else happens: no store
/// before the flush that mount itself has asked for is complete, whatever else arrives.
#[test]
fn there_is_no_store_before_its_own_flush_is_complete() {
    let (bytes, _) = image(1);
    let memory = memory();
    let device = Late::new(bytes);
    let mut mounting = Mounting::new(memory.take().unwrap(), &device, &NoInterrupts, MountOptions::default());
    device.stalls_at_flush.store(true, SeqCst);
    while device.flushes.load(SeqCst) == 0 {
        assert!(mounting.step().unwrap().is_none(), "without a flush");
    }
    for round in 0..20 {
        device.strays.store(round % 2, SeqCst);
        assert!(mounting.step().unwrap().is_none(), "round {round}");
    }
    device.stalled.store(false, SeqCst);
    while mounting.step().unwrap().is_none() {}
    assert_eq!((device.flushes.load(SeqCst), device.held.load(SeqCst)), (1, 0));
}

/// A flush of another store, which the device still had, is no flush of this one's commit.
#[test]
fn a_commit_waits_for_its_own_flush() {
    let (bytes, ptr) = image(1);
    let memory = memory();
    let device = Late::new(bytes);
    let store = Store::mount(memory.take().unwrap(), &device, &NoInterrupts, MountOptions::default()).unwrap();
    let generation = store.generation();
    let ticket = store.commit_start(store.roots().with_root(Some(ptr), 2)).unwrap();
    let before = device.flushes.load(SeqCst);
    while device.flushes.load(SeqCst) == before {
        store.step();
    }
    device.stalled.store(true, SeqCst);
    for round in 0..20 {
        device.strays.store(round % 2, SeqCst);
        store.step();
    }
    assert_eq!(device.flushes.load(SeqCst), before + 1, "the next one comes behind the superblock");
    assert_eq!((store.commit_poll(&ticket), store.generation()), (None, generation));
    device.stalled.store(false, SeqCst);
    store.settle().unwrap();
    assert_eq!(store.generation(), generation + 1);
}

/// Whoever waits for the device lets the kernel do something else, at every place where mount waits: one CPU alone
/// makes progress.
#[test]
fn a_mount_relaxes_wherever_it_waits() {
    let (bytes, _) = image(2);
    for refuses in [false, true] {
        let memory = memory();
        let device: &'static Late<'static> = std::boxed::Box::leak(std::boxed::Box::new(Late::new(bytes.clone())));
        let kernel: &'static Calm<'static, 'static> =
            std::boxed::Box::leak(std::boxed::Box::new(Calm { device, relaxed: AtomicU32::new(0) }));
        let memory = std::boxed::Box::leak(memory);
        device.stalled.store(!refuses, SeqCst);
        device.refuses_flushes.store(refuses, SeqCst);
        let store = Store::mount(memory.take().unwrap(), device, kernel, MountOptions::default()).unwrap();
        assert!(kernel.relaxed.load(SeqCst) > 2 && store.failure().is_none());
    }
}

/// A mount that is given up waits until the device has no buffer of it any more; it tells what it waits for from what
/// others have asked for.
#[test]
fn a_mount_that_is_dropped_leaves_nothing_in_the_device() {
    let (bytes, _) = image(1);
    let mut waits = 0;
    for steps in 0.. {
        let memory = std::boxed::Box::leak(memory());
        let device: &'static Late<'static> = std::boxed::Box::leak(std::boxed::Box::new(Late::new(bytes.clone())));
        let kernel: &'static Calm<'static, 'static> =
            std::boxed::Box::leak(std::boxed::Box::new(Calm { device, relaxed: AtomicU32::new(0) }));
        let mut mounting = Mounting::new(memory.take().unwrap(), device, kernel, MountOptions::default());
        assert!(format!("{mounting:?}").starts_with("Mounting"));
        // It asks in one step, and has its answer in the next.
        let step = |step: u32| {
            device.stalled.store(step.is_multiple_of(2), SeqCst);
            mounting.step().unwrap().is_some()
        };
        if (0..steps).any(step) {
            // Superblocks, headers, a log, the flush.
            assert!(waits >= 5, "of {steps} steps");
            return;
        }
        let held = device.held.load(SeqCst);
        device.stalled.store(held != 0, SeqCst);
        device.strays.store(2, SeqCst);
        waits += u32::from(held != 0);
        drop(mounting);
        assert_eq!(device.held.load(SeqCst), 0, "after {steps} steps");
        assert!(held == 0 || !device.stalled.load(SeqCst), "it waited");
    }
}

/// A second superblock alone may be older than what was acknowledged. It is believed if all header copies agree with
/// it, or if nothing will be written; a first one that can be read and is none was never acknowledged.
#[test]
fn an_unreadable_first_superblock_is_missed_if_a_header_disagrees() {
    let (bytes, ptr) = image(2);
    let base = {
        let superblock = Superblock::decode(&bytes[..BLOCK]).unwrap();
        superblock.arenas().map(|arena| arena.header_addr as usize).last().unwrap()
    };
    let unreadable = CopyState::Unreadable(DeviceError::Io);
    for (agree, read_only) in [(true, false), (true, true), (false, false), (false, true)] {
        let memory = memory();
        let device = Late::new(bytes.clone());
        device.unreadable.store(0, SeqCst);
        if !agree {
            device.disk.edit(|bytes| bytes[base + 20] ^= 1);
        }
        let options = MountOptions { read_only, ..MountOptions::default() };
        let mounted = Store::mount(memory.take().unwrap(), &device, &NoInterrupts, options);
        match mounted {
            Ok(store) => {
                assert!(agree || read_only);
                assert_eq!(store.report().superblocks, [unreadable, CopyState::Good]);
                assert_eq!(store.roots().root.addr, ptr.addr);
            }
            Err(failed) => {
                assert!(!agree && !read_only, "{failed:?}");
                assert_eq!(failed.error, Error::Device { op: DeviceOp::Read, addr: 0, cause: DeviceError::Io });
            }
        }
    }
}

/// A root that is free may be looked at, if that is wanted, and not be written to.
#[test]
fn a_root_that_is_free_is_damage_and_can_be_looked_at() {
    let (mut bytes, ptr) = image(1);
    let addr = ptr.addr + 100 * BLOCK as u64;
    let page = {
        let superblock = Superblock::decode(&bytes[..BLOCK]).unwrap();
        let mut head = *superblock.head();
        head.root_addr = addr;
        let mut page = vec![0; BLOCK];
        encode_superblock(&mut page, &head, &mut |index| superblock.arena(index).unwrap(), true).unwrap();
        page
    };
    bytes[..BLOCK].copy_from_slice(&page);
    bytes[LEN - BLOCK..].copy_from_slice(&page);
    for (damaged, read_only) in [(false, false), (false, true), (true, false), (true, true)] {
        let memory = memory();
        let disk = Disk::new(bytes.clone());
        let options = MountOptions { damaged, read_only, ..MountOptions::default() };
        let mounted = Store::mount(memory.take().unwrap(), &disk, &NoInterrupts, options);
        let error = Error::corrupt(addr, Damage::RootFree);
        match mounted {
            Ok(store) => {
                assert!(damaged && read_only);
                assert_eq!((store.report().damage, store.report().damaged_arenas), (Some(error), 0));
            }
            Err(failed) => assert!(!(damaged && read_only) && failed.error == error, "{failed:?}"),
        }
    }
}

/// What the report says of a superblock can be read by people.
#[test]
fn what_is_wrong_with_a_copy_is_told_in_words() {
    let magic = FormatError::Magic { found: *b"notgefs9" };
    let told = [
        CopyState::Good,
        CopyState::Lagging { generation: 7 },
        CopyState::Bad(magic),
        CopyState::Unreadable(DeviceError::Io),
    ]
    .map(|state| format!("{state}"));
    assert_eq!(told[0], "ok");
    assert!(told[1].contains("generation 7"), "{told:?}");
    assert_eq!(told[2], format!("{magic}"));
    assert_eq!(told[3], format!("{}", DeviceError::Io));
}

/// The superblock of the newest generation counts, be it the second: so a commit of the original may end.
#[test]
fn the_newest_superblock_counts_wherever_it_is() {
    let memories: Vec<_> = (0..2).map(|_| memory()).collect();
    let disk = Disk::new(vec![0; LEN]);
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
    let older = disk.bytes()[..BLOCK].to_vec();
    let ptr = write(&store, 1).unwrap();
    let generation = store.commit(store.roots().with_root(Some(ptr), 1)).unwrap();
    store.unmount().unwrap();
    disk.edit(|bytes| bytes[..BLOCK].copy_from_slice(&older));
    let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
    let lagging = CopyState::Lagging { generation: generation - 1 };
    assert_eq!(store.report().superblocks, [lagging, CopyState::Good]);
    assert_eq!((store.roots().root.addr, store.generation()), (ptr.addr, generation));
}

/// The second superblock is looked for at the end alone, if the first one says how large a block is; otherwise at each
/// place where it may be, up to the first where it is.
#[test]
fn superblocks_are_looked_for_where_they_may_be_and_no_further() {
    let (image, _) = image(1);
    let read = |spoil: &[usize]| {
        let memory = memory();
        let disk = Disk::new(image.clone());
        disk.edit(|bytes| spoil.iter().for_each(|at| bytes[*at] ^= 1));
        let mounted = Store::mount(memory.take().unwrap(), &disk, &NoInterrupts, MountOptions::default());
        let found = mounted.map(|store| store.report().superblocks).map_err(|failed| failed.error);
        let reads = disk.take_reads();
        let others = |addr: &&u64| **addr == 0 || **addr >= (LEN - (64 << 10)) as u64;
        (found, reads.iter().take_while(others).count())
    };
    let last = LEN - BLOCK;
    assert_eq!(read(&[]), (Ok([CopyState::Good; 2]), 2));
    let (found, reads) = read(&[0]);
    assert!(matches!(found, Ok([CopyState::Bad(_), CopyState::Good])) && reads == 2, "{found:?} {reads}");
    let (found, reads) = read(&[last]);
    assert!(matches!(found, Ok([CopyState::Good, CopyState::Bad(_)])) && reads == 2, "{found:?} {reads}");
    let (found, reads) = read(&[0, last]);
    assert!(matches!(found, Err(Error::NotAVolume { .. })) && reads == 7, "{found:?} {reads}");
}

/// A superblock that is found where one of another block size would be is something else's.
#[test]
fn a_superblock_in_the_place_of_another_block_size_is_none() {
    let (mut bytes, _) = image(1);
    let page = bytes[..BLOCK].to_vec();
    bytes[0] ^= 1;
    bytes[LEN - BLOCK] ^= 1;
    let place = LEN - 4 * BLOCK;
    bytes[place..place + BLOCK].copy_from_slice(&page);
    let memory = memory();
    let disk = Disk::new(bytes);
    let mounted = Store::mount(memory.take().unwrap(), &disk, &NoInterrupts, MountOptions::default());
    assert!(matches!(mounted.unwrap_err().error, Error::NotAVolume { .. }));
}

/// What a device is like is compared with the volume to the byte.
#[test]
fn a_device_is_as_large_as_it_must_be_and_no_larger_than_can_be() {
    let (bytes, _) = image(1);
    let unit = BLOCK as u64;
    let most = u64::from(u32::MAX) * unit;
    let is = |change: &dyn Fn(&mut DeviceGeometry)| {
        let memory = memory();
        let device = Late::new(bytes.clone());
        let mut like = device.geometry();
        change(&mut like);
        *device.like.lock().unwrap() = Some(like);
        let options = MountOptions { discard: true, ..MountOptions::default() };
        let mounted = Store::mount(memory.take().unwrap(), &device, &NoInterrupts, options);
        mounted.map(|store| store.engine.discards).map_err(|failed| failed.error)
    };
    assert_eq!(is(&|_| ()), Ok(true));
    assert_eq!(is(&|like| like.discard = false), Ok(false));
    assert_eq!(is(&|like| like.physical_sector_len_bytes = BLOCK as u32), Ok(true));
    let geometry = |need_bytes, have_bytes| Err(Error::Geometry { need_bytes, have_bytes });
    assert_eq!(is(&|like| like.physical_sector_len_bytes = 2 * BLOCK as u32), geometry(2 * unit, unit));
    assert_eq!(is(&|like| like.max_transfer_len_bytes = BLOCK as u32), Ok(true));
    assert_eq!(is(&|like| like.max_transfer_len_bytes = BLOCK as u32 - 512), geometry(unit, unit - 512));
    assert_eq!(is(&|like| like.len_bytes = most), Ok(true));
    assert_eq!(is(&|like| like.len_bytes = most + unit), geometry(most + unit, most));
    // Not even a superblock: that is told, for either copy.
    let short = CopyState::Bad(FormatError::BufferLen { got_bytes: 2048, want_bytes: crate::memory::PROBE_LEN_BYTES });
    let error = is(&|like| like.len_bytes = 2048).unwrap_err();
    let Error::NotAVolume { first, second } = error else { panic!("{error:?}") };
    assert_eq!((CopyState::Bad(first), second.is_some()), (short, true));
}

/// What is behind the last whole block of a device is not used; the second superblock is in the last whole one.
#[test]
fn a_device_that_ends_within_a_block_is_used_up_to_that() {
    let memories: Vec<_> = (0..2).map(|_| memory()).collect();
    let disk = Disk::new(vec![0; LEN + 512]);
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    store.unmount().unwrap();
    assert!(Superblock::decode(&disk.bytes()[LEN - BLOCK..LEN]).is_ok());
    let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
    assert_eq!(store.report().superblocks, [CopyState::Good; 2]);
}

/// The fewest buffers with which a store can work are enough, and one less is refused.
#[test]
fn a_store_has_the_fewest_buffers_or_is_refused() {
    const FEWEST: usize = crate::mount::MIN_FRAMES as usize;
    type Fewest = Memory<{ pages_for(FEWEST, BLOCK) }, FEWEST, { map_words(1024, 4) }, 4, 16>;
    type TooFew = Memory<{ pages_for(FEWEST - 1, BLOCK) }, { FEWEST - 1 }, { map_words(1024, 4) }, 4, 16>;
    let (bytes, _) = image(1);
    let memories = (std::boxed::Box::new(Fewest::new()), std::boxed::Box::new(TooFew::new()));
    let disks = [0, 1].map(|_| Disk::new(bytes.clone()));
    let options = MountOptions::default();
    Store::mount(memories.0.take().unwrap(), &disks[0], &NoInterrupts, options).unwrap();
    let failed = Store::mount(memories.1.take().unwrap(), &disks[1], &NoInterrupts, options).unwrap_err();
    let (need, have) = (FEWEST as u64, FEWEST as u64 - 1);
    assert_eq!(failed.error, Error::MemoryTooSmall { part: MemoryPart::Buffers, need, have });
}
