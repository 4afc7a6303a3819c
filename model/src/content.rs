//! What a sector can hold, and the model's hash.
//!
//! Every value that can stand on the disk is interned: equal contents have equal numbers, so a disk is an array of
//! small integers, two disks are compared by comparing integers, and a hash is the number of the hashed value. Such a
//! hash is injective: the model assumes that the real one has no collisions, and nothing else about it.
//!
//! Blocks have two sectors. A superblock takes one or both ([`SuperLayout`]); a header is one sector, but its hash
//! covers both; a log block keeps length, hash, chain pointer and the first entries in sector 0 and further entries
//! in sector 1, and its hash covers the entries only.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// Sectors of a block.
pub const SECTORS: usize = 2;

/// Number of a block on the disk.
pub type Addr = u16;
/// Number of an interned sector content.
pub type Token = u32;
/// Number of an interned hashed value: an injective hash.
pub type Digest = u32;
/// Generation of a commit.
pub type Gen = u32;
/// Content of one block.
pub type Block = [Token; SECTORS];

/// Pointer to a data block: where it is, and what it must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ptr {
    /// Block number.
    pub addr: Addr,
    /// Number of the interned [`Body`]; stands for the hash in a real block pointer.
    pub body: u32,
}

/// Content of a data block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// User data: the version of a slot, unique in the history of a disk.
    Leaf {
        /// Slot in the tree.
        slot: u8,
        /// Number of mounts before it was written.
        life: u8,
        /// Position in the script of that life.
        round: u8,
    },
    /// The root of the tree: a pointer for each slot.
    Root {
        /// One pointer a slot.
        children: Vec<Option<Ptr>>,
        /// Number of mounts before it was written.
        life: u8,
        /// Position in the script of that life.
        round: u8,
    },
}

/// Entry of an allocation log. Ranges are block numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// A range became free.
    Free(Addr, u16),
    /// A range became allocated.
    Alloc(Addr, u16),
    /// What stands before belongs to this generation or an older one.
    Barrier(Gen),
}

/// What Arenite keeps in an arena header behind the fields of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extension {
    /// Blocks of the chain that belong to the log.
    pub blocks: u8,
    /// Generation of the last barrier of the log.
    pub barrier: Gen,
    /// Digest over address and hash of each of those blocks.
    pub digest: Digest,
}

/// The hashed fields of a superblock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SuperFields {
    /// Root of the tree.
    pub root: Ptr,
    /// Generation of the commit.
    pub qgen: Gen,
    /// Hash of each arena's header.
    pub headers: Vec<Digest>,
}

/// Where the parts of a superblock lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuperLayout {
    /// All in the first sector.
    OneSector,
    /// The hashed part spans both sectors, the extension follows it.
    TwoSectors,
    /// The hashed part fills the first sector, the extension lies in the second.
    ExtensionApart,
}

/// Content of one sector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Sector {
    /// Zeros.
    Zero,
    /// Bytes that decode as nothing.
    Garbage,
    /// A superblock that fits one sector. The last field, the extension, is not hashed.
    Super(SuperFields, Digest, Gen),
    /// A superblock that fills one sector, without its extension.
    SuperFull(SuperFields, Digest),
    /// The extension of such a superblock.
    SuperExtension(Gen),
    /// First sector of a wide superblock: root, generation, header of the first arena.
    SuperFront(Ptr, Gen, Digest),
    /// Second sector of a wide superblock: the other headers, the hash, the extension.
    SuperBack(Vec<Digest>, Digest, Gen),
    /// An arena header: log head, extension.
    Header(Addr, Option<Extension>),
    /// First sector of a log block: number of entries, hash, chain pointer, entries.
    LogFront(u8, Digest, Option<Addr>, Vec<Entry>),
    /// Second sector of a log block: further entries.
    LogBack(Vec<Entry>),
    /// Part of a data block.
    Data(u32, u8),
}

/// A value that something on the disk carries the hash of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hashed {
    /// Entries of a log block.
    Log(Vec<Entry>),
    /// A whole block (arena headers).
    Whole(Block),
    /// The fields of a superblock.
    Super(SuperFields),
    /// Address and hash of each block of a log.
    Chain(Vec<(Addr, Digest)>),
}

/// A quick hasher (multiply and rotate) for the many small keys of the model.
#[derive(Default, Clone, Copy)]
pub struct Quick(u64);

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }
    fn write_u8(&mut self, v: u8) {
        self.write_u64(u64::from(v));
    }
    fn write_u16(&mut self, v: u16) {
        self.write_u64(u64::from(v));
    }
    fn write_u32(&mut self, v: u32) {
        self.write_u64(u64::from(v));
    }
    fn write_u64(&mut self, v: u64) {
        self.0 = (self.0.rotate_left(23) ^ v).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 ^= self.0 >> 29;
    }
    fn write_usize(&mut self, v: usize) {
        self.write_u64(v as u64);
    }
    fn write_u128(&mut self, v: u128) {
        self.write_u64(v as u64);
        self.write_u64((v >> 64) as u64);
    }
}

/// The builder for [`Quick`].
pub type QuickBuild = BuildHasherDefault<Quick>;

/// Values by number, numbers by value.
struct Interner<T> {
    values: Vec<T>,
    numbers: HashMap<T, u32, QuickBuild>,
}

impl<T: Clone + Eq + Hash> Interner<T> {
    fn new() -> Self {
        Interner { values: Vec::new(), numbers: HashMap::default() }
    }

    fn number(&mut self, value: T) -> u32 {
        if let Some(n) = self.numbers.get(&value) {
            return *n;
        }
        let n = self.values.len() as u32;
        self.values.push(value.clone());
        self.numbers.insert(value, n);
        n
    }
}

/// All contents seen so far.
pub struct Universe {
    sectors: Interner<Sector>,
    hashes: Interner<Hashed>,
    bodies: Interner<Body>,
    front_entries: usize,
    back_entries: usize,
    super_layout: SuperLayout,
}

/// A log block as read.
#[derive(Clone, Copy)]
pub struct LogView<'a> {
    /// Hash of the entries.
    pub hash: Digest,
    /// Chain pointer.
    pub link: Option<Addr>,
    /// Entries.
    pub entries: &'a [Entry],
}

impl Universe {
    /// An empty universe. `front_entries` and `back_entries`: log entries in the two sectors of a log block.
    pub fn new(front_entries: usize, back_entries: usize, super_layout: SuperLayout) -> Self {
        let mut u = Universe {
            sectors: Interner::new(),
            hashes: Interner::new(),
            bodies: Interner::new(),
            front_entries,
            back_entries,
            super_layout,
        };
        u.sectors.number(Sector::Zero); // token 0 is the zero sector
        u
    }

    /// Entries that fit a log block.
    pub fn log_capacity(&self) -> usize {
        self.front_entries + self.back_entries
    }

    /// A block of garbage.
    pub fn garbage(&mut self) -> Block {
        [self.sectors.number(Sector::Garbage); SECTORS]
    }

    /// Number of a data block's content.
    pub fn body(&mut self, body: Body) -> u32 {
        self.bodies.number(body)
    }

    /// The content with a number.
    pub fn body_of(&self, number: u32) -> &Body {
        &self.bodies.values[number as usize]
    }

    /// A data block.
    pub fn data(&mut self, body: u32) -> Block {
        [self.sectors.number(Sector::Data(body, 0)), self.sectors.number(Sector::Data(body, 1))]
    }

    /// Does this block hold that content, whole?
    pub fn is_data(&self, block: Block, body: u32) -> bool {
        (0..SECTORS).all(|i| *self.sector(block[i]) == Sector::Data(body, i as u8))
    }

    /// A superblock. `ours`: generation of the last commit that Arenite wrote, the extension.
    pub fn superblock(&mut self, fields: SuperFields, ours: Gen) -> Block {
        let hash = self.hashes.number(Hashed::Super(fields.clone()));
        match self.super_layout {
            SuperLayout::OneSector => return [self.sectors.number(Sector::Super(fields, hash, ours)), 0],
            SuperLayout::ExtensionApart => {
                let front = self.sectors.number(Sector::SuperFull(fields, hash));
                return [front, self.sectors.number(Sector::SuperExtension(ours))];
            }
            SuperLayout::TwoSectors => {}
        }
        let front = Sector::SuperFront(fields.root, fields.qgen, fields.headers[0]);
        let back = Sector::SuperBack(fields.headers[1..].to_vec(), hash, ours);
        [self.sectors.number(front), self.sectors.number(back)]
    }

    /// Reads a superblock: its fields and the generation in its extension, or nothing if it is not valid.
    pub fn read_superblock(&self, block: Block) -> Option<(&SuperFields, Gen)> {
        match (self.sector(block[0]), self.sector(block[1])) {
            (Sector::Super(fields, hash, ours), _) => match self.hashed(*hash) {
                Hashed::Super(f) if f == fields => Some((f, *ours)),
                _ => None,
            },
            (Sector::SuperFull(fields, hash), back) => {
                // No extension at all counts as one of no generation.
                let ours = if let Sector::SuperExtension(gen) = back { *gen } else { Gen::MAX };
                matches!(self.hashed(*hash), Hashed::Super(f) if f == fields).then_some((fields, ours))
            }
            (Sector::SuperFront(root, qgen, first), Sector::SuperBack(rest, hash, ours)) => match self.hashed(*hash) {
                Hashed::Super(f)
                    if f.root == *root && f.qgen == *qgen && f.headers[0] == *first && f.headers[1..] == rest[..] =>
                {
                    Some((f, *ours))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// An arena header and its hash.
    pub fn header(&mut self, head: Addr, extension: Option<Extension>) -> (Block, Digest) {
        let block = [self.sectors.number(Sector::Header(head, extension)), 0];
        (block, self.hashes.number(Hashed::Whole(block)))
    }

    /// Reads a header that must have the given hash.
    pub fn read_header(&self, block: Block, hash: Digest) -> Option<(Addr, Option<Extension>)> {
        match (self.hashed(hash), self.sector(block[0])) {
            (Hashed::Whole(b), Sector::Header(head, ext)) if *b == block => Some((*head, *ext)),
            _ => None,
        }
    }

    /// A log block and the hash of its entries.
    pub fn log(&mut self, entries: &[Entry], link: Option<Addr>) -> (Block, Digest) {
        assert!(entries.len() <= self.log_capacity(), "a log block is overfull");
        let hash = self.hashes.number(Hashed::Log(entries.to_vec()));
        let cut = entries.len().min(self.front_entries);
        let front = Sector::LogFront(entries.len() as u8, hash, link, entries[..cut].to_vec());
        let back = if cut < entries.len() { Sector::LogBack(entries[cut..].to_vec()) } else { Sector::Zero };
        ([self.sectors.number(front), self.sectors.number(back)], hash)
    }

    /// Reads a log block; nothing if it is none, or its hash does not match.
    pub fn read_log(&self, block: Block) -> Option<LogView<'_>> {
        let Sector::LogFront(len, hash, link, front) = self.sector(block[0]) else { return None };
        let Hashed::Log(entries) = self.hashed(*hash) else { return None };
        let back: &[Entry] = match self.sector(block[1]) {
            Sector::LogBack(back) if usize::from(*len) > front.len() => back,
            _ => &[],
        };
        let whole = entries.len() == usize::from(*len)
            && entries.len() == front.len() + back.len()
            && entries[..front.len()] == front[..]
            && entries[front.len()..] == *back;
        whole.then_some(LogView { hash: *hash, link: *link, entries })
    }

    /// Reads the entries of a log block up to a barrier, whatever its length and hash say. Nothing if it
    /// is no log block, or no such entries were ever written.
    pub fn read_log_prefix(&self, block: Block, barrier: Gen) -> Option<LogView<'_>> {
        let Sector::LogFront(_, _, link, front) = self.sector(block[0]) else { return None };
        let mut raw = front.clone();
        if let (true, Sector::LogBack(back)) = (front.len() == self.front_entries, self.sector(block[1])) {
            raw.extend(back);
        }
        let end = raw.iter().position(|e| *e == Entry::Barrier(barrier))? + 1;
        raw.truncate(end);
        let hash = *self.hashes.numbers.get(&Hashed::Log(raw))?;
        Some(LogView { hash, link: *link, entries: self.log_entries(hash) })
    }

    /// The entries with a hash.
    pub fn log_entries(&self, hash: Digest) -> &[Entry] {
        match self.hashed(hash) {
            Hashed::Log(entries) => entries,
            _ => &[],
        }
    }

    /// Digest of a chain.
    pub fn digest(&mut self, chain: &[(Addr, Digest)]) -> Digest {
        self.hashes.number(Hashed::Chain(chain.to_vec()))
    }

    /// Is this the digest of that chain?
    pub fn is_digest(&self, digest: Digest, chain: &[(Addr, Digest)]) -> bool {
        matches!(self.hashed(digest), Hashed::Chain(c) if c == chain)
    }

    fn sector(&self, token: Token) -> &Sector {
        &self.sectors.values[token as usize]
    }

    fn hashed(&self, hash: Digest) -> &Hashed {
        &self.hashes.values[hash as usize]
    }
}
