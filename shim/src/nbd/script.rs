//! What a server does wrong, and when: a text with one rule a line.
//!
//! ```text
//!   # a comment
//!   seed 7                            where random choices begin (0 if nothing is said)
//!   write nth 3 fail eio              the third write fails
//!   write from 20 at 0..512 lose      from the twentieth write of the first sector on, all of them are lost
//!   flush chance 10 delay 300         one flush in ten is answered after 0.3 s
//! ```
//!
//! A rule is a kind, conditions, an action. The first rule that fits a request applies, and no other.
//!
//! | kind        | requests                                                      |
//! |-------------|---------------------------------------------------------------|
//! | `read`, `write`, `flush`, `trim`, `any` | of that kind, or all              |
//!
//! | condition   | the rule fits                                                 |
//! |-------------|---------------------------------------------------------------|
//! | `at A..B`   | requests that touch bytes from A to before B; with K, M, G if wanted; not flushes |
//! | `nth N`     | the Nth request of this kind and range alone, counted from 1  |
//! | `from N`    | it and all behind it                                          |
//! | `chance P`  | P in a hundred of what is left                                |
//!
//! | action      | what happens                                                  |
//! |-------------|---------------------------------------------------------------|
//! | `fail E`    | nothing is done; the error is `eio` or `enospc`               |
//! | `lose`      | success is said, and nothing written or flushed               |
//! | `tear K`    | the first K sectors are written (`random`: some), and success is said; with `fail` behind it, `eio` |
//! | `stale`     | a read gives what its sectors held before they were last written |
//! | `withhold`  | done, and never answered; `for N`: answered when N more requests have come; `until flush`: when a flush has |
//! | `delay MS`  | done, and answered after so many milliseconds                 |
//! | `reorder N` | done; answers are gathered until there are N, or nothing comes for 10 ms, and leave in random order |
//! | `close`     | the connection is closed; the client may connect again        |
//! | `gone`      | the connection is closed, and the server ends                 |
//!
//! # What the record says
//! A write that is lost or torn is recorded with the bytes that the disk holds afterwards, so that the record tells
//! what the medium did, not what it claimed. A flush that is lost is recorded as one that failed. What is withheld is
//! recorded as issued, and as completed when it is answered.
#![forbid(unsafe_code)]

use super::wire::{self, Errno, RequestHeader};
use crate::rng::Rng;
use crate::trace::SECTOR_LEN_BYTES;
use std::ops::Range;
use std::time::Duration;

/// Rules, as they were written. The head of this module has the language; [`HELP`] is its short form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    seed: u64,
    rules: Vec<Rule>,
}

/// The language of scripts, for people.
pub const HELP: &str = "A script has one rule a line: KIND [CONDITION]... ACTION. The first rule that fits applies.
  KIND       read, write, flush, trim or any
  CONDITION  at A..B      touches bytes from A to before B (K, M, G are understood)
             nth N        the Nth such request alone; from N: and all behind it
             chance P     in P of a hundred cases
  ACTION     fail eio, fail enospc
             lose         say that it was done, and do nothing
             tear K       write the first K sectors alone (`random`: some of them); `tear K fail`: and say so
             stale        read what was there before the last write
             withhold     never answer; `for N`: until N more requests have come; `until flush`
             delay MS     answer after so many milliseconds
             reorder N    gather N answers, and send them in random order
             close        close the connection; gone: for good
A line `seed N` chooses other random numbers; # begins a comment.";

/// A line of a script that is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl std::fmt::Display for ScriptError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for ScriptError {}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// The command; `None` for all.
    command: Option<u16>,
    range: Option<Range<u64>>,
    first: u64,
    only_first: bool,
    percent: u64,
    action: Action,
}

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Fail(Errno),
    Lose,
    /// Sectors from the first on that are written; `None` for a random choice.
    Tear {
        sectors: Option<u32>,
        fail: bool,
    },
    Stale,
    Hold(Until),
    Close,
    Gone,
}

/// How long an answer is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    Never,
    Requests(u64),
    Flush,
    Time(Duration),
    /// Until there are so many of its like.
    Window(usize),
}

type Words<'w> = std::iter::Peekable<std::str::SplitWhitespace<'w>>;

impl Script {
    /// Reads a script; the error names the line.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let mut script = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace().peekable();
            let result = match words.peek() {
                None => continue,
                Some(&"seed") => words.nth(1).ok_or_else(|| "a number is missing".to_owned()).and_then(|word| {
                    script.seed = whole(word)?;
                    Ok(())
                }),
                Some(_) => parse_rule(&mut words).map(|rule| script.rules.push(rule)),
            };
            let rest = words.next().map(|word| Err(format!("`{word}` is too much")));
            result.and_then(|()| rest.unwrap_or(Ok(()))).map_err(|what| ScriptError { line: number + 1, what })?;
        }
        Ok(script)
    }
}

fn whole(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("`{word}` is no number"))
}

fn number(words: &mut Words<'_>, least: u64) -> Result<u64, String> {
    let number = whole(words.next().ok_or("a number is missing")?)?;
    if number < least {
        return Err(format!("{number} is too small; the least is {least}"));
    }
    Ok(number)
}

/// Bytes: decimal or 0x and hexadecimal, with K, M or G behind it.
fn bytes(word: &str) -> Result<u64, String> {
    let bad = || format!("`{word}` is no address");
    if let Some(digits) = word.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).map_err(|_| bad());
    }
    let units = [("K", 10), ("M", 20), ("G", 30)];
    let unit = units.iter().find_map(|(unit, shift)| word.strip_suffix(unit).map(|digits| (digits, *shift)));
    let (digits, shift) = unit.unwrap_or((word, 0));
    let value: u64 = digits.parse().map_err(|_| bad())?;
    value.checked_mul(1 << shift).ok_or_else(bad)
}

fn parse_rule(words: &mut Words<'_>) -> Result<Rule, String> {
    let kinds = [
        ("read", Some(wire::CMD_READ)),
        ("write", Some(wire::CMD_WRITE)),
        ("flush", Some(wire::CMD_FLUSH)),
        ("trim", Some(wire::CMD_TRIM)),
        ("any", None),
    ];
    let word = words.next().unwrap_or_default();
    let kind = kinds.iter().find(|(name, _)| *name == word);
    let (_, command) =
        *kind.ok_or_else(|| format!("`{word}` is no kind of request (read, write, flush, trim, any)"))?;
    let action = Action::Lose;
    let mut rule = Rule { command, range: None, first: 1, only_first: false, percent: 100, action };
    loop {
        match words.next().ok_or("the action is missing")? {
            "at" => {
                let word = words.next().ok_or("a range is missing")?;
                let (start, end) = word.split_once("..").ok_or_else(|| format!("`{word}` is no range A..B"))?;
                let range = bytes(start)?..bytes(end)?;
                if range.is_empty() {
                    return Err(format!("the range {word} is empty"));
                }
                rule.range = Some(range);
            }
            "nth" => (rule.first, rule.only_first) = (number(words, 1)?, true),
            "from" => (rule.first, rule.only_first) = (number(words, 1)?, false),
            "chance" => rule.percent = number(words, 0)?,
            word => {
                rule.action = parse_action(word, words)?;
                break;
            }
        }
    }
    let fits = match rule.action {
        Action::Stale => command == Some(wire::CMD_READ),
        Action::Tear { .. } => command == Some(wire::CMD_WRITE),
        Action::Lose => command.is_some_and(|command| command != wire::CMD_READ),
        _ => true,
    };
    if fits {
        Ok(rule)
    } else {
        Err("this kind of request cannot do that (lose: write, flush, trim; tear: write; stale: read)".into())
    }
}

fn parse_action(word: &str, words: &mut Words<'_>) -> Result<Action, String> {
    Ok(match word {
        "fail" => match words.next() {
            Some("eio") => Action::Fail(Errno::Io),
            Some("enospc") => Action::Fail(Errno::NoSpc),
            _ => return Err("the error is `eio` or `enospc`".into()),
        },
        "lose" => Action::Lose,
        "tear" => {
            let sectors = match words.peek() {
                Some(&"random") => words.next().and(None),
                _ => Some(u32::try_from(number(words, 0)?).map_err(|_| "too many sectors")?),
            };
            Action::Tear { sectors, fail: words.next_if_eq(&"fail").is_some() }
        }
        "stale" => Action::Stale,
        "withhold" => Action::Hold(match words.peek() {
            Some(&"for") => {
                words.next();
                Until::Requests(number(words, 1)?)
            }
            Some(&"until") => {
                words.next();
                match words.next() {
                    Some("flush") => Until::Flush,
                    _ => return Err("`withhold until` wants `flush`".into()),
                }
            }
            _ => Until::Never,
        }),
        "delay" => Action::Hold(Until::Time(Duration::from_millis(number(words, 0)?))),
        "reorder" => {
            let window = usize::try_from(number(words, 2)?).map_err(|_| "too many replies")?;
            Action::Hold(Until::Window(window))
        }
        "close" => Action::Close,
        "gone" => Action::Gone,
        _ => return Err(format!("`{word}` is neither a condition nor an action")),
    })
}

/// A script that is being followed: it counts, and chooses.
#[derive(Debug)]
pub(crate) struct Director {
    rules: Vec<(Rule, u64)>,
    rng: Rng,
}

impl Director {
    pub(crate) fn new(script: &Script) -> Self {
        Self { rules: script.rules.iter().map(|rule| (rule.clone(), 0)).collect(), rng: Rng::new(script.seed) }
    }

    /// Whether any read may be a stale one.
    pub(crate) fn wants_history(&self) -> bool {
        self.rules.iter().any(|(rule, _)| rule.action == Action::Stale)
    }

    /// What is to be done wrong with this request. Every rule counts it that could fit.
    pub(crate) fn action(&mut self, header: &RequestHeader) -> Option<Action> {
        let mut found = None;
        for (rule, count) in &mut self.rules {
            if !rule.concerns(header) {
                continue;
            }
            *count += 1;
            let due = if rule.only_first { *count == rule.first } else { *count >= rule.first };
            if due && found.is_none() && self.rng.chance(rule.percent, 100) {
                found = Some(rule.action);
            }
        }
        found
    }

    pub(crate) fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }
}

impl Rule {
    fn concerns(&self, header: &RequestHeader) -> bool {
        let touches = |range: &Range<u64>| {
            let end = header.offset.saturating_add(u64::from(header.len));
            header.command != wire::CMD_FLUSH && header.offset < range.end && range.start < end
        };
        self.command.is_none_or(|command| command == header.command) && self.range.as_ref().is_none_or(touches)
    }
}

/// The bytes that a write leaves which is torn: of each sector the new ones or the old.
pub(crate) fn torn(old: &[u8], new: &[u8], sectors: Option<u32>, rng: &mut Rng) -> Vec<u8> {
    let parts = old.chunks(SECTOR_LEN_BYTES).zip(new.chunks(SECTOR_LEN_BYTES)).zip(0_u32..);
    let written = |number| sectors.map_or_else(|| rng.chance(1, 2), |count| number < count);
    let mut written = written;
    parts.flat_map(|((old, new), number)| if written(number) { new } else { old }).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(command: u16, offset: u64) -> RequestHeader {
        RequestHeader { flags: 0, command, cookie: 0, offset, len: 512 }
    }

    fn error(text: &str) -> String {
        Script::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn rules_are_read() {
        let text = "# head\n\nseed 9\nwrite nth 3 at 1K..0x800 fail eio\nany from 2 chance 50 withhold for 4 # tail\n";
        let script = Script::parse(text).unwrap();
        let (first, second) = (&script.rules[0], &script.rules[1]);
        assert_eq!((script.seed, script.rules.len()), (9, 2));
        assert_eq!((first.first, first.only_first, first.range.clone()), (3, true, Some(1024..2048)));
        assert_eq!(first.action, Action::Fail(Errno::Io));
        assert_eq!((second.command, second.first, second.percent), (None, 2, 50));
        assert_eq!(second.action, Action::Hold(Until::Requests(4)));
        for action in ["lose", "tear 3", "tear random fail", "withhold until flush", "delay 5", "reorder 4", "gone"] {
            assert!(Script::parse(&format!("write {action}")).is_ok(), "{action}");
        }
    }

    #[test]
    fn errors_name_the_line_and_what_is_wrong_with_it() {
        assert!(error("write lose\n\nflash lose").starts_with("line 3: `flash` is no kind"));
        for (text, what) in [
            ("write", "action is missing"),
            ("write nth", "number is missing"),
            ("write nth 0 lose", "too small"),
            ("write nth x lose", "`x` is no number"),
            ("write at 5..5 lose", "empty"),
            ("write at 5 lose", "no range"),
            ("write at 1T..2T lose", "`1T` is no address"),
            ("write at 0..99999999999G lose", "no address"),
            ("write fail", "`eio` or `enospc`"),
            ("write lose now", "`now` is too much"),
            ("write explode", "neither a condition nor an action"),
            ("write reorder 1", "the least is 2"),
            ("write withhold until doom", "wants `flush`"),
            ("read lose", "cannot do that"),
            ("flush tear 1", "cannot do that"),
            ("write stale", "cannot do that"),
            ("seed", "number is missing"),
        ] {
            assert!(error(text).contains(what), "{text}: {}", error(text));
        }
    }

    #[test]
    fn rules_count_what_could_fit_and_the_first_that_fits_applies() {
        let text = "write nth 2 lose\nwrite at 0..512 from 2 fail enospc\nflush close";
        let mut director = Director::new(&Script::parse(text).unwrap());
        let mut act = |command, offset| director.action(&request(command, offset));
        assert_eq!(act(wire::CMD_WRITE, 0), None);
        assert_eq!(act(wire::CMD_READ, 0), None);
        assert_eq!(act(wire::CMD_WRITE, 512), Some(Action::Lose));
        assert_eq!(act(wire::CMD_WRITE, 0), Some(Action::Fail(Errno::NoSpc)));
        assert_eq!(act(wire::CMD_WRITE, 512), None);
        assert_eq!(act(wire::CMD_WRITE, 0), Some(Action::Fail(Errno::NoSpc)));
        assert_eq!(act(wire::CMD_FLUSH, 0), Some(Action::Close));
    }

    #[test]
    fn chances_follow_from_the_seed() {
        let count = |seed| {
            let mut director = Director::new(&Script::parse(&format!("seed {seed}\nread chance 30 stale")).unwrap());
            (0..1000).filter(|_| director.action(&request(wire::CMD_READ, 0)).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(count(1), count(1));
        assert_ne!(count(1), count(2));
        assert!((200..400).contains(&count(1).len()));
    }

    #[test]
    fn tears_are_at_sectors() {
        let (old, new) = ([0; 2048], [1; 2048]);
        let first: Vec<u8> = torn(&old, &new, Some(3), &mut Rng::new(0));
        assert_eq!((first[1535], first[1536], first.len()), (1, 0, 2048));
        let some = torn(&old, &new, None, &mut Rng::new(1));
        assert!(some.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
    }
}
