//! `arenite dump`: what the blocks of a volume hold.
//!
//! Nothing is mounted. Blocks are read from the image and decoded one by one, as far as pointers can be followed, so a
//! volume that cannot be mounted any more can still be looked at, and what is wrong is shown where it is.
//!
//! ```text
//!   dump IMAGE        superblocks --> headers of each arena --> its log, block by block
//!   dump IMAGE ADDR   the block at ADDR
//! ```

mod block;
mod text;

pub(crate) use block::Kind;

use crate::failure::Failure;
use crate::image::Image;
use crate::place::Place;
use crate::render::pretty;
use crate::volume::long_enough;
use arenite_core::format::{
    probe_block_size, ArenaHeader, ArenaRef, BlockSize, Extension, LogBlock, LogSeal, SuperHead, Superblock, NONE,
};
use arenite_core::hash::hash64;
use block::{Body, Decoded, What};
use serde::Serialize;
use std::collections::HashSet;

/// Block sizes, for when the first superblock does not tell.
const SIZES: [u32; 6] = [2048, 4096, 8192, 16384, 32768, 65536];

/// What the user asks for.
pub(crate) struct Request {
    pub(crate) addr: Option<u64>,
    pub(crate) kind: Option<Kind>,
    pub(crate) block_size: Option<BlockSize>,
    pub(crate) json: bool,
    pub(crate) no_lock: bool,
}

/// Everything that leads to the tree.
#[derive(Debug, Serialize)]
struct VolumeDump {
    superblocks: Vec<Decoded>,
    arenas: Vec<ArenaDump>,
}

#[derive(Debug, Serialize)]
struct ArenaDump {
    addr: u64,
    /// Which copy of the header the superblock names: the first, the second, or none.
    header: Option<u32>,
    headers: Vec<Decoded>,
    /// Where the log ends: a block, and the byte in it behind the last entry that counts.
    log_end: Option<LogEnd>,
    log: Vec<Decoded>,
    /// What kept the log from being followed to its end.
    damage: Option<String>,
}

#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
struct LogEnd {
    addr: u64,
    at: usize,
}

/// An image with the size of its blocks, and the superblock to go by.
struct Source {
    image: Image,
    size: BlockSize,
    newest: Option<Newest>,
}

/// The newest good superblock.
struct Newest {
    head: SuperHead,
    /// Whether the extensions of the headers are current.
    ours: bool,
    arenas: Vec<ArenaRef>,
}

/// Reads and decodes; returns the text and whether a superblock is good.
pub(crate) fn run(place: &Place, request: &Request) -> Result<(String, bool), Failure> {
    let image = Image::open_unused(place, request.no_lock).map_err(|error| Failure::no_volume(error.to_string()))?;
    long_enough(&image).map_err(|error| Failure::no_volume(error.to_string()))?;
    let source = Source::new(image, request.block_size)?;
    let good = source.newest.is_some();
    let text = match request.addr {
        Some(addr) => {
            let block = source.block(addr, request.kind)?;
            if request.json {
                pretty(&block)
            } else {
                text::block(&block)
            }
        }
        None => {
            let volume = source.volume();
            if request.json {
                pretty(&volume)
            } else {
                text::volume(&volume)
            }
        }
    };
    Ok((text, good || request.addr.is_some()))
}

impl Source {
    fn new(image: Image, wanted: Option<BlockSize>) -> Result<Self, Failure> {
        let mut source = Self { image, size: BlockSize::ORIGINAL, newest: None };
        let said = source.read(0, BlockSize::MIN).ok().and_then(|front| probe_block_size(&front).ok());
        let sizes = match wanted.or(said) {
            Some(size) => vec![size],
            None => SIZES.iter().filter_map(|len| BlockSize::new(*len)).collect(),
        };
        for size in &sizes {
            let second = source.last(*size);
            for addr in [0, second] {
                source.consider(addr, *size);
            }
        }
        match (&source.newest, sizes.as_slice()) {
            (Some(newest), _) => source.size = newest.head.block_size,
            (None, [size]) => source.size = *size,
            (None, _) => {
                return Err(Failure::no_volume(
                    "no copy of the superblock says how large blocks are; --block-size B reads them anyway",
                ));
            }
        }
        Ok(source)
    }

    /// Takes the superblock at an address, if it is good and the newest so far.
    fn consider(&mut self, addr: u64, size: BlockSize) {
        let Ok(page) = self.read(addr, size) else { return };
        let Ok(block) = Superblock::decode(&page) else { return };
        let head = *block.head();
        if self.newest.as_ref().is_none_or(|newest| newest.head.qgen < head.qgen) {
            let ours = matches!(block.extension(), Extension::Ours { .. });
            self.newest = Some(Newest { head, ours, arenas: block.arenas().collect() });
        }
    }

    fn read(&self, addr: u64, size: BlockSize) -> std::io::Result<Vec<u8>> {
        let mut page = vec![0; size.len_bytes()];
        self.image.read(&mut page, addr).map(|()| page)
    }

    /// Byte address of the second superblock.
    fn last(&self, size: BlockSize) -> u64 {
        let len_bytes = self.image.len_bytes();
        (len_bytes - len_bytes % size.len_u64()).saturating_sub(size.len_u64())
    }

    fn decode(&self, addr: u64, base: u64, kind: Kind) -> Decoded {
        match self.read(addr, self.size) {
            Ok(page) => Decoded::new(&page, self.size, addr, base, Some(kind)),
            Err(error) => Decoded::unread(addr, kind, &error),
        }
    }

    /// One block that the user asks for.
    fn block(&self, addr: u64, kind: Option<Kind>) -> Result<Decoded, Failure> {
        let (unit, end) = (self.size.len_u64(), self.image.len_bytes());
        if !self.size.divides(addr) {
            let before = addr - addr % unit;
            return Err(Failure::new(format!(
                "no block begins at {addr:#x}: blocks have {unit} bytes; the one around it begins at {before:#x}"
            )));
        }
        if addr.checked_add(unit).is_none_or(|behind| behind > end) {
            return Err(Failure::new(format!("no block at {addr:#x}: the image ends at {end:#x}")));
        }
        let mut bases = self.newest.iter().flat_map(|newest| newest.arenas.iter().map(|arena| arena.header_addr));
        let base = bases.rfind(|base| *base == addr || base.checked_add(unit) == Some(addr));
        let known = match base {
            Some(_) => Some(Kind::Header),
            None if addr == 0 || addr == self.last(self.size) => Some(Kind::Superblock),
            None => None,
        };
        let page = self.read(addr, self.size).map_err(|error| Failure::no_volume(error.to_string()))?;
        Ok(Decoded::new(&page, self.size, addr, base.unwrap_or(addr), kind.or(known)))
    }

    fn volume(&self) -> VolumeDump {
        let superblocks = [0, self.last(self.size)].map(|addr| self.decode(addr, addr, Kind::Superblock)).into();
        let arenas = self.newest.iter().flat_map(|newest| newest.arenas.iter().map(|arena| self.arena(*arena, newest)));
        VolumeDump { superblocks, arenas: arenas.collect() }
    }

    fn arena(&self, arena: ArenaRef, newest: &Newest) -> ArenaDump {
        let (base, wanted) = (arena.header_addr, arena.header_hash);
        let unit = self.size.len_u64();
        let places = [base, base.saturating_add(unit)];
        let pages = places.map(|addr| self.read(addr, self.size).ok());
        let named = pages.iter().position(|page| page.as_ref().is_some_and(|page| hash64(page) == wanted));
        // Without the copy that counts, the other may still lead to a log.
        let decoded = |page: &Option<Vec<u8>>| ArenaHeader::decode(page.as_ref()?, self.size, base).ok();
        let header = match named {
            Some(copy) => decoded(&pages[copy]),
            None => pages.iter().find_map(decoded),
        };
        let mut dump = ArenaDump {
            addr: base,
            header: named.map(|copy| copy as u32 + 1),
            headers: places.map(|addr| self.decode(addr, base, Kind::Header)).into(),
            log_end: None,
            log: Vec::new(),
            damage: None,
        };
        match header {
            Some(header) => {
                let seal = header.seal.filter(|_| newest.ours);
                let most = header.size_bytes / unit;
                self.log(&mut dump, header.log_head.addr, most, seal.as_ref(), newest.head.qgen);
            }
            None => dump.damage = Some("no copy of the header leads to a log".to_owned()),
        }
        dump
    }

    /// Follows the chain of a log: as many blocks as the seal says; without one, to the barrier of the commit.
    fn log(&self, dump: &mut ArenaDump, head: u64, most: u64, seal: Option<&LogSeal>, qgen: u64) {
        let (mut addr, mut seen) = (head, HashSet::new());
        let most = seal.map_or(most, |seal| u64::from(seal.blocks));
        while addr != NONE && (dump.log.len() as u64) < most {
            if !seen.insert(addr) {
                dump.damage = Some(format!("the chain comes back to {addr:#x}"));
                return;
            }
            let next = self.read(addr, self.size).ok();
            let next = next.and_then(|page| LogBlock::decode(&page, self.size).ok().map(|block| block.chain()));
            dump.log.push(self.decode(addr, addr, Kind::Log));
            let Some(next) = next else {
                dump.damage = Some(format!("the log cannot be followed beyond {addr:#x}"));
                return;
            };
            let ends = dump.log.last().and_then(|block| barrier(block, seal, qgen));
            if dump.log_end.is_none() && seal.is_none_or(|seal| seal.tail_addr == addr) {
                dump.log_end = ends;
            }
            addr = next;
        }
        if let Some(seal) = seal.filter(|seal| (dump.log.len() as u64) < u64::from(seal.blocks)) {
            dump.damage = Some(format!("the chain ends after {} of {} blocks", dump.log.len(), seal.blocks));
        }
    }
}

/// Where the log ends, if it ends in this block: behind the last barrier of the sealed generation, or behind the first
/// that is not older than the commit.
fn barrier(block: &Decoded, seal: Option<&LogSeal>, qgen: u64) -> Option<LogEnd> {
    let Body::Log { entries, .. } = &block.body else { return None };
    let ends = |gen: u64| seal.map_or(gen >= qgen, |seal| gen == seal.gen);
    let mut found = entries.iter().filter(|entry| matches!(entry.what, What::Barrier { gen } if ends(gen)));
    let entry = if seal.is_some() { found.next_back() } else { found.next() };
    entry.map(|entry| LogEnd { addr: block.addr, at: entry.at + 8 })
}
