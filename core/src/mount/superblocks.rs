//! Which of the two superblocks a volume is mounted by.

use super::{build_engine, CopyState, Mounting, Stage, LANES, MIN_FRAMES};
use crate::device::DeviceError;
use crate::error::{DeviceOp, Error, MemoryPart, Stop};
use crate::format::{BlockSize, Extension, FormatError, Superblock};
use crate::memory::PROBE_LEN_BYTES;
use crate::pool::Slot;
use crate::sabotage::takes_older;

/// Block sizes that a superblock at the end of the device may have, when the one at its start does not tell. Ascending:
/// the place for a size smaller than the right one lies inside or behind the superblock, that for a larger one among
/// the blocks of callers, who may have put anything there.
const GUESSES: [u32; 6] = [2048, 4096, 8192, 16384, 32768, 65536];

impl<'d, 'm> Mounting<'d, 'm> {
    /// Where the second superblock of a device of this size is.
    pub(crate) fn second_superblock_addr(len_bytes: u64, size: BlockSize) -> u64 {
        (len_bytes - len_bytes % size.len_u64()).saturating_sub(size.len_u64())
    }

    /// The block size that the candidate has: that of the first superblock, if it is one, and guesses otherwise.
    pub(super) fn candidate_size(&self, candidate: usize) -> BlockSize {
        let guess = GUESSES.get(candidate.wrapping_sub(1)).copied().and_then(BlockSize::new);
        self.head.map_or(guess.unwrap_or(BlockSize::ORIGINAL), |head| head.block_size)
    }

    /// Where to read; a superblock near the end of the device is read with what is in front of it.
    pub(super) fn superblock_addr(&self, candidate: usize) -> u64 {
        if candidate == 0 {
            return 0;
        }
        let addr = Self::second_superblock_addr(self.geometry.len_bytes, self.candidate_size(candidate));
        addr.min(self.geometry.len_bytes.saturating_sub(PROBE_LEN_BYTES as u64))
    }

    /// The device is too small for what mount would read.
    pub(super) fn take_short_device(&mut self, candidate: usize) -> Result<(), Stop> {
        let (got_bytes, want_bytes) = (self.geometry.len_bytes as usize, PROBE_LEN_BYTES);
        self.supers[usize::from(candidate > 0)] = CopyState::Bad(FormatError::BufferLen { got_bytes, want_bytes });
        self.superblocks_read()
    }

    #[inline(never)]
    pub(super) fn take_superblock(
        &mut self,
        candidate: usize,
        slot: Option<Slot<'m>>,
        result: Result<(), DeviceError>,
    ) -> Result<(), Stop> {
        let size = self.candidate_size(candidate);
        let addr = if candidate == 0 { 0 } else { Self::second_superblock_addr(self.geometry.len_bytes, size) };
        let skip = addr.saturating_sub(self.superblock_addr(candidate)) as usize;
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
        if candidate < last && !found {
            self.stage = Stage::Superblock { candidate: candidate + 1 };
            return Ok(());
        }
        self.superblocks_read()
    }

    /// Notes a valid superblock; the newest one's arenas are remembered.
    #[inline(never)]
    pub(super) fn adopt(&mut self, copy: usize, superblock: &Superblock<'_>) -> Result<(), Stop> {
        let head = *superblock.head();
        if let Some(other) = self.head {
            if head.qgen <= other.qgen && !takes_older(head.qgen, other.qgen) {
                let (stored, computed) = (superblock.fingerprint(), self.fingerprint);
                self.supers[copy] = match head.qgen == other.qgen {
                    false => CopyState::Lagging { generation: head.qgen },
                    true if stored == computed => CopyState::Good,
                    // One commit, two contents: the first copy was written first, so it is the one that counts.
                    true => CopyState::Bad(FormatError::Hash { stored, computed }),
                };
                return Ok(());
            }
            self.supers[copy ^ 1] = CopyState::Lagging { generation: other.qgen };
        }
        self.supers[copy] = CopyState::Good;
        self.head = Some(head);
        self.fingerprint = superblock.fingerprint();
        self.sealed = matches!(superblock.extension(), Extension::Ours { .. });
        let Some(memory) = &self.memory else { return Ok(()) };
        let have = memory.arenas.len();
        if head.narena as usize > have {
            return Err(self.stop_too_small(MemoryPart::Arenas, head.narena as usize, have));
        }
        for (index, arena) in superblock.arenas().enumerate() {
            let Some(slot) = memory.arenas.get(index) else { break };
            slot.note(arena.header_addr >> head.block_size.shift(), arena.header_hash, self.platform);
        }
        Ok(())
    }

    /// Builds everything whose size depends on the block size.
    pub(super) fn superblocks_read(&mut self) -> Result<(), Stop> {
        let Some((size, narena)) = self.head.as_ref().map(|head| (head.block_size, head.narena)) else {
            return Err(match self.supers {
                [CopyState::Bad(first), CopyState::Bad(error)] => {
                    self.stop(Error::NotAVolume { first, second: Some(error) })
                }
                [CopyState::Bad(first), _] => self.stop(Error::NotAVolume { first, second: None }),
                [CopyState::Unreadable(cause), _] => self.stop(Error::Device { op: DeviceOp::Read, addr: 0, cause }),
                [CopyState::Good | CopyState::Lagging { .. }, _] => Stop,
            });
        };
        let sector = u64::from(self.geometry.physical_sector_len_bytes);
        if sector > size.len_u64() {
            return Err(self.stop(Error::Geometry { need_bytes: sector, have_bytes: size.len_u64() }));
        }
        if self.geometry.len_bytes >> size.shift() > u64::from(u32::MAX) {
            let have_bytes = u64::from(u32::MAX) << size.shift();
            return Err(self.stop(Error::Geometry { need_bytes: self.geometry.len_bytes, have_bytes }));
        }
        let most = u64::from(self.geometry.max_transfer_len_bytes);
        if most < size.len_u64() {
            return Err(self.stop(Error::Geometry { need_bytes: size.len_u64(), have_bytes: most }));
        }
        let have = self.memory.as_ref().map_or(0, |memory| memory.area.capacity(size));
        if have < MIN_FRAMES {
            return Err(self.stop_too_small(MemoryPart::Buffers, MIN_FRAMES as usize, have as usize));
        }
        let Some(memory) = self.memory.take() else { return Err(Stop) };
        let discards = self.options.discard && self.geometry.discard;
        let (engine, vacancies) = build_engine(memory, size, narena, discards, self.platform);
        (self.engine, self.vacancies) = (Some(engine), Some(vacancies));
        self.stage = Stage::Header { arena: 0, copy: 0 };
        for (arena, lane) in self.lanes.iter_mut().enumerate().take(narena as usize) {
            lane.stage = Stage::Header { arena, copy: 0 };
        }
        self.next_arena = LANES;
        Ok(())
    }
}
