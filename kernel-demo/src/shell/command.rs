//! What a line asks for, and how names are written.
//!
//! A name is a word, or anything in double quotes. In both, `\\`, `\"`, `\n`, `\r`, `\t` and `\xNN` stand for bytes, so
//! that every name that a catalogue can hold can be typed, and what [`Name`] shows can be typed back.
//!
//! This file depends on nothing of the kernel: the host runs its tests.

use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};
use core::fmt::{self, Write};

/// A command of the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `help`
    Help,
    /// `ls [PATH]`
    List(Vec<u8>),
    /// `cat NAME`
    Show(Vec<u8>),
    /// `put NAME TEXT`; without a text, it is on the lines that follow.
    Put(Vec<u8>, Option<String>),
    /// `rm NAME`
    Remove(Vec<u8>),
    /// `stat NAME`
    Describe(Vec<u8>),
    /// `df`
    Space,
    /// `commit`
    Commit,
    /// `check`
    Check,
    /// `workers`
    Workers,
    /// `bench`
    Bench,
    /// `crash`
    Crash,
    /// `reboot`
    Reboot,
    /// `off`
    Off,
}

/// What `help` shows.
pub const HELP: &str = "\
put NAME TEXT   writes a file; without TEXT it asks for lines, and a line with a single `.` is the end
cat NAME        shows a file
ls [PATH]       lists files; a `*` marks what is not committed
rm NAME         removes a file
stat NAME       what the catalogue knows about a file
commit          makes all changes durable, all of them or none
df              space and generation
check           reads all that is committed, compares every hash, and accounts for every block
workers         processors and what the store has done
bench           measures small commits and reads (commits on its own)
crash           stops the machine at once, without a commit: what is not committed is gone
reboot          commits, ends the use of the volume, starts the machine anew
off             commits, ends the use of the volume, switches off (also ^D)
Names with blanks are written in quotes. Keys: arrows, Home, End, ^A ^E ^K ^U ^W ^L; ^C gives a line up.";

/// Parses a line; `None` if it is blank.
///
/// # Errors
/// One line for the user.
pub fn parse(line: &str) -> Result<Option<Command>, String> {
    let line = line.trim();
    let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim_start();
    let command = match verb {
        "" => return Ok(None),
        "put" => return put(rest).map(Some),
        "ls" if rest.is_empty() => Command::List(vec![]),
        "ls" => Command::List(only_name(rest, "ls [PATH]")?),
        "cat" => Command::Show(only_name(rest, "cat NAME")?),
        "rm" => Command::Remove(only_name(rest, "rm NAME")?),
        "stat" => Command::Describe(only_name(rest, "stat NAME")?),
        _ => {
            let command = match verb {
                "help" | "?" => Command::Help,
                "df" => Command::Space,
                "commit" => Command::Commit,
                "check" => Command::Check,
                "workers" => Command::Workers,
                "bench" => Command::Bench,
                "crash" => Command::Crash,
                "reboot" => Command::Reboot,
                "off" => Command::Off,
                _ => return Err(format!("there is no command {}; `help` lists them", Name(verb.as_bytes()))),
            };
            if !rest.is_empty() {
                return Err(format!("usage: {verb}"));
            }
            command
        }
    };
    Ok(Some(command))
}

fn put(rest: &str) -> Result<Command, String> {
    let usage = "usage: put NAME TEXT";
    let (name, text) = name(rest).map_err(|what| format!("{usage} ({what})"))?;
    Ok(Command::Put(name, Some(text).filter(|text| !text.is_empty()).map(String::from)))
}

/// A name with nothing behind it.
fn only_name(rest: &str, usage: &str) -> Result<Vec<u8>, String> {
    match name(rest) {
        Ok((name, "")) => Ok(name),
        Ok(_) => Err(format!("usage: {usage} (a name with blanks is written in quotes)")),
        Err(what) => Err(format!("usage: {usage} ({what})")),
    }
}

/// The name that a text begins with, and what follows it, without the blanks in between.
fn name(text: &str) -> Result<(Vec<u8>, &str), &'static str> {
    let quoted = text.strip_prefix('"');
    let mut chars = quoted.unwrap_or(text).chars();
    let mut name = Vec::new();
    loop {
        let rest = chars.as_str();
        match chars.next() {
            None if quoted.is_some() => return Err("the closing quote is missing"),
            None if name.is_empty() => return Err("the name is missing"),
            None => return Ok((name, "")),
            Some('"') if quoted.is_some() && name.is_empty() => return Err("the name is empty"),
            Some('"') if quoted.is_some() => return Ok((name, chars.as_str().trim_start())),
            Some(char) if quoted.is_none() && char.is_whitespace() => return Ok((name, rest.trim_start())),
            Some('\\') => name.push(escaped(&mut chars).ok_or("a backslash is written \\\\")?),
            Some(char) => name.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// The byte that follows a backslash.
fn escaped(chars: &mut core::str::Chars<'_>) -> Option<u8> {
    match chars.next()? {
        'n' => Some(b'\n'),
        'r' => Some(b'\r'),
        't' => Some(b'\t'),
        char @ ('\\' | '"') => Some(char as u8),
        'x' => {
            let (high, low) = (chars.next()?.to_digit(16)?, chars.next()?.to_digit(16)?);
            u8::try_from(high * 16 + low).ok()
        }
        _ => None,
    }
}

/// A name as one would type it, without control characters.
pub struct Name<'n>(pub &'n [u8]);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_blank = core::str::from_utf8(self.0).map_or_else(
            |_| self.0.contains(&b' '),
            |text| text.contains(|char: char| char.is_whitespace() && !char.is_control()),
        );
        let quote = if has_blank || self.0.first() == Some(&b'"') { "\"" } else { "" };
        f.write_str(quote)?;
        for chunk in self.0.utf8_chunks() {
            for char in chunk.valid().chars() {
                match char {
                    '"' | '\\' => write!(f, "\\{char}")?,
                    char if is_plain(char) => f.write_char(char)?,
                    char => char.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?,
                }
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        f.write_str(quote)
    }
}

/// Content of a file as text for a terminal: lines stay lines, other control characters are written as they are in
/// names.
pub struct Text<'t>(pub &'t [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for char in chunk.valid().chars() {
                match char {
                    '\n' | '\t' => f.write_char(char)?,
                    char if is_plain(char) => f.write_char(char)?,
                    char => char.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?,
                }
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

/// Neither a control character nor one that turns the direction of writing around.
fn is_plain(char: char) -> bool {
    !char.is_control() && !matches!(char, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{200E}' | '\u{200F}')
}
