//! Blocks as lines for people.

use super::block::{bytes, Body, ChildBody, Decoded, HeaderBody, MessageBody, Named, SuperBody, What};
use super::{ArenaDump, LogEnd, VolumeDump};
use std::fmt::Write;

/// Bytes of keys and values that are shown.
const SHOWN: usize = 48;

/// Lines that are put together; writing to a string does not fail.
struct Out(String);

impl Out {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = self.0.write_fmt(line);
        self.0.push('\n');
    }
}

pub(super) fn volume(volume: &VolumeDump) -> String {
    let mut out = Out(String::new());
    for (copy, name) in volume.superblocks.iter().zip(["first superblock", "second superblock"]) {
        whole(&mut out, copy, name, None);
    }
    for (index, arena) in volume.arenas.iter().enumerate() {
        self::arena(&mut out, index, arena);
    }
    out.0
}

pub(super) fn block(block: &Decoded) -> String {
    let mut out = Out(String::new());
    whole(&mut out, block, block.kind, None);
    out.0
}

fn arena(out: &mut Out, index: usize, arena: &ArenaDump) {
    out.line(format_args!("\narena {index} at {:#x}", arena.addr));
    for (number, header) in (1..).zip(&arena.headers) {
        let counts = if arena.header == Some(number) { ", the one that the superblock names" } else { "" };
        let name = format!("header, copy {number}{counts}");
        whole(out, header, &name, None);
    }
    for block in &arena.log {
        whole(out, block, "log", arena.log_end);
    }
    if let Some(damage) = &arena.damage {
        out.line(format_args!("damage: {damage}"));
    }
}

fn whole(out: &mut Out, block: &Decoded, name: &str, end: Option<LogEnd>) {
    out.line(format_args!("{:#x}: {name}", block.addr));
    if let Some(damage) = &block.damage {
        out.line(format_args!("  damage: {damage}"));
    }
    if !block.hash.is_empty() {
        out.line(format_args!("  {:<14} {}", "hash of block", block.hash));
    }
    match &block.body {
        Body::Superblock(body) => superblock(out, body),
        Body::Header(body) => header(out, body),
        Body::Log { next, entries } => {
            out.line(format_args!("  {:<14} {}", "next", addr(*next)));
            for entry in entries {
                self::entry(out, entry.at, &entry.what);
                if end == Some(LogEnd { addr: block.addr, at: entry.at + 8 }) {
                    out.line(format_args!("  -- the log ends here; what follows, if anything, never happened --"));
                }
            }
        }
        Body::DeadList { next, dead } => {
            out.line(format_args!("  {:<14} {}", "next", addr(*next)));
            for addr in dead {
                out.line(format_args!("  dead  {addr:#x}"));
            }
        }
        Body::Pivot { fill, children, messages } => pivot(out, *fill, children, messages),
        Body::Leaf { fill, items } => {
            out.line(format_args!("  {:<14} {fill} bytes, {} items", "fill", items.len()));
            for item in items {
                out.line(format_args!("  {} = {}", shown(&item.key), shown(&item.value)));
            }
        }
        Body::Data { bytes } => hexdump(out, bytes),
    }
}

fn addr(addr: Option<u64>) -> String {
    addr.map_or_else(|| "none".to_owned(), |addr| format!("{addr:#x}"))
}

fn named(named: &Named) -> String {
    named.addr.map_or_else(|| "none".to_owned(), |addr| format!("{addr:#x}, hash {}", named.hash))
}

fn superblock(out: &mut Out, body: &SuperBody) {
    let sealed = if body.sealed { "Arenite wrote this commit" } else { "somebody else wrote this commit" };
    let rows = [
        ("block size", body.block_size.to_string()),
        ("qgen", body.qgen.to_string()),
        ("root", format!("{}, height {}", named(&body.root), body.height)),
        ("dead list", format!("head {}; tail {}", named(&body.dead_list_head), named(&body.dead_list_tail))),
        ("flag", format!("{:#x}", body.flag)),
        ("next qid", body.next_qid.to_string()),
        ("next gen", body.next_gen.to_string()),
        ("extension", sealed.to_owned()),
    ];
    for (name, value) in rows {
        out.line(format_args!("  {name:<14} {value}"));
    }
    for (index, arena) in body.arenas.iter().enumerate() {
        out.line(format_args!("  {:<14} {}", format!("arena {index}"), named(arena)));
    }
}

fn header(out: &mut Out, body: &HeaderBody) {
    out.line(format_args!("  {:<14} {} bytes, {} in use (advisory)", "size", body.size, body.used));
    out.line(format_args!("  {:<14} {:#x}", "log head", body.log_head));
    match &body.seal {
        Some(seal) => out.line(format_args!(
            "  {:<14} generation {}, {} blocks, last {:#x}, digest {}",
            "seal", seal.gen, seal.blocks, seal.tail, seal.digest
        )),
        None => out.line(format_args!("  {:<14} none", "seal")),
    }
}

fn entry(out: &mut Out, at: usize, what: &What) {
    match what {
        What::Alloc { addr, len } => out.line(format_args!("  {at:>5}  alloc    {addr:#x} + {len:#x}")),
        What::Free { addr, len } => out.line(format_args!("  {at:>5}  free     {addr:#x} + {len:#x}")),
        What::Barrier { gen } => out.line(format_args!("  {at:>5}  barrier  generation {gen}")),
        What::Bad { what } => out.line(format_args!("  {at:>5}  damage: {what}")),
    }
}

fn pivot(out: &mut Out, fill: usize, children: &[ChildBody], messages: &[MessageBody]) {
    let counts = (children.len(), messages.len());
    out.line(format_args!("  {:<14} {fill} bytes, {} children, {} messages", "fill", counts.0, counts.1));
    for child in children {
        let ChildBody { key, addr, hash, gen, fill } = child;
        out.line(format_args!("  {} -> {addr:#x}, hash {hash}, generation {gen}, fill {fill}", shown(key)));
    }
    for MessageBody { op, key, value } in messages {
        out.line(format_args!("  message {op}: {} = {}", shown(key), shown(value)));
    }
}

/// Bytes as text where they are text, as hexadecimal digits otherwise, cut off where they are many.
fn shown(hex: &str) -> String {
    let bytes = bytes(hex);
    let cut = &bytes[..bytes.len().min(SHOWN)];
    let printable = !cut.is_empty() && cut.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    let mut text = match printable {
        true => format!("\"{}\"", cut.escape_ascii()),
        false => format!("[{}]", &hex[..2 * cut.len()]),
    };
    if bytes.len() > cut.len() {
        let _ = write!(text, "... ({} bytes)", bytes.len());
    }
    text
}

/// Offset, bytes and letters, sixteen to a line. Lines like the one before are left out, with a star in their place.
fn hexdump(out: &mut Out, hex: &str) {
    let all = bytes(hex);
    let (mut before, mut starred) = (None, false);
    for (at, line) in (0..).step_by(16).zip(all.chunks(16)) {
        if before == Some(line) {
            if !starred {
                out.line(format_args!("  *"));
            }
            starred = true;
            continue;
        }
        (before, starred) = (Some(line), false);
        let digits: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let letter = |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' };
        let letters: String = line.iter().map(letter).collect();
        out.line(format_args!("  {at:06x}  {:<47}  |{letters}|", digits.join(" ")));
    }
    if starred {
        out.line(format_args!("  {:06x}", all.len()));
    }
}
