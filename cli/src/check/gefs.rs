//! The trees of the original: a tree of snapshots, and under it a tree of files for each of them.
//!
//! ```text
//!   key in the tree of snapshots      value
//!   3 label                           4 snapshot[8] flags[4]
//!   4 snapshot[8]                     references[4] labels[4] height[4] flags[4] four generations[32] root[24]
//!   5 snapshot[8] generation[8]       newest block of a dead list[24] oldest[24]
//!
//!   key in a tree of files            value
//!   0 file[8] offset[8]               pointer to a data block[24]
//!   1 directory[8] name               what is known of a file          no pointers
//!   2 file[8]                         where it is                      no pointers
//!
//!   message    1 insert   2 delete   3 clear a data block   4, 5 to entries of directories
//! ```
//! This was found by looking at volumes that the original wrote: so read, every block that these trees lead to is in
//! use and has the right hash. What is not in this list makes the walk incomplete, and is said in the report.
//!
//! Blocks that a message has replaced are in use until the message is applied; blocks on a dead list, until a snapshot
//! goes away. Blocks of dead lists are not hashed as a whole: their entries are.

use super::ledger::{Ledger, Next, Role};
use super::nodes::{verify, Item, Root, Walk};
use super::report::Report;
use crate::image::Image;
use arenite_core::format::{BlockSize, DeadListBlock, FormatError, RawPtr, NONE};
use arenite_core::{BlockPtr, Store};
use std::collections::{BTreeMap, HashSet};

const KEY_DATA: u8 = 0;
const KEY_ENTRY: u8 = 1;
const KEY_PARENT: u8 = 2;
const KEY_LABEL: u8 = 3;
const KEY_SNAPSHOT: u8 = 4;
const KEY_DEAD: u8 = 5;
const OP_INSERT: u8 = 1;
const OP_DELETE: u8 = 2;
const OP_CLEAR: u8 = 3;

/// What the ledger knows all dead lists as.
const DEAD_LISTS: u32 = u32::MAX;

const DATA_KEY_LEN: usize = 17;
const LABEL_LEN: usize = 13;
const SNAPSHOT_LEN: usize = 72;
const DEAD_LEN: usize = 48;
const AT_LABELS: usize = 4;
const AT_HEIGHT: usize = 8;
const AT_FLAGS: usize = 12;
const AT_ROOT: usize = 48;

/// Whether the first item of the first leaf is one of a tree of snapshots.
pub(super) fn begins_with(key: &[u8], value: &[u8]) -> bool {
    match (key, value.len()) {
        ([KEY_LABEL, ..], LABEL_LEN) => value[0] == KEY_SNAPSHOT,
        ([KEY_SNAPSHOT, rest @ ..], SNAPSHOT_LEN) => rest.len() == 8,
        _ => false,
    }
}

/// One snapshot, as the tree of snapshots has it.
struct Snapshot {
    labels: u32,
    flags: u32,
    root: Root,
}

/// What the tree of snapshots says.
#[derive(Default)]
struct Snapshots {
    trees: BTreeMap<Vec<u8>, Snapshot>,
    /// Newest and oldest block of each dead list.
    dead: Vec<[u64; 2]>,
    /// Something is not understood.
    strange: Option<String>,
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

impl Snapshots {
    fn strange(&mut self, item: &Item<'_>) {
        let kind = item.key.first().copied().unwrap_or(0);
        self.strange.get_or_insert_with(|| match item.op {
            Some(op) => format!("message {op} for a key of type {kind} in the tree of snapshots"),
            None => format!("key of type {kind} with a value of {} bytes in the tree of snapshots", item.value.len()),
        });
    }

    fn take(&mut self, item: &Item<'_>) {
        match (item.op, item.counts) {
            (None | Some(OP_INSERT | OP_DELETE), false) | (Some(OP_DELETE), true) => {}
            (None | Some(OP_INSERT), true) => {
                if self.decode(item).is_none() {
                    self.strange(item);
                }
            }
            _ => self.strange(item),
        }
    }

    fn decode(&mut self, item: &Item<'_>) -> Option<()> {
        let value = item.value;
        match (item.key.first()?, value.len()) {
            (&KEY_LABEL, LABEL_LEN) => {}
            (&KEY_SNAPSHOT, SNAPSHOT_LEN) => {
                let ptr = BlockPtr::from_raw(RawPtr::decode(value, AT_ROOT)?)?;
                let height = be32(value, AT_HEIGHT)?;
                // The tree of snapshots itself is number 1.
                let tree = u32::try_from(self.trees.len()).ok()?.checked_add(2)?;
                let (labels, flags) = (be32(value, AT_LABELS)?, be32(value, AT_FLAGS)?);
                self.trees.insert(item.key.to_vec(), Snapshot { labels, flags, root: Root { ptr, height, tree } });
            }
            (&KEY_DEAD, DEAD_LEN) => {
                let (newest, oldest) = (RawPtr::decode(value, 0)?, RawPtr::decode(value, RawPtr::LEN_BYTES)?);
                self.dead.push([newest.addr, oldest.addr]);
            }
            _ => return None,
        }
        Some(())
    }
}

/// Walks the tree of snapshots, and all that it leads to.
pub(super) fn walk<'s, 'd, 'm>(
    image: &Image,
    store: &'s Store<'d, 'm>,
    ledger: &mut Ledger<'s, 'd, 'm>,
    report: &mut Report,
    ptr: BlockPtr,
    height: u32,
) {
    report.complete = true;
    let mut snapshots = Snapshots::default();
    let mut take = |item: &Item<'_>, _: &mut Ledger<'s, 'd, 'm>, _: &mut Report| snapshots.take(item);
    Walk { store, ledger, report, visit: &mut take }.tree(Root { ptr, height, tree: 1 });
    for snapshot in snapshots.trees.values() {
        if snapshot.labels == 0 || snapshot.flags != 0 {
            // It may be about to be deleted.
            let (addr, flags) = (snapshot.root.ptr.addr, snapshot.flags);
            snapshots.strange.get_or_insert(format!("snapshot at {addr:#x} with flags {flags:#x} or without a label"));
            continue;
        }
        report.snapshots += 1;
        files(store, ledger, report, snapshot.root);
    }
    let roots = store.roots();
    let mut lists = snapshots.dead;
    lists.push([roots.deadlist_head.addr, roots.deadlist_tail.addr]);
    let mut named = HashSet::new();
    for [newest, oldest] in lists {
        dead_list(image, ledger, report, [newest, oldest], &mut named);
    }
    if let Some(what) = snapshots.strange {
        report.complete = false;
        report.notes.push(format!("tree: not walked to the end: {what}"));
    }
}

/// Walks one tree of files, and reads its data.
fn files<'s, 'd, 'm>(store: &'s Store<'d, 'm>, ledger: &mut Ledger<'s, 'd, 'm>, report: &mut Report, root: Root) {
    let mut strange = None;
    let mut take = |item: &Item<'_>, ledger: &mut Ledger<'s, 'd, 'm>, report: &mut Report| {
        let ptr = RawPtr::decode(item.value, 0).filter(|_| item.value.len() == RawPtr::LEN_BYTES);
        match (item.key.first(), item.op, ptr) {
            (Some(&(KEY_ENTRY | KEY_PARENT)), ..) => {}
            (Some(&KEY_DATA), None | Some(OP_INSERT), Some(ptr)) if item.key.len() == DATA_KEY_LEN => {
                match BlockPtr::from_raw(ptr) {
                    None => {}
                    Some(ptr) if item.counts => data(store, ledger, report, ptr, root.tree),
                    Some(ptr) => ledger.replaced(ptr.addr),
                }
            }
            (Some(&KEY_DATA), Some(OP_DELETE | OP_CLEAR), _) if item.key.len() == DATA_KEY_LEN => {}
            (kind, op, _) => {
                strange.get_or_insert(format!("type {kind:?} of a key with operation {op:?} in a tree of files"));
            }
        }
    };
    Walk { store, ledger, report, visit: &mut take }.tree(root);
    if let Some(what) = strange {
        report.complete = false;
        report.notes.push(format!("tree: not walked to the end: {what}"));
    }
}

fn data<'s, 'd, 'm>(
    store: &'s Store<'d, 'm>,
    ledger: &mut Ledger<'s, 'd, 'm>,
    report: &mut Report,
    ptr: BlockPtr,
    tree: u32,
) {
    if ledger.meet(ptr, Role::Data, tree, report) == Next::New && verify(store, ptr, report) {
        report.data += 1;
    }
}

/// Goes through a dead list, from the newest block to the oldest.
fn dead_list(
    image: &Image,
    ledger: &mut Ledger<'_, '_, '_>,
    report: &mut Report,
    [newest, oldest]: [u64; 2],
    named: &mut HashSet<u64>,
) {
    let size = ledger.block_size();
    let mut page = vec![0; size.len_bytes()];
    let mut addr = newest;
    while addr != NONE {
        // Nothing names the hash of the whole block. To the ledger all lists are one tree, so that a circle ends.
        let ptr = BlockPtr { addr, hash: NONE, gen: NONE };
        let next = match (ledger.meet(ptr, Role::DeadList, DEAD_LISTS, report), image.read(&mut page, addr)) {
            (Next::Stop, _) => None,
            (_, Err(error)) => {
                report.find(addr, format!("block of a dead list: {error}"));
                None
            }
            (_, Ok(())) => dead_block(&page, size, ledger, report, named)
                .map_err(|error| report.find(addr, format!("block of a dead list: {error}")))
                .ok(),
        };
        match next {
            Some(_) if addr == oldest => return,
            Some(next) => addr = next,
            None => {
                report.complete = false;
                return;
            }
        }
    }
}

/// Notes what one block of a dead list names, and returns the address of the next older block.
fn dead_block(
    page: &[u8],
    size: BlockSize,
    ledger: &mut Ledger<'_, '_, '_>,
    report: &mut Report,
    named: &mut HashSet<u64>,
) -> Result<u64, FormatError> {
    let block = DeadListBlock::decode(page, size)?;
    for addr in block.addrs() {
        ledger.dead(addr?, named, report);
    }
    Ok(block.chain())
}
