//! `bench` and `crash`: front ends to programs of their own, `arenite-bench` and `arenite-crash`.
//!
//! These two are built with other settings than this tool (the crash harness with all its checks, the benchmarks
//! without debugging aids), so they are programs of their own, found beside this one or by the search path, as git
//! finds its own.

use crate::failure::Failure;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Runs `arenite-<name>` with these arguments, and ends as it ends.
///
/// # Errors
/// If there is no such program, or it cannot be run.
pub(crate) fn run(name: &str, arguments: &[OsString]) -> Result<ExitCode, Failure> {
    let program = format!("arenite-{name}{}", std::env::consts::EXE_SUFFIX);
    let path = beside(&program).unwrap_or_else(|| program.clone().into());
    match Command::new(path).args(arguments).status() {
        // Ended by a signal: as the shell would tell it, without the number.
        Ok(status) => Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::new(format!(
            "neither beside this program nor in the search path; in the repository: cargo {}",
            if name == "bench" { "bench-store" } else { name }
        ))),
        Err(error) => Err(Failure::io(&error)),
    }
}

/// A program in the folder of this one.
fn beside(program: &str) -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.parent()?.join(program);
    path.is_file().then_some(path)
}
