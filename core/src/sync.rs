//! Atomics and locks behind one small facade, so that the same code runs on bare metal (core and spin), under loom and
//! under shuttle.
//!
//! A [`Lock`] has no guard: it runs a closure. The extent of every critical section is therefore visible as a pair of
//! braces, the platform's critical section always outlasts the lock, and no guard can be kept across a device call.
//!
//! # Lock order
//! One order for the whole crate; a lock may be taken only while holding locks that stand before it:
//!
//! 1. the commit machine ([`crate::commit`]),
//! 2. one arena ([`crate::arena`]; never two at once),
//! 3. one bucket of the cache ([`crate::cache`]; never two at once),
//! 4. the sync queue ([`crate::queue`]),
//! 5. the store's sticky failure ([`crate::store`]).
//!
//! Under these, nothing is taken: limbo ([`crate::limbo`]), the requests that the device refused ([`crate::store`]),
//! the ring of events ([`crate::trace`]).
//!
//! No lock is held while a device method is called.

use crate::platform::Platform;

#[cfg(not(any(loom, feature = "shuttle")))]
mod primitive {
    pub(crate) use core::sync::atomic::{fence, AtomicBool, AtomicU32, AtomicUsize, Ordering};
    pub(crate) use spin::mutex::{SpinMutex as Mutex, SpinMutexGuard as Guard};
}

#[cfg(loom)]
mod primitive {
    pub(crate) use super::blocking::{Guard, Mutex};
    pub(crate) use loom::sync::atomic::{fence, AtomicBool, AtomicU32, AtomicUsize, Ordering};
}

#[cfg(all(feature = "shuttle", not(loom)))]
mod primitive {
    pub(crate) use super::blocking::{Guard, Mutex};
    pub(crate) use shuttle::sync::atomic::{fence, AtomicBool, AtomicU32, AtomicUsize, Ordering};
}

/// The model checkers' mutexes report poisoning, which has no meaning here: a panic ends the model run.
#[cfg(any(loom, feature = "shuttle"))]
mod blocking {
    #[cfg(loom)]
    use loom::sync as checked;
    #[cfg(not(loom))]
    use shuttle::sync as checked;

    pub(crate) use checked::MutexGuard as Guard;

    pub(crate) struct Mutex<T: ?Sized>(checked::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(checked::Mutex::new(value))
        }
    }

    impl<T: ?Sized> Mutex<T> {
        pub(crate) fn lock(&self) -> checked::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
        }
        pub(crate) fn try_lock(&self) -> Option<checked::MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }
}

pub(crate) use primitive::{fence, AtomicBool, AtomicU32, AtomicUsize, Guard, Ordering};

/// Declares functions as `const` wherever the primitives can be built in a constant (everywhere but the checkers).
macro_rules! const_new {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty $body:block)*) => {
        $(
            #[cfg(not(any(loom, feature = "shuttle")))]
            $(#[$meta])* $vis const fn $name($($arg: $ty),*) -> $ret $body
            #[cfg(any(loom, feature = "shuttle"))]
            $(#[$meta])* $vis fn $name($($arg: $ty),*) -> $ret $body
        )*
    };
}
pub(crate) use const_new;

/// An array of equal values that need not be `Copy`, in a constant wherever [`const_new`] functions are constant.
macro_rules! array_of {
    ($value:expr) => {{
        #[cfg(not(any(loom, feature = "shuttle")))]
        {
            [const { $value }; _]
        }
        #[cfg(any(loom, feature = "shuttle"))]
        {
            core::array::from_fn(|_| $value)
        }
    }};
}
pub(crate) use array_of;

/// A spin lock that is held only for the duration of a closure, inside the platform's critical section.
pub(crate) struct Lock<T: ?Sized>(primitive::Mutex<T>);

impl<T> Lock<T> {
    const_new! {
        pub(crate) fn new(value: T) -> Self {
            Self(primitive::Mutex::new(value))
        }
    }
}

impl<T: ?Sized> Lock<T> {
    /// Waits for the lock and runs `section` with interrupts and preemption off.
    pub(crate) fn with<R>(&self, platform: &dyn Platform, section: impl FnOnce(&mut T) -> R) -> R {
        let (mut guard, saved) = self.enter(platform);
        let result = section(&mut guard);
        leave(guard, platform, saved);
        result
    }

    /// What comes before a section. Apart from it, so that an image for size has it once for each kind of lock.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    pub(crate) fn enter(&self, platform: &dyn Platform) -> (Guard<'_, T>, usize) {
        let saved = platform.enter_critical();
        (self.0.lock(), saved)
    }

    /// Runs `section` if the lock is free right now.
    #[inline]
    pub(crate) fn try_with<R>(&self, platform: &dyn Platform, section: impl FnOnce(&mut T) -> R) -> Option<R> {
        let saved = platform.enter_critical();
        let result = self.0.try_lock().map(|mut guard| section(&mut guard));
        platform.leave_critical(saved);
        result
    }
}

/// What comes behind a section.
#[cfg_attr(target_pointer_width = "32", inline(never))]
pub(crate) fn leave<T: ?Sized>(guard: Guard<'_, T>, platform: &dyn Platform, saved: usize) {
    drop(guard);
    platform.leave_critical(saved);
}

/// A 64-bit value kept in two 32-bit halves, because 32-bit targets have no 64-bit atomics.
///
/// Not atomic as a whole: it is written only by the one owner of the thing that it belongs to, and read by others only
/// after that owner has published the thing through an atomic with release and acquire ordering.
pub(crate) struct SplitU64 {
    low: AtomicU32,
    high: AtomicU32,
}

impl SplitU64 {
    const_new! {
        pub(crate) fn new() -> Self {
            Self { low: AtomicU32::new(0), high: AtomicU32::new(0) }
        }
    }

    pub(crate) fn get(&self) -> u64 {
        u64::from(self.low.load(Ordering::Relaxed)) | (u64::from(self.high.load(Ordering::Relaxed)) << 32)
    }

    pub(crate) fn set(&self, value: u64) {
        self.low.store(value as u32, Ordering::Relaxed);
        self.high.store((value >> 32) as u32, Ordering::Relaxed);
    }
}
