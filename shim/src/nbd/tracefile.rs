//! The file format of traces: what the disk held at the beginning, and every event since.
//!
//! ```text
//!   0   magic            8 bytes "ARENTRAC"
//!   8   version          u32, 1
//!   12  sector size      u32, 512
//!   16  disk size        u64, bytes
//!   24  check            u64, hash of the 24 bytes before it
//!   32  records, to the end of the file:
//!
//!   0   kind             u32     see `Kind`
//!   4   result           u32     0 for success, else the error; of completions only
//!   8   id               u64     write, flush, or number of a commit
//!   16  addr             u64     first byte on the disk
//!   24  payload length   u64     bytes
//!   32  check            u64     hash of the 32 bytes before it, plus the hash of the payload
//!   40  payload          what a write brings, or what the disk held
//! ```
//!
//! All integers are little-endian. Records of the disk's content come first, one for each piece that is not zero, so
//! that a trace needs no image beside it and a sparse disk costs nothing. Fields that a kind has no use for are zero.
//!
//! A recorder that is killed leaves a last record that is cut off. That is no error: what was recorded before is whole,
//! and [`Loaded::cut_off`] tells. A record whose check fails ends the reading with an error.
#![forbid(unsafe_code)]

use super::sink::Sink;
use super::wire::{part, MAX_PAYLOAD_BYTES};
use crate::image::ReadAt;
use crate::trace::{Event, Mark, Trace, SECTOR_LEN_BYTES};
use arenite_core::hash::hash64;
use arenite_core::DeviceError;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"ARENTRAC";
const VERSION: u32 = 1;
const FILE_HEADER_LEN_BYTES: usize = 32;
const RECORD_HEADER_LEN_BYTES: usize = 40;
const _: () = assert!(FILE_HEADER_LEN_BYTES == 8 + 2 * 4 + 2 * 8);
const _: () = assert!(RECORD_HEADER_LEN_BYTES == 2 * 4 + 4 * 8);
/// Pieces in which the content of the disk is looked at, in bytes.
const PIECE_LEN_BYTES: usize = 64 << 10;
/// The largest disk whose traces are loaded if nothing else is said, in bytes: all of it is held in memory.
pub const MAX_DISK_BYTES: u64 = 4 << 30;

/// Why a trace cannot be loaded.
#[derive(Debug)]
pub enum LoadError {
    /// The file cannot be read.
    Io(io::Error),
    /// It does not begin as a trace does, or its header is damaged.
    NotATrace,
    /// It is of another version of the format.
    Version(u32),
    /// The disk is larger than what is to be held in memory.
    TooLarge(u64),
    /// The record with this number, counted from 0, is damaged or makes no sense.
    Record(u64),
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::NotATrace => f.write_str("not a trace, or its header is damaged"),
            Self::Version(version) => write!(f, "a trace of version {version}; version {VERSION} is understood"),
            Self::TooLarge(len) => write!(f, "a trace of a disk of {len} bytes, too large to be held in memory"),
            Self::Record(number) => write!(f, "record {number} of the trace is damaged"),
        }
    }
}

impl std::error::Error for LoadError {}

impl From<io::Error> for LoadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A trace that was loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The trace.
    pub trace: Trace,
    /// Whether the last record was cut off, and so is missing.
    pub cut_off: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    Content = 1,
    Issue = 2,
    Complete = 3,
    Lost = 4,
    FlushIssue = 5,
    FlushComplete = 6,
    Begun = 7,
    Acknowledged = 8,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Content,
        Self::Issue,
        Self::Complete,
        Self::Lost,
        Self::FlushIssue,
        Self::FlushComplete,
        Self::Begun,
        Self::Acknowledged,
    ];

    fn has_payload(self) -> bool {
        matches!(self, Self::Content | Self::Issue)
    }
}

/// One record, its payload apart.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Record {
    kind: Kind,
    result: u32,
    id: u64,
    addr: u64,
}

fn result_code(result: Result<(), DeviceError>) -> u32 {
    match result {
        Ok(()) => 0,
        Err(DeviceError::Io) => 1,
        Err(DeviceError::Timeout) => 2,
        Err(DeviceError::Gone) => 3,
        Err(DeviceError::Unsupported) => 4,
    }
}

fn result_of(code: u32) -> Option<Result<(), DeviceError>> {
    let known = [
        Ok(()),
        Err(DeviceError::Io),
        Err(DeviceError::Timeout),
        Err(DeviceError::Gone),
        Err(DeviceError::Unsupported),
    ];
    known.get(code as usize).copied()
}

fn encode_file_header(disk_bytes: u64) -> [u8; FILE_HEADER_LEN_BYTES] {
    let mut bytes = [0; FILE_HEADER_LEN_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&(SECTOR_LEN_BYTES as u32).to_le_bytes());
    bytes[16..24].copy_from_slice(&disk_bytes.to_le_bytes());
    let check = hash64(&bytes[..24]);
    bytes[24..].copy_from_slice(&check.to_le_bytes());
    bytes
}

/// The size of the disk in bytes.
fn decode_file_header(bytes: &[u8; FILE_HEADER_LEN_BYTES]) -> Result<u64, LoadError> {
    let good = bytes[..8] == MAGIC && hash64(&bytes[..24]) == u64::from_le_bytes(part(bytes, 24));
    if !good {
        return Err(LoadError::NotATrace);
    }
    let (version, sector) = (u32::from_le_bytes(part(bytes, 8)), u32::from_le_bytes(part(bytes, 12)));
    match (version, sector as usize) {
        (VERSION, SECTOR_LEN_BYTES) => Ok(u64::from_le_bytes(part(bytes, 16))),
        (VERSION, _) => Err(LoadError::NotATrace),
        _ => Err(LoadError::Version(version)),
    }
}

impl Record {
    fn of(event: &Event) -> (Self, &[u8]) {
        let plain = |kind, id| Self { kind, result: 0, id, addr: 0 };
        match event {
            Event::Issue { id, addr, bytes } => (Self { addr: *addr, ..plain(Kind::Issue, *id) }, bytes),
            Event::Complete { id, result } => {
                (Self { result: result_code(*result), ..plain(Kind::Complete, *id) }, &[])
            }
            Event::Lost { id } => (plain(Kind::Lost, *id), &[]),
            Event::FlushIssue { id } => (plain(Kind::FlushIssue, *id), &[]),
            Event::FlushComplete { id, result } => {
                (Self { result: result_code(*result), ..plain(Kind::FlushComplete, *id) }, &[])
            }
            Event::Mark(Mark::Begun(number)) => (plain(Kind::Begun, *number as u64), &[]),
            Event::Mark(Mark::Acknowledged(number)) => (plain(Kind::Acknowledged, *number as u64), &[]),
        }
    }

    fn encode(&self, payload: &[u8]) -> [u8; RECORD_HEADER_LEN_BYTES] {
        let mut bytes = [0; RECORD_HEADER_LEN_BYTES];
        bytes[..4].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&self.result.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.addr.to_le_bytes());
        bytes[24..32].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        let check = hash64(&bytes[..32]).wrapping_add(hash64(payload));
        bytes[32..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// The record, the length of its payload in bytes, and what check and payload's hash have to agree on.
    fn decode(bytes: &[u8; RECORD_HEADER_LEN_BYTES]) -> Option<(Self, usize, u64)> {
        let number = u32::from_le_bytes(part(bytes, 0));
        let kind = Kind::ALL.into_iter().find(|kind| *kind as u32 == number)?;
        let (result, id) = (u32::from_le_bytes(part(bytes, 4)), u64::from_le_bytes(part(bytes, 8)));
        let (addr, len) = (u64::from_le_bytes(part(bytes, 16)), u64::from_le_bytes(part(bytes, 24)));
        let payload_hash = u64::from_le_bytes(part(bytes, 32)).wrapping_sub(hash64(&bytes[..32]));
        let longest = if kind.has_payload() { u64::from(MAX_PAYLOAD_BYTES) } else { 0 };
        (len <= longest).then_some((Self { kind, result, id, addr }, len as usize, payload_hash))
    }

    fn event(&self, payload: Vec<u8>) -> Option<Event> {
        let id = self.id;
        Some(match self.kind {
            Kind::Content => return None,
            Kind::Issue => Event::Issue { id, addr: self.addr, bytes: payload.into() },
            Kind::Complete => Event::Complete { id, result: result_of(self.result)? },
            Kind::Lost => Event::Lost { id },
            Kind::FlushIssue => Event::FlushIssue { id },
            Kind::FlushComplete => Event::FlushComplete { id, result: result_of(self.result)? },
            Kind::Begun => Event::Mark(Mark::Begun(usize::try_from(id).ok()?)),
            Kind::Acknowledged => Event::Mark(Mark::Acknowledged(usize::try_from(id).ok()?)),
        })
    }
}

/// Writes a trace as it happens.
#[derive(Debug)]
pub struct Writer<W: Write> {
    to: W,
}

impl Writer<BufWriter<File>> {
    /// Makes a new file, and writes what the disk holds. An old trace is replaced; anything else is left alone, with
    /// [`io::ErrorKind::AlreadyExists`].
    pub fn create(path: &Path, disk: &dyn ReadAt) -> io::Result<Self> {
        if path.exists() && !is_trace(path)? {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "exists, and is no trace"));
        }
        Self::new(BufWriter::with_capacity(1 << 18, File::create(path)?), disk)
    }
}

/// Whether a file begins as a trace does.
fn is_trace(path: &Path) -> io::Result<bool> {
    let mut magic = [0; MAGIC.len()];
    // Opening a pipe would wait for somebody at its other end.
    Ok(path.metadata()?.is_file() && fill(&mut File::open(path)?, &mut magic)? == magic.len() && magic == MAGIC)
}

impl<W: Write> Writer<W> {
    /// Writes the header, and what the disk holds.
    pub fn new(to: W, disk: &dyn ReadAt) -> io::Result<Self> {
        let mut writer = Self { to };
        writer.to.write_all(&encode_file_header(disk.len_bytes()))?;
        let mut bytes = vec![0; PIECE_LEN_BYTES];
        let mut addr = 0;
        while addr < disk.len_bytes() {
            let len = (disk.len_bytes() - addr).min(PIECE_LEN_BYTES as u64) as usize;
            let piece = &mut bytes[..len];
            disk.read_at(addr, piece).map_err(|error| io::Error::other(format!("the disk at {addr:#x}: {error}")))?;
            if piece.iter().any(|byte| *byte != 0) {
                writer.put(&Record { kind: Kind::Content, result: 0, id: 0, addr }, piece)?;
            }
            addr += len as u64;
        }
        Ok(writer)
    }

    fn put(&mut self, record: &Record, payload: &[u8]) -> io::Result<()> {
        self.to.write_all(&record.encode(payload))?;
        self.to.write_all(payload)
    }

    /// Ends the file.
    pub fn finish(mut self) -> io::Result<W> {
        self.to.flush()?;
        Ok(self.to)
    }
}

impl<W: Write> Sink for Writer<W> {
    fn take(&mut self, event: Event) -> io::Result<()> {
        let (record, payload) = Record::of(&event);
        self.put(&record, payload)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Writes a whole trace to a file.
pub fn save(path: &Path, trace: &Trace) -> io::Result<()> {
    let mut writer = Writer::create(path, &trace.base)?;
    trace.events.iter().try_for_each(|event| writer.take(event.clone()))?;
    writer.finish().map(drop)
}

/// Loads a trace whose disk has [`MAX_DISK_BYTES`] at most.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    read(BufReader::with_capacity(1 << 18, File::open(path)?), MAX_DISK_BYTES)
}

/// Reads a trace whose disk has so many bytes at most. What is held in memory is that, and what is read.
pub fn read(mut from: impl Read, max_disk_bytes: u64) -> Result<Loaded, LoadError> {
    let mut header = [0; FILE_HEADER_LEN_BYTES];
    if fill(&mut from, &mut header)? < header.len() {
        return Err(LoadError::NotATrace);
    }
    let disk_bytes = decode_file_header(&header)?;
    if disk_bytes > max_disk_bytes {
        return Err(LoadError::TooLarge(disk_bytes));
    }
    let len = usize::try_from(disk_bytes).map_err(|_| LoadError::TooLarge(disk_bytes))?;
    let (mut base, mut events) = (vec![0; len], Vec::new());
    let mut number = 0;
    let cut_off = loop {
        let damaged = LoadError::Record(number);
        let (record, payload) = match read_record(&mut from, number)? {
            Next::Record(record, payload) => (record, payload),
            Next::End { cut_off } => break cut_off,
        };
        let end = record.addr.checked_add(payload.len() as u64).filter(|end| *end <= disk_bytes);
        let range = record.addr as usize..end.ok_or(LoadError::Record(number))? as usize;
        if record.kind == Kind::Content {
            let target = base.get_mut(range).filter(|_| events.is_empty()).ok_or(damaged)?;
            target.copy_from_slice(&payload);
        } else {
            events.push(record.event(payload).ok_or(damaged)?);
        }
        number += 1;
    };
    Ok(Loaded { trace: Trace { base: Arc::from(base), events }, cut_off })
}

enum Next {
    Record(Record, Vec<u8>),
    End { cut_off: bool },
}

fn read_record(from: &mut impl Read, number: u64) -> Result<Next, LoadError> {
    let mut header = [0; RECORD_HEADER_LEN_BYTES];
    match fill(from, &mut header)? {
        0 => return Ok(Next::End { cut_off: false }),
        count if count < header.len() => return Ok(Next::End { cut_off: true }),
        _ => {}
    }
    let (record, len, payload_hash) = Record::decode(&header).ok_or(LoadError::Record(number))?;
    let mut payload = vec![0; len];
    if fill(from, &mut payload)? < len {
        return Ok(Next::End { cut_off: true });
    }
    if hash64(&payload) != payload_hash {
        return Err(LoadError::Record(number));
    }
    Ok(Next::Record(record, payload))
}

/// Reads until `bytes` is full or nothing more comes; how much it was.
fn fill(from: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match from.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const DISK: usize = 200 * SECTOR_LEN_BYTES;

    fn example() -> Trace {
        let mut base = vec![0; DISK];
        base[70_000] = 7;
        let write = |id, addr| Event::Issue { id, addr, bytes: Arc::from([id as u8; SECTOR_LEN_BYTES]) };
        let failed = |error| Err(error);
        let events = vec![
            Event::Mark(Mark::Begun(1)),
            write(1, 512),
            write(2, DISK as u64 - 512),
            Event::Complete { id: 1, result: Ok(()) },
            Event::FlushIssue { id: 3 },
            Event::FlushComplete { id: 3, result: failed(DeviceError::Timeout) },
            Event::Mark(Mark::Acknowledged(1)),
            Event::Lost { id: 2 },
            write(4, 0),
            Event::Complete { id: 4, result: failed(DeviceError::Gone) },
        ];
        Trace { base: base.into(), events }
    }

    fn bytes(trace: &Trace) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &trace.base).unwrap();
        trace.events.iter().for_each(|event| writer.take(event.clone()).unwrap());
        writer.finish().unwrap()
    }

    fn shown(trace: &Trace) -> String {
        format!("{:?}", trace.events)
    }

    #[test]
    fn a_trace_comes_back_as_it_was() {
        let trace = example();
        let bytes = bytes(&trace);
        // One piece of the disk is not zero.
        assert_eq!(bytes.len(), 32 + 40 + (DISK - PIECE_LEN_BYTES) + 10 * 40 + 3 * 512);
        let loaded = read(&bytes[..], DISK as u64).unwrap();
        assert!(!loaded.cut_off);
        assert_eq!(loaded.trace.base, trace.base);
        assert_eq!(shown(&loaded.trace), shown(&trace));
        assert!(matches!(read(&bytes[..], DISK as u64 - 1), Err(LoadError::TooLarge(_))));
    }

    #[test]
    fn integers_are_little_endian_and_where_the_format_says() {
        let header = encode_file_header(0x0102_0304);
        assert_eq!(&header[..20], b"ARENTRAC\x01\0\0\0\0\x02\0\0\x04\x03\x02\x01");
        let record = Record { kind: Kind::FlushComplete, result: 2, id: 0x0a0b, addr: 0x0c };
        let bytes = record.encode(&[]);
        assert_eq!(bytes[..10], [6, 0, 0, 0, 2, 0, 0, 0, 0x0b, 0x0a]);
        assert_eq!((bytes[16], bytes[24]), (0x0c, 0));
    }

    #[test]
    fn a_file_that_is_cut_off_gives_what_is_whole() {
        let trace = example();
        let bytes = bytes(&trace);
        let first_event = 32 + 40 + DISK - PIECE_LEN_BYTES;
        for len in first_event..bytes.len() {
            let loaded = read(&bytes[..len], 1 << 20).unwrap();
            let events = loaded.trace.events.len();
            assert!(events < trace.events.len());
            assert_eq!(shown(&loaded.trace), format!("{:?}", &trace.events[..events]), "{len}");
            let whole =
                40 * events + 512 * loaded.trace.events.iter().filter(|e| matches!(e, Event::Issue { .. })).count();
            assert_eq!(loaded.cut_off, len != first_event + whole, "{len}");
        }
        assert!((0..32).all(|len| matches!(read(&bytes[..len], 1 << 20), Err(LoadError::NotATrace))));
    }

    #[test]
    fn no_changed_byte_goes_unnoticed() {
        let trace = example();
        let good = bytes(&trace);
        let mut rng = Rng::new(11);
        for at in (0..good.len()).filter(|at| at % 97 == 0 || *at < 100 || at + 600 > good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 1 << rng.below(8);
            // A length that became larger looks as if the file was cut off.
            let noticed = read(&bad[..], DISK as u64).map_or(true, |loaded| loaded.cut_off);
            assert!(noticed, "byte {at}");
        }
    }

    #[test]
    fn only_traces_are_replaced() {
        let path = std::env::temp_dir().join(format!("arenite-trace-{}", std::process::id()));
        let trace = example();
        save(&path, &trace).unwrap();
        save(&path, &trace).unwrap();
        assert_eq!(shown(&load(&path).unwrap().trace), shown(&trace));
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(save(&path, &trace).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn hostile_files_are_refused() {
        let header = encode_file_header(4096).to_vec();
        let with = |record: Record, payload: &[u8]| [&header[..], &record.encode(payload), payload].concat();
        let issue = Record { kind: Kind::Issue, result: 0, id: 1, addr: 0 };
        let bad = [
            with(Record { addr: 4096, ..issue }, &[0; 512]),
            with(Record { addr: u64::MAX, ..issue }, &[0; 512]),
            with(Record { kind: Kind::Complete, result: 9, ..issue }, &[]),
            with(Record { kind: Kind::FlushIssue, ..issue }, &[1]),
            [&with(issue, &[0; 512])[..], &with(Record { kind: Kind::Content, ..issue }, &[1; 512])[32..]].concat(),
        ];
        for (number, bytes) in bad.iter().enumerate() {
            assert!(matches!(read(&bytes[..], 4096), Err(LoadError::Record(_))), "{number}");
        }
        let mut long = with(issue, &[]);
        long[32 + 24..32 + 32].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(read(&long[..], 4096), Err(LoadError::Record(0))));
        assert!(matches!(read(&encode_file_header(u64::MAX)[..], MAX_DISK_BYTES), Err(LoadError::TooLarge(_))));
        let mut other = encode_file_header(0);
        other[8] = 2;
        let check = hash64(&other[..24]);
        other[24..].copy_from_slice(&check.to_le_bytes());
        assert!(matches!(read(&other[..], 0), Err(LoadError::Version(2))));
        let mut rng = Rng::new(1);
        for len in 0..300 {
            let noise: Vec<u8> = (0..len).map(|_| rng.next_u64() as u8).collect();
            assert!(matches!(read(&[&header[..], &noise].concat()[..], 4096), Ok(_) | Err(LoadError::Record(0))));
        }
    }
}
