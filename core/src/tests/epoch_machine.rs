//! Epochs on the machine itself. A model checker sees the order of accesses that the source asks for, not what the
//! compiler makes of it; here two CPUs try for the one outcome that must not be: whoever unlinks finds nobody inside,
//! and whoever has just entered still finds the link.
//!
//! Without a fence between the two accesses of either side x86-64 shows it many times in so many rounds; where there is
//! but one CPU, this shows nothing.

use crate::epoch::{Epochs, WorkerSlot};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::vec::Vec;

const ROUNDS: usize = if cfg!(miri) { 50 } else { 200_000 };
/// Where others use the machine too, meeting takes long.
const TIME: Duration = Duration::from_secs(4);

/// Waits until both threads have come here so often.
fn meet(met: &AtomicUsize, times: usize) {
    met.fetch_add(1, Ordering::AcqRel);
    let mut spins = 0_u32;
    while met.load(Ordering::Acquire) < 2 * times {
        spins += 1;
        if spins.is_multiple_of(1000) {
            thread::yield_now();
        } else {
            core::hint::spin_loop();
        }
    }
}

#[test]
fn nobody_is_overlooked_on_this_machine() {
    let slots = [WorkerSlot::new()];
    let epochs = Epochs::new(&slots);
    let (linked, met, ended) = (AtomicU32::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let start = Instant::now();
    let unlink = || {
        let mut quiet = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            linked.store(1, Ordering::Relaxed);
            ended.store(!cfg!(miri) && start.elapsed() > TIME, Ordering::Relaxed);
            meet(&met, 3 * round + 1);
            if ended.load(Ordering::Relaxed) {
                break;
            }
            meet(&met, 3 * round + 2);
            // So many that the two sides meet in some of the rounds.
            (0..round % 64).for_each(|_| core::hint::spin_loop());
            linked.store(0, Ordering::Relaxed);
            epochs.unlinked();
            quiet.push(epochs.is_quiet());
            meet(&met, 3 * round + 3);
        }
        quiet
    };
    let follow = || {
        let mut found = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            meet(&met, 3 * round + 1);
            if ended.load(Ordering::Relaxed) {
                break;
            }
            // From here on the store that unlinks has to wait for the other CPU's cache.
            assert_eq!(linked.load(Ordering::Relaxed), 1);
            meet(&met, 3 * round + 2);
            let index = epochs.enter(1).unwrap();
            found.push(linked.load(Ordering::Relaxed) != 0);
            // Not left before both have looked.
            meet(&met, 3 * round + 3);
            epochs.leave(index);
        }
        found
    };
    let (quiet, found) = thread::scope(|scope| {
        let follower = scope.spawn(follow);
        (unlink(), follower.join().unwrap())
    });
    let overlooked = quiet.iter().zip(&found).filter(|(quiet, found)| **quiet && **found).count();
    assert_eq!(overlooked, 0, "of {} rounds", quiet.len());
}
