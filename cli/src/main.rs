//! `arenite`: looks at gefs 9.00 volumes from the host.
//!
//! ```text
//!   main    arguments, exit codes          volume   mounts read-only, collects
//!   image   a file as a read-only device   render   the table, the JSON
//! ```
//!
//! Nothing here can write to an image: it is opened for reading only, and the device refuses writes besides.
#![forbid(unsafe_code)]

mod image;
mod render;
mod volume;

use clap::{Parser, Subcommand};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The image cannot be read as a volume.
const EXIT_NO_VOLUME: u8 = 2;
/// Everything else that goes wrong, wrong arguments included.
const EXIT_FAILURE: u8 = 1;

macro_rules! exit_codes {
    () => {
        "Exit codes:
  0  the volume was read
  1  wrong arguments, or the output could not be written
  2  IMAGE cannot be read as a volume; one line on standard error says why, and where"
    };
}

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

#[derive(Parser)]
#[command(name = "arenite", version, about = "Looks at Arenite and gefs 9.00 volumes", after_help = exit_codes!())]
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
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too. If they cannot be printed, there is nobody to be told.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_FAILURE) } else { ExitCode::SUCCESS };
        }
    };
    match arguments.command {
        Command::Info { json, image } => info(&image, json),
    }
}

fn info(path: &Path, json: bool) -> ExitCode {
    let volume = match volume::read(path) {
        Ok(volume) => volume,
        Err(error) => {
            eprintln!("arenite: {}: {error}", path.display());
            return ExitCode::from(EXIT_NO_VOLUME);
        }
    };
    let text = if json { render::json(&volume) } else { render::table(&volume, path) };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has seen enough, as `head` has, is told nothing.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::from(EXIT_FAILURE),
        Err(error) => {
            eprintln!("arenite: standard output: {error}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}
