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
//!   place, open, guest: which bytes of what file, and who else has it
//!   failure, memory, size, progress, interrupt, svg: what commands share
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
mod guest;
mod help;
mod image;
mod interrupt;
mod map;
mod memory;
mod open;
mod pages;
mod place;
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
use image::Image;
use place::Place;
use std::fmt::Display;
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
        Command::Info { json, no_lock, place } => info(&place, json, no_lock),
        Command::Format { size, block_size, arenas, force, place } => {
            let request = format::Request { size_bytes: size, block_size, arenas, force, quiet };
            line(&place, format::run(&place, &request), quiet)
        }
        Command::Check { json, place } => check(&place, json, quiet),
        Command::Exercise { ops, seed, threads, commit_every, fill, place } => {
            let request = exercise::Request { operations: ops, seed, threads, commit_every, fill_percent: fill, quiet };
            exercise(&place, &request)
        }
        Command::Dump { json, kind, block_size, no_lock, place, addr } => {
            dump(&place, &dump::Request { addr, kind, block_size, json, no_lock })
        }
        Command::Map { output, no_lock, place } => map(&place, no_lock, output.as_deref(), quiet),
        Command::Timeline { output, commit, trace, example: _ } => {
            timeline(trace.as_deref(), output.as_deref(), commit)
        }
        Command::Grow { size, place } => line(&place, grow::run(&place, size), quiet),
        Command::Serve { socket, record, script, read_only, once, place } => {
            let request = serve::Request { socket, record, script, read_only, once, quiet };
            line(&place, serve::run(&place, &request), quiet)
        }
        Command::Bench { arguments } => front("bench", &arguments),
        Command::Crash { arguments } => front("crash", &arguments),
        Command::Man { out } => match pages::man(&out) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => fail(out.display(), &failure),
        },
        Command::Completions { shell } => print(&pages::completions(shell), 0, EXIT_FAILURE),
    }
}

fn front(name: &str, arguments: &[std::ffi::OsString]) -> ExitCode {
    match front::run(name, arguments) {
        Ok(code) => code,
        Err(failure) => fail(format!("arenite-{name}"), &failure),
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

fn info(place: &Place, json: bool, no_lock: bool) -> ExitCode {
    let image = Image::open_unused(place, no_lock).map_err(volume::ReadError::Open);
    let volume = match image.and_then(|image| volume::read_image(&image)) {
        Ok(volume) => volume,
        Err(error) => return fail_at(place, &Failure::no_volume(error.to_string())),
    };
    let text = if json { render::json(&volume) } else { render::table(&volume, place.shown()) };
    print(&text, 0, EXIT_FAILURE)
}

fn check(place: &Place, json: bool, quiet: bool) -> ExitCode {
    match check::run(place, quiet) {
        Ok(report) if quiet && !json && report.is_clean() => ExitCode::SUCCESS,
        Ok(report) => {
            let text = if json { report.json() } else { report.text(&place.shown()) };
            print(&text, u8::from(!report.is_clean()), EXIT_NO_VOLUME)
        }
        Err(failure) => fail_at(place, &failure),
    }
}

fn dump(place: &Place, request: &dump::Request) -> ExitCode {
    match dump::run(place, request) {
        Ok((text, true)) => print(&text, 0, EXIT_FAILURE),
        Ok((text, false)) => {
            print(&text, 0, EXIT_FAILURE);
            fail_at(place, &Failure::no_volume("no copy of the superblock is good"))
        }
        Err(failure) => fail_at(place, &failure),
    }
}

fn map(place: &Place, no_lock: bool, output: Option<&Path>, quiet: bool) -> ExitCode {
    let cells = if output.is_some() { map::picture_cells } else { map::text_cells };
    if output.is_some_and(|output| same_file(output, place.path())) {
        return fail_at(place, &Failure::new("the picture would overwrite the image itself"));
    }
    match (map::read(place, no_lock, cells, quiet), output) {
        (Ok(map), Some(output)) => save(output, &map::picture(&map, place.path())),
        (Ok(map), None) => print(&map::lines(&map), 0, EXIT_FAILURE),
        (Err(failure), _) => fail_at(place, &failure),
    }
}

/// Without a trace, one is recorded.
fn timeline(trace: Option<&Path>, output: Option<&Path>, commit: Option<u32>) -> ExitCode {
    let commit = commit.map(|number| number as usize);
    if output.zip(trace).is_some_and(|(output, trace)| same_file(output, trace)) {
        return fail("timeline", &Failure::new("the picture would overwrite the trace itself"));
    }
    let loaded = trace.map_or_else(timeline::example, timeline::load);
    let found = loaded.and_then(|trace| timeline::Timeline::new(&trace, commit));
    match (found, output) {
        (Ok(found), Some(output)) => save(output, &timeline::picture(&found)),
        (Ok(found), None) => print(&timeline::lines(&found), 0, EXIT_FAILURE),
        (Err(why), _) => fail(trace.unwrap_or(Path::new("timeline")).display(), &Failure::new(why)),
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
        Err(error) => fail(output.display(), &Failure::io(&error)),
    }
}

fn exercise(place: &Place, request: &exercise::Request) -> ExitCode {
    match exercise::run(place, request) {
        Ok(outcome) => {
            for error in &outcome.errors {
                eprintln!("arenite: {}: {error}", place.shown());
            }
            if request.quiet {
                return ExitCode::from(outcome.code);
            }
            print(&outcome.text, outcome.code, EXIT_FAILURE)
        }
        Err(failure) => fail_at(place, &failure),
    }
}

/// The end of a command whose output is one line.
fn line(place: &Place, outcome: Result<String, Failure>, quiet: bool) -> ExitCode {
    match outcome {
        Ok(_) if quiet => ExitCode::SUCCESS,
        Ok(text) => print(&format!("{}: {text}\n", place.shown()), 0, EXIT_FAILURE),
        Err(failure) => fail_at(place, &failure),
    }
}

/// Fails with what a place holds, or does not.
fn fail_at(place: &Place, failure: &Failure) -> ExitCode {
    let about_content = failure.text.starts_with("not a volume") || failure.text.starts_with("not blank");
    if !about_content || !place.has_partitions() {
        return fail(place.shown(), failure);
    }
    let hint = "; it is a disk with partitions, of which --partition takes one";
    fail(place.shown(), &Failure { code: failure.code, ..Failure::new(format!("{}{hint}", failure.text)) })
}

fn fail(what: impl Display, failure: &Failure) -> ExitCode {
    eprintln!("arenite: {what}: {}", failure.text);
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
