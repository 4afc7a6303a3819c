//! A new volume: the first commit of a store that begins with every block free.
//!
//! ```text
//!   look for anything that is not zero at both ends of the device      unless forced; nothing is written so far
//!   overwrite each superblock that there is, of any block size         flush
//!   commit of nothing, from a state in which everything is free        until its second copies are durable
//! ```
//!
//! The commit machine writes logs, headers and superblocks in its usual order, so a format that is cut off leaves
//! either no volume or a whole one: whatever superblocks the device had are gone before.
//!
//! Like a mount it goes by bounded steps, with one request in flight until there is a store.

// Without a heap there is nothing to box a large error in, and it is the memory itself that comes back.
#![allow(clippy::result_large_err)]

use crate::arena::MIN_ARENA_BLOCKS;
use crate::commit::{Commit, CommitTicket};
use crate::device::{drain, Completion, Device, DeviceError, DeviceGeometry, FlushTag, Purpose, Request};
use crate::error::{DeviceOp, Error, MemoryPart};
use crate::format::{max_arenas, BlockSize, SUPERBLOCK_MAGIC};
use crate::freemap::FreeMap;
use crate::memory::{Resources, PROBE_LEN_BYTES};
use crate::mount::{build_engine, too_small, CopyState, Failed, MountReport, Mounting, MIN_FRAMES};
use crate::platform::Platform;
use crate::pool::{SharedChain, Slot, SlotChain};
use crate::roots::Roots;
use crate::store::{Settling, Store};

/// Bytes at the start and at the end of a device that must be zero for it to count as blank. Every common file system
/// and partition table has something in one of them.
const BLANK_FRONT_LEN: u64 = 1 << 20;
const BLANK_BACK_LEN: u64 = 64 << 10;
/// Bytes that are read or written at once before there is a store.
const UNIT: u64 = PROBE_LEN_BYTES as u64;

/// What a new volume is to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatOptions {
    /// Size of its blocks; not smaller than the device's physical sector.
    pub block_size: BlockSize,
    /// Number of its arenas; at 16 KiB at least 2, because the original cannot use a volume with one.
    pub arenas: u32,
    /// Overwrite whatever is on the device.
    pub force: bool,
}

/// The extent of the arenas of a new volume: blocks of each one's free map.
fn arena_blocks(geometry: &DeviceGeometry, options: &FormatOptions) -> Result<u32, Error> {
    let (size, arenas) = (options.block_size, options.arenas);
    let least = if size == BlockSize::ORIGINAL { 2 } else { 1 };
    if arenas < least || arenas > max_arenas(size) {
        return Err(Error::BadParameter { name: "number of arenas", found: u64::from(arenas) });
    }
    let sector = u64::from(geometry.physical_sector_len_bytes);
    if sector > size.len_u64() {
        return Err(Error::Geometry { need_bytes: sector, have_bytes: size.len_u64() });
    }
    let device_blocks = geometry.len_bytes >> size.shift();
    if device_blocks > u64::from(u32::MAX) {
        let have_bytes = u64::from(u32::MAX) << size.shift();
        return Err(Error::Geometry { need_bytes: geometry.len_bytes, have_bytes });
    }
    let blocks = (device_blocks.saturating_sub(2) / u64::from(arenas)).saturating_sub(2);
    if blocks < MIN_ARENA_BLOCKS {
        let need_bytes = ((MIN_ARENA_BLOCKS + 2) * u64::from(arenas) + 2) << size.shift();
        return Err(Error::Geometry { need_bytes, have_bytes: geometry.len_bytes });
    }
    Ok(blocks as u32)
}

fn check_memory(memory: &Resources<'_>, options: &FormatOptions, blocks: u32) -> Result<(), Error> {
    let have = memory.area.capacity(options.block_size);
    if have < MIN_FRAMES {
        return Err(too_small(MemoryPart::Buffers, u64::from(MIN_FRAMES), u64::from(have)));
    }
    if (memory.arenas.len() as u64) < u64::from(options.arenas) {
        return Err(too_small(MemoryPart::Arenas, u64::from(options.arenas), memory.arenas.len() as u64));
    }
    let need = FreeMap::words_needed(blocks) as u64 * u64::from(options.arenas);
    if (memory.words.len() as u64) < need {
        return Err(too_small(MemoryPart::MapWords, need, memory.words.len() as u64));
    }
    Ok(())
}

/// What comes next, or is being done.
enum Stage {
    /// Look at what is at this address, up to the end of the range; behind the first range comes the second.
    Blank {
        addr: u64,
        end: u64,
        back: bool,
    },
    /// Read the block with a place where a superblock may be: its number.
    EraseRead {
        place: usize,
    },
    /// Write it back without that.
    EraseWrite {
        place: usize,
    },
    /// Make that durable.
    Flush,
    /// The first commit is under way.
    Commit(CommitTicket),
    /// So are its second copies.
    Settle(Settling),
    Done,
}

/// A format in progress: the form for executors. [`Store::format`] is a loop over it.
pub struct Formatting<'d, 'm> {
    device: &'d dyn Device<'m>,
    platform: &'m dyn Platform,
    options: FormatOptions,
    geometry: DeviceGeometry,
    /// Taken when the store is made.
    memory: Option<Resources<'m>>,
    store: Option<Store<'d, 'm>>,
    /// Blocks of each arena; `None` before the first step.
    blocks: Option<u32>,
    stage: Stage,
    /// The device has a request or flush of this, or is to be offered one again.
    waiting: bool,
    unsent: Option<Request<'m>>,
    /// There was nothing to do in the last step but to wait.
    idle: bool,
    flush_tag: FlushTag,
    /// Something was written, so the memory does not come back.
    has_written: bool,
}

impl<'d, 'm> Formatting<'d, 'm> {
    /// Prepares a format; [`Formatting::step`] does it.
    pub fn new(
        memory: Resources<'m>,
        device: &'d dyn Device<'m>,
        platform: &'m dyn Platform,
        options: FormatOptions,
    ) -> Self {
        let geometry = device.geometry();
        Self {
            device,
            platform,
            options,
            geometry,
            memory: Some(memory),
            store: None,
            blocks: None,
            stage: Stage::Blank { addr: 0, end: BLANK_FRONT_LEN.min(geometry.len_bytes), back: false },
            waiting: false,
            unsent: None,
            idle: false,
            flush_tag: FlushTag::fresh(),
            has_written: false,
        }
    }

    /// Does a bounded piece of work. `Ok(None)` means: call again (after [`Platform::relax`], if nothing else is to be
    /// done).
    ///
    /// # Errors
    /// There will be no volume, see [`Store::format`]. Calling again after an error or a store gives an error.
    pub fn step(&mut self) -> Result<Option<Store<'d, 'm>>, Failed<'m>> {
        match self.try_step() {
            Ok(false) => Ok(None),
            Ok(true) => self.finish().map(Some),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn finish(&mut self) -> Result<Store<'d, 'm>, Failed<'m>> {
        self.store.take().ok_or(Failed { error: Error::ReadOnly, memory: None })
    }

    #[inline(never)]
    fn failed(&mut self, error: Error) -> Failed<'m> {
        self.stage = Stage::Done;
        Failed { error, memory: self.memory.take().filter(|_| !self.has_written) }
    }

    fn try_step(&mut self) -> Result<bool, Error> {
        if self.blocks.is_none() {
            self.blocks = Some(self.prepare()?);
        }
        if let Some(store) = &self.store {
            self.idle = !store.step();
            return self.step_store();
        }
        self.idle = self.waiting;
        if !self.waiting {
            return self.begin().map(|()| false);
        }
        if let Some(request) = self.unsent.take() {
            self.unsent = self.device.submit(request).err();
            if self.unsent.is_some() {
                self.make_room();
            }
            return Ok(false);
        }
        match self.device.poll() {
            // Whatever is not ours was asked for by an earlier store.
            Some(Completion::Transfer(done, result)) if self.is_ours(&done) => {
                self.waiting = false;
                self.take(done, result)?;
            }
            Some(Completion::Flush(tag, result)) if tag == self.flush_tag => {
                self.waiting = false;
                result.map_err(|cause| Error::Device { op: DeviceOp::Flush, addr: 0, cause })?;
                self.make_store()?;
            }
            Some(_) | None => {}
        }
        Ok(false)
    }

    /// Checks what can be checked without the device; returns the blocks of each arena.
    fn prepare(&mut self) -> Result<u32, Error> {
        if self.geometry.read_only {
            return Err(Error::ReadOnly);
        }
        let blocks = arena_blocks(&self.geometry, &self.options)?;
        check_memory(self.memory.as_ref().ok_or(Error::ReadOnly)?, &self.options, blocks)?;
        if self.options.force {
            self.stage = Stage::EraseRead { place: 0 };
        }
        Ok(blocks)
    }

    fn is_ours(&self, request: &Request<'m>) -> bool {
        self.memory.as_ref().is_some_and(|memory| request.is_of(&memory.probe))
    }

    /// Where a read or write of one unit begins that covers this address. The end of the device may be no multiple of
    /// it.
    fn unit_at(&self, addr: u64) -> u64 {
        (addr - addr % UNIT).min(self.geometry.len_bytes.saturating_sub(UNIT))
    }

    /// The places where the superblock of a volume with blocks of any size may be.
    fn superblock_place(&self, place: usize) -> Option<u64> {
        let sizes = (BlockSize::MIN.shift()..=BlockSize::MAX.shift()).filter_map(|shift| BlockSize::new(1 << shift));
        let ends = sizes.map(|size| Mounting::second_superblock_addr(self.geometry.len_bytes, size));
        core::iter::once(0).chain(ends).nth(place)
    }

    /// Starts what the stage wants of the device.
    #[inline(never)]
    fn begin(&mut self) -> Result<(), Error> {
        let addr = match self.stage {
            Stage::Blank { addr, .. } => addr,
            Stage::EraseRead { place } => match self.superblock_place(place) {
                Some(addr) => addr,
                None => {
                    self.stage = Stage::Flush;
                    return Ok(());
                }
            },
            Stage::Flush => {
                self.waiting = self.device.flush(self.flush_tag).is_ok();
                if !self.waiting {
                    self.idle = true;
                    self.make_room();
                }
                return Ok(());
            }
            Stage::EraseWrite { .. } | Stage::Commit(_) | Stage::Settle(_) | Stage::Done => {
                return Err(Error::ReadOnly);
            }
        };
        let pool = self.memory.as_ref().ok_or(Error::ReadOnly)?.probe;
        let slot = (0..pool.len()).find_map(|index| pool.claim(pool.id(index)?)).ok_or(Error::NoBuffer)?;
        let chain = SlotChain::new(slot);
        self.submit(Request::read(self.unit_at(addr), chain, Purpose::Private));
        Ok(())
    }

    /// As in a mount: the device is full of what an earlier store has asked for.
    fn make_room(&self) {
        drop(self.device.poll());
    }

    fn submit(&mut self, request: Request<'m>) {
        self.waiting = true;
        self.unsent = self.device.submit(request).err();
    }

    /// A request came back.
    fn take(&mut self, done: Request<'m>, result: Result<(), DeviceError>) -> Result<(), Error> {
        let addr = done.addr();
        let op = if matches!(self.stage, Stage::EraseWrite { .. }) { DeviceOp::Write } else { DeviceOp::Read };
        result.map_err(|cause| Error::Device { op, addr, cause })?;
        match self.stage {
            Stage::Blank { end, back, .. } => {
                let slot = done.into_slot().ok_or(Error::NoBuffer)?;
                self.check_blank(&slot, addr, end, back)
            }
            Stage::EraseRead { place } => {
                let slot = done.into_slot().ok_or(Error::NoBuffer)?;
                self.erase(slot, addr, place)
            }
            Stage::EraseWrite { place } => {
                self.stage = Stage::EraseRead { place: place + 1 };
                Ok(())
            }
            Stage::Flush | Stage::Commit(_) | Stage::Settle(_) | Stage::Done => Ok(()),
        }
    }

    /// Fails at the first byte that is not zero.
    fn check_blank(&mut self, slot: &Slot<'m>, addr: u64, end: u64, back: bool) -> Result<(), Error> {
        if let Some(at) = slot.bytes().iter().position(|byte| *byte != 0) {
            return Err(Error::NotBlank { addr: addr + at as u64 });
        }
        let len_bytes = self.geometry.len_bytes;
        self.stage = if addr + UNIT < end {
            Stage::Blank { addr: addr + UNIT, end, back }
        } else if back {
            Stage::EraseRead { place: 0 }
        } else {
            Stage::Blank { addr: len_bytes.saturating_sub(BLANK_BACK_LEN), end: len_bytes, back: true }
        };
        Ok(())
    }

    /// Overwrites the first sector of a place where a superblock may be, if there is one. All else stays as it is (that
    /// place may hold data of an old volume with smaller blocks), so whatever of the writes survives a crash, an old
    /// volume is either whole or none.
    fn erase(&mut self, mut slot: Slot<'m>, addr: u64, place: usize) -> Result<(), Error> {
        let superblock = self.superblock_place(place).unwrap_or(addr);
        let first = (superblock - addr) as usize;
        let is_there = |bytes: &&mut [u8]| bytes.starts_with(&SUPERBLOCK_MAGIC);
        let Some(sector) = slot.bytes_mut().get_mut(first..).and_then(|rest| rest.get_mut(..512)).filter(is_there)
        else {
            self.stage = Stage::EraseRead { place: place + 1 };
            return Ok(());
        };
        sector.fill(0);
        let Ok(chain) = SharedChain::new(slot.share()) else { return Err(Error::NoBuffer) };
        self.stage = Stage::EraseWrite { place };
        self.has_written = true;
        self.submit(Request::write(addr, chain, Purpose::Private));
        Ok(())
    }

    /// There is no volume any more, and that is durable: begins the first commit of a new one.
    #[inline(never)]
    fn make_store(&mut self) -> Result<(), Error> {
        let (Some(memory), Some(blocks)) = (self.memory.take(), self.blocks) else { return Err(Error::ReadOnly) };
        let second = Mounting::second_superblock_addr(self.geometry.len_bytes, self.options.block_size);
        let (engine, vacancies) = build_engine(memory, self.options.block_size, 0, false, self.platform);
        engine.arenas.append(self.options.arenas as usize, 1, blocks, 0);
        let report = MountReport {
            superblocks: [CopyState::Good; 2],
            bad_header_copies: 0,
            sealed: true,
            log_blocks: 0,
            arenas: self.options.arenas,
            doubtful_blocks: 0,
            damaged_arenas: 0,
            damage: None,
            read_only: false,
        };
        let store = Store::new(engine, vacancies, self.device, Commit::of_new_volume(second), report, 0);
        self.stage = Stage::Commit(store.commit_start(Roots::EMPTY)?);
        self.store = Some(store);
        Ok(())
    }

    /// Whether the volume is complete.
    #[inline(never)]
    fn step_store(&mut self) -> Result<bool, Error> {
        let Some(store) = &self.store else { return Err(Error::ReadOnly) };
        match &mut self.stage {
            Stage::Commit(ticket) => {
                if let Some(result) = store.commit_poll(ticket) {
                    result?;
                    self.stage = Stage::Settle(store.start_settling());
                }
                Ok(false)
            }
            Stage::Settle(settling) => {
                let Some(result) = store.poll_settling(settling) else { return Ok(false) };
                result?;
                self.stage = Stage::Done;
                Ok(true)
            }
            _ => Err(Error::ReadOnly),
        }
    }
}

impl Drop for Formatting<'_, '_> {
    /// Waits, like a mount that is dropped, until the device has given the buffer back.
    fn drop(&mut self) {
        if self.waiting && self.unsent.is_none() {
            drain(self.device, self.platform, &mut |completion| match completion {
                Completion::Transfer(request, _) => !self.is_ours(&request),
                Completion::Flush(tag, _) => tag != self.flush_tag,
            });
        }
    }
}

impl core::fmt::Debug for Formatting<'_, '_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Formatting").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<'d, 'm> Store<'d, 'm> {
    /// Makes a new volume on a device and mounts it. Waits until that is durable.
    ///
    /// # Errors
    /// [`Error::NotBlank`] unless forced; [`Error::Geometry`], [`Error::BadParameter`], [`Error::MemoryTooSmall`],
    /// [`Error::ReadOnly`], [`Error::Device`]. The memory comes back if nothing was written.
    pub fn format(
        memory: Resources<'m>,
        device: &'d dyn Device<'m>,
        platform: &'m dyn Platform,
        options: FormatOptions,
    ) -> Result<Self, Failed<'m>> {
        let mut formatting = Formatting::new(memory, device, platform, options);
        loop {
            match formatting.try_step() {
                Ok(false) => {}
                Ok(true) => return formatting.finish(),
                Err(error) => return Err(formatting.failed(error)),
            }
            if formatting.idle {
                platform.relax();
            }
        }
    }
}
