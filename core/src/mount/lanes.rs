//! Several arenas at once: what one arena's blocks say has no bearing on another's, so a few are read side by side,
//! each in a lane of its own. A header's or log block's read goes on while others are looked into.
//!
//! A lane has one read under way at most, and one buffer; if there are not so many, some lanes wait. Which lane a block
//! is for its address tells: should two lanes of a damaged volume read the same, each gets it once.

use super::{Mounting, Stage};
use crate::device::{Purpose, Request};
use crate::error::{Damage, Error, Stop};
use crate::pool::SlotChain;
use crate::sabotage::{sabotaged, Switch};

/// Arenas that are read at once. Where code is to be small there is one, and no loop over them.
pub(super) const LANES: usize = if cfg!(target_pointer_width = "32") { 1 } else { 4 };

/// What is to be read next, or is being read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lane {
    pub(super) stage: Stage,
    pub(super) reading: bool,
}

impl Mounting<'_, '_> {
    /// Asks the device for what the first lane wants that has not asked yet. Whether it was asked.
    pub(super) fn ask(&mut self) -> Result<bool, Stop> {
        if let Some(request) = self.unsent.take() {
            self.unsent = self.device.submit(request).err();
            return Ok(self.unsent.is_none());
        }
        let wants = |lane: &Lane| !lane.reading && lane.stage != Stage::Idle;
        let Some(index) = self.lanes.iter().position(wants) else { return Ok(false) };
        self.stage = self.lanes.get(index).map_or(Stage::Idle, |lane| lane.stage);
        let asked = match self.stage {
            Stage::Flush => self.flush(),
            _ => self.submit()?,
        };
        self.leave(index, asked);
        Ok(asked)
    }

    /// Whether the device has the flush of this mount.
    pub(super) fn flushes(&self) -> bool {
        self.lanes.iter().any(|lane| lane.reading && lane.stage == Stage::Flush)
    }

    /// Notes where a lane is now.
    pub(super) fn leave(&mut self, lane: usize, reading: bool) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            *lane = Lane { stage: self.stage, reading };
        }
    }

    /// What a lane does that is through with an arena.
    pub(super) fn next_stage(&mut self, arenas: usize) -> Stage {
        let arena = self.next_arena;
        if arena < arenas {
            self.next_arena += 1;
            return Stage::Header { arena, copy: 0 };
        }
        match self.lanes.iter().filter(|lane| lane.stage != Stage::Idle).count() {
            0 | 1 => Stage::Flush,
            _ => Stage::Idle,
        }
    }

    /// After a crash of the kernel alone the device still has its cache: what mount saw need not be durable, and the
    /// first commit would overwrite the copies that are. Whether the device took it.
    pub(super) fn flush(&mut self) -> bool {
        if self.read_only() || sabotaged(Switch::SkipFlushAtMount) {
            self.stage = Stage::Done;
            return false;
        }
        self.device.flush(self.flush_tag).is_ok()
    }

    /// Reads the block that the stage wants. Whether it is being read: there may be no buffer for it yet, or nothing to
    /// read at all.
    #[inline(never)]
    pub(super) fn submit(&mut self) -> Result<bool, Stop> {
        let pool = match (&self.engine, &self.memory) {
            (Some(engine), _) => engine.pool,
            (None, Some(memory)) => memory.probe,
            (None, None) => return Err(self.stop(Error::ReadOnly)),
        };
        let addr = self.stage_addr(self.stage);
        let end = addr.saturating_add(pool.block_size().len_u64());
        if end > self.geometry.len_bytes {
            match self.stage {
                Stage::Superblock { candidate } => self.take_short_device(candidate)?,
                Stage::Header { arena, .. } | Stage::Log { arena, .. } => {
                    let stop = self.stop_corrupt(addr, Damage::ArenaExtent);
                    self.tolerate(arena, Err(stop))?;
                }
                Stage::Idle | Stage::Flush | Stage::Done => {}
            }
            return Ok(false);
        }
        let Some(slot) = (0..pool.len()).find_map(|index| pool.claim(pool.id(index)?)) else {
            // Those that others are reading into come back.
            return if self.in_flight() > 0 { Ok(false) } else { Err(Stop) };
        };
        let request = Request::read(addr, SlotChain::new(slot), Purpose::Private);
        self.unsent = self.device.submit(request).err();
        Ok(true)
    }

    /// What the device has of ours.
    pub(super) fn in_flight(&self) -> usize {
        self.lanes.iter().filter(|lane| lane.reading).count().saturating_sub(usize::from(self.unsent.is_some()))
    }

    pub(super) fn stage_addr(&self, stage: Stage) -> u64 {
        match (stage, &self.engine) {
            (Stage::Superblock { candidate }, _) => self.superblock_addr(candidate),
            (Stage::Header { arena, copy }, Some(engine)) => {
                engine.arenas.base_addr(arena) + u64::from(copy) * engine.size.len_u64()
            }
            (Stage::Log { walk, .. }, _) => walk.addr,
            (Stage::Header { .. } | Stage::Idle | Stage::Flush | Stage::Done, _) => 0,
        }
    }
}
