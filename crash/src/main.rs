//! `cargo crash`: climbs the ladder of docs/TESTING.md and prints one table.
//!
//! ```text
//!   main     arguments, exit codes           rung     what a rung is, the list of all
//!   table    the rows as text and as JSON    rungs/   one rung a file
//! ```
//!
//! Exit codes: 0 all is well, 1 something was found wrong, 2 wrong arguments, 3 a rung that was asked for by its number
//! could not be tried.
#![forbid(unsafe_code)]

mod catalogue;
mod foreign_trace;
mod rung;
mod rungs;
mod table;

use arenite_shim::crash::Contract;
use arenite_shim::ladder::{Row, Setup};
use clap::Parser;
use rung::{all, Context, Rung};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Crash states, faults and sabotages of the block store: enumerated, judged, counted.
#[derive(Debug, Parser)]
#[command(name = "cargo crash")]
struct Args {
    /// Go on with ever new seeds until the time is up, and climb what the short form leaves out.
    #[arg(long)]
    long: bool,
    /// Time of the long form, all rungs together.
    #[arg(long, default_value_t = 60, requires = "long")]
    minutes: u64,
    /// Only these rungs (may be repeated).
    #[arg(long, value_name = "N")]
    rung: Vec<u32>,
    /// So many hundredths of the seeds of the short form.
    #[arg(long, value_name = "PERCENT", default_value_t = 100)]
    scale: u64,
    /// Name the rungs and what each one records, and stop.
    #[arg(long)]
    list: bool,
    /// Show what each source gave and took, besides.
    #[arg(long)]
    profile: bool,
    /// The table as JSON, besides.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Judge one state again, and say what may be shown and what is: seed:trace:epoch:mask:tear, as failures are named.
    #[arg(long, value_name = "ID")]
    replay: Option<String>,
    /// Explore a trace that was recorded elsewhere, by `arenite serve --record` for example, of a volume of files.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// What the disk of the trace held at first, instead of what the trace says.
    #[arg(requires = "trace")]
    image: Option<PathBuf>,
    /// Threads; as many as there are processors if not given.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// What the device writes whole or not at all, in bytes (no more than a block).
    #[arg(long, value_name = "BYTES", default_value_t = 512, value_parser = sector)]
    sector: usize,
    /// The device writes blocks whole or not at all.
    #[arg(long)]
    atomic_blocks: bool,
    /// Writes reach the medium in the order of issue.
    #[arg(long)]
    ordered: bool,
    /// Breaks one guarantee of the store, so that something fails: a switch of core/src/sabotage.rs, by its name.
    #[cfg(feature = "sabotage")]
    #[arg(long, value_name = "SWITCH", value_parser = switch)]
    sabotage: Option<arenite_core::sabotage::Switch>,
}

#[cfg(feature = "sabotage")]
fn switch(name: &str) -> Result<arenite_core::sabotage::Switch, String> {
    let found = arenite_core::sabotage::ALL.iter().copied().find(|switch| format!("{switch:?}") == name);
    found.ok_or_else(|| "no switch has that name".into())
}

fn sector(text: &str) -> Result<usize, String> {
    let bytes: usize = text.parse().map_err(|_| "not a number")?;
    let fits = bytes.is_power_of_two() && (512..=65536).contains(&bytes);
    fits.then_some(bytes).ok_or_else(|| "a power of two from 512 to 65536".into())
}

/// The arguments. The alias ends in `--`, so that options need none; whoever writes one all the same is understood.
fn arguments() -> Vec<std::ffi::OsString> {
    let mut arguments: Vec<_> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == "--") {
        arguments.remove(1);
    }
    arguments
}

fn main() -> ExitCode {
    let args = Args::parse_from(arguments());
    #[cfg(feature = "sabotage")]
    arenite_core::sabotage::set(args.sabotage);
    let mut setup = Setup {
        contract: Contract { atomic_len_bytes: args.sector, ordered: args.ordered },
        atomic_blocks: args.atomic_blocks,
        ..Setup::default()
    };
    setup.threads = args.threads.unwrap_or(setup.threads);
    // Panics inside are results, and are reported with the name of the state.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(file) = &args.trace {
        return explore_trace(file, args.image.as_deref(), &setup);
    }
    let rungs = all();
    if let Some(id) = &args.replay {
        return replay(&rungs, id, &setup);
    }
    let chosen: Vec<&dyn Rung> = rungs
        .iter()
        .map(AsRef::as_ref)
        .filter(|rung| args.rung.is_empty() || args.rung.contains(&rung.number()))
        .collect();
    if chosen.is_empty() {
        eprintln!("error: no such rung; --list names them");
        return ExitCode::from(2);
    }
    if args.list {
        for rung in chosen {
            println!("{:>2}  {}", rung.number(), rung.what());
            rung.parts().iter().for_each(|part| println!("      {part}"));
        }
        return ExitCode::SUCCESS;
    }
    climb(&chosen, &args, &setup)
}

/// Explores one trace, and prints what was found.
fn explore_trace(file: &std::path::Path, image: Option<&std::path::Path>, setup: &Setup) -> ExitCode {
    match rungs::kernel::explore_file(file, image, setup) {
        Ok(found) => {
            println!("{}: good\n{found}", file.display());
            ExitCode::SUCCESS
        }
        Err(what) => {
            println!("{}: FAILED\n{what}", file.display());
            ExitCode::from(1)
        }
    }
}

fn climb(rungs: &[&dyn Rung], args: &Args, setup: &Setup) -> ExitCode {
    let mut rows: Vec<Row> = Vec::new();
    let end = args.long.then(|| Instant::now() + Duration::from_secs(args.minutes * 60));
    for (number, rung) in rungs.iter().enumerate() {
        // What a rung leaves of its share, the ones behind it get.
        let weights: u32 = rungs[number..].iter().map(|rung| rung.weight()).sum();
        let share = end.map(|end| end.saturating_duration_since(Instant::now()) * rung.weight() / weights.max(1));
        let deadline = share.map(|share| Instant::now() + share);
        let (asked, long, scale) = (!args.rung.is_empty(), args.long, args.scale);
        let context = Context { setup: Setup { deadline, ..*setup }, asked, long, scale };
        let (start, cpu) = (Instant::now(), cpu_time());
        let mut row = rung.run(&context);
        row.rung = rung.number();
        row.what = rung.what().into();
        row.elapsed = start.elapsed();
        row.cpu = cpu_time().saturating_sub(cpu);
        if !context.long && row.cut_short && row.failures.is_empty() {
            row.notes.push("stopped before the end".into());
        }
        eprintln!("{}", table::line(&row));
        if args.profile {
            eprint!("{}", table::profile(&row));
        }
        rows.push(row);
    }
    print!("{}", table::text(&rows));
    if let Some(path) = &args.json {
        if let Err(error) = std::fs::write(path, table::json(&rows)) {
            eprintln!("error: {}: {error}", path.display());
            return ExitCode::from(2);
        }
    }
    match rows.iter().any(|row| !row.failures.is_empty()) {
        true => ExitCode::from(1),
        false if !args.rung.is_empty() && rows.iter().any(|row| row.not_tried.is_some()) => ExitCode::from(3),
        false => ExitCode::SUCCESS,
    }
}

/// Time of processors that this program and those it has waited for have used; zero where the system does not say.
fn cpu_time() -> Duration {
    const TICKS_PER_SECOND: u64 = 100;
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which ends with the last parenthesis: user, system, and the same of children.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(4);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

fn replay(rungs: &[Box<dyn Rung>], id: &str, setup: &Setup) -> ExitCode {
    let parsed = id.split_once(':').and_then(|(seed, rest)| Some((seed.parse::<u64>().ok()?, rest)));
    let Some((seed, rest)) = parsed else {
        eprintln!("error: {id:?} is not of the form seed:trace:epoch:mask:tear");
        return ExitCode::from(2);
    };
    let (trace, name) = rest.split_once(':').unwrap_or((rest, ""));
    for rung in rungs {
        match rung.replay(seed, trace, name, setup) {
            None => {}
            Some(Ok(found)) => {
                println!("{id}: good\n{found}");
                return ExitCode::SUCCESS;
            }
            Some(Err(what)) => {
                println!("{id}: FAILED\n{what}");
                return ExitCode::from(1);
            }
        }
    }
    eprintln!("error: no trace has the name {trace:?}; --list names them");
    ExitCode::from(2)
}
