//! How far a long step has come: a bar on a terminal, otherwise a plain line every few seconds.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const PLAIN_INTERVAL: Duration = Duration::from_secs(3);

/// The progress of one step.
pub struct Progress {
    label: String,
    total: u64,
    in_bytes: bool,
    bar: Option<ProgressBar>,
    said_at: Instant,
}

impl Progress {
    /// Progress counted in items.
    pub fn items(label: &str, total: u64) -> Self {
        Self::new(label, total, false)
    }

    /// Progress counted in bytes.
    pub fn bytes(label: &str, total: u64) -> Self {
        Self::new(label, total, true)
    }

    fn new(label: &str, total: u64, in_bytes: bool) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = match in_bytes {
                true => "{prefix:>8} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                false => "{prefix:>8} [{bar:40}] {pos}/{len} {eta}",
            };
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_prefix(label.to_string())
        });
        Self { label: label.to_string(), total, in_bytes, bar, said_at: Instant::now() }
    }

    /// So much is done.
    pub fn set(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.said_at.elapsed() >= PLAIN_INTERVAL {
            self.said_at = Instant::now();
            println!("{}", plain_line(&self.label, done, self.total, self.in_bytes));
        }
    }

    /// Changes what counts as all.
    pub fn set_total(&mut self, total: u64) {
        if total != self.total {
            self.total = total;
            if let Some(bar) = &self.bar {
                bar.set_length(total);
            }
        }
    }

    /// Prints a line without disturbing the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{line}")),
            None => println!("{line}"),
        }
    }

    /// Takes the bar off the screen.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn plain_line(label: &str, done: u64, total: u64, in_bytes: bool) -> String {
    let show = |number| if in_bytes { crate::size::show(number) } else { format!("{number}") };
    let percent = (u128::from(done) * 100).checked_div(u128::from(total)).unwrap_or(100);
    format!("{label}: {percent} % ({} of {})", show(done), show(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_have_percentages() {
        assert_eq!(plain_line("import", 1 << 20, 4 << 20, true), "import: 25 % (1.0 MiB of 4.0 MiB)");
        assert_eq!(plain_line("pack", 3, 4, false), "pack: 75 % (3 of 4)");
        assert_eq!(plain_line("pack", 0, 0, false), "pack: 100 % (0 of 0)");
        assert_eq!(plain_line("import", u64::MAX, u64::MAX, false), format!("import: 100 % ({0} of {0})", u64::MAX));
    }
}
