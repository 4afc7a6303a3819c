//! Threads around a store and its device.
//!
//! The store has no threads of its own: any thread that calls [`Store::step`] moves it on. These functions run such
//! threads for as long as a closure lasts, and end them before they return, also when the closure panics.
#![forbid(unsafe_code)]

use crate::file::FileDevice;
use arenite_core::{Platform, Store};
use std::sync::atomic::{AtomicBool, Ordering};

/// Steps without work after which a syncer sleeps.
const IDLE_STEPS: u32 = 256;

/// Runs `body` while `count` threads carry out the device's requests.
pub fn with_workers<'m, R>(device: &FileDevice<'m>, count: usize, body: impl FnOnce() -> R) -> R {
    struct Stop<'a, 'm>(&'a FileDevice<'m>);
    impl Drop for Stop<'_, '_> {
        fn drop(&mut self) {
            self.0.stop_workers();
        }
    }
    std::thread::scope(|scope| {
        let _stop = Stop(device);
        for _ in 0..count {
            scope.spawn(|| device.work());
        }
        body()
    })
}

/// Runs `body` while `count` threads step the store: they submit what is queued and advance the commit, so that
/// callers of `body` need not.
pub fn with_syncers<R>(store: &Store<'_, '_>, count: usize, body: impl FnOnce() -> R) -> R {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for _ in 0..count {
            scope.spawn(|| step_until(store, &stop));
        }
        body()
    })
}

fn step_until(store: &Store<'_, '_>, stop: &AtomicBool) {
    let mut idle = 0;
    while !stop.load(Ordering::Acquire) {
        if store.step() {
            idle = 0;
        } else {
            idle += 1;
            if idle < IDLE_STEPS {
                crate::HostPlatform.relax();
            } else {
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
        }
    }
}
