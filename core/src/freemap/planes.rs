//! The states of blocks, and what one word of each plane says about the blocks that are in it.

use super::{Quad, Word, DURABLE, FLIGHT, NEXT};
use crate::sabotage::{sabotaged, Switch};
use crate::sync::Ordering;

/// What the free map says about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    Reserved,
    New,
    NewInFlight,
    NewInFlightFreed,
    InUse,
    Freed,
    FreedInFlight,
}

/// One word of each plane.
#[derive(Clone, Copy)]
pub(super) struct Planes {
    pub(super) durable: Word,
    pub(super) flight: Word,
    pub(super) next: Word,
}

impl Planes {
    /// Beyond the end.
    pub(super) const IN_USE: Self = Self { durable: 0, flight: 0, next: 0 };

    #[inline(always)]
    pub(super) fn of(quad: &Quad) -> Self {
        let load = |plane: usize| quad[plane].load(Ordering::Relaxed);
        Self { durable: load(DURABLE), flight: load(FLIGHT), next: load(NEXT) }
    }

    /// Whether the block with this bit is in this state.
    #[inline(always)]
    pub(super) fn is(self, bit: Word, state: State) -> bool {
        let (durable, flight, next) = state.planes();
        let same = |word: Word, on: bool| if on { word } else { !word };
        same(self.durable, durable) & same(self.flight, flight) & same(self.next, next) & bit != 0
    }

    /// The same with a block, which is in the first of these states, in the second.
    #[inline(always)]
    pub(super) fn with(self, bit: Word, from: State, to: State) -> Self {
        let (from, to) = (from.planes(), to.planes());
        let change = |word: Word, was: bool, is: bool| if was == is { word } else { word ^ bit };
        Self {
            durable: change(self.durable, from.0, to.0),
            flight: change(self.flight, from.1, to.1),
            next: change(self.next, from.2, to.2),
        }
    }

    /// Whether the next commit would change anything.
    #[inline(always)]
    pub(super) fn is_changed(self) -> bool {
        self.rolled() != self.flight
    }

    /// Whether the commit in flight changes anything.
    #[inline(always)]
    pub(super) fn is_moved(self) -> bool {
        self.settled() != self.durable
    }

    #[inline(always)]
    pub(super) fn avail(self) -> Word {
        self.durable & self.flight & self.next
    }

    #[inline(always)]
    pub(super) fn reserved(self) -> Word {
        !self.durable & self.flight & !self.next
    }

    /// Freed, and held back by a commit.
    pub(super) fn pending(self) -> Word {
        self.next & !(self.durable & self.flight)
    }

    /// The next plane as a commit must see it: reserved blocks are free on disk.
    #[inline(always)]
    pub(super) fn rolled(self) -> Word {
        if sabotaged(Switch::LogReserved) {
            return self.next;
        }
        self.next | self.reserved()
    }

    /// What the commit in flight frees.
    #[inline(always)]
    pub(super) fn freed(self) -> Word {
        self.settled() & !self.durable
    }

    /// What it allocates.
    #[inline(always)]
    pub(super) fn taken(self) -> Word {
        self.durable & !self.settled()
    }

    /// The durable plane once the commit in flight is durable: reserved blocks stay reserved.
    #[inline(always)]
    pub(super) fn settled(self) -> Word {
        self.flight & !self.reserved()
    }
}

impl State {
    /// Freed, and held back by a commit.
    pub(super) const PENDING: u32 = Self::NewInFlightFreed.bit() | Self::Freed.bit() | Self::FreedInFlight.bit();

    /// The set of this state alone.
    pub(super) const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// 1 if it is in a set of states, else 0.
    pub(super) const fn is_in(self, set: u32) -> u32 {
        (set >> self as u32) & 1
    }

    /// The state of the block with this bit.
    #[inline(always)]
    pub(super) fn of(word: Planes, bit: Word) -> Self {
        match (word.durable & bit != 0, word.flight & bit != 0, word.next & bit != 0) {
            (true, true, true) => Self::Free,
            (false, true, false) => Self::Reserved,
            (true, true, false) => Self::New,
            (true, false, false) => Self::NewInFlight,
            (true, false, true) => Self::NewInFlightFreed,
            (false, false, false) => Self::InUse,
            (false, false, true) => Self::Freed,
            (false, true, true) => Self::FreedInFlight,
        }
    }

    pub(super) fn is_free_in_flight(self) -> bool {
        self.planes().1
    }

    /// The bits of a block in this state: durable, flight, next.
    #[inline(always)]
    pub(super) fn planes(self) -> (bool, bool, bool) {
        match self {
            Self::Free => (true, true, true),
            Self::Reserved => (false, true, false),
            Self::New => (true, true, false),
            Self::NewInFlight => (true, false, false),
            Self::NewInFlightFreed => (true, false, true),
            Self::InUse => (false, false, false),
            Self::Freed => (false, false, true),
            Self::FreedInFlight => (false, true, true),
        }
    }
}
