//! Which block was met on the way, and how. Whether that agrees with the free space is for the check of `arenite-core`
//! to say.

use super::report::{finding as finding_of, Blocks, Report};
use crate::progress::Progress;
use arenite_core::format::BlockSize;
use arenite_core::{BlockPtr, Check, Error, Finding, Store};
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
    check: Check<'s, 'd, 'm, 's>,
    met: HashMap<u64, Met>,
    progress: &'s Progress,
}

impl<'s, 'd, 'm> Ledger<'s, 'd, 'm> {
    pub(super) fn new(store: &'s Store<'d, 'm>, check: Check<'s, 'd, 'm, 's>, progress: &'s Progress) -> Self {
        Self { store, check, met: HashMap::new(), progress }
    }

    pub(super) fn block_size(&self) -> BlockSize {
        self.store.block_size()
    }

    /// Notes that a pointer leads to a block. Within one tree there is only one way to each block; trees share blocks.
    pub(super) fn meet(&mut self, ptr: BlockPtr, role: Role, tree: u32, report: &mut Report) -> Next {
        let BlockPtr { addr, hash, .. } = ptr;
        let visited = match self.met.get(&addr) {
            None => self.check.visit(ptr),
            Some(Met::Waiting { .. }) => self.visit_waiting(addr),
            Some(Met::Live { .. }) => Ok(()),
        };
        if let Err(finding) = visited {
            report.find(addr, finding.to_string());
            if matches!(finding, Finding::Outside { .. }) {
                return Next::Stop;
            }
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
        self.wait(addr, Met::Waiting { dead: false });
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
        self.wait(addr, Met::Waiting { dead: true });
    }

    /// The same questions for a block that the check was told of already, for another reason.
    fn visit_waiting(&self, addr: u64) -> Result<(), Finding> {
        match self.store.is_free(addr) {
            Ok(false) => Ok(()),
            Ok(true) => Err(Finding::ReachableButFree { addr }),
            Err(_) => Err(Finding::Outside { addr }),
        }
    }

    /// Notes a block that is in use for a reason that will pass, unless it was met before.
    fn wait(&mut self, addr: u64, met: Met) {
        self.check.explain(addr);
        self.met.entry(addr).or_insert(met);
    }

    /// Compares what was met with logs and free space, and counts.
    pub(super) fn settle(self, report: &mut Report) -> Result<(), Error> {
        let mut blocks = Blocks::default();
        for met in self.met.values() {
            match met {
                Met::Live { .. } => blocks.reachable += 1,
                Met::Waiting { dead: true } => blocks.dead += 1,
                Met::Waiting { dead: false } => blocks.replaced += 1,
            }
        }
        let replaced = |addr| self.met.get(&addr) == Some(&Met::Waiting { dead: false });
        let mut lost = Vec::new();
        let checked = self.check.finish(&mut |finding| match finding {
            Finding::UsedButUnreachable { addr, blocks } => lost.push((addr, u64::from(blocks))),
            // There is a note of it since the volume was mounted.
            Finding::BadCopy(_) => {}
            // A message may name what was freed, and used for something else, since.
            Finding::ReachableLog { addr } if replaced(addr) => {}
            // Mount may have met the same.
            Finding::BadLog(error) => {
                let found = finding_of(error, finding.addr());
                if !report.has_found(found.addr) {
                    report.push(found);
                }
            }
            other => report.find(other.addr(), other.to_string()),
        })?;
        let space = self.store.space();
        (blocks.total, blocks.free) = (space.total_blocks, space.free_blocks);
        (blocks.log, blocks.spare) = (checked.log_blocks, checked.spare_blocks);
        if report.complete {
            blocks.unreachable = checked.unreachable_blocks;
            report.unreachable(&lost, blocks.unreachable, self.store.block_size().len_u64());
        }
        report.blocks = Some(blocks);
        Ok(())
    }
}
