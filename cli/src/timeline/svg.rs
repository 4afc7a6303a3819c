//! A commit as a picture: a lane for each kind of block, flushes across all of them, and below what a crash leaves.

use super::{End, Lane, Scale, Timeline, Write};
use crate::svg::{Canvas, TOP};

const LEFT: f64 = 130.0;
const RIGHT: f64 = 980.0;
const BAR: f64 = 16.0;
const GAP: f64 = 4.0;
/// Bars above each other in one lane; more share these rows.
const ROWS: usize = 12;
/// Pixels of a letter, for whether a text fits.
const LETTER: f64 = 6.6;

/// Events that find room for words.
const ROOMY: usize = 48;
/// Half the length of the words at the acknowledgement.
const HALF_ACK: f64 = 128.0;

impl Scale {
    fn x(&self, at: usize) -> f64 {
        LEFT + self.place(at, RIGHT - LEFT)
    }

    /// Whether words find room beside an event.
    fn is_roomy(&self, at: usize) -> bool {
        self.step(at, RIGHT - LEFT) >= (RIGHT - LEFT) / ROOMY as f64
    }
}

/// The whole picture, as a file.
pub(crate) fn picture(timeline: &Timeline) -> String {
    let scale = timeline.scale(ROOMY);
    let mut canvas = Canvas::new();
    let entries = [
        ("used", "data"),
        ("log", "allocation log"),
        ("header", "arena header"),
        ("super", "superblock"),
        ("flushbar", "flush: what was written before it is durable when it ends"),
    ];
    let narrow = if scale.data > 0 { "; where there are only data, they are narrower" } else { "" };
    let facts = format!("{}. From left to right: the order of events{narrow}.", timeline.facts());
    canvas.head(&timeline.title(), &facts, &entries, "");
    let rows: Vec<_> = Lane::ALL.iter().map(|lane| stack(timeline, *lane)).collect();
    let heights: Vec<_> = rows.iter().map(|(count, _)| *count as f64 * (BAR + GAP) + 10.0).collect();
    let bottom = TOP + heights.iter().sum::<f64>();
    flushes(&mut canvas, timeline, &scale, bottom);
    let mut y = TOP;
    for ((lane, (_, bars)), height) in Lane::ALL.iter().zip(&rows).zip(&heights) {
        canvas.line("lane", [20.0, y, RIGHT, y]);
        canvas.text("", 20.0, y + 19.0, "start", lane.name());
        for (row, write) in bars {
            bar(&mut canvas, timeline, &scale, write, y + 6.0 + *row as f64 * (BAR + GAP));
        }
        y += height;
    }
    canvas.line("lane", [20.0, y, RIGHT, y]);
    canvas.text("", 20.0, y + 20.0, "start", "flush");
    let end = crash(&mut canvas, timeline, &scale, y + 40.0);
    acknowledged(&mut canvas, timeline, &scale, end);
    let [old, either, new] = timeline.verdicts();
    let told = format!("A crash shows {old} at first, then {either}, and {new} from the acknowledgement on.");
    canvas.finish(end + 34.0, &timeline.title(), &format!("{}. {told}", timeline.facts()))
}

/// Puts the writes of a lane into rows, none over another as far as rows suffice.
fn stack(timeline: &Timeline, lane: Lane) -> (usize, Vec<(usize, &Write)>) {
    let mut busy_until = Vec::<usize>::new();
    let mut bars = Vec::new();
    for write in timeline.writes.iter().filter(|write| write.lane == lane) {
        let free = busy_until.iter().position(|until| *until < write.issued);
        let row = free.unwrap_or(if busy_until.len() < ROWS { busy_until.len() } else { bars.len() % ROWS });
        let until = write.end.at(timeline.span.last);
        match busy_until.get_mut(row) {
            Some(busy) => *busy = (*busy).max(until),
            None => busy_until.push(until),
        }
        bars.push((row, write));
    }
    (busy_until.len().max(1), bars)
}

fn bar(canvas: &mut Canvas, timeline: &Timeline, scale: &Scale, write: &Write, y: f64) {
    let from = scale.x(write.issued.max(timeline.span.first));
    let to = scale.x(write.end.at(timeline.span.last + 1)).max(from + 3.0);
    let ended = match write.end {
        End::Done(at) => format!("done at {}", at.saturating_sub(timeline.span.first)),
        End::Failed(_) => "failed".to_owned(),
        End::Never => "not done in this trace".to_owned(),
    };
    let issued = write.issued.saturating_sub(timeline.span.first);
    let hover = format!(
        "{}: {}; {:#x}, {} bytes; issued at {issued}, {ended}",
        write.lane.name(),
        write.what,
        write.addr,
        write.len_bytes
    );
    let class = if matches!(write.end, End::Failed(_)) { "damaged" } else { write.lane.class() };
    canvas.rect(class, [from, y, to - from, BAR], &hover);
    // Beside the bar, if there is room up to the edge and commits are not crowded.
    let wide = write.what.len() as f64 * LETTER;
    if scale.is_roomy(write.end.at(timeline.span.last)) && to + wide + 6.0 < RIGHT {
        canvas.text("mono", to + 4.0, y + BAR - 4.0, "start", &write.what);
    }
}

fn flushes(canvas: &mut Canvas, timeline: &Timeline, scale: &Scale, bottom: f64) {
    for (number, flush) in (1..).zip(&timeline.flushes) {
        let from = scale.x(flush.issued.max(timeline.span.first));
        let to = scale.x(flush.end.at(timeline.span.last + 1)).max(from + 3.0);
        let class = if matches!(flush.end, End::Failed(_)) { "damaged" } else { "flushbar" };
        let hover = format!("flush {number}: all that was done before it was issued is durable when it ends");
        canvas.rect("flush", [from, TOP, to - from, bottom - TOP], &hover);
        canvas.rect(class, [from, bottom + 8.0, to - from, BAR], &hover);
        let label = format!("flush {number}");
        match scale.is_roomy(flush.issued) {
            true if to + 50.0 < RIGHT => canvas.text("mono", to + 4.0, bottom + 20.0, "start", &label),
            true => canvas.text("mono", from - 4.0, bottom + 20.0, "end", &label),
            false => {}
        }
    }
}

/// The strip at the bottom: what the volume shows after a crash at each moment. Returns where it ends.
fn crash(canvas: &mut Canvas, timeline: &Timeline, scale: &Scale, y: f64) -> f64 {
    let (switch, sure) = timeline.unsure();
    let (first, behind) = (timeline.span.first, timeline.span.last + 1);
    canvas.line("lane", [20.0, y - 6.0, RIGHT, y - 6.0]);
    canvas.text("", 20.0, y + 13.0, "start", "a crash here");
    canvas.text("", 20.0, y + 27.0, "start", "shows");
    let parts = [("old", first, switch), ("either", switch, sure), ("new", sure, behind)];
    for ((class, from, to), says) in parts.into_iter().zip(timeline.verdicts()) {
        let (from, to) = (scale.x(from), scale.x(to));
        if to > from {
            canvas.rect(class, [from, y, to - from, 32.0], &format!("a crash here shows: {says}"));
            if says.len() as f64 * LETTER < to - from {
                canvas.text("", (from + to) / 2.0, y + 20.0, "middle", &says);
            }
        }
    }
    y + 32.0
}

fn acknowledged(canvas: &mut Canvas, timeline: &Timeline, scale: &Scale, bottom: f64) {
    let Some(at) = timeline.span.acknowledged else { return };
    let x = scale.x(at);
    canvas.line("ack", [x, TOP - 6.0, x, bottom + 6.0]);
    let middle = x.clamp(20.0 + HALF_ACK, RIGHT - HALF_ACK);
    canvas.text("acktext", middle, bottom + 20.0, "middle", "acknowledged: durable from here on");
}
