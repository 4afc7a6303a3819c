//! What is explored: a volume, what its users do during each commit, and what happens after a crash.

use crate::content::{Addr, Body, Universe};
use crate::disk::{Disk, Write};
use crate::planes::Planes;
use crate::protocol::{Protocol, Window};
use crate::store::{Arena, Error, Shape, Store};

/// A new version of a slot, or its removal.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Which slot.
    pub slot: usize,
    /// Arena to write to; none removes the slot.
    pub to: Option<usize>,
    /// Enqueued before the commit begins, but written only within E1.
    pub lazy: bool,
}

/// A block that is handed out before a commit, and enqueued or given back during or after it.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    /// Arena of the block.
    pub arena: usize,
    /// Slot that the block will hold.
    pub slot: usize,
    /// Enqueue it, or give it back?
    pub enqueue: bool,
    /// In which window of the commit; none: after the commit.
    pub end: Option<Window>,
}

/// One commit, and what its users do meanwhile.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// Changes that belong to this commit.
    pub changes: Vec<Change>,
    /// Changes made in a window of this commit; they belong to the next one.
    pub early: Vec<(Window, Change)>,
    /// Arena of the new root.
    pub root: usize,
    /// A reserved block held over the beginning of the commit.
    pub hold: Option<Hold>,
}

impl Round {
    /// A round that writes slots to arenas, and the root to `root`.
    pub fn put(root: usize, changes: &[(usize, usize)]) -> Round {
        let changes = changes.iter().map(|(slot, to)| Change { slot: *slot, to: Some(*to), lazy: false }).collect();
        Round { changes, root, ..Round::default() }
    }

    /// The same, with a change for the next commit made in a window of this one.
    pub fn early(mut self, window: Window, slot: usize, to: Option<usize>) -> Round {
        self.early.push((window, Change { slot, to, lazy: false }));
        self
    }

    /// The same, with a change that is written only within E1.
    pub fn lazy(mut self, slot: usize, to: usize) -> Round {
        self.changes.push(Change { slot, to: Some(to), lazy: true });
        self
    }

    /// The same, with a slot removed.
    pub fn remove(mut self, slot: usize) -> Round {
        self.changes.push(Change { slot, to: None, lazy: false });
        self
    }

    /// The same, with a reserved block held.
    pub fn hold(mut self, arena: usize, slot: usize, enqueue: bool, end: Option<Window>) -> Round {
        self.hold = Some(Hold { arena, slot, enqueue, end });
        self
    }
}

/// What to explore.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Name for messages.
    pub name: &'static str,
    /// The volume.
    pub shape: Shape,
    /// Rounds that bring the volume to an interesting state; no crashes.
    pub warmup: Vec<Round>,
    /// Rounds written by a program that does not know the extensions, after a clean end; no crashes.
    pub foreign: Vec<Round>,
    /// Blocks that turn to garbage then; the volume is mounted anew.
    pub damage: Vec<Addr>,
    /// The rounds in which crashes are enumerated.
    pub script: Vec<Round>,
    /// The rounds after a mount that follows a crash.
    pub recover: Vec<Round>,
    /// How many times over a crash may hit the recovery from a crash.
    pub depth: usize,
    /// A crash takes the software only: the device keeps its cache.
    pub warm: bool,
    /// After every commit that ended, the bare rule must read the same as the extension.
    pub bare: bool,
    /// The script is run by a program that does not know the extensions, and its crashes are enumerated; what follows
    /// them is ours. States that such a program loses are counted apart.
    pub foreign_crashes: bool,
    /// Count what the bare rule makes of each crashed disk before any repair.
    pub bare_crashes: bool,
}

impl Scenario {
    /// A scenario with neither warm-up nor damage, with one crash in recovery.
    pub fn new(name: &'static str, shape: Shape, script: Vec<Round>, recover: Vec<Round>) -> Scenario {
        Scenario {
            name,
            shape,
            warmup: Vec::new(),
            foreign: Vec::new(),
            damage: Vec::new(),
            script,
            recover,
            depth: 1,
            warm: false,
            bare: true,
            foreign_crashes: false,
            bare_crashes: false,
        }
    }
}

/// Makes a volume: the tree of `shape.slots`, fresh logs, all copies good. Gives the disk and the store.
pub fn format(u: &mut Universe, shape: &Shape) -> Result<(Disk, Store), Error> {
    let mut disk = Disk::new(usize::from(shape.last()) + 1);
    let empty = Arena {
        planes: Planes::mounted(shape.usable()),
        chain: Vec::new(),
        header: [0; 2],
        header_hash: 0,
        extension: None,
        bad_header: [false; 2],
        stale_link: false,
        rewrite_due: false,
    };
    let mut store = Store {
        gen: 4,
        root: crate::content::Ptr { addr: 0, body: 0 },
        superblock: [0; 2],
        bad_super: [false; 2],
        ours: 4,
        arenas: vec![empty; shape.arenas],
        tree: Vec::new(),
    };
    for (slot, (arena, block)) in shape.slots.iter().enumerate() {
        let addr = shape.base(*arena) + block;
        let planes = &mut store.arenas[*arena].planes;
        planes.reserve(u32::from(*block))?;
        planes.enqueue(u32::from(*block))?;
        let body = u.body(Body::Leaf { slot: slot as u8, life: 0, round: 0 });
        disk.write(addr, u.data(body));
        store.tree.push(Some(crate::content::Ptr { addr, body }));
    }
    // The first root takes the place of a block that is enqueued for it: new_root frees one that was never used.
    let spare = store.reserve(shape, 0)?;
    store.enqueue(shape, spare)?;
    store.root.addr = spare;
    let root = store.new_root(u, shape, 0, 0, 0)?;
    let c = store.begin(u, shape, &Protocol { touch_all: true, ..Protocol::CHOSEN })?;
    let copies = [vec![root, c.super0, c.super1], c.logs, c.headers_a, c.headers_b];
    copies.concat().iter().for_each(|w: &Write| disk.write(w.addr, w.block));
    store.finish();
    Ok((disk, store))
}
