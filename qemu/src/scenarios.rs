//! What has to be shown of the demo kernel besides the demonstration itself: damage is found and named or got around, a
//! full volume stays usable, a foreign disk stays untouched. Each scenario makes its own input and disks.

use crate::demo::{demonstrate, require, results, Bench, Demo, Phase, Plan};
use crate::drives;
use crate::flip::Flip;
use crate::generate;
use crate::host::Expected;
use crate::kills;
use crate::odd;
use crate::outcome::Outcome;
use crate::platform;
use crate::refusals;
use crate::server_errors;
use crate::smp;
use crate::table::Table;
use crate::talk;
use crate::tools::Usage;
use crate::vm::{Cut, End, Run};
use crate::work::WorkDir;
use anyhow::{ensure, Context, Result};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Bytes of a mebibyte.
pub const MIB: u64 = 1 << 20;
/// Where the input comes from.
pub const SEED: u64 = 20_240_229;

/// A variant of the demonstration, and how to judge it.
pub struct Scenario {
    /// The name by which it is called.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// Whether it takes minutes; such ones run only when asked for.
    pub long: bool,
    /// Runs it; a note for the table if all is well.
    pub run: fn(&Bench) -> Result<String>,
}

/// All of them.
pub const ALL: &[Scenario] = &[
    Scenario { name: "driver", about: "the disk driver on a scratch disk", long: false, run: platform::driver },
    Scenario {
        name: "faults",
        about: "faults on purpose, each with its own status",
        long: false,
        run: platform::faults,
    },
    Scenario { name: "normal", about: "the demonstration on a small input", long: false, run: normal },
    Scenario { name: "sectors-4096", about: "the same on sectors of 4096 bytes", long: false, run: large_sectors },
    Scenario { name: "microvm", about: "the same on a machine without PCI", long: false, run: drives::microvm },
    Scenario {
        name: "simple-driver",
        about: "the same with the plain driver of virtio-drivers",
        long: false,
        run: drives::simple_driver,
    },
    Scenario { name: "gpt", about: "the same on a partition of a disk", long: false, run: drives::partition },
    Scenario {
        name: "no-answer",
        about: "a disk that does not answer: the kernel gives it up",
        long: false,
        run: drives::no_answer,
    },
    Scenario { name: "smp", about: "four processors at work on one volume", long: false, run: smp::smp },
    Scenario { name: "stack", about: "what the store's calls take of the stack", long: false, run: smp::stack },
    Scenario {
        name: "flip-data",
        about: "a wrong byte in a file: the kernel names file, address and hashes",
        long: false,
        run: flip_data,
    },
    Scenario {
        name: "flip-superblock-0",
        about: "a damaged first superblock: works on, and says so",
        long: false,
        run: |bench| flip_copy(bench, "flip-superblock-0", Flip::Superblock(0), "superblock"),
    },
    Scenario {
        name: "flip-superblock-1",
        about: "a damaged second superblock",
        long: false,
        run: |bench| flip_copy(bench, "flip-superblock-1", Flip::Superblock(1), "superblock"),
    },
    Scenario {
        name: "flip-header-0",
        about: "a damaged first copy of an arena header",
        long: false,
        run: |bench| flip_copy(bench, "flip-header-0", Flip::Header(0), "header"),
    },
    Scenario {
        name: "flip-header-1",
        about: "a damaged second copy of an arena header",
        long: false,
        run: |bench| flip_copy(bench, "flip-header-1", Flip::Header(1), "header"),
    },
    Scenario { name: "full", about: "a disk too small for the input", long: false, run: full },
    Scenario { name: "foreign", about: "a disk with another file system is left alone", long: false, run: foreign },
    Scenario { name: "again", about: "other files on a disk that holds a store", long: false, run: again },
    Scenario { name: "cut", about: "the machine is switched off during the import", long: false, run: cut },
    Scenario {
        name: "shell",
        about: "commands to the kernel through a terminal: crash, and see what is left",
        long: false,
        run: talk::shell,
    },
    Scenario {
        name: "odd",
        about: "odd names and kinds of files: imported, or named and skipped",
        long: false,
        run: odd::odd,
    },
    Scenario {
        name: "many-files",
        about: "20 000 small files, 64 MiB of guest memory",
        long: true,
        run: odd::many_files,
    },
    Scenario { name: "kills", about: "three kills of QEMU during one import", long: false, run: kills::kills },
    Scenario { name: "smp-kills", about: "the same with four processors", long: false, run: smp::kills },
    Scenario { name: "kills-long", about: "fifty kills of QEMU during imports", long: true, run: kills::kills_long },
    Scenario {
        name: "refusals",
        about: "unsuitable disks and archives, each with its own status",
        long: false,
        run: refusals::refusals,
    },
    Scenario {
        name: "io-errors",
        about: "failing reads, writes and flushes: an error, and no harm done",
        long: false,
        run: refusals::io_errors,
    },
    Scenario {
        name: "server-errors",
        about: "disks that fail on the way, break off or lie: one reason, and the last commit is kept",
        long: false,
        run: server_errors::server_errors,
    },
    Scenario {
        name: "server-errors-long",
        about: "the same with the plain driver, and with four processors",
        long: true,
        run: server_errors::server_errors_long,
    },
    Scenario { name: "big-input", about: "300 MB of input, 64 MiB of guest memory", long: true, run: big_input },
];

/// The scenarios that a name stands for: one, `all` short ones, or `long` for really all.
pub fn named(name: &str) -> Result<Vec<&'static Scenario>> {
    let chosen: Vec<&Scenario> = match name {
        "all" => ALL.iter().filter(|scenario| !scenario.long).collect(),
        "long" => ALL.iter().collect(),
        _ => ALL.iter().filter(|scenario| scenario.name == name).collect(),
    };
    if chosen.is_empty() {
        let text = format!("there is no scenario `{name}` (cargo demo --list-scenarios names them)");
        return Err(Usage(text).into());
    }
    Ok(chosen)
}

/// Prints the names and what they show.
pub fn list() {
    for scenario in ALL {
        let long = if scenario.long { " (long)" } else { "" };
        println!("{:18} {}{long}", scenario.name, scenario.about);
    }
    println!("{:18} all but the long ones", "all");
    println!("{:18} all", "long");
}

/// Runs the scenarios of this name; true if all passed.
pub fn run(bench: &Bench, name: &str) -> Result<bool> {
    let mut table = Table::with_notes(&["scenario", "result", "seconds", "note"]);
    let (mut passed, mut failed) = (0, 0);
    for scenario in named(name)? {
        println!("== {}: {}", scenario.name, scenario.about);
        let started = Instant::now();
        let (result, note) = match (scenario.run)(bench) {
            Ok(note) => {
                passed += 1;
                ("pass", note)
            }
            Err(error) => {
                failed += 1;
                println!("{}: {error:#}", scenario.name);
                ("FAIL", String::new())
            }
        };
        let seconds = format!("{:.1}", started.elapsed().as_secs_f64());
        table.row(vec![scenario.name.into(), result.into(), seconds, note]);
    }
    print!("\n{table}");
    println!("scenarios: {passed} passed, {failed} failed");
    Ok(failed == 0)
}

/// A disk of 64 MiB, 256 MiB of memory; the input is [`prepare`]'s.
pub const PLAN: Plan = Plan { input: None, disk: None, size: 64 * MIB, memory: 256 * MIB, sector_bytes: 512 };

/// A demonstration on made-up input.
pub fn prepare<'a>(
    bench: &'a Bench,
    name: &str,
    plan: Plan,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<Demo<'a>> {
    let dir = WorkDir::take(&bench.root, name)?;
    let input = dir.file("input");
    fill(&input)?;
    Demo::prepare_in(bench, dir, &Plan { input: Some(input), ..plan })
}

/// The same on a few dozen files.
pub fn prepare_small<'a>(bench: &'a Bench, name: &str) -> Result<Demo<'a>> {
    prepare(bench, name, PLAN, |dir| generate::small(dir, SEED))
}

/// Boots and demands an outcome.
pub fn boot(bench: &Bench, demo: &Demo<'_>, phase: Phase, words: &[&str], outcome: Outcome) -> Result<Run> {
    let run = demo.boot(phase, words)?;
    require(&run, outcome, bench.verbose).with_context(|| format!("{phase:?}"))?;
    Ok(run)
}

/// Another machine finds every file, and changes some; the host finds those changes.
pub fn verify(bench: &Bench, demo: &Demo<'_>) -> Result<Run> {
    let verify = boot(bench, demo, Phase::Verify, &[], Outcome::Success)?;
    let first = results(&verify).next().context("no @result")?;
    let found = (first.number("files"), first.number("bytes"));
    ensure!(found == (Some(demo.packed.files), Some(demo.packed.bytes)), "not everything was found: {first:?}");
    demo.check_on_host(Expected::AfterChanges).context("host, changed")?;
    Ok(verify)
}

/// The whole demonstration, judged by its report.
fn whole(mut demo: Demo<'_>) -> Result<String> {
    let note = judged(&mut demo)?;
    demo.finish(true);
    Ok(note)
}

/// The same, and nothing removed.
pub fn judged(demo: &mut Demo<'_>) -> Result<String> {
    let report = demonstrate(demo, &[], &[], &[])?;
    print!("{}", report.table());
    ensure!(report.is_good(), "{}", report.verdict());
    Ok(format!("{} files, {} bytes", demo.packed.files, demo.packed.bytes))
}

/// The demonstration on a few dozen files.
pub fn normal(bench: &Bench) -> Result<String> {
    whole(prepare_small(bench, "normal")?)
}

fn large_sectors(bench: &Bench) -> Result<String> {
    let plan = Plan { sector_bytes: 4096, ..PLAN };
    whole(prepare(bench, "sectors-4096", plan, |dir| generate::small(dir, SEED))?)
}

fn big_input(bench: &Bench) -> Result<String> {
    let plan = Plan { size: 512 * MIB, memory: 64 * MIB, ..PLAN };
    whole(prepare(bench, "big-input", plan, |dir| generate::large(dir, SEED, 50, 6_000_000))?)
}

fn flip_data(bench: &Bench) -> Result<String> {
    const OFFSET: u64 = 77;
    let mut demo = prepare_small(bench, "flip-data")?;
    let import = boot(bench, &demo, Phase::Import, &[], Outcome::Success)?;
    let addr = demo.damage(Flip::Data(OFFSET), &import)?;
    let verify = boot(bench, &demo, Phase::Verify, &[], Outcome::Corrupt)?;
    let named = verify.events.iter().find(|event| event.name == "corrupt");
    let named = named.context("the kernel did not name the damage (@corrupt)")?;
    ensure!(named.number("addr") == Some(addr - OFFSET), "the kernel named another address: {named:?}");
    let file = named.text("file").context("the kernel did not name the file")?;
    let hashes = (named.number("expected"), named.number("found"));
    ensure!(matches!(hashes, (Some(one), Some(two)) if one != two), "the kernel did not name both hashes: {named:?}");
    let end = file.len().saturating_sub(30);
    let note = format!("...{} at {:#x}", file.get(end..).unwrap_or(file), addr - OFFSET);
    demo.finish(true);
    Ok(note)
}

/// Damage in one of two copies costs nothing but a remark.
fn flip_copy(bench: &Bench, name: &str, what: Flip, kind: &str) -> Result<String> {
    let mut demo = prepare_small(bench, name)?;
    let import = boot(bench, &demo, Phase::Import, &[], Outcome::Success)?;
    demo.damage(what, &import)?;
    let verify = verify(bench, &demo)?;
    let said = verify.events.iter().any(|event| event.name == "repaired" && event.text("what") == Some(kind));
    ensure!(said, "the kernel did not say that a {kind} was damaged (@repaired what={kind})");
    demo.finish(true);
    Ok(String::new())
}

fn full(bench: &Bench) -> Result<String> {
    let (demo, note) = full_in_kernel(bench)?;
    demo.check_on_host(Expected::PartAfterChanges).context("host")?;
    demo.finish(true);
    Ok(note)
}

/// The import ends with "volume full"; what was committed before is there after a reboot, and can be deleted.
pub fn full_in_kernel(bench: &Bench) -> Result<(Demo<'_>, String)> {
    let fill = |dir: &Path| generate::large(dir, SEED, 64, MIB);
    let demo = prepare(bench, "full", Plan { size: 24 * MIB, ..PLAN }, fill)?;
    let import = boot(bench, &demo, Phase::Import, &[], Outcome::Full)?;
    let told = import.events.iter().find(|event| event.name == "full").context("no @full event")?;
    let (need, room) = (told.number("need").context("no need")?, told.number("room").context("no room")?);
    ensure!(need > room, "the volume was full with room for {room} of {need}");
    let committed = (told.number("files").context("no files")?, told.number("bytes").context("no bytes")?);
    let verify = boot(bench, &demo, Phase::Verify, &["partial=yes"], Outcome::Success)?;
    let first = results(&verify).next().context("no @result")?;
    let found = (first.number("files"), first.number("bytes"));
    let (files, bytes) = committed;
    ensure!(found == (Some(files), Some(bytes)), "{files} files, {bytes} bytes were committed, not found: {first:?}");
    ensure!(0 < files && files < demo.packed.files, "{files} files of {} were found", demo.packed.files);
    let last = results(&verify).filter_map(|event| event.number("files")).last().unwrap_or(files);
    ensure!(last < files, "nothing was deleted: {last} files of {files} are left");
    Ok((demo, format!("{files} files kept, then {last}; needed {need} blocks, had {room}")))
}

/// A second demonstration on the disk of the first, with other files: what was there is replaced.
fn again(bench: &Bench) -> Result<String> {
    let mut demo = prepare_small(bench, "again")?;
    judged(&mut demo)?;
    let input = demo.file("other-input");
    generate::large(&input, SEED + 1, 7, 300_000)?;
    demo.pack_again(input)?;
    let note = judged(&mut demo)?;
    demo.finish(true);
    Ok(note)
}

/// The machine goes away in the middle of writing. The next one finds what was committed, and goes on.
fn cut(bench: &Bench) -> Result<String> {
    // A blank disk becomes generation 1; each commit of the import holds three files.
    const CUT: Cut<'_> = Cut { line: "volume: committed generation 3", number: 1, delay: Duration::ZERO };
    let fill = |dir: &Path| generate::large(dir, SEED, 20, 7 * MIB);
    let mut demo = prepare(bench, "cut", Plan { size: 256 * MIB, ..PLAN }, fill)?;
    let mut import = demo.plan_boot(Phase::Import, &[]);
    import.cut = Some(CUT);
    let import = bench.start(import)?;
    ensure!(import.end == End::Cut, "the import was not cut: {}", import.end);
    let verify = boot(bench, &demo, Phase::Verify, &["partial=yes"], Outcome::Success)?;
    let found = results(&verify).next().and_then(|event| event.number("files")).context("no @result")?;
    // Two commits of at least 16 MiB each were acknowledged.
    ensure!(found >= 6, "two commits were acknowledged, and {found} files were found");
    demo.check_on_host(Expected::PartAfterChanges).context("host")?;
    judged(&mut demo).context("after the cut")?;
    let note = format!("{found} files of {} found", demo.packed.files);
    demo.finish(true);
    Ok(note)
}

/// A disk that holds something else is refused and stays as it is, bit for bit; formatting can be forced.
fn foreign(bench: &Bench) -> Result<String> {
    let demo = prepare_small(bench, "foreign")?;
    let maker = make_ext4(&demo.disk)?;
    let before = std::fs::read(&demo.disk)?;
    boot(bench, &demo, Phase::Import, &[], Outcome::NotBlank)?;
    ensure!(std::fs::read(&demo.disk)? == before, "the refused disk was changed");
    boot(bench, &demo, Phase::Import, &["format=force"], Outcome::Success)?;
    demo.finish(true);
    Ok(format!("ext4 by {maker}"))
}

/// Makes the image look like ext4; with its own tool where there is one, otherwise by its magic number. Returns how.
fn make_ext4(disk: &Path) -> Result<&'static str> {
    for tool in ["mkfs.ext4", "/sbin/mkfs.ext4", "/usr/sbin/mkfs.ext4"] {
        let made = Command::new(tool).arg("-q").arg("-F").arg(disk).stdout(Stdio::null()).status();
        if made.is_ok_and(|status| status.success()) {
            return Ok("mkfs.ext4");
        }
    }
    use std::io::{Seek, SeekFrom, Write};
    let mut file = std::fs::File::options().write(true).open(disk)?;
    file.seek(SeekFrom::Start(1024 + 56))?;
    file.write_all(&0xEF53u16.to_le_bytes())?;
    Ok("hand")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for scenario in ALL {
            let found = named(scenario.name).unwrap();
            assert_eq!(found.len(), 1, "{}", scenario.name);
        }
        assert!(named("none").is_err());
    }

    #[test]
    fn long_ones_run_only_when_asked_for() {
        assert!(named("all").unwrap().iter().all(|scenario| !scenario.long));
        assert_eq!(named("long").unwrap().len(), ALL.len());
        assert!(named("big-input").unwrap()[0].long);
    }

    #[test]
    fn the_foreign_disk_bears_the_magic() {
        let dir = crate::testing::TempDir::new("ext4");
        let disk = dir.path().join("disk");
        std::fs::File::create(&disk).unwrap().set_len(16 * MIB).unwrap();
        make_ext4(&disk).unwrap();
        assert_eq!(std::fs::read(&disk).unwrap()[1080..1082], [0x53, 0xEF]);
    }
}
