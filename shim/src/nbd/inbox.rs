//! The receiving side of a connection: waits that can be stopped, and requests put together from what arrives.
#![forbid(unsafe_code)]

use super::wire::{self, RequestHeader, MAX_PAYLOAD_BYTES, REQUEST_LEN_BYTES};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{recv, RecvFlags};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a wait lasts before it looks whether it should stop.
const PATIENCE: Duration = Duration::from_millis(50);

/// Why nothing more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The client closed the connection, or it broke.
    Closed,
    /// The client broke the protocol in a way that leaves nothing to talk about.
    Nonsense,
    /// The client took too long.
    Late,
    /// The server is to stop.
    Stopped,
}

/// Whether there is something to read (or to accept) within `wait`.
pub(crate) fn readable(from: impl AsFd, wait: Duration) -> Result<bool, Gone> {
    let mut fds = [PollFd::new(&from, PollFlags::IN)];
    let wait = Timespec { tv_sec: wait.as_secs().min(1 << 30) as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
    match poll(&mut fds, Some(&wait)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(_) => Err(Gone::Closed),
    }
}

/// Reads what is there, at most the length of `bytes`; `None` if nothing is.
fn receive(from: &UnixStream, bytes: &mut [u8]) -> Result<Option<usize>, Gone> {
    loop {
        match recv(from, &mut *bytes, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Err(Gone::Closed),
            Ok((_, count)) => return Ok(Some(count)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(_) => return Err(Gone::Closed),
        }
    }
}

/// Fills `bytes`, or says why not; for the handshake.
pub(crate) fn read_exact(
    from: &UnixStream,
    bytes: &mut [u8],
    stop: &AtomicBool,
    deadline: Instant,
) -> Result<(), Gone> {
    let mut filled = 0;
    while filled < bytes.len() {
        if stop.load(Ordering::Relaxed) {
            return Err(Gone::Stopped);
        }
        let left = deadline.checked_duration_since(Instant::now()).ok_or(Gone::Late)?;
        match receive(from, &mut bytes[filled..])? {
            Some(count) => filled += count,
            None => drop(readable(from, left.min(PATIENCE))?),
        }
    }
    Ok(())
}

/// A request that has arrived whole.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) header: RequestHeader,
    /// What a write brings; empty if it is longer than any may be.
    pub(crate) payload: Vec<u8>,
}

impl Arrived {
    fn without_payload(header: RequestHeader) -> Self {
        Self { header, payload: Vec::new() }
    }
}

enum Part {
    Header,
    Payload(Arrived),
    /// The payload of a write that is too long: so many bytes of it are still to be read and dropped.
    Excess(RequestHeader, u32),
}

/// Puts requests together.
pub(crate) struct Inbox<'s> {
    from: &'s UnixStream,
    header: [u8; REQUEST_LEN_BYTES],
    filled: usize,
    part: Part,
}

impl<'s> Inbox<'s> {
    pub(crate) fn new(from: &'s UnixStream) -> Self {
        Self { from, header: [0; REQUEST_LEN_BYTES], filled: 0, part: Part::Header }
    }

    /// Waits until something arrives, for `limit` at most, or until the server is to stop; false if nothing did.
    pub(crate) fn wait(&self, limit: Option<Duration>, stop: &AtomicBool) -> Result<bool, Gone> {
        let until = limit.map(|limit| Instant::now() + limit);
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(Gone::Stopped);
            }
            let left = until.map_or(PATIENCE, |until| until.saturating_duration_since(Instant::now()));
            if readable(self.from, left.min(PATIENCE))? {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    /// The next request that has arrived whole, if there is one. Does not wait.
    pub(crate) fn next(&mut self) -> Result<Option<Arrived>, Gone> {
        loop {
            let arrived = match &mut self.part {
                Part::Header => {
                    let Some(count) = receive(self.from, &mut self.header[self.filled..])? else { return Ok(None) };
                    self.filled += count;
                    if self.filled < REQUEST_LEN_BYTES {
                        continue;
                    }
                    self.begin()?
                }
                Part::Payload(arrived) => {
                    let Some(count) = receive(self.from, &mut arrived.payload[self.filled..])? else {
                        return Ok(None);
                    };
                    self.filled += count;
                    if self.filled < arrived.payload.len() {
                        continue;
                    }
                    let Part::Payload(arrived) = std::mem::replace(&mut self.part, Part::Header) else { continue };
                    Some(arrived)
                }
                Part::Excess(header, left) => {
                    let mut scrap = [0; 16 << 10];
                    let most = scrap.len().min(*left as usize);
                    let Some(count) = receive(self.from, &mut scrap[..most])? else { return Ok(None) };
                    *left -= count as u32;
                    (*left == 0).then(|| Arrived::without_payload(*header))
                }
            };
            if let Some(arrived) = arrived {
                (self.part, self.filled) = (Part::Header, 0);
                return Ok(Some(arrived));
            }
        }
    }

    /// Looks at a header that is complete; the request itself, if it has no payload.
    fn begin(&mut self) -> Result<Option<Arrived>, Gone> {
        let header = RequestHeader::decode(&self.header).ok_or(Gone::Nonsense)?;
        self.filled = 0;
        if header.command != wire::CMD_WRITE || header.len == 0 {
            return Ok(Some(Arrived::without_payload(header)));
        }
        self.part = if header.len > MAX_PAYLOAD_BYTES {
            Part::Excess(header, header.len)
        } else {
            Part::Payload(Arrived { header, payload: vec![0; header.len as usize] })
        };
        Ok(None)
    }
}
