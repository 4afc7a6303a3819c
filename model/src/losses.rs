//! Devices that lie: a write that was reported done and flushed, and is not there, or went elsewhere.
//!
//! The media contract allows neither, so the protocol cannot survive them by order alone. What it owes is that nothing
//! wrong is ever taken for right: after any single lost or misdirected write a mount shows the commit whole, or fails.

use crate::disk::{Disk, Write};
use crate::explore::{Explorer, Failure};
use crate::protocol::{Protocol, Window};
use crate::scenario::Scenario;
use crate::store::Error;

/// What became of the disks with one write lost or misdirected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Disks looked at.
    pub disks: u64,
    /// The commit is there, whole: the write had a second copy.
    pub harmless: u64,
    /// The mount, or a read of the tree, fails.
    pub detected: u64,
    /// Another commit, or a wrong free map, is taken for right.
    pub silent: u64,
}

/// Loses and misdirects every write of every commit of a scenario in turn; each commit is complete but for that.
pub fn lose_each_write(p: Protocol, scenario: &Scenario) -> Result<Losses, Error> {
    let mut e = Explorer::new(p, scenario);
    let mut m = e.prepare()?;
    let mut losses = Losses::default();
    for round in &scenario.script {
        // Without flushes every write of the commit is left pending, in order.
        let mut all = m.clone();
        e.p = Protocol { flush_repairs: false, flush_logs: false, flush_super: false, flush_last: false, ..p };
        e.round(&mut all, round, None, Window::E3)?;
        let writes = all.dev.pending.clone();
        for lost in 0..writes.len() {
            for target in std::iter::once(None).chain((0..m.dev.media.blocks() as u16).map(Some)) {
                if target == Some(writes[lost].addr) {
                    continue;
                }
                let disk = apply(&m.dev.media, &writes, lost, target);
                losses.disks += 1;
                match e.judge(&disk, &[all.acked]) {
                    Ok(_) => losses.harmless += 1,
                    Err(Failure::Unreadable(_)) => losses.detected += 1,
                    Err(_) => losses.silent += 1,
                }
            }
        }
        e.p = p;
        e.round(&mut m, round, None, Window::E3)?;
    }
    Ok(losses)
}

/// All writes in order, but one of them lost or sent to `target`.
fn apply(media: &Disk, writes: &[Write], lost: usize, target: Option<u16>) -> Disk {
    let mut disk = media.clone();
    for (i, w) in writes.iter().enumerate() {
        if i != lost {
            disk.write(w.addr, w.block);
        } else if let Some(addr) = target {
            disk.write(addr, w.block);
        }
    }
    disk
}
