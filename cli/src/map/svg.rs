//! A map as a picture: a band for each arena, headers in front, reserved blocks behind, used blocks rising from below.

use super::{Band, Map};
use crate::size::binary;
use crate::svg::{Canvas, TOP, WIDTH};
use arenite_core::CopyState;
use std::path::Path;

const LEFT: f64 = 150.0;
const RIGHT: f64 = 900.0;
/// Cells of the longest band.
const CELLS: usize = 360;
/// A header or reserved block; wider than to scale, or nobody would see it.
const MARK: f64 = 5.0;

/// Heights that depend on how many bands there are.
struct Rows {
    band: f64,
    step: f64,
    /// Every so many bands have a label.
    labels: usize,
}

impl Rows {
    fn of(bands: usize) -> Self {
        match bands {
            0..=16 => Self { band: 26.0, step: 36.0, labels: 1 },
            17..=48 => Self { band: 14.0, step: 18.0, labels: 1 },
            _ => Self { band: 6.0, step: 8.0, labels: 4 },
        }
    }
}

/// Cells of an arena, however many there are.
pub(crate) fn cells(_arenas: usize) -> usize {
    CELLS
}

/// The whole picture, as a file.
pub(crate) fn picture(map: &Map, path: &Path) -> String {
    let rows = Rows::of(map.bands.len());
    let mut canvas = Canvas::new();
    let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let free = map.free_bytes();
    let facts = format!(
        "{}, {} blocks of {}, {} arenas, generation {}, {} free",
        binary(map.len_bytes),
        map.len_bytes / map.block_size,
        binary(map.block_size),
        map.bands.len(),
        map.generation,
        binary(free)
    );
    let mut entries = vec![("free", "free"), ("used", "used"), ("log", "allocation log"), ("header", "header")];
    entries.extend([("reserved", "reserved"), ("super", "superblock")]);
    if map.damaged() > 0 || map.superblocks.iter().any(|copy| *copy != CopyState::Good) {
        entries.push(("damaged", "damaged"));
    }
    canvas.head(&name, &facts, &entries, "Headers, logs, reserved blocks: wider than to scale.");
    superblock(&mut canvas, map, 0, TOP);
    let longest = map.bands.iter().map(|band| band.blocks).max().unwrap_or(1).max(1);
    let mut y = TOP + rows.step.max(24.0);
    for (index, band) in map.bands.iter().enumerate() {
        let scale = band.blocks as f64 / longest as f64;
        arena(&mut canvas, map, index, y, &rows, scale, band);
        y += rows.step;
    }
    superblock(&mut canvas, map, 1, y);
    canvas.finish(y + 36.0, &format!("Map of {name}"), &facts)
}

fn superblock(canvas: &mut Canvas, map: &Map, copy: usize, y: f64) {
    let addr = if copy == 0 { 0 } else { (map.len_bytes / map.block_size - 1) * map.block_size };
    let state = map.superblocks[copy];
    let class = if state == CopyState::Good { "super" } else { "damaged" };
    canvas.text("dim", LEFT - 12.0, y + 11.0, "end", &format!("superblock {copy}"));
    canvas.rect(class, [LEFT, y, MARK * 2.0, 14.0], &format!("superblock {copy} at {addr:#x}: {state}"));
    canvas.text("mono dim", LEFT + 18.0, y + 11.0, "start", &format!("{addr:#x}  {state}"));
}

fn arena(canvas: &mut Canvas, map: &Map, index: usize, y: f64, rows: &Rows, scale: f64, band: &Band) {
    let unit = map.block_size;
    let middle = y + rows.band / 2.0 + 4.0;
    let label = index.is_multiple_of(rows.labels);
    if label {
        canvas.text("", 20.0, middle, "start", &format!("arena {index}"));
        canvas.text("mono dim", LEFT - 12.0, middle, "end", &format!("{:#x}", band.addr));
    }
    for (copy, good) in (0_u64..).zip(band.headers_good) {
        let class = if good { "header" } else { "damaged" };
        let state = if good { "of this commit" } else { "not of this commit" };
        let hover = format!("arena {index}, header copy {copy} at {:#x}: {state}", band.addr + copy * unit);
        canvas.rect(class, [LEFT + copy as f64 * (MARK + 1.0), y, MARK, rows.band], &hover);
    }
    let left = LEFT + 2.0 * (MARK + 1.0);
    let width = (RIGHT - 2.0 * (MARK + 1.0) - left) * scale;
    let facts = format!("arena {index}: {} blocks, {} free, {} of its log", band.blocks, band.free, band.logs);
    if band.damaged {
        let hover = format!("arena {index}: its header or its log is damaged; nothing is known of its blocks");
        canvas.rect("damaged", [left, y, width, rows.band], &hover);
    } else {
        canvas.rect("free", [left, y, width, rows.band], &facts);
        used(canvas, map, band, [left, y, width, rows.band]);
        logs(canvas, map, band, [left, y, width, rows.band]);
    }
    for number in 0..2_u64 {
        let addr = band.addr + (2 + band.blocks + number) * unit;
        let x = left + width + 1.0 + number as f64 * (MARK + 1.0);
        canvas.rect("reserved", [x, y, MARK, rows.band], &format!("reserved, never handed out: {addr:#x}"));
    }
    if label {
        let state = if band.damaged { "damaged".to_owned() } else { format!("{:.1}% free", band.free_percent()) };
        canvas.text("", WIDTH - 20.0, middle, "end", &state);
    }
}

/// Neighbours that look the same are one shape.
fn used(canvas: &mut Canvas, map: &Map, band: &Band, [x, y, width, height]: [f64; 4]) {
    let count = band.cells.len();
    // Heights in steps of one pixel; a single block among many can still be seen.
    let tall = |index: usize| {
        let cell = band.cells[index];
        let share = cell.used as f64 / cell.blocks.max(1) as f64;
        if cell.used == 0 {
            0.0
        } else {
            (share * height).round().clamp(2.0, height)
        }
    };
    let mut first = 0;
    while first < count {
        let behind = (first + 1..count).find(|index| tall(*index) != tall(first)).unwrap_or(count);
        if tall(first) > 0.0 {
            let cells = &band.cells[first..behind];
            let (used, blocks) = cells.iter().fold((0, 0), |sum, cell| (sum.0 + cell.used, sum.1 + cell.blocks));
            let addrs = (band.cell_addr(first, map.block_size), band.cell_addr(behind, map.block_size));
            let hover = format!("{:#x} up to {:#x}: {used} of {blocks} blocks in use", addrs.0, addrs.1);
            let (from, to) = (first as f64 / count as f64, behind as f64 / count as f64);
            let rise = tall(first);
            canvas.rect("used", [x + from * width, y + height - rise, (to - from) * width, rise], &hover);
        }
        first = behind;
    }
}

fn logs(canvas: &mut Canvas, map: &Map, band: &Band, [x, y, width, height]: [f64; 4]) {
    let count = band.cells.len() as f64;
    for (index, cell) in band.cells.iter().enumerate().filter(|(_, cell)| cell.log > 0) {
        let hover = format!("{:#x}: {} blocks of the allocation log", band.cell_addr(index, map.block_size), cell.log);
        let wide = (width / count).max(3.0);
        canvas.rect("log", [x + index as f64 / count * width, y, wide, height], &hover);
    }
}
