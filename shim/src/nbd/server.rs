//! The socket, and one session after the other.
#![forbid(unsafe_code)]

use super::inbox::{readable, Gone};
use super::negotiate::{negotiate, Description};
use super::session::{Export, Session};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a server that waits for a client looks whether it should stop.
const PATIENCE: Duration = Duration::from_millis(50);
/// A client that does not take a reply for so long is disconnected.
const SEND_LIMIT: Duration = Duration::from_secs(30);

/// Why a socket cannot be listened on.
#[derive(Debug)]
pub enum BindError {
    /// Another server answers there.
    Alive,
    /// There is something else than a socket.
    NotASocket,
    /// The system refused.
    Io(io::Error),
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Alive => f.write_str("another server answers at this socket"),
            Self::NotASocket => f.write_str("exists, and is no socket"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BindError {}

impl From<io::Error> for BindError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Why a server stopped before it was told to.
#[derive(Debug)]
pub enum ServeError {
    /// The socket failed.
    Socket(io::Error),
    /// The record could not be written. From here on it has a gap, so nothing more was served.
    Record(io::Error),
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(error) => write!(f, "the socket: {error}"),
            Self::Record(error) => write!(f, "the record: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}

/// A socket that is listened on. Dropping it removes the socket from the file system.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Device and number of the socket's inode, so that nobody else's is removed.
    identity: (u64, u64),
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = path.symlink_metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Server {
    /// Makes the socket and listens. One that a dead server left behind is replaced.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        match path.symlink_metadata() {
            Ok(metadata) if !metadata.file_type().is_socket() => return Err(BindError::NotASocket),
            Ok(_) => match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                Err(error) => return Err(BindError::Io(error)),
                Ok(_) => return Err(BindError::Alive),
            },
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        // Otherwise a client that goes away between the wait and the accept would block the server.
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path: path.to_owned(), identity: identity(path)? })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves one client after the other, until `stop` is set (within a tenth of a second) or, with `once`, until the
    /// first session that got to the transmission has ended.
    pub fn serve(&self, export: &mut Export<'_>, stop: &AtomicBool, once: bool) -> Result<(), ServeError> {
        while !stop.load(Ordering::Relaxed) && !export.is_gone() {
            if !matches!(readable(&self.listener, PATIENCE), Ok(true)) {
                continue;
            }
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(ServeError::Socket(error)),
            };
            let served = serve_one(&stream, export, stop)?;
            if served && once {
                break;
            }
        }
        Ok(())
    }
}

/// Whether an error of `accept` is the client's.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | Interrupted | WouldBlock)
}

/// One session; true if it got to the transmission.
fn serve_one(stream: &UnixStream, export: &mut Export<'_>, stop: &AtomicBool) -> Result<bool, ServeError> {
    // Some systems hand the listener's mode on.
    stream.set_nonblocking(false).map_err(ServeError::Socket)?;
    stream.set_write_timeout(Some(SEND_LIMIT)).map_err(ServeError::Socket)?;
    let description =
        Description { name: export.name(), len_bytes: export.len_bytes(), read_only: export.is_read_only() };
    match negotiate(stream, stop, description) {
        Ok(true) => {}
        Ok(false) | Err(Gone::Closed | Gone::Nonsense | Gone::Late | Gone::Stopped) => return Ok(false),
    }
    Session::new(stream, export, stop).run().map_err(ServeError::Record)?;
    Ok(true)
}

impl Drop for Server {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // There is nobody to tell.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
