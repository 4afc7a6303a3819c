//! `arenite timeline`: what a commit wrote, in order, with its flushes: the picture that explains crash safety.
//!
//! ```text
//!   trace --> Geometry (which block is what) --> writes in lanes, flushes --> one commit of them --> svg, text
//! ```
//!
//! Time is the number of the event in the trace, not seconds: what matters to a crash is what comes before what. A
//! commit begins where the one before it is settled, and is settled by the flush behind its second superblock, or ends
//! where the trace does. It is acknowledged when the first flush ends that was issued after its first superblock was
//! written. All of that is found in what was written alone, so a trace needs nobody's marks.

mod example;
mod geometry;
mod svg;
mod text;

pub(crate) use example::record as example;
pub(crate) use svg::picture;
pub(crate) use text::lines;

use arenite_shim::nbd::tracefile;
use arenite_shim::trace::{Event, Trace};
use geometry::Geometry;
use std::collections::BTreeMap;
use std::path::Path;

/// Loads a trace from a file. That its last record is cut off, as when the recorder was killed, is no obstacle.
pub(crate) fn load(path: &Path) -> Result<Trace, String> {
    match std::fs::metadata(path) {
        // Opening a pipe would wait for somebody at its other end.
        Ok(found) if !found.is_file() => return Err("not a regular file".to_owned()),
        _ => {}
    }
    tracefile::load(path).map(|loaded| loaded.trace).map_err(|error| error.to_string())
}

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Data,
    Log,
    HeaderA,
    SuperA,
    HeaderB,
    SuperB,
}

impl Lane {
    const ALL: [Self; 6] = [Self::Data, Self::Log, Self::HeaderA, Self::SuperA, Self::HeaderB, Self::SuperB];

    fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Log => "log",
            Self::HeaderA => "header A",
            Self::SuperA => "superblock 0",
            Self::HeaderB => "header B",
            Self::SuperB => "superblock 1",
        }
    }

    /// The class of its colour in pictures.
    fn class(self) -> &'static str {
        match self {
            Self::Data => "used",
            Self::Log => "log",
            Self::HeaderA | Self::HeaderB => "header",
            Self::SuperA | Self::SuperB => "super",
        }
    }
}

/// How something that was issued ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done(usize),
    Failed(usize),
    /// Not within the trace.
    Never,
}

impl End {
    /// The event at which it ended; `otherwise` if it did not.
    fn at(self, otherwise: usize) -> usize {
        match self {
            Self::Done(at) | Self::Failed(at) => at,
            Self::Never => otherwise,
        }
    }
}

/// A write of blocks that belong to one lane.
#[derive(Clone, Debug)]
struct Write {
    lane: Lane,
    addr: u64,
    len_bytes: u64,
    what: String,
    /// Of the superblock that it brings.
    generation: Option<u64>,
    issued: usize,
    end: End,
}

#[derive(Clone, Copy, Debug)]
struct Flush {
    issued: usize,
    end: End,
}

/// One commit: numbers of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    generation: u64,
    first: usize,
    /// Issue of the first superblock.
    switch: usize,
    acknowledged: Option<usize>,
    /// The last event that belongs to it.
    last: usize,
}

/// From numbers of events to places on a line. Of a long commit the data have one half, and all that follows the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scale {
    first: usize,
    steps: usize,
    /// Events with nothing but data, if those are drawn narrower than the rest.
    data: usize,
}

impl Scale {
    /// The place of an event, on a line of this length.
    fn place(&self, at: usize, len: f64) -> f64 {
        let at = at.saturating_sub(self.first).min(self.steps);
        let (from, to, start, part) = match self.data {
            0 => (0, self.steps, 0.0, len),
            data if at < data => (0, data, 0.0, len / 2.0),
            data => (data, self.steps, len / 2.0, len / 2.0),
        };
        start + part * (at - from) as f64 / (to - from).max(1) as f64
    }

    /// The length of an event there, on a line of this length.
    fn step(&self, at: usize, len: f64) -> f64 {
        self.place(at + 1, len) - self.place(at, len)
    }
}

/// What is shown.
#[derive(Debug)]
pub(crate) struct Timeline {
    writes: Vec<Write>,
    flushes: Vec<Flush>,
    span: Span,
    /// Its number among the commits of the trace, from 1, and how many there are.
    number: usize,
    of: usize,
    /// The generation before it; none if there was no volume.
    before: Option<u64>,
}

impl Timeline {
    /// Finds a commit in a trace: by its number from 1, or the last one that was acknowledged.
    pub(crate) fn new(trace: &Trace, wanted: Option<usize>) -> Result<Self, String> {
        let geometry = Geometry::of(trace).ok_or("no volume: neither the disk nor any write holds a superblock")?;
        let (writes, flushes) = collect(trace, &geometry);
        let spans = spans(&writes, &flushes, geometry.before, trace.events.len());
        let of = spans.len();
        let last = spans.iter().rposition(|span| span.acknowledged.is_some()).map_or(of, |index| index + 1);
        let number = wanted.unwrap_or(last);
        let Some(span) = number.checked_sub(1).and_then(|index| spans.get(index)).copied() else {
            return Err(match of {
                0 => "no commit: the first superblock was never written anew".to_owned(),
                _ => format!("there is no commit {number}: the trace has {of}"),
            });
        };
        let before = match number {
            1 => geometry.before,
            _ => spans.get(number - 2).map(|span| span.generation),
        };
        let within = |issued: usize, end: End| issued <= span.last && end.at(span.last) >= span.first;
        Ok(Self {
            writes: writes.into_iter().filter(|write| within(write.issued, write.end)).collect(),
            flushes: flushes.into_iter().filter(|flush| within(flush.issued, flush.end)).collect(),
            span,
            number,
            of,
            before,
        })
    }

    fn scale(&self, room: usize) -> Scale {
        let (first, behind) = (self.span.first, self.span.last + 1);
        let others = self.writes.iter().filter(|write| write.lane != Lane::Data).map(|write| write.issued);
        // What a commit is about comes behind the data, and must not be lost at the edge.
        let data = others.min().unwrap_or(first).max(first) - first;
        let squeezed = behind - first > room && data > (behind - first) / 2;
        Scale { first, steps: behind - first, data: if squeezed { data } else { 0 } }
    }

    /// Where the switch may or may not have happened: from the issue of the first superblock until it is durable.
    fn unsure(&self) -> (usize, usize) {
        (self.span.switch, self.span.acknowledged.unwrap_or(self.span.last))
    }

    fn title(&self) -> String {
        let Span { generation, .. } = self.span;
        format!("Commit {} of {}: generation {generation}", self.number, self.of)
    }

    fn facts(&self) -> String {
        let blocks = self.writes.len();
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let before = match self.before_acknowledged() {
            _ if self.span.acknowledged.is_none() => "never acknowledged".to_owned(),
            count => format!("{count} before it is acknowledged"),
        };
        let flushes = self.flushes.len();
        format!("{blocks} write{}, {flushes} flush{}, {before}", plural(blocks), if flushes == 1 { "" } else { "es" })
    }

    /// Flushes that ended by the acknowledgement.
    fn before_acknowledged(&self) -> usize {
        let Some(acknowledged) = self.span.acknowledged else { return 0 };
        self.flushes.iter().filter(|flush| flush.end.at(usize::MAX) <= acknowledged).count()
    }

    /// What a crash leaves in the three parts of a commit.
    fn verdicts(&self) -> [String; 3] {
        let new = self.span.generation;
        match self.before {
            Some(old) => [format!("generation {old}"), format!("{old} or {new}, whole"), format!("generation {new}")],
            None => ["no volume".to_owned(), format!("none, or generation {new}"), format!("generation {new}")],
        }
    }
}

/// All writes and flushes of a trace, in the order in which they were issued.
fn collect(trace: &Trace, geometry: &Geometry) -> (Vec<Write>, Vec<Flush>) {
    let (mut writes, mut flushes) = (Vec::<Write>::new(), Vec::<Flush>::new());
    // Where the parts of a write, and a flush, are in these.
    let mut parts = BTreeMap::new();
    let mut waiting = BTreeMap::new();
    for (at, event) in trace.events.iter().enumerate() {
        match event {
            Event::Issue { id, addr, bytes } => {
                let first = writes.len();
                geometry.split(*addr, bytes, at, &mut writes);
                parts.insert(*id, first..writes.len());
            }
            Event::Complete { id, result } => {
                let end = if result.is_ok() { End::Done(at) } else { End::Failed(at) };
                for write in &mut writes[parts.remove(id).unwrap_or(0..0)] {
                    write.end = end;
                }
            }
            Event::FlushIssue { id } => {
                waiting.insert(*id, flushes.len());
                flushes.push(Flush { issued: at, end: End::Never });
            }
            Event::FlushComplete { id, result } => {
                if let Some(index) = waiting.remove(id) {
                    flushes[index].end = if result.is_ok() { End::Done(at) } else { End::Failed(at) };
                }
            }
            Event::Lost { .. } | Event::Mark(_) => {}
        }
    }
    (writes, flushes)
}

/// The commits: each write of a first superblock whose generation is new.
fn spans(writes: &[Write], flushes: &[Flush], before: Option<u64>, events: usize) -> Vec<Span> {
    // The first flush to end well of those that were issued after a write was done.
    let flushed = |write: &Write| match write.end {
        End::Done(done) => {
            let later = flushes.partition_point(|flush| flush.issued <= done);
            flushes[later..].iter().find_map(|flush| match flush.end {
                End::Done(at) => Some(at),
                _ => None,
            })
        }
        _ => None,
    };
    let mut seconds = BTreeMap::new();
    for write in writes.iter().filter(|write| write.lane == Lane::SuperB) {
        seconds.entry(write.generation).or_insert(write);
    }
    let mut newest = before;
    let mut switches = Vec::new();
    for write in writes.iter().filter(|write| write.lane == Lane::SuperA) {
        let Some(generation) = write.generation.filter(|generation| newest.is_none_or(|newest| *generation > newest))
        else {
            continue;
        };
        newest = Some(generation);
        let settled = seconds.get(&Some(generation)).and_then(|write| flushed(write));
        switches.push((generation, write.issued, flushed(write), settled));
    }
    let mut spans = Vec::<Span>::new();
    for (index, (generation, switch, acknowledged, settled)) in switches.iter().copied().enumerate() {
        let behind = spans.last().map_or(0, |span| span.last + 1);
        // A mount in between has flushed, perhaps: that is no part of a commit.
        let first =
            writes.iter().map(|write| write.issued).find(|issued| *issued >= behind).unwrap_or(switch).min(switch);
        let next = switches.get(index + 1).map_or(events, |(_, switch, ..)| *switch);
        let end = settled.or(acknowledged).unwrap_or(next.saturating_sub(1));
        let last = end.min(next.saturating_sub(1)).max(switch);
        spans.push(Span { generation, first, switch, acknowledged: acknowledged.filter(|at| *at <= last), last });
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_commit_has_half_of_the_picture() {
        let scale = Scale { first: 10, steps: 1020, data: 1000 };
        assert_eq!([10, 510, 1010, 1020, 1030].map(|at| scale.place(at, 80.0)), [0.0, 20.0, 40.0, 60.0, 80.0]);
        assert!(scale.step(1010, 80.0) > 1.9 && scale.step(500, 80.0) < 0.1);
        let even = Scale { data: 0, steps: 20, ..scale };
        assert_eq!([10, 15, 30, 99].map(|at| even.place(at, 80.0)), [0.0, 20.0, 80.0, 80.0]);
    }
}
