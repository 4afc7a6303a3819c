//! Devices that fail. A failed write or flush ends all writing at once: no superblock may follow that names a state of
//! which some block is missing. What was committed stays readable, and is what the next mount finds.
#![cfg(not(any(loom, feature = "shuttle")))]

mod sim;

use arenite_core::{
    Class, Completion, Device, DeviceError, DeviceGeometry, Error, FlushTag, MountOptions, NoInterrupts, Platform,
    Request, RequestKind, Roots, Store,
};
use sim::{check, commit_root, format, hinted, memory, mount, options, put, put_as, Contents, Disk, Hold, Media};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Threads that are stopped on their way.
const STALLED: usize = 3;

/// Stops a thread at its n-th entry into a critical section, until it is let go.
struct Stall {
    stopped: AtomicUsize,
    go: [AtomicBool; STALLED],
}

thread_local! {
    /// Entries left, and the number of the thread.
    static STOP_AT: Cell<Option<(u32, usize)>> = const { Cell::new(None) };
}

impl Platform for Stall {
    fn enter_critical(&self) -> usize {
        match STOP_AT.take() {
            Some((0, number)) => {
                self.stopped.fetch_add(1, Ordering::SeqCst);
                while !self.go[number].load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
            }
            Some((left, number)) => STOP_AT.set(Some((left - 1, number))),
            None => {}
        }
        0
    }

    fn leave_critical(&self, _saved: usize) {}
}

fn step_times(store: &Store<'_, '_>, times: u32) {
    for _ in 0..times {
        store.step();
    }
}

/// Threads that are about to lock the commit when a write of it fails must not go on with it.
fn fail_while_threads_are_on_their_way(entry: u32) {
    let memories = [memory(), memory()];
    let stall = Stall { stopped: AtomicUsize::new(0), go: [const { AtomicBool::new(false) }; STALLED] };
    let disk = Disk::in_order(Media::blank(1 << 20));
    let store = Store::format(memories[0].take().unwrap(), &disk, &stall, options(1)).unwrap();
    let good = put(&store, 1).unwrap();
    commit_root(&store, good);
    let generation = store.generation();
    let lost = put(&store, 2).unwrap();
    disk.hold(Hold::WritesOf(lost.addr));
    store.free(good).unwrap();
    let ticket = store.commit_start(store.roots().with_root(Some(lost), 1)).unwrap();
    // Everything of the first flush epoch is written but the data.
    step_times(&store, 1000);
    assert_eq!((store.commit_poll(&ticket), disk.held()), (None, 1));
    disk.take_writes();
    std::thread::scope(|scope| {
        for number in 0..STALLED {
            let (store, stall) = (&store, &stall);
            scope.spawn(move || {
                STOP_AT.set(Some((entry, number)));
                store.step();
                // Not reached by every entry: the step may have had fewer.
                if STOP_AT.take().is_some() {
                    stall.stopped.fetch_add(1, Ordering::SeqCst);
                }
            });
            while stall.stopped.load(Ordering::SeqCst) != number + 1 {
                std::thread::yield_now();
            }
        }
        disk.release(Err(DeviceError::Io));
        step_times(&store, 100);
        assert!(store.is_read_only());
        let failure = store.commit_poll(&ticket).unwrap().unwrap_err();
        assert!(matches!(failure, Error::Device { cause: DeviceError::Io, .. }), "{failure}");
        for go in &stall.go {
            go.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(2));
            step_times(&store, 100);
        }
    });
    step_times(&store, 100);
    assert_eq!(disk.take_writes(), [], "written after the failure");
    drop(store);
    let store = mount(&memories[1], &disk).unwrap();
    assert_eq!(store.generation(), generation);
    check(&store, &[(good, 1)]).unwrap_or_else(|why| panic!("stopped at entry {entry}: {why}"));
}

#[test]
fn a_failed_write_is_never_followed_by_a_superblock() {
    for entry in 0..8 {
        fail_while_threads_are_on_their_way(entry);
    }
}

/// The first operation that fails, counted from the beginning of a change; what is on the disk afterwards.
fn fail_at(after: u64, error: DeviceError) -> bool {
    let memories = [memory(), memory()];
    let disk = Disk::new(Media::blank(512 << 10), after + 1);
    let store = format(&memories[0], &disk, 2);
    let old: Contents = (0..12).map(|fill| (put(&store, fill).unwrap(), fill)).collect();
    commit_root(&store, old[0].0);
    disk.fail(Some((after, error)));
    let mut new = old.clone();
    let result = change(&store, &mut new);
    let settled = store.settle();
    let failed = result.is_err() || settled.is_err();
    if failed {
        assert!(store.is_read_only());
        assert!(matches!(store.failure(), Some(Error::Device { cause, .. }) if cause == error));
        assert_eq!(store.commit(store.roots()), Err(Error::ReadOnly));
        disk.take_writes();
        disk.fail(None);
        step_times(&store, 100);
        assert_eq!(disk.take_writes(), [], "written after the failure");
    }
    disk.fail(None);
    let acknowledged = store.generation() == 3;
    drop(store);
    let store = mount(&memories[1], &disk).unwrap();
    match store.generation() {
        2 if !acknowledged => check(&store, &old),
        3 => check(&store, &new),
        other => Err(format!("generation {other}, acknowledged {acknowledged}")),
    }
    .unwrap_or_else(|why| panic!("failure {error} after {after}: {why}"));
    // The volume goes on.
    let next = put(&store, 99).unwrap();
    commit_root(&store, next);
    failed
}

/// Some work in both arenas, and a commit.
fn change(store: &Store<'_, '_>, contents: &mut Contents) -> Result<(), Error> {
    for fill in 20..30 {
        contents.push((put_as(store, fill, hinted(fill.into(), Class::Normal))?, fill));
    }
    for _ in 0..5 {
        store.free(contents.remove(1).0)?;
    }
    store.commit(Roots { next_qid: 1, ..store.roots() }.with_root(Some(contents[0].0), 2)).map(drop)
}

#[test]
fn whatever_fails_first_the_old_state_or_the_new_one_is_there() {
    for error in [DeviceError::Io, DeviceError::Timeout, DeviceError::Gone] {
        let failures = (0..60).take_while(|after| fail_at(*after, error)).count();
        assert!((8..60).contains(&failures), "{failures} operations can fail");
    }
}

#[test]
fn a_failed_read_fails_nothing_else() {
    let memories = [memory(), memory()];
    let disk = Disk::in_order(Media::blank(1 << 20));
    let store = format(&memories[0], &disk, 2);
    let ptr = put(&store, 5).unwrap();
    commit_root(&store, ptr);
    store.unmount().unwrap();
    let store = mount(&memories[1], &disk).unwrap();
    disk.fail(Some((0, DeviceError::Timeout)));
    let error = store.read(ptr).unwrap_err();
    assert!(matches!(error, Error::Device { cause: DeviceError::Timeout, addr, .. } if addr == ptr.addr), "{error}");
    disk.fail(None);
    assert!(!store.is_read_only());
    check(&store, &[(ptr, 5)]).unwrap();
    let next = put(&store, 6).unwrap();
    commit_root(&store, next);
    check(&store, &[(ptr, 5), (next, 6)]).unwrap();
}

/// A device that loses the reads that it is given: against the contract, but no reason to wait for ever.
struct Forgetful<'a, 'm> {
    disk: &'a Disk<'m>,
    forgets: AtomicBool,
}

impl<'m> Device<'m> for Forgetful<'_, 'm> {
    fn geometry(&self) -> DeviceGeometry {
        self.disk.geometry()
    }
    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        if request.kind() == RequestKind::Read && self.forgets.load(Ordering::SeqCst) {
            drop(request);
            return Ok(());
        }
        self.disk.submit(request)
    }
    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.disk.flush(tag)
    }
    fn poll(&self) -> Option<Completion<'m>> {
        self.disk.poll()
    }
}

#[test]
fn a_read_that_the_device_loses_ends_and_can_be_asked_for_again() {
    let memories = [memory(), memory()];
    let disk = Disk::in_order(Media::blank(1 << 20));
    let store = format(&memories[0], &disk, 2);
    let ptr = put(&store, 5).unwrap();
    commit_root(&store, ptr);
    store.unmount().unwrap();
    let device = Forgetful { disk: &disk, forgets: AtomicBool::new(false) };
    let memory = memories[1].take().unwrap();
    let store = Store::mount(memory, &device, &NoInterrupts, MountOptions::default()).unwrap();
    device.forgets.store(true, Ordering::SeqCst);
    let reading = store.start_read(ptr).unwrap();
    let begun = Instant::now();
    while reading.poll().is_none() {
        store.step();
        assert!(begun.elapsed() < Duration::from_secs(20), "the reader waits for ever");
    }
    let error = reading.poll().unwrap().unwrap_err();
    assert!(matches!(error, Error::Device { cause: DeviceError::Gone, .. }), "{error}");
    drop(reading);
    device.forgets.store(false, Ordering::SeqCst);
    check(&store, &[(ptr, 5)]).unwrap();
    // The store counts the lost request as in flight for ever, and dropping it would wait for that.
    core::mem::forget(store);
}
