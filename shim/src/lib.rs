//! The host side of Arenite: devices, threads, and the harness that tests the core against crashes and faults.
//!
//! The core runs here unchanged, on a file or in memory, under a debugger or an enumerator of crash states.
//!
//! - Devices: [`FileDevice`] (files and block devices of the host), [`MemDevice`] (a [`Disk`] in memory), and wrappers
//!   that fail on demand ([`faulty::Faulty`]) or write down what happens ([`record::Recorder`]).
//! - Around a store: [`memory_box`] (its memory, on the heap), [`HostPlatform`], [`threads`], [`check`] (whether what
//!   is free and what is reachable agree).
//! - Crash states: [`workload`] records what a store does, [`trace`] cuts the record at the flushes, [`crash`]
//!   enumerates what a crash may leave, [`oracle`] judges each of them, [`explore`] does all of that and counts.
//! - For programs that want a block device: [`nbd`], a server of one, which records and misbehaves as it is told.
//!
//! Unix only, because of positional vectored input and output.
//!
//! Lock order: every lock in this crate is a leaf; none is held while another is taken or a device is called.
#![deny(unsafe_code)]

#[cfg(feature = "sabotage")]
pub mod breaking;
pub mod check;
pub mod client;
pub mod climb;
pub mod config;
pub mod corrupt;
pub mod corrupt_bare;
pub mod corrupt_copies;
mod corrupt_seal;
pub mod corrupt_stale;
pub mod corrupt_writes;
pub mod crash;
pub mod crowd;
pub mod damage;
pub mod disk;
pub mod endurance;
pub mod explore;
pub mod faults;
pub mod faulty;
pub mod file;
pub mod foreign;
pub mod fuzzing;
pub mod image;
pub mod ladder;
pub mod mem;
pub mod memo;
#[allow(unsafe_code)]
pub mod memory_box;
pub mod nbd;
pub mod oracle;
pub mod platform;
pub mod point;
pub mod probes;
pub mod record;
pub mod reformat;
pub mod rng;
pub mod room;
pub mod runner;
pub mod sequences;
pub mod steps;
pub mod streams;
pub mod threads;
pub mod trace;
pub mod tree;
#[cfg(all(feature = "uring", target_os = "linux"))]
#[allow(unsafe_code)]
pub mod uring;
pub mod workload;

pub use disk::Disk;
pub use file::{FileDevice, FileOptions, OpenError};
pub use image::ReadAt;
pub use mem::{MemDevice, MemOptions};
pub use memory_box::{boxed_memory, LargeMemory, SmallMemory};
pub use platform::HostPlatform;
