//! Ctrl-C, SIGTERM and SIGHUP as a flag that a command looks at where it can stop in good order.

use crate::failure::Failure;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// Whether one of these signals came. From its making on they no longer end the process by themselves.
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(crate) fn new() -> Result<Self, Failure> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).map_err(|error| Failure::io(&error))?;
        }
        Ok(Self(flag))
    }

    /// The flag, for what looks at it by itself.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.0
    }

    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails if one came. For places where nothing was changed yet.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.came() {
            Err(Failure::interrupted())
        } else {
            Ok(())
        }
    }
}
