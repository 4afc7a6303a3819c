//! The command line, as the argument parser knows it. Help, manual pages and completions are made from this.

use crate::dump;
use crate::help::*;
use crate::place::Place;
use crate::size;
use arenite_core::format::BlockSize;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Parser)]
#[command(name = "arenite", version, about = "Makes, checks and looks at Arenite and gefs 9.00 volumes")]
#[command(after_help = COMMANDS_HELP)]
pub(crate) struct Arguments {
    /// No progress bars, and nothing about success; errors are told nevertheless.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show what a volume is made of and how much of it is free. Never writes to it.
    #[command(after_help = INFO_HELP)]
    Info {
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
        /// Look at an image that another program has locked, too.
        #[arg(long)]
        no_lock: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Make a new volume.
    #[command(after_help = FORMAT_HELP)]
    Format {
        /// Length of the file, which is made if it does not exist.
        #[arg(long, value_name = "S", value_parser = size::parse, conflicts_with = "partition")]
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
        #[command(flatten)]
        place: Place,
    },
    /// Find out whether a volume is damaged. Never writes to it.
    #[command(after_help = CHECK_HELP)]
    Check {
        /// Print one JSON object instead of lines.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Use a volume hard, and leave it as it was.
    #[command(after_help = EXERCISE_HELP)]
    Exercise {
        /// Number of operations, of all threads together.
        #[arg(long, value_name = "N", value_parser = size::count)]
        ops: u64,
        /// Where the pseudo-random numbers begin. One thread does the same for the same seed.
        #[arg(long, value_name = "S", value_parser = size::count)]
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
        #[command(flatten)]
        place: Place,
    },
    /// Show what the blocks of a volume hold, damaged or not. Never writes to it.
    #[command(after_help = DUMP_HELP)]
    Dump {
        /// Print JSON instead of text.
        #[arg(long)]
        json: bool,
        /// Read the block as this, whatever it says it is.
        #[arg(long = "as", value_name = "TYPE", requires = "addr")]
        kind: Option<dump::Kind>,
        /// Bytes of a block, for an image without a good superblock.
        #[arg(long, value_name = "B", value_parser = block_size)]
        block_size: Option<BlockSize>,
        /// Look at an image that another program has locked, too.
        #[arg(long)]
        no_lock: bool,
        #[command(flatten)]
        place: Place,
        /// Byte address of a block, decimal or with 0x in front; without it, all that leads to the tree is shown.
        #[arg(value_parser = size::parse_addr)]
        addr: Option<u64>,
    },
    /// Show a volume as a picture: what is free, used, log, header, reserved. Never writes to it.
    #[command(after_help = MAP_HELP)]
    Map {
        /// Write a picture for browsers (SVG) to this file instead; `-` is standard output.
        #[arg(short, long, value_name = "FILE.svg")]
        output: Option<PathBuf>,
        /// Look at an image that another program has locked, too.
        #[arg(long)]
        no_lock: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Show what one commit wrote, in order, with its flushes: what makes it safe against crashes.
    #[command(after_help = TIMELINE_HELP)]
    Timeline {
        /// Write a picture for browsers (SVG) to this file instead; `-` is standard output.
        #[arg(short, long, value_name = "FILE.svg")]
        output: Option<PathBuf>,
        /// Which commit of the trace, from 1. Without it, the last one that was acknowledged.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        commit: Option<u32>,
        /// Record a small commit on a disk in memory, and show that.
        #[arg(long, conflicts_with = "trace")]
        example: bool,
        /// What `arenite serve --record` has written.
        #[arg(required_unless_present = "example")]
        trace: Option<PathBuf>,
    },
    /// Be the disk of a program that speaks NBD, such as QEMU.
    #[command(after_help = crate::help::serve())]
    Serve {
        /// Where to listen. The socket is made, and removed at the end.
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
        /// Record every write and flush in this file. A trace that is there is replaced.
        #[arg(long, value_name = "TRACE")]
        record: Option<PathBuf>,
        /// Misbehave as this file says; see below.
        #[arg(long, value_name = "FILE")]
        script: Option<PathBuf>,
        /// Refuse writes.
        #[arg(long)]
        read_only: bool,
        /// End when the first client has gone.
        #[arg(long)]
        once: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Make a volume larger.
    #[command(after_help = GROW_HELP)]
    Grow {
        /// New length of the file.
        #[arg(long, value_name = "S", value_parser = size::parse, conflicts_with = "partition")]
        size: Option<u64>,
        #[command(flatten)]
        place: Place,
    },
    /// Measure the store against the device under a folder: runs `arenite-bench`.
    #[command(after_help = BENCH_HELP, disable_help_flag = true)]
    Bench {
        /// What `arenite-bench` is given; `--help` shows what it takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Try crash states, faults and damage by the million: runs `arenite-crash`.
    #[command(after_help = CRASH_HELP, disable_help_flag = true)]
    Crash {
        /// What `arenite-crash` is given; `--help` shows what it takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Write manual pages.
    #[command(after_help = MAN_HELP)]
    Man {
        /// Folder for them; it is made if it is not there.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Print a script that lets a shell complete arguments.
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

fn block_size(text: &str) -> Result<BlockSize, String> {
    let bytes = size::parse(text)?;
    let size = u32::try_from(bytes).ok().and_then(BlockSize::new);
    size.ok_or_else(|| "blocks have 2048, 4096, 8192, 16384, 32768 or 65536 bytes".to_owned())
}
