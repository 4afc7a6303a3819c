//! What is known of a volume as text: a table for people, JSON for programs.

use crate::size::binary;
use crate::volume::Volume;
use arenite_core::format::NONE;
use arenite_core::{ArenaInfo, CopyState};
use serde::Serialize;
use std::fmt::Write;

const FORMAT: &str = "gefs9.00";

/// The keys are an interface: they stay as they are, and in this order.
#[derive(Serialize)]
struct VolumeJson {
    format: &'static str,
    block_size: u64,
    qgen: u64,
    root: RootJson,
    superblocks: [String; 2],
    arenas: Vec<ArenaJson>,
    free: u64,
}

#[derive(Serialize)]
struct RootJson {
    addr: Option<u64>,
    hash: String,
    height: u32,
}

#[derive(Serialize)]
struct ArenaJson {
    addr: u64,
    size: u64,
    free: u64,
    log_blocks: u32,
    header: &'static str,
}

/// The copy of the header that the commit names; the first, if both are that.
fn header(arena: &ArenaInfo) -> &'static str {
    if arena.copies_good[0] {
        "primary"
    } else {
        "backup"
    }
}

/// One JSON object, indented, with a line end.
pub(crate) fn pretty(value: &impl Serialize) -> String {
    // Serialising fails for maps whose keys are no strings, and for writers that fail; there is neither.
    serde_json::to_string_pretty(value).map(|text| text + "\n").unwrap_or_default()
}

/// The volume as JSON.
pub(crate) fn json(volume: &Volume) -> String {
    let root = volume.roots.root;
    let arenas = volume.arenas.iter().map(|arena| ArenaJson {
        addr: arena.addr,
        size: arena.size_bytes,
        free: arena.free_bytes,
        log_blocks: arena.log_blocks,
        header: header(arena),
    });
    let view = VolumeJson {
        format: FORMAT,
        block_size: volume.block_size,
        qgen: volume.qgen,
        root: RootJson {
            addr: (root.addr != NONE).then_some(root.addr),
            hash: format!("{:016x}", root.hash),
            height: volume.roots.height,
        },
        superblocks: volume.superblocks.map(|copy| copy.to_string()),
        arenas: arenas.collect(),
        free: volume.free_bytes(),
    };
    pretty(&view)
}

fn both(bytes: u64) -> String {
    format!("{bytes} ({})", binary(bytes))
}

/// Lines for people.
pub(crate) fn table(volume: &Volume, shown: String) -> String {
    let mut out = String::new();
    let root = volume.roots.root;
    let root = match root.addr {
        NONE => "none".to_owned(),
        addr => format!("{addr:#x}, hash {:016x}, height {}", root.hash, volume.roots.height),
    };
    let [first, second] = volume.superblocks;
    let lines = [
        ("image", shown),
        ("format", FORMAT.to_owned()),
        ("size", both(volume.len_bytes)),
        ("block size", both(volume.block_size)),
        ("qgen", volume.qgen.to_string()),
        ("root", root),
        ("superblocks", format!("first {first}, second {second}")),
        ("logs", if volume.sealed { "sealed by Arenite" } else { "not sealed" }.to_owned()),
    ];
    for (name, value) in lines {
        row(&mut out, format_args!("{name:<12} {value}"));
    }
    out.push('\n');
    arena_rows(&mut out, volume);
    notes(&mut out, volume);
    out
}

fn row(out: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = out.write_fmt(line);
    out.push('\n');
}

fn arena_rows(out: &mut String, volume: &Volume) {
    let line = |out: &mut String, cells: [&str; 6]| {
        let [index, addr, size, free, log_blocks, header] = cells;
        row(out, format_args!("{index:>5}  {addr:>14}  {size:>28}  {free:>28}  {log_blocks:>10}  {header:<7}"));
    };
    line(out, ["arena", "address", "size", "free", "log blocks", "header"]);
    for (index, arena) in volume.arenas.iter().enumerate() {
        line(
            out,
            [
                &index.to_string(),
                &format!("{:#x}", arena.addr),
                &both(arena.size_bytes),
                &both(arena.free_bytes),
                &arena.log_blocks.to_string(),
                header(arena),
            ],
        );
    }
    let log_blocks: u64 = volume.arenas.iter().map(|arena| u64::from(arena.log_blocks)).sum();
    line(out, ["all", "", &both(volume.arena_bytes()), &both(volume.free_bytes()), &log_blocks.to_string(), ""]);
}

/// What is not as it should be, and yet no error.
fn notes(out: &mut String, volume: &Volume) {
    for (copy, name) in volume.superblocks.iter().zip(["first", "second"]) {
        if *copy != CopyState::Good {
            row(out, format_args!("note: {name} superblock: {copy}"));
        }
    }
    for (index, arena) in volume.arenas.iter().enumerate() {
        for (good, name) in arena.copies_good.iter().zip(["first", "second"]) {
            if !good {
                row(out, format_args!("note: arena {index}: the {name} copy of the header is not of this commit"));
            }
        }
    }
}
