//! A small copy-on-write structure on top of a store, for tests: numbered slots, each with a block of known content.
//!
//! ```text
//!   one level:   root --> data ...            two levels:   root --> node --> data ...
//! ```
//!
//! Content follows from the slot and a version number, so that a model need only keep the versions. Nodes are rewritten
//! when a commit is prepared; until then changed pointers are in memory.
#![forbid(unsafe_code)]

use crate::rng::{fill, mix64, Rng};
use crate::tree::Tree;
use arenite_core::format::RawPtr;
use arenite_core::{Allocate, BlockPtr, Class, Error, Roots, Store};

/// Pointers in a node; fits the smallest block.
pub const FAN: usize = 80;

const NODE_MAGIC: [u8; 8] = *b"shimnode";
const AT_PTRS: usize = 16;
const DATA_HEAD: usize = 24;
const DENSE: u64 = 1 << 63;

/// Versions that [`Tree::change`] writes: above those of any recorded run.
const FIRST_VERSION: u64 = 1 << 40;

/// What a slot holds: a number that is new with every change, and whether the content fills the whole block or only
/// its first sector (fewer sectors that differ make fewer crash states). `Version::NONE` is an empty slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Version(u64);

impl Version {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// The version with this number, which is not 0 and has fewer than 63 bits.
    pub const fn new(number: u64, dense: bool) -> Self {
        Self(if dense { number | DENSE } else { number })
    }

    /// Fills a block with the content of this version of a slot.
    pub fn write(self, slot: usize, bytes: &mut [u8]) {
        let filled = if self.0 & DENSE != 0 { bytes.len() } else { crate::trace::SECTOR_LEN_BYTES };
        let seed = mix64(self.0) ^ slot as u64;
        if let Some(part) = bytes.get_mut(..filled) {
            fill(seed, part);
        }
        let words = [seed, slot as u64, self.0];
        for (target, word) in bytes.chunks_mut(8).zip(words) {
            target.copy_from_slice(&word.to_be_bytes());
        }
    }

    /// The version that `bytes` is of, if they are what was once written to `slot`.
    pub fn read(slot: usize, bytes: &[u8]) -> Option<Self> {
        let word = bytes.get(16..DATA_HEAD)?.try_into().ok()?;
        let version = Self(u64::from_be_bytes(word));
        let mut expected = vec![0; bytes.len()];
        version.write(slot, &mut expected);
        (version != Self::NONE && expected == bytes).then_some(version)
    }
}

/// Why the structure could not be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The store says so.
    Store(Error),
    /// A block passed its hash and yet is not what was written there.
    Content {
        /// Byte address of the block.
        addr: u64,
    },
}

impl From<Error> for LoadError {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// How large the structure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Slots: at most [`FAN`] for one level, `FAN * FAN` for two.
    pub slots: usize,
    /// Levels of pointers: 1 or 2.
    pub levels: u32,
}

/// The structure, with all its pointers in memory, apart from the store that it lies on.
#[derive(Clone, Debug)]
pub struct Slots {
    levels: u32,
    slots: Vec<(Version, Option<BlockPtr>)>,
    nodes: Vec<(bool, Option<BlockPtr>)>,
    root: (bool, Option<BlockPtr>),
    /// The class of the next allocations for data.
    pub class: Class,
}

impl Slots {
    /// The structure on this store, every block of it read and compared. A volume without a root holds nothing.
    pub fn load(store: &Store<'_, '_>, shape: Shape) -> Result<Self, LoadError> {
        let nodes = if shape.levels == 2 { shape.slots.div_ceil(FAN) } else { 0 };
        let mut slots = Self {
            levels: shape.levels,
            slots: vec![(Version::NONE, None); shape.slots],
            nodes: vec![(false, None); nodes],
            root: (false, store.roots().root_ptr()),
            class: Class::Normal,
        };
        let Some(root) = slots.root.1 else { return Ok(slots) };
        let root_ptrs = read_node(store, root)?;
        let mut data_ptrs = Vec::new();
        if shape.levels == 2 {
            for (node, ptr) in slots.nodes.iter_mut().zip(root_ptrs) {
                node.1 = ptr;
            }
            for (_, node) in &slots.nodes {
                data_ptrs.extend(match node {
                    Some(ptr) => read_node(store, *ptr)?,
                    None => vec![None; FAN],
                });
            }
        } else {
            data_ptrs = root_ptrs;
        }
        for (slot, ptr) in data_ptrs.into_iter().take(shape.slots).enumerate() {
            let Some(ptr) = ptr else { continue };
            let block = store.read(ptr)?;
            let version = Version::read(slot, &block).ok_or(LoadError::Content { addr: ptr.addr })?;
            slots.slots[slot] = (version, Some(ptr));
        }
        Ok(slots)
    }

    /// What each slot holds.
    pub fn versions(&self) -> Vec<Version> {
        self.slots.iter().map(|(version, _)| *version).collect()
    }

    /// Pointer to the block of a slot.
    pub fn ptr(&self, slot: usize) -> Option<BlockPtr> {
        self.slots.get(slot)?.1
    }

    /// Byte addresses of all blocks of the structure.
    pub fn addresses(&self) -> Vec<u64> {
        let data = self.slots.iter().map(|(_, ptr)| ptr);
        let nodes = self.nodes.iter().map(|(_, ptr)| ptr);
        data.chain(nodes).chain([&self.root.1]).flatten().map(|ptr| ptr.addr).collect()
    }

    /// Gives a slot new content.
    pub fn put(&mut self, store: &Store<'_, '_>, slot: usize, version: Version) -> Result<(), Error> {
        let mut filling = store.allocate(Allocate::data().class(self.class).hint(slot as u32))?;
        version.write(slot, filling.bytes_mut());
        let ptr = store.enqueue(filling)?.ptr();
        let old = std::mem::replace(&mut self.slots[slot], (version, Some(ptr)));
        self.touch(slot);
        old.1.map_or(Ok(()), |old| store.free(old))
    }

    /// Empties a slot.
    pub fn delete(&mut self, store: &Store<'_, '_>, slot: usize) -> Result<(), Error> {
        let (_, old) = std::mem::take(&mut self.slots[slot]);
        let Some(old) = old else { return Ok(()) };
        self.touch(slot);
        store.free(old)
    }

    fn touch(&mut self, slot: usize) {
        if let Some(node) = self.nodes.get_mut(slot / FAN) {
            node.0 = true;
        }
        self.root.0 = true;
    }

    /// Writes the nodes that changed and says what to commit. May be called again if it failed.
    pub fn prepare(&mut self, store: &Store<'_, '_>) -> Result<Roots, Error> {
        for at in 0..self.nodes.len() {
            if self.nodes[at].0 {
                let end = self.slots.len().min((at + 1) * FAN);
                let ptrs: Vec<_> = self.slots[at * FAN..end].iter().map(|(_, ptr)| *ptr).collect();
                self.nodes[at] = (false, rewrite_node(store, self.nodes[at].1, &ptrs)?);
            }
        }
        if self.root.0 {
            let children: Vec<_> = match self.levels {
                2 => self.nodes.iter().map(|(_, ptr)| *ptr).collect(),
                _ => self.slots.iter().map(|(_, ptr)| *ptr).collect(),
            };
            self.root = (false, rewrite_node(store, self.root.1, &children)?);
        }
        Ok(store.roots().with_root(self.root.1, self.levels))
    }
}

impl Tree for Slots {
    type Shape = Shape;
    type Content = Vec<Version>;

    fn open(shape: &Shape, store: &Store<'_, '_>) -> Result<Self, String> {
        Self::load(store, *shape).map_err(|error| format!("{error:?}"))
    }

    fn content(&self) -> Vec<Version> {
        self.versions()
    }

    fn addresses(&self) -> Vec<u64> {
        Slots::addresses(self)
    }

    fn change(&mut self, store: &Store<'_, '_>, rng: &mut Rng) -> Result<(), Error> {
        for _ in 0..2 {
            let slot = rng.below(self.slots.len() as u64) as usize;
            // Never the same twice, so that what an earlier try left behind cannot pass for what this one writes.
            let version = Version::new(FIRST_VERSION | rng.next_u64() >> 24, false);
            match self.put(store, slot, version) {
                Err(Error::Full { .. }) => self.delete(store, slot)?,
                result => result?,
            }
        }
        Ok(())
    }

    fn prepare(&mut self, store: &Store<'_, '_>) -> Result<Roots, Error> {
        let roots = Slots::prepare(self, store)?;
        Ok(Roots { next_qid: roots.next_qid + 1, ..roots })
    }
}

fn read_node(store: &Store<'_, '_>, ptr: BlockPtr) -> Result<Vec<Option<BlockPtr>>, LoadError> {
    let block = store.read(ptr)?;
    if !block.starts_with(&NODE_MAGIC) {
        return Err(LoadError::Content { addr: ptr.addr });
    }
    let ptrs = (0..FAN).map(|at| RawPtr::decode(&block, AT_PTRS + at * RawPtr::LEN_BYTES));
    Ok(ptrs.map(|raw| raw.and_then(BlockPtr::from_raw)).collect())
}

/// Replaces a node, or drops it if nothing is left in it.
fn rewrite_node(
    store: &Store<'_, '_>,
    old: Option<BlockPtr>,
    ptrs: &[Option<BlockPtr>],
) -> Result<Option<BlockPtr>, Error> {
    let new = if ptrs.iter().any(Option::is_some) { Some(write_node(store, ptrs)?) } else { None };
    old.map_or(Ok(()), |old| store.free(old))?;
    Ok(new)
}

/// The structure together with its store.
pub struct Client<'a, 'd, 'm> {
    store: &'a Store<'d, 'm>,
    slots: Slots,
}

impl std::ops::Deref for Client<'_, '_, '_> {
    type Target = Slots;

    fn deref(&self) -> &Slots {
        &self.slots
    }
}

impl<'a, 'd, 'm> Client<'a, 'd, 'm> {
    /// The structure on this store, see [`Slots::load`].
    pub fn load(store: &'a Store<'d, 'm>, slots: usize, levels: u32) -> Result<Self, LoadError> {
        Ok(Self { store, slots: Slots::load(store, Shape { slots, levels })? })
    }

    /// The class of the next allocations for data.
    pub fn set_class(&mut self, class: Class) {
        self.slots.class = class;
    }

    /// Gives a slot new content.
    pub fn put(&mut self, slot: usize, version: Version) -> Result<(), Error> {
        self.slots.put(self.store, slot, version)
    }

    /// Empties a slot.
    pub fn delete(&mut self, slot: usize) -> Result<(), Error> {
        self.slots.delete(self.store, slot)
    }

    /// Writes the nodes that changed and says what to commit. May be called again if it failed.
    pub fn prepare(&mut self) -> Result<Roots, Error> {
        self.slots.prepare(self.store)
    }
}

/// Writes a node with up to [`FAN`] pointers.
pub fn write_node(store: &Store<'_, '_>, ptrs: &[Option<BlockPtr>]) -> Result<BlockPtr, Error> {
    let mut filling = store.allocate(Allocate::data().class(Class::Reclaim))?;
    let bytes = filling.bytes_mut();
    bytes[..NODE_MAGIC.len()].copy_from_slice(&NODE_MAGIC);
    for at in 0..FAN {
        let raw = ptrs.get(at).copied().flatten().map_or(RawPtr::NULL, RawPtr::from);
        // `FAN` pointers fit the smallest block.
        let _ = raw.encode(bytes, AT_PTRS + at * RawPtr::LEN_BYTES);
    }
    Ok(store.enqueue(filling)?.ptr())
}

const _: () = assert!(AT_PTRS + FAN * RawPtr::LEN_BYTES <= 2048);

impl std::fmt::Debug for Client<'_, '_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("slots", &self.slots.slots.len()).finish_non_exhaustive()
    }
}
