#![forbid(unsafe_code)]
//! Commands about files: `ls`, `cat`, `put`, `rm`, `stat`.

use alloc::string::String;

use arenite_catalog::{Entry, FileWriter, Kind, MAX_READ_AHEAD};

use super::command::{Name, Text};
use super::line::Input;
use super::{Count, Session};
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::volume::DATA_HINT;
use crate::{print, println};

/// Bytes of the longest text that is taken line by line.
const MAX_TEXT_BYTES: usize = 256 << 10;
/// Permission bits of a file that is put.
const MODE: u32 = 0o644;

impl Session<'_> {
    /// Lists what is at or below a path; everything if it is empty.
    pub(super) fn list(&self, path: &[u8]) -> Result<(), Failure> {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let (mut count, mut bytes) = (0, 0);
        for item in self.catalog.iter_from(path) {
            let item = item?;
            let Some(below) = item.path().strip_prefix(path) else { break };
            // A name that only begins like the path lies between those that are below it.
            if !path.is_empty() && !matches!(below.first(), None | Some(b'/')) {
                continue;
            }
            let (name, entry) = (item.path(), item.entry());
            let mark = if self.changes.paths.contains(name) { '*' } else { ' ' };
            let kind = match entry.kind {
                Kind::Dir => "/",
                Kind::Symlink => "@",
                Kind::File => "",
            };
            println!("{mark} {:>10}  {}{kind}", entry.content.size_bytes(), Name(name));
            (count, bytes) = (count + 1, bytes + entry.content.size_bytes());
            if self.is_interrupted() {
                println!("interrupted");
                return Ok(());
            }
        }
        if count == 0 && !path.is_empty() {
            println!("there is no file {0}, and none below it", Name(path));
            return Ok(());
        }
        println!("{}, {}", Count(count, "file"), Count(bytes, "byte"));
        self.say_uncommitted();
        Ok(())
    }

    /// The entry of a file that has to be there.
    fn entry(&self, name: &[u8]) -> Result<Entry, Failure> {
        let found = self.catalog.get(name)?;
        found.ok_or_else(|| Failure::new(Outcome::Mismatch, format_args!("there is no file {}", Name(name))))
    }

    /// Shows the content of a file as text.
    pub(super) fn show(&self, name: &[u8]) -> Result<(), Failure> {
        let entry = self.entry(name)?;
        let mut reader = self.catalog.reader(&entry).with_read_ahead(MAX_READ_AHEAD);
        let mut last = b'\n';
        while let Some(block) = reader.next_block()? {
            // In pieces, so that a long file can be interrupted.
            for piece in block.chunks(512) {
                print!("{}", Text(piece));
                last = piece.last().copied().unwrap_or(last);
                if self.is_interrupted() {
                    println!("\ninterrupted");
                    return Ok(());
                }
            }
        }
        if last != b'\n' {
            println!();
        }
        Ok(())
    }

    /// Writes a file; asks for its lines if there is no text.
    pub(super) fn put(&mut self, name: &[u8], text: Option<String>) -> Result<(), Failure> {
        let text = match text {
            Some(mut text) => {
                text.push('\n');
                text
            }
            None => match self.read_text()? {
                Some(text) => text,
                None => return Ok(()),
            },
        };
        let mut writer = FileWriter::new(&self.volume.store, DATA_HINT);
        writer.write(text.as_bytes())?;
        let content = writer.finish()?;
        let entry = Entry { kind: Kind::File, mode: MODE, modified_s: 0, content };
        let replaced = self.catalog.put_or_free(name, &entry)?;
        let what = if replaced { "replaced" } else { "put" };
        println!("{what} {}: {}", Name(name), Count(text.len() as u64, "byte"));
        self.changed(name, true);
        Ok(())
    }

    /// Lines up to one that is a single full stop; `None` if the user gives up.
    fn read_text(&mut self) -> Result<Option<String>, Failure> {
        println!("lines of text, please; `.` on a line of its own is the end, ^C gives up");
        let mut text = String::new();
        loop {
            match self.read_line("| ") {
                Input::Line(line) if line == "." => return Ok(Some(text)),
                Input::Line(line) if text.len() + line.len() < MAX_TEXT_BYTES => {
                    text.push_str(&line);
                    text.push('\n');
                }
                Input::Line(_) => {
                    let what = format_args!("a text of more than {MAX_TEXT_BYTES} bytes; nothing was put");
                    return Err(Failure::new(Outcome::Limit, what));
                }
                Input::Cancelled | Input::End => {
                    println!("nothing was put");
                    return Ok(None);
                }
            }
        }
    }

    /// Removes a file.
    pub(super) fn remove(&mut self, name: &[u8]) -> Result<(), Failure> {
        self.entry(name)?;
        self.catalog.remove(name)?;
        println!("removed {}", Name(name));
        self.changed(name, false);
        Ok(())
    }

    /// Says what the catalogue knows about a file.
    pub(super) fn describe(&self, name: &[u8]) -> Result<(), Failure> {
        let entry = self.entry(name)?;
        let size = self.volume.store.block_size();
        let kind = match entry.kind {
            Kind::File => "file",
            Kind::Dir => "directory",
            Kind::Symlink => "symbolic link",
        };
        let state = if self.changes.paths.contains(name) { "not committed" } else { "committed" };
        println!("{}: {kind}, mode {:o}, {state}", Name(name), entry.mode);
        let (data, all) = (entry.content.data_blocks(size), entry.content.all_blocks(size));
        let pointers = Count(all - data, "block");
        println!("{} in {}, {pointers} of pointers", Count(entry.content.size_bytes(), "byte"), Count(data, "block"));
        if let Some(root) = entry.content.root() {
            println!("root at {:#x}, hash {:#018x}, written in generation {}", root.addr, root.hash, root.gen);
        }
        Ok(())
    }
}
