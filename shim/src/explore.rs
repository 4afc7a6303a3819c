//! From recordings to counts: enumerates the crash states of every epoch, judges each distinct one once, and counts.
//!
//! States are told apart by a digest of the whole disk that follows from the choice of sectors alone, so that a state seen
//! before costs almost nothing. What is reported as the number of *mount images* is stricter: states that differ in what
//! mount reads.
//!
//! Every distinct state is mounted, its content and its space are compared. The further commit is tried once for each
//! mount image: all that the store does follows from what it reads, and of what is read after mount, every block has
//! been compared with the model. (So states that differ in blocks which no commit reaches are not worth a second one.)
//!
//! Every `deep_every`-th distinct state goes one level deeper: the commit that the judge makes on it (with the repairs that
//! it begins with) is recorded, and its crash states are enumerated in turn.
//!
//! A failure names its state (`e12:0110`, epoch and choice; `e12:0110/e1:01` for a second crash), and
//! [`Explorer::replay`] judges that state again.
#![forbid(unsafe_code)]

use crate::crash::{digest_change, Choice, CrashSpace, Limits};
use crate::oracle::{Judge, Verdict};
use crate::record::Reads;
use crate::trace::Epoch;
use crate::workload::Recording;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// How an exploration goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Limits of the enumeration of each epoch.
    pub limits: Limits,
    /// Every so many distinct states, the further commit is explored too; 0 for never.
    pub deep_every: u64,
    /// How many crashes one after the other: 2 to explore further commits of recorded runs, 3 for those of these too.
    pub max_crashes: u32,
    /// Failures after which to stop.
    pub max_failures: usize,
    /// For the states that are taken at random.
    pub seed: u64,
}

impl Options {
    /// No second crashes; a stop after three failures.
    pub const DEFAULT: Self = Self { limits: Limits::DEFAULT, deep_every: 0, max_crashes: 2, max_failures: 3, seed: 0 };
}

impl Default for Options {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Epochs, those of further commits included.
    pub epochs: u64,
    /// Of these, the ones of which every state was enumerated.
    pub exhaustive_epochs: u64,
    /// States enumerated.
    pub states: u64,
    /// Distinct disks among them, each of which was judged.
    pub images: u64,
    /// Distinct images of what mount reads.
    pub mount_images: u64,
    /// Further commits whose crash states were enumerated.
    pub deep: u64,
    /// Most writes in one epoch.
    pub most_writes: u64,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} crash states in {} epochs ({} exhaustive, up to {} writes), {} distinct disks, {} distinct mount \
             images, {} second crashes",
            self.states,
            self.epochs,
            self.exhaustive_epochs,
            self.most_writes,
            self.images,
            self.mount_images,
            self.deep
        )
    }
}

/// A crash state that is not good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Names the state within its recording.
    pub replay: String,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.replay, self.what)
    }
}

/// Explores recordings and keeps the counts.
#[derive(Debug)]
pub struct Explorer {
    options: Options,
    counts: Counts,
    failures: Vec<Failure>,
    mount_images: HashSet<Reads>,
}

/// One recording that is being explored.
struct Site<'r> {
    recording: &'r Recording,
    judge: Judge,
    /// Number of the commit shown, by digest of the disk.
    seen: HashMap<u128, usize>,
    /// In front of the names of its states.
    prefix: String,
    /// How many crashes one after the other its states are.
    crashes: u32,
}

impl Explorer {
    /// An exploration that has seen nothing.
    pub fn new(options: Options) -> Self {
        Self { options, counts: Counts::default(), failures: Vec::new(), mount_images: HashSet::new() }
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        Counts { mount_images: self.mount_images.len() as u64, ..self.counts }
    }

    /// What was wrong so far.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// Explores all crash states of a recording; stops early after too many failures.
    pub fn explore(&mut self, recording: &Recording) {
        self.explore_last(recording, usize::MAX);
    }

    /// The same for the last so many epochs only.
    pub fn explore_last(&mut self, recording: &Recording, count: usize) {
        // Stopping is told by the failures.
        let _ = self.explore_site(Site::new(recording, String::new(), 1), 0, count);
    }

    fn explore_site(&mut self, mut site: Site<'_>, before: usize, count: usize) -> ControlFlow<()> {
        let epochs = site.recording.trace.epochs(before);
        let epochs = epochs.get(epochs.len().saturating_sub(count)..).unwrap_or(&[]);
        // Digests are relative to the first base: they are compared within this recording only.
        let mut digest = 0u128;
        let mut base = &site.recording.trace.base;
        for epoch in epochs {
            digest = digest.wrapping_add(digest_change(base, &epoch.base));
            base = &epoch.base;
            self.explore_epoch(&mut site, epoch, digest)?;
        }
        ControlFlow::Continue(())
    }

    fn explore_epoch(&mut self, site: &mut Site<'_>, epoch: &Epoch, base_digest: u128) -> ControlFlow<()> {
        let space = CrashSpace::new(epoch, self.options.limits);
        self.counts.epochs += 1;
        self.counts.exhaustive_epochs += u64::from(space.is_exhaustive());
        self.counts.most_writes = self.counts.most_writes.max(space.writes() as u64);
        space.visit(self.options.seed, |choice| {
            self.counts.states += 1;
            let digest = base_digest.wrapping_add(space.delta(&choice));
            let name = || format!("{}e{}:{choice}", site.prefix, epoch.index);
            if let Some(shown) = site.seen.get(&digest) {
                return self.take_in(name(), site.crashes, within(epoch, *shown).map(|()| None));
            }
            self.counts.images += 1;
            let deep = site.crashes < self.options.max_crashes
                && self.options.deep_every != 0
                && self.counts.images.is_multiple_of(self.options.deep_every);
            let name = name();
            let result = site.judge_choice(&space, &choice, deep, |reads| self.mount_images.contains(reads));
            let result = result.and_then(|verdict| {
                site.seen.insert(digest, verdict.shown);
                self.mount_images.insert(verdict.reads);
                within(epoch, verdict.shown).map(|()| verdict.recovery.map(|recovery| (verdict.shown, recovery)))
            });
            self.take_in(name, site.crashes, result)
        })
    }

    /// Notes a failure, or goes deeper.
    fn take_in(
        &mut self,
        name: String,
        crashes: u32,
        result: Result<Option<(usize, Recording)>, String>,
    ) -> ControlFlow<()> {
        match result {
            Ok(None) => ControlFlow::Continue(()),
            Ok(Some((shown, recovery))) => {
                self.counts.deep += 1;
                self.explore_site(Site::new(&recovery, format!("{name}/"), crashes + 1), shown, usize::MAX)
            }
            Err(what) => {
                self.failures.push(Failure { replay: name, what });
                if self.failures.len() < self.options.max_failures {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            }
        }
    }

    /// Judges one state again, by its name.
    pub fn replay(recording: &Recording, name: &str) -> Result<(), String> {
        let mut before = 0;
        let mut held;
        let mut recording = recording;
        let mut parts = name.split('/').peekable();
        while let Some(part) = parts.next() {
            let (number, choice) = part.strip_prefix('e').and_then(|part| part.split_once(':')).ok_or("bad name")?;
            let number: usize = number.parse().map_err(|_| "bad number of an epoch")?;
            let choice: Choice = choice.parse().map_err(|_| "bad choice")?;
            let epochs = recording.trace.epochs(before);
            let epoch = epochs.get(number).ok_or("no such epoch")?;
            let space = CrashSpace::new(epoch, Limits::default());
            let mut site = Site::new(recording, String::new(), 1);
            let verdict = site.judge_choice(&space, &choice, parts.peek().is_some(), |_| false)?;
            within(epoch, verdict.shown)?;
            before = verdict.shown;
            if let Some(recovery) = verdict.recovery {
                held = recovery;
                recording = &held;
            }
        }
        Ok(())
    }
}

impl<'r> Site<'r> {
    fn new(recording: &'r Recording, prefix: String, crashes: u32) -> Self {
        let judge = Judge::new(recording.trace.base.len() as u64, recording.levels);
        Self { recording, judge, seen: HashMap::new(), prefix, crashes }
    }

    fn judge_choice(
        &mut self,
        space: &CrashSpace<'_>,
        choice: &Choice,
        deep: bool,
        known: impl Fn(&Reads) -> bool,
    ) -> Result<Verdict, String> {
        space.apply(choice, self.judge.disk()).map_err(|error| error.to_string())?;
        // A panic is a failure of this state and no more; the judge starts afresh with each state.
        let judged = catch_unwind(AssertUnwindSafe(|| self.judge.judge(&self.recording.model, deep, known)));
        judged.unwrap_or_else(|panic| Err(format!("panic: {}", panic_text(&*panic))))
    }
}

/// Whether a commit may be shown after a crash in this epoch: the last acknowledged one or the one in flight.
fn within(epoch: &Epoch, shown: usize) -> Result<(), String> {
    if shown == epoch.acknowledged || shown == epoch.begun {
        Ok(())
    } else {
        Err(format!("shows commit {shown}; {} was acknowledged, {} begun", epoch.acknowledged, epoch.begun))
    }
}

/// The text of a panic, if it has one.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a text")
}
