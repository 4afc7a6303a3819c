#![forbid(unsafe_code)]
//! The kernel's command line: words separated by blanks, each `key` or `key=value`.

use core::str::SplitAsciiWhitespace;

/// Bytes of the longest command line that is understood.
pub const MAX_BYTES: usize = 1024;

/// Why a command line is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CmdLineError {
    /// Longer than [`MAX_BYTES`].
    TooLong,
    /// Not ASCII text.
    NotAscii,
}

/// A copy of the command line.
#[derive(Clone)]
pub struct CmdLine {
    bytes: [u8; MAX_BYTES],
    len: usize,
}

impl CmdLine {
    /// Takes the bytes that come before the first zero of `source`.
    ///
    /// # Errors
    /// See [`CmdLineError`].
    pub fn new(source: impl Iterator<Item = u8>) -> Result<Self, CmdLineError> {
        let mut line = Self { bytes: [0; MAX_BYTES], len: 0 };
        for byte in source.take_while(|&byte| byte != 0) {
            if !byte.is_ascii() {
                return Err(CmdLineError::NotAscii);
            }
            *line.bytes.get_mut(line.len).ok_or(CmdLineError::TooLong)? = byte;
            line.len += 1;
        }
        Ok(line)
    }

    /// The whole line.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }

    /// The words, each with its value if it has one.
    pub fn words(&self) -> Words<'_> {
        Words(self.as_str().split_ascii_whitespace())
    }

    /// Whether the word `key` is there, with or without a value.
    pub fn has(&self, key: &str) -> bool {
        self.words().any(|(word, _)| word == key)
    }

    /// The value of `key`, the last one if it is given more than once.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.words().filter(|(word, _)| *word == key).last().and_then(|(_, value)| value)
    }

    /// The value of `key` as a decimal number: `Ok(None)` if it is absent.
    ///
    /// # Errors
    /// The text that is not a number.
    pub fn get_number(&self, key: &str) -> Result<Option<u64>, &str> {
        self.get(key).map(|text| text.parse().map_err(|_| text)).transpose()
    }

    /// The first word whose key is not among `known`. A misspelt option must not pass for an absent one.
    pub fn first_unknown(&self, known: &[&str]) -> Option<&str> {
        self.words().map(|(key, _)| key).find(|key| !known.contains(key))
    }
}

/// Iterator over the words of a [`CmdLine`] as (key, value).
pub struct Words<'a>(SplitAsciiWhitespace<'a>);

impl<'a> Iterator for Words<'a> {
    type Item = (&'a str, Option<&'a str>);

    fn next(&mut self) -> Option<Self::Item> {
        let word = self.0.next()?;
        Some(match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        })
    }
}
