//! Scenarios with several processors: all of them work, their timers run and stay out of critical sections, and a
//! fault on any of them ends the run. And how much of a stack the store's calls take.

use crate::demo::{require, results, Bench, Phase};
use crate::generate;
use crate::host::Expected;
use crate::kills;
use crate::outcome::Outcome;
use crate::platform;
use crate::scenarios::{boot, prepare, PLAN, SEED};
use crate::vm::{Disk, Manner, Run};
use crate::work::{self, WorkDir};
use anyhow::{ensure, Context, Result};
use std::collections::BTreeMap;

/// The number of processors.
const CPUS: u32 = 4;
/// Files beside the small input, enough for everybody, and their length in bytes.
const FILES: (u32, u64) = (120, 40_000);

/// The demonstration on four processors.
pub fn smp(bench: &Bench) -> Result<String> {
    let bench = &Bench { cpus: CPUS, ..bench.clone() };
    let demo = prepare(bench, "smp", PLAN, |dir| {
        generate::small(dir, SEED)?;
        generate::large(dir, SEED, FILES.0, FILES.1)
    })?;
    let import = boot(bench, &demo, Phase::Import, &[], Outcome::Success)?;
    let mut note = judge(&import).context("import")?;
    demo.check_on_host(Expected::AsImported).context("host")?;
    let verify = boot(bench, &demo, Phase::Verify, &[], Outcome::Success)?;
    note += &judge(&verify).context("verify")?;
    demo.check_on_host(Expected::AfterChanges).context("host, changed")?;
    for run in [&import, &verify] {
        let first = results(run).next().context("no @result")?;
        let found = (first.number("files"), first.number("bytes"));
        ensure!(found == (Some(demo.packed.files), Some(demo.packed.bytes)), "not everything was found: {first:?}");
    }
    demo.finish(true);
    faults(bench)?;
    Ok(note)
}

/// Kills of QEMU while four processors import: no commit has come between the blocks of a file and its entry.
pub fn kills(bench: &Bench) -> Result<String> {
    kills::kills(&Bench { cpus: CPUS, ..bench.clone() })
}

/// Every processor has worked, and its timer was heard outside critical sections alone.
fn judge(run: &Run) -> Result<String> {
    let mut note = String::new();
    let mut sums = [0; CPUS as usize];
    for result in results(run) {
        let (phase, shares) = (result.text("phase").unwrap_or("?"), result.text("shares").context("no shares")?);
        note += &format!("{phase} {shares}; ");
        let numbers = shares.split('/').map(str::parse).collect::<Result<Vec<u64>, _>>().context("shares")?;
        ensure!(numbers.len() == sums.len(), "{phase}: {shares} is not of {CPUS} processors");
        sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
    }
    ensure!(sums.iter().all(|&sum| sum > 0), "a processor has done nothing: {note}");
    let cpus: Vec<_> = run.events.iter().filter(|event| event.name == "cpu").collect();
    ensure!(cpus.len() == sums.len(), "{} processors have reported", cpus.len());
    for cpu in &cpus {
        let (ticks, intruded) = (cpu.number("ticks"), cpu.number("intruded"));
        ensure!(ticks > Some(0) && intruded == Some(0), "the timer of a processor: {cpu:?}");
    }
    let deferred: u64 = cpus.iter().filter_map(|cpu| cpu.number("deferred")).sum();
    ensure!(deferred > 0, "no tick has waited for the end of a critical section");
    Ok(note)
}

/// The largest number of bytes of the stack that a call of the store may take, the driver's below it included.
const STACK_BYTES: u64 = 4096;

/// How much of the stack each call of the store takes: within the limit.
pub fn stack(bench: &Bench) -> Result<String> {
    const CALLS: [&str; 9] =
        ["mount", "allocate", "enqueue", "step", "read", "read_from_disk", "free", "commit", "unmount"];
    let dir = WorkDir::take(&bench.root, "stack")?;
    let image = dir.file("store.img");
    work::open_disk(&image, PLAN.size)?;
    let mut depths = BTreeMap::new();
    for calls in [&["format"][..], &CALLS[..]] {
        let (manner, sector_bytes) = (Manner::Sound, 512);
        let disk = Disk { path: &image, serial: "store", read_only: false, sector_bytes, manner, socket: None };
        let run = bench.start(platform::boot("stack", vec!["phase=stack".into()], vec![disk]))?;
        require(&run, Outcome::Success, bench.verbose)?;
        for event in run.events.iter().filter(|event| event.name == "stack") {
            let call = event.text("call").context("no call")?.to_string();
            let most = depths.entry(call).or_insert(0);
            *most = event.number("bytes").context("no figure")?.max(*most);
        }
        for call in calls {
            ensure!(depths.contains_key(*call), "nothing is known of {call}");
        }
    }
    let mut by_bytes: Vec<_> = depths.into_iter().collect();
    by_bytes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let note = by_bytes.iter().map(|(call, bytes)| format!("{call} {bytes}")).collect::<Vec<_>>().join(", ");
    for (call, bytes) in &by_bytes {
        ensure!((1..=STACK_BYTES).contains(bytes), "{call} takes {bytes} bytes, not 1 to {STACK_BYTES}: {note}");
    }
    dir.remove();
    Ok(note)
}

/// Whichever processor fails, all stop, and the status says what it was.
fn faults(bench: &Bench) -> Result<()> {
    const FAULTS: [(&str, u32, Outcome); 4] = [
        ("pf", 1, Outcome::Exception),
        ("df", 2, Outcome::Exception),
        ("stack", 3, Outcome::Exception),
        ("panic", 1, Outcome::Panic),
    ];
    for (fault, cpu, outcome) in FAULTS {
        let words = vec![format!("fault={fault}"), format!("cpu={cpu}")];
        let run = bench.start(platform::boot(fault, words, Vec::new()))?;
        require(&run, outcome, bench.verbose).with_context(|| format!("fault={fault} on CPU {cpu}"))?;
        let name = format!("kernel-demo: CPU {cpu}: ");
        ensure!(run.log.iter().any(|line| line.starts_with(&name)), "fault={fault}: CPU {cpu} was not named");
        let stopped = format!("kernel-demo: {others} of {others} other CPUs have stopped", others = CPUS - 1);
        ensure!(run.log.contains(&stopped), "fault={fault}: the others go on");
    }
    Ok(())
}
