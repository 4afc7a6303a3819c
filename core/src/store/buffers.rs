//! Waiting for a buffer, and for anything else by steps.

use super::Store;
use crate::sync::Ordering;

/// Steps that a caller takes between two looks for a buffer, as long as nothing moves.
const STEPS_WITHOUT_BUFFER: u32 = 16;

impl Store<'_, '_> {
    pub(crate) fn step_or_relax(&self) {
        if !self.step() {
            self.engine.platform.relax();
        }
    }

    /// Repeats something that needs a buffer while steps can still free one. There is none to come if nothing was under
    /// way before an attempt that failed, nor is behind it: others may have begun something in between.
    pub(crate) fn retry_no_buffer<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
        let mut was_idle = false;
        loop {
            if let Some(result) = attempt() {
                return Some(result);
            }
            was_idle = self.wait_for_buffer(was_idle)?;
        }
    }

    /// What comes between two attempts: `None` if there is no buffer to come, or else whether nothing was under way.
    #[cold]
    #[inline(never)]
    fn wait_for_buffer(&self, was_idle: bool) -> Option<bool> {
        let waiting = self.is_busy();
        if was_idle && !waiting {
            return None;
        }
        // An attempt looks at every buffer, so it waits until something has moved; not for ever, because that may
        // have been by the step of somebody else.
        for _ in 0..STEPS_WITHOUT_BUFFER {
            if self.step() {
                return Some(false);
            }
            if !waiting {
                break;
            }
            self.engine.platform.relax();
        }
        Some(!waiting)
    }

    /// Whether something is queued, waits to be submitted, or is with the device.
    pub(super) fn is_busy(&self) -> bool {
        // Before a look at what the device has: that is where requests go from here.
        let unsent = self.unsent.with(self.engine.platform, |unsent| unsent.promised + unsent.requests.len());
        unsent != 0 || self.engine.pending() != 0 || self.in_flight.load(Ordering::Acquire) != 0
    }
}
