//! The kernel's serial output, line by line. A line that begins with `@` is an event for the runner:
//!
//! ```text
//! @progress 1048576 4194304                 done and total, in bytes
//! @result phase=import files=7 bytes=12345  figures at the end of a phase: also links blocks commits flushes micros,
//!                                           and read_bytes write_bytes of the store's disk, and shares: how many files
//!                                           each processor has worked on, with slashes between
//! @import generation=1 files=0 links=0 bytes=0              what the newest commit holds when an import begins
//! @commit generation=2 files=3 links=0 bytes=16800000       what it holds now
//! @datablock addr=0x84000                   where a block of some file's content lies
//! @corrupt file=a/b addr=0x84000 expected=0x1 found=0x2     content whose hash is wrong
//! @repaired what=superblock copy=0          a damaged copy (superblock, header) that the other one made good
//! @full need=66 room=10                     what a file on a full volume needed, and what there was, in blocks; also
//!                                           files and bytes, which are what was imported and committed before
//! @cpu number=1 ticks=300 deferred=5 intruded=0     one processor: the interrupts of its timer, how many of them
//! waited
//!                                           for the end of a critical section, and how many came inside one; also
//!                                           stack, the most bytes that its stack has held
//! @stack call=commit bytes=2000             the most bytes of the stack that a call of the store has taken
//! @ways write=1048576x4 read=262144x16      bytes of a request x requests at once that suit the raw driver best; also
//!                                           read_blocks, with requests of a block, and read_depth, of the store
//! @calls hits=20000 pairs=1000              of how many calls the ticks of a round are
//! @round number=1 bytes=67108864            one round of measuring, of so many bytes, and what each side has taken:
//!                                           write_us read_us hash_us, raw_write_us raw_read_us raw_read_blocks_us,
//!                                           hit_ticks table_ticks pair_ticks bitmap_ticks
//! @count name=free calls=32 instructions=4000   what calls of one kind have taken together
//! ```
//!
//! All else is text for people. Nothing here trusts the kernel: what does not parse is text.

use std::collections::BTreeMap;

/// One event: its name, the words without `=` in their order, and the `key=value` words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What follows the `@`.
    pub name: String,
    /// Words without a `=`.
    pub words: Vec<String>,
    /// Words with one; the last of equal keys wins.
    pub fields: BTreeMap<String, String>,
}

impl Event {
    /// Parses a line; `None` if it is no event.
    pub fn parse(line: &str) -> Option<Self> {
        let mut tokens = line.strip_prefix('@')?.split_ascii_whitespace();
        let name = tokens.next()?.to_string();
        let mut event = Self { name, words: Vec::new(), fields: BTreeMap::new() };
        for token in tokens {
            match token.split_once('=') {
                Some((key, value)) => {
                    event.fields.insert(key.to_string(), value.to_string());
                }
                None => event.words.push(token.to_string()),
            }
        }
        Some(event)
    }

    /// The text of a field.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.fields.get(key).map(String::as_str)
    }

    /// A field as a number, decimal or with `0x`.
    pub fn number(&self, key: &str) -> Option<u64> {
        parse_number(self.text(key)?)
    }

    /// `@progress done total`, in bytes.
    pub fn progress(&self) -> Option<(u64, u64)> {
        match (self.name.as_str(), self.words.as_slice()) {
            ("progress", [done, total]) => Some((parse_number(done)?, parse_number(total)?)),
            _ => None,
        }
    }
}

fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// What stands before a line whose end is missing.
const CUT_OFF: &str = "(cut off) ";

/// Cuts a stream of bytes into lines of bounded length, without their ends and without control characters, which would
/// otherwise reach the user's terminal. A last line without an end, as a killed machine leaves it, is marked: half a
/// number must not pass for a number.
pub fn for_each_line(mut source: impl std::io::Read, mut each: impl FnMut(String)) {
    const LONGEST: usize = 16 << 10;
    let mut chunk = [0; 4096];
    let mut line = Vec::new();
    let mut finish = |line: &mut Vec<u8>| {
        let text = String::from_utf8_lossy(line);
        each(text.chars().filter(|char| *char == '\t' || !char.is_control()).collect());
        line.clear();
    };
    while let Ok(count @ 1..) = source.read(&mut chunk) {
        for byte in &chunk[..count] {
            if *byte != b'\n' {
                line.push(*byte);
            }
            if *byte == b'\n' || line.len() == LONGEST {
                finish(&mut line);
            }
        }
    }
    if !line.is_empty() {
        line.splice(..0, CUT_OFF.bytes());
        finish(&mut line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_words_and_fields() {
        let event = Event::parse("@result phase=import files=7 odd addr=0x84000 empty= a=b=c").unwrap();
        assert_eq!(event.name, "result");
        assert_eq!(event.words, ["odd"]);
        assert_eq!(event.text("phase"), Some("import"));
        assert_eq!(event.number("files"), Some(7));
        assert_eq!(event.number("addr"), Some(0x84000));
        assert_eq!(event.text("empty"), Some(""));
        assert_eq!(event.text("a"), Some("b=c"));
        assert_eq!(event.number("empty"), None);
        assert_eq!(event.number("missing"), None);
    }

    #[test]
    fn progress_needs_two_numbers() {
        let progress = |line| Event::parse(line).and_then(|event| event.progress());
        assert_eq!(progress("@progress 5 10"), Some((5, 10)));
        for line in ["@progress 5", "@progress 5 10 15", "@progress five 10", "@progress -1 10", "@result 5 10"] {
            assert_eq!(progress(line), None, "{line}");
        }
    }

    #[test]
    fn other_lines_are_text() {
        for line in ["", "@", "@ ", "boot: hello", " @progress 1 2"] {
            assert_eq!(Event::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn lines_are_bounded_and_clean() {
        let mut source = b"one\r\n\x1b[2Jtwo\n\nbad \xff utf\n".to_vec();
        source.extend(vec![b'x'; (16 << 10) + 5]);
        let mut lines = Vec::new();
        for_each_line(source.as_slice(), |line| lines.push(line));
        assert_eq!(lines[..4], ["one", "[2Jtwo", "", "bad \u{fffd} utf"]);
        assert_eq!(lines[4].len(), 16 << 10);
        assert_eq!(lines[5..], ["(cut off) xxxxx"]);
    }

    #[test]
    fn half_an_event_is_none() {
        let mut events = Vec::new();
        for_each_line(b"@commit files=12\n@commit files=1".as_slice(), |line| events.extend(Event::parse(&line)));
        assert_eq!(events.iter().map(|event| event.number("files")).collect::<Vec<_>>(), [Some(12)]);
    }
}
