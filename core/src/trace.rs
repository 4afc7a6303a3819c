//! Who did what to a block last: a fixed ring of events, on by the feature `trace`.
//!
//! For the one who debugs a kernel: which line allocated this block, who holds it, was it queued, written, freed? Each
//! event carries the place in the caller's code, as the compiler knows it, and the platform's ticks. Without the
//! feature nothing of this is compiled in.
//!
//! ```text
//!   Allocated -> Cached, Enqueued -> Submitted -> Written      a new block
//!   Read -> Cached (unless it was in the cache)                an old one
//!   Held -> Dropped                                            each handle to either, clones too
//! ```
//!
//! The ring is in the memory of the store, all-zero at first. Its lock is taken last: nothing is taken under it.

/// What happened to a block.
#[cfg(feature = "trace")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum What {
    /// It was handed out to be filled.
    Allocated = 0,
    /// It became final and was queued.
    Enqueued,
    /// It was asked for by pointer.
    Read,
    /// Its content came into the cache: from the device, or when it became final.
    Cached,
    /// A handle to it was given out, by reading it, enqueueing it or cloning another handle.
    Held,
    /// A handle to it was dropped. The place is where that handle was given out, because a drop has none.
    Dropped,
    /// Its write was submitted.
    Submitted,
    /// Its write was completed.
    Written,
    /// It was freed.
    Freed,
    /// A commit was begun; the address is its generation.
    CommitBegun,
}

#[cfg(feature = "trace")]
mod ring {
    use super::What;
    use crate::platform::Platform;
    use crate::store::Engine;
    use crate::sync::{const_new, Lock};
    use core::panic::Location;

    /// Events that the ring keeps.
    pub const TRACE_EVENTS: usize = 256;

    /// One event.
    #[derive(Clone, Copy, Debug)]
    pub struct TraceEvent {
        /// What happened.
        pub what: What,
        /// To the block at this byte address.
        pub addr: u64,
        /// The platform's ticks, or 0 where it has none.
        pub ticks: u64,
        /// Where in the caller's code; `None` for what the store did by itself.
        pub caller: Option<&'static Location<'static>>,
    }

    impl TraceEvent {
        /// All bytes zero: a place in the ring that was not used yet.
        const NONE: Self = Self { what: What::Allocated, addr: 0, ticks: 0, caller: None };
    }

    struct Events {
        ring: [TraceEvent; TRACE_EVENTS],
        next: usize,
        /// Places that were used.
        count: usize,
    }

    /// The ring. All-zero when empty.
    pub(crate) struct Trace(Lock<Events>);

    impl Trace {
        const_new! {
            pub(crate) fn new() -> Self {
                Self(Lock::new(Events { ring: [TraceEvent::NONE; TRACE_EVENTS], next: 0, count: 0 }))
            }
        }

        pub(crate) fn note(
            &self,
            platform: &dyn Platform,
            what: What,
            addr: u64,
            caller: Option<&'static Location<'static>>,
        ) {
            let ticks = platform.ticks().unwrap_or(0);
            self.0.with(platform, |events| {
                let at = events.next % TRACE_EVENTS;
                events.ring[at] = TraceEvent { what, addr, ticks, caller };
                events.next = at + 1;
                events.count = (events.count + 1).min(TRACE_EVENTS);
            });
        }

        /// The newest event first.
        pub(crate) fn each(&self, platform: &dyn Platform, see: &mut dyn FnMut(&TraceEvent) -> bool) {
            for back in 1..=TRACE_EVENTS {
                let event = self.0.with(platform, |events| {
                    (back <= events.count).then(|| events.ring[(events.next + TRACE_EVENTS - back) % TRACE_EVENTS])
                });
                if !event.is_some_and(|event| see(&event)) {
                    return;
                }
            }
        }
    }

    /// Part of a handle to a block: notes when the handle is given out, and when it is dropped.
    pub(crate) struct Holder<'s> {
        trace: &'s Trace,
        platform: &'s dyn Platform,
        addr: u64,
        caller: &'static Location<'static>,
    }

    impl<'s> Holder<'s> {
        #[track_caller]
        pub(crate) fn new(engine: &'s Engine<'s>, addr: u64) -> Self {
            Self::at(engine.trace, engine.platform, addr, Location::caller())
        }

        fn at(trace: &'s Trace, platform: &'s dyn Platform, addr: u64, caller: &'static Location<'static>) -> Self {
            trace.note(platform, What::Held, addr, Some(caller));
            Self { trace, platform, addr, caller }
        }
    }

    impl Clone for Holder<'_> {
        #[track_caller]
        fn clone(&self) -> Self {
            Self::at(self.trace, self.platform, self.addr, Location::caller())
        }
    }

    impl Drop for Holder<'_> {
        fn drop(&mut self) {
            self.trace.note(self.platform, What::Dropped, self.addr, Some(self.caller));
        }
    }
}

#[cfg(feature = "trace")]
pub(crate) use ring::{Holder, Trace};
#[cfg(feature = "trace")]
pub use ring::{TraceEvent, TRACE_EVENTS};

/// Part of a handle to a block; nothing without the feature `trace`.
#[cfg(not(feature = "trace"))]
#[derive(Clone)]
pub(crate) struct Holder<'s>(core::marker::PhantomData<&'s ()>);

#[cfg(not(feature = "trace"))]
impl<'s> Holder<'s> {
    pub(crate) fn new(_engine: &'s crate::store::Engine<'s>, _addr: u64) -> Self {
        Self(core::marker::PhantomData)
    }
}

/// Notes an event where the feature `trace` is on, and is nothing where it is off.
macro_rules! trace {
    ($engine:expr, $what:ident, $addr:expr, caller) => {
        #[cfg(feature = "trace")]
        $engine.trace.note($engine.platform, crate::trace::What::$what, $addr, Some(core::panic::Location::caller()));
    };
    ($engine:expr, $what:ident, $addr:expr) => {
        #[cfg(feature = "trace")]
        $engine.trace.note($engine.platform, crate::trace::What::$what, $addr, None);
    };
}
pub(crate) use trace;
