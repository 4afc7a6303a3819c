//! Scenarios about the store's disk: other machines, another driver, a partition of it, and one that does not answer.

use crate::demo::{results, Bench, Boot, Demo, Phase, Plan};
use crate::generate;
use crate::host::{host_check, Expected};
use crate::outcome::Outcome;
use crate::refusals::{boot_with, STORE};
use crate::scenarios::{boot, judged, prepare, prepare_small, MIB, PLAN, SEED};
use crate::vm::{Board, Driver, Manner};
use anyhow::{ensure, Context, Result};
use gpt::disk::LogicalBlockSize;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;

/// The whole demonstration on sectors of both sizes.
fn both_sectors(bench: &Bench, name: &str) -> Result<String> {
    let mut note = String::new();
    for sector_bytes in [512, 4096] {
        let mut demo = prepare(bench, name, Plan { sector_bytes, ..PLAN }, |dir| generate::small(dir, SEED))?;
        note = judged(&mut demo).with_context(|| format!("sectors of {sector_bytes}"))?;
        demo.finish(true);
    }
    Ok(note)
}

/// On disks whose registers lie in memory.
pub fn microvm(bench: &Bench) -> Result<String> {
    both_sectors(&Bench { board: Board::Microvm, ..bench.clone() }, "microvm")
}

/// With the plain driver of `virtio-drivers`, on both machines; a disk without flushes is refused by it, too.
pub fn simple_driver(bench: &Bench) -> Result<String> {
    let bench = &Bench { driver: Driver::Simple, ..bench.clone() };
    let note = both_sectors(bench, "simple-driver")?;
    let mut demo = prepare_small(bench, "simple-driver")?;
    let no_flush = |boot: &mut Boot<'_>| boot.disks[STORE].manner = Manner::NoFlush;
    let run = boot_with(&demo, bench, Phase::Import, Outcome::NoFlush, no_flush)?;
    ensure!(run.log.iter().any(|line| line.ends_with("driven by VirtIOBlk")), "the kernel took the other driver");
    let microvm = Bench { board: Board::Microvm, ..bench.clone() };
    let mut on_microvm = prepare_small(&microvm, "simple-driver-microvm")?;
    judged(&mut on_microvm).context("microvm")?;
    on_microvm.finish(true);
    judged(&mut demo)?;
    demo.finish(true);
    Ok(note)
}

/// A disk whose writes never end: the kernel waits for so long as it was told, lets go of the disk and says why.
pub fn no_answer(bench: &Bench) -> Result<String> {
    for driver in [Driver::Queue, Driver::Simple] {
        let bench = &Bench { driver, ..bench.clone() };
        let demo = prepare_small(bench, "no-answer")?;
        let stalling = |boot: &mut Boot<'_>| {
            boot.words.push("timeout_us=2000000".into());
            boot.disks[STORE].manner = Manner::Stalling;
        };
        let run = boot_with(&demo, bench, Phase::Import, Outcome::Io, stalling);
        let run = run.with_context(|| format!("{driver:?}"))?;
        for (what, text) in [("given up", "given up: a request takes too long"), ("why", "did not answer in time")] {
            let said = run.log.iter().filter(|line| line.contains(text)).count();
            ensure!(said == 1, "{driver:?}: the kernel said {said} times that the disk was {what} (`{text}`)");
        }
        // The disk is sound again in the next machine; nothing was committed.
        boot(bench, &demo, Phase::Import, &["format=force"], Outcome::Success)?;
        demo.finish(true);
    }
    Ok("given up after 2 s, by both drivers".into())
}

/// The disk of the scenario, and what lies where.
const DISK_BYTES: u64 = 56 * MIB;
const FIRST: Range<u64> = 2 * MIB..6 * MIB;
const SECOND: Range<u64> = 8 * MIB..48 * MIB;
/// What all of the disk holds but its tables and the second partition.
const FOREIGN: u8 = 0xC3;

/// Makes a disk with a table of two partitions, of which the second one is blank.
fn make_partitions(demo: &Demo<'_>, sector_bytes: u32) -> Result<()> {
    let mut file = File::options().read(true).write(true).open(&demo.disk)?;
    file.write_all(&vec![FOREIGN; DISK_BYTES as usize])?;
    file.seek(SeekFrom::Start(SECOND.start))?;
    file.write_all(&vec![0; (SECOND.end - SECOND.start) as usize])?;
    let size = if sector_bytes == 512 { LogicalBlockSize::Lb512 } else { LogicalBlockSize::Lb4096 };
    let sectors = u32::try_from(DISK_BYTES / u64::from(sector_bytes))?;
    gpt::mbr::ProtectiveMBR::with_lb_size(sectors - 1).overwrite_lba0(&mut file)?;
    let config = gpt::GptConfig::new().writable(true).logical_block_size(size);
    let mut table = config.create_from_device(file, None)?;
    for (id, name, range) in [(1, "other", FIRST), (2, "arenite", SECOND)] {
        let sector = u64::from(sector_bytes);
        let (first, len) = (range.start / sector, (range.end - range.start) / sector);
        table.add_partition_at(name, id, first, len, gpt::partition_types::LINUX_FS, 0)?;
    }
    table.write()?;
    Ok(())
}

/// The bytes of the disk in front of the second partition and behind it, and those in it.
fn cut_out(demo: &Demo<'_>) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut outside = Vec::new();
    File::open(&demo.disk)?.read_to_end(&mut outside)?;
    let inside = outside.drain(SECOND.start as usize..SECOND.end as usize).collect();
    Ok((outside, inside))
}

/// The store lives on the second partition of a disk, and touches nothing else of it.
pub fn partition(bench: &Bench) -> Result<String> {
    for sector_bytes in [512, 4096] {
        let plan = Plan { sector_bytes, size: DISK_BYTES, ..PLAN };
        let demo = prepare(bench, "gpt", plan, |dir| generate::small(dir, SEED))?;
        make_partitions(&demo, sector_bytes)?;
        on_partition(bench, &demo, u64::from(sector_bytes)).with_context(|| format!("sectors of {sector_bytes}"))?;
        demo.finish(true);
    }
    Ok(format!("bytes {:#x}..{:#x} of {DISK_BYTES:#x}", SECOND.start, SECOND.end))
}

fn on_partition(bench: &Bench, demo: &Demo<'_>, sector_bytes: u64) -> Result<()> {
    let (mut outside, blank) = cut_out(demo)?;
    for (words, outcome) in [
        (&["partition=first"][..], Outcome::NotBlank),
        (&[], Outcome::NotBlank),
        (&["partition=3"], Outcome::NoDisk),
        (&["partition=two"], Outcome::BadOption),
    ] {
        boot(bench, demo, Phase::Import, words, outcome).with_context(|| format!("{words:?}"))?;
    }
    ensure!(cut_out(demo)? == (outside.clone(), blank), "a refused disk was changed");

    boot(bench, demo, Phase::Import, &["partition=2"], Outcome::Success)?;
    look_at_partition(demo, &outside, Expected::AsImported).context("after the import")?;

    // One wrong byte in the first header of the table: the second copy does, and the kernel says so.
    let wrong = sector_bytes + 60;
    let mut file = File::options().write(true).open(&demo.disk)?;
    file.seek(SeekFrom::Start(wrong))?;
    file.write_all(&[FOREIGN])?;
    outside[wrong as usize] = FOREIGN;
    let verify = boot(bench, demo, Phase::Verify, &["partition=2"], Outcome::Success)?;
    for text in ["the first copy is bad: the header's checksum is wrong", "from the second copy of the table"] {
        ensure!(verify.log.iter().any(|line| line.contains(text)), "the kernel did not say `{text}`");
    }
    let found = results(&verify).next().and_then(|event| event.number("files"));
    ensure!(found == Some(demo.packed.files), "{found:?} files of {} were found", demo.packed.files);
    look_at_partition(demo, &outside, Expected::AfterChanges).context("after the changes")
}

/// Checks the volume on the partition, and that nothing else has changed.
fn look_at_partition(demo: &Demo<'_>, outside: &[u8], expected: Expected) -> Result<()> {
    let (now_outside, inside) = cut_out(demo)?;
    ensure!(now_outside == outside, "bytes outside of the partition have changed");
    let volume = demo.file("partition.img");
    std::fs::write(&volume, inside)?;
    host_check(&volume, demo.archive(), expected).map(drop)
}
