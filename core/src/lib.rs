//! A crash-safe, copy-on-write, checksummed block store for kernels: no heap, no threads of its own, no operating
//! system under it. It reads and writes gefs 9.00 volumes.
//!
//! ```text
//!   store      what a user sees: allocate, enqueue, read, free, commit
//!   commit     the write and flush order        mount     from bytes to state      mkfs    a new volume
//!   queue      blocks that wait to be written   cache     blocks in memory
//!   arena      parts of the volume              freemap   which blocks are free, in which state of the disk
//!   memory     all of it, in one value          pool      who may touch the bytes of a buffer
//!   format     every byte on the disk           hash      MetroHash64
//!   device     what a driver implements         platform  what a kernel provides
//! ```
//!
//! Lower floors know nothing of higher ones. docs/DESIGN.md says why things are as they are, docs/FORMAT.md what every
//! byte means.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

mod arena;
mod block;
mod cache;
mod commit;
pub mod device;
mod error;
pub mod format;
mod freemap;
pub mod hash;
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
mod store;
mod sync;
#[cfg(test)]
mod tests;

pub use arena::{Class, Space};
pub use block::{Block, BlockPtr, Filling};
pub use commit::{CommitCounters, CommitTicket};
pub use device::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};
pub use error::{Damage, DeviceOp, Error, MemoryPart};
pub use memory::{Memory, Resources};
pub use mkfs::FormatOptions;
pub use mount::{ArenaInfo, CopyState, Failed, MountOptions, MountReport, Mounting};
pub use platform::{NoInterrupts, Platform};
pub use roots::Roots;
pub use store::{Allocate, Counters, Reading, Store};
