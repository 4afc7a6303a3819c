//! The scenario `shell`: a made-up person at a pseudo-terminal talks to the kernel through `cargo demo --shell`, as a
//! real one would.

use crate::demo::Bench;
use anyhow::Result;

#[cfg(not(unix))]
/// Says that it cannot.
pub fn shell(_: &Bench) -> Result<String> {
    Ok("not tried: there are no pseudo-terminals here".into())
}

#[cfg(unix)]
/// Files that were committed survive a crash, and only these; keys do what they say; `reboot` and `off` end in order.
pub fn shell(bench: &Bench) -> Result<String> {
    unix::shell(bench)
}

#[cfg(unix)]
mod unix {
    use crate::demo::Bench;
    use crate::vm::Guard;
    use crate::work::WorkDir;
    use anyhow::{bail, ensure, Context, Result};
    use rustix::pty::{grantpt, openpt, ptsname, unlockpt, OpenptFlags};
    use rustix::termios::{tcgetattr, tcsetwinsize, LocalModes, Winsize};
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::process::Command;
    use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
    use std::time::{Duration, Instant};

    /// How long an answer may take; the first one includes a build.
    const PATIENCE: Duration = Duration::from_secs(60);
    /// Columns of the made-up terminal.
    const COLUMNS: u16 = 60;

    const LEFT: &str = "\x1b[D";
    const RIGHT: &str = "\x1b[C";
    const UP: &str = "\x1b[A";
    const DOWN: &str = "\x1b[B";
    const HOME: &str = "\x1b[H";
    const END: &str = "\x1b[F";
    const DELETE: &str = "\x1b[3~";
    const BACKSPACE: &str = "\x7f";
    const CTRL_A: &str = "\x01";
    const CTRL_C: &str = "\x03";
    const CTRL_D: &str = "\x04";
    const CTRL_E: &str = "\x05";
    const CTRL_K: &str = "\x0b";
    const CTRL_L: &str = "\x0c";
    const CTRL_U: &str = "\x15";
    const CTRL_W: &str = "\x17";
    const SWITCH_OFF: &str = "\x1d";

    pub fn shell(bench: &Bench) -> Result<String> {
        let dir = WorkDir::take(&bench.root, "shell")?;
        let disk = dir.file("store.img");
        what_was_not_committed_is_lost(bench, &disk)?;
        what_was_committed_is_there(bench, &disk)?;
        keys(bench, &disk)?;
        switched_off(bench, &disk)?;
        dir.remove();
        Ok("put, commit, put, crash; one file left; keys, reboot, off".into())
    }

    fn what_was_not_committed_is_lost(bench: &Bench, disk: &Path) -> Result<()> {
        let mut user = User::start(bench, disk)?;
        user.expect("it holds 0 files")?;
        user.ask("put hello world", "not committed: 1 change; `commit` makes it durable")?;
        let listed = user.ask("ls", "1 file, 6 bytes")?;
        ensure!(listed.contains("*          6  hello"), "an uncommitted file is not marked: {listed:?}");
        user.ask("commit", "durable now: 1 change")?;
        user.ask("put other things", "not committed: 1 change")?;
        user.ask("crash", "1 change was not committed, and lost")?;
        user.expect("the machine is gone")?;
        user.ends(0)
    }

    fn what_was_committed_is_there(bench: &Bench, disk: &Path) -> Result<()> {
        let mut user = User::start(bench, disk)?;
        user.expect("Generation 2 was committed last; it holds 1 file.")?;
        let listed = user.ask("ls", "1 file, 6 bytes")?;
        ensure!(listed.contains("           6  hello") && !listed.contains("other"), "listed: {listed:?}");
        ensure!(!listed.contains('*'), "a committed file is marked: {listed:?}");
        user.ask("cat other", "error: there is no file other")?;
        user.ask("check", "check: good; every block is accounted for")?;
        user.ask("put again and again", "not committed: 1 change")?;
        user.ask("check", "check: good; every block is accounted for")?;
        user.ask("reboot", "durable now: 1 change")?;
        user.expect("starting the machine anew")?;
        user.expect("Generation 3 was committed last; it holds 2 files.")?;
        user.ask("rm again", "not committed: 1 change")?;
        user.ask("off", "durable now: 1 change")?;
        user.expect("the machine is off; everything was committed")?;
        user.ends(0)
    }

    /// Each of these lines becomes `cat hello` by what is typed.
    fn keys(bench: &Bench, disk: &Path) -> Result<()> {
        let mut user = User::start(bench, disk)?;
        user.expect("Generation 4 was committed last; it holds 1 file.")?;
        let edited = [
            format!("cat helloxy{BACKSPACE}{BACKSPACE}"),
            format!("at hello{HOME}c"),
            format!("at hello{CTRL_A}c{CTRL_E}"),
            format!("cat heo{LEFT}ll"),
            format!("cat hello{LEFT}{LEFT}x{LEFT}{DELETE}"),
            format!("ca hello{HOME}{RIGHT}{RIGHT}t{END}"),
            format!("rubbish{CTRL_U}cat hello"),
            format!("cat hello rubbish{CTRL_W}"),
            format!("cat hello rubbish{CTRL_A}{}{CTRL_K}", RIGHT.repeat(9)),
            format!("cat hel{CTRL_L}lo"),
            format!("cat hello\u{fc}\u{65e5}e\u{301}{BACKSPACE}{BACKSPACE}{BACKSPACE}"),
            format!("nonsense{CTRL_C}cat hello"),
            UP.into(),
            format!("cat{UP}{UP}{DOWN}"),
            format!("{}{CTRL_U}cat hello", "x".repeat(200)),
        ];
        for line in &edited {
            user.ask(line, "\r\nworld\r\n").with_context(|| format!("{line:?}"))?;
        }
        user.ask("dance", "there is no command dance; `help` lists them")?;
        user.ask("cat", "usage: cat NAME")?;
        user.ask("help", "crash           stops the machine at once")?;
        user.type_in("put lines\rone\rtwo\r.\r")?;
        user.expect("put lines: 8 bytes")?;
        user.ask("put \"with blank\" \u{fc}ber", "not committed: 2 changes; `commit` makes them durable")?;
        user.ask("cat \"with blank\"", "\u{fc}ber\r\n")?;
        user.ask("stat lines", "lines: file, mode 644, not committed")?;
        user.ask("bench", "error: bench commits, and 2 changes were not committed: `commit` first")?;
        user.ask("commit", "durable now: 2 changes")?;
        user.ask("bench", "read from the cache")?;
        user.ask("workers", "CPU 0:")?;
        user.ask("df", "hold the allocation logs")?;
        user.ask("check", "check: good; every block is accounted for")?;
        user.ask("ls", "3 files, ")?;
        user.type_in(CTRL_D)?;
        user.expect("the machine is off")?;
        user.ends(0)
    }

    /// QEMU killed by the user's key: the terminal is itself again.
    fn switched_off(bench: &Bench, disk: &Path) -> Result<()> {
        let mut user = User::start(bench, disk)?;
        user.expect("it holds 3 files.")?;
        user.ask("rm hello", "not committed: 1 change")?;
        user.type_in(SWITCH_OFF)?;
        user.expect("the machine is gone")?;
        user.ends(0)?;
        let mut user = User::start(bench, disk)?;
        user.expect("it holds 3 files.")?;
        user.ask("off", "the machine is off")?;
        user.ends(0)
    }

    /// Somebody at a terminal, and the program that they use.
    struct User {
        program: Guard,
        /// The terminal's own end, for its mode.
        terminal: File,
        keyboard: File,
        screen: Receiver<Vec<u8>>,
        /// What was shown and not yet looked at.
        shown: Vec<u8>,
    }

    impl User {
        fn start(bench: &Bench, disk: &Path) -> Result<Self> {
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("no pseudo-terminal")?;
            grantpt(&master)?;
            unlockpt(&master)?;
            let name = ptsname(&master, Vec::new())?;
            let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
            let terminal = File::options().read(true).write(true).open(path)?;
            tcsetwinsize(&terminal, Winsize { ws_row: 24, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 })?;
            let keyboard = File::from(master);
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["demo", "--", "--shell", "--size", "64M", "--accel", bench.accel.name(), "--disk"]).arg(disk);
            command.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal.try_clone()?);
            let program = Guard(command.current_dir(&bench.root).spawn()?);
            let (send, screen) = channel();
            let mut reader = keyboard.try_clone()?;
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = reader.read(&mut buffer) {
                    if send.send(buffer[..count].to_vec()).is_err() {
                        return;
                    }
                }
            });
            let mut user = Self { program, terminal, keyboard, screen, shown: Vec::new() };
            user.expect("Ctrl-] switches the machine off")?;
            Ok(user)
        }

        fn type_in(&mut self, keys: &str) -> Result<()> {
            Ok(self.keyboard.write_all(keys.as_bytes())?)
        }

        /// Types a line, and waits for the answer.
        fn ask(&mut self, line: &str, answer: &str) -> Result<String> {
            self.type_in(line)?;
            self.type_in("\r")?;
            self.expect(answer)
        }

        /// Waits until this is shown; returns what was shown from the last such place up to there.
        fn expect(&mut self, text: &str) -> Result<String> {
            let until = Instant::now() + PATIENCE;
            loop {
                let found = self.shown.windows(text.len()).position(|window| window == text.as_bytes());
                if let Some(at) = found {
                    let seen = self.shown.drain(..at + text.len()).collect::<Vec<u8>>();
                    return Ok(String::from_utf8_lossy(&seen).into_owned());
                }
                match self.screen.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(bytes) => self.shown.extend(bytes),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                        bail!("`{text}` was not shown, but {:?}", String::from_utf8_lossy(&self.shown));
                    }
                }
            }
        }

        /// Demands that the program ends like this, and leaves the terminal as it was.
        fn ends(mut self, status: i32) -> Result<()> {
            let until = Instant::now() + PATIENCE;
            let ended = loop {
                match self.program.0.try_wait()? {
                    Some(ended) => break ended,
                    None if Instant::now() > until => bail!("the program does not end"),
                    None => std::thread::sleep(Duration::from_millis(10)),
                }
            };
            ensure!(ended.code() == Some(status), "it ended with {ended}, not {status}");
            let modes = tcgetattr(&self.terminal)?.local_modes;
            ensure!(modes.contains(LocalModes::ECHO | LocalModes::ICANON), "the terminal is left raw: {modes:?}");
            Ok(())
        }
    }
}
