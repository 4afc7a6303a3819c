//! `cargo demo --shell`: connects the terminal to the serial port of a machine whose kernel takes commands.
//!
//! One thread reads the keys, one for each machine reads its serial port, and the caller's thread passes keys on. What
//! the kernel says before its shell is ready is kept back, and shown only if it does not get that far. A machine that
//! ends because its user wants another one is followed by it; any other end is the end of this.

use crate::DemoArgs;
use anyhow::Result;

#[cfg(not(unix))]
/// Says that it cannot.
pub fn run(_: &DemoArgs) -> Result<bool> {
    Err(crate::tools::Usage("--shell needs a Unix terminal".into()).into())
}

#[cfg(unix)]
/// Runs machines until their user has enough.
pub fn run(args: &DemoArgs) -> Result<bool> {
    unix::run(args)
}

#[cfg(unix)]
mod unix {
    use crate::demo::{Bench, Boot, KERNEL_ERROR};
    use crate::events::for_each_line;
    use crate::outcome::Outcome;
    use crate::terminal::{columns, Raw};
    use crate::vm::{end_of, Disk, End, Guard, Machine, Manner};
    use crate::{tools, work, DemoArgs};
    use anyhow::{bail, Context, Result};
    use std::collections::VecDeque;
    use std::io::{Read, Write};
    use std::path::Path;
    use std::process::Stdio;
    use std::sync::mpsc::{channel, Receiver, Sender};

    /// The line with which the kernel's shell begins.
    const READY: &[u8] = b"@shell\n";
    /// The key that switches the machine off: Ctrl-].
    const SWITCH_OFF: u8 = 0x1D;
    /// Ends the kernel's input: a line that has no end yet, a text that is being typed, the shell.
    const END_OF_INPUT: &[u8] = b"\r\x04\x04";
    /// Bytes of the kernel's first words that are kept.
    const MAX_KEPT_BYTES: usize = 1 << 20;

    /// What the caller's thread waits for.
    enum Message {
        Typed(Vec<u8>),
        /// Nobody types any more.
        InputEnded,
        /// The kernel listens now; what was sent to it before would be lost.
        Ready,
        /// The machine's serial port is closed. What it said before its shell was ready, if it was not.
        Gone(Option<Vec<u8>>),
    }

    pub fn run(args: &DemoArgs) -> Result<bool> {
        let root = tools::repository_root()?;
        let path = match &args.disk {
            Some(disk) => disk.clone(),
            None => {
                let dir = root.join(work::DIR);
                std::fs::create_dir_all(&dir).with_context(|| format!("{} cannot be created", dir.display()))?;
                dir.join("shell.img")
            }
        };
        // Locked for as long as this lasts; before anything is built.
        let _disk = work::open_disk(&path, args.size)?;
        let bench = Bench::set_up(&root, &args.boot)?;
        println!("shell: the disk is {}; Ctrl-] switches the machine off at once", path.display());
        let _raw = Raw::enter()?;
        let (send, messages) = channel();
        read_keys(send.clone());
        let mut session = Session { bench: &bench, args, path: &path, send, messages, waiting: Vec::new() };
        let mut words: &[&str] = if args.force_format { &["format=force"] } else { &[] };
        loop {
            match session.boot(words)? {
                End::Verdict(Outcome::Success) => println!("shell: the machine is off; everything was committed"),
                End::Verdict(Outcome::Restart) => {
                    println!("shell: starting the machine anew");
                    words = &[];
                    continue;
                }
                End::Verdict(Outcome::Crash) | End::Cut => {
                    println!("shell: the machine is gone; `cargo demo -- --shell` boots another one on this disk");
                }
                end => bail!("{end}"),
            }
            return Ok(true);
        }
    }

    /// Reads what is typed, for as long as the process lives.
    fn read_keys(send: Sender<Message>) {
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = std::io::stdin().lock().read(&mut buffer) {
                if send.send(Message::Typed(buffer[..count].to_vec())).is_err() {
                    return;
                }
            }
            let _ = send.send(Message::InputEnded);
        });
    }

    /// Machines on one disk, one after the other.
    struct Session<'a> {
        bench: &'a Bench,
        args: &'a DemoArgs,
        path: &'a Path,
        send: Sender<Message>,
        messages: Receiver<Message>,
        /// What was typed while no machine listened.
        waiting: Vec<u8>,
    }

    impl Session<'_> {
        fn machine(&self, words: &[&str]) -> Machine<'_> {
            let mut all = vec!["shell".to_string()];
            all.extend(columns(std::io::stdout()).map(|columns| format!("columns={columns}")));
            all.extend(words.iter().map(|word| word.to_string()));
            let sector_bytes = self.args.sector;
            let disks = vec![Disk {
                path: self.path,
                serial: "store",
                read_only: false,
                sector_bytes,
                manner: Manner::Sound,
                socket: None,
            }];
            let memory = self.args.memory;
            self.bench.machine(Boot { label: "shell", memory, words: all, disks, total_bytes: 0, cut: None })
        }

        /// Runs one machine to its end.
        fn boot(&mut self, words: &[&str]) -> Result<End> {
            let child = self.machine(words).command().stdin(Stdio::piped()).spawn();
            let mut child =
                Guard(child.with_context(|| format!("{} could not be started", self.bench.qemu.display()))?);
            let mut keys = child.0.stdin.take().context("no input to the machine")?;
            self.read_serial(child.0.stdout.take().context("no output of the machine")?);
            let errors = child.0.stderr.take().map(|errors| std::thread::spawn(move || all_lines(errors)));
            let (mut is_cut, mut is_ready) = (false, false);
            let before_ready = loop {
                match self.messages.recv().context("the terminal is gone")? {
                    Message::Typed(bytes) if bytes.contains(&SWITCH_OFF) => {
                        is_cut = true;
                        let _ = child.0.kill();
                    }
                    Message::Typed(bytes) => self.waiting.extend(bytes),
                    Message::InputEnded => self.waiting.extend(END_OF_INPUT),
                    Message::Ready => is_ready = true,
                    Message::Gone(before_ready) => break before_ready,
                }
                if is_ready && keys.write_all(&self.waiting).and_then(|()| keys.flush()).is_ok() {
                    self.waiting.clear();
                }
            };
            let status = child.0.wait()?;
            if is_cut {
                println!();
                return Ok(End::Cut);
            }
            let log = errors.and_then(|thread| thread.join().ok()).unwrap_or_default();
            let end = end_of(status, &log);
            match before_ready {
                Some(said) => bail!("{end}{}", reason(&said)),
                None => Ok(end),
            }
        }

        /// Shows what comes from the serial port.
        fn read_serial(&self, mut serial: impl Read + Send + 'static) {
            let (send, verbose) = (self.send.clone(), self.args.boot.verbose);
            std::thread::spawn(move || {
                let (mut kept, mut buffer) = (Some(Vec::new()), [0; 4096]);
                while let Ok(count @ 1..) = serial.read(&mut buffer) {
                    let mut bytes = buffer[..count].to_vec();
                    if verbose && kept.is_some() {
                        show(&bytes);
                    }
                    if let Some(said) = &mut kept {
                        said.append(&mut bytes);
                        let ready = said.windows(READY.len()).position(|window| window == READY);
                        if let Some(at) = ready {
                            bytes = if verbose { Vec::new() } else { said.split_off(at + READY.len()) };
                            kept = None;
                            let _ = send.send(Message::Ready);
                        } else {
                            said.truncate(MAX_KEPT_BYTES);
                        }
                    }
                    show(&bytes);
                }
                let _ = send.send(Message::Gone(kept));
            });
        }
    }

    fn show(bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        // A terminal that is gone sees nothing.
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    /// QEMU's errors, marked as everywhere.
    fn all_lines(errors: impl Read) -> VecDeque<String> {
        let mut lines = VecDeque::new();
        for_each_line(errors, |line| lines.push_back(format!("qemu: {line}")));
        lines
    }

    /// Why the kernel gave up, if it has said so.
    fn reason(said: &[u8]) -> String {
        let mut reason = String::new();
        for_each_line(said, |line| {
            if let Some(what) = line.strip_prefix(KERNEL_ERROR) {
                reason = format!(": {what}");
            }
        });
        reason
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_kernels_reason_is_found() {
            let said = format!("memory: much\n{KERNEL_ERROR}the disk is not blank\nkernel-demo: outcome 24\n");
            assert_eq!(reason(said.as_bytes()), ": the disk is not blank");
            assert_eq!(reason(b"booting\n"), "");
        }
    }
}
