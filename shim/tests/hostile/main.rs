//! Hostile images: volumes in which one thing was changed for the worse, and every checksum that an attacker can make
//! right was made right again. Mount refuses each of them with the error that names what is wrong and where, the same
//! whether it is to write or not, and notes the same error when it was told to go on for reading only. It writes
//! nothing, reads no more than a sound volume takes and one block, and takes two steps for each read. Images with
//! damage that a volume must live with are accepted, the mount says so, and they are whole after one commit.
//!
//! Each row of the tables in `rows_*.rs` is one such change, tried on one or more of the volumes in `images.rs`.

mod accepted;
mod images;
mod mounting;
mod reading;
mod rows_arena;
mod rows_chain;
mod rows_entry;
mod rows_pair;
mod rows_super;
mod seal;

use arenite_core::format::FormatError;
use arenite_core::{Damage, Error};
use images::{Base, Image};
use mounting::{most_reads, most_steps, mount, mount_damaged};
use std::collections::BTreeSet;

/// A change, and the error that it must lead to.
struct Row {
    name: &'static str,
    bases: &'static [Base],
    /// Changes the image, seals it, and returns the error that mount must give.
    change: fn(&mut Image) -> Error,
}

const fn row(name: &'static str, bases: &'static [Base], change: fn(&mut Image) -> Error) -> Row {
    Row { name, bases, change }
}

/// Damage at a byte address.
const fn corrupt(addr: u64, damage: Damage) -> Error {
    Error::Corrupt { addr, damage }
}

/// A block at a byte address that does not decode.
const fn malformed(addr: u64, error: FormatError) -> Error {
    Error::Corrupt { addr, damage: Damage::Format(error) }
}

/// A field of a block with a value that it must not have.
const fn field(name: &'static str, offset: usize, found: u64) -> FormatError {
    FormatError::Field { name, offset, found }
}

fn all_rows() -> Vec<Row> {
    [rows_super::rows(), rows_arena::rows(), rows_entry::rows(), rows_chain::rows(), rows_pair::rows()]
        .into_iter()
        .flatten()
        .collect()
}

/// How an image is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mode {
    read_only: bool,
    /// Although it is damaged. That counts only together with the other.
    damaged: bool,
}

const MODES: [Mode; 4] = [
    Mode { read_only: false, damaged: false },
    Mode { read_only: true, damaged: false },
    Mode { read_only: false, damaged: true },
    Mode { read_only: true, damaged: true },
];

/// What is wrong with the way in which mount treats one image, if anything is.
fn check(row: &Row, base: Base, mode: Mode) -> Result<Error, String> {
    let mut image = base.image();
    let expected = (row.change)(&mut image);
    let outcome =
        if mode.damaged { mount_damaged(&image.bytes, mode.read_only) } else { mount(&image.bytes, mode.read_only) };
    // What the superblock points to is looked at when all logs are read, and the cache of the device is flushed.
    let at_end = matches!(expected, Error::Corrupt { damage: Damage::RootFree, .. });
    let no_volume = matches!(expected, Error::NotAVolume { .. });
    let tolerated = mode.read_only && mode.damaged && matches!(expected, Error::Corrupt { .. });
    let damaged_arenas = match outcome.result {
        Ok(shown) if tolerated && shown.report.damage == Some(expected) => u64::from(shown.report.damaged_arenas),
        Err(error) if !tolerated && error == expected => 0,
        other => return Err(format!("{other:?}\n  instead of {expected:?}")),
    };
    let flushes = u64::from(at_end && !mode.read_only);
    if outcome.writes != 0 || outcome.flushes > flushes || !outcome.unchanged {
        return Err(format!("{} writes, {} flushes", outcome.writes, outcome.flushes));
    }
    let reads = most_reads(&image);
    // A damaged arena can take a step without a read.
    if outcome.reads > reads || outcome.steps > most_steps(outcome.reads) + damaged_arenas {
        return Err(format!("{} reads of {reads} at most, {} steps", outcome.reads, outcome.steps));
    }
    // Who gets "no volume" wants to format, who has too little memory wants to try with more.
    if outcome.memory_back != (no_volume || matches!(expected, Error::MemoryTooSmall { .. })) {
        return Err(format!("the memory came back: {}", outcome.memory_back));
    }
    Ok(expected)
}

#[test]
fn base_volumes_are_sound() {
    for base in Base::ALL {
        let image = base.image();
        for read_only in [false, true] {
            let outcome = mount(&image.bytes, read_only);
            let shown = outcome.result.unwrap_or_else(|error| panic!("{base:?}: {error}"));
            let log_blocks: usize = image.arenas.iter().map(|arena| arena.log.len()).sum();
            assert_eq!(shown.report.log_blocks, log_blocks as u64, "{base:?}");
            assert_eq!(shown.report.sealed, image.sealed, "{base:?}");
            assert_eq!(shown.report.bad_header_copies, 0, "{base:?}");
            assert_eq!(shown.generation, image.qgen, "{base:?}");
            assert!(outcome.reads < most_reads(&image) && outcome.steps <= most_steps(outcome.reads), "{base:?}");
            assert_eq!((outcome.writes, outcome.flushes), (0, u64::from(!read_only)), "{base:?}");
            assert!(outcome.unchanged, "{base:?}");
        }
        assert!(base.image().seal_again() == image.bytes, "{base:?}: sealing changes what was sealed");
    }
    assert!(Base::Long2k.image().arenas[0].log.len() >= 3);
}

#[test]
fn hostile_images_are_refused() {
    let mut failures = Vec::new();
    let (mut images, mut errors) = (0, BTreeSet::new());
    let rows = all_rows();
    for row in &rows {
        for base in row.bases {
            images += 1;
            for mode in MODES {
                match check(row, *base, mode) {
                    Ok(error) => drop(errors.insert((format!("{base:?}"), error.to_string(), row.name))),
                    Err(what) => failures.push(format!("{} on {base:?}, {mode:?}: {what}", row.name)),
                }
            }
        }
    }
    println!("{} rows, {images} images", rows.len());
    for (base, error, name) in &errors {
        println!("{base:10} {name:48} {error}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn rows_have_names_of_their_own() {
    let rows = all_rows();
    let mut names: Vec<_> = rows.iter().map(|row| row.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), rows.len());
    assert!(rows.len() >= 60);
}
