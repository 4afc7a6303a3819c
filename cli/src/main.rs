//! `arenite`: makes, checks and looks at gefs 9.00 volumes from the host.
//!
//! ```text
//!   main      arguments, exit codes             info: volume, image, render
//!   format    a new volume                      check     whether a volume contradicts itself
//!   grow      a larger volume                   exercise  uses a volume hard, leaves it as it was
//!   failure   why not, in one line              memory, open, size: what commands share
//! ```
//!
//! `info` and `check` cannot write to an image: it is opened for reading only, and the device refuses writes besides.
#![forbid(unsafe_code)]

mod check;
mod exercise;
mod failure;
mod format;
mod grow;
mod image;
mod memory;
mod open;
mod render;
mod size;
mod volume;

use arenite_core::format::BlockSize;
use clap::{Parser, Subcommand};
use failure::{Failure, EXIT_FAILURE, EXIT_NO_VOLUME};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

macro_rules! exit_codes {
    () => {
        "Exit codes:
  0  the volume was read
  1  wrong arguments, or the output could not be written
  2  IMAGE cannot be read as a volume; one line on standard error says why, and where"
    };
}

const COMMANDS_HELP: &str = "Exit codes: see the help of each command. 0 is success everywhere.";

const INFO_HELP: &str = concat!(
    "Examples:
  arenite info disk.img
  arenite info /dev/sdb1
  arenite info --json disk.img | jq .free

JSON keys (bytes and byte addresses, if nothing else is said):
  format       \"gefs9.00\"
  block_size
  qgen         committed generation (a number)
  root         addr (null if there is no tree), hash (16 hexadecimal digits), height
  superblocks  first and second copy: \"ok\", or why not
  arenas       of each: addr, size, free, log_blocks (a number),
               header (\"primary\" or \"backup\": the copy that the commit names)
  free         all that the logs, replayed up to the committed barrier, leave free

A bad or older second copy is noted, and no error. IMAGE is a file or a block device. It is opened for reading only
and not locked; a volume that somebody is writing to shows one of its last commits.

",
    exit_codes!()
);

const FORMAT_HELP: &str = "Examples:
  arenite format --size 256M disk.img
  arenite format --force --block-size 4096 --arenas 2 disk.img
  arenite format /dev/sdb1

IMAGE is a file, which --size makes or gives another length, or a block device, which has its own. Without --force
nothing is overwritten or cut off: every byte of a file must be zero; of a block device the first MiB and the last
64 KiB, where other file systems and partition tables have something.

Blocks have 16384 bytes, the only size of the original, or 4096 if the volume is smaller than 4 MiB. There are 8 arenas,
more above 32 TiB, fewer if they were tiny; at least 2 with blocks of 16384 bytes, because the original wants that.

Sizes are bytes, or have K, M, G or T behind them. IMAGE is locked meanwhile.

Exit codes:
  0  the volume was made
  1  wrong arguments, not blank, too small, in use, or the device failed; one line on standard error says what";

const CHECK_HELP: &str = "Checked are: both superblocks, both copies of each arena header, the logs, and their seals if
Arenite wrote them; the free space that the logs leave; and, where the tree under the root is one of the original or a
catalogue of arenite-catalog, that every block it leads to is in use, is what its pointer promises, and is reached in
one way only. Of a catalogue, blocks that are in use and not reached are findings too; volumes of the original have
such, because it loses some whenever it is stopped. Of other trees only what pivots lead to is checked; the output says
so. A second copy that is bad or behind is a note, no finding: the next commit repairs it.

Each finding is a line: its byte address, a colon, and what is wrong. Nothing is ever written. IMAGE is locked against
writers meanwhile.

JSON keys:
  clean            true or false
  findings         of each: addr, what
  more_findings    number of those that are not listed
  notes            lines of text
  block_size, qgen, superblocks     as in `info`; null if the volume could not be mounted at all
  arenas, damaged_arenas, bad_header_copies     numbers
  sealed           whether Arenite wrote the last commit
  tree             \"none\", \"gefs\", \"catalog\" or \"not walked\"
  complete         whether every reachable block was met
  snapshots, nodes, data            what was met: numbers
  blocks           total, and each of them once: free, log, spare (never handed out), reachable, dead (on a dead list),
                   replaced (by messages that wait), unreachable

Exit codes:
  0  clean
  1  damaged
  2  wrong arguments, in use, or IMAGE cannot be read as a volume; one line on standard error says why";

const EXERCISE_HELP: &str = "Examples:
  arenite exercise --ops 1000000 --seed 1 --threads 2 disk.img
  arenite exercise --ops 100000 --seed 7 --fill 95 --commit-every 500 disk.img

Each operation allocates, fills and queues a block, reads one back and compares it, or frees one. The root, and all that
it leads to, stays as it is; everything taken is freed before the end, also after Ctrl-C. But every commit has the
blocks that are in hand at that moment: if this is killed, or the power fails, they stay in use and nothing leads to
them. So use it on copies, or on volumes that can spare the space.

Exit codes:
  0    all that was read was what was written, and the volume is as it was
  1    wrong arguments; or something was wrong: each error is a line on standard error
  2    IMAGE is in use or cannot be read as a volume
  130  ended by Ctrl-C, SIGTERM or SIGHUP, in good order";

const GROW_HELP: &str = "Examples:
  arenite grow --size 512M disk.img
  arenite grow /dev/sdb1

The space is added in new arenas behind the old ones; nothing is moved. A file is given the length --size (without it,
it was made longer before); a block device has its own. If the volume cannot grow, the file gets its old length back.
Sizes are bytes, or have K, M, G or T behind them. IMAGE is locked meanwhile.

Exit codes:
  0  the volume has grown
  1  wrong arguments, too small for one more arena, or the device failed
  2  IMAGE is in use or cannot be read as a volume";

#[derive(Parser)]
#[command(name = "arenite", version, about = "Makes, checks and looks at Arenite and gefs 9.00 volumes")]
#[command(after_help = COMMANDS_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what a volume is made of and how much of it is free. Never writes to it.
    #[command(after_help = INFO_HELP)]
    Info {
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
        /// File or block device that holds the volume.
        image: PathBuf,
    },
    /// Make a new volume.
    #[command(after_help = FORMAT_HELP)]
    Format {
        /// Length of the file, which is made if it does not exist.
        #[arg(long, value_name = "S", value_parser = size::parse)]
        size: Option<u64>,
        /// Bytes of a block: 2048, 4096, 8192, 16384, 32768 or 65536.
        #[arg(long, value_name = "B", value_parser = block_size)]
        block_size: Option<BlockSize>,
        /// Number of arenas.
        #[arg(long, value_name = "N")]
        arenas: Option<u32>,
        /// Overwrite whatever is there.
        #[arg(long)]
        force: bool,
        /// File or block device to hold the volume.
        image: PathBuf,
    },
    /// Find out whether a volume is damaged. Never writes to it.
    #[command(after_help = CHECK_HELP)]
    Check {
        /// Print one JSON object instead of lines.
        #[arg(long)]
        json: bool,
        /// File or block device that holds the volume.
        image: PathBuf,
    },
    /// Use a volume hard, and leave it as it was.
    #[command(after_help = EXERCISE_HELP)]
    Exercise {
        /// Number of operations, of all threads together.
        #[arg(long, value_name = "N")]
        ops: u64,
        /// Where the pseudo-random numbers begin. One thread that never finds the volume full does the same for the same
        /// seed.
        #[arg(long, value_name = "S")]
        seed: u64,
        /// Threads that use the volume.
        #[arg(long, value_name = "T", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
        threads: u32,
        /// Operations from one commit to the next.
        #[arg(long, value_name = "K", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
        commit_every: u64,
        /// Keep this much of the free space allocated. Without it, about 1024 blocks a thread.
        #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
        fill: Option<u8>,
        /// File or block device that holds the volume.
        image: PathBuf,
    },
    /// Make a volume larger.
    #[command(after_help = GROW_HELP)]
    Grow {
        /// New length of the file.
        #[arg(long, value_name = "S", value_parser = size::parse)]
        size: Option<u64>,
        /// File or block device that holds the volume.
        image: PathBuf,
    },
}

fn block_size(text: &str) -> Result<BlockSize, String> {
    let bytes = size::parse(text)?;
    let size = u32::try_from(bytes).ok().and_then(BlockSize::new);
    size.ok_or_else(|| "blocks have 2048, 4096, 8192, 16384, 32768 or 65536 bytes".to_owned())
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too. If they cannot be printed, there is nobody to be told.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(usage_code()) } else { ExitCode::SUCCESS };
        }
    };
    match arguments.command {
        Command::Info { json, image } => info(&image, json),
        Command::Format { size, block_size, arenas, force, image } => {
            let request = format::Request { size_bytes: size, block_size, arenas, force };
            line(&image, format::run(&image, &request))
        }
        Command::Check { json, image } => check(&image, json),
        Command::Exercise { ops, seed, threads, commit_every, fill, image } => {
            let request = exercise::Request { operations: ops, seed, threads, commit_every, fill_percent: fill };
            exercise(&image, &request)
        }
        Command::Grow { size, image } => line(&image, grow::run(&image, size)),
    }
}

/// The exit code for wrong arguments. For `check`, 1 is kept for damage.
fn usage_code() -> u8 {
    let is_check = std::env::args_os().nth(1).is_some_and(|command| command == "check");
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

fn check(path: &Path, json: bool) -> ExitCode {
    match check::run(path) {
        Ok(report) => {
            let text = if json { report.json() } else { report.text(path) };
            print(&text, u8::from(!report.is_clean()), EXIT_NO_VOLUME)
        }
        Err(failure) => fail(path, &failure),
    }
}

fn exercise(path: &Path, request: &exercise::Request) -> ExitCode {
    match exercise::run(path, request) {
        Ok(outcome) => {
            for error in &outcome.errors {
                eprintln!("arenite: {}: {error}", path.display());
            }
            print(&outcome.text, outcome.code, EXIT_FAILURE)
        }
        Err(failure) => fail(path, &failure),
    }
}

/// The end of a command whose output is one line.
fn line(path: &Path, outcome: Result<String, Failure>) -> ExitCode {
    match outcome {
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
