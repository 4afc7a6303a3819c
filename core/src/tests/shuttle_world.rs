//! What the tests under the model checker shuttle share: a disk that answers late and out of order, a volume to begin
//! with, and the loop over schedules.
//!
//! shuttle runs threads one at a time and chooses at every atomic operation and every lock who goes on: at random,
//! or by priorities that change at a few points (probabilistic concurrency testing: a schedule of depth *d* needs *d*
//! ordering constraints, so *d* - 1 changes of priority). Atomics are sequentially consistent under it; what weaker
//! orders do is for loom. Everything random comes from shuttle, so a seed replays a failure whole.
//!
//! Run with `cargo test -p arenite-core --features shuttle --lib shuttle`; `ARENITE_SHUTTLE_SCALE=10` makes that ten
//! times as many schedules, `SHUTTLE_RANDOM_SEED` repeats a seed that a failure printed.

use crate::device::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};
use crate::format::BlockSize;
use crate::memory::{map_words, pages_for};
use crate::{Allocate, BlockPtr, Class, Error, FormatOptions, Memory, MountOptions, Platform, Store};
use shuttle::rand::{thread_rng, Rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use std::boxed::Box;
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

pub(super) const BLOCK: usize = 2048;
/// Blocks of each of the two arenas.
const ARENA_BLOCKS: usize = 24;
const SECTOR: usize = 512;
/// Ordering constraints that a schedule by priorities aims at.
const PCT_DEPTH: usize = 4;

/// 8 buffers for all, 4 for reclaim, 4 for commits; places for 3 workers.
pub(super) type Tiny<const QUEUE: usize> =
    Memory<{ pages_for(16, BLOCK) }, 16, { map_words(2 * ARENA_BLOCKS, 2) }, 2, QUEUE, 3>;

pub(super) fn memory<const QUEUE: usize>() -> Box<Tiny<QUEUE>> {
    Box::new(Memory::new())
}

/// Lets another thread run where a kernel would spin.
pub(super) struct Cooperative;

impl Platform for Cooperative {
    fn relax(&self) {
        shuttle::thread::yield_now();
    }
    fn enter_critical(&self) -> usize {
        0
    }
    fn leave_critical(&self, _saved: usize) {}
}

/// True once in `n` times.
pub(crate) fn once_in(n: u32) -> bool {
    thread_rng().gen_range(0..n) == 0
}

/// A write that a crash may lose, keep or tear.
struct Loose {
    number: u64,
    at: usize,
    bytes: Vec<u8>,
    /// Its completion was delivered, so that the next flush covers it.
    delivered: bool,
}

enum Pending<'m> {
    Transfer { request: Request<'m>, number: u64, result: Result<(), DeviceError> },
    Flush { tag: FlushTag, covered: Vec<u64>, result: Result<(), DeviceError> },
}

struct Inner<'m> {
    bytes: Vec<u8>,
    /// What survives every crash.
    durable: Vec<u8>,
    loose: Vec<Loose>,
    pending: Vec<Pending<'m>>,
    numbers: u64,
    /// Addresses that were read.
    reads: Vec<u64>,
    /// So many writes and flushes go well before one fails, with all that come later if it is for good.
    writes_left: Option<u32>,
    for_good: bool,
    /// Failures of writes and flushes that were told.
    failures: u32,
    /// So many reads fail.
    bad_reads: u32,
}

/// A disk with a volatile cache: completions come in any order, or not yet.
pub(super) struct Disk<'m> {
    // The buffers of a request are linked by atomics, so there are scheduling points under this lock.
    inner: shuttle::sync::Mutex<Inner<'m>>,
    depth: usize,
}

impl<'m> Disk<'m> {
    pub(super) fn new(bytes: Vec<u8>, depth: usize) -> Self {
        let inner = Inner {
            durable: bytes.clone(),
            bytes,
            loose: Vec::new(),
            pending: Vec::new(),
            numbers: 0,
            reads: Vec::new(),
            writes_left: None,
            for_good: false,
            failures: 0,
            bad_reads: 0,
        };
        Self { inner: shuttle::sync::Mutex::new(inner), depth }
    }

    fn with<R>(&self, section: impl FnOnce(&mut Inner<'m>) -> R) -> R {
        section(&mut self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    pub(super) fn reads_of(&self, addr: u64) -> usize {
        self.with(|inner| inner.reads.iter().filter(|read| **read == addr).count())
    }

    pub(super) fn fail_write(&self, after: u32, for_good: bool) {
        self.with(|inner| (inner.writes_left, inner.for_good) = (Some(after), for_good));
    }

    pub(super) fn fail_reads(&self, count: u32) {
        self.with(|inner| inner.bad_reads = count);
    }

    /// Failures of writes and flushes that the store was told.
    pub(super) fn failures(&self) -> u32 {
        self.with(|inner| inner.failures)
    }

    /// What a power failure at this moment leaves: any subset of what no flush covers, torn at any sectors.
    pub(super) fn crash(&self) -> Vec<u8> {
        self.with(|inner| {
            let mut image = inner.durable.clone();
            for write in &inner.loose {
                let sectors = image[write.at..write.at + write.bytes.len()].chunks_mut(SECTOR);
                let kind = thread_rng().gen_range(0..3);
                for (old, new) in sectors.zip(write.bytes.chunks(SECTOR)) {
                    if kind == 1 || (kind == 2 && once_in(2)) {
                        old.copy_from_slice(new);
                    }
                }
            }
            image
        })
    }
}

impl<'m> Inner<'m> {
    /// The outcome of the next write or flush.
    fn outcome(&mut self) -> Result<(), DeviceError> {
        match self.writes_left {
            Some(0) if self.for_good => Err(DeviceError::Io),
            Some(0) => {
                self.writes_left = None;
                Err(DeviceError::Io)
            }
            left => {
                self.writes_left = left.map(|left| left - 1);
                Ok(())
            }
        }
    }

    fn start(&mut self, request: Request<'m>) {
        self.numbers += 1;
        let number = self.numbers;
        let (at, end) = (request.addr(), request.addr() + request.len_bytes());
        let mut result = Ok(());
        if request.kind() == RequestKind::Write {
            for pending in &self.pending {
                let Pending::Transfer { request: other, .. } = pending else { continue };
                let apart = other.addr() >= end || other.addr() + other.len_bytes() <= at;
                assert!(apart || other.kind() != RequestKind::Write, "two writes of {at:#x} at once");
            }
            result = self.outcome();
            let bytes = request.buffers().into_iter().flatten().flatten().copied().collect();
            self.loose.push(Loose { number, at: at as usize, bytes, delivered: false });
        } else if self.bad_reads > 0 {
            self.bad_reads -= 1;
            result = Err(DeviceError::Timeout);
        }
        self.pending.push(Pending::Transfer { request, number, result });
    }

    fn finish_write(&mut self, number: u64, result: Result<(), DeviceError>) {
        self.failures += u32::from(result.is_err());
        let Some(write) = self.loose.iter_mut().find(|write| write.number == number) else { return };
        // A write that failed may have happened all the same.
        if result.is_ok() || once_in(2) {
            self.bytes[write.at..write.at + write.bytes.len()].copy_from_slice(&write.bytes);
        }
        write.delivered = result.is_ok();
    }

    fn finish_flush(&mut self, covered: &[u64]) {
        let durable = &mut self.durable;
        self.loose.retain(|write| {
            let keep = !covered.contains(&write.number);
            if !keep {
                durable[write.at..write.at + write.bytes.len()].copy_from_slice(&write.bytes);
            }
            keep
        });
    }

    fn finish(&mut self, pending: Pending<'m>) -> Completion<'m> {
        match pending {
            Pending::Flush { tag, covered, result } => {
                self.failures += u32::from(result.is_err());
                if result.is_ok() {
                    self.finish_flush(&covered);
                }
                Completion::Flush(tag, result)
            }
            Pending::Transfer { mut request, number, result } => {
                let mut at = request.addr() as usize;
                if request.kind() == RequestKind::Write {
                    self.finish_write(number, result);
                } else {
                    self.reads.push(request.addr());
                    for buffer in request.buffers_mut().into_iter().flatten() {
                        buffer.copy_from_slice(&self.bytes[at..at + buffer.len()]);
                        at += buffer.len();
                    }
                }
                Completion::Transfer(request, result)
            }
        }
    }
}

impl<'m> Device<'m> for Disk<'m> {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            len_bytes: self.with(|inner| inner.bytes.len() as u64),
            logical_sector_len_bytes: SECTOR as u32,
            physical_sector_len_bytes: SECTOR as u32,
            max_transfer_len_bytes: 1 << 20,
            max_segments: 4,
            queue_depth: self.depth as u16,
            read_only: false,
            volatile_cache: true,
            discard: false,
        }
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        self.with(|inner| {
            if inner.pending.len() >= self.depth {
                return Err(request);
            }
            inner.start(request);
            Ok(())
        })
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.with(|inner| {
            if inner.pending.len() >= self.depth {
                return Err(tag);
            }
            let covered = inner.loose.iter().filter(|write| write.delivered).map(|write| write.number).collect();
            let result = inner.outcome();
            inner.pending.push(Pending::Flush { tag, covered, result });
            Ok(())
        })
    }

    fn poll(&self) -> Option<Completion<'m>> {
        self.with(|inner| {
            if inner.pending.is_empty() || once_in(4) {
                return None;
            }
            let index = thread_rng().gen_range(0..inner.pending.len());
            let pending = inner.pending.swap_remove(index);
            Some(inner.finish(pending))
        })
    }
}

/// A block of a tree in the tests: the number that its content is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) ptr: BlockPtr,
    pub(super) id: u64,
}

pub(super) fn write(store: &Store<'_, '_>, id: u64) -> Result<Child, Error> {
    write_as(store, id, Class::Normal)
}

pub(super) fn write_as(store: &Store<'_, '_>, id: u64, class: Class) -> Result<Child, Error> {
    let mut filling = store.allocate(Allocate::data().class(class).hint(id as u32))?;
    for word in filling.bytes_mut().chunks_exact_mut(8) {
        word.copy_from_slice(&id.to_le_bytes());
    }
    Ok(Child { ptr: store.enqueue(filling)?.ptr(), id })
}

/// The store has compared the hash, so the first word says it all.
pub(super) fn check(store: &Store<'_, '_>, child: Child) {
    match store.read(child.ptr) {
        Ok(block) => assert_eq!(block[..8], child.id.to_le_bytes()),
        Err(error) => panic!("{child:?}: {error}"),
    }
}

/// A block that names other blocks.
pub(super) fn write_root(store: &Store<'_, '_>, children: &[Child]) -> Result<BlockPtr, Error> {
    let mut filling = store.allocate(Allocate::data().class(Class::Reclaim))?;
    let words = children.iter().flat_map(|child| [child.ptr.addr, child.ptr.hash, child.id]);
    let all = core::iter::once(children.len() as u64).chain(words);
    for (to, word) in filling.bytes_mut().chunks_exact_mut(8).zip(all) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    Ok(store.enqueue(filling)?.ptr())
}

/// Reads the committed tree whole; the root comes first.
pub(super) fn read_tree(store: &Store<'_, '_>) -> (BlockPtr, Vec<Child>) {
    let ptr = store.roots().root_ptr().expect("a root");
    let root = store.read(ptr).expect("the root is there");
    let word = |at: usize| u64::from_le_bytes(root[8 * at..8 * at + 8].try_into().expect("eight bytes"));
    let child = |at: usize| Child { ptr: BlockPtr { addr: word(at), hash: word(at + 1), gen: 0 }, id: word(at + 2) };
    let children: Vec<_> = (0..word(0) as usize).map(|index| child(1 + 3 * index)).collect();
    children.iter().for_each(|child| check(store, *child));
    (ptr, children)
}

/// The committed state has `reachable` blocks in use besides logs and the two of each arena that nobody is handed.
pub(super) fn check_space(store: &Store<'_, '_>, reachable: usize) {
    let space = store.space();
    let used = space.log_blocks + 2 * u64::from(store.report().arenas) + reachable as u64;
    assert_eq!(space.total_blocks - space.free_blocks, used, "{space:?}");
}

/// A volume with a root and some children, both durable.
#[derive(Clone, Default)]
pub(super) struct Volume {
    pub(super) bytes: Vec<u8>,
    pub(super) root: Option<BlockPtr>,
    pub(super) children: Vec<Child>,
}

impl Volume {
    /// Made in a run of the checker of its own, because the store's atomics exist only there.
    pub(super) fn new(children: u64) -> Self {
        let made = Arc::new(Mutex::new(Self::default()));
        let to = Arc::clone(&made);
        runner(RandomScheduler::new(1)).run(move || *to.lock().unwrap() = Self::make(children));
        let volume = made.lock().unwrap().clone();
        volume
    }

    fn make(children: u64) -> Self {
        let memory = memory::<4>();
        let disk = Disk::new(vec![0; (2 + 2 * (ARENA_BLOCKS + 2)) * BLOCK], 4);
        let options = FormatOptions { block_size: BlockSize::MIN, arenas: 2, force: false };
        let store = Store::format(memory.take().unwrap(), &disk, &Cooperative, options).unwrap();
        let children: Vec<_> = (0..children).map(|id| write_as(&store, id, Class::Reclaim).unwrap()).collect();
        let root = write_root(&store, &children).unwrap();
        store.commit(store.roots().with_root(Some(root), 1)).unwrap();
        store.settle().unwrap();
        check_space(&store, children.len() + 1);
        drop(store);
        Self { bytes: disk.crash(), root: Some(root), children }
    }
}

pub(super) fn mount<'d, 'm, const QUEUE: usize>(memory: &'m Tiny<QUEUE>, disk: &'d Disk<'m>) -> Store<'d, 'm> {
    match Store::mount(memory.take().unwrap(), disk, &Cooperative, MountOptions::default()) {
        Ok(store) => store,
        Err(failed) => panic!("mount: {}", failed.error),
    }
}

/// Mounts an image anew and looks at it.
pub(super) fn remount<R>(image: Vec<u8>, look: impl FnOnce(&Store<'_, '_>) -> R) -> R {
    let memory = memory::<4>();
    let disk = Disk::new(image, 4);
    let store = mount(&memory, &disk);
    look(&store)
}

fn runner<S: shuttle::scheduler::Scheduler + 'static>(scheduler: S) -> shuttle::Runner<S> {
    let mut config = shuttle::Config::new();
    // A memory value is built on the stack on its way to the heap.
    config.stack_size = 1 << 20;
    // Enough for every test here by a factor of ten; whoever needs more hangs.
    config.max_steps = shuttle::MaxSteps::FailAfter(200_000);
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    config.silence_warnings = true;
    shuttle::Runner::new(scheduler, config)
}

/// Runs a test under so many random schedules, and so many by changing priorities, and says how many these were.
pub(crate) fn explore(name: &str, random: usize, pct: usize, test: impl Fn() + Send + Sync + 'static) {
    let scale = std::env::var("ARENITE_SHUTTLE_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1);
    let test = Arc::new(test);
    let points = Arc::new(Mutex::new((0, 0)));
    let body = || {
        let (test, points) = (Arc::clone(&test), Arc::clone(&points));
        move || {
            test();
            let mut points = points.lock().unwrap();
            points.0 += 1;
            points.1 += shuttle::current::context_switches();
        }
    };
    runner(RandomScheduler::new(random * scale)).run(body());
    runner(PctScheduler::new(PCT_DEPTH, pct * scale)).run(body());
    let (schedules, switches) = *points.lock().unwrap();
    assert_eq!(schedules, (random + pct) * scale);
    std::println!(
        "{name}: {} random schedules, {} of depth {PCT_DEPTH}, {} scheduling points each",
        random * scale,
        pct * scale,
        switches / schedules.max(1)
    );
}
