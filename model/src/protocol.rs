//! The protocol and its variants: what is written in which epoch, and when blocks are released.
//!
//! [`Protocol::CHOSEN`] is what Arenite does. Every other value of these switches is a protocol that somebody might
//! believe in; the tests let the enumerator judge them. The epochs of the chosen protocol:
//!
//! ```text
//!   mount  flush: what mount reads must be durable before anything is written
//!   E0     only after a mount that found a copy not good or a link past the end of a log: repairs       flush
//!   E1     data; fresh log blocks; relinks of old tails; first header copies of touched arenas          flush
//!   E2     first superblock                                                                             flush, ack
//!   E3     second header copies of touched arenas; second superblock                                    flush, release
//! ```

use crate::disk::Write;
use crate::store::Commit;

/// Which writes share an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As in the module's sketch.
    Chosen,
    /// The first superblock in E1, the first header copies in E2.
    SuperBeforeHeaders,
    /// Both superblocks in E2.
    SupersTogether,
    /// Both header copies in E1.
    HeadersTogether,
    /// Log blocks get an epoch of their own before relinks and headers.
    LogsBeforeLinks,
    /// The order of the original: logs, first headers, both superblocks, second headers.
    Original,
}

/// When blocks that a commit freed may be handed out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// After the last flush of the commit.
    AfterE3,
    /// After the flush that acknowledges.
    AfterE2,
    /// As soon as the commit has begun.
    AtStart,
}

/// How a reader finds the end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// By the number of blocks and the digest in the header's extension.
    Extension,
    /// At the first barrier that is not older than the superblock, or at the end of the chain: all the format offers.
    Bare,
}

/// The switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Which writes share an epoch.
    pub order: Order,
    /// When freed blocks may be handed out.
    pub reuse: Reuse,
    /// How a reader finds the end of a log.
    pub rule: Rule,
    /// Flush before the first write after a mount.
    pub flush_at_mount: bool,
    /// Flush after the repairs.
    pub flush_repairs: bool,
    /// Flush after E1.
    pub flush_logs: bool,
    /// Flush after E2.
    pub flush_super: bool,
    /// Flush after E3.
    pub flush_last: bool,
    /// Repair second copies that mount found not good.
    pub repair_second: bool,
    /// Repair first copies that mount found not good.
    pub repair_first: bool,
    /// Cut links past the end of a log before the next commit.
    pub cut_links: bool,
    /// Repair before any data is written, rather than before the next header is.
    pub repair_before_data: bool,
    /// Acknowledge when the superblock is written rather than flushed.
    pub ack_unflushed: bool,
    /// Add to the log's last block in place.
    pub log_in_place: bool,
    /// Compare the digest in the extension.
    pub check_digest: bool,
    /// Of the last block, digest the entries up to the last barrier, whatever stands behind them.
    pub prefix_digest: bool,
    /// Begin an appended block with the barrier of the newest commit.
    pub opening_barrier: bool,
    /// Let appended log blocks take what a rewrite will need.
    pub append_from_reserve: bool,
    /// Put the barrier of a rewritten log in its last block, even if an earlier one has room.
    pub barrier_last: bool,
    /// Log reserved blocks as allocated.
    pub log_reserved: bool,
    /// Leave one touched arena unwritten.
    pub forget_arena: bool,
    /// Do not write a block of the commit in flight that has been freed since.
    pub skip_freed_writes: bool,
    /// Write every arena in every commit.
    pub touch_all: bool,
    /// Write as a program that carries the extensions along unread.
    pub foreign: bool,
    /// Rewrite the log of every arena in the first commit after a foreign one.
    pub rewrite_after_foreign: bool,
}

impl Protocol {
    /// What Arenite does.
    pub const CHOSEN: Protocol = Protocol {
        order: Order::Chosen,
        reuse: Reuse::AfterE3,
        rule: Rule::Extension,
        flush_at_mount: true,
        flush_repairs: true,
        flush_logs: true,
        flush_super: true,
        flush_last: true,
        repair_second: true,
        repair_first: true,
        cut_links: true,
        repair_before_data: false,
        ack_unflushed: false,
        log_in_place: false,
        check_digest: true,
        prefix_digest: true,
        opening_barrier: true,
        append_from_reserve: false,
        barrier_last: true,
        log_reserved: false,
        forget_arena: false,
        skip_freed_writes: false,
        touch_all: false,
        foreign: false,
        rewrite_after_foreign: true,
    };

    /// The order of the original with a flush after each of its passes (it has none).
    pub const ORIGINAL_FLUSHED: Protocol = Protocol {
        order: Order::Original,
        reuse: Reuse::AtStart,
        rule: Rule::Bare,
        repair_second: false,
        repair_first: false,
        cut_links: false,
        log_in_place: true,
        check_digest: false,
        touch_all: true,
        foreign: true,
        rewrite_after_foreign: false,
        ..Protocol::CHOSEN
    };

    /// What the original does.
    pub const ORIGINAL: Protocol = Protocol {
        flush_at_mount: false,
        flush_repairs: false,
        flush_logs: false,
        flush_super: false,
        flush_last: false,
        ..Protocol::ORIGINAL_FLUSHED
    };

    /// Logs by links without the extension, made as safe as the bare format allows: one more flush in each commit that
    /// appends, and after a crash no write at all before the links are cut.
    pub const BARE_LINKS: Protocol = Protocol {
        order: Order::LogsBeforeLinks,
        rule: Rule::Bare,
        check_digest: false,
        repair_before_data: true,
        ..Protocol::CHOSEN
    };
}

/// Place of an epoch in a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    /// The repairs.
    E0,
    /// Log blocks in an epoch of their own; only some variants have it.
    Logs,
    /// Up to the flush before the superblock.
    E1,
    /// The superblock.
    E2,
    /// The second copies.
    E3,
}

/// The writes between two flushes.
#[derive(Clone, Debug)]
pub struct Epoch {
    /// Place in the commit.
    pub window: Window,
    /// What is written, apart from data.
    pub writes: Vec<Write>,
    /// Is there a flush at the end?
    pub flush: bool,
    /// Is the commit acknowledged at the end?
    pub acknowledges: bool,
    /// Are freed blocks released at the end?
    pub releases: bool,
}

impl Protocol {
    /// The epochs of a commit. The repair epoch is left out if there is nothing to repair.
    pub fn epochs(&self, c: &Commit) -> Vec<Epoch> {
        let mut epochs = Vec::new();
        let mut add = |window, parts: &[&[Write]], flush| {
            let released_at = if self.reuse == Reuse::AfterE2 { Window::E2 } else { Window::E3 };
            epochs.push(Epoch {
                window,
                writes: parts.concat(),
                flush,
                acknowledges: window == Window::E2,
                releases: window == released_at,
            });
        };
        if !c.repairs.is_empty() {
            add(Window::E0, &[&c.repairs], self.flush_repairs);
        }
        let (super0, super1) = ([c.super0], [c.super1]);
        let (e1, e2, e3) = (self.flush_logs, self.flush_super, self.flush_last);
        match self.order {
            Order::Chosen => {
                add(Window::E1, &[&c.logs, &c.relinks, &c.headers_a], e1);
                add(Window::E2, &[&super0], e2);
                add(Window::E3, &[&c.headers_b, &super1], e3);
            }
            Order::SuperBeforeHeaders => {
                add(Window::E1, &[&c.logs, &c.relinks, &super0], e1);
                add(Window::E2, &[&c.headers_a], e2);
                add(Window::E3, &[&c.headers_b, &super1], e3);
            }
            Order::SupersTogether => {
                add(Window::E1, &[&c.logs, &c.relinks, &c.headers_a], e1);
                add(Window::E2, &[&super0, &super1], e2);
                add(Window::E3, &[&c.headers_b], e3);
            }
            Order::HeadersTogether => {
                add(Window::E1, &[&c.logs, &c.relinks, &c.headers_a, &c.headers_b], e1);
                add(Window::E2, &[&super0], e2);
                add(Window::E3, &[&super1], e3);
            }
            Order::LogsBeforeLinks => {
                add(Window::Logs, &[&c.logs], e1);
                add(Window::E1, &[&c.relinks, &c.headers_a], e1);
                add(Window::E2, &[&super0], e2);
                add(Window::E3, &[&c.headers_b, &super1], e3);
            }
            Order::Original => {
                add(Window::Logs, &[&c.logs, &c.relinks], e1);
                add(Window::E1, &[&c.headers_a], e1);
                add(Window::E2, &[&super0, &super1], e2);
                add(Window::E3, &[&c.headers_b], e3);
            }
        }
        epochs
    }
}
