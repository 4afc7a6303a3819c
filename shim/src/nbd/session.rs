//! The transmission: requests in, replies out, and the record of both.
//!
//! ```text
//!   inbox --> take_in: recorded as issued --> queue --> carry_out --> reply: recorded as completed
//!                 ^                                                     |
//!                 +------------- before every reply --------------------+
//! ```
//!
//! A request is carried out as a whole, in the order of arrival. What the client has not heard of when the session ends
//! is settled when the next one begins: carried out, it counts as completed (a device that was reset keeps what is in
//! its cache); refused or not carried out, it is lost.
#![forbid(unsafe_code)]

use super::backing::Backing;
use super::inbox::{Arrived, Gone, Inbox};
use super::sink::Sink;
use super::wire::{self, simple_reply, Errno, RequestHeader, MAX_PAYLOAD_BYTES, MIN_BLOCK_BYTES};
use crate::trace::Event;
use arenite_core::DeviceError;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// A session takes in no further request while so many bytes wait to be carried out.
pub const MAX_QUEUED_BYTES: usize = 64 << 20;
/// ... or so many requests.
const MAX_QUEUED: usize = 1024;

/// What was served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions that got to the transmission.
    pub sessions: u64,
    /// Reads answered.
    pub reads: u64,
    /// Writes answered, trims among them.
    pub writes: u64,
    /// Flushes answered.
    pub flushes: u64,
    /// Requests answered with an error.
    pub errors: u64,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sessions, reads, writes, flushes, errors } = self;
        write!(f, "{sessions} sessions, {reads} reads, {writes} writes, {flushes} flushes, {errors} errors")
    }
}

/// What a server serves, from one session to the next.
pub struct Export<'a> {
    backing: &'a dyn Backing,
    sink: &'a mut dyn Sink,
    name: String,
    read_only: bool,
    counts: Counts,
    next_id: u64,
    /// Writes of earlier sessions of which no client has heard, and whether they were carried out.
    unheard: Vec<(u64, bool)>,
}

impl<'a> Export<'a> {
    /// An export called `name` whose writes and flushes are recorded in `sink`.
    pub fn new(backing: &'a dyn Backing, sink: &'a mut dyn Sink, name: &str) -> Self {
        let read_only = backing.read_only();
        let (counts, unheard) = (Counts::default(), Vec::new());
        Self { backing, sink, name: name.to_owned(), read_only, counts, next_id: 0, unheard }
    }

    /// Refuses writes, whatever the backing allows.
    pub fn make_read_only(&mut self) {
        self.read_only = true;
    }

    /// What was served so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Bytes of whole sectors.
    pub(crate) fn len_bytes(&self) -> u64 {
        let len = self.backing.len_bytes();
        len - len % u64::from(MIN_BLOCK_BYTES)
    }

    /// Whether the device has gone for good.
    pub(crate) fn is_gone(&self) -> bool {
        false
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

impl std::fmt::Debug for Export<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").field("name", &self.name).field("counts", &self.counts).finish_non_exhaustive()
    }
}

/// What a request is once its header was looked at.
#[derive(Debug)]
enum Task {
    Read,
    Write(Arc<[u8]>),
    Flush,
    /// Success, and nothing else.
    Nothing,
    Refuse(Errno),
}

/// A request that was taken in.
#[derive(Debug)]
struct Queued {
    header: RequestHeader,
    task: Task,
    /// Its name in the record; 0 for what is not recorded.
    id: u64,
}

/// Why a session ends: because of the client, or because the record fails.
enum Stop {
    Client,
    Record(io::Error),
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Client
    }
}

/// One connection after its handshake.
pub(crate) struct Session<'s, 'a> {
    stream: &'s UnixStream,
    export: &'s mut Export<'a>,
    stop: &'s AtomicBool,
    inbox: Inbox<'s>,
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    /// Nothing more comes, but what is in the queue is still carried out.
    ended: bool,
    /// Writes recorded as issued, in order, and whether they were carried out.
    unheard: Vec<(u64, bool)>,
}

impl<'s, 'a> Session<'s, 'a> {
    pub(crate) fn new(stream: &'s UnixStream, export: &'s mut Export<'a>, stop: &'s AtomicBool) -> Self {
        let (inbox, queue) = (Inbox::new(stream), VecDeque::new());
        Self { stream, export, stop, inbox, queue, queued_bytes: 0, ended: false, unheard: Vec::new() }
    }

    /// Serves to the end of the connection. Fails if the record does.
    pub(crate) fn run(mut self) -> io::Result<()> {
        self.export.counts.sessions += 1;
        self.settle_unheard()?;
        let result = self.work();
        self.export.unheard.append(&mut self.unheard);
        let flushed = self.export.sink.flush();
        match result {
            Err(Stop::Record(error)) => Err(error),
            Ok(()) | Err(Stop::Client) => flushed,
        }
    }

    /// Decides what has become of the writes of earlier sessions that were never answered.
    fn settle_unheard(&mut self) -> io::Result<()> {
        for (id, done) in std::mem::take(&mut self.export.unheard) {
            let event = if done { Event::Complete { id, result: Ok(()) } } else { Event::Lost { id } };
            self.export.sink.take(event)?;
        }
        Ok(())
    }

    fn work(&mut self) -> Result<(), Stop> {
        while !self.stop.load(Ordering::Relaxed) {
            self.take_in()?;
            match self.queue.pop_front() {
                Some(queued) => self.carry_out(queued)?,
                None if self.ended => return Ok(()),
                None => self.inbox.wait(None, self.stop)?,
            }
        }
        Ok(())
    }

    /// Takes in what the client has sent, as far as there is room, and records it as issued.
    fn take_in(&mut self) -> Result<(), Stop> {
        while !self.ended && self.queue.len() < MAX_QUEUED && self.queued_bytes < MAX_QUEUED_BYTES {
            match self.inbox.next() {
                Ok(None) => break,
                Ok(Some(arrived)) if arrived.header.command == wire::CMD_DISC => self.ended = true,
                Ok(Some(arrived)) => self.enqueue(arrived)?,
                Err(_) => self.ended = true,
            }
        }
        Ok(())
    }

    fn enqueue(&mut self, arrived: Arrived) -> Result<(), Stop> {
        let header = arrived.header;
        let task = self.task(arrived);
        let mut id = 0;
        match &task {
            Task::Write(bytes) => {
                id = self.export.new_id();
                self.queued_bytes += bytes.len();
                self.record(Event::Issue { id, addr: header.offset, bytes: Arc::clone(bytes) })?;
                self.unheard.push((id, false));
            }
            Task::Flush => {
                id = self.export.new_id();
                self.record(Event::FlushIssue { id })?;
            }
            Task::Read | Task::Nothing | Task::Refuse(_) => {}
        }
        self.queue.push_back(Queued { header, task, id });
        Ok(())
    }

    /// Looks at a header: what is to be done, or the error.
    fn task(&self, arrived: Arrived) -> Task {
        let RequestHeader { flags, command, offset, len, .. } = arrived.header;
        let changes = matches!(command, wire::CMD_WRITE | wire::CMD_TRIM);
        if changes && self.export.read_only {
            return Task::Refuse(Errno::Perm);
        }
        if flags != 0 {
            return Task::Refuse(Errno::Inval);
        }
        if command == wire::CMD_FLUSH {
            return if offset == 0 && len == 0 { Task::Flush } else { Task::Refuse(Errno::Inval) };
        }
        if !changes && command != wire::CMD_READ {
            return Task::Refuse(Errno::Inval);
        }
        let aligned = offset % u64::from(MIN_BLOCK_BYTES) == 0 && len % MIN_BLOCK_BYTES == 0 && len > 0;
        if !aligned || (len > MAX_PAYLOAD_BYTES && command != wire::CMD_TRIM) {
            return Task::Refuse(Errno::Inval);
        }
        if offset.checked_add(u64::from(len)).is_none_or(|end| end > self.export.len_bytes()) {
            return Task::Refuse(if changes { Errno::NoSpc } else { Errno::Inval });
        }
        match command {
            wire::CMD_READ => Task::Read,
            wire::CMD_WRITE => Task::Write(arrived.payload.into()),
            // A trim is advice. As much as a write may have is set to zero; of more, nothing.
            _ if len <= MAX_PAYLOAD_BYTES => Task::Write(vec![0; len as usize].into()),
            _ => Task::Nothing,
        }
    }

    fn record(&mut self, event: Event) -> Result<(), Stop> {
        self.export.sink.take(event).map_err(Stop::Record)
    }

    fn carry_out(&mut self, queued: Queued) -> Result<(), Stop> {
        let Queued { header, task, id } = queued;
        match task {
            Task::Refuse(error) => self.answer(&header, Err(error), &[]),
            Task::Nothing => self.answer(&header, Ok(()), &[]),
            Task::Read => {
                let mut bytes = vec![0; header.len as usize];
                let result = self.export.backing.read_at(header.offset, &mut bytes);
                self.export.counts.reads += 1;
                self.answer(&header, result.map_err(|_| Errno::Io), &bytes)
            }
            Task::Write(bytes) => {
                self.queued_bytes -= bytes.len();
                let result = self.export.backing.write_at(header.offset, &bytes);
                self.export.counts.writes += 1;
                self.unheard.iter_mut().filter(|(known, _)| *known == id).for_each(|(_, done)| *done = result.is_ok());
                self.answer(&header, result.map_err(|_| Errno::Io), &[])?;
                self.unheard.retain(|(known, _)| *known != id);
                self.record(Event::Complete { id, result })
            }
            Task::Flush => {
                let result = self.export.backing.sync();
                self.export.counts.flushes += 1;
                self.take_in()?;
                // Before the reply, so that whoever has got it finds the record of it.
                self.record(Event::FlushComplete { id, result })?;
                self.answer(&header, result.map_err(|_: DeviceError| Errno::Io), &[])
            }
        }
    }

    /// Takes in what the client sent before it could know of this reply, and sends it.
    fn answer(&mut self, header: &RequestHeader, result: Result<(), Errno>, data: &[u8]) -> Result<(), Stop> {
        self.take_in()?;
        let mut bytes = simple_reply(result.err(), header.cookie);
        match result {
            Ok(()) => bytes.extend(data),
            Err(_) => self.export.counts.errors += 1,
        }
        let mut stream = self.stream;
        stream.write_all(&bytes).map_err(|_| Stop::Client)
    }
}
