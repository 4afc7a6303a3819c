//! Machines that are switched off in the middle of an import, one after the other, and what the next one finds.
//!
//! The kernel says what each commit holds when the store has acknowledged it, and what it finds when it comes up. So
//! every kill is judged exactly: what is found is the last commit that was acknowledged, or the one that was in flight,
//! as a whole. The host opens the disk in between, and checks structure, space and every byte of what is there.

use crate::demo::{require, results, Bench, Demo, Phase, Plan};
use crate::events::Event;
use crate::generate::{self, XorShift};
use crate::host::Expected;
use crate::outcome::Outcome;
use crate::report::Report;
use crate::scenarios::{prepare, verify, MIB, PLAN, SEED};
use crate::vm::{Cut, End, Run};
use anyhow::{bail, ensure, Context, Result};
use std::path::Path;
use std::time::Duration;

/// What the kernel's line begins with when an import begins.
const BEGIN: &str = "@import ";
/// What it begins with when a commit of an import is durable.
const COMMIT: &str = "@commit ";
/// Machines that are tried for each kill that is wanted, before it counts as impossible.
const TRIES_PER_KILL: u32 = 4;

/// A moment during an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Commits that have been acknowledged; 0 is the beginning of the import.
    pub commits: u32,
    /// How long after the last of them.
    pub delay: Duration,
}

impl Moment {
    /// So many milliseconds into the import.
    pub fn after_ms(ms: u64) -> Self {
        Self { commits: 0, delay: Duration::from_millis(ms) }
    }

    fn cut(self) -> Cut<'static> {
        let (line, number) = if self.commits == 0 { (BEGIN, 1) } else { (COMMIT, self.commits) };
        Cut { line, number, delay: self.delay }
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = self.delay.as_millis();
        match self.commits {
            0 => write!(f, "{ms} ms into the import"),
            commits => write!(f, "{ms} ms after commit {commits} of this boot"),
        }
    }
}

/// What a commit holds, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    generation: u64,
    /// Files.
    pub files: u64,
    bytes: u64,
}

impl Held {
    fn of(event: &Event) -> Result<Self> {
        let number = |key| event.number(key).with_context(|| format!("no {key} in @{}", event.name));
        Ok(Self { generation: number("generation")?, files: number("files")?, bytes: number("bytes")? })
    }

    /// What a run has found, and the last commit that it has acknowledged.
    pub fn both(run: &Run) -> Result<(Self, Self)> {
        let begin = run.events.iter().find(|event| event.name == "import").context("the import did not begin")?;
        let last = run.events.iter().rev().find(|event| event.name == "commit").unwrap_or(begin);
        Ok((Self::of(begin)?, Self::of(last)?))
    }

    /// Whether it holds so many files and bytes.
    pub fn is_all_of(self, files: u64, bytes: u64) -> bool {
        (self.files, self.bytes) == (files, bytes)
    }

    /// Demands that `found` is this commit or the one after it.
    pub fn demand(self, found: Self) -> Result<()> {
        let next = found.generation == self.generation + 1 && found.files >= self.files && found.bytes >= self.bytes;
        ensure!(found == self || next, "acknowledged: {self}; found after the kill: {found}");
        Ok(())
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "generation {}, {} files, {} bytes", self.generation, self.files, self.bytes)
    }
}

/// An import that is killed again and again.
pub struct Killing {
    /// Kills that hit the import.
    pub hits: u32,
    /// Kills that came before it had changed anything, or after its end.
    pub misses: u32,
    /// What the last machine had acknowledged, if it was killed.
    acknowledged: Option<Held>,
    /// Words of every boot.
    words: Vec<String>,
}

impl Killing {
    /// Nothing has happened yet. The words are for every boot.
    pub fn new(words: &[&str]) -> Self {
        let words = words.iter().map(|word| word.to_string()).collect();
        Self { hits: 0, misses: 0, acknowledged: None, words }
    }

    /// Boots the import, or what is left of it, with a kill if there is a moment for it, and compares what is found
    /// with what was acknowledged.
    fn boot(&mut self, demo: &Demo<'_>, bench: &Bench, moment: Option<Moment>) -> Result<Run> {
        let mut plan = demo.plan_boot(Phase::Import, &[]);
        plan.words.extend(self.words.iter().cloned());
        if self.acknowledged.is_some() {
            plan.words.push("resume=yes".into());
        }
        plan.cut = moment.map(Moment::cut);
        let run = bench.start(plan)?;
        if run.end != End::Cut {
            require(&run, Outcome::Success, bench.verbose).context("import")?;
        }
        let (found, acknowledged) = Held::both(&run)?;
        if let Some(before) = self.acknowledged {
            before.demand(found)?;
            println!(
                "kill: the next machine found generation {}: {} of {} files",
                found.generation, found.files, demo.packed.files
            );
        }
        self.acknowledged = Some(acknowledged);
        Ok(run)
    }

    /// Boots, kills at this moment, and has the host look at the disk. Returns whether the import is still to be done.
    pub fn kill(&mut self, demo: &Demo<'_>, bench: &Bench, moment: Moment) -> Result<bool> {
        let run = self.boot(demo, bench, Some(moment)).with_context(|| format!("{moment}"))?;
        let is_over = run.events.iter().any(|event| event.name == "result");
        let held = self.acknowledged.context("no commit")?;
        let total = demo.packed.files;
        let what = if is_over { "missed: the import was over" } else { "in the middle of the import" };
        println!("kill: {moment}, {what}; acknowledged: {held} of {total} files");
        *if is_over { &mut self.misses } else { &mut self.hits } += 1;
        let checked = demo.check_on_host(Expected::PartAsImported).context("host, after a kill")?;
        ensure!(checked.files >= held.files, "{} files on the disk; acknowledged: {held}", checked.files);
        Ok(!is_over)
    }

    /// Imports what is missing. What was found and what was put has to be everything.
    pub fn complete(&mut self, demo: &Demo<'_>, bench: &Bench) -> Result<Run> {
        let run = self.boot(demo, bench, None)?;
        let (found, _) = Held::both(&run)?;
        let put = results(&run).next().context("no @result")?;
        let sum = |key, found: u64| put.number(key).map(|put| put + found);
        let all = (sum("files", found.files), sum("bytes", found.bytes));
        let (files, bytes) = (demo.packed.files, demo.packed.bytes);
        ensure!(all == (Some(files), Some(bytes)), "of {files} files, {bytes} bytes: found {found}, then put {put:?}");
        Ok(run)
    }
}

/// Kills the import at each of these moments, then lets it end, and adds that to the report. The last run, if all is
/// well.
pub fn import(
    demo: &Demo<'_>,
    bench: &Bench,
    words: &[&str],
    moments: &[Moment],
    report: &mut Report,
) -> Result<Option<Run>> {
    let mut killing = Killing::new(words);
    for moment in moments {
        let going_on = killing.kill(demo, bench, *moment)?;
        // What the first boot was told to format is not to be formatted again.
        killing.words.retain(|word| !word.starts_with("format="));
        if !going_on {
            break;
        }
    }
    println!("kill: {} of {} kills hit the import", killing.hits, moments.len());
    if killing.hits == 0 {
        report.fault("no kill came in the middle of the import; try another --kill-after".into());
        return Ok(None);
    }
    let run = killing.complete(demo, bench)?;
    report.add_run("import", &run);
    Ok(Some(run))
}

/// Three kills in `cargo verify`: relative to commits, and by the clock.
pub fn kills(bench: &Bench) -> Result<String> {
    let mut random = XorShift::new(SEED);
    let mut ms = |below: u64| random.next() % below;
    let moments = [
        Moment { commits: 4, delay: Duration::from_millis(ms(30)) },
        Moment::after_ms(20 + ms(150)),
        Moment { commits: 2, delay: Duration::from_millis(ms(30)) },
    ];
    let demo = prepare_kills(bench, "kills")?;
    let mut killing = Killing::new(&[COMMIT_OFTEN]);
    for moment in moments {
        if !killing.kill(&demo, bench, moment)? {
            bail!("the import was over before the kill ({moment})");
        }
    }
    killing.complete(&demo, bench)?;
    verified(bench, &demo)?;
    demo.finish(true);
    Ok(format!("{} of 3 kills in mid-import, seed {SEED}", killing.hits))
}

/// Fifty kills in a row, on as many disks as that takes.
pub fn kills_long(bench: &Bench) -> Result<String> {
    const KILLS: u32 = 50;
    let mut random = XorShift::new(SEED + 1);
    let demo = prepare_kills(bench, "kills-long")?;
    let (mut hits, mut misses, mut imports) = (0, 0, 0);
    while hits < KILLS {
        ensure!(hits + misses < TRIES_PER_KILL * KILLS, "{misses} kills of {} missed the import", hits + misses);
        let mut killing = Killing::new(&[COMMIT_OFTEN, "format=force"]);
        loop {
            let commits = (random.next() % 4) as u32;
            let moment = Moment { commits, delay: Duration::from_micros(random.next() % 40_000) };
            let going_on = killing.kill(&demo, bench, moment)?;
            killing.words.retain(|word| !word.starts_with("format="));
            if !going_on || hits + killing.hits >= KILLS {
                break;
            }
        }
        (hits, misses, imports) = (hits + killing.hits, misses + killing.misses, imports + 1);
        killing.complete(&demo, bench)?;
        verified(bench, &demo)?;
    }
    demo.finish(true);
    Ok(format!("{hits} kills in mid-import, {misses} missed, {imports} imports verified, seed {}", SEED + 1))
}

/// Commits after every mebibyte: many moments at which a kill may come.
const COMMIT_OFTEN: &str = "commit_every=1048576";

fn prepare_kills<'a>(bench: &'a Bench, name: &str) -> Result<Demo<'a>> {
    prepare(bench, name, Plan { size: 192 * MIB, ..PLAN }, |dir: &Path| {
        generate::small(dir, SEED)?;
        generate::large(dir, SEED, 240, 400_000)
    })
}

/// After all kills: the host and another machine find every file, and can change them.
fn verified(bench: &Bench, demo: &Demo<'_>) -> Result<()> {
    demo.check_on_host(Expected::AsImported).context("host")?;
    verify(bench, demo).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACKNOWLEDGED: Held = Held { generation: 5, files: 7, bytes: 700 };

    #[test]
    fn only_the_last_commit_or_the_one_in_flight_may_be_found() {
        let found = |generation, files, bytes| ACKNOWLEDGED.demand(Held { generation, files, bytes }).is_ok();
        assert!(found(5, 7, 700) && found(6, 7, 700) && found(6, 9, 900));
        for (generation, files, bytes) in [(5, 6, 700), (5, 8, 800), (4, 7, 700), (6, 6, 700), (6, 7, 1), (7, 9, 900)] {
            assert!(!found(generation, files, bytes), "{generation} {files} {bytes}");
        }
    }

    #[test]
    fn moments_count_commits_or_milliseconds() {
        assert_eq!(Moment::after_ms(7).cut(), Cut { line: "@import ", number: 1, delay: Duration::from_millis(7) });
        let third = Moment { commits: 3, delay: Duration::ZERO };
        assert_eq!(third.cut(), Cut { line: "@commit ", number: 3, delay: Duration::ZERO });
        assert_eq!(third.to_string(), "0 ms after commit 3 of this boot");
    }
}
