//! A line editor for a terminal at the other end of a serial port: bytes in, a line out.
//!
//! The terminal is believed to understand the few ANSI sequences that all of them do (clear to the end of the line,
//! move right, clear the screen) and to have a fixed number of columns. A line that is longer than a row is shown in
//! part, the part around the cursor. Text is UTF-8 throughout: the cursor stands between characters, one step passes
//! over a character with its combining marks, and bytes that are no UTF-8 never get into the line. Line and history are
//! bounded; what does not fit rings the bell.
//!
//! | key                      | what it does                           |
//! |--------------------------|----------------------------------------|
//! | left, right, ^B, ^F      | moves by one character                 |
//! | Home, End, ^A, ^E        | moves to the start, to the end         |
//! | Backspace, Delete, ^D    | deletes a character                    |
//! | ^W, ^U, ^K               | deletes a word back, to the start, to the end |
//! | up, down, ^P, ^N         | earlier and later lines                |
//! | ^L                       | clears the screen                      |
//! | ^C                       | gives the line up                      |
//! | ^D on an empty line      | ends the input                         |
//!
//! This file depends on nothing of the kernel: the host runs its tests.

use alloc::collections::VecDeque;
use alloc::string::String;
use core::fmt::{self, Write};

/// Bytes of the longest line.
pub const MAX_LINE_BYTES: usize = 4096;
/// Lines that are remembered.
const MAX_HISTORY: usize = 64;

const BELL: char = '\x07';
const ESCAPE: u8 = 0x1B;

/// What a byte has completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A line, without its end.
    Line(String),
    /// The line was given up.
    Cancelled,
    /// There will be no more lines.
    End,
}

/// Where in an escape sequence the input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sequence {
    /// In none.
    None,
    /// Behind the escape character.
    Begun,
    /// Behind `ESC O`.
    Short,
    /// Behind `ESC [`, with the last number.
    Control(u16),
}

/// Bytes of a character that is not complete.
#[derive(Clone, Copy, Debug, Default)]
struct Partial {
    bytes: [u8; 4],
    len: usize,
}

impl Partial {
    /// Takes a byte; a character if it is complete, an error if it cannot become one.
    fn push(&mut self, byte: u8) -> Result<Option<char>, ()> {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte;
            self.len += 1;
        }
        let result = match core::str::from_utf8(&self.bytes[..self.len]) {
            Ok(text) => Ok(text.chars().next()),
            // Only the end is missing.
            Err(error) if error.error_len().is_none() => return Ok(None),
            Err(_) => Err(()),
        };
        self.len = 0;
        result
    }
}

/// The state of the editor between two bytes.
pub struct Editor {
    text: String,
    /// Byte offset in `text`, between two characters.
    cursor: usize,
    history: VecDeque<String>,
    /// Which line of the history is shown; its length if it is a new one.
    shown: usize,
    /// The new line, while an old one is shown.
    draft: String,
    partial: Partial,
    sequence: Sequence,
    /// The last byte was a carriage return, with which a line feed may come.
    after_return: bool,
    columns: usize,
}

impl Editor {
    /// An empty line on a terminal with so many columns.
    pub fn new(columns: usize) -> Self {
        Self {
            text: String::new(),
            cursor: 0,
            history: VecDeque::new(),
            shown: 0,
            draft: String::new(),
            partial: Partial::default(),
            sequence: Sequence::None,
            after_return: false,
            columns: columns.max(20),
        }
    }

    /// Adds a line to the history, unless it is blank or the same as the last one.
    pub fn remember(&mut self, line: &str) {
        if !line.trim().is_empty() && self.history.back().is_none_or(|last| last != line) {
            if self.history.len() == MAX_HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(line.into());
        }
        self.shown = self.history.len();
    }

    /// Shows the prompt and what there is of the line.
    ///
    /// # Errors
    /// Those of `out`, here and below.
    pub fn show(&self, prompt: &str, out: &mut dyn Write) -> fmt::Result {
        let prompt_columns = width(prompt);
        let room = self.columns.saturating_sub(prompt_columns + 1).max(8);
        let (start, end) = self.visible(room);
        write!(out, "\r{prompt}{}\x1b[K\r", &self.text[start..end])?;
        match prompt_columns + width(&self.text[start..self.cursor]) {
            0 => Ok(()),
            columns => write!(out, "\x1b[{columns}C"),
        }
    }

    /// The bytes that are shown in so many columns: the cursor is among them.
    fn visible(&self, room: usize) -> (usize, usize) {
        let (mut start, mut end, mut used) = (self.cursor, self.cursor, 0);
        while start > 0 {
            let before = self.before(start);
            used += width(&self.text[before..start]);
            if used > room {
                used -= width(&self.text[before..start]);
                break;
            }
            start = before;
        }
        while end < self.text.len() {
            let after = self.after(end);
            used += width(&self.text[end..after]);
            if used > room {
                break;
            }
            end = after;
        }
        (start, end)
    }

    /// Takes a byte from the terminal.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn feed(&mut self, byte: u8, prompt: &str, out: &mut dyn Write) -> Result<Option<Input>, fmt::Error> {
        let follows_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        if self.sequence != Sequence::None {
            self.in_sequence(byte);
        } else if byte == b'\n' && follows_return {
            return Ok(None);
        } else if let Some(input) = self.ends(byte) {
            self.shown = self.history.len();
            self.show_end(&input, prompt, out)?;
            return Ok(Some(input));
        } else if byte < 0x20 || byte == 0x7F {
            self.partial.len = 0;
            self.control(byte, out)?;
        } else {
            match self.partial.push(byte) {
                Ok(Some(char)) if !char.is_control() => return self.insert(char, prompt, out).map(|()| None),
                Ok(None) => return Ok(None),
                Ok(Some(_)) | Err(()) => out.write_char(BELL)?,
            }
        }
        self.show(prompt, out)?;
        Ok(None)
    }

    /// What this byte ends, if it ends anything. The line is empty then.
    fn ends(&mut self, byte: u8) -> Option<Input> {
        let input = match byte {
            b'\r' | b'\n' => Input::Line(core::mem::take(&mut self.text)),
            0x03 => Input::Cancelled,
            0x04 if self.text.is_empty() => Input::End,
            _ => return None,
        };
        self.text.clear();
        self.cursor = 0;
        self.partial.len = 0;
        Some(input)
    }

    fn show_end(&self, input: &Input, prompt: &str, out: &mut dyn Write) -> fmt::Result {
        match input {
            // The whole line, now that there is no cursor to keep in sight.
            Input::Line(line) => writeln!(out, "\r{prompt}{line}\x1b[K"),
            Input::Cancelled => writeln!(out, "^C"),
            Input::End => writeln!(out),
        }
    }

    fn insert(&mut self, char: char, prompt: &str, out: &mut dyn Write) -> fmt::Result {
        if self.text.len() + char.len_utf8() > MAX_LINE_BYTES {
            return out.write_char(BELL);
        }
        self.text.insert(self.cursor, char);
        self.cursor += char.len_utf8();
        let is_at_end = self.cursor == self.text.len();
        if is_at_end && width(prompt) + width(&self.text) < self.columns {
            return out.write_char(char);
        }
        self.show(prompt, out)
    }

    fn control(&mut self, byte: u8, out: &mut dyn Write) -> fmt::Result {
        match byte {
            0x01 => self.cursor = 0,
            0x02 => self.cursor = self.before(self.cursor),
            0x04 => self.delete(self.cursor, self.after(self.cursor)),
            0x05 => self.cursor = self.text.len(),
            0x06 => self.cursor = self.after(self.cursor),
            0x08 | 0x7F => self.delete(self.before(self.cursor), self.cursor),
            0x0B => self.delete(self.cursor, self.text.len()),
            0x0C => out.write_str("\x1b[H\x1b[2J")?,
            0x0E => self.recall(self.shown + 1),
            0x10 => self.recall(self.shown.wrapping_sub(1)),
            0x15 => self.delete(0, self.cursor),
            0x17 => self.delete(self.word_start(), self.cursor),
            ESCAPE => self.sequence = Sequence::Begun,
            _ => out.write_char(BELL)?,
        }
        Ok(())
    }

    fn in_sequence(&mut self, byte: u8) {
        self.sequence = match (self.sequence, byte) {
            (_, ESCAPE) => Sequence::Begun,
            (Sequence::Begun, b'[') => Sequence::Control(0),
            (Sequence::Begun, b'O') => Sequence::Short,
            (Sequence::Control(number), b'0'..=b'9') => {
                Sequence::Control(number.saturating_mul(10).saturating_add(u16::from(byte - b'0')))
            }
            // Numbers of modifiers; and whatever else comes before the last byte.
            (Sequence::Control(_), 0x20..=0x3F) => Sequence::Control(0),
            (Sequence::Control(number), _) => return self.end_sequence(byte, number),
            (Sequence::Short, _) => return self.end_sequence(byte, 0),
            _ => Sequence::None,
        };
    }

    fn end_sequence(&mut self, last: u8, number: u16) {
        self.sequence = Sequence::None;
        match (last, number) {
            (b'A', _) => self.recall(self.shown.wrapping_sub(1)),
            (b'B', _) => self.recall(self.shown + 1),
            (b'C', _) => self.cursor = self.after(self.cursor),
            (b'D', _) => self.cursor = self.before(self.cursor),
            (b'H', _) | (b'~', 1 | 7) => self.cursor = 0,
            (b'F', _) | (b'~', 4 | 8) => self.cursor = self.text.len(),
            (b'~', 3) => self.delete(self.cursor, self.after(self.cursor)),
            _ => {}
        }
    }

    /// Shows the line of the history with this number, or the new line behind the last; nothing if there is none.
    fn recall(&mut self, number: usize) {
        if number > self.history.len() {
            return;
        }
        if self.shown == self.history.len() {
            self.draft = core::mem::take(&mut self.text);
        }
        self.text = match self.history.get(number) {
            Some(line) => line.clone(),
            None => core::mem::take(&mut self.draft),
        };
        (self.shown, self.cursor) = (number, self.text.len());
    }

    fn delete(&mut self, start: usize, end: usize) {
        self.text.replace_range(start..end, "");
        self.cursor = start;
    }

    /// The offset one character, with its marks, before this one.
    fn before(&self, offset: usize) -> usize {
        let mut chars = self.text[..offset].char_indices().rev();
        chars.find(|(_, char)| columns_of(*char) > 0).map_or(0, |(at, _)| at)
    }

    /// The offset one character, with its marks, behind this one.
    fn after(&self, offset: usize) -> usize {
        let mut chars = self.text[offset..].char_indices().skip(1);
        chars.find(|(_, char)| columns_of(*char) > 0).map_or(self.text.len(), |(at, _)| offset + at)
    }

    fn word_start(&self) -> usize {
        let before = self.text[..self.cursor].trim_end();
        before.rfind(char::is_whitespace).map_or(0, |at| self.after(at))
    }
}

/// Columns that a text takes.
fn width(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// Columns that a character takes: none for marks on the one before, two for ideographs and the like.
fn columns_of(char: char) -> usize {
    match u32::from(char) {
        0x0300..=0x036F | 0x200B..=0x200F | 0x20D0..=0x20FF | 0xFE00..=0xFE0F => 0,
        0x1100..=0x115F | 0x2E80..=0xA4CF | 0xAC00..=0xD7A3 | 0xF900..=0xFAFF | 0xFE30..=0xFE6F => 2,
        0xFF00..=0xFF60 | 0x1F300..=0x1FAFF | 0x2_0000..=0x3_FFFD => 2,
        _ => 1,
    }
}
