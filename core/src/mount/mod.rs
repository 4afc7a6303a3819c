//! Mount: from the bytes of a device to the state of the last durable commit, one block at a time. Writes nothing; it
//! ends with a flush, unless it is for reading only.
//!
//! ```text
//!   superblock at 0, superblock at the end   -> the valid one of the higher generation wins
//!     each arena: header copy A, copy B      -> the one whose hash the superblock names
//!       each log block, head to end          -> free map
//! ```
//!
//! If the newest valid superblock's headers or logs do not resolve, the volume is damaged, and mount says where; it
//! never falls back to older state by itself. A bad or lagging second copy is noted, and repaired by the first commit.
//!
//! # Where a log ends
//! If the superblock's extension says that the last commit was ours, a sealed header tells how many blocks its log
//! has, and their digest; anything else is damage. Otherwise the rule of the original holds: replay stops at the first
//! barrier of the committed generation or a later one, or at the end of the chain. What is behind the stop never
//! happened; but a later commit of the same number could make it so, so the first commit writes such a log anew.
//!
//! # Bounds
//! At most 7 reads of superblocks, two of headers for each arena, and one of each log block; a log cannot have more
//! blocks than its arena, because a block that comes twice is damage.

// Without a heap there is nothing to box a large error in, and it is the memory itself that comes back.
#![allow(clippy::result_large_err)]

mod headers;
mod lanes;
mod logs;
mod superblocks;

use crate::arena::{ArenaState, Arenas};
use crate::cache::Cache;
use crate::commit::Commit;
use crate::device::{drain, Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request};
use crate::epoch::Epochs;
use crate::error::{Damage, DeviceOp, Error, MemoryPart, Stop};
use crate::format::{BlockSize, FormatError, SuperHead, NONE};
use crate::freemap::FreeMap;
use crate::memory::{Resources, Vacancies, COMMIT_FRAMES, PROBE_LEN_BYTES, RECLAIM_FRAMES};
use crate::platform::Platform;
use crate::pool::{Pool, Slot};
use crate::roots::Roots;
use crate::sabotage::{sabotaged, Switch};
use crate::store::{Engine, Store};
use crate::sync::{AtomicBool, AtomicU32, Lock};
use lanes::{Lane, LANES};
use logs::Walk;

/// How to mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Refuse everything that would write.
    pub read_only: bool,
    /// Tell the device which blocks a commit has freed, if it understands that.
    pub discard: bool,
    /// Mount although a header, log or root is damaged, for reading as far as pointers lead. Counts only with
    /// `read_only`. All of an arena that is damaged counts as in use.
    pub damaged: bool,
    /// Relaxations for which a call waits for a worker to leave its epoch before it returns [`Error::Stalled`]; 0
    /// stands for a million.
    pub patience_relaxations: u32,
}

/// What mount found of one copy of the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyState {
    /// Valid and of the newest generation.
    Good,
    /// Valid, of this older generation: a commit was cut off before it wrote this copy.
    Lagging {
        /// Its generation.
        generation: u64,
    },
    /// Not a superblock.
    Bad(FormatError),
    /// The device could not read it.
    Unreadable(DeviceError),
}

impl core::fmt::Display for CopyState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Good => f.write_str("ok"),
            Self::Lagging { generation } => write!(f, "lags behind at generation {generation}"),
            Self::Bad(error) => error.fmt(f),
            Self::Unreadable(error) => error.fmt(f),
        }
    }
}

/// What mount found, as far as it is not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountReport {
    /// The superblock at the start and the one at the end.
    pub superblocks: [CopyState; 2],
    /// Arena headers of which one copy is not good.
    pub bad_header_copies: u32,
    /// Whether this code wrote the last commit, so that lost and stale log writes were looked for.
    pub sealed: bool,
    /// Log blocks that mount read.
    pub log_blocks: u64,
    /// Number of arenas.
    pub arenas: u32,
    /// Blocks that count as in use because the original was killed while it wrote a log, so that nobody can tell. The
    /// logs say that they are free; mounted for reading only, they count as free.
    pub doubtful_blocks: u32,
    /// Arenas whose header or log is damaged; not 0 only if that was allowed. All of them counts as in use.
    pub damaged_arenas: u32,
    /// What is wrong with the first of them; or, without any, that the superblock points to a block that is not in use.
    pub damage: Option<Error>,
    /// Mounted for reading only.
    pub read_only: bool,
}

/// One arena, as [`Store::arena`] shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaInfo {
    /// Byte address of its first header.
    pub addr: u64,
    /// Bytes behind its two headers.
    pub size_bytes: u64,
    /// Bytes that are free in the newest commit that was begun.
    pub free_bytes: u64,
    /// Pieces that these bytes are in.
    pub free_ranges: u32,
    /// Bytes that can be handed out now to one class or another, what is kept back for the log included.
    pub avail_bytes: u64,
    /// What is kept back of these for the log and for [`crate::Class::Reclaim`]: new content gets none of it.
    pub reserve_bytes: u64,
    /// The part of that which is for the log alone.
    pub log_reserve_bytes: u64,
    /// Byte address of the first log block.
    pub log_addr: u64,
    /// Blocks of its log.
    pub log_blocks: u32,
    /// Which header copies, first and second, are known to be good.
    pub copies_good: [bool; 2],
}

/// A volume that could not be mounted.
#[derive(Debug)]
pub struct Failed<'m> {
    /// Why.
    pub error: Error,
    /// The memory, if no part of it was used yet: so it is when the device holds no volume, or one that needs more.
    pub memory: Option<Resources<'m>>,
}

impl core::fmt::Display for Failed<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.error.fmt(f)
    }
}

impl core::error::Error for Failed<'_> {}

/// The block that a lane waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nothing more for this lane.
    Idle,
    /// A superblock: its number among the candidates (0 is the one at the start).
    Superblock {
        candidate: usize,
    },
    /// Copy 0 or 1 of an arena header.
    Header {
        arena: usize,
        copy: u8,
    },
    /// A block of an arena's log.
    Log {
        arena: usize,
        walk: Walk,
    },
    /// What was read may be in the device's cache alone; it must be durable before anything is written.
    Flush,
    Done,
}

/// A mount in progress: the form for executors. [`Store::mount`] is a loop over it.
pub struct Mounting<'d, 'm> {
    device: &'d dyn Device<'m>,
    platform: &'m dyn Platform,
    options: MountOptions,
    geometry: DeviceGeometry,
    /// Taken when the superblock is found to fit.
    memory: Option<Resources<'m>>,
    engine: Option<&'m Engine<'m>>,
    /// What the store will be put into; taken from the memory.
    vacancies: Option<Vacancies<'m>>,
    /// Of the lane that is looked at.
    stage: Stage,
    /// The first alone reads superblocks, and the last that is not idle flushes.
    lanes: [Lane; LANES],
    /// The first arena that no lane has begun.
    next_arena: usize,
    /// The last step found nothing to do.
    idle: bool,
    flush_tag: FlushTag,
    unsent: Option<Request<'m>>,
    supers: [CopyState; 2],
    head: Option<SuperHead>,
    /// Of the superblock that counts.
    fingerprint: u64,
    sealed: bool,
    bad_header_copies: u32,
    log_blocks: u64,
    doubtful_blocks: u32,
    /// The superblock points to this block, which holds a log.
    root_in_log: Option<u64>,
    damaged_arenas: u32,
    damage: Option<Error>,
    words_used: usize,
    /// Why the mount has come to an end.
    error: Option<Error>,
}

impl<'d, 'm> Mounting<'d, 'm> {
    /// Prepares a mount; [`Mounting::step`] does it.
    pub fn new(
        memory: Resources<'m>,
        device: &'d dyn Device<'m>,
        platform: &'m dyn Platform,
        options: MountOptions,
    ) -> Self {
        let none = CopyState::Bad(FormatError::BufferLen { got_bytes: 0, want_bytes: PROBE_LEN_BYTES });
        Self {
            device,
            platform,
            options,
            geometry: device.geometry(),
            memory: Some(memory),
            engine: None,
            vacancies: None,
            stage: Stage::Superblock { candidate: 0 },
            lanes: core::array::from_fn(|lane| Lane {
                stage: if lane == 0 { Stage::Superblock { candidate: 0 } } else { Stage::Idle },
                reading: false,
            }),
            next_arena: 0,
            idle: false,
            flush_tag: FlushTag::fresh(),
            unsent: None,
            supers: [none; 2],
            head: None,
            fingerprint: 0,
            sealed: false,
            bad_header_copies: 0,
            log_blocks: 0,
            doubtful_blocks: 0,
            root_in_log: None,
            damaged_arenas: 0,
            damage: None,
            words_used: 0,
            error: None,
        }
    }

    /// Does a bounded piece of work. `Ok(None)` means: call again (after [`Platform::relax`], if nothing else is to be
    /// done).
    ///
    /// # Errors
    /// The volume cannot be mounted, see [`Failed`]. Calling again after an error or a store gives an error.
    pub fn step(&mut self) -> Result<Option<Store<'d, 'm>>, Failed<'m>> {
        match self.try_step() {
            Ok(false) => Ok(None),
            Ok(true) => self.finish().map(Some).map_err(|Stop| self.failed()),
            Err(Stop) => Err(self.failed()),
        }
    }

    #[inline(never)]
    fn failed(&mut self) -> Failed<'m> {
        // Without a place for it there will be no store, whatever was read: a further step must not go on to the end.
        (self.stage, self.vacancies) = (Stage::Done, None);
        Failed { error: self.error.take().unwrap_or(Error::NoBuffer), memory: self.memory.take() }
    }

    /// Notes why the mount ends.
    #[cold]
    #[inline(never)]
    fn stop(&mut self, error: Error) -> Stop {
        self.error = Some(error);
        Stop
    }

    /// The same for a block at `addr` that does not decode.
    #[cold]
    #[inline(never)]
    fn stop_format(&mut self, addr: u64, error: FormatError) -> Stop {
        self.stop(Error::format(addr, error))
    }

    /// The same for a contradiction at `addr`.
    #[cold]
    #[inline(never)]
    fn stop_corrupt(&mut self, addr: u64, damage: Damage) -> Stop {
        self.stop(Error::corrupt(addr, damage))
    }

    /// The same for a memory of which a part does not suffice.
    #[cold]
    #[inline(never)]
    fn stop_too_small(&mut self, part: MemoryPart, need: usize, have: usize) -> Stop {
        self.stop(too_small(part, need as u64, have as u64))
    }

    fn try_step(&mut self) -> Result<bool, Stop> {
        if self.stage == Stage::Done {
            return Ok(true);
        }
        self.idle = !self.ask()?;
        let Some(completion) = self.device.poll() else { return Ok(self.stage == Stage::Done) };
        self.idle = false;
        match completion {
            // Whatever is not ours was asked for by an earlier store.
            Completion::Transfer(request, result) if self.is_ours(&request) => {
                let addr = request.addr();
                let reader = |lane: &Lane| lane.reading && self.stage_addr(lane.stage) == addr;
                let lane = self.lanes.iter().position(reader).unwrap_or(LANES);
                self.stage = self.lanes.get(lane).map_or(Stage::Idle, |lane| lane.stage);
                self.leave(lane, false);
                self.take(request.into_slot(), result)?;
                self.leave(lane, false);
            }
            Completion::Flush(tag, result) if tag == self.flush_tag && self.flushes() => {
                self.lanes.iter_mut().for_each(|lane| lane.reading = false);
                result.map_err(|cause| self.stop(Error::Device { op: DeviceOp::Flush, addr: 0, cause }))?;
                self.stage = Stage::Done;
            }
            Completion::Transfer(..) | Completion::Flush(..) => {}
        }
        Ok(self.stage == Stage::Done)
    }

    fn is_ours(&self, request: &Request<'m>) -> bool {
        self.engine.as_ref().is_some_and(|engine| request.is_of(&engine.pool))
            || self.memory.as_ref().is_some_and(|memory| request.is_of(&memory.probe))
    }

    fn read_only(&self) -> bool {
        self.options.read_only || self.geometry.read_only
    }

    /// The block is here, or cannot be read.
    #[inline(never)]
    fn take(&mut self, slot: Option<Slot<'m>>, result: Result<(), DeviceError>) -> Result<(), Stop> {
        match self.stage {
            Stage::Superblock { candidate } => self.take_superblock(candidate, slot, result),
            Stage::Header { arena, copy } => {
                let taken = self.take_header(arena, copy, slot, result);
                self.tolerate(arena, taken)
            }
            Stage::Log { arena, walk } => {
                let taken = self.take_log(arena, walk, slot, result);
                self.tolerate(arena, taken)
            }
            Stage::Idle | Stage::Flush | Stage::Done => Ok(()),
        }
    }

    /// Goes on behind a damaged arena if that is wanted: everything in it counts as in use.
    fn tolerate(&mut self, arena: usize, taken: Result<(), Stop>) -> Result<(), Stop> {
        let Some(Error::Corrupt { addr, .. } | Error::Device { addr, .. }) = self.error else { return taken };
        if !self.takes_damaged() {
            return taken;
        }
        self.damaged_arenas += 1;
        self.go_on();
        self.give_up(arena, addr)
    }

    fn takes_damaged(&self) -> bool {
        self.options.damaged && self.options.read_only
    }

    /// What would have ended the mount is reported by it.
    #[cold]
    #[inline(never)]
    fn go_on(&mut self) {
        if self.damage.is_none() {
            self.damage = self.error;
        }
        self.error = None;
    }
}

impl<'d, 'm> Mounting<'d, 'm> {
    /// What the superblock points to must be in use. (Read without keeping what a killed original may still need, it
    /// may not seem so.)
    fn check_roots(&mut self, engine: &Engine<'m>) -> Result<(), Stop> {
        for addr in self.head.as_ref().map_or([NONE; 3], SuperHead::pointers) {
            if addr == NONE || self.damaged_arenas != 0 {
                continue;
            }
            let in_use = engine.arenas.locate(addr).is_some_and(|place| {
                let in_use =
                    |state: &mut ArenaState, map: &FreeMap<'_>| state.in_doubt || !map.is_free_in_flight(place.index);
                self.root_in_log != Some(addr) && engine.arenas.with(place.arena, in_use)
            });
            if in_use {
                continue;
            }
            let stop = self.stop_corrupt(addr, Damage::RootFree);
            if !self.takes_damaged() {
                return Err(stop);
            }
            self.go_on();
        }
        Ok(())
    }

    /// The second superblock is never newer than the first. If the first cannot be read, the second may be older than
    /// what was acknowledged; then some header copy is not the one that it names. (A first superblock that can be read
    /// and is none was torn, before anything was acknowledged by it.)
    fn check_superblock(&mut self, engine: &Engine<'m>) -> Result<(), Stop> {
        let CopyState::Unreadable(cause) = self.supers[0] else { return Ok(()) };
        let agree = (0..engine.arenas.len()).all(|arena| engine.arenas.with(arena, |state, _| state.bad_copies == 0));
        if agree || self.read_only() || sabotaged(Switch::TrustSecondSuperblock) {
            return Ok(());
        }
        Err(self.stop(Error::Device { op: DeviceOp::Read, addr: 0, cause }))
    }

    #[inline(never)]
    fn finish(&mut self) -> Result<Store<'d, 'm>, Stop> {
        // The engine stays: by it the end of a mount that has failed tells the requests that are still under way.
        let (Some(engine), Some(vacancies)) = (self.engine, self.vacancies.take()) else { return Err(Stop) };
        self.check_superblock(engine)?;
        self.check_roots(engine)?;
        let Some(head) = &self.head else { return Err(Stop) };
        let bad = |copy: usize| u8::from(self.supers[copy] != CopyState::Good) << copy;
        let second = Self::second_superblock_addr(self.geometry.len_bytes, engine.size);
        let commit = Commit::new(head.qgen, Roots::from(head), second, bad(0) | bad(1));
        let report = MountReport {
            superblocks: self.supers,
            bad_header_copies: self.bad_header_copies,
            sealed: self.sealed,
            log_blocks: self.log_blocks,
            arenas: head.narena,
            doubtful_blocks: self.doubtful_blocks,
            damaged_arenas: self.damaged_arenas,
            damage: self.damage,
            read_only: self.read_only(),
        };
        Ok(Store::new(engine, vacancies, self.device, commit, report, self.options.patience_relaxations))
    }
}

/// Fewest buffers: those of the commit, those of reclaim, and a few for callers.
pub(crate) const MIN_FRAMES: u32 = COMMIT_FRAMES + RECLAIM_FRAMES + 4;

pub(crate) fn too_small(part: MemoryPart, need: u64, have: u64) -> Error {
    Error::MemoryTooSmall { part, need, have }
}

/// The parts of a store over memory that was found to suffice.
#[inline(never)]
pub(crate) fn build_engine<'m>(
    memory: Resources<'m>,
    size: BlockSize,
    arenas: u32,
    discards: bool,
    platform: &'m dyn Platform,
) -> (&'m Engine<'m>, Vacancies<'m>) {
    let pool = Pool::new(memory.area, size, memory.pool);
    let cache = Cache::new(pool, pool.len().saturating_sub(COMMIT_FRAMES), platform);
    let engine = memory.engine.fill(Engine {
        size,
        pool,
        cache,
        arenas: Arenas::new(memory.arenas, arenas as usize, memory.words, size, platform),
        queue: memory.queue,
        limbo: memory.limbo,
        limbo_promised: AtomicU32::new(0),
        in_limbo: AtomicU32::new(0),
        epochs: Epochs::new(memory.workers),
        no_more_workers: AtomicBool::new(false),
        platform,
        pending: [AtomicU32::new(0), AtomicU32::new(0)],
        batch: AtomicU32::new(1),
        #[cfg(feature = "trace")]
        trace: memory.trace,
        discards,
        read_only: AtomicBool::new(false),
        failure: Lock::new(None),
    });
    (engine, memory.vacancies)
}

impl<'d, 'm> Store<'d, 'm> {
    /// Mounts the volume on a device, writing nothing.
    ///
    /// # Errors
    /// [`Error::NotAVolume`], [`Error::Corrupt`], [`Error::MemoryTooSmall`], [`Error::Geometry`], [`Error::Device`].
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    pub fn mount(
        memory: Resources<'m>,
        device: &'d dyn Device<'m>,
        platform: &'m dyn Platform,
        options: MountOptions,
    ) -> Result<Self, Failed<'m>> {
        let mut mounting = Mounting::new(memory, device, platform, options);
        loop {
            match mounting.try_step() {
                Ok(false) => {}
                Ok(true) => return mounting.finish().map_err(|Stop| mounting.failed()),
                Err(Stop) => return Err(mounting.failed()),
            }
            if mounting.idle {
                platform.relax();
            }
        }
    }
}

impl Drop for Mounting<'_, '_> {
    /// Waits, like a store that is dropped, until the device has given the buffers back.
    fn drop(&mut self) {
        let mut left = self.in_flight();
        if left > 0 {
            drain(self.device, self.platform, &mut |completion| {
                left -= usize::from(match completion {
                    Completion::Transfer(request, _) => self.is_ours(&request),
                    Completion::Flush(tag, _) => tag == self.flush_tag,
                });
                left > 0
            });
        }
    }
}

impl core::fmt::Debug for Mounting<'_, '_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Mounting").field("stage", &self.stage).finish_non_exhaustive()
    }
}
