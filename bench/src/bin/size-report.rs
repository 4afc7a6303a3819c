//! `cargo size-report`: what the store takes of an image and of memory.
//!
//! Builds `bench/footprint`, a minimal embedding (mount, read, allocate, write, free, commit), for a microcontroller
//! with optimisation for size and link-time optimisation, and adds up what is in its image; then prints the memory
//! that volumes of several sizes need. Exit status 1 if the image is larger than its goal, 2 if it could not be
//! built.
#![forbid(unsafe_code)]

use anyhow::{bail, Context, Result};
use arenite_core::memory::{map_words, pages_for};
use arenite_core::Memory;
use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

const TARGET: &str = "thumbv7em-none-eabihf";
/// Bytes of code and constants that an embedding should not exceed.
const GOAL_LEN_BYTES: u64 = 48 << 10;
/// Functions that are listed.
const SHOWN: usize = 24;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("footprint").join("Cargo.toml");
    let target_dir = Path::new("target").join("footprint");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .arg("--manifest-path")
        .arg(&manifest)
        .env_remove("CARGO_TARGET_DIR")
        .env("RUSTFLAGS", "-C link-arg=--gc-sections -C link-arg=--nmagic")
        .status()?;
    if !status.success() {
        bail!("the embedding could not be built (rustup target add {TARGET}?)");
    }
    let image = target_dir.join(TARGET).join("release").join("arenite-footprint");
    let bytes = std::fs::read(&image).with_context(|| image.display().to_string())?;
    let len_bytes = print_image(&bytes)?;
    print_memory();
    Ok(len_bytes <= GOAL_LEN_BYTES)
}

/// Code and constants by section, and the largest functions with all their instances together.
fn print_image(bytes: &[u8]) -> Result<u64> {
    let file = object::File::parse(bytes)?;
    let counted = |kind| matches!(kind, SectionKind::Text | SectionKind::ReadOnlyData | SectionKind::ReadOnlyString);
    let mut sum = 0;
    println!("a minimal embedding for {TARGET}, opt-level s, LTO:");
    for section in file.sections().filter(|section| counted(section.kind()) && section.size() > 0) {
        println!("  {:<24} {:>7} bytes", section.name()?, section.size());
        sum += section.size();
    }
    println!("  {:<24} {sum:>7} bytes, goal {GOAL_LEN_BYTES}", "code and constants");
    let mut functions: BTreeMap<String, u64> = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
        let name = format!("{:#}", rustc_demangle::demangle(symbol.name()?));
        *functions.entry(name).or_default() += symbol.size();
    }
    let mut functions: Vec<_> = functions.into_iter().collect();
    functions.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    for (name, size) in functions.iter().take(SHOWN) {
        println!("    {size:>6}  {name}");
    }
    let rest: u64 = functions.iter().skip(SHOWN).map(|(_, size)| size).sum();
    println!("    {rest:>6}  {} more", functions.len().saturating_sub(SHOWN));
    Ok(sum)
}

/// The memory value for volumes of several sizes; the size is that of the type.
fn print_memory() {
    /// 64 MiB in blocks of 4 KiB, 16 buffers.
    type Small = Memory<{ pages_for(16, 4096) }, 16, { map_words(16 << 10, 2) }, 2, 32>;
    /// 4 GiB in blocks of 16 KiB, 64 buffers.
    type Medium = Memory<{ pages_for(64, 16384) }, 64, { map_words(256 << 10, 8) }, 8, 128>;
    /// 1 TiB in blocks of 16 KiB, 1024 buffers.
    type Large = Memory<{ pages_for(1024, 16384) }, 1024, { map_words(64 << 20, 64) }, 64, 1024>;
    println!("memory of a store:");
    for (volume, block, buffers, size) in [
        ("64 MiB", "4 KiB", 16, Small::SIZE_BYTES),
        ("4 GiB", "16 KiB", 64, Medium::SIZE_BYTES),
        ("1 TiB", "16 KiB", 1024, Large::SIZE_BYTES),
    ] {
        println!("  {volume:>7} in blocks of {block:>6}, {buffers:>4} buffers: {size:>9} bytes");
    }
}
