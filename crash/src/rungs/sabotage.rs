//! Rung 9: the tests, tested. Every guarantee of the core that has a switch to break it is broken in turn, in a program
//! built with these switches; some rung must notice, and the table says which.

use crate::rung::{Context, Rung};
use arenite_shim::explore::Failure;
use arenite_shim::ladder::{parallel, Row, Setup};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The rung.
pub struct Sabotage;

/// Builds the program with the switches, beside this one.
fn build() -> Result<PathBuf, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = this.ancestors().nth(2).ok_or("this program lies in no target directory")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--profile", "crash", "--package", "arenite-crash", "--features", "sabotage"]);
    cargo.args(["--bin", "arenite-sabotage", "--target-dir"]).arg(target);
    cargo.arg("--manifest-path").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let status = cargo.status().map_err(|error| format!("cargo: {error}"))?;
    if !status.success() {
        return Err("the program with the switches cannot be built".into());
    }
    Ok(target.join("crash").join("arenite-sabotage"))
}

/// What the program says for these arguments, line by line.
fn ask(program: &PathBuf, arguments: &[&str]) -> Result<Vec<String>, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(String::from).collect())
}

/// Number of the rung that noticed a switch (of every one that does, as far as there are seconds to try them), and what
/// the first one saw.
fn caught(program: &PathBuf, switch: &str, seconds: Option<u64>) -> Result<(String, String), String> {
    let seconds = seconds.map(|seconds| seconds.to_string());
    let arguments: Vec<_> = [switch].into_iter().chain(seconds.as_deref()).collect();
    let lines = ask(program, &arguments)?;
    let split =
        |line: &String| line.strip_prefix("rung ")?.split_once(": ").map(|(a, b)| (a.to_string(), b.to_string()));
    let seen: Vec<_> = lines.iter().filter_map(split).collect();
    let first = seen.first().ok_or("no rung notices it")?;
    let numbers: Vec<_> = seen.iter().map(|(number, _)| number.as_str()).collect();
    Ok((numbers.join(", "), first.1.clone()))
}

impl Rung for Sabotage {
    fn number(&self) -> u32 {
        9
    }

    fn what(&self) -> &'static str {
        "the tests tested: broken on purpose"
    }

    fn parts(&self) -> Vec<String> {
        vec!["every switch in core/src/sabotage.rs".into()]
    }

    fn run(&self, context: &Context) -> Row {
        let fail = |replay: &str, what| Failure { replay: format!("0:sabotage:{replay}"), what };
        let program = match build() {
            Ok(program) => program,
            Err(what) => return Row { failures: vec![fail("", what)], ..Row::default() },
        };
        let switches = match ask(&program, &["list"]) {
            Ok(switches) => switches,
            Err(what) => return Row { failures: vec![fail("", what)], ..Row::default() },
        };
        let row = Mutex::new(Row::default());
        // The switches are few: none is left out because time is short.
        let setup = Setup { deadline: None, ..context.setup };
        let time = context.setup.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let seconds = time.map(|time| time.as_secs() * setup.threads as u64 / switches.len().max(1) as u64);
        parallel(&switches, &setup, |switch| {
            let result = caught(&program, switch, seconds);
            let mut row = row.lock().unwrap_or_else(PoisonError::into_inner);
            row.cases += 1;
            match result {
                Ok((rungs, what)) => {
                    let what: String = what.chars().take(70).collect();
                    row.notes.push(format!("{switch:<24} caught by rung {rungs:<10} {what}"));
                }
                Err(what) => row.failures.push(fail(switch, what)),
            }
            true
        });
        let mut row = row.into_inner().unwrap_or_else(PoisonError::into_inner);
        row.notes.sort();
        row
    }

    fn replay(&self, _seed: u64, trace: &str, name: &str, _setup: &Setup) -> Option<Result<String, String>> {
        let again = || caught(&build()?, name, Some(60)).map(|(rungs, what)| format!("caught by rung {rungs}: {what}"));
        (trace == "sabotage").then(again)
    }
}
