//! What the fuzzers call: any bytes at all, as an image, as changes to a valid image, as a sequence of operations.
//!
//! ```text
//!   raw_image      the bytes are the disk             magic and hashes are in the way
//!   sealed_image   the bytes change a valid disk,     only sense is in the way
//!                  whose hashes are then made right
//!   operations     the bytes are calls to a store     compared with a model
//! ```
//!
//! Each of them panics if something is wrong, and returns whether the input got past the front door, for statistics.
//! Work is bounded: requests to the device are counted against what the volume is worth, and a store that waits too
//! long for anything panics ([`ImpatientPlatform`]).
#![forbid(unsafe_code)]

use crate::check::check_volume;
use crate::client::{Client, Version};
use crate::corrupt_seal::seal_all;
use crate::disk::Disk;
use crate::image::ReadAt;
use crate::mem::{MemDevice, MemOptions};
use crate::platform::{reset_patience, ImpatientPlatform};
use crate::rng::Rng;
use crate::room::Room;
use crate::workload::{prepare, Config, Prelude};
use arenite_core::format::BlockSize;
use arenite_core::{
    Allocate, Completion, Device, DeviceGeometry, Error, FlushTag, MountOptions, Request, Roots, Store,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// A fuzzer's input, and whether it got past the front door.
pub type Target = fn(&[u8]) -> bool;

/// All of them, by name.
pub const TARGETS: [(&str, Target); 3] =
    [("raw_image", raw_image), ("sealed_image", sealed_image), ("operations", operations)];

/// Images larger than this are cut off.
const MAX_IMAGE_BYTES: usize = 256 << 10;
/// Operations in one input.
const MAX_OPERATIONS: usize = 400;
/// Slots of the structure that operations work on.
const SLOTS: usize = 24;
/// Requests that one operation may make: a commit writes logs, headers, superblocks and repairs of three arenas.
const REQUESTS_PER_OPERATION: u64 = 400;

/// A device that counts what it is asked for.
struct Counted<'m> {
    inner: MemDevice<'m>,
    requests: AtomicU64,
}

impl Counted<'_> {
    fn new(disk: &Arc<Disk>) -> Self {
        Self { inner: MemDevice::new(Arc::clone(disk), MemOptions::default()), requests: AtomicU64::new(0) }
    }

    /// Panics if there were more requests than this.
    fn demand(&self, most: u64, what: &str) {
        let count = self.requests.load(Ordering::Relaxed);
        assert!(count <= most, "{what}: {count} requests, {most} are enough");
    }
}

impl<'m> Device<'m> for Counted<'m> {
    fn geometry(&self) -> DeviceGeometry {
        self.inner.geometry()
    }

    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.inner.submit(request)
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.inner.flush(tag)
    }

    fn poll(&self) -> Option<Completion<'m>> {
        self.inner.poll()
    }
}

/// The bytes are the disk.
pub fn raw_image(bytes: &[u8]) -> bool {
    let mut image = bytes[..bytes.len().min(MAX_IMAGE_BYTES)].to_vec();
    image.resize(image.len().next_multiple_of(512), 0);
    try_image(image.into())
}

/// Mounts in both ways; works on what can be mounted, and mounts it again.
fn try_image(image: Arc<[u8]>) -> bool {
    let disk = Arc::new(Disk::over(Arc::clone(&image)));
    let mut room = Room::new(BlockSize::ORIGINAL, image.len() as u64);
    let blocks = image.len() as u64 / BlockSize::MIN.len_u64();
    let mut whole = false;
    for (read_only, damaged) in [(false, false), (true, false), (true, true)] {
        reset_patience();
        let Some(resources) = room.fresh() else { return false };
        let device = Counted::new(&disk);
        let options = MountOptions { read_only, damaged, ..MountOptions::default() };
        let mounted = Store::mount(resources, &device, &ImpatientPlatform, options);
        device.demand(30 + blocks, "mount");
        let Ok(store) = mounted else { continue };
        let space = store.space();
        assert!(space.free_blocks + space.log_blocks <= space.total_blocks, "{space:?}");
        let root = store.roots().root_ptr().filter(|root| store.read(*root).is_ok());
        if read_only {
            assert!(store.is_read_only() && store.allocate(Allocate::data()).is_err());
            continue;
        }
        whole = true;
        work(&store, root);
        assert!(store.unmount().is_ok());
        device.demand(30 + blocks + 6 * REQUESTS_PER_OPERATION + 4 * blocks, "work");
    }
    whole
}

/// Work on a volume that somebody made up: it may be full, and nothing else may fail.
fn work(store: &Store<'_, '_>, root: Option<arenite_core::BlockPtr>) {
    let may_be_full = |result: Result<(), Error>| match result {
        Ok(()) | Err(Error::Full { .. }) => {}
        Err(error) => panic!("{error}"),
    };
    if let Some(root) = root {
        may_be_full(store.free(root));
    }
    for round in 0..2u8 {
        for number in 0..12u8 {
            match store.allocate(Allocate::data().hint(number.into())) {
                Ok(mut filling) => {
                    filling.bytes_mut().fill(number | 1);
                    let ptr = store.enqueue(filling).map(|block| block.ptr());
                    may_be_full(ptr.and_then(|ptr| if number % 3 == 0 { store.free(ptr) } else { Ok(()) }));
                }
                Err(error) => may_be_full(Err(error)),
            }
        }
        // Without the pointers that were made up: what they lead to may be a block of a log, which moves.
        may_be_full(store.commit(Roots { next_qid: round.into(), ..Roots::EMPTY }).map(drop));
        may_be_full(store.settle());
    }
}

/// Valid volumes: logs of one block and of several, sealed and as the original leaves them.
fn bases() -> &'static [Arc<[u8]>] {
    static BASES: OnceLock<Vec<Arc<[u8]>>> = OnceLock::new();
    BASES.get_or_init(|| {
        let small = Config { prelude: Prelude::Filled, ..Config::arenas(3) };
        let foreign = Config { prelude: Prelude::Foreign, ..small };
        // With every other block free, a log of 2 KiB holds some 240 of them.
        let long = Config { volume_blocks: 700, slots: 640, ..Config::long_logs(3) };
        let image = |config: Config| prepare(&config).ok().map(|(disk, _)| disk.snapshot());
        [small, foreign, long].into_iter().filter_map(image).collect()
    })
}

/// The first byte chooses a valid volume and what is sealed again; each six bytes then change it in one place.
pub fn sealed_image(bytes: &[u8]) -> bool {
    let Some((choice, changes)) = bytes.split_first() else { return false };
    let bases = bases();
    let Some(base) = bases.get(usize::from(*choice) % bases.len().max(1)) else { return false };
    let mut image = base.to_vec();
    for change in changes.chunks_exact(6).take(64) {
        alter(&mut image, change);
    }
    seal_all(&mut image, choice & 0x80 == 0, choice & 0x40 == 0);
    try_image(image.into())
}

/// One change: of which block, where in it, how much, and what.
fn alter(image: &mut [u8], change: &[u8]) {
    let [block, at_high, at_low, what, high, low] = *change else { return };
    let unit = BlockSize::MIN.len_bytes();
    let blocks = image.len() / unit;
    // Low numbers are the metadata at the beginning, high ones count from the end.
    let block = if block < 200 { usize::from(block) % blocks } else { blocks - 1 - usize::from(255 - block) % blocks };
    let at = block * unit + usize::from(u16::from_be_bytes([at_high, at_low])) % unit;
    let value = u64::from(u16::from_be_bytes([high, low]));
    let word = match what >> 3 {
        0 => value,
        1 => value * unit as u64,
        2 => u64::MAX - value,
        3 => value << 48,
        4 => 1u64.checked_shl(high.into()).unwrap_or(0),
        5 => (value * unit as u64) | u64::from(what & 7),
        6 => image.len() as u64 - value * 512 % image.len() as u64,
        _ => value << 8 | u64::from(what & 7),
    };
    let len = 1 << (what & 3);
    if let Some(target) = image.get_mut(at..at + len) {
        target.copy_from_slice(&word.to_be_bytes()[8 - len..]);
    }
}

/// Each two bytes are a call: what, and of which slot.
pub fn operations(bytes: &[u8]) -> bool {
    let disk = Arc::new(Disk::zeroed(72 * BlockSize::MIN.len_u64()));
    crate::workload::format(&disk, 3).expect("a blank disk is formatted");
    let mut model = (vec![Version::NONE; SLOTS], 0);
    let mut calls = bytes.chunks_exact(2).take(MAX_OPERATIONS).peekable();
    let mut number = 1;
    let mut room = Room::new(BlockSize::MIN, disk.len_bytes());
    while calls.peek().is_some() {
        reset_patience();
        {
            let resources = room.fresh().expect("memory");
            let device = Counted::new(&disk);
            let store = Store::mount(resources, &device, &ImpatientPlatform, MountOptions::default());
            let store = store.map_err(|failed| failed.error).expect("what was committed is mounted");
            let done = live(&store, &mut calls, &mut model, &mut number);
            store.unmount().expect("unmount");
            device.demand((done + 4) * REQUESTS_PER_OPERATION, "operations");
        }
        verify(&disk, &mut room, &model);
    }
    number > 1
}

/// Calls up to the next mount; how many.
fn live<'b>(
    store: &Store<'_, '_>,
    calls: &mut impl Iterator<Item = &'b [u8]>,
    model: &mut (Vec<Version>, u64),
    number: &mut u64,
) -> u64 {
    let mut client = Client::load(store, SLOTS, 1).expect("what was committed is there");
    assert_eq!(client.versions(), model.0, "shows what was committed");
    for (done, call) in (1..).zip(calls) {
        reset_patience();
        let (what, slot) = (call[0], usize::from(call[1]) % SLOTS);
        let result = match what % 16 {
            0..6 => {
                *number += 1;
                client.put(slot, Version::new(*number, what >= 128))
            }
            6..9 => client.delete(slot),
            9..12 => commit(store, &mut client, model),
            12 => store.settle(),
            13 => overlap(store, &mut client, model, slot, number),
            14 => read(store, &client, slot),
            _ => return done,
        };
        match result {
            Ok(()) | Err(Error::Full { .. }) => {}
            Err(error) => panic!("{call:?}: {error}"),
        }
    }
    MAX_OPERATIONS as u64
}

fn commit(
    store: &Store<'_, '_>,
    client: &mut Client<'_, '_, '_>,
    model: &mut (Vec<Version>, u64),
) -> Result<(), Error> {
    let roots = client.prepare()?;
    let generation = store.commit(roots)?;
    // A commit without a change is none.
    assert!(generation >= model.1, "generations ascend");
    *model = (client.versions(), generation);
    Ok(())
}

/// A change while a commit is in flight belongs to the next one.
fn overlap(
    store: &Store<'_, '_>,
    client: &mut Client<'_, '_, '_>,
    model: &mut (Vec<Version>, u64),
    slot: usize,
    number: &mut u64,
) -> Result<(), Error> {
    let roots = client.prepare()?;
    let versions = client.versions();
    let ticket = loop {
        match store.commit_start(roots) {
            Err(Error::CommitInFlight) => drop(store.step()),
            result => break result?,
        }
    };
    *number += 1;
    let changed = client.put(slot, Version::new(*number, false));
    let mut steps = 0;
    let generation = loop {
        if let Some(result) = store.commit_poll(&ticket) {
            break result?;
        }
        store.step();
        steps += 1;
        assert!(steps < 10_000, "a commit takes {steps} steps");
    };
    *model = (versions, generation);
    changed
}

fn read(store: &Store<'_, '_>, client: &Client<'_, '_, '_>, slot: usize) -> Result<(), Error> {
    let Some(ptr) = client.ptr(slot) else { return Ok(()) };
    let block = store.read(ptr)?;
    assert_eq!(Version::read(slot, &block), Some(client.versions()[slot]), "slot {slot}");
    Ok(())
}

/// What is on the disk is the last commit, and its space is exact.
fn verify(disk: &Arc<Disk>, room: &mut Room, model: &(Vec<Version>, u64)) {
    reset_patience();
    let resources = room.fresh().expect("memory");
    let device = Counted::new(disk);
    let store = Store::mount(resources, &device, &ImpatientPlatform, MountOptions::default());
    let store = store.map_err(|failed| failed.error).expect("mount");
    let client = Client::load(&store, SLOTS, 1).expect("content");
    assert_eq!(client.versions(), model.0, "shows what was committed");
    assert!(store.generation() >= model.1);
    let report = check_volume(&**disk, Some(&store), client.addresses()).expect("check");
    assert!(report.is_clean(), "{:?}", report.problems);
}

/// Inputs that get past the front door, for a start.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "raw_image" => {
            let tiny = Config { volume_blocks: 24, slots: 4, prelude: Prelude::Filled, ..Config::small(1) };
            let image = |config: Config| prepare(&config).ok().map(|(disk, _)| disk.snapshot().to_vec());
            [tiny, Config { prelude: Prelude::Foreign, ..tiny }].into_iter().filter_map(image).collect()
        }
        // Of the second volume the original was the last to write: its extensions are to stay what they are.
        "sealed_image" => vec![vec![0], vec![64], vec![2]],
        _ => vec![vec![0, 1, 9, 0, 1, 2, 13, 4, 6, 1, 10, 0, 14, 2, 12, 0, 15, 0, 128, 3, 9, 0]],
    }
}

/// An input from a number: one of the corpus, changed in a few places, or anything.
pub fn generate(corpus: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let len = 1 + rng.below(400) as usize;
    let mut input = match corpus.get(rng.below(corpus.len() as u64) as usize) {
        Some(known) if !rng.chance(1, 4) => known.clone(),
        _ => (0..len).map(|_| rng.next_u64() as u8).collect(),
    };
    for _ in 0..rng.below(12) {
        if input.is_empty() {
            break;
        }
        let at = rng.below(input.len() as u64) as usize;
        match rng.below(6) {
            0 => input[at] ^= 1 << rng.below(8),
            1 => input.truncate(at),
            2 => input.insert(at, rng.next_u64() as u8),
            3 => {
                let from = rng.below(input.len() as u64) as usize;
                let part = input[from..(from + 16).min(input.len())].to_vec();
                input.splice(at..at, part).for_each(drop);
            }
            _ => input[at] = rng.next_u64() as u8,
        }
    }
    input
}

impl std::fmt::Debug for Counted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counted").field("requests", &self.requests).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_volumes_get_past_the_front_door() {
        assert_eq!(bases().len(), 3);
        for (choice, base) in seeds("sealed_image").iter().zip(bases()) {
            assert!(sealed_image(choice), "volume {choice:?}");
            if base.len() <= MAX_IMAGE_BYTES {
                assert!(raw_image(base));
            }
        }
        for (name, target) in TARGETS {
            let seeds = seeds(name);
            assert!(!seeds.is_empty() && seeds.iter().all(|seed| target(seed)), "{name}");
        }
        assert!(!raw_image(b"gefs9.00"));
        assert!(operations(&[0, 1, 9, 0, 15, 0, 6, 1, 13, 4, 10, 0]));
    }

    #[test]
    fn changes_that_are_sealed_again_reach_what_is_behind_the_hashes() {
        // Without the seals nothing of this would be mounted.
        let mounted = (0..300).filter(|seed| sealed_image(&generate(&[], *seed))).count();
        assert!(mounted > 20, "{mounted} of 300");
    }
}
