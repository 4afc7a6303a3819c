//! An executable model of Arenite's commit and mount protocol, which enumerates crash states exhaustively.
//!
//! The model has no code in common with the product. It has a disk of blocks made of sectors, a volatile write cache
//! and flushes ([`disk`]); what a sector can hold, with an injective hash ([`content`]); the three bit planes of each
//! arena ([`planes`]); a store that builds commits ([`store`]) whose writes a protocol puts in epochs ([`protocol`]);
//! mount ([`mount`]); and an explorer that visits every state that a crash can leave, judges it, and crashes the
//! recovery from it as well ([`explore`]). [`suite`] holds the scenarios. The layout on disk was chosen by it, and it
//! stays in the test suite: a change of the protocol is made here first.
//!
//! # Assumptions
//! 1. A sector is written whole or not at all. Between two flushes any subset of the writes survives, each torn at any
//!    sectors. A flush makes durable what had completed before it was issued.
//! 2. Two writes of one block are never outstanding at once: whoever frees a block that is being written hands it out
//!    again only when that write has completed. (Their order would not be defined.)
//! 3. Hashes do not collide. Disks are told apart by a 128-bit key.
//! 4. Nothing turns to garbage between a mount and the end of its commits; what is garbage at mount is covered.
//!
//! # What came out
//! The chosen protocol has no bad state in any scenario (over 140 million crash states, 3.8 million of them
//! distinct). Every part of it is needed (`tests/sabotage.rs`), but for these:
//! - Repairing a bad *first* copy matters to no crash: the commit overwrites it before it is needed. Kept for
//!   redundancy.
//! - Blocks could be released after E2 instead of E3. Held until then there are two superblocks that do not need them.
//! - Both superblocks in one epoch are safe while a superblock is one sector; at two sectors both can tear.
//! - The digest never fails while the media keep their contract. It is there for lost and misdirected writes: freed log
//!   blocks stay valid logs, and without it a mount believes them.
//! - Cutting stale links and opening an appended block with a barrier do nothing for a reader with the extension.
//!   Both are for the bare rule: without the cut, aborted entries become live once a later commit passes that arena
//!   by. The bare rule holds for a state of ours when the superblock's extension lies in another sector than its hash
//!   and is torn off.
//!
//! And these had to be added to the first draft of the protocol:
//! - A flush before the first write after a mount: after a crash of the software alone, mount reads what is only in the
//!   device's cache. Writing on top of that, and then losing power, leaves no valid header.
//! - The first commit after a foreign one rewrites the log of every arena, touched or not: the superblock will say that
//!   the last commit was ours, and extensions from before would be believed. The same for an arena with entries
//!   behind its last barrier.
//! - Of the last log block the digest covers what stands before the last barrier, and the block's own hash does not
//!   count: the original adds there in place, and a crash of it would make a volume unreadable for us that it reads
//!   itself.
//! - Appending leaves the reserve alone: it frees nothing, and the rewrite that must follow needs blocks.
//! - The barrier of a rewritten log stands in its last block even when an earlier one has room.
//!
//! With that digest a log could even be added to in place (6 writes at any length, no relink). It is not, because the
//! bare rule refuses the torn block that a crash can leave.
//!
//! Logs that are rewritten are read alike by the bare rule in every crash state, unrepaired. Logs that are appended
//! to are not, so a crashed volume must be repaired before the original reads it.
#![forbid(unsafe_code)]

pub mod content;
pub mod disk;
pub mod explore;
pub mod losses;
pub mod mount;
pub mod planes;
pub mod protocol;
pub mod scenario;
pub mod store;
pub mod suite;
