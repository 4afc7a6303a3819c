//! Which block of a recorded disk is what.

use super::{End, Lane, Write};
use arenite_core::format::{
    probe_block_size, BlockSize, DeadListBlock, Leaf, LogBlock, LogEntry, Pivot, Superblock, SUPERBLOCK_FRONT_LEN,
};
use arenite_shim::trace::{Event, Trace};
use std::collections::BTreeSet;

/// The places of a volume that have a meaning of their own.
pub(super) struct Geometry {
    size: BlockSize,
    second: u64,
    /// Where arenas begin.
    arenas: BTreeSet<u64>,
    /// The generation that the disk has before the first write.
    pub(super) before: Option<u64>,
}

/// The superblock in some bytes.
fn superblock(bytes: &[u8]) -> Option<Superblock<'_>> {
    let size = probe_block_size(bytes).ok()?;
    let front = bytes.get(..size.len_bytes().max(SUPERBLOCK_FRONT_LEN)).or_else(|| bytes.get(..size.len_bytes()));
    Superblock::decode_front(front?).ok()
}

impl Geometry {
    /// Looks for superblocks on the disk as it was, and in what was written to its beginning. The second superblock
    /// moves when a volume grows; the disk of a trace has one length, so one place is enough.
    pub(super) fn of(trace: &Trace) -> Option<Self> {
        let len_bytes = trace.base.len() as u64;
        let base = superblock(&trace.base);
        let written = trace.events.iter().filter_map(|event| match event {
            Event::Issue { addr: 0, bytes, .. } => superblock(bytes),
            _ => None,
        });
        let known: Vec<_> = base.into_iter().chain(written).collect();
        let size = known.first()?.head().block_size;
        let second = (len_bytes - len_bytes % size.len_u64()).saturating_sub(size.len_u64());
        let arenas = known.iter().flat_map(|block| block.arenas().map(|arena| arena.header_addr)).collect();
        Some(Self { size, second, arenas, before: base.map(|block| block.head().qgen) })
    }

    /// Cuts a write at the borders of blocks, and joins what goes to one lane.
    pub(super) fn split(&self, addr: u64, bytes: &[u8], issued: usize, writes: &mut Vec<Write>) {
        let unit = self.size.len_u64();
        let first = writes.len();
        let (mut addr, mut rest) = (addr, bytes);
        while !rest.is_empty() {
            let to_border = usize::try_from(unit - addr % unit).unwrap_or(usize::MAX);
            let (block, behind) = rest.split_at(rest.len().min(to_border));
            let (lane, what, generation) = self.judge(addr, block);
            let joins = writes[first..].last().is_some_and(|last| last.lane == Lane::Data && lane == Lane::Data);
            match writes.last_mut().filter(|_| joins) {
                Some(last) => {
                    last.len_bytes += block.len() as u64;
                    last.what = format!("{} blocks", last.len_bytes.div_ceil(unit));
                }
                None => {
                    let len_bytes = block.len() as u64;
                    writes.push(Write { lane, addr, len_bytes, what, generation, issued, end: End::Never });
                }
            }
            // A trace may say anything.
            addr = addr.wrapping_add(block.len() as u64);
            rest = behind;
        }
    }

    /// Lane and description of a block, and the generation if it is a superblock.
    fn judge(&self, addr: u64, block: &[u8]) -> (Lane, String, Option<u64>) {
        let unit = self.size.len_u64();
        if addr == 0 || addr == self.second {
            let lane = if addr == 0 { Lane::SuperA } else { Lane::SuperB };
            let generation = superblock(block).map(|found| found.head().qgen);
            let what = generation.map_or_else(|| "no superblock".to_owned(), |gen| format!("gen {gen}"));
            return (lane, what, generation);
        }
        for (base, lane) in [(Some(addr), Lane::HeaderA), (addr.checked_sub(unit), Lane::HeaderB)] {
            if let Some(index) = base.and_then(|base| self.arenas.iter().position(|arena| *arena == base)) {
                return (lane, format!("arena {index}"), None);
            }
        }
        if let Ok(log) = LogBlock::decode(block, self.size) {
            let barrier = log.entries().filter_map(|entry| match entry {
                Ok(LogEntry::Barrier { gen }) => Some(gen),
                _ => None,
            });
            let what = barrier.last().map_or_else(|| "log".to_owned(), |gen| format!("barrier {gen}"));
            return (Lane::Log, what, None);
        }
        (Lane::Data, self.contents(block).to_owned(), None)
    }

    fn contents(&self, block: &[u8]) -> &'static str {
        if Leaf::parse(block, self.size).is_ok() {
            "leaf"
        } else if Pivot::parse(block, self.size).is_ok() {
            "pivot"
        } else if DeadListBlock::decode(block, self.size).is_ok() {
            "dead list"
        } else {
            "data"
        }
    }
}
