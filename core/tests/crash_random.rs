//! Random work, random crashes: the power fails, or the kernel restarts, at random moments; the volume is mounted, must
//! show a state that was committed or being committed, whole, and goes on to be worked on and to crash again.
//!
//! The seeds are the same in each run, and so is everything that happens; only how many of them are tried depends on
//! the time, `ARENITE_TEST_SECONDS` for each test or a few seconds, but never fewer than the tests assert.
#![cfg(not(any(loom, feature = "shuttle")))]

mod sim;

use arenite_core::{Allocate, Class, Error, Roots, Store};
use sim::{check, format, hinted, memory, mount, put_as, Contents, Crash, Disk, Media, Rng};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Crashes that each test sees at least.
const MIN_CRASHES: u64 = 1_000;
/// Crashes of each mounted volume that are followed up, and how often one after the other.
const FOLLOWED: usize = 6;
const DEPTH: u32 = 2;

fn time_limit() -> Duration {
    let seconds = std::env::var("ARENITE_TEST_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(4))
}

/// How much a seed does.
#[derive(Clone, Copy)]
struct Scale {
    /// Hundreds of blocks a commit, so that logs are long.
    is_big: bool,
    rounds: u64,
}

/// What happened on a volume: the content of each commit that was begun, by its number.
#[derive(Clone)]
struct History {
    commits: HashMap<u64, Contents>,
    newest: u64,
    restarts: bool,
    crashes: u64,
    longest_log: u32,
}

/// Random work on a mounted store that holds `contents`.
struct Work<'a, 'd, 'm> {
    store: &'a Store<'d, 'm>,
    disk: &'a Disk<'m>,
    contents: Contents,
    rng: Rng,
}

impl Work<'_, '_, '_> {
    /// Writes a block into `into`, if there is room.
    fn put(&mut self, class: Class, into: &mut Contents) -> Result<bool, Error> {
        let fill = self.rng.next() as u8;
        match put_as(self.store, fill, hinted(self.rng.below(7) as u32, class)) {
            Ok(ptr) => into.push((ptr, fill)),
            Err(Error::Full { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    fn free_one_of(&mut self, contents: &mut Contents) -> Result<(), Error> {
        self.rng.take(contents).map_or(Ok(()), |(ptr, _)| self.store.free(ptr))
    }

    fn free_one(&mut self) -> Result<(), Error> {
        self.rng.take(&mut self.contents).map_or(Ok(()), |(ptr, _)| self.store.free(ptr))
    }

    /// The changes of one commit.
    fn change(&mut self, scale: Scale) -> Result<(), Error> {
        let class = if self.rng.below(4) == 0 { Class::Reclaim } else { Class::Normal };
        let (frees, puts) = match scale.is_big {
            true => {
                let frees = self.rng.below(self.contents.len() as u64 + 1) / (1 + self.rng.below(4));
                (frees, self.rng.below(1500))
            }
            false => (self.rng.below(6), self.rng.below(8)),
        };
        let mut new = Contents::new();
        for _ in 0..puts {
            if !self.put(class, &mut new)? {
                break;
            }
            if self.rng.below(10) == 0 {
                self.free_one_of(&mut new)?;
            }
            if self.rng.below(12) == 0 {
                drop(self.store.allocate(Allocate::data().class(class)));
            }
        }
        for _ in 0..frees {
            self.free_one()?;
        }
        self.contents.extend(new);
        Ok(())
    }

    /// Commits, with work of the next generation while that is in flight.
    fn commit(&mut self, history: &mut History) -> Result<(), Error> {
        history.newest += 1;
        let number = history.newest;
        let root = self.contents.first().map(|entry| entry.0);
        let roots = Roots { next_qid: number, ..self.store.roots() }.with_root(root, 1);
        history.commits.insert(number, self.contents.clone());
        let ticket = loop {
            match self.store.commit_start(roots) {
                Err(Error::CommitInFlight) => {
                    self.store.step();
                }
                other => break other?,
            }
        };
        self.disk.note(None, number);
        let (mut early, mut left) = (Contents::new(), self.rng.below(6));
        while self.store.commit_poll(&ticket).is_none() {
            self.store.step();
            if left > 0 {
                left -= 1;
                self.put(Class::Normal, &mut early)?;
                if self.rng.below(3) == 0 {
                    self.free_one()?;
                }
                if self.rng.below(3) == 0 {
                    self.free_one_of(&mut early)?;
                }
            }
        }
        self.store.commit_poll(&ticket).unwrap()?;
        self.disk.note(Some(number), number);
        self.contents.extend(early);
        Ok(())
    }

    fn run(&mut self, history: &mut History, scale: Scale) -> Result<(), Error> {
        for _ in 0..scale.rounds {
            self.change(scale)?;
            self.commit(history)?;
            if self.rng.below(2) == 0 {
                self.store.settle()?;
            }
            let logs = (0..4).filter_map(|arena| self.store.arena(arena)).map(|arena| arena.log_blocks);
            history.longest_log = history.longest_log.max(logs.max().unwrap_or(0));
        }
        Ok(())
    }
}

/// Mounts what a crash left, checks it, and goes on; `path` tells how it came to that.
fn survive(media: Media, span: (u64, u64), history: &mut History, seed: u64, path: &str, depth: u32) {
    history.crashes += 1;
    let memory = memory();
    let disk = Disk::new(media, seed).with_geometry(|geometry| geometry.discard = seed.is_multiple_of(2));
    let store = mount(&memory, &disk).unwrap_or_else(|error| panic!("{path}: {error}"));
    let number = store.roots().next_qid;
    assert!((span.0..=span.1).contains(&number), "{path}: state {number}, not of {span:?}");
    let contents = history.commits.get(&number).cloned().unwrap_or_default();
    check(&store, &contents).unwrap_or_else(|why| panic!("{path}: state {number} of {span:?}: {why}"));
    if depth == 0 {
        return;
    }
    disk.crash_every(12);
    disk.note(Some(number), number);
    let mut work = Work { store: &store, disk: &disk, contents, rng: Rng(seed ^ 0xab_cdef) };
    work.run(history, Scale { is_big: false, rounds: 2 }).unwrap_or_else(|error| panic!("{path}: {error}"));
    let crashes = disk.take_crashes();
    drop(store);
    for (index, crash) in crashes.into_iter().enumerate().take(FOLLOWED) {
        survive_crash(crash, history, seed ^ (index as u64) << 40, path, depth - 1);
    }
}

fn survive_crash(crash: Crash, history: &mut History, seed: u64, path: &str, depth: u32) {
    survive(Media::new(crash.power), crash.span, history, seed, &format!("{path}, power"), depth);
    if history.restarts {
        survive(crash.restart, crash.span, history, seed, &format!("{path}, restart"), depth);
    }
}

/// A new volume, its work, and its crashes, until it is enough.
fn run(seed: u64, restarts: bool, is_enough: impl Fn(&History) -> bool) -> History {
    let memory = memory();
    let mut rng = Rng(seed);
    let is_big = seed.is_multiple_of(3);
    let len_bytes = match is_big {
        true => 4 << 20,
        false => ([128 << 10, 256 << 10, 1 << 20][rng.below(3) as usize]) + 512 * rng.below(5) as usize,
    };
    let arenas = 1 + rng.below(if len_bytes < 200 << 10 { 2 } else { 4 }) as u32;
    let disk =
        Disk::new(Media::blank(len_bytes), seed).with_geometry(|geometry| geometry.discard = seed.is_multiple_of(2));
    let store = format(&memory, &disk, arenas);
    disk.crash_every(if is_big { 700 } else { 25 });
    let mut history = History { commits: HashMap::new(), newest: 0, restarts, crashes: 0, longest_log: 0 };
    let mut work = Work { store: &store, disk: &disk, contents: Contents::new(), rng };
    work.run(&mut history, Scale { is_big, rounds: 6 }).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let crashes = disk.take_crashes();
    drop(store);
    for (index, crash) in crashes.into_iter().enumerate() {
        if is_enough(&history) {
            break;
        }
        survive_crash(crash, &mut history, seed << 8 ^ index as u64, &format!("seed {seed}"), DEPTH);
    }
    history
}

fn run_for_a_while(first_seed: u64, restarts: bool) {
    let begun = Instant::now();
    let (mut seed, mut crashes, mut commits, mut longest_log) = (first_seed, 0, 0, 0);
    while begun.elapsed() < time_limit() || crashes < MIN_CRASHES || longest_log < 3 {
        seed += 1;
        let is_late = || begun.elapsed() >= time_limit();
        let history = run(seed, restarts, |history| is_late() && crashes + history.crashes >= MIN_CRASHES);
        crashes += history.crashes;
        commits += history.commits.len();
        longest_log = longest_log.max(history.longest_log);
    }
    let volumes = seed - first_seed;
    println!("{volumes} volumes, {commits} commits, {crashes} crashes survived, longest log {longest_log} blocks");
    assert!(crashes >= MIN_CRASHES && longest_log >= 3);
}

#[test]
fn power_failures() {
    run_for_a_while(0, false);
}

#[test]
fn power_failures_and_restarts_of_the_kernel() {
    run_for_a_while(5000, true);
}
