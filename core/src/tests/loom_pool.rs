//! The hand-out of buffers under the model checker loom: one writer or many readers, and what a writer wrote is seen
//! whole by whoever comes after it. Run with `RUSTFLAGS="--cfg loom" cargo test -p arenite-core --release loom`.
//!
//! The pair of relaxed atomics stands for the bytes of a buffer, which loom cannot watch: they are written only by a
//! sole owner, one after the other, and must never be seen to differ.

use crate::format::BlockSize;
use crate::memory::Taken;
use crate::pool::{Frame, Page, PageArea, Pool};
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::Arc;
use loom::thread;
use std::boxed::Box;

struct Bytes {
    first: AtomicU32,
    second: AtomicU32,
}

/// A pool of one buffer. loom's threads have small stacks, so the page is no part of what is built in them; nobody
/// touches its bytes.
fn pool() -> Pool<'static> {
    static PAGES: [Page; 1] = [Page::new()];
    let frames: &'static [Frame] = Box::leak(Box::new([Frame::new()]));
    Pool::in_model(PageArea::new(Taken::in_model(), &PAGES, frames), BlockSize::new(4096).unwrap())
}

/// Writes if the buffer can be had, and hands it on as a share.
fn write(pool: Pool<'static>, bytes: &Bytes, value: u32) -> bool {
    let id = pool.id(0).unwrap();
    let Some(slot) = pool.claim(id) else { return false };
    bytes.first.store(value, Ordering::Relaxed);
    bytes.second.store(value, Ordering::Relaxed);
    drop(slot.share().clone());
    true
}

/// Reads if nobody writes.
fn read(pool: Pool<'static>, bytes: &Bytes) {
    let id = pool.id(0).unwrap();
    if let Some(share) = pool.hold(id) {
        let first = bytes.first.load(Ordering::Relaxed);
        let second = bytes.second.load(Ordering::Relaxed);
        assert_eq!(first, second, "a reader saw a half-written buffer");
        drop(share);
    }
}

#[test]
fn loom_one_writer_or_many_readers() {
    let mut builder = loom::model::Builder::new();
    // Every schedule with up to three preemptions; without the bound there are too many.
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let pool = pool();
        let bytes = Arc::new(Bytes { first: AtomicU32::new(0), second: AtomicU32::new(0) });
        let other = Arc::clone(&bytes);
        let writer = thread::spawn(move || write(pool, &other, 1));
        let other = Arc::clone(&bytes);
        let reader = thread::spawn(move || read(pool, &other));
        write(pool, &bytes, 2);
        writer.join().unwrap();
        reader.join().unwrap();
        assert!(pool.is_idle(pool.id(0).unwrap()), "nobody is left");
    });
}

#[test]
fn loom_a_share_is_parked_once() {
    loom::model(|| {
        let pool = pool();
        let share = pool.claim(pool.id(0).unwrap()).unwrap().share();
        let again = share.clone();
        let parked = thread::spawn(move || pool.park(share).is_ok());
        let here = pool.park(again).is_ok();
        let there = parked.join().unwrap();
        assert!(here || there, "one of two must succeed");
        assert!(!(here && there), "both cannot");
        drop(pool.unpark(pool.id(0).unwrap()).unwrap());
        assert!(pool.is_idle(pool.id(0).unwrap()));
    });
}
