//! A commit as lines of letters: lanes first, then every event.

use super::{End, Lane, Scale, Timeline};

/// Columns that the lanes have at most; longer commits are squeezed.
const COLUMNS: usize = 96;
/// Events that are listed one by one.
const LISTED: usize = 200;
const NAME: usize = 14;

/// Lanes and events, for a terminal or a log.
pub(crate) fn lines(timeline: &Timeline) -> String {
    let mut out = format!("{}\n{}\n\n", timeline.title(), timeline.facts());
    let scale = timeline.scale(COLUMNS);
    for lane in Lane::ALL {
        let of_lane = timeline.writes.iter().filter(|write| write.lane == lane);
        out += &scale.row(lane.name(), of_lane.map(|write| (write.issued, write.end.at(timeline.span.last), '=')));
    }
    let flushes = timeline.flushes.iter().map(|flush| (flush.issued, flush.end.at(timeline.span.last), 'F'));
    out += &scale.row("flush", flushes);
    out += &scale.row("acknowledged", timeline.span.acknowledged.iter().map(|at| (*at, *at, '^')));
    let (from, to) = timeline.unsure();
    let (first, last) = (timeline.span.first, timeline.span.last);
    let mut parts = vec![(from, to, '?')];
    if from > first {
        parts.push((first, from - 1, 'o'));
    }
    if timeline.span.acknowledged.is_some() {
        parts.push((to, last, 'n'));
    }
    out += &scale.row("after a crash", parts.into_iter());
    let [old, either, new] = timeline.verdicts();
    out += &format!("\nA crash shows: o {old}; ? {either}; n {new}.\n");
    if scale.data > 0 {
        out += "The left half has nothing but data, and is squeezed.\n";
    }
    out.push('\n');
    events(&mut out, timeline);
    out
}

impl Scale {
    fn column(&self, at: usize) -> usize {
        let columns = self.steps.min(COLUMNS);
        // A place that should be a whole number may be a little less.
        ((self.place(at, columns as f64) + 1e-6) as usize).min(columns - 1)
    }

    /// The column behind all that an event takes; one that began at `from` has at least its own.
    fn behind(&self, from: usize, to: usize) -> usize {
        let columns = self.steps.min(COLUMNS);
        let behind = (self.place(to + 1, columns as f64) + 1e-6) as usize;
        behind.clamp(self.column(from) + 1, columns)
    }

    fn row(&self, name: &str, parts: impl Iterator<Item = (usize, usize, char)>) -> String {
        let mut row = vec![' '; self.steps.min(COLUMNS)];
        for (from, to, letter) in parts {
            for place in &mut row[self.column(from)..self.behind(from, to)] {
                *place = letter;
            }
        }
        let row: String = row.into_iter().collect();
        format!("{name:<NAME$}{}\n", row.trim_end())
    }
}

fn events(out: &mut String, timeline: &Timeline) {
    let first = timeline.span.first;
    let mut events = Vec::new();
    for write in &timeline.writes {
        let (lane, what) = (write.lane.name(), &write.what);
        let what = format!("write    {lane:<12}  {:#x} + {:#x}  {what}", write.addr, write.len_bytes);
        events.push((write.issued, what));
        match write.end {
            End::Done(at) => events.push((at, format!("done     {lane:<12}  {:#x}", write.addr))),
            End::Failed(at) => events.push((at, format!("failed   {lane:<12}  {:#x}", write.addr))),
            End::Never => {}
        }
    }
    for flush in &timeline.flushes {
        events.push((flush.issued, "flush".to_owned()));
        match flush.end {
            End::Done(at) => events.push((at, "flushed".to_owned())),
            End::Failed(at) => events.push((at, "flush failed".to_owned())),
            End::Never => {}
        }
    }
    if let Some(at) = timeline.span.acknowledged {
        // It follows from the end of the flush.
        events.push((at, format!("acknowledged: generation {} is durable", timeline.span.generation)));
    }
    events.retain(|(at, _)| (first..=timeline.span.last).contains(at));
    events.sort_by_key(|(at, _)| *at);
    for (at, what) in events.iter().take(LISTED) {
        *out += &format!("{:>6}  {what}\n", at - first);
    }
    if events.len() > LISTED {
        *out += &format!("and {} more\n", events.len() - LISTED);
    }
}
