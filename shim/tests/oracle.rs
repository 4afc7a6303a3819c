//! The judge of crash states, tested: it must refuse what is wrong, one demand at a time. (The switches of
//! `tests/sabotage.rs` break the store, and what they break is often seen by more than one demand.)

use arenite_core::{Error, Roots, Store};
use arenite_shim::client::{Shape, Slots, Version};
use arenite_shim::explore::{Explorer, Options};
use arenite_shim::oracle::Judge;
use arenite_shim::rng::Rng;
use arenite_shim::tree::{Recording, Tree};
use arenite_shim::workload::{record, Config};
use std::ops::ControlFlow;
use std::sync::Arc;

/// What one recording leaves in the end.
fn last_disk<T: Tree>(recording: &Recording<T>) -> Arc<[u8]> {
    let mut last = Arc::clone(&recording.trace.base);
    let _ = recording.trace.visit_epochs(0, |epoch| {
        last = Arc::clone(&epoch.base);
        ControlFlow::<()>::Continue(())
    });
    last
}

fn judge<T: Tree>(recording: &Recording<T>) -> Result<usize, String> {
    let mut judge = Judge::of(recording);
    judge.disk().rebase(&last_disk(recording));
    judge.judge(&recording.model, false, |_| false).map(|verdict| verdict.shown)
}

fn recording() -> Recording<Slots> {
    record(&Config { lives: 1, ..Config::arenas(3) }).unwrap()
}

/// A structure that forgets one of its blocks.
struct Forgetful(Slots);

impl Tree for Forgetful {
    type Shape = Shape;
    type Content = Vec<Version>;

    fn open(shape: &Shape, store: &Store<'_, '_>) -> Result<Self, String> {
        Slots::open(shape, store).map(Self)
    }

    fn content(&self) -> Vec<Version> {
        self.0.content()
    }

    fn addresses(&self) -> Vec<u64> {
        self.0.addresses().split_off(1)
    }

    fn change(&mut self, store: &Store<'_, '_>, rng: &mut Rng) -> Result<(), Error> {
        self.0.change(store, rng)
    }

    fn prepare(&mut self, store: &Store<'_, '_>) -> Result<Roots, Error> {
        self.0.prepare(store)
    }
}

#[test]
fn what_is_right_is_taken() {
    let recording = recording();
    assert_eq!(judge(&recording), Ok(recording.model.len() - 1));
}

#[test]
fn other_content_is_refused() {
    let mut recording = recording();
    let content = &mut recording.model.last_mut().unwrap().content;
    let held = content.iter().position(|version| *version != Version::NONE).unwrap();
    content[held] = Version::new(1 << 30, true);
    let what = judge(&recording).unwrap_err();
    assert!(what.contains("the content is not that of the commit"), "{what}");
}

#[test]
fn a_commit_that_was_never_begun_is_refused() {
    let mut recording = recording();
    recording.model.pop();
    let what = judge(&recording).unwrap_err();
    assert!(what.contains("never begun"), "{what}");
}

#[test]
fn a_later_generation_than_the_one_shown_is_refused() {
    let mut recording = recording();
    recording.model.last_mut().unwrap().generation = Some(u64::MAX);
    let what = judge(&recording).unwrap_err();
    assert!(what.contains("is before that of the commit"), "{what}");
}

#[test]
fn space_that_is_not_exact_is_refused() {
    let Recording { shape, block_size, trace, model } = recording();
    let what = judge(&Recording::<Forgetful> { shape, block_size, trace, model }).unwrap_err();
    assert!(what.contains("in use but unreachable"), "{what}");
}

#[test]
fn every_state_of_a_further_commit_is_enumerated() {
    let recording = recording();
    let mut explorer = Explorer::new(Options { deep_every: 1, ..Options::DEFAULT });
    explorer.explore(&recording);
    let counts = explorer.counts();
    assert!(explorer.failures().is_empty(), "{:?}", explorer.failures());
    // A further commit has three flushes at least, so four epochs.
    let expected = recording.trace.epoch_count() as u64 + 4 * counts.deep;
    assert!(counts.deep >= 40 && counts.epochs >= expected, "{counts}, of {expected} epochs");
    assert!(counts.audits >= 3, "{counts:?}");
}
