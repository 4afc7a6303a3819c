//! Values that are made once, in the lent memory, and stay there.
//!
//! The state of a store (what all handles share, the commit machine, requests that wait to be offered again) holds
//! references into the memory that it lies in, so no field of [`crate::Memory`] can have its type. Kept in the value of
//! the store instead it would be moved several times on the way out of mount, and each move is that much stack. So the
//! memory has room for it, and mount makes it there: one write, and references from then on.
//!
//! This is `pool`'s only neighbour with `unsafe`. It is what an arena allocator does, for one value.
//!
//! # Invariant
//! For one [`InPlace`] there is at most one [`Vacant`], because it takes the proof that a memory was taken to make one.
//! Filling consumes it. So the bytes are written once, before there is any reference to them, and are only read through
//! shared references to a value afterwards, for as long as the memory is borrowed. The value is never dropped: it owns
//! nothing but buffers of the same memory, which does not come back.

use crate::memory::Taken;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

/// Room for one value of the size and alignment of `S`. All-zero when nothing is there yet.
pub(crate) struct InPlace<S>(UnsafeCell<MaybeUninit<S>>);

impl<S> InPlace<S> {
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(MaybeUninit::zeroed()))
    }
}

// SAFETY: the bytes are reached only through the one `Vacant`, which has sole access, and afterwards through shared
// references to the value that it was filled with, which is `Sync` and was sent along (see `Vacant::fill`).
unsafe impl<S> Sync for InPlace<S> {}

/// The right to put a value there.
pub(crate) struct Vacant<'m, S>(&'m InPlace<S>);

impl<'m, S> Vacant<'m, S> {
    /// Called once for each place of a memory value, by the code that takes it.
    pub(crate) fn new(_taken: Taken, place: &'m InPlace<S>) -> Self {
        Self(place)
    }

    /// Puts the value there. `T` is `S` with another lifetime.
    pub(crate) fn fill<T: Send + Sync + 'm>(self, value: T) -> &'m T {
        const { assert!(size_of::<T>() <= size_of::<S>() && align_of::<T>() <= align_of::<S>()) };
        let place: *mut T = self.0 .0.get().cast();
        // SAFETY: `T` fits, and this was the only way to the place, so nothing refers to its bytes.
        unsafe { place.write(value) };
        // SAFETY: written above, and never again while `'m` lasts: the way there is used up.
        unsafe { &*place }
    }
}
