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
//! At most 9 reads of superblocks, two of headers for each arena, and one of each log block; a log cannot have more
//! blocks than its arena, because a block that comes twice is damage.

// Without a heap there is nothing to box a large error in, and it is the memory itself that comes back.
#![allow(clippy::result_large_err)]

use crate::arena::Arenas;
use crate::cache::Cache;
use crate::commit::Commit;
use crate::device::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Purpose, Request};
use crate::error::{Damage, DeviceOp, Error, MemoryPart};
use crate::format::{
    chain_digest, restore_sealed, ArenaHeader, BlockSize, BlockType, Extension, FormatError, Leaf, LogBlock, LogEntry,
    LogSeal, Pivot, SuperHead, Superblock, CHAIN_DIGEST_START, NONE,
};
use crate::freemap::FreeMap;
use crate::hash::hash64;
use crate::memory::{Resources, COMMIT_FRAMES, PROBE_LEN_BYTES};
use crate::platform::Platform;
use crate::pool::{Pool, Slot, SlotChain};
use crate::roots::Roots;
use crate::sabotage::{sabotaged, Switch};
use crate::store::{Engine, Store};
use crate::sync::{AtomicBool, AtomicU32};

/// Block sizes that a superblock at the end of the device may have, when the one at its start does not tell. Ascending: the
/// place for a size smaller than the right one lies inside or behind the superblock, that for a larger one among the
/// blocks of callers, who may have put anything there.
const GUESSES: [u32; 6] = [2048, 4096, 8192, 16384, 32768, 65536];

/// How to mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Refuse everything that would write.
    pub read_only: bool,
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

/// The content of a final block must be of the type that it was allocated for.
pub(crate) fn check_type(bytes: &[u8], block_type: BlockType) -> Result<(), FormatError> {
    let size = u32::try_from(bytes.len()).ok().and_then(BlockSize::new).unwrap_or(BlockSize::MIN);
    match block_type {
        BlockType::Data => Ok(()),
        BlockType::Leaf => Leaf::parse(bytes, size).map(drop),
        BlockType::Pivot => Pivot::parse(bytes, size).map(drop),
        BlockType::DeadList => crate::format::DeadListBlock::decode(bytes, size).map(drop),
        other => Err(FormatError::BlockType { found: other as u16, want: Some(BlockType::Data) }),
    }
}

/// The block that mount waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
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

/// How far the replay of one log got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Walk {
    addr: u64,
    blocks: u32,
    digest: u64,
    last_barrier: u64,
    /// Words of free map that entries touched, beyond one each.
    extra_words: u64,
    /// Something was freed since that barrier.
    doubtful: bool,
    /// Allocations and frees so far.
    entries: u64,
    /// The volume is as the original formats it, without a commit.
    unborn: bool,
}

/// A mount in progress: the form for executors. [`Store::mount`] is a loop over it.
pub struct Mounting<'d, 'm> {
    device: &'d dyn Device<'m>,
    platform: &'m dyn Platform,
    options: MountOptions,
    geometry: DeviceGeometry,
    /// Taken when the superblock is found to fit.
    memory: Option<Resources<'m>>,
    engine: Option<Engine<'m>>,
    stage: Stage,
    reading: bool,
    flush_tag: FlushTag,
    unsent: Option<Request<'m>>,
    supers: [CopyState; 2],
    head: Option<SuperHead>,
    sealed: bool,
    bad_header_copies: u32,
    log_blocks: u64,
    doubtful_blocks: u32,
    /// Some log is in doubt, and the mount is for reading only.
    in_doubt: bool,
    words_used: usize,
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
            stage: Stage::Superblock { candidate: 0 },
            reading: false,
            flush_tag: FlushTag::fresh(),
            unsent: None,
            supers: [none; 2],
            head: None,
            sealed: false,
            bad_header_copies: 0,
            log_blocks: 0,
            doubtful_blocks: 0,
            in_doubt: false,
            words_used: 0,
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
            Ok(true) => match self.finish() {
                Ok(store) => Ok(Some(store)),
                Err(error) => Err(Failed { error, memory: None }),
            },
            Err(error) => {
                self.stage = Stage::Done;
                Err(Failed { error, memory: self.memory.take() })
            }
        }
    }

    fn try_step(&mut self) -> Result<bool, Error> {
        if self.stage == Stage::Done {
            return Ok(true);
        }
        if !self.reading {
            return match self.stage {
                Stage::Flush => self.flush().map(|()| self.stage == Stage::Done),
                _ => self.submit().map(|()| false),
            };
        }
        if let Some(request) = self.unsent.take() {
            self.unsent = self.device.submit(request).err();
            return Ok(false);
        }
        match self.device.poll() {
            // Whatever is not ours was asked for by an earlier store.
            Some(Completion::Transfer(request, result)) if self.is_ours(&request) => {
                self.reading = false;
                let slot = request.into_slot();
                self.take(slot, result)?;
                Ok(self.stage == Stage::Done)
            }
            Some(Completion::Flush(tag, result)) if self.stage == Stage::Flush && tag == self.flush_tag => {
                self.reading = false;
                result.map_err(|cause| Error::Device { op: DeviceOp::Flush, addr: 0, cause })?;
                self.stage = Stage::Done;
                Ok(true)
            }
            Some(_) | None => Ok(false),
        }
    }

    fn is_ours(&self, request: &Request<'m>) -> bool {
        self.engine.as_ref().is_some_and(|engine| request.is_of(&engine.pool))
            || self.memory.as_ref().is_some_and(|memory| request.is_of(&memory.probe))
    }

    fn read_only(&self) -> bool {
        self.options.read_only || self.geometry.read_only
    }

    /// After a crash of the kernel alone the device still has its cache: what mount saw need not be durable, and the
    /// first commit would overwrite the copies that are.
    fn flush(&mut self) -> Result<(), Error> {
        if self.read_only() || sabotaged(Switch::SkipFlushAtMount) {
            self.stage = Stage::Done;
            return Ok(());
        }
        self.reading = self.device.flush(self.flush_tag).is_ok();
        Ok(())
    }

    /// Reads the block that the stage wants.
    fn submit(&mut self) -> Result<(), Error> {
        let (pool, addr) = match (&self.engine, &self.memory) {
            (Some(engine), _) => (engine.pool, self.stage_addr(engine)),
            (None, Some(memory)) => (memory.probe, self.superblock_addr()),
            (None, None) => return Err(Error::ReadOnly),
        };
        let end = addr.saturating_add(pool.block_size().len_u64());
        if end > self.geometry.len_bytes {
            return match self.stage {
                Stage::Superblock { candidate } => self.take_short_device(candidate),
                _ => Err(Error::corrupt(addr, Damage::ArenaExtent)),
            };
        }
        let slot = (0..pool.len()).find_map(|index| pool.claim(pool.id(index)?)).ok_or(Error::NoBuffer)?;
        let request = Request::read(addr, pool.block_size().len_bytes(), SlotChain::new(slot), Purpose::Private);
        self.reading = true;
        self.unsent = self.device.submit(request).err();
        Ok(())
    }

    fn stage_addr(&self, engine: &Engine<'m>) -> u64 {
        match self.stage {
            Stage::Header { arena, copy } => engine.arenas.base_addr(arena) + u64::from(copy) * engine.size.len_u64(),
            Stage::Log { walk, .. } => walk.addr,
            Stage::Superblock { .. } | Stage::Flush | Stage::Done => 0,
        }
    }

    /// The block is here, or cannot be read.
    fn take(&mut self, slot: Option<Slot<'m>>, result: Result<(), DeviceError>) -> Result<(), Error> {
        match self.stage {
            Stage::Superblock { candidate } => self.take_superblock(candidate, slot, result),
            Stage::Header { arena, copy } => self.take_header(arena, copy, slot, result),
            Stage::Log { arena, walk } => self.take_log(arena, walk, slot, result),
            Stage::Flush | Stage::Done => Ok(()),
        }
    }
}

/// Superblocks.
impl<'d, 'm> Mounting<'d, 'm> {
    /// Where the second superblock of a device of this size is.
    pub(crate) fn second_superblock_addr(len_bytes: u64, size: BlockSize) -> u64 {
        (len_bytes - len_bytes % size.len_u64()).saturating_sub(size.len_u64())
    }

    /// The block size that the candidate has: that of the first superblock, if it is one, and guesses otherwise.
    fn candidate_size(&self, candidate: usize) -> BlockSize {
        let guess = GUESSES.get(candidate.wrapping_sub(1)).copied().and_then(BlockSize::new);
        self.head.map_or(guess.unwrap_or(BlockSize::ORIGINAL), |head| head.block_size)
    }

    /// Where to read; a superblock near the end of the device is read with what is in front of it.
    fn superblock_addr(&self) -> u64 {
        match self.stage {
            Stage::Superblock { candidate } if candidate > 0 => {
                let addr = Self::second_superblock_addr(self.geometry.len_bytes, self.candidate_size(candidate));
                addr.min(self.geometry.len_bytes.saturating_sub(PROBE_LEN_BYTES as u64))
            }
            _ => 0,
        }
    }

    /// The device is too small for what mount would read.
    fn take_short_device(&mut self, candidate: usize) -> Result<(), Error> {
        let (got_bytes, want_bytes) = (self.geometry.len_bytes as usize, PROBE_LEN_BYTES);
        self.supers[usize::from(candidate > 0)] = CopyState::Bad(FormatError::BufferLen { got_bytes, want_bytes });
        self.superblocks_read()
    }

    fn take_superblock(
        &mut self,
        candidate: usize,
        slot: Option<Slot<'m>>,
        result: Result<(), DeviceError>,
    ) -> Result<(), Error> {
        let size = self.candidate_size(candidate);
        let addr = if candidate == 0 { 0 } else { Self::second_superblock_addr(self.geometry.len_bytes, size) };
        let skip = addr.saturating_sub(self.superblock_addr()) as usize;
        let copy = usize::from(candidate > 0);
        match (slot, result) {
            (Some(slot), Ok(())) => match Superblock::decode_front(slot.bytes().get(skip..).unwrap_or(&[])) {
                Ok(superblock) if candidate == 0 || superblock.head().block_size == size => {
                    self.adopt(copy, &superblock)?;
                }
                Ok(_) => {}
                // Among several guesses the first reason counts that is not just that something else is there.
                Err(error) => {
                    if let CopyState::Bad(FormatError::Magic { .. } | FormatError::BufferLen { .. }) = self.supers[copy]
                    {
                        self.supers[copy] = CopyState::Bad(error);
                    }
                }
            },
            (_, Err(error)) => self.supers[copy] = CopyState::Unreadable(error),
            (None, Ok(())) => {}
        }
        let found = matches!(self.supers[1], CopyState::Good | CopyState::Lagging { .. });
        let last = if self.supers[0] == CopyState::Good { 1 } else { GUESSES.len() };
        if candidate < last && !(candidate > 0 && found) {
            self.stage = Stage::Superblock { candidate: candidate + 1 };
            return Ok(());
        }
        self.superblocks_read()
    }

    /// Notes a valid superblock; the newest one's arenas are remembered.
    fn adopt(&mut self, copy: usize, superblock: &Superblock<'_>) -> Result<(), Error> {
        let head = *superblock.head();
        if let Some(other) = self.head {
            if head.qgen <= other.qgen {
                let same = head.qgen == other.qgen;
                self.supers[copy] = if same { CopyState::Good } else { CopyState::Lagging { generation: head.qgen } };
                return Ok(());
            }
            self.supers[copy ^ 1] = CopyState::Lagging { generation: other.qgen };
        }
        self.supers[copy] = CopyState::Good;
        self.head = Some(head);
        self.sealed = matches!(superblock.extension(), Extension::Ours { .. });
        let Some(memory) = &self.memory else { return Ok(()) };
        let have = memory.arenas.len() as u64;
        if u64::from(head.narena) > have {
            return Err(too_small(MemoryPart::Arenas, u64::from(head.narena), have));
        }
        for (index, arena) in superblock.arenas().enumerate() {
            let Some(slot) = memory.arenas.get(index) else { break };
            slot.note(arena.header_addr >> head.block_size.shift(), arena.header_hash, self.platform);
        }
        Ok(())
    }

    /// Builds everything whose size depends on the block size.
    fn superblocks_read(&mut self) -> Result<(), Error> {
        let Some(head) = self.head else {
            let why = |copy: CopyState| match copy {
                CopyState::Bad(error) => Ok(error),
                CopyState::Unreadable(cause) => Err(Error::Device { op: DeviceOp::Read, addr: 0, cause }),
                CopyState::Good | CopyState::Lagging { .. } => Ok(FormatError::Full),
            };
            let second = why(self.supers[1]).ok();
            return Err(Error::NotAVolume { first: why(self.supers[0])?, second });
        };
        let size = head.block_size;
        let sector = u64::from(self.geometry.physical_sector_len_bytes);
        if sector > size.len_u64() {
            return Err(Error::Geometry { need_bytes: sector, have_bytes: size.len_u64() });
        }
        if self.geometry.len_bytes >> size.shift() > u64::from(u32::MAX) {
            let have_bytes = u64::from(u32::MAX) << size.shift();
            return Err(Error::Geometry { need_bytes: self.geometry.len_bytes, have_bytes });
        }
        let most = u64::from(self.geometry.max_transfer_len_bytes);
        if most < size.len_u64() {
            return Err(Error::Geometry { need_bytes: size.len_u64(), have_bytes: most });
        }
        let have = self.memory.as_ref().map_or(0, |memory| memory.area.capacity(size));
        if have < MIN_FRAMES {
            return Err(too_small(MemoryPart::Buffers, u64::from(MIN_FRAMES), u64::from(have)));
        }
        let Some(memory) = self.memory.take() else { return Err(Error::NoBuffer) };
        let second = Self::second_superblock_addr(self.geometry.len_bytes, size);
        self.engine = Some(build_engine(memory, size, head.narena, second, self.platform));
        self.stage = Stage::Header { arena: 0, copy: 0 };
        Ok(())
    }
}

/// Fewest buffers: those of the commit, and as many for callers.
pub(crate) const MIN_FRAMES: u32 = 2 * COMMIT_FRAMES;

fn too_small(part: MemoryPart, need: u64, have: u64) -> Error {
    Error::MemoryTooSmall { part, need, have }
}

/// The parts of a store over memory that was found to suffice.
pub(crate) fn build_engine<'m>(
    memory: Resources<'m>,
    size: BlockSize,
    arenas: u32,
    second_superblock_addr: u64,
    platform: &'m dyn Platform,
) -> Engine<'m> {
    let pool = Pool::new(memory.area, size);
    let cache = Cache::new(pool, pool.len().saturating_sub(COMMIT_FRAMES), platform);
    let slots = memory.arenas.get(..arenas as usize).unwrap_or(memory.arenas);
    Engine {
        size,
        pool,
        cache,
        arenas: Arenas::new(slots, memory.words, size, platform),
        queue: memory.queue,
        platform,
        second_superblock_addr,
        pending: [AtomicU32::new(0), AtomicU32::new(0)],
        read_only: AtomicBool::new(false),
    }
}

/// Arena headers.
impl<'d, 'm> Mounting<'d, 'm> {
    fn take_header(
        &mut self,
        arena: usize,
        copy: u8,
        slot: Option<Slot<'m>>,
        result: Result<(), DeviceError>,
    ) -> Result<(), Error> {
        let Some(engine) = &self.engine else { return Err(Error::NoBuffer) };
        let expected = engine.arenas.with(arena, |state, _| state.log.header_hash);
        let base = engine.arenas.base_addr(arena);
        let matching = match (&slot, result) {
            (Some(slot), Ok(())) => {
                hash64(slot.bytes()) == expected || (sabotaged(Switch::SkipHeaderHash) && copy == 0)
            }
            _ => false,
        };
        let first_good = copy == 1 && engine.arenas.with(arena, |state, _| state.bad_copies & 1 == 0);
        if !matching {
            engine.arenas.with(arena, |state, _| state.bad_copies |= 1 << copy);
            self.bad_header_copies += 1;
            if copy == 1 && !first_good {
                return Err(Error::corrupt(base, Damage::Header { expected }));
            }
        }
        if let (true, false, Some(slot)) = (matching, first_good, &slot) {
            let header =
                ArenaHeader::decode(slot.bytes(), engine.size, base).map_err(|error| Error::format(base, error))?;
            self.place_arena(arena, base, &header)?;
        }
        drop(slot);
        if copy == 0 {
            self.stage = Stage::Header { arena, copy: 1 };
            return Ok(());
        }
        self.begin_log(arena);
        Ok(())
    }

    /// Gives the arena its words, and checks that its extent is where it may be.
    fn place_arena(&mut self, arena: usize, base: u64, header: &ArenaHeader) -> Result<(), Error> {
        let Some(engine) = &self.engine else { return Err(Error::NoBuffer) };
        let misplaced = Error::corrupt(base, Damage::ArenaExtent);
        let unit = engine.size.len_u64();
        let end = header.size_bytes.checked_add(2 * unit).and_then(|len| base.checked_add(len)).ok_or(misplaced)?;
        let limit = match arena + 1 < engine.arenas.len() {
            true => engine.arenas.base_addr(arena + 1).min(engine.second_superblock_addr),
            false => engine.second_superblock_addr,
        };
        let blocks = header.size_bytes >> engine.size.shift();
        if end > limit || blocks < 3 {
            return Err(misplaced);
        }
        let blocks = u32::try_from(blocks).map_err(|_| misplaced)?;
        let words_at = self.words_used;
        let need = words_at + FreeMap::words_needed(blocks);
        if need > engine.arenas.words_len() {
            // How much the rest needs is not known yet; what is known is told.
            return Err(too_small(MemoryPart::MapWords, need as u64, engine.arenas.words_len() as u64));
        }
        self.words_used = need;
        engine.arenas.place(arena, (base >> engine.size.shift()) as u32, blocks, words_at);
        let sealed = self.sealed;
        engine.arenas.with(arena, |state, map| {
            map.clear();
            state.log.head_addr = header.log_head.addr;
            state.log.used_bytes = header.used_bytes;
            state.log.seal = header.seal.filter(|_| sealed);
            // A seal that does not count now would count again once the superblock is ours.
            state.must_rewrite = header.seal.is_some() && !sealed;
        });
        Ok(())
    }

    fn begin_log(&mut self, arena: usize) {
        let Some(engine) = &self.engine else { return };
        let addr = engine.arenas.with(arena, |state, _| state.log.head_addr);
        let unborn = self.head.is_some_and(|head| head.qgen == 0);
        let digest = CHAIN_DIGEST_START;
        let walk =
            Walk { addr, blocks: 0, digest, last_barrier: 0, extra_words: 0, doubtful: false, entries: 0, unborn };
        self.stage = Stage::Log { arena, walk };
    }
}

/// What the replay of one log block came to.
#[derive(Clone, Copy)]
struct Replayed {
    /// The stopping barrier was met.
    stopped: bool,
    /// Something is behind it in the block.
    trailing: bool,
    /// The last entry was a barrier.
    ends_with_barrier: bool,
}

/// Logs.
impl<'d, 'm> Mounting<'d, 'm> {
    fn take_log(
        &mut self,
        arena: usize,
        mut walk: Walk,
        slot: Option<Slot<'m>>,
        result: Result<(), DeviceError>,
    ) -> Result<(), Error> {
        let addr = walk.addr;
        let (Some(engine), Some(head)) = (&self.engine, &self.head) else { return Err(Error::NoBuffer) };
        let mut slot = match (slot, result) {
            (Some(slot), Ok(())) => slot,
            (_, Err(cause)) => return Err(Error::Device { op: DeviceOp::Read, addr, cause }),
            (None, Ok(())) => return Err(Error::NoBuffer),
        };
        let place = engine.arenas.locate(addr).ok().filter(|place| place.arena == arena);
        let place = place.ok_or(Error::corrupt(addr, Damage::ForeignRange))?;
        if !engine.arenas.with(arena, |_, map| map.load_log_block(place.index)) {
            return Err(Error::corrupt(addr, Damage::ChainLoop));
        }
        let seal = engine.arenas.with(arena, |state, _| state.log.seal);
        let restored = match seal.filter(|seal| walk.blocks + 1 >= seal.blocks) {
            Some(seal) => restore_tail(slot.bytes_mut(), engine.size, &walk, &seal),
            None => false,
        };
        let block = LogBlock::decode(slot.bytes(), engine.size).map_err(|error| Error::format(addr, error))?;
        let stop_at = seal.map_or(head.qgen, |_| u64::MAX);
        engine.arenas.with(arena, |state, _| {
            state.log.spares |= engine.arenas.spare_bit(place);
            state.log.tail_addr = addr;
            state.log.before_tail = walk.digest;
        });
        let replayed = replay(engine, arena, &block, stop_at, &mut walk)?;
        walk.blocks += 1;
        walk.digest = chain_digest(walk.digest, addr, block.sum().hash, block.sum().len_bytes);
        self.log_blocks += 1;
        let next = block.chain();
        let at_end = match seal {
            Some(seal) => walk.blocks >= seal.blocks,
            None => replayed.stopped || next == NONE,
        };
        if !at_end {
            if next == NONE {
                return Err(Error::corrupt(addr, Damage::LogEnd));
            }
            walk.addr = next;
            self.stage = Stage::Log { arena, walk };
            return Ok(());
        }
        if let Some(seal) = seal {
            if walk.digest != seal.digest && !sabotaged(Switch::SkipLogDigest) {
                let (expected, found) = (seal.digest, walk.digest);
                return Err(Error::corrupt(addr, Damage::LogDigest { expected, found }));
            }
            let ends = replayed.ends_with_barrier && walk.last_barrier == seal.gen && addr == seal.tail_addr;
            if !ends || seal.gen > head.qgen {
                return Err(Error::corrupt(addr, Damage::LogEnd));
            }
        }
        // Something behind the end: a link of a commit that was cut off, or what the original had not committed.
        let trailing = match seal {
            Some(_) => restored || next != NONE,
            None => replayed.stopped && (replayed.trailing || next != NONE),
        };
        engine.arenas.with(arena, |state, _| {
            state.must_rewrite |= trailing;
            state.unclean = trailing && seal.is_some();
        });
        drop(slot);
        self.end_log(arena, &walk)
    }

    fn end_log(&mut self, arena: usize, walk: &Walk) -> Result<(), Error> {
        let (Some(engine), Some(head)) = (&self.engine, &self.head) else { return Err(Error::NoBuffer) };
        let (sealed, read_only, mut doubtful_blocks, mut in_doubt) = (self.sealed, self.read_only(), 0, false);
        engine.arenas.with(arena, |state, map| {
            if let Some(index) = map.load_free_log_block() {
                let addr = engine.arenas.addr(engine.arenas.at(arena, index));
                return Err(Error::corrupt(addr, Damage::LogNotInUse));
            }
            // A log of the original without the committed barrier: it was killed while it wrote over it, and what it freed
            // after the barrier before may still be part of the committed state. Lost space is better than lost data.
            let torn = state.log.seal.is_none() && !sealed && (walk.last_barrier != head.qgen || head.qgen == 0);
            in_doubt = walk.doubtful && torn && read_only;
            if walk.doubtful && torn && !read_only {
                doubtful_blocks = map.load_keep_doubtful();
                state.must_rewrite = true;
            }
            state.counts = map.load_done();
            state.log.blocks = walk.blocks;
            state.rolled = head.qgen;
            state.cursor = 0;
            if sabotaged(Switch::SkipLogRewrite) {
                state.must_rewrite = false;
            }
            Ok(())
        })?;
        self.doubtful_blocks += doubtful_blocks;
        self.in_doubt |= in_doubt;
        self.stage = match arena + 1 < engine.arenas.len() {
            true => Stage::Header { arena: arena + 1, copy: 0 },
            false => Stage::Flush,
        };
        Ok(())
    }

    /// What the superblock points to must be in use. (Read without keeping what a killed original may still need, it may
    /// not seem so.)
    fn check_roots(&self, engine: &Engine<'m>, head: &SuperHead) -> Result<(), Error> {
        for addr in [head.root_addr, head.deadlist_head.addr, head.deadlist_tail.addr] {
            if addr == NONE {
                continue;
            }
            let place = engine.arenas.locate(addr).map_err(|_| Error::corrupt(addr, Damage::RootFree))?;
            let free = engine.arenas.with(place.arena, |_, map| map.is_free_in_flight(place.index));
            if free && !self.in_doubt {
                return Err(Error::corrupt(addr, Damage::RootFree));
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Store<'d, 'm>, Error> {
        let (Some(engine), Some(head)) = (self.engine.take(), self.head.take()) else { return Err(Error::NoBuffer) };
        self.check_roots(&engine, &head)?;
        let bad = |copy: usize| u8::from(self.supers[copy] != CopyState::Good) << copy;
        let commit = Commit::new(head.qgen, Roots::from(&head), bad(0) | bad(1));
        let report = MountReport {
            superblocks: self.supers,
            bad_header_copies: self.bad_header_copies,
            sealed: self.sealed,
            log_blocks: self.log_blocks,
            arenas: head.narena,
            doubtful_blocks: self.doubtful_blocks,
            read_only: self.read_only(),
        };
        Ok(Store::new(engine, self.device, commit, report))
    }
}

/// Brings the last block of a sealed log back to what the seal vouches for, if the original has added to it since.
/// Whether it had to be.
fn restore_tail(page: &mut [u8], size: BlockSize, walk: &Walk, seal: &LogSeal) -> bool {
    let as_sealed = LogBlock::decode(page, size).is_ok_and(|block| {
        let sum = block.sum();
        chain_digest(walk.digest, walk.addr, sum.hash, sum.len_bytes) == seal.digest
    });
    !as_sealed && restore_sealed(page, size, walk.digest, walk.addr, seal)
}

/// Applies the entries of one log block to the free map, up to the first barrier of generation `stop_at` or later.
fn replay(
    engine: &Engine<'_>,
    arena: usize,
    block: &LogBlock<'_>,
    stop_at: u64,
    walk: &mut Walk,
) -> Result<Replayed, Error> {
    let addr = walk.addr;
    let mut out = Replayed { stopped: false, trailing: false, ends_with_barrier: false };
    let mut entries = block.entries();
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|error| Error::format(addr, error))?;
        out.ends_with_barrier = matches!(entry, LogEntry::Barrier { .. });
        match entry {
            LogEntry::Alloc { addr: first, len_bytes } => apply(engine, arena, walk, first, len_bytes, false)?,
            LogEntry::Free { addr: first, len_bytes } => apply(engine, arena, walk, first, len_bytes, true)?,
            LogEntry::Barrier { gen } => {
                // Logs that end at a stopping barrier belong to the original, which may write what it likes behind it.
                if stop_at == u64::MAX && gen < walk.last_barrier {
                    return Err(Error::corrupt(addr, Damage::BarrierOrder));
                }
                if gen <= stop_at && core::mem::take(&mut walk.doubtful) {
                    engine.arenas.with(arena, |_, map| map.load_certain());
                }
                walk.last_barrier = gen;
                if gen >= stop_at {
                    out.stopped = true;
                    out.trailing = entries.next().is_some();
                    return Ok(out);
                }
            }
        }
    }
    Ok(out)
}

/// Applies one range of a log entry. The last two blocks of an arena are never free.
fn apply(
    engine: &Engine<'_>,
    arena: usize,
    walk: &mut Walk,
    first_addr: u64,
    len_bytes: u64,
    free: bool,
) -> Result<(), Error> {
    let foreign = Error::corrupt(walk.addr, Damage::ForeignRange);
    let place = engine.arenas.locate(first_addr).map_err(|_| foreign)?;
    let count = u32::try_from(len_bytes >> engine.size.shift()).map_err(|_| foreign)?;
    let usable = engine.arenas.blocks(arena).saturating_sub(2);
    if place.arena != arena || place.index.checked_add(count).is_none_or(|end| end > usable) {
        return Err(foreign);
    }
    // A log that lists every block a few times over is possible, one that does so over and over is not.
    walk.extra_words += u64::from(count) / 32;
    if walk.extra_words > u64::from(usable) {
        return Err(Error::corrupt(walk.addr, Damage::ReplayWork));
    }
    let twice = if free { Damage::FreeTwice } else { Damage::AllocTwice };
    // Before its first barrier a log says what the arena began with; on a volume without any commit that is one entry.
    let begun = walk.last_barrier != 0 || (walk.unborn && walk.entries > 0);
    let doubt = begun && (free || walk.doubtful);
    walk.entries += 1;
    walk.doubtful |= doubt;
    engine
        .arenas
        .with(arena, |_, map| {
            if doubt {
                map.load_doubt(place.index, count, free);
            }
            map.load_range(place.index, count, free)
        })
        .map_err(|_| Error::corrupt(walk.addr, twice))
}

impl<'d, 'm> Store<'d, 'm> {
    /// Mounts the volume on a device, writing nothing.
    ///
    /// # Errors
    /// [`Error::NotAVolume`], [`Error::Corrupt`], [`Error::MemoryTooSmall`], [`Error::Geometry`], [`Error::Device`].
    pub fn mount(
        memory: Resources<'m>,
        device: &'d dyn Device<'m>,
        platform: &'m dyn Platform,
        options: MountOptions,
    ) -> Result<Self, Failed<'m>> {
        let mut mounting = Mounting::new(memory, device, platform, options);
        loop {
            if let Some(store) = mounting.step()? {
                return Ok(store);
            }
            if mounting.reading {
                platform.relax();
            }
        }
    }
}

/// Relaxations without any completion after which a mount that is dropped gives up on its device.
const DROP_RELAXATIONS: u32 = u32::MAX;

impl Drop for Mounting<'_, '_> {
    /// Waits, like a store that is dropped, until the device has given the buffer back.
    fn drop(&mut self) {
        let mut idle = 0;
        while self.reading && self.unsent.is_none() && idle < DROP_RELAXATIONS {
            match self.device.poll() {
                Some(Completion::Transfer(request, _)) if self.is_ours(&request) => self.reading = false,
                Some(Completion::Flush(tag, _)) if tag == self.flush_tag => self.reading = false,
                Some(_) => idle = 0,
                None => {
                    self.platform.relax();
                    idle += 1;
                }
            }
        }
    }
}

impl core::fmt::Debug for Mounting<'_, '_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Mounting").field("stage", &self.stage).finish_non_exhaustive()
    }
}
