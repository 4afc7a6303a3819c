//! `cargo demo -- --instructions`: how many instructions the store's calls take in the kernel, beside how many they are
//! known to take. A guard against slow decay that no load of the machine can disturb.
//!
//! QEMU counts (`-icount shift=0`), the kernel reads the counter around calls (`kernel-demo/src/measure/counts.rs`),
//! and [`FILE`] holds what is expected. More than [`PERCENT`] above is a failure. More than that below is good news
//! that has to be written down, so that it cannot be lost again: `cargo demo -- --instructions=write`.
//!
//! The code that is counted is the kernel's alone, so the counts depend on the compiler, which is named in the file,
//! and on one habit of the emulator: whether each turn of a repeated instruction counts. The kernel's `loop` and `copy`
//! show whether the emulator counts, and as it did when the file was written. With another compiler or another habit
//! nothing can be compared, and that is said ([`Missing`]).

use crate::accel::Accel;
use crate::demo::{require, Bench};
use crate::events::Event;
use crate::kernel::Builder;
use crate::outcome::Outcome;
use crate::platform;
use crate::setup;
use crate::table::Table;
use crate::tools::Missing;
use crate::vm::{Board, Driver};
use crate::BootArgs;
use anyhow::{bail, ensure, Context, Result};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// What is expected, in the repository.
const FILE: &str = "kernel-demo/instructions.txt";
/// What writes it anew.
const RENEW: &str = "cargo demo -- --instructions=write";
/// By so many parts of a hundred a count may differ from what is expected.
const PERCENT: u64 = 2;
/// The guest's memory.
const MEMORY_BYTES: u64 = 256 << 20;
/// The name of the loop whose length is known, and its length.
const LOOP: (&str, u64) = ("loop", 20_000);
/// The name of a plain copy of bytes.
const COPY: &str = "copy";

/// What is to be done with the counts.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Write them to the file.
    Write,
}

/// Instructions of each call, by its name.
type Counts = BTreeMap<String, u64>;

/// The content of [`FILE`].
#[derive(Debug, PartialEq, Eq)]
struct Known {
    /// What compiler the kernel was built by, as it names itself.
    compiler: String,
    counts: Counts,
}

impl Known {
    const COMPILER: &'static str = "compiler";

    fn parse(text: &str) -> Result<Self> {
        let (mut compiler, mut counts) = (None, Counts::new());
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (name, value) = line.split_once(' ').with_context(|| format!("{FILE}: `{line}`"))?;
            if name == Self::COMPILER {
                compiler = Some(value.to_string());
            } else {
                let count = value.trim().parse().with_context(|| format!("{FILE}: `{line}`"))?;
                counts.insert(name.to_string(), count);
            }
        }
        Ok(Self { compiler: compiler.with_context(|| format!("{FILE} names no compiler"))?, counts })
    }

    fn text(&self) -> String {
        let head = format!("# Instructions that each call takes in the demo kernel. Renewed by: {RENEW}\n");
        let counts: String = self.counts.iter().map(|(name, count)| format!("{name} {count}\n")).collect();
        format!("{head}{} {}\n{counts}", Self::COMPILER, self.compiler)
    }
}

/// Whether a count is more than expected, and by more than is tolerated.
fn is_more(count: u64, expected: u64) -> bool {
    u128::from(count) * 100 > u128::from(expected) * u128::from(100 + PERCENT)
}

/// The same for less.
fn is_fewer(count: u64, expected: u64) -> bool {
    u128::from(count) * 100 < u128::from(expected) * u128::from(100 - PERCENT)
}

/// How counts compare with what is known.
struct Judgement {
    table: Table,
    /// What takes more, or is not known, or was not counted: each a reason to fail.
    bad: Vec<String>,
    /// What takes less.
    fewer: Vec<String>,
}

fn judge(known: &Counts, found: &Counts) -> Judgement {
    let mut table = Table::with_notes(&["call", "instructions", "expected", "difference", ""]);
    let (mut bad, mut fewer) = (Vec::new(), Vec::new());
    let names: std::collections::BTreeSet<&String> = known.keys().chain(found.keys()).collect();
    for name in names {
        let number = |count: Option<&u64>| count.map_or_else(|| "-".into(), u64::to_string);
        let (expected, count) = (known.get(name), found.get(name));
        let mut cells = vec![name.clone(), number(count), number(expected)];
        let (Some(expected), Some(count)) = (expected, count) else {
            bad.push(format!("{name}: only one of the two is there"));
            table.row(cells);
            continue;
        };
        let difference = *count as f64 / *expected as f64 - 1.0;
        cells.push(format!("{:+.1} %", difference * 100.0));
        cells.push(if is_more(*count, *expected) {
            bad.push(format!("{name} takes {count} instructions instead of {expected}"));
            "MORE".into()
        } else if is_fewer(*count, *expected) {
            fewer.push(name.clone());
            "fewer".into()
        } else {
            "ok".into()
        });
        table.row(cells);
    }
    Judgement { table, bad, fewer }
}

/// Compares the counts with what is expected, or writes them down. A word for a table.
pub fn run(root: &Path, args: &BootArgs, wish: Option<Wish>) -> Result<String> {
    let compiler = compiler(root, args)?;
    let path = root.join(FILE);
    let bench = Bench::set_up(root, args)?;
    let bench = Bench { accel: Accel::Counting, board: Board::Q35, driver: Driver::Queue, cpus: 1, ..bench };
    let found = count(&bench)?;
    if wish == Some(Wish::Write) {
        ensure!(found == count(&bench)?, "two runs have counted differently");
        let known = Known { compiler, counts: found };
        std::fs::write(&path, known.text()).with_context(|| format!("{FILE} cannot be written"))?;
        print!("{}", known.text());
        return Ok(format!("{FILE} is written"));
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("{FILE} cannot be read"))?;
    let known = Known::parse(&text)?;
    comparable(&known, &compiler, &found)?;
    let Judgement { table, bad, fewer } = judge(&known.counts, &found);
    print!("\n{table}");
    if !bad.is_empty() {
        bail!("{} (where that is meant, {RENEW} writes {FILE} anew)", bad.join("; "));
    }
    Ok(match &fewer[..] {
        [] => format!("{} counts as expected", known.counts.len()),
        fewer => format!("fewer instructions for {}: {RENEW} keeps that", fewer.join(", ")),
    })
}

/// The compiler that builds the kernel.
fn compiler(root: &Path, args: &BootArgs) -> Result<String> {
    if let Builder::WithLibrary(compiler) = setup::kernel_builder(root, args.build_std)? {
        return Ok(compiler.to_string());
    }
    let output = Command::new("rustc").arg("--version").current_dir(root).output();
    Ok(String::from_utf8_lossy(&output.context("rustc could not be started")?.stdout).trim().to_string())
}

/// Boots the kernel once.
fn count(bench: &Bench) -> Result<Counts> {
    let mut boot = platform::boot("counts", vec!["phase=counts".into()], Vec::new());
    boot.memory = MEMORY_BYTES;
    let run = bench.start(boot)?;
    require(&run, Outcome::Success, bench.verbose)?;
    let found = counts(&run.events)?;
    let looped = found.get(LOOP.0).copied().unwrap_or(0);
    if !(LOOP.1..LOOP.1 + 100).contains(&looped) {
        let what = format!("a QEMU that counts instructions (it counts {looped} where there are {})", LOOP.1);
        return Err(Missing { what, remedy: "try another version of it".into() }.into());
    }
    Ok(found)
}

fn counts(events: &[Event]) -> Result<Counts> {
    let mut counts = Counts::new();
    for event in events.iter().filter(|event| event.name == "count") {
        let fields = (event.text("name"), event.number("instructions"), event.number("calls"));
        let (Some(name), Some(instructions), Some(calls @ 1..)) = fields else { bail!("{event:?}") };
        ensure!(counts.insert(name.to_string(), instructions / calls).is_none(), "{name} is there twice");
    }
    ensure!(counts.contains_key(COPY) && counts.len() > 2, "the kernel has counted nothing");
    Ok(counts)
}

/// Whether compiler and emulator are such that the counts mean the same.
fn comparable(known: &Known, compiler: &str, found: &Counts) -> Result<(), Missing> {
    if known.compiler != compiler {
        let what = format!("{}, by which the kernel of {FILE} was built ({compiler} is here)", known.compiler);
        return Err(Missing { what, remedy: "install it with rustup, in the repository".into() });
    }
    let (Some(known), Some(found)) = (known.counts.get(COPY), found.get(COPY)) else { return Ok(()) };
    if is_more(*found, *known) || is_fewer(*found, *known) {
        let what = format!("a QEMU that counts a copy of 16 KiB as {known} instructions (this one: {found})");
        return Err(Missing { what, remedy: format!("try another version of it, or {RENEW}") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts_of(counts: &[(&str, u64)]) -> Counts {
        counts.iter().map(|(name, count)| (name.to_string(), *count)).collect()
    }

    #[test]
    fn two_in_a_hundred_are_tolerated() {
        let known = counts_of(&[("free", 1000), ("hit", 1000), ("read", 1000), ("mount", 1000)]);
        let found = counts_of(&[("free", 1020), ("hit", 1021), ("read", 979), ("mount", 980)]);
        let judgement = judge(&known, &found);
        assert_eq!(judgement.bad, ["hit takes 1021 instructions instead of 1000"]);
        assert_eq!(judgement.fewer, ["read"]);
        let table = judgement.table.to_string();
        assert!(table.contains("+2.1 %  MORE") && table.contains("-2.1 %  fewer"), "{table}");
    }

    #[test]
    fn what_is_missing_on_either_side_is_bad() {
        let judgement = judge(&counts_of(&[("free", 1), ("gone", 1)]), &counts_of(&[("free", 1), ("new", 1)]));
        assert_eq!(judgement.bad.len(), 2, "{:?}", judgement.bad);
    }

    #[test]
    fn the_file_is_read_as_it_is_written() {
        let known = Known { compiler: "rustc 1.0.0 (abc 2020-01-01)".into(), counts: counts_of(&[("free", 7)]) };
        assert_eq!(Known::parse(&known.text()).unwrap(), known);
        for text in ["free 7\n", "compiler x\nfree\n", "compiler x\nfree seven\n"] {
            assert!(Known::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn other_compilers_and_emulators_are_not_compared() {
        let known = Known { compiler: "a".into(), counts: counts_of(&[(COPY, 2050), ("free", 7)]) };
        assert!(comparable(&known, "a", &counts_of(&[(COPY, 2060), ("free", 99)])).is_ok());
        assert!(comparable(&known, "b", &known.counts).is_err());
        assert!(comparable(&known, "a", &counts_of(&[(COPY, 30), ("free", 7)])).is_err());
    }

    #[test]
    fn counts_are_by_call() {
        let events = |text: &str| text.lines().filter_map(Event::parse).collect::<Vec<_>>();
        let text = "@count name=copy calls=2 instructions=9\n@count name=a calls=1 instructions=5\n\
                    @count name=b calls=3 instructions=3\n";
        assert_eq!(counts(&events(text)).unwrap(), counts_of(&[(COPY, 4), ("a", 5), ("b", 1)]));
        assert!(counts(&events("@count name=copy calls=0 instructions=9")).is_err());
        assert!(counts(&[]).is_err());
    }
}
