#![forbid(unsafe_code)]
//! The words `phase=`, `format=`, `partial=`, `resume=` and `commit_every=`: what the demonstration does in this boot.
//!
//! `phase=import` puts the archive on the disk with the serial number `input` into the store on the disk `store`, which
//! is formatted if it is blank; `format=force` formats it whatever it holds. With `resume=yes` it goes on where an
//! import has ended early, and `commit_every=` is the number of bytes after which it commits. `phase=verify` compares
//! the two and changes some files; with `partial=yes` the store may lack some.
//! `phase=stack` is `probe`'s, `phase=bench` and `phase=counts` are those of `measure`.

use alloc::vec::Vec;

use crate::archive::Archive;
use crate::blk::ReadyDisk;
use crate::cmdline::CmdLine;
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::store_disk::StoreDisk;
use crate::volume::{Format, Volume};
use crate::{import, measure, probe, report, verify};

/// What a boot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Import(Format, import::Options),
    Verify { partial: bool },
    Stack,
    Bench(measure::Plan),
    Counts,
}

impl Phase {
    fn of(cmdline: &CmdLine) -> Result<Self, Failure> {
        let bad = |what| Failure::new(Outcome::BadOption, format_args!("{what}"));
        let format = format(cmdline)?;
        let yes = |key: &str| match (cmdline.has(key), cmdline.get(key)) {
            (false, _) => Ok(false),
            (true, Some("yes")) => Ok(true),
            (true, _) => Err(Failure::new(Outcome::BadOption, format_args!("{key}= can only be yes"))),
        };
        let (partial, resume) = (yes("partial")?, yes("resume")?);
        let commit_every = match cmdline.get_number("commit_every") {
            Ok(number) => number.unwrap_or(import::COMMIT_EVERY_BYTES),
            Err(_) => return Err(bad("commit_every= is a number of bytes")),
        };
        let options = import::Options { resume, commit_every_bytes: commit_every };
        match (cmdline.get("phase"), format, partial) {
            (Some("import"), format, false) => Ok(Self::Import(format, options)),
            (Some("verify"), Format::IfBlank, partial) if !resume => Ok(Self::Verify { partial }),
            (Some("stack"), Format::IfBlank, false) if !resume => Ok(Self::Stack),
            (Some("bench"), Format::IfBlank, false) if !resume => Ok(Self::Bench(measure::Plan::of(cmdline)?)),
            (Some("counts"), Format::IfBlank, false) if !resume => Ok(Self::Counts),
            (Some("import" | "verify" | "stack" | "bench" | "counts"), ..) => {
                Err(bad("format= and resume= are for phase=import, partial= for phase=verify"))
            }
            _ => Err(bad("phase= is import, verify, stack, bench or counts")),
        }
    }
}

/// The word `format=`: what may be done with a disk that holds no volume.
///
/// # Errors
/// It makes no sense.
pub fn format(cmdline: &CmdLine) -> Result<Format, Failure> {
    match (cmdline.has("format"), cmdline.get("format")) {
        (false, _) => Ok(Format::IfBlank),
        (true, Some("force")) => Ok(Format::Always),
        (true, _) => Err(Failure::new(Outcome::BadOption, format_args!("format= can only be force"))),
    }
}

/// Does what the command line asks for.
///
/// # Errors
/// Whatever went wrong.
pub fn run(mut disks: Vec<ReadyDisk>, cmdline: &CmdLine) -> Result<(), Failure> {
    let phase = Phase::of(cmdline)?;
    let format = match phase {
        Phase::Import(format, _) => format,
        Phase::Verify { .. } => Format::Never,
        Phase::Stack => return probe::run(StoreDisk::open(take(&mut disks, "store")?, cmdline)?),
        Phase::Bench(plan) => return measure::bench(take(&mut disks, "store")?, plan),
        Phase::Counts => return measure::count(),
    };
    let store_disk = StoreDisk::open(take(&mut disks, "store")?, cmdline)?;
    let archive = Archive::open(take(&mut disks, "input")?.claim())?;
    let volume = Volume::open(store_disk, format)?;
    let done = match phase {
        Phase::Import(_, options) => import::run(&volume, &archive, options),
        Phase::Verify { partial } => verify::run(&volume, &archive, partial),
        Phase::Stack | Phase::Bench(_) | Phase::Counts => Ok(()),
    };
    done.map_err(|failure| volume.explain(failure))?;
    volume.unmount()?;
    report::cpus()
}

/// Takes the disk with this serial number.
///
/// # Errors
/// There is none.
pub fn take(disks: &mut Vec<ReadyDisk>, serial: &str) -> Result<ReadyDisk, Failure> {
    match disks.iter().position(|disk| disk.info().serial() == serial) {
        Some(index) => Ok(disks.swap_remove(index)),
        None => Err(Failure::new(Outcome::NoDisk, format_args!("no disk with serial={serial}"))),
    }
}
