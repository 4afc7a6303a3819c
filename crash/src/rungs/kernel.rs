//! Rung 8: the real kernel. The demo kernel runs in QEMU with one, two and four processors on a block server that
//! records what its disk sees; the trace goes through the same enumerator and the same judge as those of the simulated
//! disk, and some of the crash images are booted by the kernel again, which verifies what is there, changes it, and
//! commits.
//!
//! Without QEMU nothing is tried, and the table says so.

use crate::catalogue::Files;
use crate::foreign_trace::{flushes, recording};
use crate::rung::{Context, Rung};
use arenite_catalog::{Catalog, Entry, Error as CatalogError, FileWriter, Kind};
use arenite_core::format::BlockSize;
use arenite_core::{MountOptions, Store};
use arenite_shim::crash::{CrashSpace, Limits};
use arenite_shim::explore::Failure;
use arenite_shim::ladder::{explore, Row, Setup, Source};
use arenite_shim::nbd::tracefile;
use arenite_shim::platform::HostPlatform;
use arenite_shim::rng::{fill, Rng};
use arenite_shim::room::Room;
use arenite_shim::runner::Course;
use arenite_shim::tree::Recording;
use arenite_shim::{Disk, MemDevice, MemOptions};
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
const LIMITS: Limits = Limits { samples: 4000, ..Limits::PRODUCTION };

/// The volume that the kernel finds: what tells crash states apart is, for the most part, which headers of arenas are
/// there, so there are many small arenas, and old files in all of them.
const ARENAS: u32 = 10;
const VOLUME_BLOCKS: u64 = 290;
const OLD_FILES: u32 = 110;
/// Bytes of an import after which the kernel commits.
const COMMIT_EVERY: &str = "16384";

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

    /// A volume of many arenas with files in all of them, which the import removes.
    fn make_disk(&self) -> Result<PathBuf, String> {
        let path = self.dir.join("store.img");
        let len_bytes = VOLUME_BLOCKS * BlockSize::ORIGINAL.len_u64();
        let disk = Arc::new(Disk::zeroed(len_bytes));
        let failed = |error: &dyn std::fmt::Display| format!("the volume of old files: {error}");
        Course::plain(BlockSize::ORIGINAL, 0).format(&disk, ARENAS).map_err(|error| failed(&error))?;
        let mut room = Room::new(BlockSize::ORIGINAL, len_bytes);
        let device = MemDevice::new(Arc::clone(&disk), MemOptions::default());
        let resources = room.fresh().ok_or("memory is taken")?;
        let store = Store::mount(resources, &device, &HostPlatform, MountOptions::default());
        let store = store.map_err(|error| failed(&error.error))?;
        fill_volume(&store).map_err(|error| failed(&error))?;
        store.unmount().map_err(|error| failed(&error))?;
        std::fs::write(&path, disk.snapshot()).map_err(|error| failed(&error))?;
        Ok(path)
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
        let disk = self.make_disk()?.display().to_string();
        let (input, cpus) = (input.display().to_string(), cpus.to_string());
        let words = ["--server", "--keep", "--disk", &disk, "--commit-every", COMMIT_EVERY, "--input", &input];
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

/// Files of one block, each begun in another arena; a commit for every ten of them.
fn fill_volume(store: &Store<'_, '_>) -> Result<(), CatalogError> {
    let mut catalog = Catalog::open(store)?;
    for number in 0..OLD_FILES {
        let mut writer = FileWriter::new(store, number);
        writer.write(&number.to_be_bytes())?;
        let entry = Entry { kind: Kind::File, mode: 0o644, modified_s: 0, content: writer.finish()? };
        catalog.put_or_free(format!("old-{number:03}").as_bytes(), &entry)?;
        if number % 10 == 9 {
            catalog.commit()?;
        }
    }
    catalog.commit()?;
    Ok(store.settle()?)
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

/// What was recorded with one number of processors.
struct Taken {
    cpus: u32,
    source: Source<Files>,
    recording: Recording<Files>,
    /// Writes that need a flush in front of them, each of which has it.
    places: u64,
}

impl Taken {
    fn record(runner: &Runner, input: &Path, cpus: u32) -> Result<Self, String> {
        let trace = runner.record(input, cpus)?;
        let recording = recording(&trace)?;
        let places = flushes(&recording)?;
        Ok(Self { cpus, source: source(format!("kernel-{cpus}"), trace), recording, places })
    }

    /// Has the kernel boot some crash images; an error says which state it was.
    fn boot(&self, runner: &Runner, input: &Path, boots: u64) -> Result<(), (String, String)> {
        for seed in 0..boots {
            let (state, image) =
                crash_image(&self.recording, seed).ok_or_else(|| (String::new(), "no crash image".into()))?;
            runner.boot(&image, input, self.cpus).map_err(|what| (state, format!("booted by the kernel: {what}")))?;
        }
        Ok(())
    }

    fn describe(&self, boots: u64) -> String {
        let commits = self.recording.model.len() - 1;
        format!(
            "kernel with {} processors: {commits} commits, {} writes behind the flush that they need, {boots} crash \
             images booted and verified",
            self.cpus, self.places
        )
    }
}

/// All traces, then their crash states side by side, then the boots.
fn climb(runner: &Runner, context: &Context, row: &mut Row) -> Result<(), String> {
    let input = runner.make_input().map_err(|error| error.to_string())?;
    let mut all = Vec::new();
    for cpus in CPUS {
        match Taken::record(runner, &input, cpus) {
            Ok(taken) => all.push(taken),
            Err(what) => row.failures.push(Failure { replay: format!("0:kernel-{cpus}:"), what }),
        }
    }
    let jobs: Vec<_> = all.iter().map(|taken| (&taken.source, 0)).collect();
    explore(&jobs, &context.setup, row);
    let boots = BOOTS[usize::from(context.long)];
    for (at, taken) in (0..).zip(&all) {
        let boots = boots / 3 + u64::from(at < boots % 3);
        match taken.boot(runner, &input, boots) {
            Ok(()) => row.notes.push(taken.describe(boots)),
            Err((state, what)) => {
                row.failures.push(Failure { replay: format!("0:kernel-{}:{state}", taken.cpus), what });
            }
        }
    }
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
        if let Err(what) = climb(&runner, context, &mut row) {
            row.failures.push(Failure { replay: "0:kernel".into(), what });
        }
        row
    }

    /// The kernel's scheduling is not ours, so its trace is another one each time; the last one can be explored again.
    fn replay(&self, _seed: u64, trace: &str, _name: &str, setup: &Setup) -> Option<Result<String, String>> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.arenite/demo/store.trace");
        trace.starts_with("kernel-").then(|| explore_file(&file, None, setup))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arenite_shim::check::{RawVolume, Rule};

    #[test]
    fn the_old_files_lie_in_every_arena() {
        let dir = std::env::temp_dir().join(format!("arenite-crash-old-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let runner = Runner { root: PathBuf::new(), dir };
        let bytes = std::fs::read(runner.make_disk().unwrap()).unwrap();
        let raw = RawVolume::read(&Disk::over(bytes.into()), Rule::Sealed).unwrap();
        assert_eq!(raw.arenas.len(), ARENAS as usize);
        for arena in &raw.arenas {
            let used = arena.free.iter().filter(|free| !**free).count();
            assert!(used > 4, "{used} of {} blocks are in use", arena.blocks);
        }
    }
}
