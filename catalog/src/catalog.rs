//! The catalogue itself: paths and what they stand for.

use crate::content::{free_content, FileReader, FileWriter};
use crate::edit::{apply, Applied, Edit};
use crate::entry::{Content, Entry, Kind};
use crate::error::{Error, Result};
use crate::node::{max_path_len, parse_leaf};
use crate::tree::{find_leaf, seek, From, Root};
use arenite_core::format::BlockSize;
use arenite_core::{Block, BlockPtr, Class, Roots, Store};

/// A catalogue of files: in memory, nothing but the pointer to its root and its height.
///
/// Changes are in the store at once and on the medium with [`Catalog::commit`], all of them or none. One catalogue
/// exists per store, and one value of this type at a time may change it: two would each commit a tree that does not
/// know of the other's changes. Reading through `&self` is possible from any number of threads.
///
/// The value can be dropped with uncommitted changes only if nothing else commits afterwards: their blocks would be in
/// use on disk, and nothing would lead to them. Without a commit they never happened.
#[derive(Debug)]
pub struct Catalog<'s, 'd, 'm> {
    store: &'s Store<'d, 'm>,
    root: Root,
}

impl<'s, 'd, 'm> Catalog<'s, 'd, 'm> {
    /// Opens the catalogue of the newest commit; an empty one if its roots name nothing. Reads the nodes down to the
    /// first leaf, to find out whether it is a catalogue at all: [`Error::NotCatalog`] if not.
    pub fn open(store: &'s Store<'d, 'm>) -> Result<Self> {
        let catalog = Self { store, root: Root::from_roots(&store.roots())? };
        catalog.iter().next().transpose()?;
        Ok(catalog)
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &'s Store<'d, 'm> {
        self.store
    }

    /// The root block as it is now, changes included, if there is any entry.
    #[must_use]
    pub fn root(&self) -> Option<BlockPtr> {
        self.root.ptr
    }

    /// Levels of the tree as it is now; 0 while there is no entry.
    #[must_use]
    pub fn height(&self) -> u8 {
        self.root.height
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.root.ptr.is_none()
    }

    /// What a commit has to name to make all changes durable, for a caller that does not want to wait for it: see
    /// [`Store::commit_start`].
    #[must_use]
    pub fn roots(&self) -> Roots {
        self.store.roots().with_root(self.root.ptr, u32::from(self.root.height))
    }

    /// Makes all changes durable, as the store's next commit. Returns its generation.
    pub fn commit(&mut self) -> Result<u64> {
        Ok(self.store.commit(self.roots())?)
    }

    /// What `path` stands for, if anything.
    pub fn get(&self, path: &[u8]) -> Result<Option<Entry>> {
        self.find(path, Class::Normal)
    }

    fn find(&self, path: &[u8], class: Class) -> Result<Option<Entry>> {
        let Some(block) = find_leaf(self.store, self.root, path, class)? else { return Ok(None) };
        let size = self.store.block_size();
        let leaf = parse_leaf(&block, size)?;
        let Some(value) = leaf.search(path).ok().and_then(|index| leaf.value(index)) else { return Ok(None) };
        Entry::decode(value, size, block.ptr().addr).map(Some)
    }

    /// Puts `entry` under `path`, and frees the content of the entry that was there before, if there was one and it is
    /// another. Returns whether there was one. A content belongs to one path only.
    ///
    /// Takes `height` blocks, one more for each node that has to be split, and another for a new root; frees the
    /// `height` blocks that were replaced. On an error other than [`Error::Unfreed`] the old entry stays, and the
    /// content of the new one is still the caller's.
    pub fn put(&mut self, path: &[u8], entry: &Entry) -> Result<bool> {
        self.check_path(path)?;
        let old = self.get(path)?;
        let unfreed = self.change(Edit { key: path, value: Some(&entry.encode()) })?;
        // An entry that changes its mode only keeps its blocks.
        let old_content = old.map(|old| old.content).filter(|content| *content != entry.content);
        self.free_replaced(old_content, unfreed)?;
        Ok(old.is_some())
    }

    /// Removes `path` and frees its content. Returns whether it was there. Directories are not looked into.
    ///
    /// Takes at most `height` blocks, out of the store's reserve for reclaiming if need be, before it frees at least as
    /// many. In a full volume a commit is necessary each time that this reserve is used up. The buffers that the store
    /// keeps for reclaiming are enough too, when callers hold all others.
    pub fn remove(&mut self, path: &[u8]) -> Result<bool> {
        let Some(old) = self.find(path, Class::Reclaim)? else { return Ok(false) };
        let unfreed = self.change(Edit { key: path, value: None })?;
        self.free_replaced(Some(old.content), unfreed)?;
        Ok(true)
    }

    /// Writes `bytes` as the content of `path`, replacing what was there. Returns whether anything was.
    pub fn put_bytes(&mut self, path: &[u8], kind: Kind, mode: u32, bytes: &[u8]) -> Result<bool> {
        self.check_path(path)?;
        let content = self.write_content(bytes)?;
        self.put_or_free(path, &Entry { kind, mode, modified_s: 0, content })
    }

    /// On its own, so that the writer is off the stack when the tree is changed.
    #[inline(never)]
    fn write_content(&self, bytes: &[u8]) -> Result<Content> {
        let mut writer = FileWriter::new(self.store, 0);
        writer.write(bytes)?;
        writer.finish()
    }

    /// Like [`Catalog::put`], but frees the content of `entry` if it cannot be put.
    pub fn put_or_free(&mut self, path: &[u8], entry: &Entry) -> Result<bool> {
        let result = self.put(path, entry);
        match result {
            Ok(_) | Err(Error::Unfreed { .. }) => {}
            Err(_) => {
                // The first failure is the one to report.
                let _ = free_content(self.store, entry.content);
            }
        }
        result
    }

    /// Reads the content of an entry.
    #[must_use]
    pub fn reader(&self, entry: &Entry) -> FileReader<'s, 'd, 'm> {
        FileReader::new(self.store, entry.content)
    }

    /// All entries in bytewise order of their paths, a path before those that it begins.
    #[must_use]
    pub fn iter(&self) -> Cursor<'_, 's, 'd, 'm> {
        self.iter_from(&[])
    }

    /// All entries from the first one whose path is not below `path`, in order.
    #[must_use]
    pub fn iter_from<'k>(&'k self, path: &'k [u8]) -> Cursor<'k, 's, 'd, 'm> {
        Cursor { catalog: self, position: Position::At(path) }
    }

    /// The first entry whose path is above `path`: for walks that change the catalogue on their way.
    pub fn next_after(&self, path: &[u8]) -> Result<Option<Item<'s>>> {
        let found = seek(self.store, self.root, From::After(path))?;
        found.map(|(leaf, index)| Item::new(leaf, index, self.store.block_size())).transpose()
    }

    /// Number of entries. Reads every leaf.
    pub fn count(&self) -> Result<u64> {
        let mut count = 0;
        let mut found = seek(self.store, self.root, From::At(&[]))?;
        while let Some((block, _)) = found {
            let leaf = parse_leaf(&block, self.store.block_size())?;
            count += leaf.len() as u64;
            let last = leaf.key(leaf.len() - 1).unwrap_or(&[]);
            found = seek(self.store, self.root, From::After(last))?;
        }
        Ok(count)
    }

    fn check_path(&self, path: &[u8]) -> Result<()> {
        let max_bytes = max_path_len(self.store.block_size());
        if path.is_empty() || path.len() > max_bytes {
            return Err(Error::PathLen { len_bytes: path.len(), max_bytes });
        }
        Ok(())
    }

    fn change(&mut self, edit: Edit<'_>) -> Result<Option<arenite_core::Error>> {
        let Applied { root, unfreed } = apply(self.store, self.root, edit)?;
        self.root = root;
        Ok(unfreed)
    }

    /// The end of a change: frees the old content, and reports what could not be freed.
    fn free_replaced(&self, content: Option<Content>, unfreed: Option<arenite_core::Error>) -> Result<()> {
        let freed = content.map_or(Ok(()), |content| free_content(self.store, content));
        unfreed.map_or(freed, |cause| Err(Error::Unfreed { cause }))
    }
}

/// One entry with its path. Holds the leaf that both are in, so keep few of them at a time.
#[derive(Clone, Debug)]
pub struct Item<'s> {
    leaf: Block<'s>,
    path_at: core::ops::Range<usize>,
    entry: Entry,
}

impl<'s> Item<'s> {
    fn new(leaf: Block<'s>, index: usize, size: BlockSize) -> Result<Self> {
        let addr = leaf.ptr().addr;
        let missing = Error::NotCatalog { addr, what: "item of a leaf" };
        let items = parse_leaf(&leaf, size)?;
        let (path, value) = items.key(index).zip(items.value(index)).ok_or(missing)?;
        let entry = Entry::decode(value, size, addr)?;
        // The path lies inside the block: where, is kept, so that nothing has to be parsed again.
        let start = (path.as_ptr() as usize).wrapping_sub(leaf.bytes().as_ptr() as usize);
        let path_at = start..start + path.len();
        Ok(Self { leaf, path_at, entry })
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        self.leaf.bytes().get(self.path_at.clone()).unwrap_or(&[])
    }

    /// What it stands for.
    #[must_use]
    pub fn entry(&self) -> Entry {
        self.entry
    }
}

/// Where a [`Cursor`] stands.
enum Position<'k, 's> {
    At(&'k [u8]),
    /// Before this item of this leaf, or behind its last.
    In(Block<'s>, usize),
    End,
}

/// Goes through a catalogue in order. Holds one leaf; ends after an error.
pub struct Cursor<'k, 's, 'd, 'm> {
    catalog: &'k Catalog<'s, 'd, 'm>,
    position: Position<'k, 's>,
}

impl<'s> Cursor<'_, 's, '_, '_> {
    /// The next item's leaf and number.
    fn advance(&mut self) -> Result<Option<(Block<'s>, usize)>> {
        let Catalog { store, root } = *self.catalog;
        match core::mem::replace(&mut self.position, Position::End) {
            Position::End => Ok(None),
            Position::At(path) => seek(store, root, From::At(path)),
            Position::In(leaf, index) => {
                let items = parse_leaf(&leaf, store.block_size())?;
                if index < items.len() {
                    return Ok(Some((leaf, index)));
                }
                let last = items.key(items.len() - 1).unwrap_or(&[]);
                seek(store, root, From::After(last))
            }
        }
    }
}

impl<'s> Iterator for Cursor<'_, 's, '_, '_> {
    type Item = Result<Item<'s>>;

    fn next(&mut self) -> Option<Self::Item> {
        let size = self.catalog.store.block_size();
        let (leaf, index) = match self.advance() {
            Ok(found) => found?,
            Err(error) => return Some(Err(error)),
        };
        let item = Item::new(leaf.clone(), index, size);
        if item.is_ok() {
            self.position = Position::In(leaf, index + 1);
        }
        Some(item)
    }
}

impl core::fmt::Debug for Cursor<'_, '_, '_, '_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Cursor").field("catalog", &self.catalog).finish_non_exhaustive()
    }
}
