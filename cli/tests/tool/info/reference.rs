//! What `info` must say, from the bytes of an image alone: the rules of docs/FORMAT.md, sections 4, 6 and 7, written a
//! second time, as plainly as they go. Shares nothing with the code under test but the hash. Panics at what is damaged.

use crate::scratch::{Scratch, BLOCK, BLOCK_LEN};
use arenite_core::hash::hash64;
use serde_json::{json, Value};

const NONE: u64 = u64::MAX;

pub fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn be16(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap()))
}

/// An arena as a commit has it.
#[derive(Clone)]
pub struct Arena {
    pub addr: u64,
    pub size: u64,
    /// The header that counts.
    pub header: Vec<u8>,
    pub primary: bool,
    /// Of each block from `addr` + 2 blocks on, whether it is free.
    pub free: Vec<bool>,
    /// Addresses of the log's blocks up to the one where replay ends.
    pub log: Vec<u64>,
    /// Where the stopping barrier lies in the last of them, if there is one.
    pub barrier_at: Option<usize>,
}

/// The state that an image shows.
pub struct State {
    /// The newer superblock.
    pub superblock: Vec<u8>,
    pub superblocks: [&'static str; 2],
    pub qgen: u64,
    pub arenas: Vec<Arena>,
}

fn superblock(block: Vec<u8>) -> Option<Vec<u8>> {
    if block[..8] != *b"gefs9.00" {
        return None;
    }
    let end = 104 + 16 * be32(&block, 16) as usize;
    (hash64(&block[..end]) == be64(&block, end)).then_some(block)
}

/// Reads an image.
pub fn state(image: &Scratch) -> State {
    let copies = [superblock(image.read(0)), superblock(image.read(image.second()))];
    let gens = copies.each_ref().map(|copy| copy.as_ref().map(|block| be64(block, 96)));
    let newest = gens.iter().flatten().max().copied().expect("a superblock");
    let superblocks = gens.map(|gen| match gen {
        Some(gen) if gen == newest => "ok",
        Some(_) => "lags",
        None => "bad",
    });
    let newer = if superblocks[0] == "ok" { 0 } else { 1 };
    let superblock = copies.into_iter().nth(newer).flatten().unwrap();
    let count = be32(&superblock, 16) as usize;
    let arenas = (0..count).map(|index| arena(image, &superblock, index, newest)).collect();
    State { superblock, superblocks, qgen: newest, arenas }
}

fn arena(image: &Scratch, superblock: &[u8], index: usize, qgen: u64) -> Arena {
    let entry = 104 + 16 * index;
    let (addr, hash) = (be64(superblock, entry), be64(superblock, entry + 8));
    let copies = [image.read(addr), image.read(addr + BLOCK_LEN)];
    let primary = hash64(&copies[0]) == hash;
    let header = copies.into_iter().find(|copy| hash64(copy) == hash).expect("a header");
    let size = be64(&header, 18);
    let free = vec![false; (size / BLOCK_LEN) as usize];
    let mut arena = Arena { addr, size, primary, free, log: Vec::new(), barrier_at: None, header };
    replay(image, &mut arena, qgen);
    arena
}

fn replay(image: &Scratch, arena: &mut Arena, qgen: u64) {
    let mut next = be64(&arena.header, 2);
    while next != NONE {
        let block = image.read(next);
        arena.log.push(next);
        next = be64(&block, 12);
        let end = 36 + be16(&block, 2);
        assert_eq!((be16(&block, 0), hash64(&block[36..end])), (3, be64(&block, 4)), "log block");
        let mut at = 36;
        while at < end {
            let word = be64(&block, at);
            let addr = word & !0xff;
            match word as u8 {
                3 if word >> 8 >= qgen => {
                    arena.barrier_at = Some(at);
                    return;
                }
                3 => {}
                op @ (1 | 2) => arena.set(addr, BLOCK_LEN, op == 2),
                op @ (4 | 5) => arena.set(addr, be64(&block, at + 8), op == 5),
                op => panic!("log operation {op}"),
            }
            at += if word as u8 > 3 { 16 } else { 8 };
        }
    }
}

impl Arena {
    pub fn set(&mut self, addr: u64, len_bytes: u64, free: bool) {
        let first = (addr - self.addr - 2 * BLOCK_LEN) as usize / BLOCK;
        for block in &mut self.free[first..][..len_bytes as usize / BLOCK] {
            assert_ne!(*block, free, "allocated or freed twice: {addr:#x}");
            *block = free;
        }
    }

    pub fn free_bytes(&self) -> u64 {
        self.free.iter().filter(|free| **free).count() as u64 * BLOCK_LEN
    }
}

impl State {
    pub fn free_bytes(&self) -> u64 {
        self.arenas.iter().map(Arena::free_bytes).sum()
    }

    /// What `info --json` prints, but for the superblocks, where it has more to say.
    fn json(&self) -> Value {
        let arena = |arena: &Arena| {
            json!({
                "addr": arena.addr,
                "size": arena.size,
                "free": arena.free_bytes(),
                "log_blocks": arena.log.len(),
                "header": if arena.primary { "primary" } else { "backup" },
            })
        };
        json!({
            "format": "gefs9.00",
            "block_size": BLOCK,
            "qgen": self.qgen,
            "root": {
                "addr": be64(&self.superblock, 24),
                "hash": format!("{:016x}", be64(&self.superblock, 32)),
                "height": be32(&self.superblock, 20),
            },
            "arenas": self.arenas.iter().map(arena).collect::<Vec<_>>(),
            "free": self.free_bytes(),
        })
    }

    /// Fails unless `info` said just this.
    pub fn check(&self, mut info: Value, context: &str) {
        let superblocks = info.as_object_mut().unwrap().remove("superblocks").unwrap();
        for (copy, want) in self.superblocks.iter().enumerate() {
            let said = superblocks[copy].as_str().unwrap();
            match *want {
                "ok" => assert_eq!(said, "ok", "superblock {copy}, {context}"),
                "lags" => assert!(said.starts_with("lags behind at generation "), "{said}, {context}"),
                _ => assert!(said != "ok" && !said.starts_with("lags"), "{said}, {context}"),
            }
        }
        assert_eq!(superblocks.as_array().unwrap().len(), 2);
        assert_eq!(info, self.json(), "{context}");
    }
}
