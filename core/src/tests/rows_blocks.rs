//! Blocks on their way from allocation to the device: what callers can and cannot do with them, what a pointer says,
//! what is written and what is not. Rows 1, 2, 16, 17, 18, 27, 29 and 34 of docs/ROWS.md.

use super::disk::Disk;
use super::store::{check_space, memory, options, write, BLOCK};
use crate::format::{BlockType, FormatError};
use crate::hash::hash64;
use crate::{Allocate, Block, BlockPtr, Damage, DeviceError, Error, Filling, MountOptions, NoInterrupts, Store};
use core::borrow::BorrowMut;
use core::fmt::{Debug, Display};
use core::ops::DerefMut;
use static_assertions::{assert_impl_all, assert_not_impl_any};
use std::string::ToString;
use std::vec;
use std::vec::Vec;

// A final block gives nobody a way to its bytes that could change them; a block that is being filled has one owner.
assert_not_impl_any!(Block<'static>: Copy, DerefMut, AsMut<[u8]>, BorrowMut<[u8]>);
assert_not_impl_any!(Filling<'static>: Copy, Clone);
// Errors are small values that need no memory of their own.
assert_impl_all!(Error: Copy, Eq, Send, Sync, Debug, Display);
assert_impl_all!(Damage: Copy, Eq, Send, Sync);
assert_impl_all!(DeviceError: Copy, Eq, Send, Sync);
const _: () = assert!(core::mem::size_of::<Error>() <= 80);
// Any number of CPUs use one store by reference.
assert_impl_all!(Store<'static, 'static>: Send, Sync);
assert_impl_all!(Block<'static>: Send, Sync);

/// What a final block must not have. If it had a method of one of these names, that would be the one that is called,
/// and the test below would not compile.
trait NotOfBlock {
    fn bytes_mut(&mut self) -> Absent {
        Absent
    }
    fn set_birth(&mut self, _gen: u64) -> Absent {
        Absent
    }
    fn as_mut_ptr(&mut self) -> Absent {
        Absent
    }
}
struct Absent;
impl NotOfBlock for Block<'_> {}

/// To be queued, a block is given away: after this nobody can fill it, and nobody can queue it twice. There is no other
/// way into the queue, and this one makes it final.
fn queue<'s>(store: &'s Store<'_, '_>, filling: Filling<'s>) -> Result<Block<'s>, Error> {
    Store::enqueue(store, filling)
}

#[test]
fn a_final_block_offers_no_way_to_change_it() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    let mut block = queue(&store, store.allocate(Allocate::data()).unwrap()).unwrap();
    let Absent = block.bytes_mut();
    let Absent = block.set_birth(9);
    let Absent = block.as_mut_ptr();
    let clone = block.clone();
    assert_eq!((clone.ptr(), clone.bytes().as_ptr()), (block.ptr(), block.bytes().as_ptr()), "one buffer");
}

#[test]
fn illegal_orders_are_refused_with_an_error_and_cost_nothing() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
    let kept = write(&store, 1).unwrap();
    store.commit(store.roots().with_root(Some(kept), 1)).unwrap();
    store.settle().unwrap();
    let space = store.space();
    let not_allocated = |addr| Err(Error::NotAllocated { addr });
    let free = |addr| store.free(BlockPtr { addr, hash: 0, gen: 0 });

    // Freed while it is filled.
    let filling = store.allocate(Allocate::data()).unwrap();
    assert_eq!(free(filling.addr()), not_allocated(filling.addr()));
    // Freed twice, before and after it is written.
    let block = store.enqueue(filling).unwrap();
    assert_eq!(store.free(block.ptr()), Ok(()));
    assert_eq!(store.free(block.ptr()), not_allocated(block.ptr().addr));
    drop(block);
    store.settle().unwrap();
    // Queued with a content that is not of its type; the address goes back.
    for block_type in [BlockType::Leaf, BlockType::Pivot, BlockType::DeadList] {
        let mut filling = store.allocate(Allocate::new(block_type)).unwrap();
        assert_eq!(filling.block_type(), block_type);
        filling.bytes_mut().fill(0xee);
        let addr = filling.addr();
        let error = store.enqueue(filling).unwrap_err();
        let found = FormatError::BlockType { found: 0xeeee, want: Some(block_type) };
        assert_eq!(error, Error::Corrupt { addr, damage: Damage::Format(found) });
        assert_eq!(free(addr), not_allocated(addr));
    }
    // Types that only the store writes.
    for block_type in [BlockType::Log, BlockType::ArenaHeader, BlockType::Superblock] {
        let error = store.allocate(Allocate::new(block_type)).unwrap_err();
        assert_eq!(error, Error::BadParameter { name: "block type", found: block_type as u64 });
    }
    assert_eq!((store.space(), store.failure()), (space, None));
    assert_eq!(store.commit(store.roots()), Ok(2), "nothing changed");
    check_space(&store, &[kept]);
}

#[test]
fn only_a_final_block_is_written_once_and_whole_at_its_own_address() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    disk.take_log();
    let before = disk.bytes();
    let mut filling = store.allocate(Allocate::data()).unwrap();
    for (i, byte) in filling.bytes_mut().iter_mut().enumerate() {
        *byte = (i * 7 + i / 256) as u8;
    }
    let content = filling.bytes().to_vec();
    store.settle().unwrap();
    assert_eq!((disk.take_log(), store.counters().pending_blocks), (vec![], 0), "it is not final");
    let ptr = store.enqueue(filling).unwrap().ptr();
    assert_eq!((disk.take_log(), store.counters().pending_blocks), (vec![], 1), "it waits");
    store.settle().unwrap();
    assert_eq!(disk.take_log(), [Some((ptr.addr, BLOCK as u64))]);
    assert_eq!(store.counters().pending_blocks, 0);
    let (mut after, at) = (disk.bytes(), ptr.addr as usize);
    assert_eq!(after[at..at + BLOCK], content);
    after[at..at + BLOCK].copy_from_slice(&before[at..at + BLOCK]);
    assert!(after == before, "nothing else has changed");
    // It is clean now, so that its buffer can serve others.
    for _ in 0..40 {
        write(&store, 1).unwrap();
    }
    store.settle().unwrap();
    disk.take_reads();
    assert_eq!(store.read(ptr).unwrap()[..], content);
    assert_eq!(disk.take_reads(), [ptr.addr]);
    assert_eq!(disk.take_log().iter().flatten().filter(|write| write.0 == ptr.addr).count(), 0);
}

#[test]
fn a_pointer_says_where_what_and_when() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
    // Every buffer has held something.
    for _ in 0..40 {
        write(&store, 0xff).unwrap();
    }
    for (generation, fill) in (2..6).zip(10..) {
        let mut filling = store.allocate(Allocate::data().hint(fill)).unwrap();
        assert!(filling.bytes().iter().all(|byte| *byte == 0), "a new block holds nothing old");
        filling.bytes_mut().fill(fill as u8);
        let (addr, hash) = (filling.addr(), hash64(filling.bytes()));
        let block = store.enqueue(filling).unwrap();
        assert_eq!(block.ptr(), BlockPtr { addr, hash, gen: generation });
        assert_eq!(store.commit(store.roots().with_root(Some(block.ptr()), 1)), Ok(generation));
    }
    let mut filling = store.allocate(Allocate::data()).unwrap();
    filling.set_birth(77);
    assert_eq!(store.enqueue(filling).unwrap().ptr().gen, 77);
}

#[test]
fn a_duplicate_is_a_block_of_its_own_with_the_same_content() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    let old = store.read(write(&store, 5).unwrap()).unwrap();
    let mut copy = store.duplicate(&old, Allocate::data()).unwrap();
    assert_eq!(copy.bytes(), old.bytes());
    assert_ne!(copy.addr(), old.ptr().addr);
    copy.bytes_mut()[9] = 6;
    let copy = store.enqueue(copy).unwrap();
    assert_ne!(copy.ptr().hash, old.ptr().hash);
    store.settle().unwrap();
    assert_eq!((old[9], copy[9]), (5, 6));
    assert_eq!((store.read(old.ptr()).unwrap()[9], store.read(copy.ptr()).unwrap()[9]), (5, 6));
    let space = store.space();
    let error = store.duplicate(&old, Allocate::new(BlockType::Leaf)).unwrap_err();
    assert_eq!(error, Error::BadParameter { name: "block type", found: BlockType::Leaf as u64 });
    assert_eq!(store.space(), space);
}

/// The free map is made to hand out a block that somebody has: a bug, or memory that changed by itself. The block that
/// is there first keeps its content, and nothing more is written.
#[test]
fn a_block_that_is_handed_out_twice_is_noticed_in_the_cache() {
    let memories = [memory(), memory()];
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    let kept = write(&store, 1).unwrap();
    store.commit(store.roots().with_root(Some(kept), 1)).unwrap();
    store.settle().unwrap();
    let mut first = store.allocate(Allocate::data()).unwrap();
    first.bytes_mut().fill(2);
    let first = store.enqueue(first).unwrap();
    let addr = first.ptr().addr;
    let place = store.engine.arenas.locate(addr).unwrap();
    store.engine.arenas.with(0, |state, map| {
        map.sabotage_free(&mut state.counts, place.index);
        state.cursor = place.index;
    });
    let mut second = store.allocate(Allocate::data()).unwrap();
    assert_eq!(second.addr(), addr);
    second.bytes_mut().fill(3);
    let conflict = Error::Corrupt { addr, damage: Damage::CacheConflict };
    assert_eq!(store.enqueue(second).unwrap_err(), conflict);
    assert_eq!((store.failure(), store.is_read_only()), (Some(conflict), true));
    assert!(first.iter().all(|byte| *byte == 2));
    disk.take_log();
    assert_eq!(store.settle(), Err(conflict));
    assert_eq!(disk.take_log(), [], "nothing is written after it was noticed");
    drop(first);
    drop(store);
    let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
    check_space(&store, &[kept]);
    assert_eq!(store.read(kept).unwrap()[..], [1; BLOCK]);
}

#[test]
fn a_block_that_is_freed_before_it_is_written_is_never_written() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    disk.take_log();
    let ptrs: Vec<BlockPtr> = (0..9).map(|fill| write(&store, fill).unwrap()).collect();
    for ptr in ptrs.iter().skip(1).step_by(2) {
        store.free(*ptr).unwrap();
    }
    store.settle().unwrap();
    let mut written: Vec<_> = disk.take_log().into_iter().flatten().collect();
    written.sort_unstable();
    let expected: Vec<_> = ptrs.iter().step_by(2).map(|ptr| (ptr.addr, BLOCK as u64)).collect();
    assert_eq!(written, expected);
    let space = store.space();
    assert_eq!((store.counters().pending_blocks, space.reserved_blocks), (0, 0));
    let kept: Vec<BlockPtr> = ptrs.into_iter().step_by(2).collect();
    store.commit(store.roots().with_root(Some(kept[0]), 1)).unwrap();
    store.settle().unwrap();
    check_space(&store, &kept);
}

/// Input and output, full, damaged, out of buffers, out of memory, not a volume: each has an error of its own, which
/// says where it was and names both hashes.
#[test]
fn errors_are_told_apart_and_carry_address_and_hashes() {
    let memories = [memory(), memory()];
    let disk = Disk::new(vec![0; 256 << 10]);
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    let ptr = write(&store, 1).unwrap();
    store.commit(store.roots().with_root(Some(ptr), 1)).unwrap();
    let full = (0..1000).find_map(|_| write(&store, 2).err()).unwrap();
    assert!(matches!(full, Error::Full { room_blocks: 0, free_blocks: 1.., .. }), "{full:?}");
    store.unmount().unwrap();
    let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
    let wrong = BlockPtr { hash: ptr.hash ^ 1, ..ptr };
    let damage = Damage::Hash { expected: wrong.hash, found: ptr.hash };
    let corrupt = store.read(wrong).unwrap_err();
    assert_eq!(corrupt, Error::Corrupt { addr: ptr.addr, damage });
    for part in [wrong.hash, ptr.hash].map(|hash| std::format!("{hash:016x}")) {
        assert!(corrupt.to_string().contains(&part) && corrupt.to_string().contains(&std::format!("{:#x}", ptr.addr)));
    }
    disk.fail(Some(DeviceError::Timeout));
    let other = BlockPtr { addr: ptr.addr + BLOCK as u64, ..ptr };
    let failed = store.read(other).unwrap_err();
    assert_eq!(failed, Error::Device { op: crate::DeviceOp::Read, addr: other.addr, cause: DeviceError::Timeout });
    disk.fail(None);
    let nowhere = store.read(BlockPtr { addr: 0, ..ptr }).unwrap_err();
    assert_eq!(nowhere, Error::BadAddress { addr: 0 });
    let kinds = [full, corrupt, failed, nowhere, Error::NoBuffer, Error::ReadOnly].map(|error| error.to_string());
    for (i, text) in kinds.iter().enumerate() {
        assert!(!kinds[..i].contains(text), "{text}");
    }
}

/// Whoever says that every byte will be written gets what the buffer held; everybody else gets zeros.
#[test]
fn a_new_block_is_zero_unless_it_was_asked_otherwise() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    let buffers = store.engine.cache.len();
    for _ in 0..buffers {
        store.allocate(Allocate::data()).unwrap().bytes_mut().fill(7);
    }
    for _ in 0..buffers {
        assert!(store.allocate(Allocate::data().unzeroed()).unwrap().bytes().contains(&7));
    }
    for _ in 0..buffers {
        assert!(store.allocate(Allocate::data()).unwrap().bytes().iter().all(|byte| *byte == 0));
    }
}
