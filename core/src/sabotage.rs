//! Switches that break one guarantee each, so that tests can show that they would notice.
//!
//! Without the feature `sabotage` no switch can be thrown and the compiler removes every question for one.

/// One guarantee, broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Switch {
    /// Go on from the repairs without a flush.
    SkipFlushE0,
    /// Trust what mount read to be durable.
    SkipFlushAtMount,
    /// Go on from data, logs and headers without a flush.
    SkipFlushE1,
    /// Go on from superblock 0 without a flush.
    SkipFlushE2,
    /// Go on from the second copies without a flush.
    SkipFlushE3,
    /// Flush before the repairs are written.
    FlushE0TooEarly,
    /// Flush before logs and headers are written.
    FlushE1TooEarly,
    /// Flush before superblock 0 is written.
    FlushE2TooEarly,
    /// Flush before the second copies are written.
    FlushE3TooEarly,
    /// Write superblock 0 while the flush in front of it is under way.
    SuperblockDuringFlush,
    /// Do not wait for the data of the generation.
    SkipDrain,
    /// Write both superblocks in one flush epoch.
    SuperblocksTogether,
    /// Write superblock 1 first.
    SwapSuperblocks,
    /// Write both header copies in one flush epoch.
    BothHeadersFirst,
    /// Do not write the second copies of headers.
    SkipSecondHeaders,
    /// Do not write superblock 1.
    SkipSecondSuperblock,
    /// Acknowledge before the flush of superblock 0 completed.
    AcknowledgeBeforeFlush,
    /// Commit under the generation of the commit before.
    SameGeneration,
    /// Let a commit of nothing but roots write no header.
    RootsAlone,
    /// Hand freed blocks out again before the superblock is written.
    ReuseBeforeDurable,
    /// Hand freed blocks out again before the second copies are written.
    ReuseBeforeSecondCopies,
    /// Hand freed blocks out again at once.
    ReuseAtOnce,
    /// Hand blocks of an old log out again at once.
    ReuseLogAtOnce,
    /// Hand freed blocks out again although somebody may be reading them.
    SkipGrace,
    /// Give callers what is kept back for the log.
    SkipReserve,
    /// Change what a commit that has begun has not yet fixed.
    ChangeWhileRolling,
    /// Tell the device what a commit freed before that commit is durable.
    DiscardTooEarly,
    /// Tell the device to discard one block more than was freed.
    DiscardTooMuch,
    /// Do not repair copies that are not good.
    SkipRepair,
    /// Repair from a copy without a look at what it is now.
    SkipRepairCheck,
    /// Overwrite the log in place.
    LogInPlace,
    /// Log blocks as allocated that are handed out but not enqueued.
    LogReserved,
    /// Do not free the blocks of the log that is replaced.
    LeakOldLog,
    /// Leave the closing barrier out of a log.
    SkipBarrier,
    /// Leave the barrier out that ends the old log for a reader by the bare rule.
    SkipOpeningBarrier,
    /// Link blocks behind a log without a look at what its last block is now.
    SkipLinkCheck,
    /// Leave logs alone behind whose end something could come alive.
    SkipLogRewrite,
    /// The same, only when a commit changes nothing else.
    ForgetUnclean,
    /// The same, only when the volume grows.
    GrowOverTails,
    /// Grow without a second superblock at its new place.
    GrowWithoutSecond,
    /// Let the superblock name new arenas before their headers are durable.
    GrowTooEarly,
    /// Mount by the older superblock.
    TakeOlderSuperblock,
    /// Mount by the second superblock although an unreadable first one may be newer.
    TrustSecondSuperblock,
    /// Do not compare the hash of what was read with that of the pointer.
    SkipHashCheck,
    /// Do not compare the hash of a superblock.
    SkipSuperblockHash,
    /// Do not compare the hash of a header with that in the superblock.
    SkipHeaderHash,
    /// Do not compare the check of a header's seal.
    SkipSealHash,
    /// Do not compare the hash of a log block.
    SkipLogHash,
    /// Do not compare the digest of a log with that in the header.
    SkipLogDigest,
    /// Do not cut a log's last block back to what the seal vouches for.
    SkipTailRestore,
    /// Count as free what the original had freed when it was killed.
    FreeDoubtful,
    /// Count a flush that failed as done.
    IgnoreFlushError,
    /// Count a write that failed as done.
    IgnoreWriteError,
    /// Go on to write after a failure.
    GoOnAfterFailure,
}

/// Every switch, for tests that throw them in turn.
pub const ALL: &[Switch] = &[
    Switch::SkipFlushE0,
    Switch::SkipFlushAtMount,
    Switch::SkipFlushE1,
    Switch::SkipFlushE2,
    Switch::SkipFlushE3,
    Switch::FlushE0TooEarly,
    Switch::FlushE1TooEarly,
    Switch::FlushE2TooEarly,
    Switch::FlushE3TooEarly,
    Switch::SuperblockDuringFlush,
    Switch::SkipDrain,
    Switch::SuperblocksTogether,
    Switch::SwapSuperblocks,
    Switch::BothHeadersFirst,
    Switch::SkipSecondHeaders,
    Switch::SkipSecondSuperblock,
    Switch::AcknowledgeBeforeFlush,
    Switch::SameGeneration,
    Switch::RootsAlone,
    Switch::ReuseBeforeDurable,
    Switch::ReuseBeforeSecondCopies,
    Switch::ReuseAtOnce,
    Switch::ReuseLogAtOnce,
    Switch::SkipGrace,
    Switch::SkipReserve,
    Switch::ChangeWhileRolling,
    Switch::DiscardTooEarly,
    Switch::DiscardTooMuch,
    Switch::SkipRepair,
    Switch::SkipRepairCheck,
    Switch::LogInPlace,
    Switch::LogReserved,
    Switch::LeakOldLog,
    Switch::SkipBarrier,
    Switch::SkipOpeningBarrier,
    Switch::SkipLinkCheck,
    Switch::SkipLogRewrite,
    Switch::ForgetUnclean,
    Switch::GrowOverTails,
    Switch::GrowWithoutSecond,
    Switch::GrowTooEarly,
    Switch::TakeOlderSuperblock,
    Switch::TrustSecondSuperblock,
    Switch::SkipHashCheck,
    Switch::SkipSuperblockHash,
    Switch::SkipHeaderHash,
    Switch::SkipSealHash,
    Switch::SkipLogHash,
    Switch::SkipLogDigest,
    Switch::SkipTailRestore,
    Switch::FreeDoubtful,
    Switch::IgnoreFlushError,
    Switch::IgnoreWriteError,
    Switch::GoOnAfterFailure,
];

#[cfg(feature = "sabotage")]
mod thrown {
    use super::Switch;
    use core::sync::atomic::{AtomicU32, Ordering};

    static THROWN: AtomicU32 = AtomicU32::new(0);

    /// Throws one switch, or none. For the whole process.
    pub fn set(switch: Option<Switch>) {
        THROWN.store(switch.map_or(0, |switch| switch as u32 + 1), Ordering::SeqCst);
    }

    pub(crate) fn sabotaged(switch: Switch) -> bool {
        THROWN.load(Ordering::Relaxed) == switch as u32 + 1
    }
}

#[cfg(feature = "sabotage")]
pub(crate) use thrown::sabotaged;
#[cfg(feature = "sabotage")]
pub use thrown::set;

#[cfg(not(feature = "sabotage"))]
pub(crate) const fn sabotaged(_switch: Switch) -> bool {
    false
}

/// Whether mount takes the superblock of the one generation although the other is newer.
pub(crate) fn takes_older(generation: u64, other: u64) -> bool {
    sabotaged(Switch::TakeOlderSuperblock) && generation < other
}
