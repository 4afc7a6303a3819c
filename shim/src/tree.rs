//! What the harness must know of a structure on a store: the one place where users plug in their own.
//!
//! ```text
//!   Tree    opens, compares, changes        one structure, in memory
//!   Script  mounts of work on a store       what is recorded (crate::steps makes one for any tree)
//!   Log     what each commit held           written by the script, read by the oracle
//! ```
//!
//! The harness never looks into the blocks of a tree. It asks for the content (to compare with what was committed), for
//! the addresses of all blocks (to compare with the free map), and for one change more (to see that work goes on).
#![forbid(unsafe_code)]

use crate::record::Tape;
use crate::rng::Rng;
use crate::trace::{Mark, Trace};
use arenite_core::format::BlockSize;
use arenite_core::{Error, Roots, Store};
use std::sync::Arc;

/// A structure on a store.
///
/// All block contents must follow from the calls made (no clocks, no randomness but that of `rng`), so that a state can
/// be judged again by its name.
pub trait Tree: Sized {
    /// What [`Tree::open`] must know: sizes, options; often `()`.
    type Shape: Clone + Send + Sync;
    /// All that a user of the structure can see.
    type Content: Clone + PartialEq + std::fmt::Debug + Send + Sync;

    /// Opens what the newest commit of the store shows, the empty structure if it has no root. Must read every block
    /// that can be reached; an error says what is wrong.
    fn open(shape: &Self::Shape, store: &Store<'_, '_>) -> Result<Self, String>;

    /// What the structure holds, changes that are not committed included.
    fn content(&self) -> Self::Content;

    /// Byte addresses of all blocks that can be reached, each once.
    fn addresses(&self) -> Vec<u64>;

    /// Changes something. On a full volume it must make room instead of failing.
    fn change(&mut self, store: &Store<'_, '_>, rng: &mut Rng) -> Result<(), Error>;

    /// Writes what is still in memory only, and says what to commit. No two commits of a structure may have the same
    /// roots unless they have the same content (a root block that moves with every change is enough).
    fn prepare(&mut self, store: &Store<'_, '_>) -> Result<Roots, Error>;
}

/// What one commit holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot<C> {
    /// The roots.
    pub roots: Roots,
    /// Its generation, once it is acknowledged.
    pub generation: Option<u64>,
    /// What the structure holds.
    pub content: C,
}

/// A run that was recorded.
pub struct Recording<T: Tree> {
    /// How to open the structure.
    pub shape: T::Shape,
    /// Block size of the volume.
    pub block_size: BlockSize,
    /// What the device saw, from the formatted volume on.
    pub trace: Trace,
    /// What each commit holds; number 0 is what was there before.
    pub model: Vec<Snapshot<T::Content>>,
}

impl<T: Tree> Recording<T> {
    /// Whether two commits show the same.
    pub fn same(&self, one: usize, other: usize) -> bool {
        one == other
            || matches!((self.model.get(one), self.model.get(other)), (Some(one), Some(other)) if one.roots == other.roots)
    }
}

impl<T: Tree> std::fmt::Debug for Recording<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording").field("commits", &self.model.len()).finish_non_exhaustive()
    }
}

/// Why a run failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunError {
    /// An operation of the store did.
    Store(Error),
    /// A mounted volume does not hold what the last commit did.
    Content,
    /// The structure could not be opened, which may be the device's doing.
    Unreadable,
}

impl From<Error> for RunError {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// How far the commits of a run are, and what each holds. It also marks the tape.
#[derive(Clone, Debug)]
pub struct Log<C> {
    tape: Arc<Tape>,
    /// What each commit holds that was begun; number 0 is what was there before.
    pub model: Vec<Snapshot<C>>,
    /// Number of the newest commit that is known to be durable.
    pub acknowledged: usize,
    /// Number of the commit begun last; it may be durable too.
    pub begun: usize,
}

impl<C: Clone + PartialEq> Log<C> {
    /// A log of a volume that shows this, with a tape that nobody reads.
    pub fn new(roots: Roots, content: C) -> Self {
        Self {
            tape: Tape::new(),
            model: vec![Snapshot { roots, generation: None, content }],
            acknowledged: 0,
            begun: 0,
        }
    }

    /// The same log, to go on from here on another tape.
    #[must_use]
    pub fn on_tape(&self, tape: &Arc<Tape>) -> Self {
        Self { tape: Arc::clone(tape), ..self.clone() }
    }

    /// To be called at each mount, with what it shows: the newest commit that was acknowledged, or the one begun after
    /// it. From now on this is the one that is durable.
    pub fn arrive(&mut self, roots: Roots, content: &C) -> Result<(), RunError> {
        let candidates = [self.begun, self.acknowledged];
        let shown = candidates.into_iter().find(|number| self.model[*number].roots == roots);
        let shown = shown.filter(|number| self.model[*number].content == *content).ok_or(RunError::Content)?;
        (self.acknowledged, self.begun) = (shown, shown);
        self.tape.mark(Mark::Begun(shown));
        self.tape.mark(Mark::Acknowledged(shown));
        Ok(())
    }

    /// To be called before the store is asked to commit. Returns the number of the commit.
    pub fn begin(&mut self, roots: Roots, content: C) -> usize {
        let number = self.model.len();
        self.model.push(Snapshot { roots, generation: None, content });
        self.begun = number;
        self.tape.mark(Mark::Begun(number));
        number
    }

    /// To be called when the store has said that the commit begun last is durable.
    pub fn acknowledge(&mut self, generation: u64) {
        self.acknowledged = self.begun;
        if let Some(snapshot) = self.model.get_mut(self.begun) {
            snapshot.generation = Some(generation);
        }
        self.tape.mark(Mark::Acknowledged(self.begun));
    }

    /// Whether a mount may show this.
    pub fn may_show(&self, roots: Roots, content: &C) -> bool {
        let shows = |number: usize| self.model.get(number).is_some_and(|s| s.roots == roots && s.content == *content);
        shows(self.acknowledged) || shows(self.begun)
    }
}

/// How a life on a mounted store ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In good order.
    Unmount,
    /// In the middle of a commit, with the device left on.
    GoDown,
}

/// Work on a store, the same whenever it is run again from the same point.
pub trait Script: Clone {
    /// The structure that it works on.
    type Tree: Tree;

    /// How to open it.
    fn shape(&self) -> &<Self::Tree as Tree>::Shape;

    /// What it noted so far.
    fn log(&self) -> &Log<<Self::Tree as Tree>::Content>;

    /// To go on from here on another tape.
    fn put_on_tape(&mut self, tape: &Arc<Tape>);

    /// One life: opens what the store shows, tells the log ([`Log::arrive`]), changes and commits. `enlarge`, if it is
    /// there, makes the device larger; the script may then grow the volume.
    fn live(&mut self, store: &Store<'_, '_>, enlarge: Option<&dyn Fn()>) -> Result<End, RunError>;
}
