//! Epochs: when nobody can be reading what was freed any more.
//!
//! Whoever walks a structure by pointers while others change it enters an epoch first and leaves it afterwards. What is
//! freed in an epoch is not handed out again before everybody who was inside then has left. Readers never wait; a freed
//! block does, and if a worker stays inside for ever, whoever needs the space is told its name.
//!
//! ```text
//!   worker   enter: slot = epoch|active ... leave: slot = 0
//!   advance  if every active slot says `now`: now += 1
//!   retired at epoch e: nobody can still see it when now >= e + 2
//! ```
//!
//! # Why the order of accesses is right
//! A worker announces itself, passes a sequentially consistent fence, then follows pointers. Whoever retires something
//! has unlinked it, passes such a fence, then looks at the announcements. Of two such fences one comes first: either
//! the retirer sees the announcement, or the worker sees the unlinking.
//!
//! The same holds for the number of the epoch. A worker who is inside had the fence between its announcement and a
//! second look at `now`; whoever advances looks at `now`, passes the fence, and looks at the announcements. If it does
//! not see one, its fence came first, and the worker has seen an epoch that is at least as new as the one that ends.
//! So an epoch that a worker has not announced does not end while it is inside, and whoever retires something at epoch
//! `e`, with a fence behind that of the worker, finds `e` not older than what the worker has announced.
//!
//! A read-modify-write of `now` that changes nothing in place of each fence would be right too in the language's
//! model, but not in what the compiler makes of it for x86-64: where nobody uses its result it vanishes, and with it
//! the order of the unlinking store and the look at the announcements. `tests::epoch_machine` tries that out.
//!
//! Epochs are compared by wrapping difference, so that the counter may wrap.

use crate::sync::{const_new, fence, AtomicU32, Ordering};

const ACTIVE: u32 = 1;

/// One worker's announcement. All-zero when nobody uses it.
pub(crate) struct WorkerSlot {
    /// Taken by somebody: 0 or 1.
    taken: AtomicU32,
    /// Twice the epoch, plus 1 while the worker is inside; 0 while it is not.
    seen: AtomicU32,
    name: AtomicU32,
}

impl WorkerSlot {
    const_new! {
        pub(crate) fn new() -> Self {
            Self { taken: AtomicU32::new(0), seen: AtomicU32::new(0), name: AtomicU32::new(0) }
        }
    }
}

/// The epochs of one store.
pub(crate) struct Epochs<'m> {
    slots: &'m [WorkerSlot],
    now: AtomicU32,
    /// Workers inside, or on their way in or out. Raised before an announcement and lowered after it, so 0 says that
    /// there is none.
    inside: AtomicU32,
}

impl<'m> Epochs<'m> {
    pub(crate) fn new(slots: &'m [WorkerSlot]) -> Self {
        Self { slots, now: AtomicU32::new(0), inside: AtomicU32::new(0) }
    }

    /// Puts the look at the announcements behind what was unlinked, as the head of this module says.
    #[inline]
    pub(crate) fn unlinked(&self) {
        fence(Ordering::SeqCst);
    }

    /// The present epoch, for what was unlinked before.
    pub(crate) fn stamp(&self) -> u32 {
        self.unlinked();
        self.now.load(Ordering::Acquire)
    }

    /// Announces a worker; `None` if all places are taken.
    pub(crate) fn enter(&self, name: u32) -> Option<usize> {
        let free = |slot: &WorkerSlot| slot.taken.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
        let index = self.slots.iter().position(free)?;
        let slot = &self.slots[index];
        self.inside.fetch_add(1, Ordering::Relaxed);
        slot.name.store(name, Ordering::Relaxed);
        loop {
            let epoch = self.now.load(Ordering::Relaxed);
            slot.seen.store((epoch << 1) | ACTIVE, Ordering::Release);
            fence(Ordering::SeqCst);
            // An announcement of an epoch that has passed meanwhile would hold up nothing that it should hold up.
            if self.now.load(Ordering::Acquire) == epoch {
                return Some(index);
            }
        }
    }

    pub(crate) fn leave(&self, index: usize) {
        if let Some(slot) = self.slots.get(index) {
            slot.seen.store(0, Ordering::Release);
            self.inside.fetch_sub(1, Ordering::Release);
            slot.taken.store(0, Ordering::Release);
        }
    }

    /// Whether nobody is inside. After [`Epochs::unlinked`] or [`Epochs::stamp`].
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        self.inside.load(Ordering::Acquire) == 0
    }

    /// Moves on to the next epoch if everybody inside has seen the present one; otherwise the name of somebody who has
    /// not.
    pub(crate) fn advance(&self) -> Result<(), u32> {
        let epoch = self.now.load(Ordering::Acquire);
        fence(Ordering::SeqCst);
        let current = (epoch << 1) | ACTIVE;
        for slot in self.slots {
            let seen = slot.seen.load(Ordering::Acquire);
            if seen & ACTIVE != 0 && seen != current {
                return Err(slot.name.load(Ordering::Relaxed));
            }
        }
        // If somebody else was faster, so much the better.
        let _ = self.now.compare_exchange(epoch, epoch.wrapping_add(1), Ordering::AcqRel, Ordering::Relaxed);
        Ok(())
    }

    /// Whether nobody can still see what was retired with this stamp; moves on as far as it can.
    pub(crate) fn has_passed(&self, stamp: u32) -> Result<(), u32> {
        loop {
            // Wrapping: stamps are never older than half of all numbers.
            if self.now.load(Ordering::Acquire).wrapping_sub(stamp) >= 2 {
                return Ok(());
            }
            self.advance()?;
        }
    }
}
