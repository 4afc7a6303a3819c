//! Writing a file from its first byte to its last, in pieces of any length.
//!
//! The tree of pointers is built from below: each level has at most one unfinished block, and what is complete is
//! known by its pointer alone, which stands in the unfinished block one level up.
//!
//! ```text
//!   level 2                                      [ P0 P1 ..          }  unfinished
//!   level 1   P0 [ d0 .. d84 ]  P1 [ d85 .. ]    [ d170 d171 ..      }  unfinished
//!   data      complete ...                       [ bytes ..          }  unfinished
//! ```
//!
//! # Memory
//! One buffer for each level, made only when a level gets its second child: one for a file of one block, up to
//! [`MAX_CONTENT_HEIGHT`] in all. The writer itself is a few hundred bytes, and the stack does not grow with the file.

use super::walk::free_content;
use crate::entry::{pointers_per_block, span, Content, MAX_CONTENT_HEIGHT};
use crate::error::{Error, Result};
use arenite_core::format::{BlockSize, RawPtr};
use arenite_core::{Allocate, BlockPtr, Error as StoreError, Filling, Store};

const LEVELS: usize = MAX_CONTENT_HEIGHT as usize;

/// The unfinished end of one level: pointers to complete blocks of the level below.
enum End<'s> {
    Empty,
    /// A single one: it may yet be the root of the whole.
    One(BlockPtr),
    /// More, in a block that is being filled.
    Open {
        filling: Filling<'s>,
        used: u64,
    },
}

/// Writes the content of one file.
///
/// The blocks belong to no catalogue until the [`Content`] that [`FileWriter::finish`] returns is put into one. All of
/// it, from the first byte to that, has to happen between two commits: if a commit comes in between and the machine
/// stops before the next one, the blocks are in use on disk with nothing leading to them.
///
/// Dropping a writer frees what it wrote, which may read blocks; [`FileWriter::abort`] does the same and tells of
/// errors.
///
/// After an error the file cannot be completed: all further calls fail. (With [`StoreError::Full`]: drop the writer,
/// free something, commit, begin anew.)
pub struct FileWriter<'s, 'd, 'm> {
    store: &'s Store<'d, 'm>,
    hint: u32,
    size_bytes: u64,
    data: Option<Filling<'s>>,
    /// Bytes in `data`; 0 without.
    data_used: usize,
    /// Level `i` has pointers to nodes with `i` levels of pointers.
    ends: [End<'s>; LEVELS],
    failed: Option<Error>,
}

impl core::fmt::Debug for FileWriter<'_, '_, '_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FileWriter").field("size_bytes", &self.size_bytes).finish_non_exhaustive()
    }
}

impl<'s, 'd, 'm> FileWriter<'s, 'd, 'm> {
    /// Begins an empty file. `hint` chooses the arena where the search for room begins: files with the same one tend to
    /// lie together, CPUs with different ones do not wait for each other.
    #[must_use]
    pub fn new(store: &'s Store<'d, 'm>, hint: u32) -> Self {
        let ends = [const { End::Empty }; LEVELS];
        Self { store, hint, size_bytes: 0, data: None, data_used: 0, ends, failed: None }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Appends `bytes`. Blocks go to the store's queue as they fill.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.guarded(|writer| writer.append(bytes))
    }

    /// Ends the file. Its blocks are the caller's now: to be put into a catalogue, or to be freed with
    /// [`free_content`].
    pub fn finish(mut self) -> Result<Content> {
        self.guarded(|writer| {
            writer.flush_data()?;
            writer.close_all()
        })
    }

    /// Frees what was written. Fails with [`Error::Unfreed`] if not everything could be freed.
    pub fn abort(mut self) -> Result<()> {
        self.free_all()
    }

    /// Runs a step unless one failed before, and remembers its failure.
    fn guarded<R>(&mut self, step: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = step(self);
        self.failed = result.as_ref().err().copied();
        result
    }

    fn size(&self) -> BlockSize {
        self.store.block_size()
    }

    fn allocate(&self) -> Result<Filling<'s>> {
        Ok(self.store.allocate(Allocate::data().hint(self.hint))?)
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.data.is_none() {
                self.data = Some(self.allocate()?);
            }
            let page = self.data.as_mut().map_or(&mut [][..], Filling::bytes_mut);
            let room = page.get_mut(self.data_used..).unwrap_or(&mut []);
            let (now, rest) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            let is_full = now.len() == room.len();
            bytes = rest;
            self.data_used += now.len();
            self.size_bytes += now.len() as u64;
            if is_full {
                self.flush_data()?;
            }
        }
        Ok(())
    }

    /// Completes the data block, if there is one.
    fn flush_data(&mut self) -> Result<()> {
        self.data_used = 0;
        let Some(filling) = self.data.take() else { return Ok(()) };
        let ptr = self.store.enqueue(filling)?.ptr();
        self.push(0, ptr)
    }

    /// Gives a complete node with `level` levels of pointers its place. On an error, the node is freed.
    fn push(&mut self, level: u8, ptr: BlockPtr) -> Result<()> {
        let (mut level, mut ptr) = (level, ptr);
        loop {
            match self.place(level, ptr) {
                Ok(None) => return Ok(()),
                // The level's block was full and is complete now; the node begins the next one.
                Ok(Some(parent)) => (level, ptr) = (level + 1, parent),
                Err(error) => {
                    let _ = self.free_node(level, ptr);
                    return Err(error);
                }
            }
        }
    }

    /// Appends a node to its level. Returns the block of pointers that was complete before it, if there is one.
    fn place(&mut self, level: u8, ptr: BlockPtr) -> Result<Option<BlockPtr>> {
        let at = usize::from(level);
        let complete = match self.ends.get(at) {
            None => return Err(Error::FileTooLarge),
            Some(End::Open { used, .. }) if *used == pointers_per_block(self.size()) => Some(self.close(level)?),
            Some(End::Empty | End::Open { .. }) => None,
            Some(End::One(_)) => {
                self.open(level)?;
                None
            }
        };
        match &mut self.ends[at] {
            End::Open { filling, used } => append_pointer(filling, used, ptr)?,
            end => *end = End::One(ptr),
        }
        Ok(complete)
    }

    /// Moves the single pointer of a level into a block.
    fn open(&mut self, level: u8) -> Result<()> {
        let End::One(first) = self.ends[usize::from(level)] else { return Ok(()) };
        let (mut filling, mut used) = (self.allocate()?, 0);
        append_pointer(&mut filling, &mut used, first)?;
        self.ends[usize::from(level)] = End::Open { filling, used };
        Ok(())
    }

    /// Completes the block of pointers of a level that is not empty; the level is empty then.
    fn close(&mut self, level: u8) -> Result<BlockPtr> {
        self.open(level)?;
        match core::mem::replace(&mut self.ends[usize::from(level)], End::Empty) {
            // If this fails the store does not write any more, and no commit will ever contain these blocks.
            End::Open { filling, .. } => Ok(self.store.enqueue(filling)?.ptr()),
            End::Empty | End::One(_) => Err(Error::FileTooLarge),
        }
    }

    /// Completes all levels, from below, until a single node is left.
    fn close_all(&mut self) -> Result<Content> {
        for level in 0..LEVELS {
            let is_top = self.ends[level + 1..].iter().all(|end| matches!(end, End::Empty));
            match &self.ends[level] {
                End::Empty if is_top => return Ok(Content::EMPTY),
                End::Empty => {}
                End::One(root) if is_top => {
                    let content = Content::new(self.size_bytes, level as u8 + 1, *root);
                    self.ends[level] = End::Empty;
                    return Ok(content);
                }
                End::One(_) | End::Open { .. } => {
                    let node = self.close(level as u8)?;
                    self.push(level as u8 + 1, node)?;
                }
            }
        }
        Err(Error::FileTooLarge)
    }

    /// Frees a complete node with `level` levels of pointers: every block of pointers in it is full.
    fn free_node(&self, level: u8, ptr: BlockPtr) -> Result<()> {
        let size_bytes = span(self.size(), level).saturating_mul(self.size().len_u64());
        free_content(self.store, Content::new(size_bytes, level + 1, ptr))
    }

    fn free_all(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        self.data = None;
        self.failed = self.failed.or(Some(Error::FileTooLarge));
        for level in 0..LEVELS {
            match core::mem::replace(&mut self.ends[level], End::Empty) {
                End::Empty => {}
                End::One(ptr) => outcome = outcome.and(self.free_node(level as u8, ptr)),
                End::Open { filling, used } => {
                    for index in 0..used as usize {
                        let raw = RawPtr::decode(filling.bytes(), index * RawPtr::LEN_BYTES);
                        if let Some(ptr) = raw.and_then(BlockPtr::from_raw) {
                            let freed = self.free_node(level as u8, ptr);
                            outcome = outcome.and(freed);
                        }
                    }
                }
            }
        }
        outcome
    }
}

impl Drop for FileWriter<'_, '_, '_> {
    fn drop(&mut self) {
        // There is nobody to tell; blocks that could not be freed are part of the next commit.
        let _ = self.free_all();
    }
}

fn append_pointer(filling: &mut Filling<'_>, used: &mut u64, ptr: BlockPtr) -> Result<()> {
    let at = *used as usize * RawPtr::LEN_BYTES;
    RawPtr::from(ptr).encode(filling.bytes_mut(), at).ok_or(Error::Store(StoreError::NoBuffer))?;
    *used += 1;
    Ok(())
}
