//! Who did what to a block last: a fixed ring of events, on by the feature `trace`.
//!
//! For the one who debugs a kernel: which line allocated this block, was it queued, written, freed? Each event carries the
//! place in the caller's code, as the compiler knows it, and the platform's ticks. Without the feature nothing of this is
//! compiled in.

/// What happened to a block.
#[cfg(feature = "trace")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It was handed out to be filled.
    Allocated,
    /// It became final and was queued.
    Enqueued,
    /// It was asked for by pointer.
    Read,
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
    use crate::sync::Lock;
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

    struct Events {
        ring: [Option<TraceEvent>; TRACE_EVENTS],
        next: usize,
    }

    pub(crate) struct Trace(Lock<Events>);

    impl Trace {
        pub(crate) fn new() -> Self {
            Self(Lock::new(Events { ring: [None; TRACE_EVENTS], next: 0 }))
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
                events.ring[at] = Some(TraceEvent { what, addr, ticks, caller });
                events.next = at + 1;
            });
        }

        /// The newest event first.
        pub(crate) fn each(&self, platform: &dyn Platform, see: &mut dyn FnMut(&TraceEvent) -> bool) {
            for back in 1..=TRACE_EVENTS {
                let event =
                    self.0.with(platform, |events| events.ring[(events.next + TRACE_EVENTS - back) % TRACE_EVENTS]);
                if !event.is_some_and(|event| see(&event)) {
                    return;
                }
            }
        }
    }
}

#[cfg(feature = "trace")]
pub(crate) use ring::Trace;
#[cfg(feature = "trace")]
pub use ring::{TraceEvent, TRACE_EVENTS};

/// Notes an event where the feature `trace` is on, and is nothing where it is off.
macro_rules! trace {
    ($store:expr, $what:ident, $addr:expr, caller) => {
        #[cfg(feature = "trace")]
        $store.trace.note(
            $store.engine.platform,
            crate::trace::What::$what,
            $addr,
            Some(core::panic::Location::caller()),
        );
    };
    ($store:expr, $what:ident, $addr:expr) => {
        #[cfg(feature = "trace")]
        $store.trace.note($store.engine.platform, crate::trace::What::$what, $addr, None);
    };
}
pub(crate) use trace;
