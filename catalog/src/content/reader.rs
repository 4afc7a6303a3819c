//! Reading a file, verified through the pointers to every block.

use super::walk::pointer;
use crate::entry::{pointers_per_block, span, Content};
use crate::error::Result;
use arenite_core::{Block, BlockPtr, Store};

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
/// with the address and both hashes. Memory: one block of pointers is held between calls, besides what the caller holds.
#[derive(Debug)]
pub struct FileReader<'s, 'd, 'm> {
    store: &'s Store<'d, 'm>,
    content: Content,
    /// Number of the block that `next_block` reads.
    next: u64,
    /// The lowest block of pointers that was used last, and the number of the first data block under it.
    pointers: Option<(u64, Block<'s>)>,
}

impl<'s, 'd, 'm> FileReader<'s, 'd, 'm> {
    /// Begins at the first byte.
    #[must_use]
    pub fn new(store: &'s Store<'d, 'm>, content: Content) -> Self {
        Self { store, content, next: 0, pointers: None }
    }

    /// The next block of the file, `None` behind the last. After an error, the same block is tried again.
    pub fn next_block(&mut self) -> Result<Option<FileBlock<'s>>> {
        let block = self.block(self.next)?;
        self.next += u64::from(block.is_some());
        Ok(block)
    }

    /// Passes over the block that [`FileReader::next_block`] would read, for instance because it is damaged.
    pub fn skip_block(&mut self) {
        self.next += 1;
    }

    /// Block number `index` of the file, `None` behind the last.
    pub fn block(&mut self, index: u64) -> Result<Option<FileBlock<'s>>> {
        let size = self.store.block_size();
        if index >= self.content.data_blocks(size) {
            return Ok(None);
        }
        let Some(ptr) = self.locate(index)? else { return Ok(None) };
        let rest_bytes = self.content.size_bytes() - index * size.len_u64();
        let len_bytes = rest_bytes.min(size.len_u64()) as usize;
        Ok(Some(FileBlock { block: self.store.read(ptr)?, len_bytes }))
    }

    /// Copies bytes from `offset_bytes` on into `buffer`; returns how many, fewer than its length only at the end of the
    /// file.
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
