//! `arenite`: makes, checks and looks at gefs 9.00 volumes from the host.
//!
//! ```text
//!   args, help   the command line               main      from arguments to commands, exit codes
//!   info         volume, image, render          check     whether a volume contradicts itself
//!   format       a new volume                   exercise  uses a volume hard, leaves it as it was
//!   grow         a larger volume                dump      blocks, decoded
//!   map          a volume as a picture          timeline  a commit as a picture
//!   serve        an image as somebody's disk     pages     manual pages, completions
//!   front        bench and crash, programs of their own
//!   failure, open, memory, size, progress, interrupt, svg: what commands share
//! ```
//!
//! `info`, `check`, `dump` and `map` cannot write to an image: it is opened for reading only, and the device refuses
//! writes besides.
#![forbid(unsafe_code)]

mod args;
mod check;
mod dump;
mod exercise;
mod failure;
mod format;
mod front;
mod grow;
mod help;
mod image;
mod interrupt;
mod map;
mod memory;
mod open;
mod pages;
mod progress;
mod render;
mod serve;
mod size;
mod svg;
mod timeline;
mod volume;

use args::{Arguments, Command};
use clap::Parser;
use failure::{Failure, EXIT_FAILURE, EXIT_NO_VOLUME};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too. If they cannot be printed, there is nobody to be told.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(usage_code()) } else { ExitCode::SUCCESS };
        }
    };
    let quiet = arguments.quiet;
    match arguments.command {
        Command::Info { json, image } => info(&image, json),
        Command::Format { size, block_size, arenas, force, image } => {
            let request = format::Request { size_bytes: size, block_size, arenas, force, quiet };
            line(&image, format::run(&image, &request), quiet)
        }
        Command::Check { json, image } => check(&image, json, quiet),
        Command::Exercise { ops, seed, threads, commit_every, fill, image } => {
            let request = exercise::Request { operations: ops, seed, threads, commit_every, fill_percent: fill, quiet };
            exercise(&image, &request)
        }
        Command::Dump { json, kind, block_size, image, addr } => {
            dump(&image, &dump::Request { addr, kind, block_size, json })
        }
        Command::Map { output, image } => map(&image, output.as_deref(), quiet),
        Command::Timeline { output, commit, trace, example: _ } => {
            timeline(trace.as_deref(), output.as_deref(), commit)
        }
        Command::Grow { size, image } => line(&image, grow::run(&image, size), quiet),
        Command::Serve { socket, record, script, read_only, once, image } => {
            let request = serve::Request { socket, record, script, read_only, once, quiet };
            line(&image, serve::run(&image, &request), quiet)
        }
        Command::Bench { arguments } => front("bench", &arguments),
        Command::Crash { arguments } => front("crash", &arguments),
        Command::Man { out } => match pages::man(&out) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => fail(&out, &failure),
        },
        Command::Completions { shell } => print(&pages::completions(shell), 0, EXIT_FAILURE),
    }
}

fn front(name: &str, arguments: &[std::ffi::OsString]) -> ExitCode {
    match front::run(name, arguments) {
        Ok(code) => code,
        Err(failure) => fail(Path::new(&format!("arenite-{name}")), &failure),
    }
}

/// The exit code for wrong arguments. For `check`, 1 is kept for damage.
fn usage_code() -> u8 {
    let mut words = std::env::args_os().skip(1);
    let is_check = words.find(|word| word != "-q" && word != "--quiet").is_some_and(|command| command == "check");
    if is_check {
        EXIT_NO_VOLUME
    } else {
        EXIT_FAILURE
    }
}

fn info(path: &Path, json: bool) -> ExitCode {
    let volume = match volume::read(path) {
        Ok(volume) => volume,
        Err(error) => return fail(path, &Failure::no_volume(error.to_string())),
    };
    let text = if json { render::json(&volume) } else { render::table(&volume, path) };
    print(&text, 0, EXIT_FAILURE)
}

fn check(path: &Path, json: bool, quiet: bool) -> ExitCode {
    match check::run(path, quiet) {
        Ok(report) if quiet && !json && report.is_clean() => ExitCode::SUCCESS,
        Ok(report) => {
            let text = if json { report.json() } else { report.text(path) };
            print(&text, u8::from(!report.is_clean()), EXIT_NO_VOLUME)
        }
        Err(failure) => fail(path, &failure),
    }
}

fn dump(path: &Path, request: &dump::Request) -> ExitCode {
    match dump::run(path, request) {
        Ok((text, true)) => print(&text, 0, EXIT_FAILURE),
        Ok((text, false)) => {
            print(&text, 0, EXIT_FAILURE);
            fail(path, &Failure::no_volume("no copy of the superblock is good"))
        }
        Err(failure) => fail(path, &failure),
    }
}

fn map(path: &Path, output: Option<&Path>, quiet: bool) -> ExitCode {
    let cells = if output.is_some() { map::picture_cells } else { map::text_cells };
    if output.is_some_and(|output| same_file(output, path)) {
        return fail(path, &Failure::new("the picture would overwrite the image itself"));
    }
    match (map::read(path, cells, quiet), output) {
        (Ok(map), Some(output)) => save(output, &map::picture(&map, path)),
        (Ok(map), None) => print(&map::lines(&map), 0, EXIT_FAILURE),
        (Err(failure), _) => fail(path, &failure),
    }
}

/// Without a trace, one is recorded.
fn timeline(trace: Option<&Path>, output: Option<&Path>, commit: Option<u32>) -> ExitCode {
    let commit = commit.map(|number| number as usize);
    if output.zip(trace).is_some_and(|(output, trace)| same_file(output, trace)) {
        return fail(Path::new("timeline"), &Failure::new("the picture would overwrite the trace itself"));
    }
    let loaded = trace.map_or_else(timeline::example, timeline::load);
    let found = loaded.and_then(|trace| timeline::Timeline::new(&trace, commit));
    match (found, output) {
        (Ok(found), Some(output)) => save(output, &timeline::picture(&found)),
        (Ok(found), None) => print(&timeline::lines(&found), 0, EXIT_FAILURE),
        (Err(why), _) => fail(trace.unwrap_or(Path::new("timeline")), &Failure::new(why)),
    }
}

/// Whether two paths that exist lead to one file.
fn same_file(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    identity(one).is_some() && identity(one) == identity(other)
}

/// Writes a picture to a file, or to standard output.
fn save(output: &Path, text: &str) -> ExitCode {
    if output.as_os_str() == "-" {
        return print(text, 0, EXIT_FAILURE);
    }
    match std::fs::write(output, text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(output, &Failure::io(&error)),
    }
}

fn exercise(path: &Path, request: &exercise::Request) -> ExitCode {
    match exercise::run(path, request) {
        Ok(outcome) => {
            for error in &outcome.errors {
                eprintln!("arenite: {}: {error}", path.display());
            }
            if request.quiet {
                return ExitCode::from(outcome.code);
            }
            print(&outcome.text, outcome.code, EXIT_FAILURE)
        }
        Err(failure) => fail(path, &failure),
    }
}

/// The end of a command whose output is one line.
fn line(path: &Path, outcome: Result<String, Failure>, quiet: bool) -> ExitCode {
    match outcome {
        Ok(_) if quiet => ExitCode::SUCCESS,
        Ok(text) => print(&format!("{}: {text}\n", path.display()), 0, EXIT_FAILURE),
        Err(failure) => fail(path, &failure),
    }
}

fn fail(path: &Path, failure: &Failure) -> ExitCode {
    eprintln!("arenite: {}: {}", path.display(), failure.text);
    ExitCode::from(failure.code)
}

/// Prints the output; `code` is the exit code if that succeeds, `unprinted` if not.
fn print(text: &str, code: u8, unprinted: u8) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::from(code),
        Err(error) => {
            // A reader that has seen enough, as `head` has, is told nothing.
            if error.kind() != ErrorKind::BrokenPipe {
                eprintln!("arenite: standard output: {error}");
            }
            ExitCode::from(unprinted)
        }
    }
}
