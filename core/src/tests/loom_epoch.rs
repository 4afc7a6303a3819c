//! Epochs under the model checker loom: what was retired is not reused while somebody who could reach it is inside.
//!
//! A cell is published, read by a worker inside an epoch, unlinked, retired, and "reused" once its epoch has passed.

use crate::epoch::{Epochs, WorkerSlot};
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::Arc;
use loom::thread;
use std::boxed::Box;

struct World {
    epochs: Epochs<'static>,
    /// 1 while the cell can be found.
    root: AtomicU32,
    /// The content of the cell: 7 until it is reused.
    cell: AtomicU32,
}

fn world() -> Arc<World> {
    let slots: &'static [WorkerSlot] = Box::leak(Box::new([WorkerSlot::new(), WorkerSlot::new()]));
    Arc::new(World { epochs: Epochs::new(slots), root: AtomicU32::new(1), cell: AtomicU32::new(7) })
}

fn read(world: &World, name: u32) {
    let Some(index) = world.epochs.enter(name) else { return };
    if world.root.load(Ordering::Relaxed) == 1 {
        assert_eq!(world.cell.load(Ordering::Relaxed), 7, "read after reuse");
    }
    world.epochs.leave(index);
}

fn retire(world: &World) {
    world.root.store(0, Ordering::Relaxed);
    let stamp = world.epochs.stamp();
    for _ in 0..3 {
        if world.epochs.is_quiet() || world.epochs.has_passed(stamp).is_ok() {
            world.cell.store(9, Ordering::Relaxed);
            return;
        }
        thread::yield_now();
    }
}

/// The same where others are taken to be inside, and a third party moves the epochs on.
#[test]
fn loom_no_epoch_ends_under_a_reader() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let world = world();
        let (reader, driver) = (Arc::clone(&world), Arc::clone(&world));
        let reader = thread::spawn(move || read(&reader, 1));
        let driver = thread::spawn(move || {
            let _ = driver.epochs.advance();
            let _ = driver.epochs.advance();
        });
        world.root.store(0, Ordering::Relaxed);
        let stamp = world.epochs.stamp();
        if world.epochs.has_passed(stamp).is_ok() {
            world.cell.store(9, Ordering::Relaxed);
        }
        reader.join().unwrap();
        driver.join().unwrap();
    });
}

#[test]
fn loom_nothing_is_reused_under_a_reader() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let world = world();
        let (reader, other) = (Arc::clone(&world), Arc::clone(&world));
        let first = thread::spawn(move || read(&reader, 1));
        let second = thread::spawn(move || read(&other, 2));
        retire(&world);
        first.join().unwrap();
        second.join().unwrap();
        let stamp = world.epochs.stamp();
        assert_eq!(world.epochs.has_passed(stamp), Ok(()), "nobody is left inside");
    });
}
