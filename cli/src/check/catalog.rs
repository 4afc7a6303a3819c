//! Catalogues of `arenite-catalog`.

use super::ledger::{Ledger, Next, Role};
use super::report::{finding, Report};
use arenite_catalog::{visit_blocks, BlockUse, Depth, Entry, Error};
use arenite_core::Store;
use std::ops::ControlFlow;

/// First byte of an entry of a catalogue. The trees of the original have none such under their first key.
const ENTRY_VERSION: u8 = 1;

/// Whether the first item of the first leaf is one of a catalogue.
pub(super) fn begins_with(value: &[u8]) -> bool {
    value.len() == Entry::LEN_BYTES && value.first() == Some(&ENTRY_VERSION)
}

/// Visits every block of the catalogue. One that nothing leads to is lost, because a catalogue frees what it replaces.
pub(super) fn walk<'s>(store: &'s Store<'_, '_>, ledger: &mut Ledger<'s, '_, '_>, report: &mut Report) {
    report.complete = true;
    report.leaks_are_damage = true;
    // Blocks of pointers that lead to each other could be gone through for ever; whole ones meet no block twice.
    let mut left = store.space().total_blocks;
    let roots = store.roots();
    let result = visit_blocks(store, &roots, Depth::Everything, &mut |block| {
        let role = match block.block_use {
            BlockUse::Pivot | BlockUse::Leaf => Role::Node,
            BlockUse::Pointers | BlockUse::Data => Role::Data,
        };
        let met = ledger.meet(block.ptr, role, 1, report);
        match block.outcome {
            Ok(()) if role == Role::Node => report.nodes += 1,
            Ok(()) => report.data += 1,
            Err(error) => note(error, block.ptr.addr, report),
        }
        left = left.saturating_sub(1);
        if left == 0 || (met == Next::Stop && report.is_full()) {
            report.complete = false;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    if let Err(error) = result {
        note(error, roots.root.addr, report);
    }
}

fn note(error: Error, addr: u64, report: &mut Report) {
    // What is below was not met.
    report.complete = false;
    match error {
        Error::Store(error) => report.push(finding(error, addr)),
        Error::NotCatalog { addr, what } => report.find(addr, format!("no part of a catalogue: {what}")),
        other => report.find(addr, other.to_string()),
    }
}
