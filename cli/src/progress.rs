//! How far a command is: a bar on a terminal, with the rate and the time that is left; nothing anywhere else.
//!
//! A bar appears after a second, so whatever is quicker shows none, and it is taken away when the work is done. It goes
//! to standard error, where it never mixes with the output, and takes as much of a line as the figures leave.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What takes less is not worth a bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Blocks,
    Operations,
}

/// The progress of one command; may be advanced by any number of threads.
pub(crate) struct Progress {
    /// None if nobody is to see it.
    bar: Option<ProgressBar>,
    started: Instant,
    shown: AtomicBool,
}

impl Progress {
    /// `total` may be 0 if it is not known yet.
    pub(crate) fn new(quiet: bool, unit: Unit, total: u64) -> Self {
        let visible = !quiet && std::io::stderr().is_terminal();
        let bar = visible.then(|| {
            let template = match unit {
                Unit::Bytes => "[{wide_bar}] {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left",
                Unit::Blocks => "[{wide_bar}] {percent:>3}%  {human_pos} of {human_len} blocks  {rate}  {eta} left",
                Unit::Operations => "[{wide_bar}] {percent:>3}%  {human_pos} of {human_len}  {rate}  {eta} left",
            };
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
            let rate = |state: &ProgressState, out: &mut dyn Write| {
                // Nobody is told if the terminal takes no more.
                let _ = write!(out, "{:.0}/s", state.per_sec());
            };
            bar.with_style(style.progress_chars("=> ").with_key("rate", rate))
        });
        Self { bar, started: Instant::now(), shown: AtomicBool::new(false) }
    }

    pub(crate) fn set_total(&self, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    /// So much more is done.
    pub(crate) fn advance(&self, count: u64) {
        let Some(bar) = &self.bar else { return };
        bar.inc(count);
        if !self.shown.load(Ordering::Relaxed) && self.started.elapsed() >= PATIENCE {
            self.shown.store(true, Ordering::Relaxed);
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
