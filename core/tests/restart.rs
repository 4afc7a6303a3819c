//! Restarts of the kernel alone: the drive keeps what is in its cache, but a power failure may still take it.
#![cfg(not(any(loom, feature = "shuttle")))]

mod sim;

use sim::{check, commit_root, format, memory, mount, put, step_until, Disk, Media, BLOCK, SECTOR};

/// The kernel dies when the second copies of a commit are in the cache and not durable; then the power fails when the
/// next commit has overwritten a first copy. Both header copies would be of no commit, had mount not flushed.
#[test]
fn what_a_mount_saw_is_durable_before_it_is_written_over() {
    let memories = [memory(), memory(), memory()];
    let disk = Disk::in_order(Media::blank(1 << 20));
    let store = format(&memories[0], &disk, 2);
    let old = put(&store, 1).unwrap();
    store.commit(store.roots().with_root(Some(old), 1)).unwrap();
    let flushes = store.counters().commit.flushes;
    let cached = || disk.look(|media| media.unflushed().len());
    // Header copy B and superblock 1, with nothing else in the cache.
    assert!(step_until(&store, || cached() == 2 * BLOCK / SECTOR));
    assert_eq!(store.counters().commit.flushes, flushes);
    let media = disk.media();
    drop(store);

    let disk = Disk::in_order(media);
    let store = mount(&memories[1], &disk).unwrap();
    assert_eq!(store.generation(), 2);
    check(&store, &[(old, 1)]).unwrap();
    let new = put(&store, 2).unwrap();
    let ticket = store.commit_start(store.roots().with_root(Some(new), 1)).unwrap();
    let base = store.arena(0).unwrap().addr as usize;
    let is_header = |at: usize| (base..base + BLOCK).contains(&at);
    let has_header = || disk.look(|media| media.unflushed().iter().any(|sector| is_header(sector.at)));
    let known = disk.look(|media| media.unflushed().len());
    assert!(step_until(&store, || has_header() || store.commit_poll(&ticket).is_some()));
    // Of the cache only the newest first header copy reaches the medium.
    let mut bytes = disk.look(|media| media.durable().to_vec());
    disk.look(|media| {
        for sector in media.unflushed().iter().skip(known).filter(|sector| is_header(sector.at)) {
            bytes[sector.at..][..SECTOR].copy_from_slice(&sector.bytes);
        }
    });
    drop(store);
    let disk = Disk::in_order(Media::new(bytes));
    let store = mount(&memories[2], &disk).unwrap();
    assert_eq!(store.generation(), 2);
    check(&store, &[(old, 1)]).unwrap();
    let next = put(&store, 3).unwrap();
    commit_root(&store, next);
}
