//! Names of crash states within one epoch.
//!
//! A point says which of the pending writes are there and which one is torn, and is short to write down:
//!
//! ```text
//!   mask:  p5     the first five in the order of issue        l3     all but number 3
//!          l3,7   all but numbers 3 and 7                     o3     only number 3
//!          x2f    those whose bit is set
//!   tear:  -      none                                        f      where writes meet, the first one won
//!          p3.2   of number 3, its first two sectors          s3.2   all but its first two sectors
//!          o3.2   its sector number 2 alone                   b3.2f  its sectors whose bit is set
//!   e:0110 instead of mask and tear, the choice of every sector (small epochs)
//! ```
//!
//! Writes and sectors are counted without those that change nothing.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

/// Which writes are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mask {
    /// So many, in the order of issue.
    Prefix(usize),
    /// All but one.
    Lost(usize),
    /// All but two.
    LostTwo(usize, usize),
    /// One.
    Only(usize),
    /// Those whose bits are set, 64 in each word.
    Bits(Vec<u64>),
}

/// Which write is there in part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tear {
    /// None.
    None,
    /// None, and where several writes meet in a sector, the one that was issued first is there.
    FirstWins,
    /// The first so many sectors of this write.
    Prefix(usize, usize),
    /// All but the first so many.
    Suffix(usize, usize),
    /// One of its sectors.
    One(usize, usize),
    /// The sectors whose bits are set.
    Bits(usize, u64),
}

/// One crash state of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Point {
    /// Writes that are there or not, at most one of them torn.
    Writes(Mask, Tear),
    /// For each sector that changes, 0 for what was durable or the number of what it may hold instead.
    Choice(Vec<u8>),
}

impl Mask {
    /// Whether a write is there.
    pub fn has(&self, write: usize) -> bool {
        match self {
            Self::Prefix(count) => write < *count,
            Self::Lost(lost) => write != *lost,
            Self::LostTwo(one, two) => write != *one && write != *two,
            Self::Only(only) => write == *only,
            Self::Bits(words) => words.get(write / 64).is_some_and(|word| word >> (write % 64) & 1 != 0),
        }
    }
}

impl Tear {
    /// The write that is torn, if one is.
    pub fn write(&self) -> Option<usize> {
        match self {
            Self::None | Self::FirstWins => None,
            Self::Prefix(write, _) | Self::Suffix(write, _) | Self::One(write, _) | Self::Bits(write, _) => {
                Some(*write)
            }
        }
    }

    /// Whether a sector of the torn write is there.
    pub fn has(&self, sector: usize) -> bool {
        match self {
            Self::None | Self::FirstWins => false,
            Self::Prefix(_, count) => sector < *count,
            Self::Suffix(_, count) => sector >= *count,
            Self::One(_, only) => sector == *only,
            Self::Bits(_, bits) => sector < 64 && bits >> sector & 1 != 0,
        }
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(count) => write!(f, "p{count}"),
            Self::Lost(lost) => write!(f, "l{lost}"),
            Self::LostTwo(one, two) => write!(f, "l{one},{two}"),
            Self::Only(only) => write!(f, "o{only}"),
            Self::Bits(words) => {
                f.write_str("x")?;
                words.iter().rev().try_for_each(|word| write!(f, "{word:016x}"))
            }
        }
    }
}

impl fmt::Display for Tear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("-"),
            Self::FirstWins => f.write_str("f"),
            Self::Prefix(write, count) => write!(f, "p{write}.{count}"),
            Self::Suffix(write, count) => write!(f, "s{write}.{count}"),
            Self::One(write, only) => write!(f, "o{write}.{only}"),
            Self::Bits(write, bits) => write!(f, "b{write}.{bits:x}"),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Writes(mask, tear) => write!(f, "{mask}:{tear}"),
            Self::Choice(options) => {
                f.write_str("e:")?;
                options.iter().try_for_each(|option| write!(f, "{option:x}"))
            }
        }
    }
}

/// What is wrong with the name of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadName(pub String);

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not the name of a crash state", self.0)
    }
}

impl std::error::Error for BadName {}

fn number(text: &str) -> Option<usize> {
    text.parse().ok()
}

fn mask(text: &str) -> Option<Mask> {
    let (kind, rest) = text.split_at_checked(1)?;
    match kind {
        "p" => Some(Mask::Prefix(number(rest)?)),
        "o" => Some(Mask::Only(number(rest)?)),
        "l" => match rest.split_once(',') {
            None => Some(Mask::Lost(number(rest)?)),
            Some((one, two)) => Some(Mask::LostTwo(number(one)?, number(two)?)),
        },
        "x" if rest.is_ascii() => {
            let words = rest.as_bytes().rchunks(16).map(|word| std::str::from_utf8(word).ok());
            let words = words.map(|word| u64::from_str_radix(word?, 16).ok());
            Some(Mask::Bits(words.collect::<Option<_>>()?))
        }
        _ => None,
    }
}

fn tear(text: &str) -> Option<Tear> {
    match text {
        "-" => return Some(Tear::None),
        "f" => return Some(Tear::FirstWins),
        _ => {}
    }
    let (kind, rest) = text.split_at_checked(1)?;
    let (write, what) = rest.split_once('.')?;
    let write = number(write)?;
    match kind {
        "p" => Some(Tear::Prefix(write, number(what)?)),
        "s" => Some(Tear::Suffix(write, number(what)?)),
        "o" => Some(Tear::One(write, number(what)?)),
        "b" => Some(Tear::Bits(write, u64::from_str_radix(what, 16).ok()?)),
        _ => None,
    }
}

impl FromStr for Point {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let parse = || {
            let (front, back) = text.split_once(':')?;
            if front == "e" {
                let digits = back.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8));
                return Some(Self::Choice(digits.collect::<Option<_>>()?));
            }
            Some(Self::Writes(mask(front)?, tear(back)?))
        };
        parse().ok_or_else(|| BadName(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let masks = [Mask::Prefix(3), Mask::Lost(0), Mask::LostTwo(4, 17), Mask::Only(9), Mask::Bits(vec![0x2f, 1])];
        let tears = [
            Tear::None,
            Tear::FirstWins,
            Tear::Prefix(3, 2),
            Tear::Suffix(0, 31),
            Tear::One(5, 1),
            Tear::Bits(2, 0xf0),
        ];
        for mask in &masks {
            for tear in &tears {
                let point = Point::Writes(mask.clone(), tear.clone());
                assert_eq!(point.to_string().parse(), Ok(point));
            }
        }
        assert_eq!("e:0120".parse(), Ok(Point::Choice(vec![0, 1, 2, 0])));
        assert!(Mask::Bits(vec![0, 2]).has(65) && !Mask::Bits(vec![0, 2]).has(64));
        for bad in ["", "p", "e:g", "p1", "p1:", "q1:-", "p1:p1", "l1,:-", "e"] {
            assert!(bad.parse::<Point>().is_err(), "{bad}");
        }
    }
}
