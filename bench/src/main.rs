//! `cargo bench-store`: how fast the store is, as ratios.
//!
//! Every line compares the store with something simpler that does the same work, in the same run on the same machine
//! (see [`measure`]). The exit status is 1 if a goal is missed by more than the spread, 2 if something could not be
//! measured.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod c;
mod io;
mod light;
mod listing;
mod logs;
mod measure;
mod raw;
#[allow(unsafe_code)]
mod raw_ring;
mod space;
mod table;
mod timed;
mod unflushed;
mod volume;

use anyhow::{Context, Result};
use clap::Parser;
use measure::Row;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Measures the store against the device, and its parts against simpler ones.
#[derive(Parser, Debug)]
#[command(
    name = "cargo bench-store",
    after_help = "Examples:
  cargo bench-store                       everything; about ten minutes
  cargo bench-store -- --list             the names
  cargo bench-store -- --filter hash      one of them
  cargo bench-store -- --json bench.json  the table as JSON too"
)]
struct Args {
    /// Only benchmarks with this in their name
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Write the table as JSON to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Smaller amounts and three rounds: shows that everything works, proves nothing
    #[arg(long)]
    quick: bool,
    /// Rounds of each comparison [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// The directory for scratch files, on the device that is to be measured
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    dir: PathBuf,
    /// Print the names and stop
    #[arg(long)]
    list: bool,
}

/// What all benchmarks need to know.
pub struct Setting {
    /// Where scratch files go.
    dir: PathBuf,
    /// Rounds of each comparison.
    pub rounds: usize,
    /// Bytes that are moved in a round.
    pub len_bytes: u64,
    /// Little is measured.
    pub quick: bool,
}

/// A file that is removed when this is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Setting {
    /// A name for a file that is not there.
    pub fn scratch(&self, name: &str) -> Scratch {
        let scratch = Scratch(self.dir.join(format!("{}-{name}", std::process::id())));
        let _ = std::fs::remove_file(&scratch.0);
        scratch
    }

    /// The bytes of a round, for people.
    pub fn amount(&self) -> String {
        format!("{} MiB", self.len_bytes >> 20)
    }
}

/// A benchmark.
type Run = fn(&Setting) -> Result<Vec<Row>>;

const BENCHMARKS: [(&str, Run); 11] = [
    ("hash", space::hash),
    ("queue", space::queue),
    ("allocate", space::allocate),
    ("cache", space::cache),
    ("one-block", logs::one_block),
    ("replay", listing::replay),
    ("compress", listing::compress),
    ("growth", logs::growth),
    ("write", |setting| Ok([io::write(setting, true)?, io::write(setting, false)?].concat())),
    ("read", io::read),
    ("commit-latency", io::commit_latency),
];

fn main() -> ExitCode {
    let args = Args::parse_from(without_separator());
    if args.list {
        BENCHMARKS.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Lets `cargo bench-store -- --list` be `cargo bench-store --list`.
fn without_separator() -> impl Iterator<Item = std::ffi::OsString> {
    std::env::args_os().enumerate().filter(|(at, arg)| !(*at == 1 && arg == "--")).map(|(_, arg)| arg)
}

/// True if no goal was missed.
fn run(args: &Args) -> Result<bool> {
    let wanted = |name: &str| args.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
    let chosen: Vec<_> = BENCHMARKS.iter().filter(|(name, _)| wanted(name)).collect();
    anyhow::ensure!(!chosen.is_empty(), "no benchmark has that in its name (--list names them)");
    std::fs::create_dir_all(&args.dir).with_context(|| format!("{} cannot be made", args.dir.display()))?;
    let setting = Setting {
        dir: args.dir.clone(),
        rounds: args.rounds.map_or(if args.quick { 3 } else { 5 }, |rounds| rounds as usize),
        len_bytes: if args.quick { 64 << 20 } else { 1 << 30 },
        quick: args.quick,
    };
    let mut rows = Vec::new();
    for (name, benchmark) in chosen {
        eprintln!("{name} ...");
        rows.extend(benchmark(&setting).with_context(|| format!("benchmark {name}"))?);
    }
    print!("{}", table::render(&rows));
    let missed = rows.iter().filter(|row| row.is_missed()).count();
    println!("{} figures, {missed} goals missed", rows.len());
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(path, text + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(missed == 0)
}
