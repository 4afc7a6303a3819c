#![forbid(unsafe_code)]
//! All CPUs at work on one volume: who may do what at the same time, and what happens when one fails.
//!
//! What makes up the work (content of files: reading, filling, hashing, queueing, freeing) is done side by side. The
//! catalogue is changed by one CPU at a time. A commit must not come between the blocks of a file and the entry that
//! leads to them, so CPUs make their changes inside a gate, and whoever commits has all others outside:
//!
//! ```text
//!   Changes::side_by_side   in .. write content .. lock the catalogue, put, unlock .. out     any number of CPUs
//!   Changes::alone          close the gate .. wait until nobody is inside .. commit .. open
//! ```
//!
//! A CPU that waits for another drives the store meanwhile. A CPU alone finds the gate open and the lock free.
//!
//! Lock order: the gate is held for moments only; inside the gate, the catalogue; then whatever the store locks.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arenite_catalog::Catalog;
use spin::{Mutex, MutexGuard};

use crate::crew;
use crate::failure::Failure;
use crate::volume::Volume;

/// The catalogue as the kernel uses it.
pub type KernelCatalog<'v> = Catalog<'v, 'static, 'static>;

/// All CPUs at one piece of work. The first failure ends it.
pub struct Team<'v> {
    volume: &'v Volume,
    failure: Mutex<Option<Failure>>,
    is_over: AtomicBool,
    finished: AtomicUsize,
}

impl<'v> Team<'v> {
    /// A team that has not begun.
    pub fn new(volume: &'v Volume) -> Self {
        let (failure, is_over, finished) = (Mutex::new(None), AtomicBool::new(false), AtomicUsize::new(0));
        Self { volume, failure, is_over, finished }
    }

    /// Has every CPU call `work`, with its number. Whoever is through drives the store until all are.
    ///
    /// # Errors
    /// The first failure of any.
    pub fn run(&self, work: &(dyn Fn(usize) -> Result<(), Failure> + Sync)) -> Result<(), Failure> {
        self.finished.store(0, Ordering::Release);
        crew::run(&|cpu| {
            if let Err(failure) = work(cpu) {
                self.fail(failure);
            }
            self.finished.fetch_add(1, Ordering::AcqRel);
            crew::help_until(|| self.help(), || self.finished.load(Ordering::Acquire) >= crew::size());
        });
        self.failure.lock().take().map_or(Ok(()), Err)
    }

    /// Whether somebody has failed, so that there is no use in going on.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Ends the work of all.
    fn fail(&self, failure: Failure) {
        self.failure.lock().get_or_insert(failure);
        self.is_over.store(true, Ordering::Release);
    }

    /// What a CPU does while it waits.
    fn help(&self) -> bool {
        self.volume.store.step()
    }
}

/// Who is inside the gate.
struct Gate {
    inside: usize,
    is_closed: bool,
}

/// A catalogue that a team changes.
pub struct Changes<'v> {
    /// The team.
    pub team: Team<'v>,
    catalog: Mutex<KernelCatalog<'v>>,
    gate: Mutex<Gate>,
}

impl<'v> Changes<'v> {
    /// Nothing has changed yet.
    pub fn new(volume: &'v Volume, catalog: KernelCatalog<'v>) -> Self {
        let gate = Mutex::new(Gate { inside: 0, is_closed: false });
        Self { team: Team::new(volume), catalog: Mutex::new(catalog), gate }
    }

    /// Makes a change together with others. `None` if the work is over.
    ///
    /// # Errors
    /// Those of the change.
    pub fn side_by_side<T>(&self, change: impl FnOnce() -> Result<T, Failure>) -> Result<Option<T>, Failure> {
        self.pass_gate(|gate| gate.inside += 1);
        let result = if self.team.is_over() { Ok(None) } else { change().map(Some) };
        self.gate.lock().inside -= 1;
        result
    }

    /// Makes a change while nobody makes another. `None` if the work is over. A failure ends it, before anybody else
    /// can go on. Not to be called inside [`Changes::side_by_side`].
    ///
    /// # Errors
    /// Those of the change.
    pub fn alone<T>(
        &self,
        change: impl FnOnce(&mut KernelCatalog<'v>) -> Result<T, Failure>,
    ) -> Result<Option<T>, Failure> {
        self.pass_gate(|gate| gate.is_closed = true);
        crew::help_until(|| self.team.help(), || self.gate.lock().inside == 0);
        let result = if self.team.is_over() { Ok(None) } else { change(&mut self.catalog()).map(Some) };
        if let Err(failure) = &result {
            self.team.fail(failure.clone());
        }
        self.gate.lock().is_closed = false;
        result
    }

    /// Waits until the gate is open, and does something to it.
    fn pass_gate(&self, pass: impl Fn(&mut Gate)) {
        let try_pass = || {
            let mut gate = self.gate.lock();
            let is_open = !gate.is_closed;
            if is_open {
                pass(&mut gate);
            }
            is_open
        };
        crew::help_until(|| self.team.help(), try_pass);
    }

    /// The catalogue, for one change or one look.
    pub fn catalog(&self) -> MutexGuard<'_, KernelCatalog<'v>> {
        crew::lock(&self.catalog, || self.team.help())
    }

    /// The catalogue, when all is done.
    pub fn into_catalog(self) -> KernelCatalog<'v> {
        self.catalog.into_inner()
    }
}
