#![forbid(unsafe_code)]
//! The word `shell`: a person at the serial port puts files into the store, takes the machine away in the middle, and
//! looks what is there afterwards.
//!
//! Nothing is committed but by `commit`, `off`, `reboot` and `bench`. After every change the shell says how many are
//! not committed, and its prompt shows a `*` as long as there are any. While it waits for a key the store works on
//! (`Store::step`), and the CPU sleeps from one tick of its timer to the next.
//!
//! | file         | what                                          |
//! |--------------|-----------------------------------------------|
//! | `mod.rs`     | the volume, the loop, the end                 |
//! | `line.rs`    | the line editor                               |
//! | `command.rs` | what a line asks for; names and text          |
//! | `files.rs`   | commands about files                          |
//! | `state.rs`   | commands about the volume and the machine     |
//! | `bench.rs`   | small measurements                            |

mod bench;
mod command;
mod files;
mod line;
mod state;

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt::{self, Write};

use arenite_catalog::Catalog;

use crate::blk::ReadyDisk;
use crate::cmdline::CmdLine;
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::store_disk::StoreDisk;
use crate::volume::Volume;
use crate::{exit, interrupts, phase, println, serial};
use command::Command;
use line::{Editor, Input};

/// Columns of a terminal that nobody has told about.
const USUAL_COLUMNS: u64 = 80;
/// Paths of changed files that are remembered, to be marked in listings.
const MAX_MARKED: usize = 1000;

/// Keys that are kept while something else is going on; the terminal waits with more.
const MAX_TYPED_BYTES: usize = 4096;

/// What the host waits for before it shows anything.
const READY: &str = "@shell";

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Off,
    Reboot,
}

/// Runs the shell; ends the run when its user does.
///
/// # Errors
/// There is no disk, no volume on it, or it failed at the end.
pub fn run(mut disks: Vec<ReadyDisk>, cmdline: &CmdLine) -> Result<(), Failure> {
    let columns = match cmdline.get_number("columns") {
        Ok(columns) => columns.unwrap_or(USUAL_COLUMNS).clamp(20, 500) as usize,
        Err(_) => return Err(Failure::new(Outcome::BadOption, format_args!("columns= is a number"))),
    };
    let disk = StoreDisk::open(phase::take(&mut disks, "store")?, cmdline)?;
    let volume = Volume::open(disk, phase::format(cmdline)?)?;
    println!("{READY}");
    let ending = Session::new(&volume, columns)?.talk()?;
    volume.unmount()?;
    exit::power_off(match ending {
        Ending::Off => Outcome::Success,
        Ending::Reboot => Outcome::Restart,
    })
}

/// What was changed since the last commit.
#[derive(Default)]
struct Changes {
    count: u64,
    /// The paths that were put, as far as they are remembered.
    paths: BTreeSet<Vec<u8>>,
}

/// A conversation about one volume.
struct Session<'v> {
    volume: &'v Volume,
    catalog: Catalog<'v, 'static, 'static>,
    editor: Editor,
    /// Keys that came while something else was going on.
    typed: RefCell<VecDeque<u8>>,
    changes: Changes,
}

impl<'v> Session<'v> {
    fn new(volume: &'v Volume, columns: usize) -> Result<Self, Failure> {
        let catalog = volume.catalog()?;
        Ok(Self {
            volume,
            catalog,
            editor: Editor::new(columns),
            typed: RefCell::default(),
            changes: Changes::default(),
        })
    }

    /// Greets, then does what it is told until it is told to end.
    fn talk(mut self) -> Result<Ending, Failure> {
        let (generation, files) = (self.volume.store.generation(), self.catalog.count()?);
        println!("Arenite. Generation {generation} was committed last; it holds {}.", Count(files, "file"));
        println!("`help` lists the commands. What is not committed does not survive a crash: try `crash`.");
        loop {
            let prompt = if self.changes.count == 0 { "arenite> " } else { "arenite*> " };
            let line = match self.read_line(prompt) {
                Input::Line(line) => line,
                Input::Cancelled => continue,
                Input::End => "off".into(),
            };
            self.editor.remember(&line);
            let ending = match command::parse(&line) {
                Ok(None) => Ok(None),
                Ok(Some(command)) => self.obey(command),
                Err(what) => {
                    println!("{what}");
                    Ok(None)
                }
            };
            match ending {
                Ok(None) => {}
                Ok(Some(ending)) => return Ok(ending),
                Err(failure) => println!("error: {}", self.volume.explain(failure).reason),
            }
        }
    }

    fn obey(&mut self, command: Command) -> Result<Option<Ending>, Failure> {
        match command {
            Command::Help => println!("{}", command::HELP),
            Command::List(path) => self.list(&path)?,
            Command::Show(name) => self.show(&name)?,
            Command::Put(name, text) => self.put(&name, text)?,
            Command::Remove(name) => self.remove(&name)?,
            Command::Describe(name) => self.describe(&name)?,
            Command::Space => self.space(),
            Command::Commit => self.commit()?,
            Command::Check => self.check()?,
            Command::Workers => self.workers(),
            Command::Bench => self.bench()?,
            Command::Crash => self.crash(),
            Command::Reboot => return self.end(Ending::Reboot),
            Command::Off => return self.end(Ending::Off),
        }
        Ok(None)
    }

    /// Commits what is not committed, and ends.
    fn end(&mut self, ending: Ending) -> Result<Option<Ending>, Failure> {
        if self.changes.count > 0 {
            self.commit()?;
        }
        Ok(Some(ending))
    }

    /// Stops the machine, as if its power had failed.
    fn crash(&self) -> ! {
        match self.changes.count {
            0 => println!("crash: everything was committed"),
            count => println!("crash: {} not committed, and lost", Are(count)),
        }
        exit::power_off(Outcome::Crash)
    }

    /// Reads a line from the terminal.
    fn read_line(&mut self, prompt: &str) -> Input {
        // What the terminal cannot be told, nobody can be told.
        let _ = self.editor.show(prompt, &mut Terminal);
        loop {
            let byte = self.wait_for_byte();
            if let Ok(Some(input)) = self.editor.feed(byte, prompt, &mut Terminal) {
                return input;
            }
        }
    }

    /// Waits for a key, while the store works on what it has to do.
    fn wait_for_byte(&self) -> u8 {
        loop {
            if let Some(byte) = self.typed.borrow_mut().pop_front().or_else(serial::read_byte) {
                return byte;
            }
            if !self.volume.store.step() {
                interrupts::relax();
            }
        }
    }

    /// Whether ^C was typed: what takes long ends then. Other keys are kept for the next line.
    fn is_interrupted(&self) -> bool {
        const INTERRUPT: u8 = 0x03;
        let mut typed = self.typed.borrow_mut();
        while typed.len() < MAX_TYPED_BYTES {
            match serial::read_byte() {
                Some(INTERRUPT) => {
                    typed.clear();
                    return true;
                }
                Some(byte) => typed.push_back(byte),
                None => return false,
            }
        }
        false
    }

    /// Notes a change, and says what that means.
    fn changed(&mut self, path: &[u8], is_there: bool) {
        self.changes.count += 1;
        if !is_there {
            self.changes.paths.remove(path);
        } else if self.changes.paths.len() < MAX_MARKED {
            self.changes.paths.insert(path.into());
        }
        self.say_uncommitted();
    }

    fn say_uncommitted(&self) {
        match self.changes.count {
            0 => {}
            1 => println!("not committed: 1 change; `commit` makes it durable"),
            count => println!("not committed: {count} changes; `commit` makes them durable"),
        }
    }

    /// Makes all changes durable.
    fn commit(&mut self) -> Result<(), Failure> {
        if self.changes.count == 0 {
            println!("nothing to commit: generation {} holds everything", self.volume.store.generation());
            return Ok(());
        }
        self.volume.commit(&mut self.catalog)?;
        let changes = core::mem::take(&mut self.changes);
        println!("durable now: {}", Count(changes.count, "change"));
        Ok(())
    }
}

/// Standard output of the line editor.
struct Terminal;

impl Write for Terminal {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        serial::print(format_args!("{text}"));
        Ok(())
    }
}

/// A number of things, in words: `1 file`, `2 files`.
struct Count(u64, &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, what) = self;
        write!(f, "{count} {what}{}", if *count == 1 { "" } else { "s" })
    }
}

/// So many changes were.
struct Are(u64);

impl fmt::Display for Are {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Count(self.0, "change"), if self.0 == 1 { "was" } else { "were" })
    }
}
