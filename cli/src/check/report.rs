//! What a check found: lines for people, JSON for programs.

use crate::render::pretty;
use arenite_core::{Error, Store};
use serde::Serialize;
use std::fmt::Write;

/// Findings that are listed one by one.
const MOST_FINDINGS: usize = 10_000;

/// Something that is wrong.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    /// Byte address.
    pub(super) addr: u64,
    pub(super) what: String,
}

/// The finding in an error; `addr` is where it came up, for errors that do not say.
pub(super) fn finding(error: Error, addr: u64) -> Finding {
    match error {
        Error::Corrupt { addr, damage } => Finding { addr, what: damage.to_string() },
        Error::Device { addr, .. } | Error::BadAddress { addr } => Finding { addr, what: error.to_string() },
        other => Finding { addr, what: other.to_string() },
    }
}

/// What hangs from the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Tree {
    /// Nothing.
    #[serde(rename = "none")]
    None,
    /// The tree of snapshots of the original.
    #[serde(rename = "gefs")]
    Gefs,
    /// A catalogue of `arenite-catalog`.
    #[serde(rename = "catalog")]
    Catalog,
    /// Something else, or the volume could not be mounted.
    #[serde(rename = "not walked")]
    NotWalked,
}

/// How the blocks of all arenas are used. Each is counted once.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Blocks {
    pub(super) total: u64,
    pub(super) free: u64,
    pub(super) log: u64,
    /// Two of each arena, which are never handed out.
    pub(super) spare: u64,
    pub(super) reachable: u64,
    /// On a dead list and not reachable.
    pub(super) dead: u64,
    /// Replaced by messages that are not applied yet.
    pub(super) replaced: u64,
    /// In use, and none of these; 0 if the walk was not complete.
    pub(super) unreachable: u64,
}

/// All that there is to say. The names of the fields are the keys of the JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    clean: bool,
    pub(super) findings: Vec<Finding>,
    /// Findings that are not listed.
    more_findings: u64,
    pub(super) notes: Vec<String>,
    block_size: Option<u64>,
    qgen: Option<u64>,
    superblocks: Option<[String; 2]>,
    arenas: usize,
    pub(super) damaged_arenas: u32,
    bad_header_copies: u32,
    /// Whether Arenite wrote the last commit, so that lost and stale log writes were looked for.
    sealed: bool,
    pub(super) tree: Tree,
    /// Whether every block that is reachable was met.
    pub(super) complete: bool,
    pub(super) snapshots: u64,
    pub(super) nodes: u64,
    pub(super) data: u64,
    pub(super) blocks: Option<Blocks>,
    #[serde(skip)]
    pub(super) leaks_are_damage: bool,
}

impl Report {
    /// Of a volume whose superblock is all that can be made sense of.
    pub(super) fn unmounted() -> Self {
        Self {
            clean: true,
            findings: Vec::new(),
            more_findings: 0,
            notes: vec!["nothing else was checked".to_owned()],
            block_size: None,
            qgen: None,
            superblocks: None,
            arenas: 0,
            damaged_arenas: 0,
            bad_header_copies: 0,
            sealed: false,
            tree: Tree::NotWalked,
            complete: false,
            snapshots: 0,
            nodes: 0,
            data: 0,
            blocks: None,
            leaks_are_damage: false,
        }
    }

    pub(super) fn of(store: &Store<'_, '_>) -> Self {
        let found = store.report();
        Self {
            notes: Vec::new(),
            block_size: Some(store.block_size().len_u64()),
            qgen: Some(store.generation()),
            superblocks: Some(found.superblocks.map(|copy| copy.to_string())),
            arenas: found.arenas as usize,
            damaged_arenas: found.damaged_arenas,
            bad_header_copies: found.bad_header_copies,
            sealed: found.sealed,
            ..Self::unmounted()
        }
    }

    pub(super) fn push(&mut self, finding: Finding) {
        self.clean = false;
        if self.is_full() {
            self.more_findings += 1;
        } else {
            self.findings.push(finding);
        }
    }

    pub(super) fn find(&mut self, addr: u64, what: String) {
        self.push(Finding { addr, what });
    }

    pub(super) fn has_found(&self, addr: u64) -> bool {
        self.findings.iter().any(|finding| finding.addr == addr)
    }

    pub(super) fn is_full(&self) -> bool {
        self.findings.len() >= MOST_FINDINGS
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.clean
    }

    /// Takes runs of blocks (address, number) that are in use without a reason, `blocks` in all.
    pub(super) fn unreachable(&mut self, runs: &[(u64, u64)], blocks: u64, unit: u64) {
        if blocks == 0 {
            return;
        }
        if self.leaks_are_damage {
            for (addr, count) in runs {
                self.find(*addr, format!("in use, but unreachable ({count} blocks from here on)"));
            }
        } else {
            // The original loses some whenever it is stopped.
            let bytes = blocks * unit;
            self.notes
                .push(format!("{blocks} blocks ({bytes} bytes) are in use, but unreachable: lost space, no damage"));
        }
    }

    /// One JSON object, indented, with a line end.
    pub(crate) fn json(&self) -> String {
        pretty(self)
    }

    /// Findings, notes, what was checked, and the verdict.
    pub(crate) fn text(&self, shown: &str) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let mut line = |arguments: std::fmt::Arguments<'_>| {
            let _ = writeln!(out, "{arguments}");
        };
        for Finding { addr, what } in &self.findings {
            line(format_args!("{addr:#x}: {what}"));
        }
        if self.more_findings > 0 {
            line(format_args!("and {} more", self.more_findings));
        }
        for note in &self.notes {
            line(format_args!("note: {note}"));
        }
        if let (Some(blocks), Some(block_size)) = (self.blocks, self.block_size) {
            let seals = if self.sealed { "sealed by Arenite" } else { "not sealed" };
            let headers = 2 * self.arenas;
            line(format_args!("volume   {} blocks of {block_size} bytes, {} arenas", blocks.total, self.arenas));
            line(format_args!("checked  2 superblocks, {headers} headers, {} log blocks ({seals})", blocks.log));
            line(format_args!("tree     {}", self.tree_line()));
            line(format_args!("blocks   {}", blocks_line(&blocks, self.complete)));
        }
        let count = self.findings.len() as u64 + self.more_findings;
        match self.clean {
            true => line(format_args!("{shown}: clean")),
            false => line(format_args!("{shown}: damaged, {count} findings")),
        }
        out
    }

    fn tree_line(&self) -> String {
        let whole = if self.complete { "walked to the end" } else { "not walked to the end" };
        let (nodes, data) = (self.nodes, self.data);
        match self.tree {
            Tree::None => "none".to_owned(),
            Tree::Gefs => {
                format!("gefs, {} snapshots, {nodes} nodes, {data} data blocks read; {whole}", self.snapshots)
            }
            Tree::Catalog => format!("catalogue, {nodes} nodes, {data} data blocks read; {whole}"),
            Tree::NotWalked => format!("not walked beyond {nodes} nodes"),
        }
    }
}

fn blocks_line(blocks: &Blocks, complete: bool) -> String {
    let Blocks { free, log, spare, reachable, dead, replaced, unreachable, .. } = blocks;
    let mut line = format!("{free} free, {log} log, {spare} never handed out, {reachable} reachable");
    for (count, what) in [(dead, "waiting for a snapshot to go"), (replaced, "waiting to be replaced")] {
        if *count > 0 {
            line += &format!(", {count} {what}");
        }
    }
    if complete {
        line += &format!(", {unreachable} unreachable");
    }
    line
}
