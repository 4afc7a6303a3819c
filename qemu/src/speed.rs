//! `cargo demo -- --bench`: the store in the kernel beside the raw driver, on one disk, in one boot.
//!
//! The kernel measures (`kernel-demo/src/measure`) and prints what each round has taken; here it becomes the table of
//! `cargo bench-store`, with the same medians and spreads. Where the processor is emulated, ratios say more about the
//! emulator than about the store: nothing is demanded of them, and how much of the time is the hash is shown beside.

use crate::accel;
use crate::demo::{require, Bench, Boot};
use crate::events::Event;
use crate::measure::{row, Goal, Question, Row};
use crate::outcome::Outcome;
use crate::rows;
use crate::size;
use crate::vm::{Disk, Manner};
use crate::work::WorkDir;
use anyhow::{ensure, Context, Result};
use arenite_shim::{FileDevice, FileOptions};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Bytes of a block.
const BLOCK_BYTES: u64 = 16 << 10;
/// The guest's memory.
const MEMORY_BYTES: u64 = 256 << 20;
/// What a half of the disk holds beside the bytes of a round, at least.
const BESIDE_BYTES: u64 = 64 << 20;
/// What is to be reached where the processor is no emulator.
const GOAL: f64 = 0.90;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Bytes of a round, whole MiB.
    pub len_bytes: u64,
    /// Rounds.
    pub rounds: u32,
}

/// Measures and prints the table; true if no goal is missed.
pub fn run(bench: &Bench, amount: Amount, json: Option<&Path>) -> Result<bool> {
    let rows = measure(bench, amount)?;
    print!("\n{}", rows::render(&rows));
    let missed = rows.iter().filter(|row| row.is_missed()).count();
    println!("{} figures, {missed} goals missed", rows.len());
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(path, text + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(missed == 0)
}

/// Shows that everything works: a few MiB, one round, no goal.
pub fn smoke(bench: &Bench) -> Result<String> {
    let rows = measure(bench, Amount { len_bytes: 4 << 20, rounds: 1 })?;
    print!("{}", rows::render(&rows));
    let is_figure = |row: &Row| row.ratio.is_finite() && row.ratio > 0.0 && row.value > 0.0;
    ensure!(rows.iter().all(is_figure), "some figure is none");
    Ok(format!("{} figures", rows.len()))
}

/// Boots the kernel on a new disk, and has it measure.
fn measure(bench: &Bench, amount: Amount) -> Result<Vec<Row>> {
    let dir = WorkDir::take(&bench.root, "bench")?;
    let image = dir.file("store.img");
    lay_out(&image, 2 * (amount.len_bytes + BESIDE_BYTES))?;
    let manner = if can_bypass_cache(&image)? { Manner::Direct } else { Manner::Sound };
    println!(
        "bench: a disk of {} in {}, {}, every flush carried out",
        size::show(2 * (amount.len_bytes + BESIDE_BYTES)),
        image.display(),
        if manner == Manner::Direct { "past the host's page cache" } else { "through the host's page cache" }
    );
    let blocks = amount.len_bytes / BLOCK_BYTES;
    let words = vec!["phase=bench".into(), format!("blocks={blocks}"), format!("rounds={}", amount.rounds)];
    let disk = Disk { path: &image, serial: "store", read_only: false, sector_bytes: 512, manner, socket: None };
    let boot = Boot { label: "bench", memory: MEMORY_BYTES, words, disks: vec![disk], total_bytes: 0, cut: None };
    let run = bench.start(boot)?;
    require(&run, Outcome::Success, bench.verbose)?;
    dir.remove();
    let goal = if accel::is_emulated(bench.accel) { Goal::None } else { Goal::AtLeast(GOAL) };
    table(&run.events, amount, goal)
}

/// Writes a file whole, so that no later write has to find space for it.
fn lay_out(path: &Path, len_bytes: u64) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("{} cannot be created", path.display()))?;
    let part = vec![0x5A; 1 << 20];
    for _ in 0..len_bytes >> 20 {
        file.write_all(&part).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(file.sync_all()?)
}

/// Whether the file's system has transfers that do not go through the page cache.
fn can_bypass_cache(path: &Path) -> Result<bool> {
    let device = FileDevice::open(path, FileOptions { direct: true, ..FileOptions::default() });
    Ok(device.with_context(|| path.display().to_string())?.is_direct())
}

/// The figures of one kind, round by round.
fn column(events: &[Event], key: &str) -> Result<Vec<f64>> {
    let rounds = events.iter().filter(|event| event.name == "round" && event.number("number") > Some(0));
    let figure = |event: &Event| Some(event.number(key).filter(|figure| *figure > 0)? as f64);
    rounds.map(|round| figure(round).with_context(|| format!("no {key} in {round:?}"))).collect()
}

/// What a way of the raw driver is called: the kernel says bytes of a request x requests at once.
fn way(ways: &Event, key: &str) -> Result<String> {
    let parts = ways.text(key).and_then(|text| text.split_once('x'));
    let (bytes, depth) = parts.with_context(|| format!("no {key} in {ways:?}"))?;
    Ok(format!("raw driver, {} KiB x {depth}", bytes.parse::<u64>()? >> 10))
}

/// The table of what the kernel has printed.
fn table(events: &[Event], amount: Amount, goal: Goal) -> Result<Vec<Row>> {
    let find = |name: &str| events.iter().find(|event| event.name == name).with_context(|| format!("no @{name}"));
    let (ways, calls) = (find("ways")?, find("calls")?);
    let get = |key: &str| column(events, key);
    ensure!(get("write_us")?.len() == amount.rounds as usize, "the kernel has measured other rounds");
    let all = || format!("{} MiB", amount.len_bytes >> 20);
    let rate =
        |key: &str| -> Result<Vec<f64>> { Ok(get(key)?.iter().map(|us| amount.len_bytes as f64 * 1e6 / us).collect()) };
    let seconds = |key: &str| -> Result<Vec<f64>> { Ok(get(key)?.iter().map(|us| us / 1e6).collect()) };
    let cold = format!("cold read, depth {}", ways.text("read_depth").unwrap_or("?"));
    let mut rows = Vec::new();
    for (what, ours, theirs, key, goal) in [
        ("write + commit", "write_us", "raw_write_us", "write", goal),
        (&cold, "read_us", "raw_read_us", "read", goal),
        (&cold, "read_us", "raw_read_blocks_us", "read_blocks", Goal::None),
    ] {
        let reference = &way(ways, key)?;
        rows.push(row(Question { what, amount: all(), unit: "B/s", reference, goal }, &rate(ours)?, &rate(theirs)?));
    }
    for (reference, key) in [("write + commit", "write_us"), ("cold read", "read_us")] {
        let what = "hash of the same bytes";
        let question = Question { what, amount: all(), unit: "s", reference, goal: Goal::None };
        rows.push(row(question, &seconds("hash_us")?, &seconds(key)?));
    }
    for (what, ours, theirs, key, reference) in [
        ("allocate + free", "pair_ticks", "bitmap_ticks", "pairs", "spin-locked bitmap"),
        ("cache hit", "hit_ticks", "table_ticks", "hits", "lock, plain hash table, unlock"),
    ] {
        let number = calls.number(key).filter(|number| *number > 0).with_context(|| format!("no {key}"))?;
        let each = |key| -> Result<Vec<f64>> { Ok(get(key)?.iter().map(|ticks| ticks / number as f64).collect()) };
        let question = Question { what, amount: number.to_string(), unit: "ticks", reference, goal: Goal::None };
        rows.push(row(question, &each(ours)?, &each(theirs)?));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &str) -> Vec<Event> {
        text.lines().filter_map(Event::parse).collect()
    }

    const ROUND: &str = "raw_write_us=100 raw_read_us=50 raw_read_blocks_us=80 hash_us=40 hit_ticks=300 \
                         table_ticks=100 pair_ticks=900 bitmap_ticks=100";

    fn judged(write_us: [u32; 3]) -> Vec<Row> {
        let rounds: String = write_us
            .iter()
            .enumerate()
            .map(|(at, us)| format!("@round number={at} bytes=1048576 write_us={us} read_us=100 {ROUND}\n"))
            .collect();
        let head = "@ways write=1048576x4 read=262144x16 read_blocks=16384x64 read_depth=64\n@calls hits=10 pairs=10\n";
        let amount = Amount { len_bytes: 1 << 20, rounds: 2 };
        table(&events(&format!("{head}{rounds}")), amount, Goal::AtLeast(GOAL)).unwrap()
    }

    #[test]
    fn ratios_are_of_rates_and_the_first_round_does_not_count() {
        let rows = judged([1, 200, 200]);
        assert_eq!((rows[0].ratio, rows[0].rounds), (0.5, 2));
        assert_eq!(rows[0].reference, "raw driver, 1024 KiB x 4");
        assert!(rows[0].is_missed() && rows[1].is_missed() && !rows[2].is_missed());
        assert!(!judged([1000, 105, 105])[0].is_missed());
        let share = rows.iter().find(|row| row.what.starts_with("hash")).unwrap();
        assert_eq!(share.ratio, 0.2, "the hash takes 40 of 200 microseconds");
        assert_eq!(rows.iter().find(|row| row.what == "cache hit").unwrap().ratio, 3.0);
    }

    #[test]
    fn a_round_that_lacks_a_figure_is_an_error() {
        let text = "@ways write=1x1 read=1x1 read_blocks=1x1\n@calls hits=1 pairs=1\n@round number=1 write_us=5\n";
        let amount = Amount { len_bytes: 1 << 20, rounds: 1 };
        let error = table(&events(text), amount, Goal::None).unwrap_err().to_string();
        assert!(error.contains("no raw_write_us"), "{error}");
    }
}
