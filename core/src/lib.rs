//! A crash-safe, copy-on-write, checksummed block store for kernels: no heap, no threads of its own, no operating
//! system under it. It reads and writes gefs 9.00 volumes.
//!
//! ```text
//!   store      what a user sees: allocate, enqueue, read, free, commit
//!   scrub      reads metadata again             check     compares it with what is reachable
//!   commit     the write and flush order        mount     from bytes to state      mkfs    a new volume
//!   queue      blocks that wait to be written   cache     blocks in memory
//!   epoch      who may still be reading     limbo     blocks that wait for them to leave
//!   arena      parts of the volume              freemap   which blocks are free, in which state of the disk
//!   memory     all of it, in one value          in_place  what is made there and stays
//!   pool       who may touch the bytes of a buffer
//!   format     every byte on the disk           hash      MetroHash64
//!   device     what a driver implements         platform  what a kernel provides
//! ```
//!
//! # First steps
//! ```
//! use arenite_core::format::BlockSize;
//! use arenite_core::{Allocate, Device, Error, Failed, FormatOptions, MountOptions, Platform, Store};
//!
//! arenite_core::memory! {
//!     /// 64 buffers of 16 KiB, for volumes of up to 1 GiB.
//!     static MEMORY: cache_blocks = 64, block_len_bytes = 16384, volume_blocks = 65536, arenas = 8, queue = 64;
//! }
//!
//! /// Mounts the volume on a disk, or makes one if the disk is blank.
//! fn open(
//!     disk: &'static dyn Device<'static>,
//!     kernel: &'static dyn Platform,
//! ) -> Result<Store<'static, 'static>, Error> {
//!     let memory = MEMORY.take().ok_or(Error::NoBuffer)?;
//!     match Store::mount(memory, disk, kernel, MountOptions::default()) {
//!         Ok(store) => Ok(store),
//!         Err(Failed { error: Error::NotAVolume { .. }, memory: Some(memory) }) => {
//!             let options = FormatOptions { block_size: BlockSize::ORIGINAL, arenas: 8, force: false };
//!             Store::format(memory, disk, kernel, options).map_err(|failed| failed.error)
//!         }
//!         Err(failed) => Err(failed.error),
//!     }
//! }
//!
//! /// Writes a block, commits it as the root, and reads it back.
//! fn hello(store: &Store<'_, '_>) -> Result<(), Error> {
//!     let mut block = store.allocate(Allocate::data())?;
//!     block.bytes_mut()[..5].copy_from_slice(b"hello");
//!     let block = store.enqueue(block)?;
//!     store.commit(store.roots().with_root(Some(block.ptr()), 1))?;
//!     if let Some(root) = store.roots().root_ptr() {
//!         assert_eq!(&store.read(root)?[..5], b"hello");
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Features
//! A kernel needs none.
//!
//! | feature    | what                                                                              |
//! |------------|-----------------------------------------------------------------------------------|
//! | `trace`    | a ring of the last events: which line allocated, queued, freed a block            |
//! | `sabotage` | switches that break one guarantee each, for tests that prove that tests notice    |
//! | `bench`    | parts of the store one by one, for the benchmarks of the repository               |
//! | `shuttle`  | locks and atomics of a model checker, for the tests of this crate                 |
//!
//! # Types
//! | type                                      | what                                                            |
//! |-------------------------------------------|-----------------------------------------------------------------|
//! | [`Memory`], [`Resources`]                 | all memory of a store; the same, taken                          |
//! | [`Device`], [`Request`], [`Completion`]   | what a driver implements, gets and gives back                   |
//! | [`Platform`]                              | what a kernel provides                                          |
//! | [`Store`], [`Mounting`], [`Formatting`]   | a mounted volume; on the way there by steps                     |
//! | [`Filling`], [`Block`], [`BlockPtr`]      | a block that is written once; final; what to keep of it         |
//! | [`Roots`], [`CommitTicket`]               | what a commit switches; a commit under way                      |
//! | [`Worker`]                                | a reader for whom reuse of freed blocks waits                   |
//! | [`Scrub`], [`Check`], [`Verify`]          | metadata read again; compared with what is reachable            |
//! | [`Error`], [`Damage`]                     | what failed, where, and what to do                              |
//!
//! Lower floors know nothing of higher ones. docs/DESIGN.md says why things are as they are, docs/FORMAT.md what every
//! byte means.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

mod arena;
#[cfg(all(feature = "bench", not(any(loom, feature = "shuttle"))))]
#[doc(hidden)]
pub mod bench;
mod block;
mod cache;
mod check;
mod commit;
pub mod device;
mod epoch;
mod error;
pub mod format;
mod freemap;
pub mod hash;
#[allow(unsafe_code)]
mod in_place;
mod limbo;
pub mod memory;
mod mkfs;
mod mount;
mod platform;
#[allow(unsafe_code)]
mod pool;
mod queue;
mod roots;
#[cfg_attr(not(feature = "sabotage"), doc(hidden))]
pub mod sabotage;
mod scrub;
mod store;
mod sync;
#[cfg(test)]
mod tests;
mod trace;

pub use arena::{Class, Space};
pub use block::{Block, BlockPtr, Filling};
pub use check::{check_words, Check, CheckReport, CheckStep, Finding, Verify};
pub use commit::{CommitCounters, CommitTicket};
pub use device::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};
pub use error::{Damage, DeviceOp, Error, MemoryPart};
pub use memory::{Memory, Resources};
pub use mkfs::{FormatOptions, Formatting};
pub use mount::{ArenaInfo, CopyState, Failed, MountOptions, MountReport, Mounting};
pub use platform::{NoInterrupts, Platform};
pub use roots::Roots;
pub use scrub::{Scrub, ScrubReport, ScrubStep};
pub use store::{Allocate, Counters, ReadOptions, Reading, StillOwned, Store, Worker};
#[cfg(feature = "trace")]
pub use trace::{TraceEvent, What as TraceWhat, TRACE_EVENTS};
