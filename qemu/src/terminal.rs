//! The user's terminal in raw mode: every key goes to the guest as it is, and nothing is shown but what the guest
//! sends. The mode goes back to what it was when the value is dropped, after a panic too.

#[cfg(unix)]
pub use unix::{columns, Raw};

#[cfg(unix)]
mod unix {
    use anyhow::{Context, Result};
    use rustix::termios::{isatty, tcgetattr, tcgetwinsize, tcsetattr, OptionalActions, OutputModes, Termios};
    use std::os::fd::AsFd;

    /// Standard input in raw mode, if it is a terminal.
    pub struct Raw(Option<Termios>);

    impl Raw {
        /// Changes the mode.
        pub fn enter() -> Result<Self> {
            let input = std::io::stdin();
            if !isatty(&input) {
                return Ok(Self(None));
            }
            let before = tcgetattr(&input).context("the terminal's mode cannot be read")?;
            let mut raw = before.clone();
            raw.make_raw();
            // Lines that the guest sends end in a line feed, and so do ours.
            raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
            tcsetattr(&input, OptionalActions::Now, &raw).context("the terminal's mode cannot be changed")?;
            Ok(Self(Some(before)))
        }
    }

    impl Drop for Raw {
        fn drop(&mut self) {
            if let Some(before) = self.0.take() {
                // Without the user's terminal there is nobody to tell.
                let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &before);
            }
        }
    }

    /// The columns of a terminal; `None` if it is none, or does not know.
    pub fn columns(terminal: impl AsFd) -> Option<u16> {
        tcgetwinsize(terminal).ok().map(|size| size.ws_col).filter(|columns| *columns > 0)
    }
}
