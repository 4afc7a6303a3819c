//! Steps of `cargo verify` for what lies beside the workspace's own programs: the examples and the adapters.

use crate::setup::KERNEL_TARGET;
use crate::tools::{self, cargo};
use anyhow::{bail, Context, Result};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// For one run of an example: a boot takes less than a second, the harness some ten of a processor.
const PATIENCE: Duration = Duration::from_secs(240);

/// Adapters with all features: lints, tests, and a build without std.
pub fn check_adapters(root: &Path) -> Result<String> {
    let package = ["--package", "arenite-adapters", "--all-features"];
    tools::run(cargo(root).arg("clippy").args(package).args(["--all-targets", "--", "-D", "warnings"]))?;
    tools::run(cargo(root).arg("test").args(package))?;
    tools::run(cargo(root).arg("build").args(package).args(["--target", KERNEL_TARGET]))?;
    let docs = ["--no-deps", "--target", KERNEL_TARGET];
    tools::run(cargo(root).arg("doc").args(package).args(docs).env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(String::new())
}

/// Rungs that the harness climbs with a structure of the user's own.
const RUNGS: u64 = 7;

/// Lints the examples, runs them as a person would, those that count runs twice, and compares what they count.
pub fn check_examples(root: &Path) -> Result<String> {
    let mut notes = Vec::new();
    for (name, words) in [("host", "run number "), ("minimal", "boot number ")] {
        let count = count_twice(root, name, words).with_context(|| format!("examples/{name}"))?;
        notes.push(format!("{name}: {count}"));
    }
    let rungs = climb(root).context("examples/own-tree")?;
    notes.push(format!("own-tree: {rungs} rungs"));
    Ok(notes.join(", "))
}

/// Cargo in the folder of an example, whose configuration is found from there. The examples share a target folder.
fn in_example(root: &Path, name: &str, verb: &str) -> Command {
    let mut command = cargo(&root.join("examples").join(name));
    command.args([verb, "--quiet", "--locked", "--target-dir"]).arg(root.join("target/examples"));
    command
}

fn lint_and_build(root: &Path, name: &str) -> Result<()> {
    tools::run(cargo(&root.join("examples").join(name)).args(["fmt", "--", "--check"]))?;
    tools::run(in_example(root, name, "clippy").args(["--", "-D", "warnings"]))?;
    tools::run(&mut in_example(root, name, "build"))
}

/// The list under the harness: every rung that there is, none of them with a failure.
fn climb(root: &Path) -> Result<u64> {
    lint_and_build(root, "own-tree")?;
    let rungs = run_once(root, "own-tree", "rungs without a failure: ")?;
    if rungs != RUNGS {
        bail!("climbed {rungs} rungs instead of {RUNGS}");
    }
    Ok(rungs)
}

fn count_twice(root: &Path, name: &str, words: &str) -> Result<String> {
    lint_and_build(root, name)?;
    let first = run_once(root, name, words)?;
    let second = run_once(root, name, words)?;
    if second != first + 1 {
        bail!("counted {first} and then {second}");
    }
    Ok(format!("{first}, {second}"))
}

/// The number behind `words` in what the example prints.
fn run_once(root: &Path, name: &str, words: &str) -> Result<u64> {
    let mut command = in_example(root, name, "run");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cargo does not start")?;
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > PATIENCE {
            // Cargo becomes the program that it runs, so that this ends the machine.
            child.kill()?;
            bail!("did not end within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{}: {text}", output.status);
    }
    number_after(words, &text).with_context(|| format!("no `{words}` in `{text}`"))
}

fn number_after(words: &str, text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(words))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_stands_behind_the_words() {
        assert_eq!(number_after("boot number ", "noise\r\nboot number 12\r\n"), Some(12));
        assert_eq!(number_after("boot number ", "boot number twelve\n"), None);
        assert_eq!(number_after("boot number ", "panicked\n"), None);
    }
}
