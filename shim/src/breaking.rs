//! One guarantee of the core, broken on purpose ([`arenite_core::sabotage`]): which rung notices? What is tried here is
//! a part of each rung. The switches are for the whole process.
//!
//! Each switch has an order of rungs, and of the kinds of runs in them: the one that is made for such a fault first.
#![forbid(unsafe_code)]

use crate::client::Slots;
use crate::config::{Config, Prelude};
use crate::corrupt::{flip_some, misread_some, Subject};
use crate::corrupt_copies::lose_copies;
use crate::crash::Limits;
use crate::crowd;
use crate::explore::{without_panic, Explorer, Options};
use crate::faults::FaultBench;
use crate::faulty::{Effect, Op};
use crate::probes;
use crate::tree::Recording;
use crate::workload::{prepare, record, record_from};
use arenite_core::sabotage::{set, Switch};
use arenite_core::DeviceError;
use std::time::Instant;

/// A kind of run.
type Kind = fn(u64) -> Config;

/// Rungs in the order in which a switch is tried on them.
#[must_use]
pub fn order(switch: Switch) -> [u32; 5] {
    match switch {
        Switch::SkipHashCheck | Switch::IgnoreFlushError | Switch::IgnoreWriteError | Switch::GoOnAfterFailure => {
            [3, 1, 2, 4, 6]
        }
        Switch::SwapSuperblocks
        | Switch::RootsAlone
        | Switch::ReuseBeforeSecondCopies
        | Switch::TrustSecondSuperblock
        | Switch::SkipRepairCheck
        | Switch::SkipLinkCheck
        | Switch::ForgetUnclean
        | Switch::GrowWithoutSecond
        | Switch::SkipSuperblockHash
        | Switch::SkipHeaderHash
        | Switch::SkipLogHash
        | Switch::SkipLogDigest
        | Switch::FreeDoubtful
        | Switch::SkipReserve => [4, 3, 1, 2, 6],
        Switch::SkipGrace => [6, 1, 2, 3, 4],
        _ => [1, 2, 3, 4, 6],
    }
}

/// Kinds of runs for crash states, that one first which does most of what the switch breaks.
fn kinds(switch: Switch) -> Vec<Kind> {
    let first: Kind = match switch {
        Switch::SkipFlushAtMount => Config::restarts,
        Switch::SuperblocksTogether => Config::many_arenas,
        Switch::ReuseBeforeDurable | Switch::ReuseAtOnce => crowded,
        Switch::SkipDrain => Config::large,
        Switch::ChangeWhileRolling => hasty,
        Switch::DiscardTooEarly | Switch::DiscardTooMuch => Config::discards,
        Switch::SkipLogRewrite | Switch::SkipSealHash => Config::foreign,
        Switch::SkipTailRestore => Config::interrupted,
        Switch::SkipOpeningBarrier => Config::linked_logs,
        Switch::GrowTooEarly => Config::growing,
        Switch::GrowOverTails => growing_foreign,
        Switch::SkipRepair => Config::repairs,
        _ => Config::arenas,
    };
    let all: [Kind; 12] = [
        Config::arenas,
        Config::restarts,
        Config::foreign,
        Config::interrupted,
        Config::many_arenas,
        crowded,
        hasty,
        Config::large,
        Config::repairs,
        Config::discards,
        Config::growing,
        Config::long_logs,
    ];
    std::iter::once(first).chain(all.into_iter().filter(|kind| !std::ptr::fn_addr_eq(*kind, first))).collect()
}

/// Nearly full, with generations that overlap.
fn crowded(seed: u64) -> Config {
    Config { dense: 0, overlap: 60, ..Config::full(seed) }
}

/// Changes from the moment on at which a commit begins.
fn hasty(seed: u64) -> Config {
    Config { slots: 40, changes: 6, overlap: 100, ..Config::many_arenas(seed) }
}

/// A volume of the original that grows before anything else was committed.
fn growing_foreign(seed: u64) -> Config {
    Config { arenas: 2, commits: 1, restart: 60, prelude: Prelude::Foreign, ..Config::growing(seed) }
}

/// A run during which copies are lost; commits that change nothing but the roots are among its.
fn copied(seed: u64) -> Config {
    Config {
        arenas: 2,
        volume_blocks: 80,
        slots: 4,
        delete: 60,
        lives: 2,
        settle: 20,
        overlap: 30,
        ..Config::small(seed)
    }
}

/// Crash states of one configuration, with second crashes; the first failure.
fn crashes(switch: Switch, config: &Config, limits: Limits, deadline: Option<Instant>) -> Result<(), String> {
    if deadline.is_some_and(|deadline| Instant::now() > deadline) {
        return Ok(());
    }
    set(None);
    let (disk, run) = prepare(config).map_err(|error| format!("preparation: {error:?}"))?;
    set(Some(switch));
    let recording = without_panic(|| record_from(&disk, &run).map_err(|error| format!("run: {error:?}")))?;
    let mut explorer = Explorer::new(Options { limits, deep_every: 3, max_failures: 1, deadline, ..Options::DEFAULT });
    explorer.explore(&recording);
    explorer.failures().first().map_or(Ok(()), |failure| Err(format!("seed {}, {failure}", config.seed)))
}

/// Runs of the kind that suits, then of the others, a few seeds of each, until one fails.
fn campaign(
    switch: Switch,
    limits: Limits,
    deadline: Option<Instant>,
    change: fn(Config) -> Config,
) -> Result<(), String> {
    let kinds = kinds(switch);
    let (first, others) = kinds.split_at(1);
    let some = |kinds: &[Kind], seeds: std::ops::Range<u64>| {
        let each = |kind: &Kind, seed| crashes(switch, &change(kind(seed)), limits, deadline);
        seeds.into_iter().try_for_each(|seed| kinds.iter().try_for_each(|kind| each(kind, seed)))
    };
    some(first, 0..12)?;
    some(others, 0..3)
}

/// An error at every call.
fn errors(switch: Switch) -> Result<(), String> {
    set(None);
    let config = Config { prelude: Prelude::Filled, reread: 50, ..Config::arenas(5) };
    let (disk, run) = prepare(&config).map_err(|error| format!("preparation: {error:?}"))?;
    let bench = FaultBench::new(&disk, run, config.course(), Options::DEFAULT);
    set(Some(switch));
    let refuse = Effect::Refuse(DeviceError::Io);
    let mut kinds = vec![(Op::Read, Effect::Garbage), (Op::Read, refuse), (Op::Write, refuse), (Op::Flush, refuse)];
    match switch {
        Switch::IgnoreFlushError => kinds.rotate_right(1),
        Switch::IgnoreWriteError | Switch::GoOnAfterFailure => kinds.rotate_right(2),
        _ => {}
    }
    kinds.into_iter().try_for_each(|(op, effect)| bench.campaign(op, false, effect).map(drop))
}

/// Several threads, and a reader whom nobody may disturb.
fn threads(switch: Switch) -> Result<(), String> {
    set(Some(switch));
    without_panic(|| probes::grace(true))?;
    without_panic(|| probes::grace(false))?;
    let plan = crowd::Plan { threads: 2, commits: 12, changes_per_commit: 24, reorder: false, seed: 0 };
    let recording = without_panic(|| Ok(crowd::run(&plan, true).0))?;
    let limits = Limits { exhaustive_states: 1 << 8, samples: 16, ..Limits::DEFAULT };
    let mut explorer = Explorer::new(Options { limits, max_failures: 1, ..Options::DEFAULT });
    explorer.explore(&recording);
    explorer.failures().first().map_or(Ok(()), |failure| Err(failure.to_string()))
}

fn recorded(config: &Config, switch: Switch) -> Result<Recording<Slots>, String> {
    set(None);
    let (disk, run) = prepare(config).map_err(|error| format!("preparation: {error:?}"))?;
    set(Some(switch));
    without_panic(|| record_from(&disk, &run).map_err(|error| format!("run: {error:?}")))
}

/// Flipped bits, lost copies, reads of a commit that are answered with another block, and what the original left.
fn corruption(switch: Switch) -> Result<(), String> {
    let subject = |config: &Config| {
        set(None);
        let recording = record(config).map_err(|error| format!("run: {error:?}"))?;
        let subject = Subject::last_of(&recording);
        set(Some(switch));
        subject
    };
    let short = Config { lives: 1, settle: 100, hold: 0, changes: 2, ..Config::arenas(0) };
    let copies = || {
        [copied(0), copied(1), crowded(0), Config { restart: 0, ..Config::growing(0) }]
            .iter()
            .try_for_each(|config| lose_copies(&recorded(config, switch)?).map(drop))
    };
    let misread = || {
        let long = |commits| Config { lives: 1, settle: 100, hold: 0, commits, ..Config::long_logs(0) };
        [short, long(1), long(3), long(9)].iter().try_for_each(|config| misread_some(&subject(config)?).map(drop))
    };
    let probes = || {
        set(Some(switch));
        without_panic(probes::lost_log_write)?;
        without_panic(probes::interrupted_original)?;
        without_panic(probes::killed_original)?;
        without_panic(probes::full_volume)
    };
    let flips = || {
        flip_some(&subject(&Config { prelude: Prelude::Foreign, commits: 0, ..short })?)?;
        flip_some(&subject(&short)?)
    };
    match switch {
        Switch::SkipRepairCheck | Switch::SkipLinkCheck => misread()?,
        Switch::SkipSuperblockHash | Switch::SkipLogHash => flips()?,
        Switch::ForgetUnclean | Switch::FreeDoubtful | Switch::SkipReserve => probes()?,
        _ => {}
    }
    copies()?;
    misread()?;
    probes()?;
    flips()
}

/// Tries a switch on one rung; `Ok` means that nothing was noticed.
pub fn try_on(rung: u32, switch: Switch, deadline: Option<Instant>) -> Result<(), String> {
    let result = match rung {
        1 => campaign(switch, Limits::DEFAULT, deadline, |config| config),
        2 => campaign(switch, Limits { samples: 50, ..Limits::PRODUCTION }, deadline, Config::production),
        3 => errors(switch),
        4 => corruption(switch),
        _ => threads(switch),
    };
    set(None);
    result
}
