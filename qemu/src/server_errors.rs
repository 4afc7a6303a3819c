//! What the kernel says, and what the store keeps, when the device under it fails on the way: a block server between
//! machine and disk does as a script says. The kernel gives one reason and ends with its documented outcome. The next
//! machine, without the server, finds the last commit that was acknowledged, or the one in flight, and all its bytes.
//!
//! A device that lies is another matter: what it has lost can only be found out. Where one of two copies is hit,
//! nothing is missing; where it is a block of a file, the next machine has to name the damage instead of giving out
//! wrong bytes.

use crate::demo::{require, Bench, Demo, Phase, KERNEL_ERROR};
use crate::generate;
use crate::host::Expected;
use crate::kills::Held;
use crate::outcome::Outcome;
use crate::scenarios::{boot, prepare, verify, PLAN, SEED};
use crate::vm::{Driver, Run};
use anyhow::{ensure, Context, Result};
use arenite_shim::nbd::Script;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;

/// What is found by the machine after the one whose device fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// What was acknowledged.
    Kept,
    /// The same, and a copy of a superblock has to be made good.
    Repaired,
    /// A damaged block of a file, named.
    Named,
}

/// A device that fails.
struct Case {
    /// What it does.
    name: &'static str,
    /// When it fails: while files are imported, or while they are compared.
    phase: Phase,
    /// The same for the server.
    script: &'static str,
    /// How the kernel ends.
    outcome: Outcome,
    /// What it gives as the reason; empty if it ends well.
    reason: &'static str,
    after: After,
}

impl Case {
    /// One that fails during the import, so that the kernel ends with `i/o error`.
    const fn fails(name: &'static str, script: &'static str, reason: &'static str) -> Self {
        Self { name, phase: Phase::Import, script, outcome: Outcome::Io, reason, after: After::Kept }
    }

    /// One that lies, so that the import seems to succeed.
    const fn lies(name: &'static str, script: &'static str, after: After) -> Self {
        Self { name, phase: Phase::Import, script, outcome: Outcome::Success, reason: "", after }
    }
}

/// How long a request may take.
const TIMEOUT: &str = "timeout_us=1000000";
/// What the driver says of a disk that takes longer.
const GIVEN_UP: &str = "given up: a request takes too long";

/// Reasons: the device has reported an error, or nothing.
const IO: &str = "failed: input/output error";
const LATE: &str = "the device did not answer in time";
/// One of the two, where nobody waits for the request that is late: the next one finds the device given up.
const GONE: &str = "the device ";

/// The cases of `cargo verify`. Content of files goes into the second half of the disk; the formatting writes the first
/// superblock once and flushes three times, each commit writes it once, too.
const CASES: &[Case] = &[
    Case { phase: Phase::Verify, ..Case::fails("a read fails", "read from 60 fail eio", IO) },
    Case::fails("a write fails", "write at 36M..48M nth 1 fail eio", IO),
    Case::fails("a flush fails", "flush nth 8 fail eio", IO),
    Case::fails("a write is torn, and fails", "write at 36M..48M nth 1 tear 1 fail", IO),
    Case::fails("a write is too late", "write at 36M..48M nth 1 delay 2000", LATE),
    Case::fails("a flush is not answered", "flush nth 9 withhold", LATE),
    Case::fails("the connection breaks", "write at 36M..48M nth 1 close", IO),
    Case::fails("the device goes away", "flush nth 8 gone", IO),
    Case::lies("a superblock is lost", "write at 0..16K from 4 lose", After::Repaired),
    Case::lies("blocks are lost", "write at 36M..48M nth 1 lose", After::Named),
    Case::lies("blocks are torn", "write at 36M..48M nth 1 tear random", After::Named),
];

/// What else a device may do.
const MORE: &[Case] = &[
    Case { phase: Phase::Verify, ..Case::fails("nothing can be read", "read fail eio", IO) },
    Case {
        phase: Phase::Verify,
        ..Case::lies("a superblock cannot be read", "read at 0..16K fail eio", After::Repaired)
    },
    Case { phase: Phase::Verify, ..Case::fails("nothing can be written", "write fail eio", IO) },
    Case::fails("there is no space", "write at 36M..48M nth 1 fail enospc", IO),
    Case::fails("a superblock is torn, and fails", "write at 0..16K nth 4 tear random fail", IO),
    Case { phase: Phase::Verify, ..Case::fails("a read is not answered", "read nth 60 withhold", GONE) },
    Case::lies("flushes are late, but not too late", "flush from 5 delay 100", After::Kept),
    Case::lies("answers come in another order", "write chance 50 reorder 4", After::Kept),
    Case::lies("a superblock is torn", "write at 0..16K from 4 tear 0", After::Repaired),
];

/// The cases of `cargo verify`, one after the other.
pub fn server_errors(bench: &Bench) -> Result<String> {
    all_of(bench, "server-errors", CASES)
}

/// All cases; with the other driver and with four processors, too.
pub fn server_errors_long(bench: &Bench) -> Result<String> {
    const NAME: &str = "server-errors-long";
    all_of(bench, NAME, MORE)?;
    for cases in [CASES, MORE] {
        all_of(&Bench { driver: Driver::Simple, ..bench.clone() }, NAME, cases).context("simple driver")?;
        all_of(&Bench { cpus: 4, ..bench.clone() }, NAME, cases).context("four processors")?;
    }
    Ok(format!("{} ways to fail", CASES.len() + MORE.len()))
}

fn all_of(bench: &Bench, name: &str, cases: &[Case]) -> Result<String> {
    let mut demo = prepare(bench, name, PLAN, |dir: &Path| {
        generate::small(dir, SEED)?;
        generate::large(dir, SEED, 40, 100_000)
    })?;
    for case in cases {
        // The plain driver waits inside a flush and cannot be told for how long.
        if bench.driver == Driver::Simple && case.script.starts_with("flush") && case.reason == LATE {
            continue;
        }
        println!("server: {}: {}", case.name, case.script);
        judge(bench, &mut demo, case).with_context(|| case.name)?;
    }
    demo.finish(true);
    Ok(format!("{} ways to fail", cases.len()))
}

fn judge(bench: &Bench, demo: &mut Demo<'_>, case: &Case) -> Result<()> {
    // Blank: what an earlier case has left must not stand in for what this one loses.
    let disk = File::options().write(true).open(&demo.disk)?;
    disk.set_len(0)?;
    disk.set_len(PLAN.size)?;
    if case.phase == Phase::Verify {
        boot(bench, demo, Phase::Import, &[], Outcome::Success)?;
    }
    let run = misbehave(bench, demo, case)?;
    require(&run, case.outcome, bench.verbose)?;
    let reasons: Vec<&str> = run.log.iter().filter_map(|line| line.strip_prefix(KERNEL_ERROR)).collect();
    let as_it_should = match (case.reason, reasons.as_slice()) {
        ("", []) => true,
        ("", _) => false,
        (wanted, [reason]) => reason.contains(wanted),
        _ => false,
    };
    reasons.iter().for_each(|reason| println!("server: the kernel says: {reason}"));
    ensure!(as_it_should, "the kernel gave these reasons: {reasons:?}; wanted was one with `{}`", case.reason);
    let given_up = run.log.iter().filter(|line| line.contains(GIVEN_UP)).count();
    ensure!(given_up == usize::from(matches!(case.reason, LATE | GONE)), "{given_up} lines say `{GIVEN_UP}`");
    match (case.phase, case.after) {
        (Phase::Import, After::Named) => named(bench, demo),
        (Phase::Import, after) => kept(bench, demo, &run, after),
        (Phase::Verify, After::Kept) => verify(bench, demo).map(drop),
        // The machine has made its changes, as all could be read from somewhere.
        (Phase::Verify, _) => {
            ensure!(has_repaired(&run), "no superblock was made good");
            demo.check_on_host(Expected::AfterChanges).context("host, changed").map(drop)
        }
    }
}

/// Whether the kernel has found a copy of a superblock bad, and made it good.
fn has_repaired(run: &Run) -> bool {
    run.events.iter().any(|event| event.name == "repaired" && event.text("what") == Some("superblock"))
}

/// A boot on the device that fails.
fn misbehave(bench: &Bench, demo: &mut Demo<'_>, case: &Case) -> Result<Run> {
    demo.serve_disk(&Script::parse(case.script)?)?;
    let words: &[&str] = match case.phase {
        Phase::Import => &["commit_every=1048576", TIMEOUT],
        Phase::Verify => &[TIMEOUT],
    };
    let stop = demo.server_stop().context("there is no server")?;
    // QEMU resets a disk when that has answered what it was asked. A server that never does has to end, then.
    let never_answers = case.script.ends_with("withhold");
    let run = bench.start_watched(demo.plan_boot(case.phase, words), |line| {
        if never_answers && line.contains(GIVEN_UP) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    let counts = demo.stop_server()?;
    ensure!(counts.scripted > 0, "the script did not come to bear ({counts})");
    run
}

/// The next machine finds what was acknowledged, goes on with the import, and a third one compares every byte.
fn kept(bench: &Bench, demo: &Demo<'_>, before: &Run, after: After) -> Result<()> {
    let (_, acknowledged) = Held::both(before)?;
    let run = boot(bench, demo, Phase::Import, &["resume=yes", "commit_every=1048576"], Outcome::Success)?;
    let (found, last) = Held::both(&run)?;
    println!("server: acknowledged: {acknowledged}; the next machine found: {found}");
    acknowledged.demand(found)?;
    ensure!(acknowledged.files > 0, "the device failed before the first commit of the import");
    let (files, bytes) = (demo.packed.files, demo.packed.bytes);
    ensure!(last.is_all_of(files, bytes), "of {files} files, {bytes} bytes: {last}");
    ensure!(has_repaired(&run) || after != After::Repaired, "no superblock was made good");
    demo.check_on_host(Expected::AsImported).context("host")?;
    verify(bench, demo).map(drop)
}

/// The next machine names file and address of what the device has lost.
fn named(bench: &Bench, demo: &Demo<'_>) -> Result<()> {
    let verify = boot(bench, demo, Phase::Verify, &[], Outcome::Corrupt)?;
    let named = verify.events.iter().find(|event| event.name == "corrupt");
    let named = named.context("the kernel did not name the damage (@corrupt)")?;
    let (file, addr) = (named.text("file"), named.number("addr"));
    let (Some(file), Some(addr)) = (file, addr) else { anyhow::bail!("no file or no address: {named:?}") };
    println!("server: the next machine found damage in {file}, at {addr:#x}");
    ensure!(demo.check_on_host(Expected::AsImported).is_err(), "the host found no damage");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_understood() {
        for case in CASES.iter().chain(MORE) {
            assert!(Script::parse(case.script).is_ok(), "{}", case.name);
            assert_eq!(case.reason.is_empty(), case.outcome == Outcome::Success, "{}", case.name);
        }
    }
}
