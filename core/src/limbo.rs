//! Limbo: blocks that no commit has and that somebody may still be reading.
//!
//! A block that was freed before any commit included it could be handed out at once, but for workers who are inside an
//! epoch. It waits here, free on disk in every state (reserved, see [`crate::freemap`]), until that epoch has passed:
//! limbo delays the reuse of a block, never what the log says. Blocks that a commit does include wait for that commit
//! to settle, which waits for the same epochs; they need no place here.
//!
//! The list is first in, first out, and of fixed capacity. From a quarter of the cache on, whoever frees helps the
//! epoch on first, a few steps or relaxations, more of them the fuller limbo is; so those who read get time to leave
//! before it is full. That wait is bounded: on a single CPU the one who frees may be inside an epoch itself. When limbo
//! is full, whoever frees waits for a place, and is told the name of the worker who holds it up.

use heapless::deque::{Deque, DequeView};

/// One block in limbo.
#[derive(Clone, Copy)]
pub(crate) struct Retired {
    pub(crate) block: u32,
    /// The epoch in which it was freed.
    pub(crate) stamp: u32,
}

/// A list of up to `N` blocks. All-zero when empty.
pub(crate) type Limbo<const N: usize> = Deque<Retired, N>;
/// The same, without its capacity in its type.
pub(crate) type LimboView = DequeView<Retired>;
