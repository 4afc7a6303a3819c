//! A device that fails at one call: what a run notices, what the store does from then on, and what is left, mounted
//! again at once and after a power cut.
//!
//! 1. A write or flush that fails is noticed: an operation fails, and no commit that needed it is acknowledged.
//! 2. From then on the store is read-only and says why; it refuses to allocate and to commit, and its generation stays.
//! 3. What was committed can be read, in the same mount and in the next one.
//! 4. Every crash state of the last epochs shows the last acknowledged commit or the one in flight.
#![forbid(unsafe_code)]

use crate::disk::Disk;
use crate::explore::{without_panic, Explorer, Options};
use crate::faulty::{Effect, Fault, Faulty, Op};
use crate::image::ReadAt;
use crate::mem::{MemDevice, MemOptions};
use crate::oracle::Judge;
use crate::platform::{reset_patience, ImpatientPlatform};
use crate::record::{Recorder, Tape};
use crate::room::Room;
use crate::runner::Course;
use crate::tree::{Recording, RunError, Script, Tree};
use arenite_core::{Allocate, Error, MountOptions, Store};
use std::sync::Arc;

/// A volume to begin with and a script for it, prepared once for many faults.
#[derive(Debug)]
pub struct FaultBench<S: Script> {
    script: S,
    base: Arc<[u8]>,
    course: Course,
    options: Options,
}

/// The device of a run with faults.
type FaultyDevice<'m> = Recorder<Faulty<'m, MemDevice<'m>>>;

/// What came of one fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The run has that call.
    pub reached: bool,
    /// Crash states that were enumerated afterwards.
    pub states: u64,
}

impl<S: Script> FaultBench<S> {
    /// A bench with what is on `disk`. One life is run for each fault. `options` are for the crash states afterwards.
    pub fn new(disk: &Disk, script: S, course: Course, options: Options) -> Self {
        Self { script, base: disk.snapshot(), course, options }
    }

    /// Runs one life with one fault; then looks at what is left.
    pub fn run(&self, fault: Fault) -> Result<Outcome, String> {
        let tape = Tape::new();
        let disk = Arc::new(Disk::over(Arc::clone(&self.base)));
        let mut script = self.script.clone();
        script.put_on_tape(&tape);
        let reached = without_panic(|| self.live(&mut script, &disk, &tape, fault))?;
        let log = script.log();
        let (shape, block_size) = (script.shape().clone(), self.course.block_size);
        let mut judge: Judge<S::Tree> = Judge::new(shape.clone(), block_size, disk.len_bytes());
        judge.disk().rebase(&disk.snapshot());
        let verdict = without_panic(|| judge.judge(&log.model, false, |_| false));
        let shown = verdict.map_err(|what| format!("mounted again: {what}"))?.shown;
        let snapshot = &log.model[shown];
        if !log.may_show(snapshot.roots, &snapshot.content) {
            return Err(format!("mounted again: shows {shown}, not {} or {}", log.acknowledged, log.begun));
        }
        let trace = tape.trace(Arc::clone(&self.base));
        let recording = Recording { shape, block_size, trace, model: log.model.clone() };
        let mut explorer = Explorer::new(Options { max_failures: 1, ..self.options });
        explorer.explore_last::<S::Tree>(&recording, 2);
        match explorer.failures().first() {
            None => Ok(Outcome { reached, states: explorer.counts().states }),
            Some(failure) => Err(format!("after a power cut: {failure}")),
        }
    }

    fn live(&self, script: &mut S, disk: &Arc<Disk>, tape: &Arc<Tape>, fault: Fault) -> Result<bool, String> {
        reset_patience();
        let mut room = Room::new(self.course.block_size, disk.len_bytes());
        let device = MemDevice::new(Arc::clone(disk), MemOptions { max_segments: 1, ..self.course.mem });
        let device = Recorder::new(Faulty::new(device, vec![fault]), Arc::clone(tape));
        let resources = room.fresh().ok_or("memory is taken")?;
        let options = MountOptions { discard: self.course.mem.discard, ..MountOptions::default() };
        let noticed = match Store::mount(resources, &device, &ImpatientPlatform, options) {
            Err(failed) => Some(RunError::Store(failed.error)),
            Ok(store) => {
                let mut noticed = script.live(&store, None).err();
                if !store.is_read_only() && noticed.is_none() {
                    noticed = store.settle().err().map(RunError::Store);
                }
                let failed = store.is_read_only();
                if store.failure().is_some() && !failed {
                    return Err("a store that failed goes on to write".into());
                }
                if failed {
                    check_failed_store(&store, &device, script)?;
                }
                let unmounted = store.unmount();
                if failed && unmounted.is_ok() {
                    return Err("a store that failed was unmounted as if nothing were".into());
                }
                noticed
            }
        };
        let reached = device.inner().calls(fault.op) > fault.index;
        let failing = matches!(fault.effect, Effect::Refuse(_) | Effect::FailLate(_));
        let must_be_noticed = failing && matches!(fault.op, Op::Write | Op::Flush);
        match noticed {
            Some(RunError::Content) => Err("wrong content was taken for right".into()),
            None if reached && must_be_noticed => Err("nobody noticed".into()),
            Some(error) if fault.op == Op::Discard => Err(format!("a discard that failed is no error: {error:?}")),
            _ => Ok(reached),
        }
    }

    /// Runs a fault at every index of one kind of call; returns how many there are, and how many crash states came of
    /// them. The error names the fault.
    pub fn campaign(&self, op: Op, sticky: bool, effect: Effect) -> Result<(u64, u64), String> {
        let mut states = 0;
        for index in 0.. {
            let fault = Fault { op, index, sticky, effect };
            let outcome = self.run(fault).map_err(|what| format!("{fault:?}: {what}"))?;
            states += outcome.states;
            if !outcome.reached {
                return Ok((index, states));
            }
        }
        Ok((0, states))
    }
}

/// What holds for a store that gave up writing: it stays so, and what was committed can be read.
fn check_failed_store<S: Script>(store: &Store<'_, '_>, device: &FaultyDevice<'_>, script: &S) -> Result<(), String> {
    device.inner().set_faults(Vec::new());
    if store.failure().is_none() {
        return Err("read-only without a reason".into());
    }
    // Let everything end that is on its way.
    for _ in 0..200 {
        store.step();
    }
    let generation = store.generation();
    let refusals = [store.allocate(Allocate::data()).err(), store.commit_start(store.roots()).err()];
    if refusals != [Some(Error::ReadOnly); 2] {
        return Err(format!("a failed store does not refuse to write: {refusals:?}"));
    }
    for _ in 0..200 {
        store.step();
    }
    if store.generation() != generation || !store.is_read_only() {
        return Err("a failed store went on".into());
    }
    let tree = S::Tree::open(script.shape(), store).map_err(|error| format!("reading on: {error}"))?;
    if script.log().may_show(store.roots(), &tree.content()) {
        Ok(())
    } else {
        Err("a failed store shows what it must not".into())
    }
}
