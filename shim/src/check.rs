//! A check of a whole volume, written without the store: it reads the bytes with the codecs only.
//!
//! What the allocation logs say is compared with what the caller can reach: every block of an arena must be either free
//! or exactly one of reachable, part of a log, or one of the two at the arena's end that are never handed out.
//!
//! The core has a check of its own. That there are two on purpose is what makes either a test of the other: where a
//! store is mounted, its check must find nothing that this one does not.
#![forbid(unsafe_code)]

use crate::image::ReadAt;
use arenite_core::format::{
    chain_digest, probe_block_size, restore_sealed, ArenaHeader, BlockSize, Extension, FormatError, LogBlock, LogEntry,
    LogSeal, SuperHead, Superblock, CHAIN_DIGEST_START, NONE,
};
use arenite_core::hash::hash64;
use arenite_core::{BlockPtr, DeviceError, Error, Finding, Store};
use std::collections::BTreeSet;

/// How the end of a log is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// By the seal in the arena header where it is current, else as in `Bare`.
    Sealed,
    /// As the original does: the first barrier of the superblock's generation or a newer one, else the chain's end.
    Bare,
}

/// Why the free space of a volume cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Neither copy is a superblock.
    Superblock,
    /// Reading failed.
    Device(DeviceError),
    /// A block is not what belongs there.
    Format {
        /// Byte address.
        addr: u64,
        /// What is wrong.
        error: FormatError,
    },
    /// Neither copy of the header of the arena at this address is the one that the superblock names.
    Header {
        /// Byte address of the first copy.
        addr: u64,
    },
    /// The log contradicts itself, its seal or its arena in the block at this address.
    Log {
        /// Byte address of the log block.
        addr: u64,
        /// How.
        how: &'static str,
    },
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Superblock => f.write_str("no copy of the superblock is good"),
            Self::Device(error) => error.fmt(f),
            Self::Format { addr, error } => write!(f, "{addr:#x}: {error}"),
            Self::Header { addr } => write!(f, "{addr:#x}: no copy of the arena header is the committed one"),
            Self::Log { addr, how } => write!(f, "{addr:#x}: log {how}"),
        }
    }
}

impl std::error::Error for Unreadable {}

impl From<DeviceError> for Unreadable {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

/// One arena, as its log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawArena {
    /// Byte address of the first header copy.
    pub addr: u64,
    /// Blocks behind the headers, the last two included.
    pub blocks: usize,
    /// Whether each header copy is the committed one.
    pub copies_good: [bool; 2],
    /// Byte addresses of the log blocks, in order.
    pub log: Vec<u64>,
    /// Whether each block is free.
    pub free: Vec<bool>,
}

/// A volume, as its newest good superblock has it.
#[derive(Clone, Debug)]
pub struct RawVolume {
    /// Size of the blocks.
    pub size: BlockSize,
    /// The superblock.
    pub head: SuperHead,
    /// Whether each superblock copy is good and of the newest generation.
    pub copies_good: [bool; 2],
    /// The arenas.
    pub arenas: Vec<RawArena>,
}

impl RawVolume {
    /// Reads superblocks, headers and logs.
    pub fn read(volume: &dyn ReadAt, rule: Rule) -> Result<Self, Unreadable> {
        let pages = superblock_pages(volume)?;
        let decoded = pages.each_ref().map(|page| page.as_deref().and_then(|page| Superblock::decode(page).ok()));
        let newest = decoded.iter().flatten().map(|block| block.head().qgen).max();
        let newest = newest.ok_or(Unreadable::Superblock)?;
        let copies_good = decoded.map(|block| block.is_some_and(|block| block.head().qgen == newest));
        let superblock = decoded.iter().flatten().find(|block| block.head().qgen == newest);
        let superblock = superblock.ok_or(Unreadable::Superblock)?;
        let head = *superblock.head();
        let ours = matches!(superblock.extension(), Extension::Ours { .. }) && rule == Rule::Sealed;
        let reader = Reader { volume, size: head.block_size, generation: head.qgen, ours };
        let arenas = superblock.arenas().map(|entry| reader.arena(entry.header_addr, entry.header_hash));
        Ok(Self { size: head.block_size, head, copies_good, arenas: arenas.collect::<Result<_, _>>()? })
    }

    /// The arena and the number of the block in it that begins at `addr`.
    fn locate(&self, addr: u64) -> Option<(usize, usize)> {
        let len = self.size.len_u64();
        let arena = self.arenas.partition_point(|arena| arena.addr + 2 * len <= addr).checked_sub(1)?;
        let at = ((addr - self.arenas[arena].addr) / len) as usize - 2;
        (addr.is_multiple_of(len) && at < self.arenas[arena].blocks).then_some((arena, at))
    }
}

fn superblock_pages(volume: &dyn ReadAt) -> Result<[Option<Vec<u8>>; 2], Unreadable> {
    let mut front = vec![0; 512];
    volume.read_at(0, &mut front)?;
    // Where the first copy is gone, the second lies in the last block, whatever the size of that is.
    let sizes: Vec<_> = match probe_block_size(&front) {
        Ok(size) => vec![size],
        Err(_) => (11..=16).filter_map(|shift| BlockSize::new(1 << shift)).collect(),
    };
    for size in sizes {
        let len = size.len_u64();
        let Some(last) = (volume.len_bytes() / len).checked_sub(1) else { continue };
        let page = |addr| {
            let mut page = vec![0; size.len_bytes()];
            volume.read_at(addr, &mut page).map(|()| page)
        };
        let pages = [Some(page(0)?), Some(page(last * len)?)];
        let is_good = |page: &Option<Vec<u8>>| {
            let head = page.as_deref().and_then(|page| Superblock::decode(page).ok().map(|block| *block.head()));
            head.is_some_and(|head| head.block_size == size)
        };
        if pages.iter().any(is_good) {
            return Ok(pages);
        }
    }
    Ok([None, None])
}

struct Reader<'a> {
    volume: &'a dyn ReadAt,
    size: BlockSize,
    generation: u64,
    /// The seals in the headers are current.
    ours: bool,
}

impl Reader<'_> {
    fn page(&self, addr: u64) -> Result<Vec<u8>, Unreadable> {
        let mut page = vec![0; self.size.len_bytes()];
        self.volume.read_at(addr, &mut page)?;
        Ok(page)
    }

    fn arena(&self, addr: u64, hash: u64) -> Result<RawArena, Unreadable> {
        let pages = [self.page(addr)?, self.page(addr + self.size.len_u64())?];
        let copies_good = pages.each_ref().map(|page| hash64(page) == hash);
        let which = copies_good.iter().position(|good| *good).ok_or(Unreadable::Header { addr })?;
        let header = ArenaHeader::decode(&pages[which], self.size, addr);
        let header = header.map_err(|error| Unreadable::Format { addr, error })?;
        let blocks = (header.size_bytes / self.size.len_u64()) as usize;
        let mut arena = RawArena { addr, blocks, copies_good, log: Vec::new(), free: vec![false; blocks] };
        self.replay(&header, &mut arena)?;
        Ok(arena)
    }

    fn replay(&self, header: &ArenaHeader, arena: &mut RawArena) -> Result<(), Unreadable> {
        let seal = header.seal.filter(|_| self.ours);
        let mut digest = CHAIN_DIGEST_START;
        let mut next = header.log_head.addr;
        while next != NONE {
            let addr = next;
            let bad = |how| Unreadable::Log { addr, how };
            if arena.log.len() >= arena.blocks {
                return Err(bad("runs in a circle"));
            }
            arena.log.push(addr);
            let mut page = self.page(addr)?;
            if let Some(seal) = seal.filter(|seal| arena.log.len() == seal.blocks as usize) {
                restore_tail(&mut page, self.size, digest, addr, &seal);
            }
            let block = LogBlock::decode(&page, self.size).map_err(|error| Unreadable::Format { addr, error })?;
            digest = chain_digest(digest, addr, block.sum().hash, block.sum().len_bytes);
            let barrier = self.entries(&block, arena, addr, seal.is_some())?;
            next = block.chain();
            let Some(seal) = seal else {
                if barrier.is_some_and(|gen| gen >= self.generation) {
                    break;
                }
                continue;
            };
            if arena.log.len() == seal.blocks as usize {
                let end = (barrier, addr, digest) == (Some(seal.gen), seal.tail_addr, seal.digest);
                return end.then_some(()).ok_or(bad("does not end as its seal says"));
            }
            if next == NONE {
                return Err(bad("is shorter than its seal says"));
            }
        }
        Ok(())
    }

    /// Carries out the entries of one block, and returns the generation of its last barrier. Without a seal, a barrier
    /// of this generation or a newer one is the end.
    fn entries(
        &self,
        block: &LogBlock<'_>,
        arena: &mut RawArena,
        addr: u64,
        sealed: bool,
    ) -> Result<Option<u64>, Unreadable> {
        let mut barrier = None;
        for entry in block.entries() {
            let (start, len, free) = match entry.map_err(|error| Unreadable::Format { addr, error })? {
                LogEntry::Alloc { addr, len_bytes } => (addr, len_bytes, false),
                LogEntry::Free { addr, len_bytes } => (addr, len_bytes, true),
                LogEntry::Barrier { gen } => {
                    barrier = Some(gen);
                    if !sealed && gen >= self.generation {
                        break;
                    }
                    continue;
                }
            };
            let bad = |how| Unreadable::Log { addr, how };
            let unit = self.size.len_u64();
            let first = start.checked_sub(arena.addr + 2 * unit).ok_or(bad("names a block of another arena"))? / unit;
            let range = first as usize..(first + len / unit) as usize;
            for state in arena.free.get_mut(range).ok_or(bad("names a block of another arena"))? {
                if std::mem::replace(state, free) == free {
                    return Err(bad("frees or allocates a block twice"));
                }
            }
        }
        Ok(barrier)
    }
}

/// In the last block of a sealed log only what the seal vouches for counts, whatever length and hash the block claims.
fn restore_tail(page: &mut [u8], size: BlockSize, before: u64, addr: u64, seal: &LogSeal) {
    let as_sealed = LogBlock::decode(page, size)
        .is_ok_and(|block| chain_digest(before, addr, block.sum().hash, block.sum().len_bytes) == seal.digest);
    if !as_sealed {
        // If nothing in it has the digest, the block stays as it is, and is found out by whoever reads it.
        restore_sealed(page, size, before, addr, seal);
    }
}

/// A contradiction between what is reachable and what is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A reachable block is free: it can be overwritten.
    ReachableButFree(u64),
    /// A block is neither free nor reachable: it is lost until somebody frees it.
    UsedButUnreachable(u64),
    /// A block is reachable in two ways.
    ReachedTwice(u64),
    /// A block of a log is reachable, or free.
    LogBlock(u64),
    /// A reachable block is no block of any arena.
    Outside(u64),
    /// One of the two blocks at an arena's end is free.
    TailFree(u64),
    /// The store has the block in another state than its log.
    StoreDiffers(u64),
    /// Here nothing is wrong, but the check of the store finds something.
    StoreFinds(Finding),
    /// Here nothing is wrong, but the check of the store does not come to an end.
    StoreFails(Error),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (addr, what) = match self {
            Self::StoreFinds(finding) => return write!(f, "{:#x}: {finding}", finding.addr()),
            Self::StoreFails(error) => return write!(f, "the check of the store: {error}"),
            Self::ReachableButFree(addr) => (addr, "reachable but free"),
            Self::UsedButUnreachable(addr) => (addr, "in use but unreachable"),
            Self::ReachedTwice(addr) => (addr, "reachable twice"),
            Self::LogBlock(addr) => (addr, "a log block that is reachable or free"),
            Self::Outside(addr) => (addr, "reachable but outside the arenas"),
            Self::TailFree(addr) => (addr, "free although it is never handed out"),
            Self::StoreDiffers(addr) => (addr, "not in the state that the log says"),
        };
        write!(f, "block {addr:#x} is {what}")
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The committed generation.
    pub generation: u64,
    /// Whether each superblock copy is good and of that generation.
    pub superblocks_good: [bool; 2],
    /// Arenas.
    pub arenas: usize,
    /// Arena header copies that are not the committed ones. One of each pair may be, until the next commit repairs it.
    pub stale_headers: usize,
    /// Blocks in all arenas, without the headers.
    pub total_blocks: u64,
    /// Blocks that are free.
    pub free_blocks: u64,
    /// Blocks of the logs.
    pub log_blocks: u64,
    /// Blocks that the caller can reach.
    pub reachable_blocks: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl CheckReport {
    /// Whether nothing is wrong. Second copies that wait for repair are not counted as wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Checks a volume against the byte addresses of all blocks that can be reached in its newest commit, and against the
/// free map of a store that is mounted on it and has changed nothing since.
pub fn check_volume(
    volume: &dyn ReadAt,
    store: Option<&Store<'_, '_>>,
    reachable: impl IntoIterator<Item = u64>,
) -> Result<CheckReport, Unreadable> {
    let raw = RawVolume::read(volume, Rule::Sealed)?;
    let mut report = CheckReport {
        generation: raw.head.qgen,
        superblocks_good: raw.copies_good,
        arenas: raw.arenas.len(),
        stale_headers: raw.arenas.iter().flat_map(|arena| arena.copies_good).filter(|good| !good).count(),
        ..CheckReport::default()
    };
    let reachable: Vec<u64> = reachable.into_iter().collect();
    let mut reached = BTreeSet::new();
    for addr in reachable.iter().copied() {
        report.reachable_blocks += 1;
        match raw.locate(addr) {
            None => report.problems.push(Problem::Outside(addr)),
            Some(_) if !reached.insert(addr) => report.problems.push(Problem::ReachedTwice(addr)),
            Some(_) => {}
        }
    }
    for arena in &raw.arenas {
        check_arena(&raw, arena, store, &reached, &mut report);
    }
    if let Some(store) = store.filter(|_| report.is_clean()) {
        match store_findings(store, &reachable) {
            Ok(findings) => report.problems.extend(findings.into_iter().map(Problem::StoreFinds)),
            Err(error) => report.problems.push(Problem::StoreFails(error)),
        }
    }
    Ok(report)
}

/// What the check of the store finds. Second copies that wait for repair are not wrong.
fn store_findings(store: &Store<'_, '_>, reachable: &[u64]) -> Result<Vec<Finding>, Error> {
    // Where a commit has yet to write its second copies.
    store.settle()?;
    let mut words = vec![0; store.check_words()];
    let mut check = store.check(&mut words)?;
    let ptr = |addr: &u64| BlockPtr { addr: *addr, hash: NONE, gen: NONE };
    let mut findings: Vec<Finding> = reachable.iter().filter_map(|addr| check.visit(ptr(addr)).err()).collect();
    check.finish(&mut |finding| findings.push(finding))?;
    findings.retain(|finding| !matches!(finding, Finding::BadCopy(_)));
    Ok(findings)
}

fn check_arena(
    raw: &RawVolume,
    arena: &RawArena,
    store: Option<&Store<'_, '_>>,
    reached: &BTreeSet<u64>,
    report: &mut CheckReport,
) {
    let log: BTreeSet<_> = arena.log.iter().copied().collect();
    report.total_blocks += arena.blocks as u64;
    report.log_blocks += log.len() as u64;
    for (at, free) in arena.free.iter().copied().enumerate() {
        let addr = arena.addr + (at as u64 + 2) * raw.size.len_u64();
        report.free_blocks += u64::from(free);
        let tail = at + 2 >= arena.blocks;
        let problem = match (reached.contains(&addr), log.contains(&addr)) {
            (true, true) => Some(Problem::LogBlock(addr)),
            (false, true) if free => Some(Problem::LogBlock(addr)),
            (true, false) if free => Some(Problem::ReachableButFree(addr)),
            (false, false) if tail && free => Some(Problem::TailFree(addr)),
            (false, false) if !tail && !free => Some(Problem::UsedButUnreachable(addr)),
            _ => None,
        };
        report.problems.extend(problem);
        if store.is_some_and(|store| store.is_free(addr) != Ok(free)) {
            report.problems.push(Problem::StoreDiffers(addr));
        }
    }
}
