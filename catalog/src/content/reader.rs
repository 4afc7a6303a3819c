//! Reading a file, verified through the pointers to every block.

use super::walk::pointer;
use crate::entry::{pointers_per_block, span, Content};
use crate::error::Result;
use arenite_core::{Block, BlockPtr, Reading, Store};
use heapless::Deque;

/// Most blocks that a reader can be ahead of its user.
pub const MAX_READ_AHEAD: usize = 16;

/// One block of a file's bytes, held in the cache; only the bytes that belong to the file.
#[derive(Clone, Debug)]
pub struct FileBlock<'s> {
    block: Block<'s>,
    len_bytes: usize,
}

impl FileBlock<'_> {
    /// The pointer to the block.
    #[must_use]
    pub fn ptr(&self) -> BlockPtr {
        self.block.ptr()
    }
}

impl core::ops::Deref for FileBlock<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.block.bytes().get(..self.len_bytes).unwrap_or(&[])
    }
}

/// Reads the content of one file: block by block, or from any place.
///
/// No byte is returned before the hash of its whole block was found to be the one in the pointer; damage is an error
/// with the address and both hashes. Memory: one block of pointers is held between calls, and the blocks that are read
/// ahead, besides what the caller holds.
#[derive(Debug)]
pub struct FileReader<'s, 'd, 'm> {
    store: &'s Store<'d, 'm>,
    content: Content,
    /// Number of the block that `next_block` reads.
    next: u64,
    /// The lowest block of pointers that was used last, and the number of the first data block under it.
    pointers: Option<(u64, Block<'s>)>,
    /// Blocks to be ahead.
    read_ahead: usize,
    /// Reads of the blocks from `next` on that were started. They keep the blocks in the cache.
    ahead: Deque<(BlockPtr, Reading<'s>), MAX_READ_AHEAD>,
}

impl<'s, 'd, 'm> FileReader<'s, 'd, 'm> {
    /// Begins at the first byte.
    #[must_use]
    pub fn new(store: &'s Store<'d, 'm>, content: Content) -> Self {
        Self { store, content, next: 0, pointers: None, read_ahead: 0, ahead: Deque::new() }
    }

    /// Keeps up to so many reads under way for [`FileReader::next_block`], at most [`MAX_READ_AHEAD`]. Each one holds a
    /// buffer of the cache until its block is asked for; fewer are used when the cache has no more to spare.
    #[must_use]
    pub fn with_read_ahead(mut self, blocks: usize) -> Self {
        self.read_ahead = blocks.min(MAX_READ_AHEAD);
        self
    }

    /// The next block of the file, `None` behind the last. After an error, the same block is tried again.
    pub fn next_block(&mut self) -> Result<Option<FileBlock<'s>>> {
        self.start_ahead();
        let mut block = self.read_next();
        if block.is_err() && !self.ahead.is_empty() {
            // A read that failed while it was ahead does not count.
            block = self.read_next();
        }
        if let Ok(Some(_)) = block {
            self.skip_block();
        }
        block
    }

    /// Passes over the block that [`FileReader::next_block`] would read, for instance because it is damaged.
    pub fn skip_block(&mut self) {
        self.next += 1;
        self.ahead.pop_front();
    }

    fn read_next(&mut self) -> Result<Option<FileBlock<'s>>> {
        match self.ahead.front().map(|(ptr, _)| *ptr) {
            Some(ptr) => self.read(self.next, ptr).map(Some),
            None => self.block(self.next),
        }
    }

    /// Starts reads ahead. What cannot be started now is no failure: the block will be read when it is its turn.
    fn start_ahead(&mut self) {
        while self.ahead.len() < self.read_ahead {
            let index = self.next + self.ahead.len() as u64;
            if index >= self.content.data_blocks(self.store.block_size()) {
                return;
            }
            let Ok(Some(ptr)) = self.locate(index) else { return };
            let Ok(reading) = self.store.start_read(ptr) else { return };
            if self.ahead.push_back((ptr, reading)).is_err() {
                return;
            }
        }
    }

    /// Block number `index` of the file, `None` behind the last.
    pub fn block(&mut self, index: u64) -> Result<Option<FileBlock<'s>>> {
        let size = self.store.block_size();
        if index >= self.content.data_blocks(size) {
            return Ok(None);
        }
        let Some(ptr) = self.locate(index)? else { return Ok(None) };
        self.read(index, ptr).map(Some)
    }

    /// Reads block `index`, which is inside the file.
    fn read(&self, index: u64, ptr: BlockPtr) -> Result<FileBlock<'s>> {
        let block_len = self.store.block_size().len_u64();
        let rest_bytes = self.content.size_bytes() - index * block_len;
        Ok(FileBlock { block: self.store.read(ptr)?, len_bytes: rest_bytes.min(block_len) as usize })
    }

    /// Copies bytes from `offset_bytes` on into `buffer`; returns how many, fewer than its length only at the end of
    /// the file.
    pub fn read_at(&mut self, offset_bytes: u64, buffer: &mut [u8]) -> Result<usize> {
        let size = self.store.block_size();
        let mut done = 0;
        while done < buffer.len() {
            let Some(at) = offset_bytes.checked_add(done as u64) else { break };
            let Some(block) = self.block(at >> size.shift())? else { break };
            let from = (at & (size.len_u64() - 1)) as usize;
            let bytes = block.get(from..).unwrap_or(&[]);
            let target = &mut buffer[done..];
            let now = bytes.len().min(target.len());
            if now == 0 {
                break;
            }
            target[..now].copy_from_slice(&bytes[..now]);
            done += now;
        }
        Ok(done)
    }

    /// The pointer to data block `index`, which is inside the file.
    fn locate(&mut self, index: u64) -> Result<Option<BlockPtr>> {
        let size = self.store.block_size();
        let Some(mut ptr) = self.content.root() else { return Ok(None) };
        if self.content.height() <= 1 {
            return Ok(Some(ptr));
        }
        let per_block = pointers_per_block(size);
        let first = index - index % per_block;
        if let Some((held, block)) = &self.pointers {
            if *held == first {
                return Ok(Some(pointer(block, index - first)?));
            }
        }
        self.pointers = None;
        let mut block = self.store.read(ptr)?;
        for level in (2..self.content.height()).rev() {
            ptr = pointer(&block, index / span(size, level - 1) % per_block)?;
            block = self.store.read(ptr)?;
        }
        ptr = pointer(&block, index - first)?;
        self.pointers = Some((first, block));
        Ok(Some(ptr))
    }
}
