//! Who owns a buffer: one who may write, or any number of readers, counted so that readers on different CPUs do not
//! meet.
//!
//! A count that every reader of a block raises and lowers is a cache line that goes back and forth between the CPUs
//! that read it. So each frame has a seat in each of [`ROWS`] rows, a CPU counts its readers in the row that its
//! number gives, and no line is of two rows.
//!
//! ```text
//!            frame 0   frame 1   frame 2
//!   row 0   | seat    | seat    | seat  ...     CPUs 0, 4, 8 ...
//!   row 1   | seat    | seat    | seat  ...     CPUs 1, 5, 9 ...
//! ```
//!
//! # Invariants
//! - The word of a seat is [`TAKEN`] while somebody claims or owns the frame, and otherwise the number of readers who
//!   were counted in this seat. A reader leaves the seat in which it was counted, wherever it runs by then.
//! - Whoever claims a frame takes its seats in the order of the rows, each from 0, and is the sole owner when it has
//!   them all; if one is not 0, it gives back those that it has.
//!
//! # Why there is never a reader beside a sole owner
//! A reader is counted in some seat for as long as it is one, and a sole owner has taken that seat: the same word says
//! both, and changes from the one to the other only through 0, in one step. Of two who claim, the second finds the
//! first seat taken. Nobody waits for anybody: whoever finds a seat taken, or not empty, has failed.
//!
//! What the one did is seen by the other for the same reason: leaving and giving back are releases, counting and taking
//! are acquisitions, of the word that both use. That holds for giving back after a failed claim as well: whoever takes
//! the seat next knows of the reader who had left it before only through that.
//!
//! A claim that fails may make a reader fail meanwhile, who then tries again or waits (see [`crate::cache`]).
#![forbid(unsafe_code)]

use super::FrameId;
use crate::sync::{array_of, const_new, AtomicU32, Ordering};

/// Rows of seats: a power of two. Processors with 32 bits have few CPUs, and less memory.
pub(crate) const ROWS: usize = if cfg!(any(loom, feature = "shuttle")) {
    2
} else if usize::BITS == 32 {
    1
} else {
    4
};

/// The word of a seat that a sole owner has.
const TAKEN: u32 = u32::MAX;
/// A count that is never left again: whoever leaks two billion handles pins the buffer instead of freeing it.
const PINNED: u32 = u32::MAX / 2;

/// A row, by number; always in range.
#[derive(Clone, Copy)]
pub(crate) struct Row(usize);

impl Row {
    /// For those who do not know, or need not care, on which CPU they run.
    pub(crate) const FIRST: Self = Self(0);

    /// That of a CPU with this number, or whatever else tells CPUs apart.
    #[inline]
    pub(crate) fn of(cpu: usize) -> Self {
        Self(cpu % ROWS)
    }
}

/// A frame and a row in one word, so that a share of a buffer is no larger for it. (A whole word, so that a share has
/// no padding: it is moved in pieces then that a processor can forward.)
#[derive(Clone, Copy)]
pub(crate) struct SeatId(usize);

impl SeatId {
    /// Frames that there may be at most.
    pub(crate) const MAX_FRAMES: u32 = u32::MAX / (2 * ROWS as u32);

    pub(crate) fn new(id: FrameId, row: Row) -> Self {
        Self(id.index() * ROWS + row.0)
    }

    pub(crate) fn frame(self) -> FrameId {
        FrameId((self.0 / ROWS) as u32)
    }

    fn row(self) -> Row {
        Row(self.0 % ROWS)
    }

    /// Plus one, for memory that starts as zeros.
    pub(crate) fn link(self) -> u32 {
        self.0 as u32 + 1
    }

    pub(crate) fn by_link(link: u32) -> Option<Self> {
        link.checked_sub(1).map(|seat| Self(seat as usize))
    }
}

/// One frame's readers in one row. All-zero when untouched.
pub(crate) struct Seat {
    readers: AtomicU32,
    /// Look-ups that ended here: not exact if two on CPUs of the same row are at it at once. (One place for all frames
    /// would be a line that all of the row want.)
    hits: AtomicU32,
}

impl Seat {
    const_new! {
        pub(crate) fn new() -> Self {
            Self { readers: AtomicU32::new(0), hits: AtomicU32::new(0) }
        }
    }

    /// Counts one reader more, unless somebody has taken the seat.
    pub(crate) fn join(&self) -> bool {
        let mut seen = self.readers.load(Ordering::Relaxed);
        while seen != TAKEN {
            let more = if seen >= PINNED { PINNED } else { seen + 1 };
            match self.readers.compare_exchange_weak(seen, more, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Counts one reader less.
    pub(crate) fn leave(&self) {
        let mut seen = self.readers.load(Ordering::Relaxed);
        // A pinned count stays where it is. Release: our reads happen before the next owner's writes.
        while seen < PINNED {
            match self.readers.compare_exchange_weak(seen, seen - 1, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    fn take(&self) -> bool {
        // Acquire: what former owners and readers did happens before what we do.
        self.readers.compare_exchange(0, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// By whoever has taken the seat: lets others have it, with so many readers in it. Release: they see what we did,
    /// and what we know of.
    fn give(&self, readers: u32) {
        self.readers.store(readers, Ordering::Release);
    }

    /// Counts a look-up.
    pub(crate) fn note_hit(&self) {
        self.hits.store(self.hits.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

/// The seats of so many frames in one row, which begins with a cache line.
#[repr(C, align(64))]
pub(crate) struct SeatRow<const N: usize>(pub(crate) [Seat; N]);

impl<const N: usize> SeatRow<N> {
    const_new! {
        pub(crate) fn new() -> Self {
            Self(array_of!(Seat::new()))
        }
    }
}

/// The seats of all frames of a pool.
pub(crate) struct Seats<'m>([&'m [Seat]; ROWS]);

impl<'m> Seats<'m> {
    pub(crate) fn new<const N: usize>(rows: &'m [SeatRow<N>; ROWS]) -> Self {
        Self(rows.each_ref().map(|row| &row.0[..]))
    }

    #[inline]
    pub(crate) fn at(&self, seat: SeatId) -> &'m Seat {
        seat_in(self.0[seat.row().0], seat.frame())
    }

    fn of(&self, id: FrameId) -> impl Iterator<Item = &'m Seat> + use<'_, 'm> {
        self.0.iter().map(move |row| seat_in(row, id))
    }

    /// Takes all seats of a frame, or none.
    pub(crate) fn claim(&self, id: FrameId) -> bool {
        for row in 0..ROWS {
            if !seat_in(self.0[row], id).take() {
                (0..row).for_each(|taken| seat_in(self.0[taken], id).give(0));
                return false;
            }
        }
        true
    }

    /// By the sole owner: lets others have the frame, with so many readers in the first row. That comes last, so that
    /// whoever claims the frame does not find part of it still taken.
    pub(crate) fn give(&self, id: FrameId, readers: u32) {
        (1..ROWS).rev().for_each(|row| seat_in(self.0[row], id).give(0));
        seat_in(self.0[0], id).give(readers);
    }

    /// Whether nobody owns the frame at this moment.
    pub(crate) fn are_empty(&self, id: FrameId) -> bool {
        self.of(id).all(|seat| seat.readers.load(Ordering::Acquire) == 0)
    }

    /// Look-ups that ended at a frame.
    pub(crate) fn hits(&self, id: FrameId) -> u32 {
        self.of(id).fold(0, |sum, seat| sum.wrapping_add(seat.hits.load(Ordering::Relaxed)))
    }
}

/// A frame's seat in a row. Ids are in range; that it need not be proved keeps panics out of mount.
#[cfg_attr(target_pointer_width = "32", inline(never))]
fn seat_in(row: &[Seat], id: FrameId) -> &Seat {
    #[cfg(not(any(loom, feature = "shuttle")))]
    {
        static NOBODYS: Seat = Seat::new();
        row.get(id.index()).unwrap_or(&NOBODYS)
    }
    #[cfg(any(loom, feature = "shuttle"))]
    &row[id.index()]
}
