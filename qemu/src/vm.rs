//! One run of QEMU: its command line, the kernel's serial output, the verdict in its exit status, and time limits.
//!
//! The kernel ends a run through the isa-debug-exit device: it writes v, and QEMU exits with 2v+1; the values are the
//! kernel's [`Outcome`]s. Any other status is QEMU's own. Disks are raw images in writeback mode with flushes honoured,
//! so that a flush of the guest is a flush of the host's file.
//!
//! Two threads read QEMU's output and errors; the caller's thread waits for lines, with a limit on silence and on the
//! whole, and kills QEMU when either is passed. Nothing survives this value: dropping a running machine kills it.

use crate::accel::Accel;
use crate::events::{for_each_line, Event};
use crate::outcome::Outcome;
use anyhow::{Context, Result};
use serde_json::{json, Value};
use std::collections::VecDeque;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How many lines of output are kept for reports.
const KEPT_LINES: usize = 10_000;

/// How long the last lines of a machine that was killed are waited for.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How long a run may last.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Without a line of output.
    pub silence: Duration,
    /// In all.
    pub whole: Duration,
}

/// A type of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Board {
    /// A PC: virtio on PCI.
    Q35,
    /// A minimal one: virtio devices in memory, which QEMU names on the kernel's command line.
    Microvm,
}

impl Board {
    /// What QEMU is told.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Q35 => &["-machine", "q35"],
            // Without ACPI tables QEMU adds the addresses of the devices to the command line.
            Self::Microvm => &[
                "-machine",
                "microvm,acpi=off,auto-kernel-cmdline=on,isa-serial=on",
                "-global",
                "virtio-mmio.force-legacy=false",
            ],
        }
    }

    /// The disks that it takes.
    fn disk_driver(self) -> &'static str {
        match self {
            Self::Q35 => "virtio-blk-pci",
            Self::Microvm => "virtio-blk-device",
        }
    }
}

/// A driver of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Driver {
    /// Its own, with many requests at once.
    Queue,
    /// The one that comes with the crate `virtio-drivers`.
    Simple,
}

/// How a disk behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Sound,
    /// As it should, and past the host's page cache.
    Direct,
    /// As it should, with a request queue of so many entries.
    Queue(u16),
    /// It takes no flushes.
    NoFlush,
    /// Writes of the sector (of 512 bytes) with this number fail.
    FailingWrite(u64),
    /// Reads of the sector with this number fail.
    FailingRead(u64),
    /// Flushes fail.
    FailingFlush,
    /// Writes do not end, but for the first.
    Stalling,
}

/// What lets a byte a second through, for disks that stall.
const BOTTLENECK: &str = "bottleneck";

/// A disk of the machine.
pub struct Disk<'a> {
    /// The raw image.
    pub path: &'a Path,
    /// The serial number by which the kernel tells its disks apart.
    pub serial: &'a str,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// The size of its sectors, logical and physical, in bytes.
    pub sector_bytes: u32,
    /// How it behaves.
    pub manner: Manner,
    /// The socket of the block server through which the image is used, if there is one.
    pub socket: Option<&'a Path>,
}

impl Disk<'_> {
    /// The image as QEMU's block layer is told of it. Errors are injected below the raw format.
    fn block_node(&self, name: &str) -> Value {
        let file = match self.socket {
            Some(socket) => json!({
                "driver": "nbd",
                "server": { "type": "unix", "path": socket.to_string_lossy() },
                "export": crate::server::EXPORT,
            }),
            None => json!({ "driver": "file", "filename": self.path.to_string_lossy() }),
        };
        let failing = |access: &str, sector: Option<u64>| {
            let mut rule = json!({ "event": "none", "iotype": access, "errno": 5, "once": false, "immediately": true });
            if let Some(sector) = sector {
                rule["sector"] = sector.into();
            }
            json!({ "driver": "blkdebug", "image": file, "inject-error": [rule] })
        };
        let below = match self.manner {
            Manner::Sound | Manner::Direct | Manner::Queue(_) | Manner::NoFlush | Manner::Stalling => file,
            Manner::FailingWrite(sector) => failing("write", Some(sector)),
            Manner::FailingRead(sector) => failing("read", Some(sector)),
            Manner::FailingFlush => failing("flush", None),
        };
        let mut raw = json!({
            "driver": "raw",
            "read-only": self.read_only,
            "cache": { "direct": self.manner == Manner::Direct, "no-flush": false },
            "file": below,
        });
        if self.manner == Manner::Stalling {
            // On top of everything, where a reset of the device makes QEMU end what is held back.
            raw = json!({ "driver": "throttle", "throttle-group": BOTTLENECK, "file": raw });
        }
        raw["node-name"] = name.into();
        raw
    }

    fn device(&self, node: &str, board: Board) -> String {
        let driver = board.disk_driver();
        let (serial, sector) = (self.serial, self.sector_bytes);
        let cache = match self.manner {
            Manner::NoFlush => "write-cache=off,config-wce=off".into(),
            Manner::Queue(entries) => format!("write-cache=on,queue-size={entries}"),
            _ => "write-cache=on".to_string(),
        };
        let sectors = format!("logical_block_size={sector},physical_block_size={sector}");
        // Otherwise QEMU stops the machine for a person to make room if a disk's image cannot grow.
        let errors = "werror=report,rerror=report";
        format!("{driver},drive={node},serial={serial},{cache},{sectors},{errors}")
    }
}

/// When a machine is switched off in the middle of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut<'a> {
    /// What the kernel's line begins with that decides the moment.
    pub line: &'a str,
    /// Which of such lines, counted from 1.
    pub number: u32,
    /// How long after it.
    pub delay: Duration,
}

/// A machine that can be started.
pub struct Machine<'a> {
    /// The emulator.
    pub qemu: &'a Path,
    /// The kernel's ELF image.
    pub kernel: &'a Path,
    /// Who executes the guest's code.
    pub accel: Accel,
    /// What kind it is.
    pub board: Board,
    /// The guest's memory in bytes.
    pub memory: u64,
    /// The number of processors.
    pub cpus: u32,
    /// The kernel's command line, word by word.
    pub words: Vec<String>,
    /// Its disks.
    pub disks: Vec<Disk<'a>>,
    /// When the kernel counts as hung.
    pub limits: Limits,
    /// When the machine is killed, with SIGKILL, whatever it does.
    pub cut: Option<Cut<'a>>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The kernel ended the run itself, with this outcome.
    Verdict(Outcome),
    /// QEMU ended by itself: it could not start, or the guest reset or powered off without a verdict.
    NoVerdict(String),
    /// Killed: this went on for too long.
    Hung(String),
    /// Killed in the middle of its work, as was wanted.
    Cut,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Verdict(outcome) => write!(f, "the kernel ended with `{}`", outcome.name()),
            Self::NoVerdict(why) => write!(f, "{why}"),
            Self::Hung(why) => write!(f, "the kernel hung ({why}) and was killed"),
            Self::Cut => f.write_str("the machine was switched off"),
        }
    }
}

/// What a run left behind.
#[derive(Debug)]
pub struct Run {
    /// How it ended.
    pub end: End,
    /// Its events but for progress, in their order.
    pub events: Vec<Event>,
    /// The last lines of the kernel's output, and of QEMU's errors.
    pub log: VecDeque<String>,
    /// How long it took.
    pub elapsed: Duration,
}

/// What is seen of a running machine.
pub enum Sight<'a> {
    /// So many bytes of so many are done.
    Progress(u64, u64),
    /// An event of another kind, or text.
    Line(&'a str),
}

impl Machine<'_> {
    /// The command that starts it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.qemu);
        let cpu = if self.accel == Accel::Kvm { "host" } else { "max" };
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"]);
        command.args(self.board.options()).args(["-accel", self.accel.name(), "-cpu", cpu]).args(self.accel.options());
        command.args(["-smp", &self.cpus.to_string(), "-m", &format!("{}k", self.memory / 1024)]);
        command.args(["-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"]);
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        if self.disks.iter().any(|disk| disk.manner == Manner::Stalling) {
            let limits = json!({ "qom-type": "throttle-group", "id": BOTTLENECK, "limits": { "bps-write": 1 } });
            command.arg("-object").arg(limits.to_string());
        }
        for (number, disk) in self.disks.iter().enumerate() {
            let node = format!("disk{number}");
            command.arg("-blockdev").arg(disk.block_node(&node).to_string());
            command.arg("-device").arg(disk.device(&node, self.board));
        }
        command.arg("-kernel").arg(self.kernel).arg("-append").arg(self.words.join(" "));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, see: impl FnMut(Sight<'_>)) -> Result<Run> {
        let child = self.command().spawn();
        let mut child = Guard(child.with_context(|| format!("{} could not be started", self.qemu.display()))?);
        let lines = read_output(&mut child.0);
        watch(&mut child.0, &lines, self.limits, self.cut, see)
    }
}

/// Kills the process if it is still there.
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads both outputs in threads of their own; the channel closes when both have ended.
fn read_output(child: &mut Child) -> Receiver<String> {
    let (send, receive) = channel();
    if let Some(serial) = child.stdout.take() {
        let send = send.clone();
        std::thread::spawn(move || for_each_line(serial, |line| drop(send.send(line))));
    }
    if let Some(errors) = child.stderr.take() {
        std::thread::spawn(move || for_each_line(errors, |line| drop(send.send(format!("qemu: {line}")))));
    }
    receive
}

fn watch(
    child: &mut Child,
    lines: &Receiver<String>,
    limits: Limits,
    cut: Option<Cut<'_>>,
    mut see: impl FnMut(Sight<'_>),
) -> Result<Run> {
    let started = Instant::now();
    let Limits { silence, whole } = limits;
    let (mut events, mut log) = (Vec::new(), VecDeque::new());
    let mut fuse = Fuse { cut, seen: 0, burns_until: None };
    let killed = loop {
        let burning = fuse.left();
        if burning == Some(Duration::ZERO) {
            break Some(End::Cut);
        }
        let Some(left) = whole.checked_sub(started.elapsed()) else {
            break Some(End::Hung(format!("not finished after {} s", whole.as_secs())));
        };
        let line = match lines.recv_timeout(silence.min(left).min(burning.unwrap_or(silence))) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) if burning.is_some() => continue,
            Err(RecvTimeoutError::Timeout) if silence > left => continue,
            Err(RecvTimeoutError::Timeout) => break Some(End::Hung(format!("silent for {} s", silence.as_secs()))),
            Err(RecvTimeoutError::Disconnected) => break None,
        };
        fuse.see(&line);
        let event = Event::parse(&line);
        if let Some((done, total)) = event.as_ref().and_then(Event::progress) {
            see(Sight::Progress(done, total));
            continue;
        }
        see(Sight::Line(&line));
        keep(&mut log, line);
        events.extend(event);
    };
    let end = match killed {
        Some(end) => {
            let _ = child.kill();
            child.wait()?;
            // What the kernel had said before counts, although nobody had read it yet.
            while let Ok(line) = lines.recv_timeout(LAST_LINES) {
                events.extend(Event::parse(&line).filter(|event| event.progress().is_none()));
                keep(&mut log, line);
            }
            end
        }
        None => end_of(child.wait()?, &log),
    };
    Ok(Run { end, events, log, elapsed: started.elapsed() })
}

/// Counts lines towards a [`Cut`].
struct Fuse<'a> {
    cut: Option<Cut<'a>>,
    seen: u32,
    burns_until: Option<Instant>,
}

impl Fuse<'_> {
    fn see(&mut self, line: &str) {
        let Some(cut) = self.cut.filter(|cut| line.starts_with(cut.line)) else { return };
        self.seen += 1;
        if self.seen == cut.number {
            self.burns_until = Some(Instant::now() + cut.delay);
        }
    }

    /// How long until the machine is to be killed, if the moment is known.
    fn left(&self) -> Option<Duration> {
        self.burns_until.map(|until| until.saturating_duration_since(Instant::now()))
    }
}

fn keep(log: &mut VecDeque<String>, line: String) {
    if log.len() == KEPT_LINES {
        log.pop_front();
    }
    log.push_back(line);
}

/// Reads QEMU's exit status; its errors in the log say why it would not start.
pub fn end_of(status: ExitStatus, log: &VecDeque<String>) -> End {
    if let Some(outcome) = status.code().and_then(Outcome::from_exit_status) {
        return End::Verdict(outcome);
    }
    let said = |what: &str| log.iter().rev().find(|line| line.starts_with("qemu: ") && line.contains(what));
    End::NoVerdict(match status.code() {
        Some(0) => "the machine was reset or switched off without a verdict of the kernel".into(),
        Some(_) if said("Failed to get").is_some_and(|line| line.ends_with(" lock")) => {
            "a disk is in use by another process".into()
        }
        Some(code) => said("").cloned().unwrap_or_else(|| format!("QEMU ended with status {code}")),
        None => format!("QEMU was killed ({status})"),
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// Runs a shell script in place of QEMU.
    fn play(script: &str, limits: Limits) -> (Run, Vec<(u64, u64)>) {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Guard(command.spawn().unwrap());
        let lines = read_output(&mut child.0);
        let mut seen = Vec::new();
        let cut = Cut { line: "cut here", number: 2, delay: Duration::from_millis(50) };
        let run = watch(&mut child.0, &lines, limits, Some(cut), |sight| {
            if let Sight::Progress(done, total) = sight {
                seen.push((done, total));
            }
        });
        (run.unwrap(), seen)
    }

    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(300);
    const PATIENT: Limits = Limits { silence: LONG, whole: LONG };

    #[test]
    fn the_verdict_is_read_with_the_events() {
        let (run, seen) = play("echo hello; echo @progress 1 2; echo @result files=3; exit 33", PATIENT);
        assert_eq!(run.end, End::Verdict(Outcome::Success));
        assert_eq!(seen, [(1, 2)]);
        assert_eq!(run.events.len(), 1);
        assert_eq!(run.events[0].number("files"), Some(3));
        assert_eq!(run.log, ["hello", "@result files=3"]);
    }

    #[test]
    fn what_is_not_a_verdict_is_told_apart() {
        let end = |script| match play(script, PATIENT).0.end {
            End::NoVerdict(why) => why,
            other => panic!("{other:?}"),
        };
        assert!(end("exit 0").contains("without a verdict"));
        assert!(end("exit 2").contains("status 2"));
        assert!(end("exit 3").contains("status 3"));
        assert_eq!(end("echo no such machine >&2; exit 1"), "qemu: no such machine");
        let locked = "echo 'x.img: Failed to get \"write\" lock' >&2; echo 'Is another process using it?' >&2; exit 1";
        assert_eq!(end(locked), "a disk is in use by another process");
        assert!(end("echo '-blockdev: bad' >&2; exit 1").ends_with("-blockdev: bad"));
        assert!(end("kill -9 $$").contains("killed"));
    }

    #[test]
    fn silence_is_cut_short() {
        let started = Instant::now();
        let (run, _) = play("echo here; exec sleep 40", Limits { silence: SHORT, whole: LONG });
        assert!(matches!(&run.end, End::Hung(why) if why.starts_with("silent")), "{:?}", run.end);
        assert!(started.elapsed() < Duration::from_secs(10));
        assert_eq!(run.log, ["here"]);
    }

    #[test]
    fn chatter_without_end_is_cut_short() {
        let (run, _) = play("while :; do echo again; sleep 0.01; done", Limits { silence: LONG, whole: SHORT });
        assert!(matches!(&run.end, End::Hung(why) if why.starts_with("not finished")), "{:?}", run.end);
    }

    #[test]
    fn a_machine_can_be_switched_off() {
        let started = Instant::now();
        let (run, _) = play("echo cut here; echo cut here now; echo @late a=1; exec sleep 40", PATIENT);
        assert_eq!(run.end, End::Cut);
        assert!((Duration::from_millis(50)..Duration::from_secs(10)).contains(&started.elapsed()));
        assert_eq!(run.log, ["cut here", "cut here now", "@late a=1"]);
        assert_eq!(run.events.len(), 1);
        // A line too few, and the machine ends by itself.
        let (run, _) = play("echo cut here; exit 33", PATIENT);
        assert_eq!(run.end, End::Verdict(Outcome::Success));
    }

    #[test]
    fn disks_can_misbehave() {
        let node = |manner| {
            let path = Path::new("x");
            let disk = Disk { path, serial: "s", read_only: false, sector_bytes: 512, manner, socket: None };
            (disk.block_node("n").to_string(), disk.device("n", Board::Q35))
        };
        assert!(!node(Manner::Sound).0.contains("blkdebug"));
        assert!(node(Manner::NoFlush).1.contains("write-cache=off,config-wce=off"));
        let (image, device) = node(Manner::FailingWrite(7));
        assert!(image.contains(r#""iotype":"write""#) && image.contains(r#""sector":7"#), "{image}");
        assert!(device.contains("write-cache=on"), "{device}");
        assert!(!node(Manner::FailingFlush).0.contains("sector"));
    }

    #[test]
    fn a_block_server_can_be_in_between() {
        let (path, socket) = (Path::new("x.img"), Some(Path::new("/run/x.sock")));
        let manner = Manner::Sound;
        let disk = Disk { path, serial: "s", read_only: false, sector_bytes: 512, manner, socket };
        let (image, device) = (disk.block_node("n").to_string(), disk.device("n", Board::Q35));
        assert!(image.contains(r#""driver":"nbd""#) && image.contains(r#""path":"/run/x.sock""#), "{image}");
        assert!(image.contains(r#""no-flush":false"#) && !image.contains("x.img"), "{image}");
        assert!(device.contains("write-cache=on"), "{device}");
    }

    #[test]
    fn flushes_are_never_ignored() {
        let disk = Path::new("/images/a,b.img");
        let machine = Machine {
            qemu: Path::new("qemu-system-x86_64"),
            kernel: Path::new("kernel"),
            accel: Accel::Tcg,
            board: Board::Q35,
            memory: 64 << 20,
            cpus: 2,
            words: vec!["phase=import".into(), "format=force".into()],
            disks: vec![Disk {
                path: disk,
                serial: "store",
                read_only: false,
                sector_bytes: 4096,
                manner: Manner::Sound,
                socket: None,
            }],
            limits: PATIENT,
            cut: None,
        };
        let text = crate::tools::show(&machine.command());
        assert!(text.contains(r#""no-flush":false"#) && text.contains("write-cache=on"), "{text}");
        assert!(text.contains(r#""filename":"/images/a,b.img""#), "{text}");
        assert!(text.contains("-m 65536k") && text.ends_with("-append phase=import format=force"), "{text}");
        assert!(!text.contains("unsafe"), "{text}");
    }
}
