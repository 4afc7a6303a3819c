//! Rung 7: the unit tests of the core in Miri, which executes them step by step and stops at undefined behaviour, with
//! strict provenance (no pointer is made of a number). Those with threads run once more, with several seeds of Miri's
//! scheduler and of its weak memory.
//!
//! A part of the long form; `--rung 7` asks for it alone. Without a nightly toolchain that has Miri nothing is tried,
//! and the table says so. Tests that cannot run there are in [`LEFT_OUT`], with the reason; that no others are missing
//! is checked.

use crate::rung::{Context, Rung};
use arenite_shim::explore::Failure;
use arenite_shim::ladder::{parallel, Row, Setup};
use std::fs::{read_to_string, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The rung.
pub struct Miri;

/// Tests that are not run, by the beginnings of their names, and why. Those of the modules in the first two are not
/// even compiled.
const LEFT_OUT: [(&str, &[&str]); 5] = [
    ("reads the sources of the repository, and nothing of the store runs", &["tests::rows_named::"]),
    (
        "has free maps of up to a million blocks, which takes hours to days",
        &["tests::rows_sections::", "freemap::tests::a_walk_takes_as_long_as_there_are_runs"],
    ),
    (
        "waits out the patience of a store, hundreds of thousands of turns",
        &[
            "tests::upkeep::what_a_worker_may_be_reading_is_not_handed_out",
            "tests::upkeep::limbo_is_bounded_and_says_who_fills_it",
            "tests::rows_cache::a_worker_that_stays_is_named_after_the_patience_of_the_mount",
            "tests::rows_cache::limbo_presses_back_from_a_quarter_of_the_cache_on",
        ],
    ),
    (
        "fills a volume with hundreds of blocks so that a log has several, which takes hours",
        &[
            "tests::check::a_log_that_has_come_to_lead_in_a_circle_is_a_finding",
            "tests::rows_log::a_log_written_anew_takes_fresh_blocks_and_frees_the_old_chain",
            "tests::rows_log::a_long_log_lists_the_same_whether_it_is_linked_or_written_anew",
            "tests::rows_log::allocation_goes_on_while_a_log_is_written_anew",
            "tests::rows_log::no_log_block_of_the_last_commit_is_written_over",
            "tests::upkeep::a_long_log_is_appended_to_and_costs_seven_writes",
        ],
    ),
    (
        "leaves a store behind on purpose, for a thread that waits, and Miri reports what is left behind",
        &["tests::rows_space::an_allocation_"],
    ),
];

/// Tests with threads, by a part of their names.
const CONCURRENT: &str = "tests::threads::";
/// Seeds of the scheduler for these.
const SEEDS: u32 = 8;
const STRICT: &str = "-Zmiri-strict-provenance";

/// Flags for these.
fn seeded() -> String {
    format!("{STRICT} -Zmiri-many-seeds=0..{SEEDS}")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn quiet(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

fn nightly(words: &[&str]) -> Command {
    let mut rustup = Command::new("rustup");
    rustup.args(["run", "nightly"]).args(words).current_dir(root()).env_remove("RUSTFLAGS");
    rustup
}

/// What is missing, if anything is.
fn missing() -> Option<&'static str> {
    match (quiet(&mut nightly(&["cargo", "--version"])), quiet(&mut nightly(&["cargo", "miri", "--version"]))) {
        (None, _) => Some("no nightly toolchain (rustup toolchain install nightly --component miri rust-src)"),
        (_, None) => Some("the nightly toolchain has no Miri (rustup +nightly component add miri rust-src)"),
        _ => None,
    }
}

fn miri(flags: &str, tests: &[String]) -> Command {
    let mut command = nightly(&["cargo", "miri", "test", "--package", "arenite-core", "--lib", "--"]);
    command.env("MIRIFLAGS", flags).args(tests);
    command
}

/// What is left out, one by one, and why.
fn left_out() -> impl Iterator<Item = (&'static str, &'static str)> {
    LEFT_OUT.into_iter().flat_map(|(why, parts)| parts.iter().map(move |part| (*part, why)))
}

fn is_left_out(name: &str) -> bool {
    left_out().any(|(part, _)| name.starts_with(part))
}

/// Names out of what a test program lists; the last of what it said besides, if it failed.
fn listed(command: &mut Command) -> Result<Vec<String>, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(said.lines().last().unwrap_or("without a message").into());
    }
    Ok(names(&String::from_utf8_lossy(&output.stdout)))
}

fn names(list: &str) -> Vec<String> {
    list.lines().filter_map(|line| line.strip_suffix(": test")).map(String::from).collect()
}

/// All tests that Miri is to run; an error if one is missing there without a reason.
fn tests() -> Result<Vec<String>, String> {
    let mut stable = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    stable.current_dir(root()).args(["test", "--quiet", "--package", "arenite-core", "--lib", "--", "--list"]);
    let everywhere = listed(&mut stable).map_err(|what| format!("the tests of the core cannot be listed: {what}"))?;
    let here = listed(&mut miri(STRICT, &["--list".into()]));
    let here = here.map_err(|what| format!("Miri cannot list the tests of the core: {what}"))?;
    if let Some(name) = everywhere.iter().find(|name| !here.contains(name) && !is_left_out(name)) {
        return Err(format!("{name} is not run, and nothing says why"));
    }
    if let Some(part) =
        left_out().map(|(part, _)| part).find(|part| !everywhere.iter().any(|name| name.starts_with(part)))
    {
        return Err(format!("{part} is left out, and there is no such test"));
    }
    Ok(here.into_iter().filter(|name| !is_left_out(name)).collect())
}

/// One run of Miri over some tests.
struct Run {
    child: Child,
    output: PathBuf,
}

impl Run {
    fn start(mut command: Command, dir: &Path, number: usize) -> Result<Self, String> {
        let output = dir.join(format!("{number}.txt"));
        let file = File::create(&output).map_err(|error| error.to_string())?;
        let copy = file.try_clone().map_err(|error| error.to_string())?;
        // A group of its own: what cargo starts ends with it.
        let command = command.stdin(Stdio::null()).stdout(file).stderr(copy).process_group(0);
        let child = command.spawn().map_err(|error| error.to_string())?;
        Ok(Self { child, output })
    }

    /// Whether it came to its end before the deadline, and what it said.
    fn wait(mut self, deadline: Option<Instant>) -> (Option<bool>, String) {
        let success = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status.success()),
                Err(_) => break Some(false),
                Ok(None) if deadline.is_some_and(|deadline| Instant::now() > deadline) => {
                    let group = format!("-{}", self.child.id());
                    let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
                    let _ = self.child.wait();
                    break None;
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(200)),
            }
        };
        (success, read_to_string(&self.output).unwrap_or_default())
    }
}

/// How many tests passed, and what went wrong: the test that was being run and the error, if Miri stopped there.
fn read(text: &str, success: Option<bool>) -> (u64, Option<(String, String)>) {
    // Several seeds write over each other: the result of a test may stand on a line of its own.
    let passed = text.lines().filter(|line| line.ends_with("... ok") || *line == "ok").count() as u64;
    if success != Some(false) {
        return (passed, None);
    }
    let mut results = text.lines().filter_map(|line| line.strip_prefix("test ")?.split_once(" ... "));
    let culprit = results.find(|(_, result)| !result.ends_with("ok"));
    let name = culprit.map_or("?", |(name, _)| name.trim_end_matches(" - should panic"));
    let said = ["error: Undefined Behavior", "panicked at", "error: "].into_iter().find_map(|mark| text.find(mark));
    let line = said.and_then(|at| text.get(at..)?.lines().next());
    (passed, Some((name.into(), line.unwrap_or("without a message").into())))
}

/// The tests in as many programs as there are threads, then those with threads under several seeds.
fn climb(context: &Context, dir: &Path, row: &mut Row) -> Result<(), String> {
    let tests = tests()?;
    let shards = context.setup.threads.max(1);
    // The codecs have no unsafe code anywhere below them: their turn comes last, if time is short.
    let (codecs, others): (Vec<_>, Vec<_>) = tests.iter().cloned().partition(|name| name.starts_with("format::"));
    let exactly = |tests: Vec<String>| ["--exact".to_string()].into_iter().chain(tests).collect();
    let shard = |number: usize| exactly(others.iter().skip(number).step_by(shards).cloned().collect());
    let concurrent = vec![CONCURRENT.to_string()];
    let mut jobs: Vec<(String, Vec<String>)> = (0..shards).map(|number| (STRICT.into(), shard(number))).collect();
    jobs.extend([(seeded(), concurrent), (STRICT.into(), exactly(codecs))]);
    let jobs: Vec<_> = jobs.into_iter().enumerate().collect();
    let results = Mutex::new(Vec::new());
    parallel(&jobs, &Setup { deadline: None, ..context.setup }, |(number, (flags, words))| {
        let run = Run::start(miri(flags, words), dir, *number);
        let result = run.map(|run| run.wait(context.setup.deadline));
        results.lock().unwrap_or_else(PoisonError::into_inner).push((*number == shards, result));
        true
    });
    let (mut once, mut many) = (0, 0);
    for (seeded, result) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let (success, text) = result?;
        let (passed, wrong) = read(&text, success);
        *if seeded { &mut many } else { &mut once } += passed;
        row.cut_short |= success.is_none();
        row.failures.extend(wrong.map(|(name, what)| Failure { replay: format!("0:miri:{name}"), what }));
    }
    row.cases = once + many;
    row.notes
        .push(format!("{once} of {} tests once, those with threads {many} times under {SEEDS} seeds", tests.len()));
    if success_without_seeds(row, many) {
        row.failures.push(Failure { replay: format!("0:miri:{CONCURRENT}"), what: "no test has threads".into() });
    }
    row.notes.extend(left_out().map(|(name, why)| format!("not run: {name}: it {why}")));
    Ok(())
}

/// The tests with threads went by without one.
fn success_without_seeds(row: &Row, many: u64) -> bool {
    many == 0 && !row.cut_short && row.failures.is_empty()
}

impl Rung for Miri {
    fn number(&self) -> u32 {
        7
    }

    fn what(&self) -> &'static str {
        "unit tests of the core in Miri"
    }

    fn parts(&self) -> Vec<String> {
        let all = format!("all tests of arenite-core --lib; {CONCURRENT} under {SEEDS} seeds");
        let left_out = left_out().map(|(name, why)| format!("without {name}: it {why}"));
        [all].into_iter().chain(left_out).collect()
    }

    fn weight(&self) -> u32 {
        2
    }

    fn run(&self, context: &Context) -> Row {
        let mut row = Row::default();
        if !context.long && !context.asked {
            row.not_tried = Some("a part of the long form; cargo crash -- --rung 7".into());
            return row;
        }
        if let Some(what) = missing() {
            row.not_tried = Some(what.into());
            return row;
        }
        let dir = std::env::temp_dir().join(format!("arenite-miri-{}", std::process::id()));
        let done = std::fs::create_dir_all(&dir).map_err(|error| error.to_string());
        if let Err(what) = done.and_then(|()| climb(context, &dir, &mut row)) {
            row.failures.push(Failure { replay: "0:miri:tests".into(), what });
        }
        // Nothing depends on it.
        let _ = std::fs::remove_dir_all(&dir);
        row
    }

    /// One test again, by its name, with all that Miri says; under all seeds, if the name is that of one with threads.
    fn replay(&self, _seed: u64, trace: &str, name: &str, _setup: &Setup) -> Option<Result<String, String>> {
        (trace == "miri").then(|| {
            let flags = if name.starts_with(CONCURRENT) { seeded() } else { STRICT.into() };
            let output = miri(&flags, &[name.into()]).output().map_err(|error| error.to_string())?;
            let text =
                [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
            if output.status.success() {
                Ok(text)
            } else {
                Err(text)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_miri_stops_is_found() {
        let text = "running 3 tests\ntest a::one ... ok\ntest a::two ... error: Undefined Behavior: no\nnote: x\n";
        assert_eq!(read(text, Some(true)), (1, None));
        assert_eq!(read(text, None), (1, None));
        let text = "running 3 tests\ntest a::one ... ok\ntest a::two ... \nerror: Undefined Behavior: no\nnote: x\n";
        let wrong = Some(("a::two".into(), "error: Undefined Behavior: no".into()));
        assert_eq!(read(text, Some(false)), (1, wrong));
        let text = "test b ... FAILED\ntest c - should panic ... ok\nthread 'b' panicked at x.rs\n";
        assert_eq!(read(text, Some(false)), (1, Some(("b".into(), "panicked at x.rs".into()))));
        let text = "running 1 test\ntest d ... test d ... ok\nerror: Undefined Behavior: race\nok\nerror: test failed";
        let wrong = Some(("d".into(), "error: Undefined Behavior: race".into()));
        assert_eq!(read(&text.replace("test d ... ok", "test d ... "), Some(false)), (1, wrong));
        assert_eq!(read(text, Some(true)).0, 2);
        assert_eq!(names("a: test\nb::c: test\n2 tests, 0 benchmarks\n"), ["a", "b::c"]);
    }
}
