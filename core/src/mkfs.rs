//! A new volume: the first commit of a store that begins with every block free.
//!
//! The commit machine writes logs, headers and superblocks in its usual order, so a format that is cut off leaves
//! either no volume or a whole one. Before that, whatever superblocks the device had are overwritten with zeros.

// Without a heap there is nothing to box a large error in, and it is the memory itself that comes back.
#![allow(clippy::result_large_err)]

use crate::arena::MIN_ARENA_BLOCKS;
use crate::commit::Commit;
use crate::device::{Completion, Device, DeviceGeometry, FlushTag, Purpose, Request};
use crate::error::{DeviceOp, Error, MemoryPart};
use crate::format::{max_arenas, BlockSize};
use crate::freemap::FreeMap;
use crate::memory::{Resources, PROBE_LEN_BYTES};
use crate::mount::{build_engine, CopyState, Failed, MountReport, Mounting, MIN_FRAMES};
use crate::platform::Platform;
use crate::pool::{Pool, SharedChain, Slot, SlotChain};
use crate::roots::Roots;
use crate::store::Store;

/// Bytes at the start and at the end of a device that must be zero for it to count as blank. Every common file system
/// and partition table has something in one of them.
const BLANK_FRONT_LEN: u64 = 1 << 20;
const BLANK_BACK_LEN: u64 = 64 << 10;
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
    let too_small = |part, need: u64, have: u64| Err(Error::MemoryTooSmall { part, need, have });
    let have = memory.area.capacity(options.block_size);
    if have < MIN_FRAMES {
        return too_small(MemoryPart::Buffers, u64::from(MIN_FRAMES), u64::from(have));
    }
    if (memory.arenas.len() as u64) < u64::from(options.arenas) {
        return too_small(MemoryPart::Arenas, u64::from(options.arenas), memory.arenas.len() as u64);
    }
    let need = FreeMap::words_needed(blocks) as u64 * u64::from(options.arenas);
    if (memory.words.len() as u64) < need {
        return too_small(MemoryPart::MapWords, need, memory.words.len() as u64);
    }
    Ok(())
}

/// Plain reads and writes before there is a store: a loop over `submit` and `poll`, one request at a time.
struct Direct<'d, 'm> {
    device: &'d dyn Device<'m>,
    platform: &'m dyn Platform,
    pool: Pool<'m>,
    len_bytes: u64,
}

impl<'m> Direct<'_, 'm> {
    fn slot(&self) -> Result<Slot<'m>, Error> {
        (0..self.pool.len()).find_map(|index| self.pool.claim(self.pool.id(index)?)).ok_or(Error::NoBuffer)
    }

    fn run(&self, mut request: Request<'m>, op: DeviceOp) -> Result<Option<Slot<'m>>, Error> {
        let addr = request.addr();
        while let Err(refused) = self.device.submit(request) {
            request = refused;
            self.platform.relax();
        }
        loop {
            match self.device.poll() {
                Some(Completion::Transfer(done, result)) if done.is_of(&self.pool) => {
                    return result.map(|()| done.into_slot()).map_err(|cause| Error::Device { op, addr, cause });
                }
                Some(_) | None => self.platform.relax(),
            }
        }
    }

    fn flush(&self) -> Result<(), Error> {
        let tag = FlushTag::fresh();
        while self.device.flush(tag).is_err() {
            self.platform.relax();
        }
        loop {
            match self.device.poll() {
                Some(Completion::Flush(done, result)) if done == tag => {
                    return result.map_err(|cause| Error::Device { op: DeviceOp::Flush, addr: 0, cause });
                }
                Some(_) | None => self.platform.relax(),
            }
        }
    }

    /// Fails at the first byte of a range that is not zero. `from` is rounded down to the unit of reading.
    fn check_blank(&self, from: u64, to: u64) -> Result<(), Error> {
        let unit = PROBE_LEN_BYTES as u64;
        let last = self.len_bytes.saturating_sub(unit);
        let mut addr = (from - from % unit).min(last);
        while addr < to {
            let chain = SlotChain::new(self.slot()?);
            let request = Request::read(addr, PROBE_LEN_BYTES, chain, Purpose::Private);
            let Some(slot) = self.run(request, DeviceOp::Read)? else { return Err(Error::NoBuffer) };
            if let Some(at) = slot.bytes().iter().position(|byte| *byte != 0) {
                return Err(Error::NotBlank { addr: addr + at as u64 });
            }
            // The end of the device may be no multiple of the unit.
            addr = if addr < last { (addr + unit).min(last) } else { to };
        }
        Ok(())
    }

    /// Overwrites the first sector of each place where the superblock of any block size may be. All else in the blocks that
    /// are written stays as it is, so whatever of it survives a crash, an old volume is either whole or none.
    fn erase_superblocks(&self) -> Result<(), Error> {
        let last = self.len_bytes.saturating_sub(PROBE_LEN_BYTES as u64);
        let sizes = (BlockSize::MIN.shift()..=BlockSize::MAX.shift()).filter_map(|shift| BlockSize::new(1 << shift));
        let ends = sizes.map(|size| Mounting::second_superblock_addr(self.len_bytes, size));
        for place in core::iter::once(0).chain(ends) {
            let addr = place.min(last);
            let chain = SlotChain::new(self.slot()?);
            let request = Request::read(addr, PROBE_LEN_BYTES, chain, Purpose::Private);
            let Some(mut slot) = self.run(request, DeviceOp::Read)? else { return Err(Error::NoBuffer) };
            let first_sector = (place - addr) as usize;
            if let Some(sector) = slot.bytes_mut().get_mut(first_sector..).and_then(|rest| rest.get_mut(..512)) {
                sector.fill(0);
            }
            let Ok(chain) = SharedChain::new(slot.share()) else { return Err(Error::NoBuffer) };
            self.run(Request::write(addr, PROBE_LEN_BYTES, chain, Purpose::Private), DeviceOp::Write)?;
        }
        self.flush()
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
        match Self::prepare(&memory, device, platform, &options) {
            Ok(blocks) => Self::write_new(memory, device, platform, &options, blocks)
                .map_err(|error| Failed { error, memory: None }),
            // Nothing was written so far.
            Err(error) => Err(Failed { error, memory: Some(memory) }),
        }
    }

    /// Checks everything; returns the blocks of each arena.
    fn prepare(
        memory: &Resources<'m>,
        device: &'d dyn Device<'m>,
        platform: &'m dyn Platform,
        options: &FormatOptions,
    ) -> Result<u32, Error> {
        let geometry = device.geometry();
        if geometry.read_only {
            return Err(Error::ReadOnly);
        }
        let blocks = arena_blocks(&geometry, options)?;
        check_memory(memory, options, blocks)?;
        let direct = Direct { device, platform, pool: memory.probe, len_bytes: geometry.len_bytes };
        if !options.force {
            direct.check_blank(0, BLANK_FRONT_LEN.min(geometry.len_bytes))?;
            direct.check_blank(geometry.len_bytes.saturating_sub(BLANK_BACK_LEN), geometry.len_bytes)?;
        }
        Ok(blocks)
    }

    fn write_new(
        memory: Resources<'m>,
        device: &'d dyn Device<'m>,
        platform: &'m dyn Platform,
        options: &FormatOptions,
        blocks: u32,
    ) -> Result<Self, Error> {
        let len_bytes = device.geometry().len_bytes;
        Direct { device, platform, pool: memory.probe, len_bytes }.erase_superblocks()?;
        let second = Mounting::second_superblock_addr(device.geometry().len_bytes, options.block_size);
        let engine = build_engine(memory, options.block_size, 0, false, platform);
        engine.arenas.append(options.arenas as usize, 1, blocks, 0);
        let report = MountReport {
            superblocks: [CopyState::Good; 2],
            bad_header_copies: 0,
            sealed: true,
            log_blocks: 0,
            arenas: options.arenas,
            doubtful_blocks: 0,
            damaged_arenas: 0,
            damage: None,
            read_only: false,
        };
        let store = Self::new(engine, device, Commit::of_new_volume(second), report, 0);
        store.commit(Roots::EMPTY)?;
        store.settle()?;
        Ok(store)
    }
}
