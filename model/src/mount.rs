//! Mount: from the sectors of a disk to a store, without a write.
//!
//! The newest valid superblock decides. For each arena the header copy with the hash that this superblock gives is
//! read, then the log that the header names. If anything of that does not resolve, the mount fails: it never falls
//! back to an older superblock.

use crate::content::{Addr, Block, Body, Digest, Entry, Extension, Gen, LogView, Ptr, Universe};
use crate::disk::Disk;
use crate::planes::Planes;
use crate::protocol::{Protocol, Rule};
use crate::store::{Arena, Shape, Store};

/// Why a mount failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// No valid superblock.
    NoSuperblock,
    /// Neither header copy has the hash that the superblock gives.
    NoHeader,
    /// A log block is none, or its hash does not match, or a link leads nowhere.
    BadLog,
    /// The chain ends before its last block, or its digest or its last barrier is not what the header says.
    WrongChain,
    /// The log frees what is free, allocates what is not, or leaves its arena.
    BadReplay,
    /// A block of the tree does not have the content that the pointer to it gives.
    TreeLost,
}

/// A log as walked.
struct Walk {
    chain: Vec<(Addr, Digest)>,
    free: u64,
    stale_link: bool,
    rewrite_due: bool,
    barrier: Option<Gen>,
}

/// Replays one entry onto the free map of an arena.
fn replay(free: &mut u64, shape: &Shape, base: Addr, entry: Entry) -> Result<(), Fault> {
    let (at, len, frees) = match entry {
        Entry::Free(at, len) => (at, len, true),
        Entry::Alloc(at, len) => (at, len, false),
        Entry::Barrier(_) => return Ok(()),
    };
    let start = at.checked_sub(base).ok_or(Fault::BadReplay)?;
    if start + len > shape.blocks {
        return Err(Fault::BadReplay);
    }
    let bits = ((1u64 << len) - 1) << start;
    let expected = if frees { 0 } else { bits };
    if *free & bits != expected || bits & !shape.usable() != 0 {
        return Err(Fault::BadReplay);
    }
    *free ^= bits;
    Ok(())
}

/// A log stays in its arena.
fn inside(shape: &Shape, base: Addr, addr: Addr) -> Result<(), Fault> {
    match shape.locate(addr) {
        Some((arena, _)) if shape.base(arena) == base => Ok(()),
        _ => Err(Fault::BadLog),
    }
}

/// Reads the last block of a log up to its last barrier, and says whether more stands behind it. The original adds to
/// that block in place, and a crash may tear what it adds; the digest vouches for what stands before, whether the
/// block's own hash matches or not.
fn read_tail(u: &Universe, block: Block, barrier: Gen) -> Result<(LogView<'_>, bool), Fault> {
    match u.read_log(block) {
        Some(log) if log.entries.last() == Some(&Entry::Barrier(barrier)) => Ok((log, false)),
        _ => Ok((u.read_log_prefix(block, barrier).ok_or(Fault::BadLog)?, true)),
    }
}

/// Walks exactly the blocks that the extension counts.
fn walk_extension(
    (u, shape, disk): (&Universe, &Shape, &Disk),
    base: Addr,
    head: Addr,
    ext: Extension,
    p: &Protocol,
) -> Result<Walk, Fault> {
    let mut walk = Walk { chain: Vec::new(), free: 0, stale_link: false, rewrite_due: false, barrier: None };
    let mut at = Some(head);
    for i in 0..ext.blocks {
        let addr = at.ok_or(Fault::WrongChain)?;
        inside(shape, base, addr)?;
        let (log, more) = match i + 1 == ext.blocks && p.prefix_digest && p.check_digest {
            false => (u.read_log(disk.read(addr)).ok_or(Fault::BadLog)?, false),
            true => read_tail(u, disk.read(addr), ext.barrier)?,
        };
        walk.rewrite_due = more;
        for e in log.entries {
            if let Entry::Barrier(gen) = e {
                walk.barrier = Some(*gen);
            }
            replay(&mut walk.free, shape, base, *e)?;
        }
        walk.chain.push((addr, log.hash));
        at = log.link;
    }
    walk.stale_link = at.is_some();
    let matches = u.is_digest(ext.digest, &walk.chain) && walk.barrier == Some(ext.barrier);
    if p.check_digest && !matches {
        return Err(Fault::WrongChain);
    }
    Ok(walk)
}

/// Walks until the first barrier that is not older than `qgen`, or to the end of the chain.
fn walk_bare((u, shape, disk): (&Universe, &Shape, &Disk), base: Addr, head: Addr, qgen: Gen) -> Result<Walk, Fault> {
    let mut walk = Walk { chain: Vec::new(), free: 0, stale_link: false, rewrite_due: false, barrier: None };
    let mut at = Some(head);
    while let Some(addr) = at {
        if walk.chain.len() > usize::from(shape.blocks) {
            return Err(Fault::WrongChain);
        }
        inside(shape, base, addr)?;
        let log = u.read_log(disk.read(addr)).ok_or(Fault::BadLog)?;
        for (i, e) in log.entries.iter().enumerate() {
            if matches!(e, Entry::Barrier(gen) if *gen >= qgen) {
                // The block belongs to the log if the log says that it is in use. One of an aborted commit is free in
                // the state that is read; its opening barrier ends the log before it.
                if walk.free >> (addr - base) & 1 == 1 {
                    walk.stale_link = true;
                } else {
                    walk.chain.push((addr, log.hash));
                    walk.stale_link = log.link.is_some();
                    walk.rewrite_due = i + 1 < log.entries.len();
                }
                return Ok(walk);
            }
            replay(&mut walk.free, shape, base, *e)?;
        }
        walk.chain.push((addr, log.hash));
        at = log.link;
    }
    Ok(walk)
}

/// Mounts a disk. A superblock whose extension is not of its own generation was written by a program that does
/// not know the extensions; the bare rule holds then, whatever the protocol says.
pub fn mount(u: &Universe, shape: &Shape, disk: &Disk, p: &Protocol) -> Result<Store, Fault> {
    let at = [0, shape.last()];
    let read = |copy: usize| u.read_superblock(disk.read(at[copy]));
    let chosen = match (read(0), read(1)) {
        (Some((a, _)), Some((b, _))) => usize::from(b.qgen > a.qgen),
        (Some(_), None) => 0,
        (None, Some(_)) => 1,
        (None, None) => return Err(Fault::NoSuperblock),
    };
    let (fields, ours) = read(chosen).ok_or(Fault::NoSuperblock)?;
    let superblock = disk.read(at[chosen]);
    let bare = p.rule == Rule::Bare || ours != fields.qgen;
    let mut arenas = Vec::with_capacity(shape.arenas);
    for i in 0..shape.arenas {
        let base = shape.base(i);
        let copies = [disk.read(base), disk.read(base + 1)];
        let found = copies.map(|c| u.read_header(c, fields.headers[i]));
        let good = if found[0].is_some() { 0 } else { 1 };
        let (head, extension) = found[good].ok_or(Fault::NoHeader)?;
        let walk = match extension {
            Some(ext) if !bare => walk_extension((u, shape, disk), base, head, ext, p)?,
            _ => walk_bare((u, shape, disk), base, head, fields.qgen)?,
        };
        arenas.push(Arena {
            planes: Planes::mounted(walk.free),
            chain: walk.chain,
            header: copies[good],
            header_hash: fields.headers[i],
            extension,
            bad_header: found.map(|f| f.is_none()),
            stale_link: walk.stale_link,
            rewrite_due: walk.rewrite_due || ours != fields.qgen,
        });
    }
    let tree = match u.body_of(fields.root.body) {
        Body::Root { children, .. } => children.clone(),
        Body::Leaf { .. } => return Err(Fault::TreeLost),
    };
    Ok(Store {
        gen: fields.qgen,
        root: fields.root,
        superblock,
        bad_super: at.map(|addr| disk.read(addr) != superblock),
        ours,
        arenas,
        tree,
    })
}

/// What a tree reaches, as a set for each arena. Every block is read and compared with the pointer to it.
pub fn reach(u: &Universe, shape: &Shape, disk: &Disk, root: Ptr) -> Result<Vec<u64>, Fault> {
    let mut sets = vec![0u64; shape.arenas];
    let Body::Root { children, .. } = u.body_of(root.body) else { return Err(Fault::TreeLost) };
    for ptr in children.iter().flatten().chain([&root]) {
        let (arena, block) = shape.locate(ptr.addr).ok_or(Fault::TreeLost)?;
        if !u.is_data(disk.read(ptr.addr), ptr.body) {
            return Err(Fault::TreeLost);
        }
        sets[arena] |= 1 << block;
    }
    Ok(sets)
}

/// The free map that a mounted disk ought to have: all but headers, log blocks and the tree.
pub fn expected_free(shape: &Shape, store: &Store, reached: &[u64]) -> Vec<u64> {
    (0..shape.arenas)
        .map(|i| {
            let log = store.arenas[i].chain.iter().fold(0u64, |set, (addr, _)| set | 1 << (addr - shape.base(i)));
            shape.usable() & !log & !reached[i]
        })
        .collect()
}
