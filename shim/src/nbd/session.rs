//! The transmission: requests in, replies out, and the record of both.
//!
//! ```text
//!   inbox --> take_in: recorded as issued --> queue --> carry_out --> reply: recorded as completed
//!                 ^                                                     |
//!                 +------------- before every reply --------------------+
//! ```
//!
//! A request is carried out as a whole, in the order of arrival; a script may have it done wrong, or its reply held
//! back. What the client has not heard of when the session ends
//! is settled when the next one begins: carried out, it counts as completed (a device that was reset keeps what is in
//! its cache); refused or not carried out, it is lost.
#![forbid(unsafe_code)]

use super::backing::Backing;
use super::held::{Came, Held};
use super::history::History;
use super::inbox::{Arrived, Gone, Inbox};
use super::script::{torn, Action, Director, Script};
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
    /// Requests for which the script had something else in mind.
    pub scripted: u64,
}

impl Counts {
    fn add(&mut self, kind: Kind, failed: bool) {
        match kind {
            Kind::Read { .. } => self.reads += 1,
            Kind::Write => self.writes += 1,
            Kind::Flush => self.flushes += 1,
            Kind::Other => {}
        }
        self.errors += u64::from(failed);
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sessions, reads, writes, flushes, errors, scripted } = self;
        write!(f, "{sessions} sessions, {reads} reads, {writes} writes, {flushes} flushes, {errors} errors")?;
        match scripted {
            0 => Ok(()),
            count => write!(f, ", {count} requests as the script wanted"),
        }
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
    director: Director,
    /// If reads may be stale.
    history: Option<History>,
    gone: bool,
}

impl<'a> Export<'a> {
    /// An export called `name` whose writes and flushes are recorded in `sink`.
    pub fn new(backing: &'a dyn Backing, sink: &'a mut dyn Sink, name: &str) -> Self {
        let read_only = backing.read_only();
        let (counts, unheard) = (Counts::default(), Vec::new());
        let (director, history, gone) = (Director::new(&Script::default()), None, false);
        Self { backing, sink, name: name.to_owned(), read_only, counts, next_id: 0, unheard, director, history, gone }
    }

    /// Misbehaves from here on as the script says. Its counts begin anew.
    pub fn follow(&mut self, script: &Script) {
        self.director = Director::new(script);
        self.history = self.director.wants_history().then(History::default);
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
        self.gone
    }

    /// What a write leaves that is to be lost or torn; `None` for all others.
    fn left_by(&mut self, header: &RequestHeader, bytes: &[u8], action: Option<Action>) -> Option<Vec<u8>> {
        let sectors = match action {
            Some(Action::Lose) => Some(0),
            Some(Action::Tear { sectors, .. }) => sectors,
            _ => return None,
        };
        let mut old = vec![0; bytes.len()];
        // If that cannot be read, nothing can be said of it, and the write will hardly succeed.
        self.backing.read_at(header.offset, &mut old).ok()?;
        Some(torn(&old, bytes, sectors, self.director.rng()))
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        if let Some(history) = &mut self.history {
            let mut old = vec![0; bytes.len()];
            self.backing.read_at(addr, &mut old)?;
            history.remember(addr, &old);
        }
        self.backing.write_at(addr, bytes)
    }

    fn read(&self, addr: u64, bytes: &mut [u8], stale: bool) -> Result<(), DeviceError> {
        self.backing.read_at(addr, bytes)?;
        if let Some(history) = self.history.as_ref().filter(|_| stale) {
            history.turn_back(addr, bytes);
        }
        Ok(())
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
    action: Option<Action>,
    /// What had come when it came.
    came: Came,
}

/// What a reply is the reply to, as far as that makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read { stale: bool },
    Write,
    Flush,
    Other,
}

/// A reply that is still to be sent. What a read brings is read when it is.
#[derive(Debug)]
struct Reply {
    header: RequestHeader,
    kind: Kind,
    id: u64,
    /// What was done, for the record.
    done: Result<(), DeviceError>,
    /// What the client is told.
    told: Result<(), Errno>,
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
    held: Held<Reply>,
    /// Nothing more comes, but what is in the queue is still carried out.
    ended: bool,
    /// Writes recorded as issued, in order, and whether they were carried out.
    unheard: Vec<(u64, bool)>,
}

impl<'s, 'a> Session<'s, 'a> {
    pub(crate) fn new(stream: &'s UnixStream, export: &'s mut Export<'a>, stop: &'s AtomicBool) -> Self {
        let (inbox, queue, held) = (Inbox::new(stream), VecDeque::new(), Held::new());
        Self { stream, export, stop, inbox, queue, queued_bytes: 0, held, ended: false, unheard: Vec::new() }
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
            if let Some(reply) = self.held.next_due() {
                self.answer(reply)?;
                continue;
            }
            match self.queue.pop_front() {
                Some(queued) => self.carry_out(queued)?,
                None if self.ended => return Ok(()),
                None => {
                    if !self.inbox.wait(self.held.patience(), self.stop)? {
                        self.held.nothing_came(self.export.director.rng());
                    }
                }
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
        let mut task = self.task(arrived);
        let mut action = None;
        if !matches!(task, Task::Refuse(_)) {
            action = self.export.director.action(&header);
            self.export.counts.scripted += u64::from(action.is_some());
        }
        let mut id = 0;
        match &mut task {
            Task::Write(bytes) => {
                if let Some(left) = self.export.left_by(&header, bytes, action) {
                    *bytes = left.into();
                }
                id = self.export.new_id();
                self.queued_bytes += bytes.len();
                let bytes = Arc::clone(bytes);
                self.record(Event::Issue { id, addr: header.offset, bytes })?;
                self.unheard.push((id, false));
            }
            Task::Flush => {
                id = self.export.new_id();
                self.record(Event::FlushIssue { id })?;
            }
            Task::Read | Task::Nothing | Task::Refuse(_) => {}
        }
        let came = self.held.request_came(matches!(task, Task::Flush));
        self.queue.push_back(Queued { header, task, id, action, came });
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
        let Queued { header, task, id, action, came } = queued;
        if matches!(action, Some(Action::Close | Action::Gone)) {
            self.export.gone |= action == Some(Action::Gone);
            return Err(Stop::Client);
        }
        let reply = self.perform(header, task, id, action);
        match action {
            Some(Action::Hold(until)) => {
                let room = self.held.hold(reply, until, came, self.export.director.rng());
                if room {
                    Ok(())
                } else {
                    Err(Stop::Client)
                }
            }
            _ => self.answer(reply),
        }
    }

    /// Does what is asked for, or what the script says instead.
    fn perform(&mut self, header: RequestHeader, task: Task, id: u64, action: Option<Action>) -> Reply {
        let scripted = match action {
            Some(Action::Fail(error)) => Some(error),
            _ => None,
        };
        let (kind, done) = match task {
            Task::Refuse(error) => {
                let (kind, done, told) = (Kind::Other, Err(DeviceError::Unsupported), Err(error));
                return Reply { header, kind, id, done, told };
            }
            Task::Nothing => (Kind::Other, Ok(())),
            Task::Read => (Kind::Read { stale: action == Some(Action::Stale) }, Ok(())),
            Task::Write(bytes) => {
                self.queued_bytes -= bytes.len();
                let done =
                    if scripted.is_some() { Err(DeviceError::Io) } else { self.export.write(header.offset, &bytes) };
                self.unheard.iter_mut().filter(|(known, _)| *known == id).for_each(|(_, was)| *was = done.is_ok());
                (Kind::Write, done)
            }
            Task::Flush if scripted.is_some() || action == Some(Action::Lose) => (Kind::Flush, Err(DeviceError::Io)),
            Task::Flush => (Kind::Flush, self.export.backing.sync()),
        };
        let told = match (scripted, action) {
            (Some(error), _) => Err(error),
            (None, Some(Action::Lose)) => Ok(()),
            (None, Some(Action::Tear { fail: true, .. })) => Err(Errno::Io),
            _ => done.map_err(|_| Errno::Io),
        };
        Reply { header, kind, id, done, told }
    }

    /// Takes in what the client sent before it could know of this reply, records the completion, and sends the reply.
    fn answer(&mut self, reply: Reply) -> Result<(), Stop> {
        let Reply { header, kind, id, done, mut told } = reply;
        let mut data = Vec::new();
        if let (Kind::Read { stale }, Ok(())) = (kind, told) {
            data = vec![0; header.len as usize];
            told = self.export.read(header.offset, &mut data, stale).map_err(|_| Errno::Io);
        }
        self.take_in()?;
        if kind == Kind::Flush {
            // Before the reply, so that whoever has got it finds the record of it.
            self.record(Event::FlushComplete { id, result: done })?;
        }
        self.export.counts.add(kind, told.is_err());
        let mut bytes = simple_reply(told.err(), header.cookie);
        if told.is_ok() {
            bytes.extend(data);
        }
        let mut stream = self.stream;
        stream.write_all(&bytes).map_err(|_| Stop::Client)?;
        if kind == Kind::Write {
            self.unheard.retain(|(known, _)| *known != id);
            // A write of which the client was told that it failed is covered by no flush.
            let result = if told.is_err() { Err(DeviceError::Io) } else { done };
            self.record(Event::Complete { id, result })?;
        }
        Ok(())
    }
}
