//! Rung 8: the real kernel. The demo kernel runs in QEMU with one, two and four processors on a block server that
//! records what its disk sees; the trace goes through the same enumerator and the same judge as those of the simulated
//! disk, and some of the crash images are booted by the kernel again, which verifies what is there, changes it, and
//! commits.
//!
//! Without QEMU nothing is tried, and the table says so.

use crate::catalogue::Files;
use crate::foreign_trace::{flushes, recording};
use crate::rung::{Context, Rung};
use arenite_shim::crash::{CrashSpace, Limits};
use arenite_shim::explore::Failure;
use arenite_shim::ladder::{explore, Row, Setup, Source};
use arenite_shim::nbd::tracefile;
use arenite_shim::rng::{fill, Rng};
use arenite_shim::tree::Recording;
use arenite_shim::Disk;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// The rung.
pub struct Kernel;

/// Processors of the kernel.
const CPUS: [u32; 3] = [1, 2, 4];
/// Images that the kernel boots, in the short form and in the long one.
const BOOTS: [u64; 2] = [2, 20];
/// Random subsets of an epoch with more than twelve writes.
const LIMITS: Limits = Limits { samples: 20_000, ..Limits::PRODUCTION };

/// A source of one trace.
fn source(name: String, trace: arenite_shim::trace::Trace) -> Source<Files> {
    Source { deep_every: 8, ..Source::new(name, LIMITS, move |_| recording(&trace)) }
}

/// Explores a trace of a file.
pub fn explore_file(file: &Path, image: Option<&Path>, setup: &Setup) -> Result<String, String> {
    let mut trace = tracefile::load(file).map_err(|error| error.to_string())?.trace;
    if let Some(image) = image {
        let bytes = std::fs::read(image).map_err(|error| format!("{}: {error}", image.display()))?;
        if bytes.len() != trace.base.len() {
            return Err(format!("{} has not the size of the disk of the trace", image.display()));
        }
        trace.base = bytes.into();
    }
    let recording = recording(&trace)?;
    let flushed = flushes(&recording)?;
    let mut row = Row::default();
    explore(&[(&source("trace".into(), trace), 0)], setup, &mut row);
    match row.failures.first() {
        Some(failure) => Err(failure.to_string()),
        None => Ok(format!(
            "{} commits, {flushed} writes behind the flush that they need, {} crash states in {} epochs, {} distinct, \
             {} of mount, {} second crashes",
            recording.model.len() - 1,
            row.states,
            row.epochs,
            row.distinct,
            row.mount_images,
            row.second_crashes
        )),
    }
}

/// The kernel's runner, and a directory for what it is to work on.
struct Runner {
    root: PathBuf,
    dir: PathBuf,
}

impl Runner {
    /// `None` without QEMU.
    fn find() -> Option<Self> {
        Command::new("qemu-system-x86_64").arg("--version").output().ok().filter(|output| output.status.success())?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.to_path_buf();
        Some(Self { root, dir: std::env::temp_dir().join(format!("arenite-crash-{}", std::process::id())) })
    }

    /// Files of many sizes, and each of less than a block: a commit has many writes.
    fn make_input(&self) -> std::io::Result<PathBuf> {
        let input = self.dir.join("input");
        std::fs::create_dir_all(&input)?;
        for number in 0..64u64 {
            let mut bytes = vec![0; 1 + (number * 130) as usize];
            fill(number, &mut bytes);
            std::fs::write(input.join(format!("file-{number:02}")), bytes)?;
        }
        Ok(input)
    }

    fn demo(&self, words: &[&str]) -> Result<(), String> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root).args(["run", "--quiet", "--release", "--package", "arenite-qemu"]);
        let output = cargo.args(["--bin", "arenite-runner", "--", "demo"]).args(words).output();
        let output = output.map_err(|error| format!("cargo: {error}"))?;
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().last().unwrap_or("no message");
        output.status.success().then_some(()).ok_or_else(|| format!("the runner: {}: {last}", output.status))
    }

    /// Records an import and what follows it.
    fn record(&self, input: &Path, cpus: u32) -> Result<arenite_shim::trace::Trace, String> {
        let (input, cpus) = (input.display().to_string(), cpus.to_string());
        let words = ["--server", "--keep", "--size", "4M", "--commit-every", "49152", "--input", &input];
        self.demo(&[&words[..], &["--cpus", &cpus]].concat())?;
        let loaded = tracefile::load(&self.root.join(".arenite/demo/store.trace"));
        loaded.map(|loaded| loaded.trace).map_err(|error| error.to_string())
    }

    /// Boots a crash image of an import.
    fn boot(&self, image: &[u8], input: &Path, cpus: u32) -> Result<(), String> {
        let (disk, cpus) = (self.dir.join("crash.img"), cpus.to_string());
        std::fs::write(&disk, image).map_err(|error| error.to_string())?;
        let (disk, input) = (disk.display().to_string(), input.display().to_string());
        self.demo(&["--disk", &disk, "--verify-only", "--input", &input, "--cpus", &cpus])
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Nothing depends on it; the directory is one for temporary files.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A crash image from the middle of the import, that is not of the commit after it, and the name of its state.
fn crash_image(recording: &Recording<Files>, seed: u64) -> Option<(String, Arc<[u8]>)> {
    let last = recording.model.len() - 1;
    let epochs = recording.trace.epochs(0);
    let of_import: Vec<_> = epochs.iter().filter(|epoch| epoch.begun < last && !epoch.pending.is_empty()).collect();
    let mut rng = Rng::new(seed);
    let epoch = of_import.get(rng.below(of_import.len() as u64) as usize)?;
    let space = CrashSpace::new(epoch, Limits { samples: 100, ..LIMITS });
    let (mut left, mut found) = (rng.below(100), None);
    let _ = space.visit(seed, |point, choice| {
        found = Some((point.to_string(), choice.to_vec()));
        left = left.saturating_sub(1);
        if left == 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    let (point, choice) = found?;
    let disk = Disk::zeroed(epoch.base.len() as u64);
    space.apply(&choice, &disk).ok()?;
    Some((format!("{}:{point}", epoch.index), disk.snapshot()))
}

/// Everything of one number of processors; the name of what failed.
fn climb(runner: &Runner, cpus: u32, boots: u64, context: &Context, row: &mut Row) -> Result<(), (String, String)> {
    let here = |what: String| (String::new(), what);
    let input = runner.make_input().map_err(|error| here(error.to_string()))?;
    let trace = runner.record(&input, cpus).map_err(here)?;
    let recording = recording(&trace).map_err(here)?;
    let places = flushes(&recording).map_err(here)?;
    let name = format!("kernel-{cpus}");
    explore(&[(&source(name, trace), 0)], &context.setup, row);
    for seed in 0..boots {
        let (state, image) = crash_image(&recording, seed).ok_or_else(|| here("no crash image".into()))?;
        runner.boot(&image, &input, cpus).map_err(|what| (state, format!("booted by the kernel: {what}")))?;
    }
    let commits = recording.model.len() - 1;
    row.notes.push(format!(
        "kernel with {cpus} processors: {commits} commits, {places} writes behind the flush that they need, {boots} \
         crash images booted and verified"
    ));
    Ok(())
}

impl Rung for Kernel {
    fn number(&self) -> u32 {
        8
    }

    fn what(&self) -> &'static str {
        "traces of the real kernel"
    }

    fn parts(&self) -> Vec<String> {
        CPUS.map(|cpus| format!("kernel-{cpus}        an import with {cpus} processors")).into()
    }

    fn run(&self, context: &Context) -> Row {
        let mut row = Row::default();
        let Some(runner) = Runner::find() else {
            row.not_tried = Some("no QEMU".into());
            return row;
        };
        let all = BOOTS[usize::from(context.long)];
        for (at, cpus) in (0..).zip(CPUS) {
            let boots = all / 3 + u64::from(at < all % 3);
            if let Err((state, what)) = climb(&runner, cpus, boots, context, &mut row) {
                row.failures.push(Failure { replay: format!("0:kernel-{cpus}:{state}"), what });
            }
        }
        row
    }

    /// The kernel's scheduling is not ours, so its trace is another one each time; the last one can be explored again.
    fn replay(&self, _seed: u64, trace: &str, _name: &str, setup: &Setup) -> Option<Result<String, String>> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.arenite/demo/store.trace");
        trace.starts_with("kernel-").then(|| explore_file(&file, None, setup))
    }
}
