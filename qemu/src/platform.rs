//! Scenarios for the kernel's platform half, without a store: the disk driver against a scratch disk, and faults
//! provoked on purpose, each of which has to end the run with its own status instead of a hang or a reset.

use crate::demo::{require, Bench, Boot};
use crate::outcome::Outcome;
use crate::vm::{Disk, Manner};
use crate::work::{self, WorkDir};
use anyhow::{ensure, Context, Result};

const MEMORY_BYTES: u64 = 64 << 20;
const SCRATCH_BYTES: u64 = 64 << 20;
/// Sizes of a disk's request queue; elsewhere it is QEMU's own choice, 256.
const QUEUES: [u16; 4] = [4, 16, 128, 1024];

/// A boot on little memory.
pub fn boot<'a>(label: &'a str, words: Vec<String>, disks: Vec<Disk<'a>>) -> Boot<'a> {
    Boot { label, memory: MEMORY_BYTES, words, disks, total_bytes: 0, cut: None }
}

/// The driver writes a pattern with many requests in flight, flushes, reads it back, and has bad requests refused.
pub fn driver(bench: &Bench) -> Result<String> {
    let dir = WorkDir::take(&bench.root, "driver")?;
    let scratch = dir.file("scratch.img");
    work::open_disk(&scratch, SCRATCH_BYTES)?;
    for (bytes, sector_bytes) in [(16 << 10, 512), (64 << 10, 512), (64 << 10, 4096)] {
        let words = vec!["selftest".into(), format!("bytes={bytes}")];
        let manner = Manner::Sound;
        let disk = Disk { path: &scratch, serial: "scratch", read_only: false, sector_bytes, manner, socket: None };
        let run = bench.start(boot("selftest", words, vec![disk]))?;
        require(&run, Outcome::Success, bench.verbose)
            .with_context(|| format!("{bytes} on sectors of {sector_bytes}"))?;
    }
    for entries in QUEUES {
        let manner = Manner::Queue(entries);
        let disk =
            Disk { path: &scratch, serial: "scratch", read_only: false, sector_bytes: 512, manner, socket: None };
        let run = bench.start(boot("selftest", vec!["selftest".into()], vec![disk]))?;
        require(&run, Outcome::Success, bench.verbose).with_context(|| format!("a queue of {entries}"))?;
        // A request takes a header, a status and a buffer at least. The driver's own limits are 256 and 32.
        let (requests, buffers) = (entries / 3, entries - 2);
        let depth = format!("{} requests of {} buffers", requests.min(256), buffers.min(32));
        ensure!(
            run.log.iter().any(|line| line.contains("serial \"scratch\"") && line.ends_with(&depth)),
            "the driver does not use a queue of {entries} for {depth}"
        );
    }
    dir.remove();
    Ok("requests of 16 and 64 KiB, sectors of 512 and 4096 bytes, queues of 4 to 1024".into())
}

/// Every fault that the kernel can provoke, and how the run then ends.
pub fn faults(bench: &Bench) -> Result<String> {
    const FAULTS: [(&str, Outcome); 10] = [
        ("pf", Outcome::Exception),
        ("wt", Outcome::Exception),
        ("nx", Outcome::Exception),
        ("ud", Outcome::Exception),
        ("gp", Outcome::Exception),
        ("de", Outcome::Exception),
        ("df", Outcome::Exception),
        ("stack", Outcome::Exception),
        ("panic", Outcome::Panic),
        ("oom", Outcome::Panic),
    ];
    for (fault, outcome) in FAULTS {
        let run = bench.start(boot(fault, vec![format!("fault={fault}")], Vec::new()))?;
        require(&run, outcome, bench.verbose).with_context(|| format!("fault={fault}"))?;
    }
    let run = bench.start(boot("option", vec!["no-such-option".into()], Vec::new()))?;
    require(&run, Outcome::BadOption, bench.verbose).context("an unknown option")?;
    Ok(format!("{} ways to fail", FAULTS.len() + 1))
}
