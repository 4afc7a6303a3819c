//! A map as lines of letters, coloured if it is a terminal that sees them.

use super::{Band, Cell, Map};
use crate::size::binary;
use arenite_core::CopyState;
use std::io::IsTerminal;

/// Columns beside the bar, and the least and most that a bar has.
const BESIDE: usize = 40;
const NARROWEST: usize = 16;
const WIDEST: usize = 160;
const USUAL: usize = 80;
/// Rows that a map of few arenas should have.
const ROWS: usize = 8;

const HEADER: u8 = 35;
const LOG: u8 = 33;
const USED: u8 = 34;
const FREE: u8 = 90;
const RESERVED: u8 = 37;
const DAMAGED: u8 = 31;

/// Columns of a bar: what the terminal has room for.
fn columns() -> usize {
    let width = rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
    width.filter(|width| *width > 0).unwrap_or(USUAL).saturating_sub(BESIDE).clamp(NARROWEST, WIDEST)
}

/// Whether standard output takes colours: it is a terminal, and nobody said no.
fn wants_colour() -> bool {
    let no = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    std::io::stdout().is_terminal() && !no && !dumb
}

/// Writes letters, and the colour in front of the first of those that have the same.
struct Painter {
    out: String,
    colour: bool,
    now: u8,
}

impl Painter {
    fn paint(&mut self, colour: u8, letter: char) {
        if self.colour && self.now != colour {
            self.out += &format!("\x1b[{colour}m");
            self.now = colour;
        }
        self.out.push(letter);
    }

    fn plain(&mut self, text: &str) {
        if self.now != 0 {
            self.out += "\x1b[0m";
            self.now = 0;
        }
        self.out += text;
    }
}

/// Cells of an arena in a map of so many: a row, or several if there are few arenas.
pub(crate) fn cells(arenas: usize) -> usize {
    columns() * (ROWS / arenas.max(1)).max(1)
}

/// The map, for this terminal.
pub(crate) fn lines(map: &Map) -> String {
    let mut painter = Painter { out: String::new(), colour: wants_colour(), now: 0 };
    painter.plain(&format!(
        "{}, blocks of {}, {} arenas, generation {}, {} free\n",
        binary(map.len_bytes),
        binary(map.block_size),
        map.bands.len(),
        map.generation,
        binary(map.free_bytes())
    ));
    let bar = columns();
    for (index, band) in map.bands.iter().enumerate() {
        self::band(&mut painter, index, band, bar);
    }
    legend(&mut painter, map);
    for (copy, name) in map.superblocks.iter().zip(["first", "second"]) {
        if *copy != CopyState::Good {
            painter.plain(&format!("note: {name} superblock: {copy}\n"));
        }
    }
    painter.out
}

fn band(painter: &mut Painter, index: usize, band: &Band, bar: usize) {
    let state = if band.damaged { "damaged".to_owned() } else { format!("{:>5.1}% free", band.free_percent()) };
    for (row, cells) in band.cells.chunks(bar).enumerate() {
        let last = (row + 1) * bar >= band.cells.len();
        match row {
            0 => painter.plain(&format!("{index:>3} {:>#16x} ", band.addr)),
            _ => painter.plain(&" ".repeat(21)),
        }
        for good in band.headers_good {
            match (row, good) {
                (0, true) => painter.paint(HEADER, 'H'),
                (0, false) => painter.paint(DAMAGED, 'h'),
                _ => painter.plain(" "),
            }
        }
        for cell in cells {
            let (colour, letter) = if band.damaged { (DAMAGED, '?') } else { letter(*cell) };
            painter.paint(colour, letter);
        }
        if last {
            painter.paint(RESERVED, '-');
            painter.paint(RESERVED, '-');
        }
        let behind = if row == 0 { format!("  {state}\n") } else { "\n".to_owned() };
        painter.plain(&behind);
    }
}

fn letter(cell: Cell) -> (u8, char) {
    match cell {
        Cell { log: 1.., .. } => (LOG, 'L'),
        Cell { used: 0, .. } => (FREE, '.'),
        Cell { blocks, used, .. } if used == blocks => (USED, '#'),
        Cell { blocks, used, .. } if used * 2 >= blocks => (USED, '+'),
        _ => (USED, ':'),
    }
}

fn legend(painter: &mut Painter, map: &Map) {
    let per_cell = map.bands.iter().flat_map(|band| &band.cells).map(|cell| cell.blocks).max().unwrap_or(0);
    let entries =
        [(FREE, '.', "free"), (USED, ':', "some used"), (USED, '+', "half"), (USED, '#', "all"), (LOG, 'L', "log")];
    for (colour, letter, meaning) in entries {
        painter.paint(colour, letter);
        painter.plain(&format!(" {meaning}  "));
    }
    painter.paint(HEADER, 'H');
    painter.plain(" header  ");
    if map.bands.iter().any(|band| band.headers_good.contains(&false)) {
        painter.paint(DAMAGED, 'h');
        painter.plain(" header not of this commit  ");
    }
    painter.paint(RESERVED, '-');
    painter.plain(" reserved");
    if map.damaged() > 0 {
        painter.plain("  ");
        painter.paint(DAMAGED, '?');
        painter.plain(" damaged");
    }
    painter.plain(&format!("; a letter is up to {per_cell} blocks\n"));
}
