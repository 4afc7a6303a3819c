//! Mount reads a few arenas side by side: in whatever order the blocks come, it finds the same.

use super::disk::Disk;
use super::store::{options, write, BLOCK};
use crate::device::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};
use crate::memory::{map_words, pages_for};
use crate::{BlockPtr, Memory, MountOptions, Mounting, NoInterrupts, Store};
use std::boxed::Box;
use std::format;
use std::string::String;
use std::sync::Mutex;
use std::vec;
use std::vec::Vec;

/// Arenas, each with a log of two blocks or more.
const ARENAS: usize = if cfg!(miri) { 3 } else { 7 };
const BLOCKS: usize = ARENAS * 600;
/// Lanes of a mount.
const LANES: usize = if usize::BITS == 32 { 1 } else { 4 };

type Many = Memory<{ pages_for(24, BLOCK) }, 24, { map_words(BLOCKS, ARENAS) }, ARENAS, 16>;

fn memory() -> Box<Many> {
    Box::new(Memory::new())
}

/// A device that completes nothing as long as it is given more to do, and then one of what it has, whichever.
struct Late<'d, 'm> {
    disk: &'d Disk<'m>,
    depth: usize,
    /// A read from here fails.
    bad_addr: Option<u64>,
    state: Mutex<State<'m>>,
}

#[derive(Default)]
struct State<'m> {
    held: Vec<Completion<'m>>,
    most_held: usize,
    reads: Vec<u64>,
    asked: bool,
    random: u64,
}

impl<'d, 'm> Late<'d, 'm> {
    fn new(disk: &'d Disk<'m>, depth: usize, random: u64, bad_addr: Option<u64>) -> Self {
        Self { disk, depth, bad_addr, state: Mutex::new(State { random, ..State::default() }) }
    }
}

impl<'m> Device<'m> for Late<'_, 'm> {
    fn geometry(&self) -> DeviceGeometry {
        self.disk.geometry()
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        let mut state = self.state.lock().unwrap();
        if state.held.len() >= self.depth {
            return Err(request);
        }
        let (addr, is_read) = (request.addr(), request.kind() == RequestKind::Read);
        self.disk.submit(request)?;
        state.asked = true;
        state.held.extend(self.disk.poll().map(|completion| match completion {
            Completion::Transfer(request, _) if is_read && self.bad_addr == Some(addr) => {
                Completion::Transfer(request, Err(DeviceError::Io))
            }
            other => other,
        }));
        state.reads.extend(is_read.then_some(addr));
        state.most_held = state.most_held.max(state.held.len());
        Ok(())
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.disk.flush(tag)
    }

    fn poll(&self) -> Option<Completion<'m>> {
        let mut state = self.state.lock().unwrap();
        if core::mem::take(&mut state.asked) {
            return None;
        }
        state.random = state.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = (state.random >> 33) as usize % state.held.len().max(1);
        (at < state.held.len()).then(|| state.held.swap_remove(at)).or_else(|| self.disk.poll())
    }
}

/// A volume each of whose arenas has every second block free.
fn fragmented() -> Vec<u8> {
    let memory = memory();
    let disk = Disk::new(vec![0; (BLOCKS + 2 * ARENAS + 8) * BLOCK]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(ARENAS as u32)).unwrap();
    let all: Vec<BlockPtr> = (0..BLOCKS * 9 / 10).map(|at| write(&store, at as u8).unwrap()).collect();
    store.commit(store.roots().with_root(Some(all[0]), 1)).unwrap();
    let mut sorted = all.clone();
    sorted.sort_unstable_by_key(|ptr| ptr.addr);
    sorted.iter().skip(1).step_by(2).filter(|ptr| ptr.addr != all[0].addr).for_each(|ptr| store.free(*ptr).unwrap());
    store.commit(store.roots().with_root(Some(all[0]), 2)).unwrap();
    store.unmount().unwrap();
    disk.bytes()
}

/// New arenas take no words of an old one, in whatever order the headers of these came; with a header that is only
/// good in its second copy too.
#[test]
fn a_volume_grows_behind_all_arenas_whichever_came_last() {
    const EXTRA: usize = 700;
    type More = Memory<{ pages_for(24, BLOCK) }, 24, { map_words(BLOCKS + EXTRA, ARENAS + 2) }, { ARENAS + 2 }, 16>;
    let mut image = fragmented();
    image.resize(image.len() + EXTRA * BLOCK, 0);
    for random in 0..if cfg!(miri) { 1 } else { 8 } {
        if random == 4 {
            // The first copy of the first arena's header.
            image[BLOCK + 100] ^= 1;
        }
        let memories: [Box<More>; 2] = [Box::default(), Box::default()];
        let disk = Disk::new(image.clone());
        let late = Late::new(&disk, 16, random, None);
        let store = Store::mount(memories[0].take().unwrap(), &late, &NoInterrupts, MountOptions::default()).unwrap();
        let (arenas, free) = found(&store);
        assert_eq!(arenas.len(), ARENAS);
        store.grow().unwrap();
        // All but where the second superblock was.
        let same = |store: &Store<'_, '_>| found(store).1[..BLOCKS] == free[..BLOCKS];
        assert!(same(&store) && store.arena(ARENAS).is_some(), "order {random}");
        store.commit(store.roots()).unwrap();
        store.unmount().unwrap();
        let again = Late::new(&disk, 16, random + 1, None);
        let store = Store::mount(memories[1].take().unwrap(), &again, &NoInterrupts, MountOptions::default()).unwrap();
        assert!(same(&store), "order {random}, mounted again");
    }
}

/// A mount that has failed, with more reads under way, waits for these when it ends and not for ever, also when it was
/// stepped again.
#[test]
fn a_mount_that_failed_ends_with_the_last_of_its_reads() {
    let image = fragmented();
    let (first, disk) = (memory(), Disk::new(image.clone()));
    drop(Store::mount(first.take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap());
    for addr in disk.take_reads().into_iter().skip(2) {
        let (memory, disk) = (memory(), Disk::new(image.clone()));
        let late = Late::new(&disk, 16, addr, Some(addr));
        let mut mounting = Mounting::new(memory.take().unwrap(), &late, &NoInterrupts, MountOptions::default());
        while matches!(mounting.step(), Ok(None)) {}
        assert!(mounting.step().is_err(), "{addr:#x}");
        drop(mounting);
        assert!(late.state.lock().unwrap().held.is_empty(), "{addr:#x}");
    }
}

/// What mount has found out of the arenas, and out of each block.
fn found(store: &Store<'_, '_>) -> (Vec<String>, Vec<bool>) {
    let arenas: Vec<String> = (0..).map_while(|arena| store.arena(arena)).map(|info| format!("{info:?}")).collect();
    let free = (0..(BLOCKS + 2 * ARENAS) as u64).map(|block| store.is_free(block * BLOCK as u64) == Ok(true)).collect();
    (arenas, free)
}

#[test]
fn arenas_are_read_side_by_side_in_whatever_order_blocks_come() {
    let image = fragmented();
    let (first, disk) = (memory(), Disk::new(image.clone()));
    let store = Store::mount(first.take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
    let expected = found(&store);
    assert_eq!(expected.0.len(), ARENAS);
    assert!((0..ARENAS).all(|arena| store.arena(arena).unwrap().log_blocks > 1), "{:?}", expected.0);
    let mut blocks = disk.take_reads();
    blocks.sort_unstable();
    for (depth, random) in [(1, 1), (2, 2), (3, 3), (4, 4), (16, 5), (16, 6), (16, 7)] {
        let (memory, disk) = (memory(), Disk::new(image.clone()));
        let late = Late::new(&disk, depth, random, None);
        let store = Store::mount(memory.take().unwrap(), &late, &NoInterrupts, MountOptions::default()).unwrap();
        assert!(found(&store) == expected, "depth {depth}, order {random}");
        let mut state = late.state.lock().unwrap();
        assert_eq!(state.most_held, depth.min(LANES).min(ARENAS), "depth {depth}");
        state.reads.sort_unstable();
        assert_eq!(state.reads, blocks, "each block is read once");
    }
}

#[test]
fn a_block_that_cannot_be_read_costs_its_arena_and_no_buffer() {
    let image = fragmented();
    let (first, disk) = (memory(), Disk::new(image.clone()));
    let store = Store::mount(first.take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
    let expected = found(&store);
    let logs: Vec<u64> = (0..ARENAS).map(|arena| store.arena(arena).unwrap().log_addr).collect();
    let mut failures = 0;
    for (random, addr) in disk.take_reads().into_iter().enumerate() {
        let (memories, disk) = ([memory(), memory()], Disk::new(image.clone()));
        let late = Late::new(&disk, 16, random as u64, Some(addr));
        let mounted = Store::mount(memories[0].take().unwrap(), &late, &NoInterrupts, MountOptions::default());
        if mounted.is_err() {
            failures += 1;
            assert!(late.state.lock().unwrap().held.is_empty(), "{addr:#x}: a buffer was not waited for");
        }
        drop(mounted);
        let options = MountOptions { read_only: true, damaged: true, ..MountOptions::default() };
        let store = Store::mount(memories[1].take().unwrap(), &late, &NoInterrupts, options).unwrap();
        let found = found(&store);
        let others = (0..ARENAS).filter(|arena| found.0[*arena] == expected.0[*arena]).count();
        assert!(others + 1 >= ARENAS, "{addr:#x}: {others}");
        assert!(store.report().damaged_arenas == 1 || !logs.contains(&addr));
        assert!(found.1.iter().zip(&expected.1).all(|(found, expected)| found <= expected), "{addr:#x}");
    }
    assert!(failures >= 2 * ARENAS, "{failures}");
}
