#![forbid(unsafe_code)]
//! The words `phase=`, `format=` and `partial=`: what the demonstration does in this boot.
//!
//! `phase=import` puts the archive on the disk with the serial number `input` into the store on the disk `store`, which
//! is formatted if it is blank; `format=force` formats it whatever it holds. `phase=verify` compares the two and
//! changes some files; with `partial=yes` the store may lack some.

use alloc::vec::Vec;

use crate::archive::Archive;
use crate::blk::{Owner, ReadyDisk};
use crate::cmdline::CmdLine;
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::volume::{Format, Volume};
use crate::{import, verify};

/// What a boot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Import(Format),
    Verify { partial: bool },
}

impl Phase {
    fn of(cmdline: &CmdLine) -> Result<Self, Failure> {
        let bad = |what| Failure::new(Outcome::BadOption, format_args!("{what}"));
        let format = match (cmdline.has("format"), cmdline.get("format")) {
            (false, _) => Format::IfBlank,
            (true, Some("force")) => Format::Always,
            (true, _) => return Err(bad("format= can only be force")),
        };
        let partial = match (cmdline.has("partial"), cmdline.get("partial")) {
            (false, _) => false,
            (true, Some("yes")) => true,
            (true, _) => return Err(bad("partial= can only be yes")),
        };
        match (cmdline.get("phase"), format, partial) {
            (Some("import"), format, false) => Ok(Self::Import(format)),
            (Some("verify"), Format::IfBlank, partial) => Ok(Self::Verify { partial }),
            (Some("import" | "verify"), ..) => Err(bad("format= is for phase=import, partial= for phase=verify")),
            _ => Err(bad("phase= is import or verify")),
        }
    }
}

/// Does what the command line asks for.
///
/// # Errors
/// Whatever went wrong.
pub fn run(mut disks: Vec<ReadyDisk>, cmdline: &CmdLine) -> Result<(), Failure> {
    let phase = Phase::of(cmdline)?;
    let format = match phase {
        Phase::Import(format) => format,
        Phase::Verify { .. } => Format::Never,
    };
    let store_disk = claim(&mut disks, "store")?;
    let mut archive = Archive::open(claim(&mut disks, "input")?)?;
    let volume = Volume::open(store_disk, format)?;
    let done = match phase {
        Phase::Import(_) => import::run(&volume, &mut archive),
        Phase::Verify { partial } => verify::run(&volume, &mut archive, partial),
    };
    done.map_err(|failure| volume.explain(failure))?;
    volume.unmount()
}

fn claim<O: Owner>(disks: &mut Vec<ReadyDisk>, serial: &str) -> Result<&'static crate::blk::Disk<O>, Failure> {
    match disks.iter().position(|disk| disk.info().serial() == serial) {
        Some(index) => Ok(disks.swap_remove(index).claim()),
        None => Err(Failure::new(Outcome::NoDisk, format_args!("no disk with serial={serial}"))),
    }
}
