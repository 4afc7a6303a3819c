//! Switches that break one guarantee each, so that tests can show that they would notice.
//!
//! Without the feature `sabotage` no switch can be thrown and the compiler removes every question for one.

/// One guarantee, broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Switch {
    /// Go on from the repairs without a flush.
    SkipFlushE0 = 1,
    /// Trust what mount read to be durable.
    SkipFlushAtMount,
    /// Go on from data, logs and headers without a flush.
    SkipFlushE1,
    /// Go on from superblock 0 without a flush.
    SkipFlushE2,
    /// Go on from the second copies without a flush.
    SkipFlushE3,
    /// Write both superblocks in one flush epoch.
    SuperblocksTogether,
    /// Write both header copies in one flush epoch.
    BothHeadersFirst,
    /// Acknowledge before the flush of superblock 0 completed.
    AcknowledgeBeforeFlush,
    /// Hand freed blocks out again before the superblock is written.
    ReuseBeforeDurable,
    /// Hand freed blocks out again at once.
    ReuseAtOnce,
    /// Do not repair copies that are not good.
    SkipRepair,
    /// Do not wait for the data of the generation.
    SkipDrain,
    /// Overwrite the log in place.
    LogInPlace,
    /// Log blocks as allocated that are handed out but not enqueued.
    LogReserved,
    /// Do not compare the hash of what was read with that of the pointer.
    SkipHashCheck,
    /// Do not compare the digest of a log with that in the header.
    SkipLogDigest,
    /// Do not compare the hash of a header with that in the superblock.
    SkipHeaderHash,
    /// Hand freed blocks out again although somebody may be reading them.
    SkipGrace,
    /// Leave logs alone behind whose end something could come alive.
    SkipLogRewrite,
    /// Count a flush that failed as done.
    IgnoreFlushError,
    /// Count a write that failed as done.
    IgnoreWriteError,
}

/// Every switch, for tests that throw them in turn.
pub const ALL: [Switch; 21] = [
    Switch::SkipFlushE0,
    Switch::SkipFlushAtMount,
    Switch::SkipFlushE1,
    Switch::SkipFlushE2,
    Switch::SkipFlushE3,
    Switch::SuperblocksTogether,
    Switch::BothHeadersFirst,
    Switch::AcknowledgeBeforeFlush,
    Switch::ReuseBeforeDurable,
    Switch::ReuseAtOnce,
    Switch::SkipRepair,
    Switch::SkipDrain,
    Switch::LogInPlace,
    Switch::LogReserved,
    Switch::SkipHashCheck,
    Switch::SkipLogDigest,
    Switch::SkipHeaderHash,
    Switch::SkipGrace,
    Switch::SkipLogRewrite,
    Switch::IgnoreFlushError,
    Switch::IgnoreWriteError,
];

#[cfg(feature = "sabotage")]
mod thrown {
    use super::Switch;
    use core::sync::atomic::{AtomicU32, Ordering};

    static THROWN: AtomicU32 = AtomicU32::new(0);

    /// Throws one switch, or none. For the whole process.
    pub fn set(switch: Option<Switch>) {
        THROWN.store(switch.map_or(0, |switch| switch as u32), Ordering::SeqCst);
    }

    pub(crate) fn sabotaged(switch: Switch) -> bool {
        THROWN.load(Ordering::Relaxed) == switch as u32
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
