//! `cargo demo`: real files go into the store on a virtio disk, the machine is switched off, another machine finds them
//! again, byte for byte, changes some of them, and the host finds what that machine has left.

use crate::accel::{self, Accel};
use crate::events::Event;
use crate::flip::{flip, Flip};
use crate::host::{host_check, Expected};
use crate::kills::{self, Moment};
use crate::outcome::Outcome;
use crate::pack::{self, Input, Packed};
use crate::progress::Progress;
use crate::report::Report;
use crate::server::{self, BlockServer};
use crate::vm::{Board, Cut, Disk, Driver, End, Limits, Machine, Manner, Run, Sight};
use crate::work::{self, WorkDir};
use crate::{instructions, kernel, setup, size, speed, tools, BootArgs, DemoArgs};
use anyhow::{bail, Context, Result};
use arenite_shim::nbd::{Counts, Script};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::Duration;

/// How many lines of the kernel's output a failure shows.
const TAIL_LINES: usize = 40;

/// What a line begins with in which the kernel says why it gives up.
pub const KERNEL_ERROR: &str = "kernel-demo: error: ";

/// A whole run may last this many times the limit on silence.
const WHOLE_RUN_FACTOR: u32 = 20;

/// What every machine needs: the programs, and how to run the guest.
#[derive(Clone)]
pub struct Bench {
    /// The repository.
    pub root: PathBuf,
    /// The emulator.
    pub qemu: PathBuf,
    /// The kernel's ELF image.
    pub kernel: PathBuf,
    /// Who executes the guest's code.
    pub accel: Accel,
    /// The machine.
    pub board: Board,
    /// The driver of the store's disk.
    pub driver: Driver,
    /// The number of the guest's processors.
    pub cpus: u32,
    /// When the kernel counts as hung.
    pub limits: Limits,
    /// Whether to show the kernel's output.
    pub verbose: bool,
    /// Whether to leave the work directory.
    pub keep: bool,
}

impl Bench {
    /// Installs and builds what is needed.
    pub fn set_up(root: &Path, args: &BootArgs) -> Result<Self> {
        let root = root.to_path_buf();
        let accel = accel::choose(args.accel)?;
        let qemu = setup::qemu()?;
        let builder = setup::kernel_builder(&root, args.build_std)?;
        println!("demo: building the kernel");
        let kernel = kernel::build(&root, &builder, &[])?;
        let silence = Duration::from_secs(args.timeout);
        let limits = Limits { silence, whole: silence * WHOLE_RUN_FACTOR };
        let (board, driver) = (args.machine, args.driver);
        Ok(Self {
            root,
            qemu,
            kernel,
            accel,
            board,
            driver,
            cpus: args.cpus,
            limits,
            verbose: args.verbose,
            keep: args.keep,
        })
    }
}

impl Bench {
    /// Runs the kernel to its end, and shows how far it has come.
    pub fn start(&self, boot: Boot<'_>) -> Result<Run> {
        self.start_watched(boot, |_| {})
    }

    /// The same, and each line of the kernel's output is shown to `watch` as it comes.
    pub fn start_watched(&self, boot: Boot<'_>, mut watch: impl FnMut(&str)) -> Result<Run> {
        let (label, total_bytes) = (boot.label, boot.total_bytes);
        println!("boot: {label} ({}, {} of memory)", self.accel.name(), size::show(boot.memory));
        let machine = self.machine(boot);
        let mut progress = Progress::bytes(label, total_bytes);
        let run = machine.run(|sight| match sight {
            Sight::Progress(done, total) => {
                progress.set_total(total);
                progress.set(done);
            }
            Sight::Line(line) => {
                watch(line);
                if self.verbose {
                    progress.say(&format!("  | {line}"));
                }
            }
        })?;
        progress.finish();
        println!("boot: {label} took {:.1} s; {}", run.elapsed.as_secs_f64(), run.end);
        run.events.iter().filter_map(remark).for_each(|text| println!("kernel: {text}"));
        Ok(run)
    }
}

impl<'a> Bench {
    /// The machine for a boot.
    pub fn machine(&'a self, boot: Boot<'a>) -> Machine<'a> {
        let Boot { memory, mut words, disks, cut, .. } = boot;
        if self.driver == Driver::Simple {
            words.push("driver=simple".into());
        }
        Machine {
            qemu: &self.qemu,
            kernel: &self.kernel,
            accel: self.accel,
            board: self.board,
            memory,
            cpus: self.cpus,
            words,
            disks,
            limits: self.limits,
            cut,
        }
    }
}

/// What an event says to people, if it is one of those that they should see.
fn remark(event: &Event) -> Option<String> {
    let field = |key| event.text(key).unwrap_or("?");
    match event.name.as_str() {
        "repaired" => Some(format!("{} copy {} was not good, and is again", field("what"), field("copy"))),
        "corrupt" => {
            let (file, addr) = (field("file"), field("addr"));
            Some(format!("{file} is damaged at {addr}: hash {}, expected {}", field("found"), field("expected")))
        }
        "full" => {
            let (files, bytes) = (field("files"), field("bytes"));
            let kept = format!("{files} files, {bytes} bytes are committed");
            Some(format!("volume full: {} blocks needed, room for {}; {kept}", field("need"), field("room")))
        }
        _ => None,
    }
}

/// One start of the kernel.
pub struct Boot<'a> {
    /// What it is called.
    pub label: &'a str,
    /// The guest's memory in bytes.
    pub memory: u64,
    /// The words of the kernel's command line.
    pub words: Vec<String>,
    /// Its disks.
    pub disks: Vec<Disk<'a>>,
    /// How much it is expected to work through, until it says so itself.
    pub total_bytes: u64,
    /// See [`Machine::cut`].
    pub cut: Option<Cut<'a>>,
}

/// What one demonstration works on.
pub struct Plan {
    /// Where the files come from; see [`Demo::prepare`].
    pub input: Option<PathBuf>,
    /// The disk, if it is not to be made in the work directory.
    pub disk: Option<PathBuf>,
    /// The size of a new disk in bytes.
    pub size: u64,
    /// The guest's memory in bytes.
    pub memory: u64,
    /// The size of the store's sectors in bytes.
    pub sector_bytes: u32,
}

/// What a boot is for; the first word of the kernel's command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Put the archive's files into the store.
    Import,
    /// Compare the store's files with the archive's, delete and rewrite some, compare again.
    Verify,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Verify => "verify",
        }
    }
}

/// A demonstration with its disks ready.
pub struct Demo<'a> {
    bench: &'a Bench,
    dir: WorkDir,
    /// The store's image.
    pub disk: PathBuf,
    disk_file: File,
    disk_is_ours: bool,
    archive: PathBuf,
    /// What the archive holds.
    pub packed: Packed,
    memory: u64,
    sector_bytes: u32,
    /// What stands between the machines and the disk, if anything does.
    server: Option<BlockServer>,
}

impl<'a> Demo<'a> {
    /// Packs the input (the files that git tracks here, if the plan names none) and opens the disk.
    pub fn prepare(bench: &'a Bench, name: &str, plan: &Plan) -> Result<Self> {
        let dir = WorkDir::take(&bench.root, name)?;
        Self::prepare_in(bench, dir, plan)
    }

    /// The same in a work directory that is already taken, and may hold the input.
    pub fn prepare_in(bench: &'a Bench, dir: WorkDir, plan: &Plan) -> Result<Self> {
        let disk = plan.disk.clone().unwrap_or_else(|| dir.file("store.img"));
        let disk_file = work::open_disk(&disk, plan.size)?;
        let input = match &plan.input {
            Some(input) if input.starts_with(dir.path()) => Input::Tree { dir: input.clone(), except: None },
            Some(input) => {
                let except = bench.root.join(work::DIR).canonicalize().ok();
                Input::Tree { dir: input.clone(), except }
            }
            None => Input::Tracked(bench.root.clone()),
        };
        let archive = dir.file("input.tar");
        let packed = pack::pack(&input, &archive)?;
        println!(
            "pack: {} files, {} links, {}; {} skipped",
            packed.files,
            packed.links,
            size::show(packed.bytes),
            packed.skipped.len()
        );
        pack::report_skipped(&packed);
        let disk_is_ours = plan.disk.is_none();
        let Plan { memory, sector_bytes, .. } = *plan;
        Ok(Self { bench, dir, disk, disk_file, disk_is_ours, archive, packed, memory, sector_bytes, server: None })
    }

    /// From here on the machines use the disk through a block server, which records what they do.
    pub fn serve_disk(&mut self, script: &Script) -> Result<()> {
        self.server = Some(BlockServer::start(&self.disk_file, &self.dir, script.clone())?);
        Ok(())
    }

    /// Ends the block server, if there is one.
    pub fn end_server(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), BlockServer::end)
    }

    /// What ends the block server when it is set, if there is one.
    pub fn server_stop(&self) -> Option<Arc<AtomicBool>> {
        self.server.as_ref().map(BlockServer::stop)
    }

    /// Ends the block server, whatever has come through.
    pub fn stop_server(&mut self) -> Result<Counts> {
        self.server.take().map_or(Ok(Counts::default()), BlockServer::finish)
    }

    /// Boots a new machine on the disk. `words` are added to the kernel's command line.
    pub fn boot(&self, phase: Phase, words: &[&str]) -> Result<Run> {
        self.bench.start(self.plan_boot(phase, words))
    }

    /// What [`Demo::boot`] would start.
    pub fn plan_boot(&self, phase: Phase, words: &[&str]) -> Boot<'_> {
        let mut all = vec![format!("phase={}", phase.name())];
        all.extend(words.iter().map(|word| word.to_string()));
        let (manner, sector_bytes) = (Manner::Sound, self.sector_bytes);
        let socket = self.server.as_ref().map(BlockServer::socket);
        let disks = vec![
            Disk { path: &self.disk, serial: "store", read_only: false, sector_bytes, manner, socket },
            Disk { path: &self.archive, serial: "input", read_only: true, sector_bytes: 512, manner, socket: None },
        ];
        let (label, memory, total_bytes) = (phase.name(), self.memory, self.packed.bytes);
        Boot { label, memory, words: all, disks, total_bytes, cut: None }
    }

    /// Packs this directory in place of the input.
    pub fn pack_again(&mut self, input: PathBuf) -> Result<()> {
        self.packed = pack::pack(&Input::Tree { dir: input, except: None }, &self.archive)?;
        Ok(())
    }

    /// A path in the work directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.file(name)
    }

    /// The archive's image.
    pub fn archive(&self) -> &Path {
        &self.archive
    }

    /// Inverts a byte of the disk; `run` is the boot whose events say where data lies.
    pub fn damage(&mut self, what: Flip, run: &Run) -> Result<u64> {
        let data_block = run.events.iter().find(|event| event.name == "datablock");
        let addr = flip(&mut self.disk_file, what, data_block.and_then(|event| event.number("addr")))?;
        println!("flip: {what:?}: inverted the byte at {addr:#x}");
        Ok(addr)
    }

    /// Opens the disk on the host.
    pub fn check_on_host(&self, expected: Expected) -> Result<crate::host::Checked> {
        work::while_shared(&self.disk_file, &self.disk, || host_check(&self.disk, &self.archive, expected))?
    }

    /// Removes what is not to be kept; says where the rest is.
    pub fn finish(self, good: bool) {
        if !good || self.bench.keep {
            println!("kept: {}", self.dir.path().display());
        } else {
            self.dir.remove();
        }
        if !self.disk_is_ours {
            println!("kept: {}", self.disk.display());
        }
    }
}

/// An error, with the end of the kernel's output, unless the run ended as it should.
pub fn require(run: &Run, outcome: Outcome, verbose: bool) -> Result<()> {
    if run.end == End::Verdict(outcome) {
        return Ok(());
    }
    if !verbose {
        let skip = run.log.len().saturating_sub(TAIL_LINES);
        run.log.iter().skip(skip).for_each(|line| println!("  | {line}"));
    }
    let reason = run.log.iter().rev().find_map(|line| line.strip_prefix(KERNEL_ERROR));
    let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    match outcome {
        Outcome::Success if run.end == End::Verdict(Outcome::Full) => {
            bail!("{}{reason} (--size makes a larger disk)", run.end)
        }
        Outcome::Success => bail!("{}{reason}", run.end),
        other => bail!("{}, not with `{}`{reason}", run.end, other.name()),
    }
}

/// The `@result` events of a run.
pub fn results(run: &Run) -> impl Iterator<Item = &Event> {
    run.events.iter().filter(|event| event.name == "result")
}

/// The whole demonstration: import, host, verification after a reboot, host again. Returns its report; what went wrong
/// is among its faults, unless nothing could be done at all.
pub fn demonstrate(demo: &mut Demo<'_>, import_words: &[&str], kills: &[Moment], flips: &[Flip]) -> Result<Report> {
    let mut report = Report::new(demo.packed.files, demo.packed.bytes);
    let verbose = demo.bench.verbose;

    let import = if kills.is_empty() {
        let import = demo.boot(Phase::Import, import_words)?;
        report.add_run("import", &import);
        if let Err(error) = require(&import, Outcome::Success, verbose) {
            report.fault(format!("import: {error:#}"));
            return Ok(report);
        }
        report.expect_all("import", results(&import).next());
        import
    } else {
        let Some(import) = kills::import(demo, demo.bench, import_words, kills, &mut report)? else {
            return Ok(report);
        };
        import
    };
    report.add_host("host", demo.check_on_host(Expected::AsImported), true);
    for what in flips {
        demo.damage(*what, &import)?;
    }

    let verify = demo.boot(Phase::Verify, &[])?;
    report.add_run("verify", &verify);
    if let Err(error) = require(&verify, Outcome::Success, verbose) {
        report.fault(format!("verify: {error:#}"));
        return Ok(report);
    }
    report.expect_all("verify", results(&verify).next());
    report.add_host("host, changed", demo.check_on_host(Expected::AfterChanges), false);
    Ok(report)
}

/// Runs `cargo demo`; true if everything is as it should be.
pub fn run(args: &DemoArgs) -> Result<bool> {
    if let Some(input) = &args.input {
        pack::look_at(input)?;
    }
    if let Some(disk) = &args.disk {
        work::try_disk(disk, args.size)?;
    }
    if let Some(name) = &args.scenario {
        crate::scenarios::named(name)?;
    }
    if args.shell {
        return crate::shell::run(args);
    }
    if let Some(wish) = args.instructions {
        println!("{}", instructions::run(&tools::repository_root()?, &args.boot, wish)?);
        return Ok(true);
    }
    let script = server::script(args.server.as_ref().and_then(Option::as_deref))?;
    let bench = Bench::set_up(&tools::repository_root()?, &args.boot)?;
    if let Some(name) = &args.scenario {
        return crate::scenarios::run(&bench, name);
    }
    if args.bench {
        let amount = speed::Amount { len_bytes: args.amount, rounds: args.rounds };
        return speed::run(&bench, amount, args.json.as_deref());
    }
    let plan = Plan {
        input: args.input.as_deref().map(Path::canonicalize).transpose().context("the input directory")?,
        disk: args.disk.clone(),
        size: args.size,
        memory: args.memory,
        sector_bytes: args.sector,
    };
    let mut demo = Demo::prepare(&bench, "demo", &plan)?;
    if args.verify_only {
        let verify = demo.boot(Phase::Verify, &["partial=yes"])?;
        require(&verify, Outcome::Success, bench.verbose)?;
        demo.finish(true);
        return Ok(true);
    }
    let commit_every = args.commit_every.map(|bytes| format!("commit_every={bytes}"));
    let mut words: Vec<&str> = commit_every.iter().map(String::as_str).collect();
    words.extend(args.force_format.then_some("format=force"));
    let kills: Vec<Moment> = args.kill_after.iter().map(|ms| Moment::after_ms(*ms)).collect();
    if args.server.is_some() {
        demo.serve_disk(&script)?;
    }
    let report = demonstrate(&mut demo, &words, &kills, &args.flip)?;
    demo.end_server()?;
    print!("\n{}", report.table());
    demo.finish(report.is_good());
    println!("{}", report.verdict());
    Ok(report.is_good())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_is_named_to_every_kernel() {
        let limits = Limits { silence: Duration::ZERO, whole: Duration::ZERO };
        for (driver, words) in [(Driver::Queue, &["shell"][..]), (Driver::Simple, &["shell", "driver=simple"])] {
            let bench = Bench {
                root: PathBuf::new(),
                qemu: PathBuf::new(),
                kernel: PathBuf::new(),
                accel: Accel::Tcg,
                board: Board::Q35,
                driver,
                cpus: 1,
                limits,
                verbose: false,
                keep: false,
            };
            let (memory, words_given) = (0, vec!["shell".into()]);
            let boot = Boot { label: "", memory, words: words_given, disks: vec![], total_bytes: 0, cut: None };
            assert_eq!(bench.machine(boot).words, words);
        }
    }
}
