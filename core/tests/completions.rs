//! Completions that are not for the store that gets them, and requests that outlive the store that made them.
//!
//! A kernel may drop a store and mount the volume again while the device still works on what the first one asked for;
//! drivers deliver completions late, or twice. None of that may end a wait for something else, or write over what came
//! later.
#![cfg(not(any(loom, feature = "shuttle")))]

mod sim;

use arenite_core::{Error, FlushTag, Mounting, NoInterrupts};
use sim::{
    check, commit_root, format, memory, mount, options, put, step_until, try_commit, Disk, Hold, Media, BLOCK, DEPTH,
};

/// A tag that no store of this process has come to.
const STRAY: FlushTag = FlushTag(0x8000_0003);

/// At every poll of a commit and its trailing writes.
#[test]
fn a_stray_flush_completion_does_not_stop_a_store() {
    for polls in 0..40 {
        let memories = [memory(), memory()];
        let disk = Disk::in_order(Media::blank(1 << 20));
        let store = format(&memories[0], &disk, 2);
        disk.stray_flush_after(polls, STRAY);
        let ptr = put(&store, 1).unwrap();
        assert_eq!(try_commit(&store, ptr), Some(Ok(2)), "stray completion at poll {polls}");
        let next = put(&store, 2).unwrap();
        assert!(step_until(&store, || store.commit_start(store.roots()) != Err(Error::CommitInFlight)));
        store.unmount().unwrap();
        let store = mount(&memories[1], &disk).unwrap();
        let mut contents = vec![(ptr, 1)];
        if store.generation() == 3 {
            contents.push((next, 2));
        }
        check(&store, &contents).unwrap();
    }
}

#[test]
fn a_stray_flush_completion_does_not_cut_a_mount_short() {
    for polls in 0..24 {
        let memories = [memory(), memory(), memory()];
        let disk = Disk::in_order(Media::blank(1 << 20));
        let store = format(&memories[0], &disk, 2);
        let ptr = put(&store, 5).unwrap();
        commit_root(&store, ptr);
        store.unmount().unwrap();
        disk.stray_flush_after(polls, STRAY);
        let store = mount(&memories[1], &disk).unwrap();
        check(&store, &[(ptr, 5)]).unwrap_or_else(|why| panic!("stray completion at poll {polls}: {why}"));
        let next = put(&store, 6).unwrap();
        assert_eq!(try_commit(&store, next), Some(Ok(3)));
        store.unmount().unwrap();
        check(&mount(&memories[2], &disk).unwrap(), &[(ptr, 5), (next, 6)]).unwrap();
    }
}

/// One queue for two stores, as with two partitions, or with a store that was forgotten.
#[test]
fn the_write_of_another_store_is_not_taken_for_ones_own() {
    let memories = [memory(), memory(), memory()];
    let disk = Disk::in_order(Media::blank(1 << 20));
    let forgotten = format(&memories[0], &disk, 1);
    let old = put(&forgotten, 1).unwrap();
    disk.hold(Hold::WritesOf(old.addr));
    assert!(step_until(&forgotten, || disk.held() == 1));
    core::mem::forget(forgotten);

    disk.hold(Hold::Nothing);
    let store = mount(&memories[1], &disk).unwrap();
    let new = put(&store, 2).unwrap();
    assert_eq!(new.addr, old.addr, "the block was never committed");
    disk.release(Ok(()));
    disk.hold(Hold::WritesOf(new.addr));
    let ticket = store.commit_start(store.roots().with_root(Some(new), 1)).unwrap();
    assert!(!step_until(&store, || store.commit_poll(&ticket).is_some()), "committed without its only block");
    assert_eq!(disk.held(), 1);
    assert_eq!(disk.look(|media| media.durable()[new.addr as usize]), 0, "the block is not written");

    disk.release(Ok(()));
    assert!(step_until(&store, || store.commit_poll(&ticket) == Some(Ok(2))));
    let disk = Disk::in_order(Media::new(disk.look(|media| media.durable().to_vec())));
    check(&mount(&memories[2], &disk).unwrap(), &[(new, 2)]).unwrap();
    store.unmount().unwrap();
}

#[test]
fn a_late_write_of_a_dropped_store_does_not_hit_what_came_later() {
    let memories = [memory(), memory()];
    let disk = Disk::in_order(Media::blank(1 << 20));
    let store = format(&memories[0], &disk, 1);
    let old = put(&store, 1).unwrap();
    disk.hold(Hold::WritesOf(old.addr));
    assert!(step_until(&store, || disk.held() == 1));
    disk.hold(Hold::Nothing);
    disk.release_after(100_000);
    drop(store);

    let store = mount(&memories[1], &disk).unwrap();
    let new = put(&store, 2).unwrap();
    assert_eq!(new.addr, old.addr, "the block was never committed");
    commit_root(&store, new);
    disk.release(Ok(()));
    let found = disk.look(|media| media.view()[new.addr as usize..][..BLOCK].to_vec());
    assert_eq!(found, [2; BLOCK], "a committed block was overwritten");
}

#[test]
fn a_store_is_dropped_with_its_queue_full_and_mounted_again() {
    let memories = [memory(), memory()];
    let disk = Disk::in_order(Media::blank(1 << 20));
    let store = format(&memories[0], &disk, 2);
    disk.hold(Hold::Everything);
    for fill in 0..=DEPTH as u8 {
        put(&store, fill).unwrap();
        store.step();
    }
    assert_eq!(disk.held(), DEPTH);
    disk.release_after(1000);
    drop(store);
    disk.release(Ok(()));
    let store = mount(&memories[1], &disk).unwrap();
    check(&store, &[]).unwrap();
    let ptr = put(&store, 7).unwrap();
    commit_root(&store, ptr);
    check(&store, &[(ptr, 7)]).unwrap();
}

#[test]
fn a_store_is_dropped_with_its_last_flush_in_flight_and_mounted_again() {
    let mut seen = 0;
    for seed in 0..200 {
        let memories = [memory(), memory(), memory()];
        let disk = Disk::new(Media::blank(1 << 20), seed);
        let store = format(&memories[0], &disk, 2);
        let ptr = put(&store, 5).unwrap();
        store.commit(store.roots().with_root(Some(ptr), 1)).unwrap();
        for _ in 0..1000 {
            if disk.has_flush() {
                break;
            }
            store.step();
        }
        seen += u32::from(disk.has_flush());
        drop(store);
        let store = mount(&memories[1], &disk).unwrap();
        check(&store, &[(ptr, 5)]).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        let next = put(&store, 6).unwrap();
        assert_eq!(try_commit(&store, next), Some(Ok(3)), "seed {seed}");
        store.unmount().unwrap();
        check(&mount(&memories[2], &disk).unwrap(), &[(ptr, 5), (next, 6)]).unwrap();
    }
    assert!(seen > 50, "only {seen} of 200 stores were dropped with a flush in flight");
}

/// At every step: a mount is given up (a kernel that lost patience), and the next one must not take its reads.
#[test]
fn a_mount_is_given_up_and_begun_again() {
    let first = memory();
    let disk = Disk::in_order(Media::blank(1 << 20));
    let store = format(&first, &disk, 2);
    let ptr = put(&store, 5).unwrap();
    commit_root(&store, ptr);
    store.unmount().unwrap();
    let media = disk.media();
    let most = (0..8).map(|seed| give_up_at_every_step(&media, seed, ptr)).max();
    assert!(most > Some(15), "a mount takes more than {most:?} steps");
}

/// How many steps a mount takes on a disk that completes what it has when it likes.
fn give_up_at_every_step(media: &Media, seed: u64, ptr: arenite_core::BlockPtr) -> u32 {
    let mut steps = 0;
    loop {
        let memories = [memory(), memory()];
        let disk = Disk::new(media.clone(), seed);
        let mut mounting =
            Mounting::new(memories[0].take().unwrap(), &disk, &NoInterrupts, arenite_core::MountOptions::default());
        let mut whole = false;
        for _ in 0..steps {
            whole |= mounting.step().unwrap().is_some();
        }
        drop(mounting);
        let again = mount(&memories[1], &disk).unwrap();
        check(&again, &[(ptr, 5)]).unwrap_or_else(|why| panic!("seed {seed}, step {steps}: {why}"));
        if whole {
            return steps;
        }
        steps += 1;
    }
}

/// A forced format of a disk that still holds a flush of an earlier store.
#[test]
fn a_stray_flush_completion_does_not_cut_a_format_short() {
    for polls in 0..700 {
        let memories = [memory(), memory()];
        let disk = Disk::in_order(Media::blank(256 << 10));
        disk.stray_flush_after(polls, STRAY);
        let store = arenite_core::Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
        store.unmount().unwrap();
        let disk = Disk::in_order(Media::new(disk.look(|media| media.durable().to_vec())));
        check(&mount(&memories[1], &disk).unwrap(), &[]).unwrap();
    }
}
