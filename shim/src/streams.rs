//! Operation streams against a model, for any structure: the target `operations` of [`crate::fuzzing`], where the calls
//! are those of the user's tree.
//!
//! Each two bytes are a call: change, commit, commit with a change while it is in flight, settle, compare, give up the
//! mount with or without unmounting. The model is what the last acknowledged commit held. After every mount the tree
//! must show that, and the free space must be exact.
#![forbid(unsafe_code)]

use crate::check::check_volume;
use crate::disk::Disk;
use crate::mem::{MemDevice, MemOptions};
use crate::platform::{reset_patience, ImpatientPlatform};
use crate::rng::Rng;
use crate::room::Room;
use crate::steps::Steps;
use crate::tree::Tree;
use arenite_core::{Error, MountOptions, Roots, Store};
use std::sync::Arc;

/// Calls in one stream.
const MAX_CALLS: usize = 400;
/// Steps that a commit may take.
const MAX_STEPS: u32 = 100_000;

/// What the last acknowledged commit held, and everything else that outlives a mount.
struct Model<C> {
    roots: Roots,
    content: C,
    rng: Rng,
}

/// Carries out a stream on an empty volume; how many commits were acknowledged. The error says which call (from 0).
pub fn run<T: Tree>(shape: &T::Shape, bytes: &[u8]) -> Result<u64, String> {
    let steps = Steps::SMALL;
    let disk = Arc::new(Disk::zeroed(steps.volume_blocks * steps.block_size.len_u64()));
    crate::workload::format(&disk, steps.arenas).map_err(|error| format!("format: {error}"))?;
    let mut room = Room::new(steps.block_size, steps.volume_blocks * steps.block_size.len_u64());
    let seed = bytes.iter().fold(0u64, |sum, byte| crate::rng::mix64(sum ^ u64::from(*byte)));
    let mut model: Option<Model<T::Content>> = None;
    let mut calls = bytes.chunks_exact(2).take(MAX_CALLS).enumerate().peekable();
    let mut commits = 0;
    loop {
        reset_patience();
        let device = MemDevice::new(Arc::clone(&disk), MemOptions::default());
        let resources = room.fresh().ok_or("memory is taken")?;
        let store = Store::mount(resources, &device, &ImpatientPlatform, MountOptions::default());
        let store = store.map_err(|failed| format!("mount: {}", failed.error))?;
        let mut tree = T::open(shape, &store)?;
        let model =
            model.get_or_insert_with(|| Model { roots: store.roots(), content: tree.content(), rng: Rng::new(seed) });
        compare(&disk, &store, &tree, model)?;
        if calls.peek().is_none() {
            store.unmount().map_err(|error| format!("unmount: {error}"))?;
            return Ok(commits);
        }
        let mut leave = Leave::Never;
        while let (Leave::Never, Some((number, call))) = (leave, calls.next()) {
            reset_patience();
            let done = one::<T>(shape, &store, &mut tree, model, call[0], &mut commits);
            leave = done.map_err(|what| format!("call {number}, {:#04x}: {what}", call[0]))?;
        }
        match leave {
            // What was not committed is gone.
            Leave::Abandon => std::mem::forget(store),
            _ => store.unmount().map_err(|error| format!("unmount: {error}"))?,
        }
    }
}

/// Whether a call ends the mount.
#[derive(Clone, Copy)]
enum Leave {
    Never,
    Unmount,
    Abandon,
}

fn one<T: Tree>(
    shape: &T::Shape,
    store: &Store<'_, '_>,
    tree: &mut T,
    model: &mut Model<T::Content>,
    what: u8,
    commits: &mut u64,
) -> Result<Leave, String> {
    let result = match what % 16 {
        0..8 => tree.change(store, &mut model.rng),
        8..11 => commit(store, tree, model, false).map(|()| *commits += 1),
        11 => commit(store, tree, model, true).map(|()| *commits += 1),
        12 => store.settle(),
        13 => return reopen::<T>(shape, store, model).map(|()| Leave::Never),
        14 => return Ok(Leave::Unmount),
        _ => return Ok(Leave::Abandon),
    };
    match result {
        Ok(()) => Ok(Leave::Never),
        // Whatever the tree holds in memory then, on the disk it is what was committed.
        Err(Error::Full { .. }) => Ok(Leave::Abandon),
        Err(error) => Err(error.to_string()),
    }
}

/// Commits; `overlap` makes a change while that is under way, which belongs to the next commit.
fn commit<T: Tree>(
    store: &Store<'_, '_>,
    tree: &mut T,
    model: &mut Model<T::Content>,
    overlap: bool,
) -> Result<(), Error> {
    let (roots, content) = (tree.prepare(store)?, tree.content());
    let ticket = loop {
        match store.commit_start(roots) {
            Err(Error::CommitInFlight) => drop(store.step()),
            result => break result?,
        }
    };
    let changed = if overlap { tree.change(store, &mut model.rng) } else { Ok(()) };
    for _ in 0..MAX_STEPS {
        if let Some(result) = store.commit_poll(&ticket) {
            result?;
            (model.roots, model.content) = (roots, content);
            return changed;
        }
        store.step();
    }
    panic!("a commit takes more than {MAX_STEPS} steps");
}

/// Opened once more beside the one that is worked with, the tree shows the last commit.
fn reopen<T: Tree>(shape: &T::Shape, store: &Store<'_, '_>, model: &Model<T::Content>) -> Result<(), String> {
    let other = match store.roots() == model.roots {
        true => T::open(shape, store)?,
        false => return Err("the roots are not those of the last commit".into()),
    };
    if other.content() == model.content {
        Ok(())
    } else {
        Err("opened again, the tree shows something else than was committed".into())
    }
}

/// After a mount: the content is that of the last commit, and the space is exact.
fn compare<T: Tree>(disk: &Disk, store: &Store<'_, '_>, tree: &T, model: &Model<T::Content>) -> Result<(), String> {
    if store.roots() != model.roots || tree.content() != model.content {
        return Err("mounted again, the tree shows something else than was committed".into());
    }
    let report = check_volume(disk, Some(store), tree.addresses()).map_err(|error| format!("check: {error}"))?;
    match report.problems.first() {
        None => Ok(()),
        Some(problem) => Err(format!("space: {problem}, and {} more problems", report.problems.len() - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Shape, Slots};

    /// Slots, of which one call in some forgets to free what it replaces.
    struct Leaky(Slots);

    impl Tree for Leaky {
        type Shape = Shape;
        type Content = <Slots as Tree>::Content;

        fn open(shape: &Shape, store: &Store<'_, '_>) -> Result<Self, String> {
            Slots::open(shape, store).map(Self)
        }

        fn content(&self) -> Self::Content {
            self.0.content()
        }

        fn addresses(&self) -> Vec<u64> {
            Tree::addresses(&self.0).into_iter().skip(1).collect()
        }

        fn change(&mut self, store: &Store<'_, '_>, rng: &mut Rng) -> Result<(), Error> {
            self.0.change(store, rng)
        }

        fn prepare(&mut self, store: &Store<'_, '_>) -> Result<Roots, Error> {
            Tree::prepare(&mut self.0, store)
        }
    }

    #[test]
    fn streams_are_carried_out_and_a_leak_is_noticed() {
        let shape = Shape { slots: 60, levels: 1 };
        let stream: Vec<u8> = (0..120u8).flat_map(|number| [number.wrapping_mul(7) % 16, number]).collect();
        assert!(run::<Slots>(&shape, &stream).unwrap() > 10);
        assert!(run::<Leaky>(&shape, &stream).unwrap_err().contains("unreachable"));
    }
}
