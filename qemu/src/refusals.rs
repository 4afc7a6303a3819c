//! Scenarios in which the kernel has to refuse or to give up: disks that do not do, archives that make no sense, and
//! devices that fail. Each ends the run with a status of its own, and does no harm.

use crate::demo::{require, results, Bench, Boot, Demo, Phase, Plan};
use crate::generate;
use crate::host::Expected;
use crate::outcome::Outcome;
use crate::scenarios::{boot, prepare, prepare_small, MIB, PLAN, SEED};
use crate::vm::{Manner, Run};
use anyhow::{ensure, Context, Result};
use std::path::Path;

/// The first of a machine's disks.
pub const STORE: usize = 0;
/// The second.
const INPUT: usize = 1;

/// Boots with one thing changed and demands an outcome.
pub fn boot_with<'a>(
    demo: &'a Demo<'_>,
    bench: &Bench,
    phase: Phase,
    outcome: Outcome,
    change: impl FnOnce(&mut Boot<'a>),
) -> Result<Run> {
    let mut plan = demo.plan_boot(phase, &[]);
    change(&mut plan);
    let run = bench.start(plan)?;
    require(&run, outcome, bench.verbose).with_context(|| format!("{phase:?}"))?;
    Ok(run)
}

/// Disks and archives that do not do.
pub fn refusals(bench: &Bench) -> Result<String> {
    let mut demo = prepare_small(bench, "refusals")?;
    let blank = std::fs::read(&demo.disk)?;
    boot_with(&demo, bench, Phase::Import, Outcome::NoFlush, |boot| boot.disks[STORE].manner = Manner::NoFlush)?;
    boot_with(&demo, bench, Phase::Import, Outcome::ReadOnly, |boot| boot.disks[STORE].read_only = true)?;
    boot_with(&demo, bench, Phase::Import, Outcome::NoDisk, |boot| boot.disks.truncate(0))?;
    boot_with(&demo, bench, Phase::Import, Outcome::NoDisk, |boot| boot.disks.truncate(INPUT))?;
    boot_with(&demo, bench, Phase::Import, Outcome::BadOption, |boot| boot.words.push("format=please".into()))?;
    boot_with(&demo, bench, Phase::Verify, Outcome::NoVolume, |_| {})?;
    ensure!(std::fs::read(&demo.disk)? == blank, "a refused disk was changed");
    let mut runs = 6 + bad_archives(bench, &demo)?;

    boot(bench, &demo, Phase::Import, &[], Outcome::Success)?;
    let input = demo.file("other-input");
    generate::small(&input, SEED + 1)?;
    demo.pack_again(input)?;
    boot(bench, &demo, Phase::Verify, &[], Outcome::Mismatch).context("another archive")?;
    demo.finish(true);
    runs += 1 + too_small(bench)?;
    Ok(format!("{runs} refusals"))
}

/// Archives with an error in them. Returns how many.
fn bad_archives(bench: &Bench, demo: &Demo<'_>) -> Result<u32> {
    let archive = std::fs::read(demo.archive())?;
    let bad = demo.file("bad.tar");
    let mut wrong_sum = archive.clone();
    wrong_sum[0] ^= 1;
    let cut_off = archive[..archive.len() / 1024 * 512].to_vec();
    let without_end = archive[..archive.len() - 1024].to_vec();
    for (bytes, what) in [(wrong_sum, "checksum"), (cut_off, "end of the archive"), (without_end, "end mark")] {
        std::fs::write(&bad, bytes)?;
        let run = boot_with(demo, bench, Phase::Import, Outcome::BadInput, |boot| boot.disks[INPUT].path = &bad)?;
        let named = |line: &String| line.contains("archive, byte ") && line.contains(what);
        ensure!(
            run.log.iter().any(named),
            "the kernel did not say where the archive is bad, and that it is the {what}"
        );
    }
    Ok(3)
}

/// A disk on which no volume fits.
fn too_small(bench: &Bench) -> Result<u32> {
    let demo = prepare(bench, "refusals", Plan { size: 256 << 10, ..PLAN }, |dir| generate::small(dir, SEED))?;
    boot(bench, &demo, Phase::Import, &[], Outcome::Limit).context("a small disk")?;
    demo.finish(true);
    Ok(1)
}

/// Devices that fail. What was committed before stays, and is found by the next machine.
pub fn io_errors(bench: &Bench) -> Result<String> {
    // Commits come every 16 MiB. The disk has three arenas of 64 MiB; content goes into the second one first, and after
    // 32 MiB into the third. So the failing sector is met after two commits at least.
    const LATE_SECTOR: u64 = (128 + 16) * MIB / 512;
    let fill = |dir: &Path| generate::large(dir, SEED, 80, MIB);
    let make = || prepare(bench, "io-errors", Plan { size: 192 * MIB, ..PLAN }, fill);
    let fail = |demo: &Demo<'_>, phase, manner| {
        boot_with(demo, bench, phase, Outcome::Io, |boot| boot.disks[STORE].manner = manner)
            .with_context(|| format!("{manner:?}"))
    };
    let demo = make()?;
    let flush = fail(&demo, Phase::Import, Manner::FailingFlush);
    if let Err(error) = &flush {
        if format!("{error:#}").contains("blkdebug") {
            demo.finish(true);
            return Ok("not tried: this QEMU cannot make disks fail (blkdebug)".into());
        }
    }
    flush?;
    demo.finish(true);
    // A format that failed leaves a disk that is not blank, so the next one begins on another.
    let demo = make()?;
    fail(&demo, Phase::Import, Manner::FailingWrite(LATE_SECTOR))?;
    let verify = boot(bench, &demo, Phase::Verify, &["partial=yes"], Outcome::Success)?;
    let found = results(&verify).next().and_then(|event| event.number("files")).context("no @result")?;
    ensure!((32..80).contains(&found), "{found} files were found after a failed write");
    demo.check_on_host(Expected::PartAfterChanges).context("host")?;

    boot(bench, &demo, Phase::Import, &[], Outcome::Success)?;
    fail(&demo, Phase::Verify, Manner::FailingRead(LATE_SECTOR))?;
    demo.check_on_host(Expected::AsImported).context("host")?;
    demo.finish(true);
    Ok(format!("{found} files kept after a failed write"))
}
