//! The closing table of a demonstration, its faults and its last line.

use crate::events::Event;
use crate::host::Checked;
use crate::table::Table;
use crate::vm::Run;
use anyhow::Result;
use std::fmt::Write;

/// What a demonstration has shown so far.
pub struct Report {
    files: u64,
    bytes: u64,
    table: Table,
    /// For each result, what each processor has done.
    shares: Vec<String>,
    faults: Vec<String>,
}

impl Report {
    /// An empty report on an archive with so many files and bytes of content.
    pub fn new(files: u64, bytes: u64) -> Self {
        let heads =
            ["phase", "files", "bytes", "blocks", "commits", "flushes", "seconds", "MB/s", "disk read", "disk written"];
        Self { files, bytes, table: Table::new(&heads), shares: Vec::new(), faults: Vec::new() }
    }

    /// Adds a row for every `@result` of a run, named by its `phase`.
    pub fn add_run(&mut self, name: &str, run: &Run) {
        for event in run.events.iter().filter(|event| event.name == "result") {
            let phase = event.text("phase").unwrap_or(name);
            self.table.row(row(phase, event));
            self.shares.extend(event.text("shares").map(|shares| format!("{phase} {shares}")));
        }
    }

    /// Adds the host's findings. With `all`, they have to cover the whole archive.
    pub fn add_host(&mut self, name: &str, checked: Result<Checked>, all: bool) {
        match checked {
            Ok(checked) => {
                let seconds = checked.elapsed.as_secs_f64();
                let mut cells = vec![name.into()];
                cells.extend([checked.files, checked.bytes, checked.blocks].map(|number| number.to_string()));
                cells.extend(["-".into(), "-".into(), format!("{seconds:.2}")]);
                cells.push(rate(checked.bytes, seconds * 1e6));
                cells.extend(["-".into(), "-".into()]);
                self.table.row(cells);
                if all {
                    self.expect(name, Some(checked.files), Some(checked.bytes));
                }
            }
            Err(error) => self.fault(format!("{name}: {error:#}")),
        }
    }

    /// Demands that this result covers the whole archive.
    pub fn expect_all(&mut self, name: &str, result: Option<&Event>) {
        let number = |key| result.and_then(|event| event.number(key));
        self.expect(name, number("files"), number("bytes"));
    }

    fn expect(&mut self, name: &str, files: Option<u64>, bytes: Option<u64>) {
        if (files, bytes) != (Some(self.files), Some(self.bytes)) {
            let show = |number: Option<u64>| number.map_or("an unknown number of".into(), |number| number.to_string());
            let found = format!("{} files, {} bytes", show(files), show(bytes));
            self.fault(format!("{name}: {found}; the archive has {} files, {} bytes", self.files, self.bytes));
        }
    }

    /// Notes that something is not as it should be.
    pub fn fault(&mut self, what: String) {
        self.faults.push(what);
    }

    /// Whether nothing was wrong.
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    /// The table so far, and if there are several processors, how many files each of them has worked on.
    pub fn table(&self) -> String {
        let mut text = self.table.to_string();
        if let Some(first) = self.shares.first().filter(|shares| shares.contains('/')) {
            let cpus = first.split('/').count();
            let _ = writeln!(text, "cpus {cpus}: {} files", self.shares.join(", "));
        }
        text
    }

    /// The last line, or lines if there are faults.
    pub fn verdict(&self) -> String {
        let (files, bytes) = (self.files, self.bytes);
        if self.is_good() {
            return format!("demo: {files} files, {bytes} bytes verified in the kernel after reboot and on the host");
        }
        let mut text = String::new();
        for fault in &self.faults {
            let _ = writeln!(text, "demo: {fault}");
        }
        text + "demo: FAILED"
    }
}

/// The cells of one result; what the kernel did not tell is a dash. The rate is that of the files' content, the last
/// two cells are what went over the wire.
fn row(name: &str, event: &Event) -> Vec<String> {
    let micros = event.number("micros");
    let cell = |key| event.number(key).map_or("-".into(), |number| number.to_string());
    let traffic = |key| event.number(key).map_or("-".into(), crate::size::show);
    let mut cells = vec![name.to_string()];
    cells.extend(["files", "bytes", "blocks", "commits", "flushes"].map(cell));
    cells.push(micros.map_or("-".into(), |micros| format!("{:.2}", micros as f64 / 1e6)));
    cells.push(match (event.number("bytes"), micros) {
        (Some(bytes), Some(micros)) => rate(bytes, micros as f64),
        _ => "-".into(),
    });
    cells.extend(["read_bytes", "write_bytes"].map(traffic));
    cells
}

/// Megabytes a second, that is bytes a microsecond.
fn rate(bytes: u64, micros: f64) -> String {
    if micros > 0.0 {
        format!("{:.1}", bytes as f64 / micros)
    } else {
        "-".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn event(text: &str) -> Event {
        Event::parse(text).unwrap()
    }

    #[test]
    fn missing_figures_are_dashes() {
        let full = event("@result phase=import files=7 bytes=3000000 micros=2000000 read_bytes=3145728 future=1");
        assert_eq!(row("x", &full), ["x", "7", "3000000", "-", "-", "-", "2.00", "1.5", "3.0 MiB", "-"]);
        assert_eq!(row("x", &event("@result micros=0 bytes=5"))[6..], ["0.00", "-", "-", "-"]);
    }

    #[test]
    fn the_share_of_each_processor_is_shown() {
        let shown = |shares: &[&str]| {
            let mut report = Report::new(7, 100);
            report.shares = shares.iter().map(|text| text.to_string()).collect();
            report.table().lines().skip(2).map(String::from).collect::<Vec<_>>()
        };
        assert_eq!(shown(&["import 3/4", "verify 2/5"]), ["cpus 2: import 3/4, verify 2/5 files"]);
        assert!(shown(&["import 7"]).is_empty());
    }

    #[test]
    fn only_the_whole_archive_will_do() {
        let check = |line: Option<&str>| {
            let mut report = Report::new(7, 100);
            report.expect_all("verify", line.map(event).as_ref());
            report.verdict()
        };
        let good = check(Some("@result files=7 bytes=100"));
        assert_eq!(good, "demo: 7 files, 100 bytes verified in the kernel after reboot and on the host");
        for line in [Some("@result files=6 bytes=100"), Some("@result files=7 bytes=99"), Some("@result files=7"), None]
        {
            assert!(check(line).ends_with("demo: FAILED"), "{line:?}");
        }
    }

    #[test]
    fn the_host_counts_too() {
        let checked = |files| Checked { files, bytes: 100, blocks: 3, elapsed: Duration::from_secs(1) };
        let mut report = Report::new(7, 100);
        report.add_host("host", Ok(checked(7)), true);
        report.add_host("host, changed", Ok(checked(5)), false);
        assert!(report.is_good());
        report.add_host("host", Ok(checked(5)), true);
        report.add_host("host", Err(anyhow::anyhow!("no")), true);
        let verdict = report.verdict();
        assert!(verdict.lines().count() == 3 && verdict.ends_with("demo: FAILED"), "{verdict}");
    }
}
