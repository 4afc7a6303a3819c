//! What the switches of [`crate::sabotage`] break in a commit, where that takes more than a word. Nothing of it is
//! left in a build without them.

use super::{Commit, Phase, Stage};
use crate::sabotage::{sabotaged, Switch};
use crate::store::Engine;

/// Whether to flush although what the flush must cover is still being written.
pub(super) fn flushes_early(stage: Stage) -> bool {
    sabotaged(match stage {
        Stage::E0 => Switch::FlushE0TooEarly,
        Stage::E1 => Switch::FlushE1TooEarly,
        Stage::E2 => Switch::FlushE2TooEarly,
        Stage::E3 => Switch::FlushE3TooEarly,
    })
}

/// Whether a commit is acknowledged before this flush.
pub(super) fn acknowledges_early(stage: Stage) -> bool {
    sabotaged(Switch::AcknowledgeBeforeFlush) && stage == Stage::E2
}

/// Whether to discard before the superblock is written.
pub(super) fn discards_early(engine: &Engine<'_>) -> bool {
    sabotaged(Switch::DiscardTooEarly) && engine.discards
}

/// Blocks of a discard of so many.
pub(super) fn discarded(blocks: u32) -> u32 {
    blocks + u32::from(sabotaged(Switch::DiscardTooMuch))
}

/// Where the machine stands when a superblock is on its way.
pub(super) fn phase_behind_superblock(which: u8, stage: Stage) -> Phase {
    if sabotaged(Switch::SuperblocksTogether) && stage == Stage::E2 && which == 0 {
        return Phase::Superblock1;
    }
    Phase::Flush(stage)
}

/// Where the machine stands when it has asked for a flush.
pub(super) fn phase_behind(stage: Stage) -> Phase {
    if sabotaged(Switch::SuperblockDuringFlush) && stage == Stage::E1 {
        return Phase::Superblock0;
    }
    Phase::Flushing(stage)
}

impl<'m> Commit<'m> {
    /// Whether to wait for a flush that nobody waited for when it was asked for: there is one at a time.
    pub(super) fn sabotage_waits(&self) -> bool {
        sabotaged(Switch::SuperblockDuringFlush) && self.flush_tag.is_some()
    }

    /// Whether to go on without this flush: a certain one, or one of a growing volume. (A commit of the tests' always
    /// changes the roots.)
    pub(super) fn sabotage_skips_flush(&self, stage: Stage) -> bool {
        let grows = stage == Stage::E1 && self.roots == self.durable_roots;
        let switch = match stage {
            Stage::E0 => Switch::SkipFlushE0,
            Stage::E1 => Switch::SkipFlushE1,
            Stage::E2 => Switch::SkipFlushE2,
            Stage::E3 => Switch::SkipFlushE3,
        };
        sabotaged(switch) || (grows && sabotaged(Switch::GrowTooEarly))
    }

    /// Whether to write the second copies of headers behind the first ones.
    pub(super) fn sabotage_headers(&self) -> bool {
        sabotaged(Switch::BothHeadersFirst) && self.durable != self.generation
    }

    /// Whether the discards were those before the superblock.
    pub(super) fn sabotage_discarded(&self) -> bool {
        sabotaged(Switch::DiscardTooEarly) && self.durable != self.generation
    }

    /// Ends the commit before its time: hands out again what it freed.
    pub(super) fn sabotage_reuse(&self, engine: &Engine<'m>, stage: Stage) {
        let reuses = match stage {
            Stage::E1 => sabotaged(Switch::ReuseBeforeDurable),
            Stage::E2 => sabotaged(Switch::ReuseBeforeSecondCopies),
            Stage::E0 | Stage::E3 => false,
        };
        if reuses {
            (0..engine.arenas.len()).for_each(|arena| {
                engine.arenas.with(arena, |state, map| map.settle(&mut state.counts, usize::MAX));
            });
        }
    }
}
