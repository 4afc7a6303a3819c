//! A block server between QEMU and the disk: every write and flush of the guest passes through this process, in a
//! thread of its own, and is recorded with its issue and its completion.
//!
//! The server uses the runner's own open file of the disk, and so its lock. It runs from before the first boot until
//! after the last one, because one record spans them all.

use crate::work::WorkDir;
use anyhow::{anyhow, Context, Result};
use arenite_core::DeviceError;
use arenite_shim::nbd::tracefile::Writer;
use arenite_shim::nbd::{Backing, Counts, Export, Script, Server};
use arenite_shim::ReadAt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

/// What the export is called.
pub const EXPORT: &str = "disk";

/// The longest path of a socket that every system takes.
const MAX_SOCKET_PATH_BYTES: usize = 100;

/// Reads a script; without a file, one that does nothing wrong.
pub fn script(file: Option<&Path>) -> Result<Script> {
    let Some(file) = file else { return Ok(Script::default()) };
    let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    Script::parse(&text).with_context(|| format!("{}", file.display()))
}

/// A block server that runs.
pub struct BlockServer {
    socket: PathBuf,
    stop: Arc<AtomicBool>,
    /// `None` once it has been waited for.
    thread: Option<JoinHandle<Result<Counts>>>,
}

impl BlockServer {
    /// Serves an open image, which stays locked by its owner, as the script says. Socket and trace are put into the
    /// work directory.
    pub fn start(disk: &File, dir: &WorkDir, script: Script) -> Result<Self> {
        let mut socket = dir.file("disk.sock");
        if socket.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
            socket = std::env::temp_dir().join(format!("arenite-{}.sock", std::process::id()));
        }
        let server = Server::bind(&socket).with_context(|| format!("{}", socket.display()))?;
        let image = Image::of(disk)?;
        let trace = dir.file("store.trace");
        let writer = Writer::create(&trace, &image).with_context(|| format!("{}", trace.display()))?;
        println!("server: at {}; the record is {}", socket.display(), trace.display());
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || serve(&server, &image, writer, &script, &seen));
        Ok(Self { socket, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What makes it end when it is set: requests that are not answered by then never will be.
    pub fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Ends it, and says what it has seen. Fails if the record is not whole.
    pub fn finish(mut self) -> Result<Counts> {
        let counts = self.stop_and_wait().unwrap_or(Ok(Counts::default()))?;
        println!("server: {counts}");
        Ok(counts)
    }

    /// The same; fails if no flush has come through, too.
    pub fn end(self) -> Result<()> {
        let counts = self.finish()?;
        anyhow::ensure!(counts.flushes > 0, "no flush has reached the block server");
        Ok(())
    }

    fn stop_and_wait(&mut self) -> Option<Result<Counts>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        Some(thread.join().unwrap_or_else(|_| Err(anyhow!("the block server panicked"))))
    }
}

impl Drop for BlockServer {
    fn drop(&mut self) {
        let _ = self.stop_and_wait();
    }
}

fn serve(
    server: &Server,
    image: &Image,
    mut writer: Writer<impl std::io::Write>,
    script: &Script,
    stop: &AtomicBool,
) -> Result<Counts> {
    let mut export = Export::new(image, &mut writer, EXPORT);
    export.follow(script);
    server.serve(&mut export, stop, false).context("the block server")?;
    let counts = export.counts();
    writer.finish().context("the record of the block server")?;
    Ok(counts)
}

/// An image that is open, and locked by somebody else in this process.
struct Image {
    file: File,
    len_bytes: u64,
    /// A flush has failed, and what it should have made durable may be lost: from now on all of them fail.
    flush_failed: AtomicBool,
}

impl Image {
    fn of(disk: &File) -> Result<Self> {
        let file = disk.try_clone().context("the disk")?;
        let len_bytes = file.metadata().context("the disk")?.len();
        Ok(Self { file, len_bytes, flush_failed: AtomicBool::new(false) })
    }
}

impl ReadAt for Image {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read_at(&self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.file.read_exact_at(bytes, addr).map_err(|_| DeviceError::Io)
    }
}

impl Backing for Image {
    fn write_at(&self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.file.write_all_at(bytes, addr).map_err(|_| DeviceError::Io)
    }

    fn sync(&self) -> Result<(), DeviceError> {
        if self.flush_failed.load(Ordering::Relaxed) {
            return Err(DeviceError::Io);
        }
        self.file.sync_data().map_err(|_| {
            self.flush_failed.store(true, Ordering::Relaxed);
            DeviceError::Io
        })
    }
}
