//! `arenite-runner`: builds the demo kernel, makes its disks, boots it in QEMU and judges the outcome.
//!
//! It is called through two cargo aliases, `cargo demo` and `cargo verify`. Exit status: 0 if all is well, 1 if
//! something failed, 2 if the command line is wrong (it names an input, a disk or a scenario that cannot be, too) or
//! something is missing that could not be installed.
//!
//! | module                              | what                                                    |
//! |-------------------------------------|---------------------------------------------------------|
//! | `setup`, `tools`, `kernel`, `build_std` | what is installed and built before anything runs        |
//! | `pack`, `generate`, `work`          | input, archive, disks, the work directory and its locks |
//! | `vm`, `events`, `accel`             | one run of QEMU                                         |
//! | `server`                            | a block server between QEMU and the disk                |
//! | `demo`, `flip`, `host`, `report`    | the demonstration                                       |
//! | `scenarios`, `refusals`, `platform`, `smp` | what else the kernel has to show                        |
//! | `drives`                            | the same: about the store's disk                        |
//! | `odd`                               | odd input, and very much of it                          |
//! | `shell`, `terminal`, `talk`         | a person at the kernel's serial port, and one made up   |
//! | `kills`                             | machines that are killed during the import              |
//! | `server_errors`                     | disks that fail on the way                              |
//! | `examples`, `first_kernel`          | the examples, the adapters, the guide's own kernel      |
//! | `packages`                          | packages, dependencies, the README's transcript         |
//! | `speed`, `instructions`             | what the store costs in the kernel                      |
//! | `verify`                            | all checks                                              |
//! | `progress`, `table`, `size`         | what the user sees                                      |

#![forbid(unsafe_code)]

// Sources of the kernel are tested here.
#[cfg(test)]
extern crate alloc;

mod accel;
mod build_std;
mod demo;
mod drives;
mod events;
mod examples;
#[path = "../../kernel-demo/src/fate.rs"]
mod fate;
mod first_kernel;
mod flip;
mod generate;
mod host;
mod instructions;
#[cfg(all(test, unix))]
mod judged;
mod kernel;
#[cfg(test)]
mod kernel_parts;
#[cfg(test)]
mod kernel_shell;
mod kills;
#[path = "../../bench/src/measure.rs"]
#[allow(dead_code, reason = "the benchmarks of the host use the other half of this file")]
mod measure;
mod odd;
#[path = "../../kernel-demo/src/outcome.rs"]
#[allow(dead_code, reason = "the kernel uses the other half of this file")]
mod outcome;
mod pack;
mod packages;
mod panics;
mod platform;
mod progress;
mod refusals;
mod report;
#[path = "../../bench/src/table.rs"]
mod rows;
mod scenarios;
mod server;
mod server_errors;
mod setup;
mod shell;
mod size;
mod smp;
mod speed;
mod table;
mod talk;
mod terminal;
#[cfg(test)]
mod testing;
mod tools;
mod verify;
mod vm;
mod work;

use clap::{Args, Parser};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// The demonstration and the checks of Arenite.
#[derive(Parser, Debug)]
#[command(name = "arenite-runner", bin_name = "cargo")]
enum Cli {
    Demo(Box<DemoArgs>),
    Verify(VerifyArgs),
}

/// Keeps real files in a store on a virtio disk, across machines, and checks every byte.
///
/// Boots the demo kernel in QEMU twice: the first machine imports the files into the store, the second one finds them
/// again and compares them with the archive, deletes every third, rewrites every fifth and compares again. Then the
/// host checks the same disk. Installs QEMU and the Rust target if they are missing and it may.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cargo demo                                      the files that git tracks here
  cargo demo --input ~/music --size 4G --keep     other files, a larger disk, keep the images
  cargo demo --disk /tmp/store.img --verbose      a disk of your own; show the kernel's output
  cargo demo --flip superblock:1                  damage one copy of the superblock between the boots
  cargo demo --kill-after 100 --kill-after 150    kill two machines; the third finds what was committed, and goes on
  cargo demo --server --keep                      record every write and flush, keep the trace
  cargo demo --shell                              talk to the kernel: put, ls, crash, and again
  cargo demo --bench --json bench.json            how fast it is, as ratios
  cargo demo --scenario all                       everything that can go wrong")]
pub struct DemoArgs {
    /// The directory whose files are imported [default: the files that git tracks here]
    #[arg(long, value_name = "DIR")]
    pub input: Option<PathBuf>,
    /// The size of a new disk
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = disk_size)]
    pub size: u64,
    /// Use this image, and leave it; created if it is not there
    #[arg(long, value_name = "PATH")]
    pub disk: Option<PathBuf>,
    /// The guest's memory
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = memory_size)]
    pub memory: u64,
    /// The size of the disk's sectors, 512 or 4096
    #[arg(long, value_name = "BYTES", default_value = "512", value_parser = sector_size)]
    pub sector: u32,
    /// Format the disk even if it holds something else
    #[arg(long)]
    pub force_format: bool,
    /// Invert one byte between the boots: `data[:BYTE]`, `superblock[:COPY]` or `header[:COPY]`; may be repeated
    #[arg(long, value_name = "WHERE")]
    pub flip: Vec<flip::Flip>,
    /// Kill QEMU so many milliseconds into the import; the next machine goes on. May be repeated
    #[arg(long, value_name = "MS")]
    pub kill_after: Vec<u64>,
    /// Put a block server between the machines and the disk, which records every write and flush, and misbehaves as
    /// the SCRIPT says, if there is one (its language: `arenite serve --help`)
    #[arg(long, value_name = "SCRIPT", num_args = 0..=1, conflicts_with = "flip")]
    pub server: Option<Option<PathBuf>>,
    /// Type commands to the kernel: put files, crash the machine, see what is there afterwards. Uses the disk
    /// .arenite/shell.img, unless --disk names another
    #[arg(long, conflicts_with_all = ["input", "flip", "kill_after", "scenario", "server"])]
    pub shell: bool,
    /// Run a scenario on input of its own instead: a name, `all` or `long`
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with_all = [
            "input", "size", "disk", "memory", "sector", "flip", "force_format", "kill_after", "server",
        ]
    )]
    pub scenario: Option<String>,
    /// Measure the store beside the raw driver, on a disk of its own
    #[arg(
        long,
        conflicts_with_all = [
            "input", "size", "disk", "memory", "sector", "flip", "force_format", "kill_after", "server", "shell",
            "scenario",
        ]
    )]
    pub bench: bool,
    /// Bytes of a round
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = memory_size, requires = "bench")]
    pub amount: u64,
    /// Rounds that count
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=1000),
        requires = "bench"
    )]
    pub rounds: u32,
    /// Write the table as JSON to this file too
    #[arg(long, value_name = "FILE", requires = "bench")]
    pub json: Option<PathBuf>,
    /// Compare the instructions that the store's calls take with those in kernel-demo/instructions.txt, or write them
    /// there
    #[arg(
        long,
        value_name = "write",
        num_args = 0..=1,
        require_equals = true,
        conflicts_with_all = [
            "input", "size", "disk", "memory", "sector", "flip", "force_format", "kill_after", "server", "shell",
            "scenario", "bench",
        ]
    )]
    pub instructions: Option<Option<instructions::Wish>>,
    /// Commit after so many bytes of an import
    #[arg(long, value_name = "BYTES", hide = true)]
    pub commit_every: Option<u64>,
    /// Boot once, on a disk with part of an import, and have the kernel verify what is there
    #[arg(long, hide = true, requires = "disk")]
    pub verify_only: bool,
    /// Print the names of the scenarios and stop
    #[arg(long)]
    pub list_scenarios: bool,
    #[command(flatten)]
    boot: BootArgs,
}

/// How machines are run.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct BootArgs {
    /// Leave the images in .arenite
    #[arg(long)]
    pub keep: bool,
    /// Who executes the guest's code
    #[arg(long, value_enum, default_value = "auto")]
    pub accel: accel::Wish,
    /// The machine: q35 has its disks on PCI, microvm has neither PCI nor firmware tables
    #[arg(long, value_enum, default_value = "q35")]
    pub machine: vm::Board,
    /// The driver of the store's disk
    #[arg(long, value_enum, default_value = "queue")]
    pub driver: vm::Driver,
    /// The number of the guest's processors, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub cpus: u32,
    /// Seconds of silence after which the kernel counts as hung
    #[arg(long, value_name = "SECONDS", default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub timeout: u64,
    /// Build the kernel as it is done where rustup lacks the target: by a compiler of the system that has the sources
    /// of Rust's library (Debian's is installed if need be). ARENITE_BUILD_STD=1 does the same
    #[arg(long)]
    pub build_std: bool,
    /// Show the kernel's output
    #[arg(long, short)]
    pub verbose: bool,
}

impl Default for BootArgs {
    /// What the command line says when it says nothing.
    fn default() -> Self {
        Self {
            keep: false,
            accel: accel::Wish::Auto,
            machine: vm::Board::Q35,
            driver: vm::Driver::Queue,
            cpus: 1,
            timeout: 90,
            build_std: false,
            verbose: false,
        }
    }
}

/// Checks everything: format, lints, docs, tests, bare-metal builds, the kernel's image, and the boot tests.
///
/// Installs what is missing (Rust targets through rustup, QEMU through the system's package manager) where it may,
/// and otherwise says what to type. Goes on after a failing step, and ends with a table of all steps.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cargo verify                      everything
  cargo verify --list               the names of the steps
  cargo verify --only fmt,clippy    two of them")]
pub struct VerifyArgs {
    /// Run these steps only
    #[arg(long, value_name = "STEPS", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Print the names of the steps and stop
    #[arg(long)]
    pub list: bool,
}

fn disk_size(text: &str) -> Result<u64, String> {
    match size::parse(text)? {
        bytes if bytes < 1 << 20 => Err("a disk has at least 1M".into()),
        bytes if bytes % 512 != 0 => Err("a disk is a multiple of 512 bytes".into()),
        bytes => Ok(bytes),
    }
}

fn memory_size(text: &str) -> Result<u64, String> {
    match size::parse(text)? {
        bytes if bytes < 16 << 20 => Err("the guest needs at least 16M".into()),
        bytes if bytes % (1 << 20) != 0 => Err("memory is a multiple of 1M".into()),
        bytes => Ok(bytes),
    }
}

fn sector_size(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" => Ok(4096),
        _ => Err("a sector has 512 or 4096 bytes".into()),
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse_from(without_separator(std::env::args_os())) {
        Cli::Demo(args) if args.list_scenarios => {
            scenarios::list();
            Ok(true)
        }
        Cli::Demo(args) => demo::run(&args),
        Cli::Verify(args) => verify::run(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            let is_2 = error.is::<tools::Missing>() || error.is::<tools::Usage>();
            ExitCode::from(if is_2 { 2 } else { 1 })
        }
    }
}

/// Drops a `--` that directly follows the subcommand, so that `cargo demo -- --keep` is `cargo demo --keep`.
fn without_separator(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    args.enumerate().filter(|(at, arg)| !(*at == 2 && arg == "--")).map(|(_, arg)| arg).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Cli, clap::Error> {
        let words = words.split_whitespace().map(OsString::from);
        Cli::try_parse_from(without_separator(std::iter::once("arenite-runner".into()).chain(words)))
    }

    fn demo(words: &str) -> DemoArgs {
        match parse(words) {
            Ok(Cli::Demo(args)) => *args,
            other => panic!("{words}: {other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn options_with_and_without_a_separator() {
        for words in ["demo --size 64M --keep --flip header:3", "demo -- --size 64M --keep --flip header:3"] {
            let args = demo(words);
            assert_eq!(
                (args.size, args.boot.keep, args.flip),
                (64 << 20, true, vec![flip::Flip::Header(3)]),
                "{words}"
            );
        }
        for words in ["verify --only fmt,doc", "verify -- --only fmt --only doc"] {
            assert!(matches!(parse(words), Ok(Cli::Verify(args)) if args.only == ["fmt", "doc"]), "{words}");
        }
    }

    #[test]
    fn a_bare_separator_is_nothing() {
        let args = demo("demo --");
        assert_eq!((args.size, args.memory, args.boot.accel), (256 << 20, 256 << 20, accel::Wish::Auto));
        assert!(matches!(parse("verify --"), Ok(Cli::Verify(_))));
        assert_eq!(args.boot, BootArgs::default());
    }

    #[test]
    fn measuring() {
        let args = demo("demo -- --bench --json x.json --rounds 3");
        assert_eq!((args.bench, args.amount, args.rounds, args.instructions), (true, 64 << 20, 3, None));
        assert_eq!(demo("demo --instructions").instructions, Some(None));
        assert_eq!(demo("demo --instructions=write").instructions, Some(Some(instructions::Wish::Write)));
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [
            "",
            "dance",
            "demo --size 100",
            "demo --size 1000001",
            "demo --memory 1M",
            "demo --accel hvf",
            "demo --flip moon",
            "demo --cpus 0",
            "demo --cpus 9",
            "demo --sector 1024",
            "demo --scenario full --size 1G",
            "demo --server --flip data",
            "demo --bench --size 1G",
            "demo --json x",
            "demo --amount 32M",
            "demo --instructions --bench",
            "demo --instructions=read",
            "demo keep",
            "demo -- -- --keep",
            "verify --keep",
        ] {
            assert!(parse(words).is_err(), "{words}");
        }
    }
}
