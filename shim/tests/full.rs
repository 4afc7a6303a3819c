//! Full volumes: a clear error, room for deletion, and nothing lost however often it happens.

use arenite_core::{Allocate, Class, Error, MountOptions, Roots, Store};
use arenite_shim::check::check_volume;
use arenite_shim::client::{Client, Version};
use arenite_shim::mem::{MemDevice, MemOptions};
use arenite_shim::memory_box::{boxed_memory, renew_memory, SmallMemory};
use arenite_shim::platform::{reset_patience, ImpatientPlatform};
use arenite_shim::workload::format;
use arenite_shim::Disk;
use std::sync::Arc;

const SLOTS: usize = 900;

fn with_store(disk: &Arc<Disk>, memory: &mut SmallMemory, body: impl FnOnce(&Store<'_, '_>)) {
    reset_patience();
    renew_memory(memory);
    let device = MemDevice::new(Arc::clone(disk), MemOptions::default());
    let store = Store::mount(memory.take().unwrap(), &device, &ImpatientPlatform, MountOptions::default()).unwrap();
    body(&store);
    store.unmount().unwrap();
}

/// Puts new content into slots until the volume is full; returns in which one. Commits now and then, since the nodes of
/// one commit must not need more than what is kept for deletion.
fn fill(store: &Store<'_, '_>, client: &mut Client<'_, '_, '_>, next: &mut u64) -> usize {
    for slot in 0..SLOTS {
        if slot % 40 == 39 {
            commit(store, client);
        }
        if client.ptr(slot).is_some() {
            continue;
        }
        *next += 1;
        match client.put(slot, Version::new(*next, false)) {
            Ok(()) => {}
            Err(Error::Full { room_blocks, .. }) => {
                assert_eq!(room_blocks, 0);
                assert_eq!(store.room_blocks(Class::Normal), 0);
                return slot;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the volume is never full");
}

fn commit(store: &Store<'_, '_>, client: &mut Client<'_, '_, '_>) {
    let roots = client.prepare().unwrap();
    store.commit(roots).unwrap();
    store.settle().unwrap();
}

#[test]
fn fill_delete_refill_many_times() {
    for arenas in [1, 3] {
        let disk = Arc::new(Disk::zeroed(800 * 2048));
        format(&disk, arenas).unwrap();
        let mut memory: Box<SmallMemory> = boxed_memory();
        let (mut next, mut filled) = (0, Vec::new());
        for round in 0..6 {
            with_store(&disk, &mut memory, |store| {
                let mut client = Client::load(store, SLOTS, 2).unwrap();
                filled.push(fill(store, &mut client, &mut next));
                commit(store, &mut client);
                // With nothing but what deletion may use, a bit at a time.
                for slot in (0..SLOTS).filter(|slot| slot % 2 == round % 2) {
                    client.delete(slot).unwrap();
                    if slot % 64 == round % 2 {
                        commit(store, &mut client);
                    }
                }
                commit(store, &mut client);
                let report = check_volume(&*disk, Some(store), client.addresses()).unwrap();
                assert!(report.is_clean(), "{:?}", report.problems);
            });
        }
        // Nothing leaks: the last round filled no fewer slots than the second (the first began without nodes).
        assert!(filled[5] >= filled[1], "{filled:?}");
        assert!(filled[5] > 700, "{filled:?}");
    }
}

#[test]
fn a_full_volume_can_be_emptied_after_a_remount() {
    let disk = Arc::new(Disk::zeroed(400 * 2048));
    format(&disk, 2).unwrap();
    let mut memory: Box<SmallMemory> = boxed_memory();
    let mut next = 0;
    let mut room = 0;
    with_store(&disk, &mut memory, |store| {
        room = store.room_blocks(Class::Normal);
        let mut client = Client::load(store, SLOTS, 2).unwrap();
        fill(store, &mut client, &mut next);
        commit(store, &mut client);
        // Use up what is kept for deletion too, with blocks that are then given back.
        let mut held = 0;
        while store.allocate(Allocate::data().class(Class::Reclaim)).map(std::mem::forget).is_ok() {
            held += 1;
            assert!(held < 100);
        }
    });
    with_store(&disk, &mut memory, |store| {
        let mut client = Client::load(store, SLOTS, 2).unwrap();
        for slot in 0..SLOTS {
            client.delete(slot).unwrap();
        }
        commit(store, &mut client);
        assert_eq!(client.addresses(), []);
        assert_eq!(store.room_blocks(Class::Normal), room);
        assert_eq!(store.roots().root, Roots::EMPTY.root);
    });
}

#[test]
fn new_content_leaves_room_for_deletion_and_deletion_for_logs() {
    let disk = Arc::new(Disk::zeroed(400 * 2048));
    format(&disk, 1).unwrap();
    let mut memory: Box<SmallMemory> = boxed_memory();
    let mut next = 0;
    with_store(&disk, &mut memory, |store| {
        let mut client = Client::load(store, SLOTS, 2).unwrap();
        fill(store, &mut client, &mut next);
        assert!(store.room_blocks(Class::Reclaim) >= 4);
        client.set_class(Class::Reclaim);
        let slot = SLOTS - 1;
        client.put(slot, Version::new(1 << 30, false)).unwrap();
        commit(store, &mut client);
        assert_eq!(client.versions()[slot], Version::new(1 << 30, false));
    });
}
