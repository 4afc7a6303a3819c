//! Which block was met on the way, and how; in the end, whether that agrees with the free space.

use super::report::{Blocks, Report};
use crate::progress::Progress;
use arenite_core::format::BlockSize;
use arenite_core::{ArenaInfo, BlockPtr, Store};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

/// What a block is to whoever led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Part of a tree.
    Node,
    /// Bytes of a user, or pointers to them.
    Data,
    /// Block of a dead list.
    DeadList,
}

/// How a block was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    /// It is part of the volume's content. The number is that of the last tree it was met in.
    Live { role: Role, hash: u64, tree: u32 },
    /// It is in use for a reason that will pass: on a dead list, or replaced by a message that is not applied yet.
    Waiting { dead: bool },
}

/// What is to be done with a block that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Verify it, and go on below it.
    New,
    /// An earlier tree has the same block; what it leads to belongs to this tree too.
    Shared,
    /// Something is wrong, and was reported.
    Stop,
}

/// All blocks that were met, by address.
pub(super) struct Ledger<'s, 'd, 'm> {
    store: &'s Store<'d, 'm>,
    met: HashMap<u64, Met>,
    progress: &'s Progress,
}

impl<'s, 'd, 'm> Ledger<'s, 'd, 'm> {
    pub(super) fn new(store: &'s Store<'d, 'm>, progress: &'s Progress) -> Self {
        Self { store, met: HashMap::new(), progress }
    }

    pub(super) fn block_size(&self) -> BlockSize {
        self.store.block_size()
    }

    /// Notes that a pointer leads to a block. Within one tree there is only one way to each block; trees share blocks.
    pub(super) fn meet(&mut self, ptr: BlockPtr, role: Role, tree: u32, report: &mut Report) -> Next {
        let BlockPtr { addr, hash, .. } = ptr;
        match self.store.is_free(addr) {
            Err(_) => {
                report.find(addr, "reachable, but no block of any arena".to_owned());
                return Next::Stop;
            }
            Ok(true) => report.find(addr, "reachable, but free".to_owned()),
            Ok(false) => {}
        }
        let now = Met::Live { role, hash, tree };
        match self.met.entry(addr) {
            Entry::Vacant(entry) => {
                entry.insert(now);
                self.progress.advance(1);
                Next::New
            }
            Entry::Occupied(mut entry) => match *entry.get() {
                Met::Waiting { .. } => {
                    entry.insert(now);
                    Next::New
                }
                Met::Live { tree: other, .. } if other == tree => {
                    report.find(addr, "reachable twice in one tree".to_owned());
                    Next::Stop
                }
                Met::Live { role: other, .. } if other != role => {
                    report.find(addr, format!("reachable as {other:?} and as {role:?}"));
                    Next::Stop
                }
                Met::Live { hash: other, .. } => {
                    entry.insert(now);
                    if other == hash {
                        Next::Shared
                    } else {
                        Next::New
                    }
                }
            },
        }
    }

    /// Notes a block that a message has replaced, and that is freed when the message is applied.
    pub(super) fn replaced(&mut self, addr: u64) {
        self.met.entry(addr).or_insert(Met::Waiting { dead: false });
    }

    /// Notes a block that a dead list names. To be called after all trees were walked.
    pub(super) fn dead(&mut self, addr: u64, lists: &mut HashSet<u64>, report: &mut Report) {
        match self.store.is_free(addr) {
            Err(_) => return report.find(addr, "on a dead list, but no block of any arena".to_owned()),
            Ok(true) => report.find(addr, "on a dead list, but free".to_owned()),
            Ok(false) => {}
        }
        if !lists.insert(addr) {
            report.find(addr, "on two dead lists".to_owned());
        }
        self.met.entry(addr).or_insert(Met::Waiting { dead: true });
    }

    /// Compares what was met with the free space, and counts.
    pub(super) fn settle(&self, logs: &HashSet<u64>, report: &mut Report) {
        let unit = self.store.block_size().len_u64();
        let mut arenas: Vec<Extent> =
            (0..).map_while(|index| self.store.arena(index)).map(|arena| Extent::new(&arena, unit)).collect();
        let mut blocks = Blocks { log: logs.len() as u64, ..Blocks::default() };
        for addr in logs {
            if let Some(arena) = Extent::of(&mut arenas, *addr) {
                // The log may be in one of the last two.
                arena.explained += u64::from(*addr < arena.spares);
            }
        }
        for (addr, met) in &self.met {
            match met {
                Met::Live { .. } => blocks.reachable += 1,
                Met::Waiting { dead: true } => blocks.dead += 1,
                Met::Waiting { dead: false } => blocks.replaced += 1,
            }
            let live = matches!(met, Met::Live { .. });
            let Some(arena) = Extent::of(&mut arenas, *addr) else { continue };
            match (logs.contains(addr), *addr >= arena.spares) {
                (true, _) if live => report.find(*addr, "reachable, but a block of a log".to_owned()),
                (_, true) if live => report.find(*addr, "reachable, but one of the two at the arena's end".to_owned()),
                (false, false) => arena.explained += u64::from(self.store.is_free(*addr) == Ok(false)),
                _ => {}
            }
        }
        let in_spares = |addr: &u64| Extent::of(&mut arenas, *addr).is_some_and(|arena| *addr >= arena.spares);
        let spare_logs = logs.iter().copied().filter(in_spares).count();
        blocks.spare = (2 * arenas.len() - spare_logs) as u64;
        let mut lost = Vec::new();
        for arena in &arenas {
            blocks.total += arena.count;
            blocks.free += arena.free;
            let used = arena.count.saturating_sub(arena.free + 2);
            let unreachable = used.saturating_sub(arena.explained);
            if unreachable > 0 && report.complete {
                blocks.unreachable += unreachable;
                self.find_lost(arena, unit, logs, &mut lost);
            }
        }
        report.unreachable(&lost, blocks.unreachable, unit);
        report.blocks = Some(blocks);
    }

    /// Looks at every block of an arena for those that are in use without a reason: runs of (address, number).
    fn find_lost(&self, arena: &Extent, unit: u64, logs: &HashSet<u64>, lost: &mut Vec<(u64, u64)>) {
        for addr in (arena.first..arena.spares).step_by(unit as usize) {
            if self.store.is_free(addr) == Ok(true) || self.met.contains_key(&addr) || logs.contains(&addr) {
                continue;
            }
            match lost.last_mut() {
                Some((start, len)) if *start + *len * unit == addr => *len += 1,
                _ => lost.push((addr, 1)),
            }
        }
    }
}

/// The blocks of one arena.
struct Extent {
    /// Byte address of its first block.
    first: u64,
    /// Byte address of the two that are never handed out.
    spares: u64,
    count: u64,
    free: u64,
    /// Blocks in use, without the last two, of which it is known why.
    explained: u64,
}

impl Extent {
    fn new(arena: &ArenaInfo, unit: u64) -> Self {
        let first = arena.addr + 2 * unit;
        let (count, free) = (arena.size_bytes / unit, arena.free_bytes / unit);
        Self { first, spares: first + count.saturating_sub(2) * unit, count, free, explained: 0 }
    }

    fn of(arenas: &mut [Self], addr: u64) -> Option<&mut Self> {
        let behind = arenas.partition_point(|arena| arena.first <= addr);
        arenas.get_mut(behind.checked_sub(1)?)
    }
}
