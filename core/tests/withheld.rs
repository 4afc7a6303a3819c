//! One request that takes its time does not stop the others: while a write, a flush or a read is withheld, other
//! threads allocate, write, read and free, until buffers run out; and when it ends, everything ends well.
#![cfg(not(any(loom, feature = "shuttle")))]

mod sim;

use arenite_core::{DeviceError, Error, Store};
use sim::{check, commit_root, format, memory, mount, put, put_many, step_until, Contents, Disk, Hold, Media};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Rounds of work beside a withheld request: many times the buffers of the cache.
const ROUNDS: u32 = 300;

/// What another thread does meanwhile; the blocks that it leaves. They are part of the generation after the commit.
fn work_beside(store: &Store<'_, '_>, rounds: u32, done: &AtomicU32) -> Contents {
    let mut contents = Contents::new();
    for round in 0..rounds {
        let fill = round as u8;
        let ptr = put(store, fill).unwrap();
        let block = store.read(ptr).unwrap();
        assert!(block.iter().all(|byte| *byte == fill));
        drop(block);
        contents.push((ptr, fill));
        if round % 4 != 0 {
            store.free(contents.swap_remove(contents.len() / 2).0).unwrap();
        }
        drop(store.allocate(arenite_core::Allocate::data()).unwrap());
        done.fetch_add(1, Ordering::Release);
    }
    contents
}

/// The same in a second thread, to its end, while this one only makes sure that the request is still withheld.
fn work_in_another_thread(store: &Store<'_, '_>, disk: &Disk<'_>) -> Contents {
    let done = AtomicU32::new(0);
    let contents = std::thread::scope(|scope| scope.spawn(|| work_beside(store, ROUNDS, &done)).join().unwrap());
    assert_eq!((done.into_inner(), disk.held()), (ROUNDS, 1));
    contents
}

#[test]
fn others_go_on_while_a_write_is_withheld() {
    let memories = [memory(), memory()];
    let disk = Disk::in_order(Media::blank(2 << 20));
    let store = format(&memories[0], &disk, 2);
    let slow = put(&store, 99).unwrap();
    disk.hold(Hold::WritesOf(slow.addr));
    let ticket = store.commit_start(store.roots().with_root(Some(slow), 1)).unwrap();
    assert!(step_until(&store, || disk.held() == 1));
    let mut contents = work_in_another_thread(&store, &disk);
    assert_eq!(store.commit_poll(&ticket), None);
    assert_eq!(store.commit_start(store.roots()), Err(Error::CommitInFlight));
    disk.release(Ok(()));
    assert!(step_until(&store, || store.commit_poll(&ticket) == Some(Ok(2))));
    contents.push((slow, 99));
    commit_root(&store, slow);
    check(&store, &contents).unwrap();
    store.unmount().unwrap();
    check(&mount(&memories[1], &disk).unwrap(), &contents).unwrap();
}

#[test]
fn others_go_on_while_a_flush_is_withheld() {
    for others in 0..3 {
        let memories = [memory(), memory()];
        let disk = Disk::in_order(Media::blank(2 << 20));
        let store = format(&memories[0], &disk, 2);
        let root = put(&store, 99).unwrap();
        disk.hold(Hold::Flush(others));
        let ticket = store.commit_start(store.roots().with_root(Some(root), 1)).unwrap();
        assert!(step_until(&store, || disk.held() == 1));
        let mut contents = work_in_another_thread(&store, &disk);
        let acknowledged = (others == 2).then_some(Ok(2));
        assert_eq!(store.commit_poll(&ticket), acknowledged, "flush {others}");
        disk.release(Ok(()));
        assert!(step_until(&store, || store.commit_poll(&ticket) == Some(Ok(2))));
        contents.push((root, 99));
        commit_root(&store, root);
        check(&store, &contents).unwrap();
        store.unmount().unwrap();
        check(&mount(&memories[1], &disk).unwrap(), &contents).unwrap();
    }
}

/// Two readers of the same block; the withheld read ends well, or fails.
#[test]
fn others_go_on_while_a_read_is_withheld() {
    for result in [Ok(()), Err(DeviceError::Io)] {
        let memories = [memory(), memory(), memory()];
        let disk = Disk::in_order(Media::blank(2 << 20));
        let store = format(&memories[0], &disk, 2);
        let slow = put(&store, 99).unwrap();
        commit_root(&store, slow);
        store.unmount().unwrap();
        let store = mount(&memories[1], &disk).unwrap();
        disk.hold(Hold::ReadsOf(slow.addr));
        let mut contents = std::thread::scope(|scope| {
            let read = || store.read(slow).map(|block| block.iter().all(|byte| *byte == 99));
            let readers = [scope.spawn(read), scope.spawn(read)];
            while disk.held() == 0 {
                std::thread::yield_now();
            }
            let contents = work_in_another_thread(&store, &disk);
            store.commit(store.roots().with_root(Some(slow), 1)).unwrap();
            assert_eq!(disk.held(), 1, "a commit waits for no read of a caller");
            disk.release(result);
            for reader in readers {
                match reader.join().unwrap() {
                    Ok(right) => assert!(right),
                    Err(error) => assert!(result.is_err() && matches!(error, Error::Device { .. }), "{error}"),
                }
            }
            contents
        });
        contents.push((slow, 99));
        store.settle().unwrap();
        check(&store, &contents).unwrap();
        store.unmount().unwrap();
        check(&mount(&memories[2], &disk).unwrap(), &contents).unwrap();
    }
}

/// With everything withheld, a writer comes to a stand when buffers and queue are full, a reader of what is in the
/// cache does not, and nothing is lost when the device goes on.
#[test]
fn a_device_that_stands_still_stops_writers_and_harms_nothing() {
    let memories = [memory(), memory()];
    let disk = Disk::in_order(Media::blank(2 << 20));
    let store = format(&memories[0], &disk, 2);
    let cached = put_many(&store, 3);
    commit_root(&store, cached[0].0);
    let held = store.read(cached[1].0).unwrap();
    disk.hold(Hold::Everything);
    let done = AtomicU32::new(0);
    let mut contents = std::thread::scope(|scope| {
        let writer = scope.spawn(|| work_beside(&store, ROUNDS, &done));
        let (mut before, mut unchanged) = (u32::MAX, 0);
        // At a stand: requests are withheld, and no progress is seen for a while.
        while disk.held() == 0 || unchanged < 10 {
            std::thread::sleep(Duration::from_millis(10));
            let now = done.load(Ordering::Acquire);
            unchanged = if now == before { unchanged + 1 } else { 0 };
            before = now;
        }
        assert!(before < ROUNDS, "the writer needed no device");
        // Somebody holds this block, so the cache still has it.
        let again = store.read(cached[1].0).unwrap();
        assert_eq!(again.bytes(), held.bytes());
        disk.release(Ok(()));
        writer.join().unwrap()
    });
    drop(held);
    contents.extend(cached);
    commit_root(&store, contents[0].0);
    check(&store, &contents).unwrap();
    store.unmount().unwrap();
    check(&mount(&memories[1], &disk).unwrap(), &contents).unwrap();
}
