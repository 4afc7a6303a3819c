//! `arenite check`: whether a volume contradicts itself. Never writes to it.
//!
//! ```text
//!   mod      mounts, and calls the rest        gefs      trees of the original, snapshots and dead lists among them
//!   ledger   which block was met, and how      nodes     going through one tree
//!   report   what was found, as text or JSON   catalog   catalogues of `arenite-catalog`
//! ```
//!
//! Mounting checks superblocks, headers and logs, and gives the free space. A walk from the root then meets every block
//! that the structure on top uses, verifies its hash, and tells the check of `arenite-core` of it, which compares
//! that with logs and free space. What that structure is shows in its first leaf; one that is not known is followed
//! only as far as pivots lead, and the report says so.
//!
//! A second copy that is bad or behind is no damage: the next commit repairs it. Nor are blocks that a volume of the
//! original has in use without reaching them: it loses some whenever it is stopped.

mod catalog;
mod gefs;
mod ledger;
mod nodes;
mod report;

pub(crate) use report::Report;

use crate::failure::Failure;
use crate::image::{Image, ImageDevice};
use crate::memory::{with_memory, Job};
use crate::place::Place;
use crate::progress::{Progress, Unit};
use crate::volume::long_enough;
use arenite_core::format::{Leaf, Pivot, RawPtr, NONE};
use arenite_core::{BlockPtr, CopyState, Error, MountOptions, NoInterrupts, Resources, Store};
use ledger::{Ledger, Role};
use report::Tree;

/// Levels of a tree, beyond which a height is not believed.
const MAX_HEIGHT: u32 = 32;

/// Checks a volume; fails if there is none.
pub(crate) fn run(place: &Place, quiet: bool) -> Result<Report, Failure> {
    let image = Image::open_locked(place).map_err(|error| Failure::no_volume(error.to_string()))?;
    long_enough(&image).map_err(|error| Failure::no_volume(error.to_string()))?;
    let attempt = |damaged| {
        let progress = Progress::new(quiet, Unit::Blocks, 0);
        let mut job = Checking { image: &image, damaged, progress: &progress };
        with_memory(image.len_bytes() / 16384, &mut job)
    };
    match attempt(false) {
        Ok(report) => Ok(report),
        // The superblock is good, or the volume would not have been found to be damaged.
        Err(damage @ Error::Corrupt { .. }) => Ok(damaged(damage, attempt(true))),
        Err(damage @ Error::Device { addr, .. }) if addr != 0 => Ok(damaged(damage, attempt(true))),
        Err(error) => Err(Failure::no_volume(error.to_string())),
    }
}

/// The report on a volume that cannot be mounted for writing: what can still be said of it, if anything.
fn damaged(damage: Error, rest: Result<Report, Error>) -> Report {
    let mut report = rest.unwrap_or_else(|_| Report::unmounted());
    let first = report::finding(damage, 0);
    if !report.findings.iter().any(|finding| finding.addr == first.addr) {
        report.push(first);
        report.findings.sort_by_key(|finding| finding.addr);
    }
    report
}

struct Checking<'i> {
    image: &'i Image,
    /// Mount although something is damaged, for the sake of the rest.
    damaged: bool,
    progress: &'i Progress,
}

impl Job for Checking<'_> {
    type Output = Report;
    type Error = Error;

    fn run(&mut self, memory: Resources<'_>) -> Result<Self::Output, Self::Error> {
        let device = match self.damaged {
            true => ImageDevice::new(self.image),
            // What the original may still need after it was killed counts as in use then.
            false => ImageDevice::seeming_writable(self.image),
        };
        let options = MountOptions { read_only: self.damaged, damaged: self.damaged, ..MountOptions::default() };
        let store = Store::mount(memory, &device, &NoInterrupts, options).map_err(|failed| failed.error)?;
        let mut report = Report::of(&store);
        if let Some(damage) = store.report().damage {
            report.push(report::finding(damage, 0));
        }
        copies(&store, &mut report);
        let space = store.space();
        // What is in use and no log: about as many blocks as will be met.
        self.progress.set_total(space.total_blocks.saturating_sub(space.free_blocks + space.log_blocks));
        let mut words = vec![0; store.check_words()];
        let mut ledger = Ledger::new(&store, store.check(&mut words)?, self.progress);
        report.tree = walk(self.image, &store, &mut ledger, &mut report);
        // All of a damaged arena counts as in use.
        report.complete &= report.damaged_arenas == 0;
        ledger.settle(&mut report)?;
        report.findings.sort_by_key(|finding| finding.addr);
        Ok(report)
    }
}

/// Second copies.
fn copies(store: &Store<'_, '_>, report: &mut Report) {
    for (copy, name) in store.report().superblocks.iter().zip(["first", "second"]) {
        if *copy != CopyState::Good {
            report.notes.push(format!("{name} superblock: {copy}; the next commit repairs it"));
        }
    }
    for (index, arena) in (0..).map_while(|index| store.arena(index)).enumerate() {
        for (good, name) in arena.copies_good.iter().zip(["first", "second"]) {
            if !good && store.report().damaged_arenas == 0 {
                let addr = arena.addr;
                report
                    .notes
                    .push(format!("arena {index} at {addr:#x}: {name} header not of this commit; the next repairs it"));
            }
        }
    }
    if store.report().doubtful_blocks > 0 {
        report.notes.push(format!(
            "{} blocks are free or in use, nobody can tell, because the original was killed; they count as in use",
            store.report().doubtful_blocks
        ));
    }
}

/// Goes through everything that the superblock leads to.
fn walk<'s, 'd, 'm>(
    image: &Image,
    store: &'s Store<'d, 'm>,
    ledger: &mut Ledger<'s, 'd, 'm>,
    report: &mut Report,
) -> Tree {
    let roots = store.roots();
    let none = roots.deadlist_head.addr == NONE && roots.deadlist_tail.addr == NONE;
    let Some(root) = roots.root_ptr() else {
        report.complete = none;
        report.leaks_are_damage = true;
        return Tree::None;
    };
    if roots.flag != 0 {
        report.notes.push(format!("tree: not walked: feature flags {:#x} are not known", roots.flag));
        ledger.meet(root, Role::Node, 1, report);
        nodes::verify(store, root, report);
        return Tree::NotWalked;
    }
    match first_item(store, root, roots.height) {
        Some((key, value)) if gefs::begins_with(&key, &value) => {
            gefs::walk(image, store, ledger, report, root, roots.height);
            Tree::Gefs
        }
        Some((_, value)) if catalog::begins_with(&value) && none => {
            catalog::walk(store, ledger, report);
            Tree::Catalog
        }
        _ => {
            nodes::follow(store, ledger, report, root, roots.height);
            report.notes.push("tree: not walked beyond pivots: what its leaves hold is not known".to_owned());
            Tree::NotWalked
        }
    }
}

/// The first item of the first leaf of a tree, if the way there is whole.
fn first_item(store: &Store<'_, '_>, root: BlockPtr, height: u32) -> Option<(Vec<u8>, Vec<u8>)> {
    let size = store.block_size();
    let mut ptr = root;
    for level in (1..=height).rev().take(MAX_HEIGHT as usize) {
        let block = store.read(ptr).ok()?;
        if level == 1 {
            let leaf = Leaf::parse(&block, size).ok()?;
            return Some((leaf.key(0)?.to_vec(), leaf.value(0)?.to_vec()));
        }
        let child: RawPtr = Pivot::parse(&block, size).ok()?.child(0)?.ptr;
        ptr = BlockPtr::from_raw(child)?;
    }
    None
}
