//! `arenite serve`: an image as a block device at a Unix socket, for QEMU and others that speak NBD.
//!
//! The image stays locked, as any image that is written to; Ctrl-C, SIGTERM and SIGHUP end the service in good order:
//! the record is written to its end, what was written is made durable, the socket is removed.

use crate::failure::Failure;
use crate::image::Image;
use crate::interrupt::Interrupt;
use crate::open::{self, Locked};
use crate::place::{Part, Place, Served};
use arenite_shim::nbd::tracefile::Writer;
use arenite_shim::nbd::{Export, Script, Server, Sink};
use arenite_shim::{FileDevice, FileOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What is asked for.
pub(crate) struct Request {
    pub(crate) socket: PathBuf,
    pub(crate) record: Option<PathBuf>,
    pub(crate) script: Option<PathBuf>,
    pub(crate) read_only: bool,
    pub(crate) once: bool,
    pub(crate) quiet: bool,
}

/// Serves until told to stop; returns a line for the user.
pub(crate) fn run(place: &Place, request: &Request) -> Result<String, Failure> {
    let script = match &request.script {
        Some(file) => script(file)?,
        None => Script::default(),
    };
    let held = Held::open(place, request.read_only)?;
    let image = Served { file: &held.device, part: held.part };
    // Before the trace is made, so that none is replaced in vain.
    let server = Server::bind(&request.socket).map_err(|error| named(&request.socket, &error))?;
    let interrupt = Interrupt::new()?;
    let mut trace = match &request.record {
        Some(record) => Some(Writer::create(record, &image).map_err(|error| named(record, &error))?),
        None => None,
    };
    let mut nothing = ();
    let sink: &mut dyn Sink = match &mut trace {
        Some(trace) => trace,
        None => &mut nothing,
    };
    let mut export = Export::new(&image, sink, "disk");
    export.follow(&script);
    if request.read_only {
        export.make_read_only();
    }
    if !request.quiet {
        announce(place, request, held.part.len_bytes);
    }
    let served = server.serve(&mut export, interrupt.flag(), request.once);
    let counts = export.counts();
    served.map_err(|error| Failure::new(error.to_string()))?;
    if let (Some(trace), Some(record)) = (trace, &request.record) {
        trace.finish().map_err(|error| named(record, &error))?;
    }
    if !request.read_only {
        held.device.sync().map_err(|error| Failure::new(error.to_string()))?;
    }
    Ok(format!("served: {counts}"))
}

fn script(file: &Path) -> Result<Script, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| named(file, &error))?;
    Script::parse(&text).map_err(|error| named(file, &error))
}

/// The image, locked.
struct Held {
    device: FileDevice<'static>,
    part: Part,
    /// The lock of an image that is written to.
    _locked: Option<Locked>,
}

impl Held {
    fn open(place: &Place, read_only: bool) -> Result<Self, Failure> {
        if !read_only {
            let locked = Locked::open(place)?;
            return Ok(Self { device: locked.device()?, part: locked.part()?, _locked: Some(locked) });
        }
        let no_volume = |error: &dyn std::fmt::Display| Failure::no_volume(error.to_string());
        let (file, part) = Image::open_locked(place).map_err(|error| no_volume(&error))?.into_parts();
        let options = FileOptions { read_only, ..FileOptions::default() };
        let device = FileDevice::from_file(file, options).map_err(open::not_opened)?;
        Ok(Self { device, part, _locked: None })
    }
}

fn named(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}

/// Says that clients may come. Whoever does not listen is served all the same.
fn announce(place: &Place, request: &Request, len_bytes: u64) {
    let mode = if request.read_only { ", read only" } else { "" };
    let line = format!("{}: serving {len_bytes} bytes at {}{mode}\n", place.shown(), request.socket.display());
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}
