//! A catalogue of files on an Arenite store: the example of how to build a structure under the store's root.
//!
//! The catalogue is a copy-on-write B+tree from paths to entries (kind, mode, size, and the pointer to the content).
//! Changing one file writes one path of the tree; in memory there is a root pointer and a height, whatever the number
//! of files; and one commit makes any number of changes durable at once.
//!
//! ```text
//!   catalog    paths and entries: put, get, remove, iterate, commit
//!   edit       changing the tree          tree     finding and walking      node     one block of it
//!   plan       what new nodes are made of
//!   content    the bytes of files         entry    what is known of a file  visit    every block, for checks
//! ```
//!
//! ```no_run
//! # fn example(store: &arenite_core::Store<'_, '_>) -> arenite_catalog::Result<()> {
//! use arenite_catalog::{Catalog, Kind};
//!
//! let mut catalog = Catalog::open(store)?;
//! catalog.put_bytes(b"/etc/motd", Kind::File, 0o644, b"welcome\n")?;
//! catalog.commit()?;
//! if let Some(entry) = catalog.get(b"/etc/motd")? {
//!     let mut reader = catalog.reader(&entry);
//!     while let Some(bytes) = reader.next_block()? {
//!         // `bytes` lies in the store's cache, verified.
//!         assert_eq!(&*bytes, b"welcome\n");
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What it shows
//! - Blocks are allocated, filled, queued, and named by blocks that are queued later, up to the root.
//! - Whatever a new block replaces is freed after the new one is queued, never before: a change that fails half-way
//!   frees what it made, and nothing has happened.
//! - Changes that free more than they take use the class of allocations with a reserve: a full volume can be emptied.
//! - A block is trusted because of the hash in the pointer to it, and its content is checked all the same.
//!
//! # Memory
//! No heap. At most four buffers of the cache are held inside any operation on the tree or walk over its blocks, one
//! while content is freed. Between its calls, a [`FileWriter`] holds as many as the file has levels (one for a file of
//! one block, two up to `B / 24` blocks, three up to the square of that, at most [`MAX_CONTENT_HEIGHT`]), a reader one,
//! and what it was told to read ahead, a [`Cursor`] one. All of it works with the smallest cache that a store accepts,
//! and removing with the buffers that the store keeps for reclaiming alone.
#![no_std]
#![forbid(unsafe_code)]

mod catalog;
mod content;
mod edit;
mod entry;
mod error;
mod node;
mod plan;
mod tree;
mod visit;

pub use catalog::{Catalog, Cursor, Item};
pub use content::{free_content, FileBlock, FileReader, FileWriter, MAX_READ_AHEAD};
pub use entry::{Content, Entry, Kind, MAX_CONTENT_HEIGHT};
pub use error::{Error, Result};
pub use node::{max_path_len, MAX_HEIGHT};
pub use visit::{visit_blocks, BlockUse, Depth, VisitedBlock};
