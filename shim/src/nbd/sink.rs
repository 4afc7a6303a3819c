//! Where the record of a server goes.
#![forbid(unsafe_code)]

use crate::record::Tape;
use crate::trace::Event;
use std::io;

/// Takes events in the order in which they happen. If that fails, the server stops: there is no record with gaps.
pub trait Sink {
    /// Takes one event.
    fn take(&mut self, event: Event) -> io::Result<()>;

    /// A session has ended; what was taken should be where it belongs.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Vec<Event> {
    fn take(&mut self, event: Event) -> io::Result<()> {
        self.push(event);
        Ok(())
    }
}

impl Sink for &Tape {
    fn take(&mut self, event: Event) -> io::Result<()> {
        self.push(event);
        Ok(())
    }
}

/// Records nothing.
impl Sink for () {
    fn take(&mut self, _event: Event) -> io::Result<()> {
        Ok(())
    }
}
