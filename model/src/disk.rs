//! The disk: sectors, a volatile write cache, flushes, and every state that a loss of power can leave.
//!
//! The media contract, as far as crashes go: a sector is written whole or not at all; of the writes that no flush has
//! covered yet any subset survives, each torn at any sectors; a flush makes durable what had completed before it was
//! issued. So at each moment the states that a crash can leave are: for each sector with uncovered writes, its durable
//! content or the content of any of those writes, in every combination. That product is enumerated, never sampled.
//!
//! It is enough to enumerate just before each flush completes: the states possible earlier in the same epoch are among
//! those.

use crate::content::{Addr, Block, Gen, Token, SECTORS};

/// What a write is for; costs are counted by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A block of the tree.
    Data,
    /// A log block.
    Log,
    /// A log block written again in place for its chain pointer.
    Relink,
    /// First copy of an arena header.
    HeaderA,
    /// Second copy of an arena header.
    HeaderB,
    /// First superblock.
    Super0,
    /// Second superblock.
    Super1,
    /// Anything that the repair epoch writes.
    Repair,
}

/// A write of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// What it is for.
    pub kind: Kind,
    /// Where it goes.
    pub addr: Addr,
    /// What it writes.
    pub block: Block,
    /// Commit it belongs to. A flush of an older commit is not taken to cover it.
    pub gen: Gen,
}

/// Contents of all sectors, with a 128-bit key of them that is kept up to date.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disk {
    sectors: Vec<Token>,
    key: u128,
}

fn sector_key(index: usize, token: Token) -> u128 {
    fn mix(mut v: u64) -> u64 {
        v = (v ^ (v >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        v = (v ^ (v >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        v ^ (v >> 31)
    }
    let v = ((index as u64) << 32) | u64::from(token);
    let low = mix(v.wrapping_add(0x9E37_79B9_7F4A_7C15));
    (u128::from(mix(low ^ 0xD6E8_FEB8_6659_FD93)) << 64) | u128::from(low)
}

impl Disk {
    /// A disk of zeros.
    pub fn new(blocks: usize) -> Self {
        let sectors = vec![0; blocks * SECTORS];
        let key = (0..sectors.len()).fold(0, |k, i| k ^ sector_key(i, 0));
        Disk { sectors, key }
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.sectors.len() / SECTORS
    }

    /// Content of a block.
    pub fn read(&self, addr: Addr) -> Block {
        let at = usize::from(addr) * SECTORS;
        [self.sectors[at], self.sectors[at + 1]]
    }

    /// Writes a whole block.
    pub fn write(&mut self, addr: Addr, block: Block) {
        (0..SECTORS).for_each(|i| self.set(usize::from(addr) * SECTORS + i, block[i]));
    }

    /// Two disks with the same contents have the same key; that two others have is as likely as a 128-bit collision.
    pub fn key(&self) -> u128 {
        self.key
    }

    fn set(&mut self, index: usize, token: Token) {
        self.key ^= sector_key(index, self.sectors[index]) ^ sector_key(index, token);
        self.sectors[index] = token;
    }
}

/// A disk with a volatile write cache.
#[derive(Clone, Debug)]
pub struct Device {
    /// What is durable.
    pub media: Disk,
    /// Writes issued and not yet covered by a flush, oldest first.
    pub pending: Vec<Write>,
    /// Flushes done.
    pub flushes: u64,
}

impl Device {
    /// A device with nothing in its cache.
    pub fn new(media: Disk) -> Self {
        Device { media, pending: Vec::new(), flushes: 0 }
    }

    /// Issues a write.
    pub fn write(&mut self, write: Write) {
        self.pending.push(write);
    }

    /// Makes durable every write of `gen` and of older commits. Writes of younger commits are taken to be issued too
    /// late for this flush: that leaves more states possible, never fewer.
    pub fn flush(&mut self, gen: Gen) {
        self.flushes += 1;
        let media = &mut self.media;
        self.pending.retain(|w| {
            if w.gen <= gen {
                media.write(w.addr, w.block);
            }
            w.gen > gen
        });
    }

    /// What a read returns: the last write of each block.
    pub fn view(&self) -> Disk {
        let mut disk = self.media.clone();
        self.pending.iter().for_each(|w| disk.write(w.addr, w.block));
        disk
    }

    /// Every state that a loss of power can leave now.
    pub fn crash_states(&self) -> CrashStates {
        let mut choices: Vec<(usize, Vec<Token>)> = Vec::new();
        for w in &self.pending {
            for (i, token) in w.block.iter().enumerate() {
                let index = usize::from(w.addr) * SECTORS + i;
                if choices.iter().all(|c| c.0 != index) {
                    choices.push((index, vec![self.media.sectors[index]]));
                }
                if let Some((_, tokens)) = choices.iter_mut().find(|c| c.0 == index) {
                    if !tokens.contains(token) {
                        tokens.push(*token);
                    }
                }
            }
        }
        choices.retain(|c| c.1.len() > 1);
        CrashStates { disk: self.media.clone(), at: vec![0; choices.len()], choices, started: false }
    }
}

/// An odometer over the product of the sectors' possible contents.
pub struct CrashStates {
    disk: Disk,
    choices: Vec<(usize, Vec<Token>)>,
    at: Vec<usize>,
    started: bool,
}

impl CrashStates {
    /// Number of states in all.
    pub fn total(&self) -> u64 {
        self.choices.iter().map(|c| c.1.len() as u64).product()
    }

    /// The next state, beginning with the one in which no pending write survived.
    pub fn next_state(&mut self) -> Option<&Disk> {
        if !self.started {
            self.started = true;
            return Some(&self.disk);
        }
        for (at, (index, tokens)) in self.at.iter_mut().zip(&self.choices) {
            *at = (*at + 1) % tokens.len();
            self.disk.set(*index, tokens[*at]);
            if *at != 0 {
                return Some(&self.disk);
            }
        }
        None
    }

    /// The sectors that differ from the durable state, as index and content: what a warm cache would hold.
    pub fn survived(&self) -> Vec<(usize, Token)> {
        self.at.iter().zip(&self.choices).filter(|(at, _)| **at != 0).map(|(at, c)| (c.0, c.1[*at])).collect()
    }
}
