//! Valid images, altered where it hurts, with the hashes made right again, so that only sense can tell: no panic, no
//! mount that takes longer than its image is worth, and what is mounted can be worked on and mounted again.
//!
//! The seeds are the same in each run; how many are tried depends on `ARENITE_TEST_SECONDS`, or a few seconds.
#![cfg(not(any(loom, feature = "shuttle")))]

mod sim;

use arenite_core::format::chain_digest;
use arenite_core::hash::hash64;
use arenite_core::{Class, Error, Roots, Store};
use sim::{
    commit_root, format, free_every_second, hinted, memory, mount, put, put_as, Contents, Disk, Media, Rng, BLOCK,
};
use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant};

/// Images that are tried at least.
const MIN_IMAGES: u64 = 3_000;
/// Longer than any mount of a volume of 4 MiB takes on a busy machine.
const MAX_MOUNT: Duration = Duration::from_secs(5);

// Where things are (docs/FORMAT.md).
const SB_SIZE: usize = 8;
const SB_ARENA_COUNT: usize = 16;
const SB_FIELDS: usize = 24;
const SB_GEN: usize = 96;
const SB_ARENAS: usize = 104;
const HEADER_WORDS: usize = 2;
const HEADER_GEN: usize = 42;
const HEADER_BLOCKS: usize = 50;
const HEADER_DIGEST: usize = 54;
const HEADER_TAIL: usize = 62;
const HEADER_CHECK: usize = 70;
const LOG_LEN: usize = 2;
const LOG_HASH: usize = 4;
const LOG_CHAIN: usize = 12;
const LOG_ENTRIES: usize = 36;

/// The image being altered. All access is checked, because what was altered may lead anywhere.
struct Image<'a> {
    bytes: Vec<u8>,
    rng: &'a mut Rng,
}

impl Image<'_> {
    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    fn word(&self, at: usize) -> usize {
        u64::from_be_bytes(self.get(at)) as usize
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        if let Some(target) = self.bytes.get_mut(at..).and_then(|rest| rest.get_mut(..value.len())) {
            target.copy_from_slice(value);
        }
    }

    fn put_word(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_be_bytes());
    }

    /// Puts the hash of a range somewhere.
    fn put_hash(&mut self, from: usize, to: usize, at: usize) {
        if let Some(part) = self.bytes.get(from..to) {
            let hash = hash64(part);
            self.put_word(at, hash);
        }
    }

    fn pick(&mut self, bound: usize) -> usize {
        self.rng.below(bound as u64) as usize
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.rng.below(chances) == 0
    }

    /// A number that somebody may have forgotten to think of.
    fn odd_word(&mut self) -> u64 {
        let (len, unit) = (self.bytes.len() as u64, BLOCK as u64);
        match self.rng.below(12) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.rng.below(64),
            3 => self.rng.next(),
            4 => len,
            5 => len - unit,
            6 => unit,
            7 => (1 << self.rng.below(64)) - 1,
            8 => !(unit - 1),
            9 => (1 << 60) | unit,
            _ => self.rng.below(len / unit + 3) * unit,
        }
    }

    /// The blocks of a log, as far as the chain makes sense.
    fn log_chain(&self, base: usize) -> Vec<usize> {
        let count = u32::from_be_bytes(self.get(base + HEADER_BLOCKS)).min(3000);
        let (mut chain, mut at) = (Vec::new(), self.word(base + HEADER_WORDS));
        while chain.len() < count as usize && at.saturating_add(BLOCK) <= self.bytes.len() && !chain.contains(&at) {
            chain.push(at);
            at = self.word(at + LOG_CHAIN);
        }
        chain
    }

    fn log_len(&self, at: usize) -> usize {
        u16::from_be_bytes(self.get(at + LOG_LEN)).into()
    }

    fn alter_log(&mut self, base: usize) {
        let chain = self.log_chain(base);
        if chain.is_empty() {
            return;
        }
        let at = chain[self.pick(chain.len())];
        let len = self.log_len(at);
        match self.rng.below(6) {
            0 => {
                let word = self.odd_word();
                self.put_word(at + LOG_CHAIN, word);
            }
            1 => {
                let other = chain[self.pick(chain.len())];
                self.put_word(at + LOG_CHAIN, other as u64);
            }
            2 => {
                let mask = if self.one_in(2) { 0x7f8 } else { 0xffff };
                let len = self.rng.next() as u16 & mask;
                self.put(at + LOG_LEN, &len.to_be_bytes());
            }
            _ => self.alter_entry(at, len),
        }
        let len = self.log_len(at);
        self.put_hash(at + LOG_ENTRIES, at + LOG_ENTRIES + len, at + LOG_HASH);
        if !self.one_in(3) {
            let mut digest = 0;
            for at in self.log_chain(base) {
                let hash = u64::from_be_bytes(self.get(at + LOG_HASH));
                digest = chain_digest(digest, at as u64, hash, self.log_len(at) as u16);
            }
            self.put_word(base + HEADER_DIGEST, digest);
        }
    }

    /// An entry of a log, or one more.
    fn alter_entry(&mut self, at: usize, len: usize) {
        let entry = at + LOG_ENTRIES + 8 * self.pick(len / 8 + 1);
        let word = match self.rng.below(3) {
            0 => (self.odd_word() & !0xff) | self.rng.below(7),
            1 => self.rng.below(9) << 8 | 3,
            _ => self.odd_word(),
        };
        self.put_word(entry, word);
        if self.one_in(4) {
            self.put(at + LOG_LEN, &(len as u16).wrapping_add(8).to_be_bytes());
        }
    }

    fn alter_header(&mut self, base: usize) {
        match self.rng.below(5) {
            0 => {
                let (at, word) = (base + HEADER_WORDS + 8 * self.pick(4), self.odd_word());
                self.put_word(at, word);
            }
            1 => {
                let blocks = if self.one_in(3) { self.rng.next() } else { self.rng.below(20) } as u32;
                self.put(base + HEADER_BLOCKS, &blocks.to_be_bytes());
            }
            2 => {
                let gen = self.rng.below(9);
                self.put_word(base + HEADER_GEN, gen);
            }
            3 => {
                let word = self.odd_word();
                self.put_word(base + HEADER_TAIL, word);
            }
            _ => {
                let (at, byte) = (base + self.pick(80), self.rng.next() as u8);
                self.put(at, &[byte]);
            }
        }
    }

    /// One arena: log, header, and the hashes over both.
    fn alter_arena(&mut self, arenas: usize, with_log: bool) {
        let arena = self.pick(arenas);
        let base = self.word(SB_ARENAS + 16 * arena);
        if with_log {
            self.alter_log(base);
        }
        if self.one_in(2) {
            self.alter_header(base);
        }
        if !self.one_in(8) {
            self.put_hash(base, base + HEADER_CHECK, base + HEADER_CHECK);
        }
        let header: [u8; BLOCK] = self.get(base);
        self.put(base + BLOCK, &header);
        self.put_hash(base, base + BLOCK, SB_ARENAS + 16 * arena + 8);
    }

    fn alter_superblock(&mut self, arenas: usize) {
        match self.rng.below(4) {
            0 => {
                let count = match self.rng.below(4) {
                    0 => self.rng.next() as u32,
                    1 => 0,
                    2 => 300,
                    _ => self.rng.below(8) as u32,
                };
                self.put(SB_ARENA_COUNT, &count.to_be_bytes());
            }
            1 => {
                let (at, word) = (SB_FIELDS + 8 * self.pick(10 + 2 * arenas), self.odd_word());
                self.put_word(at, word);
            }
            2 => {
                let size = 1u32 << self.rng.below(18);
                self.put(SB_SIZE, &size.to_be_bytes());
                if self.one_in(2) {
                    self.put(SB_SIZE + 4, &(size.saturating_sub(10) / 2).to_be_bytes());
                }
            }
            _ => {
                let (at, byte) = (self.pick(200), self.rng.next() as u8);
                self.put(at, &[byte]);
            }
        }
    }

    /// The hashes of the superblock, with the extension or without, and its second copy.
    fn seal(&mut self) {
        let arenas = u32::from_be_bytes(self.get(SB_ARENA_COUNT)).min(110) as usize;
        let end = SB_ARENAS + 16 * arenas;
        self.put_hash(0, end, end);
        let gen: [u8; 8] = self.get(SB_GEN);
        if self.one_in(4) {
            let byte = self.bytes[end + 8] ^ 1;
            self.put(end + 8, &[byte]);
        } else {
            self.put(end + 8, b"arenite1");
            self.put(end + 16, &gen);
            self.put_hash(0, end + 24, end + 24);
        }
        let (last, front): (usize, [u8; BLOCK]) = (self.bytes.len() - BLOCK, self.get(0));
        if !self.one_in(4) {
            self.put(last, &front);
        }
        if self.one_in(6) {
            let byte = self.rng.next() as u8;
            self.bytes[..BLOCK].fill(byte);
        }
        if self.one_in(10) {
            let len = self.pick(self.bytes.len()) / 512 * 512;
            self.bytes.truncate(len);
        }
    }

    fn alter(mut self) -> Vec<u8> {
        let arenas = u32::from_be_bytes(self.get(SB_ARENA_COUNT)) as usize;
        let level = self.rng.below(5);
        if level == 0 {
            self.alter_superblock(arenas);
        } else {
            for _ in 0..1 + self.rng.below(3) {
                self.alter_arena(arenas, level >= 2);
            }
        }
        self.seal();
        self.bytes
    }
}

fn commit_first(store: &Store<'_, '_>, contents: &Contents) {
    commit_root(store, contents[0].0);
}

/// Volumes of several sizes, with logs of one block and of several, written anew and appended to.
fn valid_images() -> Vec<Vec<u8>> {
    let image = |(len_bytes, arenas, blocks, appends): (usize, u32, u32, u32)| {
        let memory = memory();
        let disk = Disk::in_order(Media::blank(len_bytes));
        let store = format(&memory, &disk, arenas);
        // No block is all zeros, as those are that nobody ever wrote.
        let put_one = |index: u32| put_as(&store, index as u8 | 1, hinted(index / 300, Class::Normal)).unwrap();
        let contents = (0..blocks).map(|index| (put_one(index), index as u8 | 1)).collect();
        commit_first(&store, &contents);
        let kept = free_every_second(&store, contents);
        for _ in 0..=appends {
            commit_first(&store, &kept);
            put(&store, 1).unwrap();
        }
        store.unmount().unwrap();
        disk.into_media().view().to_vec()
    };
    [(256 << 10, 2, 30, 0), (1 << 20, 3, 30, 0), (4 << 20, 2, 1200, 0), (4 << 20, 1, 1200, 5)].map(image).to_vec()
}

/// Works on a volume that was mounted although it was altered. It may be full, but nothing may fail.
fn work(store: &Store<'_, '_>, seed: u64) {
    let space = store.space();
    assert!(space.free_blocks + space.log_blocks <= space.total_blocks, "{space:?}");
    let may_be_full = |result: Result<(), Error>| match result {
        Ok(()) | Err(Error::Full { .. }) => {}
        Err(error) => panic!("{error}"),
    };
    // A root that reads well is a block like any other; one that does not may be anything.
    if let Some(root) = store.roots().root_ptr().filter(|root| store.read(*root).is_ok()) {
        may_be_full(store.free(root));
    }
    for round in 0..3 {
        for fill in 0..20 {
            match put_as(store, fill, hinted(fill.into(), Class::Normal)) {
                Ok(ptr) if fill % 3 == 0 => may_be_full(store.free(ptr)),
                Ok(_) => {}
                Err(error) => may_be_full(Err(error)),
            }
        }
        // Without the altered pointers: what they lead to may be a block of a log, which moves.
        store.commit(Roots { next_qid: seed + round, ..Roots::EMPTY }).unwrap();
        store.settle().unwrap();
    }
}

/// Tries one image: `None` if it was mounted, and the kind of the refusal otherwise. Panics if something is wrong.
fn try_image(bytes: Vec<u8>, seed: u64) -> Option<String> {
    let memories = [memory(), memory()];
    let disk = Disk::in_order(Media::new(bytes));
    let begun = Instant::now();
    let mounted = mount(&memories[0], &disk);
    assert!(begun.elapsed() < MAX_MOUNT, "the mount took {:?}", begun.elapsed());
    let blocks = disk.look(|media| media.view().len() / BLOCK) as u64;
    assert!(disk.completed() <= 20 + blocks, "{} reads for {blocks} blocks", disk.completed());
    assert_eq!(disk.take_writes(), []);
    match mounted {
        Ok(store) => {
            work(&store, seed);
            store.unmount().unwrap();
            mount(&memories[1], &disk).unwrap();
            None
        }
        Err(error) => {
            let text = format!("{error:?}");
            let kind: String = text.chars().filter(|letter| !letter.is_ascii_digit()).collect();
            Some(kind)
        }
    }
}

#[test]
fn altered_images_are_refused_or_work() {
    let seconds = std::env::var("ARENITE_TEST_SECONDS").ok().and_then(|text| text.parse().ok());
    let limit = Duration::from_secs(seconds.unwrap_or(6));
    let images = valid_images();
    let begun = Instant::now();
    let (mut seed, mut mounted, mut refusals) = (0, 0, BTreeMap::<String, u64>::new());
    while begun.elapsed() < limit || seed < MIN_IMAGES {
        seed += 1;
        let mut rng = Rng(seed);
        let bytes = images[rng.below(images.len() as u64) as usize].clone();
        let bytes = Image { bytes, rng: &mut rng }.alter();
        match catch_unwind(AssertUnwindSafe(|| try_image(bytes, seed))) {
            Ok(None) => mounted += 1,
            Ok(Some(kind)) => *refusals.entry(kind).or_default() += 1,
            Err(_) => panic!("seed {seed} failed"),
        }
    }
    println!("{seed} images, {mounted} mounted and worked on; {} kinds of refusals:", refusals.len());
    for (kind, count) in &refusals {
        println!("  {count:7} {kind}");
    }
    assert!(mounted > MIN_IMAGES / 20, "{mounted} of {seed} images were mounted");
    assert!(refusals.len() > 15, "{refusals:?}");
}
