//! Room for the log of a volume that is as full as this code ever makes it.
#![cfg(not(any(loom, feature = "shuttle")))]

mod sim;

use arenite_core::format::{ArenaHeader, BlockSize};
use arenite_core::Class;
use sim::{
    commit_root, format, free_every_second, hinted, memory, put_as, step_until, Contents, Disk, Hold, Media, BLOCK,
};

/// Blocks that come and go within one generation leave no ranges behind, so that freeing finds room for the log at any
/// moment, also while a commit has just taken a block for it.
#[test]
fn blocks_that_come_and_go_do_not_use_up_the_room_of_the_log() {
    let memory = memory();
    let disk = Disk::in_order(Media::blank(4 << 20));
    let store = format(&memory, &disk, 2);
    let put_in = |arena: u32, class| put_as(&store, 7, hinted(arena, class));
    // A log of several blocks in the first arena, of which a commit reads the last.
    let contents: Contents = (0..560).map(|_| (put_in(0, Class::Normal).unwrap(), 7)).collect();
    commit_root(&store, contents[0].0);
    free_every_second(&store, contents.clone());
    commit_root(&store, contents[0].0);
    let base = store.arena(0).unwrap().addr;
    let header =
        disk.look(|media| ArenaHeader::decode(&media.view()[base as usize..][..BLOCK], BlockSize::MIN, base).unwrap());
    disk.hold(Hold::ReadsOf(header.seal.unwrap().tail_addr));
    put_in(0, Class::Normal).unwrap();
    put_in(1, Class::Normal).unwrap();
    let ticket = store.commit_start(store.roots()).unwrap();
    assert!(step_until(&store, || disk.held() == 1));
    // The second arena is part of the commit, but its log is not written yet.
    for _ in 0..400 {
        store.free(put_in(1, Class::Normal).unwrap()).unwrap();
    }
    let second = store.arena(1).unwrap().addr;
    let mut held = Vec::new();
    loop {
        let ptr = put_in(1, Class::Reclaim).unwrap();
        if ptr.addr < second {
            break;
        }
        held.push(ptr);
    }
    disk.release(Ok(()));
    disk.hold(Hold::Flush(0));
    assert!(step_until(&store, || disk.held() == 1));
    assert_eq!(store.commit_poll(&ticket), None);
    for ptr in held {
        store.free(ptr).unwrap();
    }
    disk.release(Ok(()));
    store.unmount().unwrap();
}
