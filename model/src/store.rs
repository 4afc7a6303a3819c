//! The mounted store: planes, logs, tree, and what a commit writes.
//!
//! Nothing here touches a disk: a commit is returned as lists of writes, and [`crate::protocol`] puts them in epochs.

use crate::content::{Addr, Block, Body, Digest, Entry, Extension, Gen, Ptr, SuperFields, SuperLayout, Universe};
use crate::disk::{Kind, Write};
use crate::planes::{Planes, Refusal};
use crate::protocol::{Protocol, Reuse};

/// Geometry and policy of a modelled volume. Block 0 is the first superblock, the last block the second one; arenas lie
/// between, each beginning with its two header copies.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Number of arenas.
    pub arenas: usize,
    /// Blocks of an arena, its two headers included.
    pub blocks: u16,
    /// Log entries in the first sector of a log block.
    pub front_entries: usize,
    /// Log entries in the second one.
    pub back_entries: usize,
    /// Where the parts of a superblock lie.
    pub super_layout: SuperLayout,
    /// Where the slots of the tree lie at first: arena and block in it.
    pub slots: Vec<(usize, u16)>,
    /// Logs grow by appended blocks until they have this many; 0: every log is rewritten.
    pub max_chain: usize,
    /// Blocks of an arena that only its log may take.
    pub log_reserve: u32,
}

impl Shape {
    /// Address of the first block of an arena.
    pub fn base(&self, arena: usize) -> Addr {
        1 + arena as Addr * self.blocks
    }

    /// Address of the second superblock.
    pub fn last(&self) -> Addr {
        self.base(self.arenas)
    }

    /// Arena of an address and block in it.
    pub fn locate(&self, addr: Addr) -> Option<(usize, u32)> {
        let at = addr.checked_sub(1)?;
        let arena = usize::from(at / self.blocks);
        (arena < self.arenas).then_some((arena, u32::from(at % self.blocks)))
    }

    /// All blocks of an arena but its headers.
    pub fn usable(&self) -> u64 {
        ((1u64 << self.blocks) - 1) & !3
    }
}

/// One arena of a mounted store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Arena {
    /// Space.
    pub planes: Planes,
    /// Address and hash of each log block.
    pub chain: Vec<(Addr, Digest)>,
    /// The header of the last commit.
    pub header: Block,
    /// Its hash.
    pub header_hash: Digest,
    /// Its extension.
    pub extension: Option<Extension>,
    /// Header copies that mount found not good.
    pub bad_header: [bool; 2],
    /// Is there anything linked behind the end of the log?
    pub stale_link: bool,
    /// Must the next commit rewrite the log, even if nothing changes? Entries behind the end of the log, or an
    /// extension that a foreign commit left behind.
    pub rewrite_due: bool,
}

/// A mounted store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    /// Generation of the last commit that began.
    pub gen: Gen,
    /// Root of the last commit that began.
    pub root: Ptr,
    /// The superblock of the mounted commit.
    pub superblock: Block,
    /// Superblocks that mount found not good.
    pub bad_super: [bool; 2],
    /// The generation in the superblock's extension.
    pub ours: Gen,
    /// The arenas.
    pub arenas: Vec<Arena>,
    /// The working tree.
    pub tree: Vec<Option<Ptr>>,
}

/// What one commit writes, data apart.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Its generation.
    pub gen: Gen,
    /// Repairs due before it.
    pub repairs: Vec<Write>,
    /// Fresh log blocks (or, in variants, the tail in place).
    pub logs: Vec<Write>,
    /// Old tails with their new chain pointer.
    pub relinks: Vec<Write>,
    /// First header copies.
    pub headers_a: Vec<Write>,
    /// Second header copies.
    pub headers_b: Vec<Write>,
    /// First superblock.
    pub super0: Write,
    /// Second superblock.
    pub super1: Write,
}

/// Why an operation could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No arena has a block to hand out.
    Full,
    /// An arena has no block for its log.
    LogFull,
    /// The planes refused.
    Planes(Refusal),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Error::Planes(refusal)
    }
}

fn first(set: u64) -> Option<u32> {
    (set != 0).then(|| set.trailing_zeros())
}

/// The runs of a set of blocks, as start and length.
pub fn runs(mut set: u64, base: Addr) -> Vec<(Addr, u16)> {
    let mut out = Vec::new();
    while set != 0 {
        let start = set.trailing_zeros();
        let len = (set >> start).trailing_ones();
        out.push((base + start as Addr, len as u16));
        set &= !(((1u64 << len) - 1) << start);
    }
    out
}

impl Store {
    /// Hands a block out, first in `arena`, then in the others.
    pub fn reserve(&mut self, shape: &Shape, arena: usize) -> Result<Addr, Error> {
        for i in 0..shape.arenas {
            let a = (arena + i) % shape.arenas;
            let free = self.arenas[a].planes.allocatable();
            if free.count_ones() > shape.log_reserve {
                let block = first(free).ok_or(Error::Full)?;
                self.arenas[a].planes.reserve(block)?;
                return Ok(shape.base(a) + block as Addr);
            }
        }
        Err(Error::Full)
    }

    /// Enqueues a reserved block.
    pub fn enqueue(&mut self, shape: &Shape, addr: Addr) -> Result<(), Error> {
        let (arena, block) = shape.locate(addr).ok_or(Error::Full)?;
        Ok(self.arenas[arena].planes.enqueue(block)?)
    }

    /// Gives a reserved block back.
    pub fn give_back(&mut self, shape: &Shape, addr: Addr) -> Result<(), Error> {
        let (arena, block) = shape.locate(addr).ok_or(Error::Full)?;
        Ok(self.arenas[arena].planes.give_back(block)?)
    }

    /// Frees a block of the working state.
    pub fn free(&mut self, shape: &Shape, addr: Addr) -> Result<(), Error> {
        let (arena, block) = shape.locate(addr).ok_or(Error::Full)?;
        Ok(self.arenas[arena].planes.free(block)?)
    }

    /// Pattern of a block in its arena's planes.
    pub fn pattern(&self, shape: &Shape, addr: Addr) -> u8 {
        shape.locate(addr).map_or(0, |(arena, block)| self.arenas[arena].planes.pattern(block))
    }

    /// Writes the root of the working tree to a fresh block and frees the old root.
    pub fn new_root(
        &mut self,
        u: &mut Universe,
        shape: &Shape,
        arena: usize,
        life: u8,
        round: u8,
    ) -> Result<Write, Error> {
        let addr = self.reserve(shape, arena)?;
        self.enqueue(shape, addr)?;
        self.free(shape, self.root.addr)?;
        let body = u.body(Body::Root { children: self.tree.clone(), life, round });
        self.root = Ptr { addr, body };
        Ok(Write { kind: Kind::Data, addr, block: u.data(body), gen: self.gen + 1 })
    }

    /// Begins a commit of the working state, whose root must have been written by [`Store::new_root`].
    pub fn begin(&mut self, u: &mut Universe, shape: &Shape, p: &Protocol) -> Result<Commit, Error> {
        let repairs = self.repairs(u, shape, p);
        self.gen += 1;
        let gen = self.gen;
        self.arenas.iter_mut().for_each(|a| a.planes.start());
        let mut touched: Vec<usize> = (0..shape.arenas).filter(|i| self.must_write(*i, p)).collect();
        if p.forget_arena && touched.len() > 1 {
            touched.pop();
        }
        let (mut logs, mut relinks) = (Vec::new(), Vec::new());
        let (mut headers_a, mut headers_b) = (Vec::new(), Vec::new());
        for i in touched {
            let base = shape.base(i);
            let arena = &mut self.arenas[i];
            arena.write_log(u, (shape, p), (base, gen), (&mut logs, &mut relinks))?;
            arena.write_header(u, p, gen);
            let header = |kind, addr, block| Write { kind, addr, block, gen };
            headers_a.push(header(Kind::HeaderA, base, arena.header));
            headers_b.push(header(Kind::HeaderB, base + 1, arena.header));
            if p.reuse == Reuse::AtStart {
                arena.planes.durable |= arena.planes.delta().1;
            }
        }
        let headers = self.arenas.iter().map(|a| a.header_hash).collect();
        if !p.foreign {
            self.ours = gen;
        }
        self.superblock = u.superblock(SuperFields { root: self.root, qgen: gen, headers }, self.ours);
        let block = self.superblock;
        let super0 = Write { kind: Kind::Super0, addr: 0, block, gen };
        let super1 = Write { kind: Kind::Super1, addr: shape.last(), block, gen };
        Ok(Commit { gen, repairs, logs, relinks, headers_a, headers_b, super0, super1 })
    }

    /// The commit in flight is durable in all its copies.
    pub fn finish(&mut self) {
        self.arenas.iter_mut().for_each(|a| a.planes.finish());
    }

    fn must_write(&self, arena: usize, p: &Protocol) -> bool {
        let (allocated, freed) = self.arenas[arena].planes.delta();
        allocated | freed != 0 || p.touch_all || (self.arenas[arena].rewrite_due && p.rewrite_after_foreign)
    }

    /// The repairs that mount found to be due; they are due once.
    pub fn repairs(&mut self, u: &mut Universe, shape: &Shape, p: &Protocol) -> Vec<Write> {
        let gen = self.gen;
        let wanted = [p.repair_first, p.repair_second];
        let mut out = Vec::new();
        let mut repair = |addr, block| out.push(Write { kind: Kind::Repair, addr, block, gen });
        for (copy, addr) in [0, shape.last()].into_iter().enumerate() {
            if std::mem::take(&mut self.bad_super[copy]) && wanted[copy] {
                repair(addr, self.superblock);
            }
        }
        for (i, arena) in self.arenas.iter_mut().enumerate() {
            for (copy, wanted) in wanted.into_iter().enumerate() {
                if std::mem::take(&mut arena.bad_header[copy]) && wanted {
                    repair(shape.base(i) + copy as Addr, arena.header);
                }
            }
            // Nobody will follow the links of a log that is about to be rewritten.
            if std::mem::take(&mut arena.stale_link) && p.cut_links && !arena.rewrite_due {
                let (addr, hash) = arena.chain[arena.chain.len() - 1];
                let entries = u.log_entries(hash).to_vec();
                repair(addr, u.log(&entries, None).0);
            }
        }
        out
    }
}

impl Arena {
    fn write_log(
        &mut self,
        u: &mut Universe,
        (shape, p): (&Shape, &Protocol),
        (base, gen): (Addr, Gen),
        (logs, relinks): (&mut Vec<Write>, &mut Vec<Write>),
    ) -> Result<(), Error> {
        if p.log_in_place && self.extend_tail(u, p, (base, gen), logs) {
            return Ok(());
        }
        let keep = !std::mem::take(&mut self.rewrite_due);
        if keep && self.chain.len() < shape.max_chain && self.append(u, (shape, p), (base, gen), (logs, relinks))? {
            return Ok(());
        }
        self.rewrite(u, p, (base, gen), logs)
    }

    fn changes(&self, p: &Protocol, base: Addr) -> Vec<Entry> {
        let (mut allocated, freed) = self.planes.delta();
        if p.log_reserved {
            allocated |= self.planes.reserved();
        }
        let freed = runs(freed, base).into_iter().map(|(at, len)| Entry::Free(at, len));
        let allocated = runs(allocated, base).into_iter().map(|(at, len)| Entry::Alloc(at, len));
        freed.chain(allocated).collect()
    }

    /// Adds to the last block in place, if it has room.
    fn extend_tail(&mut self, u: &mut Universe, p: &Protocol, (base, gen): (Addr, Gen), logs: &mut Vec<Write>) -> bool {
        let Some((addr, hash)) = self.chain.last().copied() else { return false };
        let mut entries = u.log_entries(hash).to_vec();
        entries.extend(self.changes(p, base));
        entries.push(Entry::Barrier(gen));
        if entries.len() > u.log_capacity() {
            return false;
        }
        let (block, hash) = u.log(&entries, None);
        logs.push(Write { kind: Kind::Log, addr, block, gen });
        self.chain.pop();
        self.chain.push((addr, hash));
        true
    }

    /// Appends one fresh block, if what changed fits it, and relinks the old tail. Appending frees nothing, so it must
    /// leave the reserve to the rewrite that will have to come.
    fn append(
        &mut self,
        u: &mut Universe,
        (shape, p): (&Shape, &Protocol),
        (base, gen): (Addr, Gen),
        (logs, relinks): (&mut Vec<Write>, &mut Vec<Write>),
    ) -> Result<bool, Error> {
        let Some((tail, tail_hash)) = self.chain.last().copied() else { return Ok(false) };
        if self.planes.allocatable().count_ones() <= shape.log_reserve && !p.append_from_reserve {
            return Ok(false);
        }
        let block = first(self.planes.allocatable()).ok_or(Error::LogFull)?;
        let before = self.planes;
        self.planes.take_for_log(block)?;
        let mut entries = if p.opening_barrier { vec![Entry::Barrier(gen - 1)] } else { Vec::new() };
        entries.extend(self.changes(p, base));
        entries.push(Entry::Barrier(gen));
        if entries.len() > u.log_capacity() {
            self.planes = before;
            return Ok(false);
        }
        let addr = base + block as Addr;
        let (content, hash) = u.log(&entries, None);
        logs.push(Write { kind: Kind::Log, addr, block: content, gen });
        let old = u.log_entries(tail_hash).to_vec();
        let (content, _) = u.log(&old, Some(addr));
        relinks.push(Write { kind: Kind::Relink, addr: tail, block: content, gen });
        self.chain.push((addr, hash));
        Ok(true)
    }

    /// Writes the list of free ranges to a fresh chain, as short as it can be, and frees the old one.
    fn rewrite(
        &mut self,
        u: &mut Universe,
        p: &Protocol,
        (base, gen): (Addr, Gen),
        logs: &mut Vec<Write>,
    ) -> Result<(), Error> {
        for (addr, _) in std::mem::take(&mut self.chain) {
            self.planes.free_from_log(u32::from(addr - base))?;
        }
        let mut taken = Vec::new();
        let entries = loop {
            let block = first(self.planes.allocatable()).ok_or(Error::LogFull)?;
            self.planes.take_for_log(block)?;
            taken.push(base + block as Addr);
            let entries = self.free_list(p, base, gen);
            if entries.len() <= taken.len() * u.log_capacity() {
                break entries;
            }
        };
        for (addr, block, hash) in chain_blocks(u, &taken, &entries, p.barrier_last) {
            logs.push(Write { kind: Kind::Log, addr, block, gen });
            self.chain.push((addr, hash));
        }
        Ok(())
    }

    fn free_list(&self, p: &Protocol, base: Addr, gen: Gen) -> Vec<Entry> {
        let hidden = if p.log_reserved { self.planes.reserved() } else { 0 };
        let free = runs(self.planes.free_in_flight() & !hidden, base);
        free.into_iter().map(|(at, len)| Entry::Free(at, len)).chain([Entry::Barrier(gen)]).collect()
    }

    /// Makes the header that names the log as it now stands.
    pub fn write_header(&mut self, u: &mut Universe, p: &Protocol, barrier: Gen) {
        if !p.foreign {
            let digest = u.digest(&self.chain);
            self.extension = Some(Extension { blocks: self.chain.len() as u8, barrier, digest });
        }
        (self.header, self.header_hash) = u.header(self.chain[0].0, self.extension);
    }
}

/// Spreads entries over the blocks of a chain; gives address, content and hash of each.
///
/// Taking a block for the log changes the list of free ranges, so a chain can turn out a block longer than its entries
/// need. The barrier, the last entry, goes to the last block all the same (`barrier_last`): the bare rule stops at the
/// barrier, and a reader of that rule would not know of a block behind it.
fn chain_blocks(u: &mut Universe, taken: &[Addr], entries: &[Entry], barrier_last: bool) -> Vec<(Addr, Block, Digest)> {
    let capacity = u.log_capacity();
    let end = entries.len() - usize::from(barrier_last);
    let last = taken.len() - 1;
    (0..taken.len())
        .map(|i| {
            let mut part = entries[(i * capacity).min(end)..((i + 1) * capacity).min(end)].to_vec();
            if barrier_last && i == last {
                part.push(entries[end]);
            }
            let (block, hash) = u.log(&part, taken.get(i + 1).copied());
            (taken[i], block, hash)
        })
        .collect()
}
