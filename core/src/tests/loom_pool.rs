//! The hand-out of buffers under the model checker loom: one writer or many readers, and what a writer wrote is seen
//! whole by whoever comes after it. Run with `RUSTFLAGS="--cfg loom" cargo test -p arenite-core --release loom`.
//!
//! Two relaxed atomics stand for the bytes of a buffer, which loom cannot watch: they are written only by a sole owner,
//! one after the other, and must never be seen to differ. A third counts uses, by a load and a store: of those who may
//! not be there at the same time, each has to see what the one before it did, or its use is not counted.

use crate::pool::{Bookkeeping, Page, Pool, Row};
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::Arc;
use loom::thread;
use std::boxed::Box;

struct Bytes {
    first: AtomicU32,
    second: AtomicU32,
    uses: AtomicU32,
}

impl Bytes {
    fn new() -> Arc<Self> {
        Arc::new(Self { first: AtomicU32::new(0), second: AtomicU32::new(0), uses: AtomicU32::new(0) })
    }

    fn note_use(&self) {
        self.uses.store(self.uses.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// A pool of one buffer. loom's threads have small stacks, so the page is no part of what is built in them; nobody
/// touches its bytes.
fn pool() -> Pool<'static> {
    static PAGES: [Page; 1] = [Page::new()];
    Pool::in_model(&PAGES, Box::leak(Box::new(Bookkeeping::<1>::new())))
}

/// Writes if the buffer can be had, and hands it on as a share. How often.
fn write(pool: Pool<'static>, bytes: &Bytes, value: u32) -> u32 {
    let id = pool.id(0).unwrap();
    let Some(slot) = pool.claim(id) else { return 0 };
    bytes.first.store(value, Ordering::Relaxed);
    bytes.second.store(value, Ordering::Relaxed);
    bytes.note_use();
    drop(slot.share().clone());
    1
}

/// Reads if nobody writes. How often.
fn read(pool: Pool<'static>, bytes: &Bytes, cpu: usize) -> u32 {
    let id = pool.id(0).unwrap();
    let Some(share) = pool.hold(id, Row::of(cpu)) else { return 0 };
    let first = bytes.first.load(Ordering::Relaxed);
    let second = bytes.second.load(Ordering::Relaxed);
    assert_eq!(first, second, "a reader saw a half-written buffer");
    bytes.note_use();
    drop(share);
    1
}

/// Every schedule with up to three preemptions; without the bound there are too many.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// One reader, so that no two may be there at the same time.
fn check_one_writer_or_many_readers(cpu: usize) {
    check(move || {
        let pool = pool();
        let bytes = Bytes::new();
        let other = Arc::clone(&bytes);
        let writer = thread::spawn(move || write(pool, &other, 1));
        let other = Arc::clone(&bytes);
        let reader = thread::spawn(move || read(pool, &other, cpu));
        let uses = write(pool, &bytes, 2) + writer.join().unwrap() + reader.join().unwrap();
        assert_eq!(bytes.uses.load(Ordering::Relaxed), uses, "somebody did not see what was done before");
        assert!(pool.is_idle(pool.id(0).unwrap()), "nobody is left");
    });
}

#[test]
fn loom_one_writer_or_many_readers() {
    check_one_writer_or_many_readers(0);
}

/// The reader is counted in the last seat that a writer takes.
#[test]
fn loom_one_writer_or_many_readers_on_another_cpu() {
    check_one_writer_or_many_readers(1);
}

/// A claim fails at the second seat, because of a share there. Whoever takes the first seat after that knows of the
/// reader who had left it before; and the share can be cloned all the time.
#[test]
fn loom_a_claim_that_fails_hands_on_what_it_found() {
    check(|| {
        let pool = pool();
        let bytes = Bytes::new();
        let id = pool.id(0).unwrap();
        let other = Arc::clone(&bytes);
        let share = pool.hold(id, Row::of(1)).unwrap();
        let reader = thread::spawn(move || read(pool, &other, 0));
        let other = Arc::clone(&bytes);
        let holder = thread::spawn(move || {
            assert!(pool.claim(id).is_none(), "a share is there");
            drop(share.clone());
            drop(share);
            write(pool, &other, 1)
        });
        let uses = write(pool, &bytes, 2) + holder.join().unwrap() + reader.join().unwrap();
        assert_eq!(bytes.uses.load(Ordering::Relaxed), uses, "somebody did not see what was done before");
        assert!(pool.is_idle(id), "nobody is left");
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
        assert!(pool.unpark(pool.id(0).unwrap()).is_none(), "it was parked once");
        assert!(pool.is_idle(pool.id(0).unwrap()));
    });
}
