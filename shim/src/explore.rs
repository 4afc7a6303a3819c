//! From recordings to counts: enumerates the crash states of every epoch, judges what is distinct once, and counts.
//!
//! States that agree in all that the judge reads are judged once ([`crate::memo`]), so that a state costs a few
//! look-ups unless it is new. What is reported as the number of *mount images* is stricter: states that differ in what
//! mount alone reads.
//!
//! Every state that is new is mounted, its content and its space are compared. The further commit is tried once for
//! each mount image: all that the store does follows from what it reads, and of what is read after mount, every block
//! has been compared with the model. (So states that differ in blocks which no commit reaches are not worth a second
//! one.)
//!
//! Every `deep_every`-th further commit (with the repairs that it begins with) is recorded, and its crash states are
//! enumerated in turn.
//!
//! A failure names its state (`12:l3:-`, epoch, mask and tear, see [`crate::point`]; `12:l3:-/1:p1:-` for a second
//! crash), and [`Explorer::replay`] judges that state again.
#![forbid(unsafe_code)]

use crate::crash::{Choice, CrashSpace, Limits};
use crate::memo::Memo;
use crate::oracle::{Judge, Verdict};
use crate::point::Point;
use crate::record::Reads;
use crate::trace::Epoch;
use crate::tree::{Recording, Tree};
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::Instant;

/// Every so many states, one that reads like an earlier one is judged all the same: the verdict must be that one's, and
/// mount must have read the same bytes.
const AUDIT_EVERY: u64 = 1 << 10;

/// How an exploration goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Limits of the enumeration of each epoch.
    pub limits: Limits,
    /// Every so many further commits, one is explored too; 0 for never.
    pub deep_every: u64,
    /// How many crashes one after the other: 2 to explore further commits of recorded runs, 3 for those of these too.
    pub max_crashes: u32,
    /// Failures after which to stop.
    pub max_failures: usize,
    /// For the states that are taken at random.
    pub seed: u64,
    /// When to stop, if not done by then.
    pub deadline: Option<Instant>,
}

impl Options {
    /// No second crashes; a stop after three failures.
    pub const DEFAULT: Self =
        Self { limits: Limits::DEFAULT, deep_every: 0, max_crashes: 2, max_failures: 3, seed: 0, deadline: None };
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
    /// Of these, the ones that were judged: they differ from all others of their epoch in what the judge reads.
    pub images: u64,
    /// Distinct images of what mount reads.
    pub mount_images: u64,
    /// Further commits whose crash states were enumerated.
    pub deep: u64,
    /// States that read like an earlier one and were judged all the same, to be sure.
    pub audits: u64,
    /// Most writes in one epoch.
    pub most_writes: u64,
}

impl Counts {
    /// Adds up everything but what is distinct.
    fn add(&mut self, other: &Self) {
        self.epochs += other.epochs;
        self.exhaustive_epochs += other.exhaustive_epochs;
        self.states += other.states;
        self.images += other.images;
        self.deep += other.deep;
        self.audits += other.audits;
        self.most_writes = self.most_writes.max(other.most_writes);
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} crash states in {} epochs ({} exhaustive, up to {} writes), {} judged, {} distinct mount \
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
    late: bool,
}

/// One recording that is being explored.
struct Site<'r, T: Tree> {
    recording: &'r Recording<T>,
    judge: Judge<T>,
    /// In front of the names of its states.
    prefix: String,
    /// How many crashes one after the other its states are.
    crashes: u32,
}

impl Explorer {
    /// An exploration that has seen nothing.
    pub fn new(options: Options) -> Self {
        let (counts, failures, mount_images) = (Counts::default(), Vec::new(), HashSet::new());
        Self { options, counts, failures, mount_images, late: false }
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        Counts { mount_images: self.mount_images.len() as u64, ..self.counts }
    }

    /// What was wrong so far.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// Whether the deadline came before the end.
    pub fn is_cut_short(&self) -> bool {
        self.late
    }

    /// Notes a failure that was found elsewhere.
    pub fn fail(&mut self, failure: Failure) {
        self.failures.push(failure);
    }

    /// Puts something in front of the names of all failures so far.
    pub fn name_failures(&mut self, prefix: &str) {
        self.failures.iter_mut().for_each(|failure| failure.replay.insert_str(0, prefix));
    }

    /// Takes over what another exploration has found. What both have seen counts once.
    pub fn absorb(&mut self, other: Self) {
        self.counts.add(&other.counts);
        self.failures.extend(other.failures);
        self.mount_images.extend(other.mount_images);
        self.late |= other.late;
    }

    /// Explores all crash states of a recording; stops early after too many failures.
    pub fn explore<T: Tree>(&mut self, recording: &Recording<T>) {
        self.explore_last(recording, usize::MAX);
    }

    /// The same for the last so many epochs only.
    pub fn explore_last<T: Tree>(&mut self, recording: &Recording<T>, count: usize) {
        // Stopping is told by the failures.
        let _ = self.explore_site(Site::new(recording, String::new(), 1), count);
    }

    fn explore_site<T: Tree>(&mut self, mut site: Site<'_, T>, count: usize) -> ControlFlow<()> {
        let first = site.recording.trace.epoch_count().saturating_sub(count);
        site.recording.trace.visit_epochs(0, |epoch| {
            if epoch.index < first {
                return ControlFlow::Continue(());
            }
            self.explore_epoch(&mut site, epoch)
        })
    }

    fn explore_epoch<T: Tree>(&mut self, site: &mut Site<'_, T>, epoch: &Epoch) -> ControlFlow<()> {
        let space = CrashSpace::new(epoch, self.options.limits);
        let mut memo = Memo::default();
        self.counts.epochs += 1;
        self.counts.exhaustive_epochs += u64::from(space.is_exhaustive());
        self.counts.most_writes = self.counts.most_writes.max(space.writes() as u64);
        space.visit(self.options.seed, |point, choice| {
            self.counts.states += 1;
            let known = memo.find(choice);
            if known.is_some() && !self.counts.states.is_multiple_of(AUDIT_EVERY) {
                return ControlFlow::Continue(());
            }
            if self.options.deadline.is_some_and(|deadline| Instant::now() > deadline) {
                self.late = true;
                return ControlFlow::Break(());
            }
            if let Some(known) = known {
                self.counts.audits += 1;
                let verdict = site.judge_choice(&space, choice, false, |reads| self.mount_images.contains(reads));
                let result = verdict.and_then(|verdict| match (verdict.shown, verdict.reads) == known {
                    true => Ok(None),
                    false => Err(format!("taken for a state that reads like it, {known:?}: {:?}", verdict.reads)),
                });
                return self.take_in(site, epoch, point, result);
            }
            self.counts.images += 1;
            let every = self.options.deep_every;
            let deep = every != 0
                && site.crashes < self.options.max_crashes
                && (self.mount_images.len() as u64).is_multiple_of(every);
            let result = site.judge_choice(&space, choice, deep, |reads| self.mount_images.contains(reads));
            let result = result.and_then(|verdict| {
                memo.insert(&space, choice, &verdict.places, (verdict.shown, verdict.reads));
                self.mount_images.insert(verdict.reads);
                within(site.recording, epoch, verdict.shown).map(|()| verdict.recovery)
            });
            self.take_in(site, epoch, point, result)
        })
    }

    /// Notes a failure, or goes deeper.
    fn take_in<T: Tree>(
        &mut self,
        site: &Site<'_, T>,
        epoch: &Epoch,
        point: &Point,
        result: Result<Option<Recording<T>>, String>,
    ) -> ControlFlow<()> {
        let name = || format!("{}{}:{point}", site.prefix, epoch.index);
        match result {
            Ok(None) => ControlFlow::Continue(()),
            Ok(Some(recovery)) => {
                self.counts.deep += 1;
                self.explore_site(Site::new(&recovery, format!("{}/", name()), site.crashes + 1), usize::MAX)
            }
            Err(what) => {
                self.failures.push(Failure { replay: name(), what });
                if self.failures.len() < self.options.max_failures {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            }
        }
    }

    /// Judges one state again, by its name. Says what may be shown and what is.
    pub fn replay<T: Tree>(recording: &Recording<T>, limits: Limits, name: &str) -> Result<String, String> {
        let (name, rest) = name.split_once('/').map_or((name, None), |(name, rest)| (name, Some(rest)));
        let (number, point) = name.split_once(':').ok_or("a name is epoch:mask:tear")?;
        let number: usize = number.parse().map_err(|_| "bad number of an epoch")?;
        let point: Point = point.parse().map_err(|error: crate::point::BadName| error.to_string())?;
        let mut result = Err("no such epoch".into());
        let _ = recording.trace.visit_epochs(0, |epoch| {
            if epoch.index < number {
                return ControlFlow::Continue(());
            }
            result = replay_in(recording, epoch, limits, &point, rest);
            ControlFlow::Break(())
        });
        result
    }
}

fn replay_in<T: Tree>(
    recording: &Recording<T>,
    epoch: &Epoch,
    limits: Limits,
    point: &Point,
    rest: Option<&str>,
) -> Result<String, String> {
    let space = CrashSpace::new(epoch, limits);
    let mut choice = Vec::new();
    space.choose(point, &mut choice);
    let mut site = Site::new(recording, String::new(), 1);
    let verdict = site.judge_choice(&space, &choice, rest.is_some(), |_| false)?;
    within(recording, epoch, verdict.shown)?;
    let found = format!(
        "epoch {} with {} writes pending: commit {} acknowledged, {} begun; shows commit {}, whole; space exact; a \
         further commit and a remount work",
        epoch.index,
        space.writes(),
        epoch.acknowledged,
        epoch.begun,
        verdict.shown
    );
    match (rest, verdict.recovery) {
        (Some(rest), Some(recovery)) => {
            Explorer::replay(&recovery, limits, rest).map(|then| format!("{found}\nthen a second crash: {then}"))
        }
        _ => Ok(found),
    }
}

impl<'r, T: Tree> Site<'r, T> {
    fn new(recording: &'r Recording<T>, prefix: String, crashes: u32) -> Self {
        Self { recording, judge: Judge::of(recording), prefix, crashes }
    }

    fn judge_choice(
        &mut self,
        space: &CrashSpace<'_>,
        choice: &Choice,
        deep: bool,
        known: impl Fn(&Reads) -> bool,
    ) -> Result<Verdict<T>, String> {
        space.apply(choice, self.judge.disk()).map_err(|error| error.to_string())?;
        // A panic is a failure of this state and no more; the judge starts afresh with each state.
        without_panic(|| self.judge.judge(&self.recording.model, deep, known))
    }
}

/// Whether a commit may be shown after a crash in this epoch: the last acknowledged one or the one in flight.
fn within<T: Tree>(recording: &Recording<T>, epoch: &Epoch, shown: usize) -> Result<(), String> {
    if recording.same(shown, epoch.acknowledged) || recording.same(shown, epoch.begun) {
        Ok(())
    } else {
        Err(format!("shows commit {shown}; {} was acknowledged, {} begun", epoch.acknowledged, epoch.begun))
    }
}

/// Turns a panic into a message.
pub fn without_panic<T>(body: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(format!("panic: {}", text.unwrap_or("without a text")))
    })
}
