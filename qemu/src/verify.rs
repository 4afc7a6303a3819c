//! `cargo verify`: all checks in one table. A failing step does not keep the later ones from running.

use crate::demo::Bench;
use crate::examples;
use crate::first_kernel;
use crate::instructions;
use crate::kernel;
use crate::packages;
use crate::scenarios;
use crate::setup::{self, KERNEL_TARGET};
use crate::speed;
use crate::table::Table;
use crate::tools::{self, cargo};
use crate::{BootArgs, VerifyArgs};
use anyhow::{bail, Context, Result};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The bare-metal targets for which the core has to build, those that are there or can be installed.
const CORE_TARGETS: [&str; 3] = [KERNEL_TARGET, "thumbv7em-none-eabihf", "riscv32imac-unknown-none-elf"];

/// The target of the minimal embedding, and how the line with its size begins.
const FOOTPRINT_TARGET: &str = "thumbv7em-none-eabihf";
const SUM_LINE: &str = "code and constants";

/// A 32-bit target whose tests an x86-64 host can run.
const TARGET_32_BIT: &str = "i686-unknown-linux-musl";

/// What an image may hold of initialised data, with a static this large beside it.
const DATA_LIMIT_BYTES: u64 = 4 << 10;
const STATIC_BYTES: u64 = 256 << 20;
/// The kernel's feature that enlarges its static to [`STATIC_BYTES`].
const STATIC_FEATURE: &str = "static-256m";

/// How a step ended, unless it failed.
enum Outcome {
    /// Passed; a figure worth a cell of the table, or nothing.
    Pass(String),
    /// Could not be tried, for this reason; counts neither way.
    Unavailable(String),
}

/// What a step does, in the repository at the given root.
type Action = Box<dyn Fn(&Path) -> Result<Outcome>>;

struct Step {
    name: String,
    run: Action,
}

impl Step {
    fn new(name: &str, run: impl Fn(&Path) -> Result<Outcome> + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }

    /// A step that needs something which not every machine has, and says that it is [`tools::Missing`].
    fn if_there(name: &str, run: fn(&Path) -> Result<String>) -> Self {
        Self::new(name, move |root| match run(root) {
            Ok(note) => Ok(Outcome::Pass(note)),
            Err(error) if error.is::<tools::Missing>() => Ok(Outcome::Unavailable(error.to_string())),
            Err(error) => Err(error),
        })
    }

    /// A step that is one cargo command, with these words in the environment variable `RUSTDOCFLAGS`.
    fn cargo(name: &str, words: &'static str) -> Self {
        Self::new(name, move |root| {
            let mut command = cargo(root);
            command.args(words.split_whitespace()).env("RUSTDOCFLAGS", "-D warnings");
            tools::run(&mut command)?;
            Ok(Outcome::Pass(String::new()))
        })
    }

    /// The same, for a command that needs the kernel's target of the active toolchain.
    fn cargo_for_kernel(name: &str, words: &'static str) -> Self {
        let Self { name, run } = Self::cargo(name, words);
        Self { name, run: Box::new(move |root| with_target(root, KERNEL_TARGET, || run(root))) }
    }
}

/// The steps in their order.
fn steps() -> Vec<Step> {
    let mut steps = vec![
        Step::cargo("fmt", "fmt --all -- --check"),
        Step::cargo("clippy", "clippy --workspace --exclude kernel-demo --all-targets -- -D warnings"),
        Step::cargo_for_kernel(
            "clippy-kernel",
            "clippy --package kernel-demo --release --target x86_64-unknown-none -- -D warnings",
        ),
        Step::cargo("doc", "doc --workspace --exclude kernel-demo --no-deps"),
        Step::cargo("test", "test --workspace --exclude kernel-demo --no-fail-fast"),
    ];
    steps.push(Step::cargo(
        "sabotage",
        "test --package arenite-shim --features sabotage --test sabotage -- --test-threads=2",
    ));
    // Crash states, errors at every call, sabotages: docs/TESTING.md.
    steps.push(Step::cargo("crash", "crash"));
    steps.push(Step::cargo("trace", "test --package arenite-core --lib --features trace"));
    steps.push(Step::cargo("shuttle", "test --package arenite-core --lib --features shuttle -- shuttle --nocapture"));
    steps.push(Step::new("loom", check_loom));
    steps.push(Step::new("adapters", |root| examples::check_adapters(root).map(Outcome::Pass)));
    steps.push(Step::new("examples", |root| examples::check_examples(root).map(Outcome::Pass)));
    steps.push(Step::new("first-kernel", |root| first_kernel::check(root).map(Outcome::Pass)));
    steps.push(Step::new("packages", |root| packages::check_packages(root).map(Outcome::Pass)));
    steps.push(Step::if_there("dependencies", packages::check_dependencies));
    steps.push(Step::if_there("advisories", packages::check_advisories));
    steps.push(Step::new("readme", |root| packages::check_readme(root).map(Outcome::Pass)));
    steps.push(Step::new("core-32-bit", check_32_bit));
    for target in CORE_TARGETS {
        steps.push(Step::new(&format!("core-{target}"), move |root| build_core(root, target)));
    }
    steps.push(Step::new("panics", |root| {
        with_target(root, KERNEL_TARGET, || {
            crate::panics::check(root).map(|calls| Outcome::Pass(format!("none in mount, {calls} elsewhere")))
        })
    }));
    steps.push(Step::new("image", check_image));
    // The figures of both that no machine changes: what a commit of one block writes, and the bytes of a small image.
    let bench = "run --quiet --release --package arenite-bench --bin arenite-bench -- --filter one-block";
    steps.push(Step::cargo("bench", bench));
    steps.push(Step::new("size", build_footprint));
    for scenario in scenarios::ALL.iter().filter(|scenario| !scenario.long) {
        steps.push(Step::new(&format!("boot-{}", scenario.name), |root| {
            (scenario.run)(&Bench::set_up(root, &BootArgs::default())?).map(Outcome::Pass)
        }));
    }
    steps.push(Step::new("boot-build-std", boot_build_std));
    steps.push(Step::new("boot-bench", |root| {
        speed::smoke(&Bench::set_up(root, &BootArgs::default())?).map(Outcome::Pass)
    }));
    steps.push(Step::if_there("instructions", |root| instructions::run(root, &BootArgs::default(), None)));
    steps
}

/// Runs the steps; true if none failed.
pub fn run(args: &VerifyArgs) -> Result<bool> {
    let mut steps = steps();
    if args.list {
        steps.iter().for_each(|step| println!("{}", step.name));
        return Ok(true);
    }
    if let Some(unknown) = args.only.iter().find(|name| steps.iter().all(|step| step.name != **name)) {
        let text = format!("there is no step `{unknown}` (cargo verify --list names them)");
        return Err(tools::Usage(text).into());
    }
    steps.retain(|step| args.only.is_empty() || args.only.contains(&step.name));
    let root = tools::repository_root()?;
    set_up(&root)?;

    let mut table = Table::with_notes(&["step", "result", "seconds", "note"]);
    let mut absent = Vec::new();
    let (mut passed, mut failed) = (0, 0);
    for step in &steps {
        println!("== {}", step.name);
        let started = Instant::now();
        let (result, note) = match (step.run)(&root) {
            Ok(Outcome::Pass(note)) => {
                passed += 1;
                ("pass", note)
            }
            Ok(Outcome::Unavailable(reason)) => {
                absent.push(format!("not tried: {} ({reason})", step.name));
                ("none", String::new())
            }
            Err(error) => {
                failed += 1;
                println!("{}: {error:#}", step.name);
                ("FAIL", String::new())
            }
        };
        table.row(vec![step.name.clone(), result.into(), seconds(started.elapsed()), note]);
    }
    print!("\n{table}");
    absent.iter().for_each(|line| println!("{line}"));
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

/// Installs what no step can do without.
fn set_up(root: &Path) -> Result<()> {
    setup::component(root, "fmt", "rustfmt")?;
    setup::component(root, "clippy", "clippy")?;
    setup::kernel_builder(root, false)?;
    setup::qemu()?;
    Ok(())
}

fn seconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}

/// Runs a step if the active toolchain has this target, or can get it.
fn with_target(root: &Path, target: &str, run: impl FnOnce() -> Result<Outcome>) -> Result<Outcome> {
    match setup::target(root, target) {
        Ok(()) => run(),
        Err(missing) => Ok(Outcome::Unavailable(missing.to_string())),
    }
}

fn build_core(root: &Path, target: &str) -> Result<Outcome> {
    with_target(root, target, || {
        tools::run(cargo(root).args(["build", "--package", "arenite-core", "--target", target]))?;
        Ok(Outcome::Pass(String::new()))
    })
}

/// The minimal embedding for a microcontroller builds, and has no more bytes than are wanted.
fn build_footprint(root: &Path) -> Result<Outcome> {
    with_target(root, FOOTPRINT_TARGET, || {
        let mut command = cargo(root);
        command.args(["run", "--quiet", "--release", "--package", "arenite-bench", "--bin", "size-report"]);
        let output = command.stderr(Stdio::inherit()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}");
        let sum = text.lines().map(str::trim).find(|line| line.starts_with(SUM_LINE));
        match (output.status.code(), sum) {
            (Some(0), Some(sum)) => Ok(Outcome::Pass(sum.split_whitespace().collect::<Vec<_>>().join(" "))),
            _ => bail!("`{}` failed ({})", tools::show(&command), output.status),
        }
    })
}

/// The demonstration with a kernel that was built as it is done where rustup lacks the target.
fn boot_build_std(root: &Path) -> Result<Outcome> {
    match Bench::set_up(root, &BootArgs { build_std: true, ..BootArgs::default() }) {
        Ok(bench) => scenarios::normal(&bench).map(Outcome::Pass),
        Err(error) if error.is::<tools::Missing>() => Ok(Outcome::Unavailable(error.to_string())),
        Err(error) => Err(error),
    }
}

/// The core's hand-out of buffers, its cache and its epochs under the model checker loom. Its flag gets a target
/// folder of its own, so that nothing else is built anew.
fn check_loom(root: &Path) -> Result<Outcome> {
    let mut command = cargo(root);
    command.args(["test", "--package", "arenite-core", "--release", "--lib", "--target-dir"]);
    command.arg(root.join("target").join("loom")).arg("loom").env("RUSTFLAGS", "--cfg loom");
    tools::run(&mut command)?;
    Ok(Outcome::Pass(String::new()))
}

/// The core's unit tests on a target without 64-bit pointers. It brings its own libc and linker, so it runs on any x86
/// host.
fn check_32_bit(root: &Path) -> Result<Outcome> {
    with_target(root, TARGET_32_BIT, || {
        let mut command = cargo(root);
        command.args(["test", "--package", "arenite-core", "--lib", "--target", TARGET_32_BIT]);
        tools::run(command.env("CARGO_TARGET_I686_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld"))?;
        Ok(Outcome::Pass(String::new()))
    })
}

/// A kernel with a store of 256 MiB in a static must not carry those bytes in its image.
fn check_image(root: &Path) -> Result<Outcome> {
    let builder = setup::kernel_builder(root, false)?;
    let check = |features: &[&str]| {
        let found = kernel::footprint(&kernel::build(root, &builder, features)?)?;
        if found.data >= DATA_LIMIT_BYTES {
            bail!("the image has {} bytes of .data, the limit is {DATA_LIMIT_BYTES}", found.data);
        }
        Ok(found)
    };
    check(&[]).context("as it is")?;
    let found = check(&[STATIC_FEATURE]).context("with a large static")?;
    if found.bss < STATIC_BYTES {
        bail!("the image has {} bytes of .bss, so it does not hold a static of {STATIC_BYTES}", found.bss);
    }
    Ok(Outcome::Pass(format!(".data {} bytes, .bss {} MiB", found.data, found.bss >> 20)))
}
