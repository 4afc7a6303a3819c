//! Tests of those parts of the kernel that run anywhere: its reader of tar headers, against the `tar` crate, and what
//! it does to the files.

#[path = "../../kernel-demo/src/archive/header.rs"]
mod header;

use crate::fate::Fate;
use header::{Header, Type};
use tar::EntryType;

/// A good header, as the runner writes it.
fn good(path: &str) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_path(path).unwrap();
    header.set_mode(0o100_755);
    header.set_size(12345);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    header
}

fn parse(header: &tar::Header) -> Result<Header, &'static str> {
    Header::parse(header.as_bytes())
}

#[test]
fn paths_are_put_together() {
    let long = [["p".repeat(70), "q".repeat(70)].join("/"), "r".repeat(90)].join("/");
    for path in ["a", "dir/file with blanks", &"x".repeat(100), &long] {
        let parsed = parse(&good(path)).unwrap();
        assert_eq!(String::from_utf8(parsed.path).unwrap(), path);
        assert_eq!((parsed.entry_type, parsed.mode, parsed.size_bytes), (Type::File, 0o755, 12345));
    }
}

#[test]
fn types_are_told_apart() {
    let cases = [
        (EntryType::Regular, Some(Type::File)),
        (EntryType::new(0), Some(Type::File)),
        (EntryType::Symlink, Some(Type::Symlink)),
        (EntryType::Directory, Some(Type::Directory)),
        (EntryType::GNULongName, Some(Type::LongPath)),
        (EntryType::GNULongLink, Some(Type::LongTarget)),
        (EntryType::Link, None),
        (EntryType::Char, None),
        (EntryType::XHeader, None),
        (EntryType::GNUSparse, None),
    ];
    for (entry_type, expected) in cases {
        let mut header = good("a");
        header.set_entry_type(entry_type);
        header.set_link_name("target").unwrap();
        header.set_cksum();
        let parsed = parse(&header);
        assert_eq!(parsed.as_ref().ok().map(|header| header.entry_type), expected, "{entry_type:?}");
        assert!(parsed.is_ok_and(|header| header.target == b"target") || expected.is_none());
    }
}

#[test]
fn every_changed_byte_is_noticed() {
    let bytes = *good("some/path").as_bytes();
    for at in 0..bytes.len() {
        let mut changed = bytes;
        changed[at] ^= 0x11;
        assert!(Header::parse(&changed).is_err(), "byte {at}");
    }
}

#[test]
fn numbers_that_make_no_sense_are_errors() {
    for (field, text, what) in
        [(124, "12345678901x", "size"), (100, "0000x44\0", "mode"), (148, "zzzzzz\0 ", "checksum")]
    {
        let mut header = good("a");
        header.as_mut_bytes()[field..field + text.len()].copy_from_slice(text.as_bytes());
        if field != 148 {
            header.set_cksum();
        }
        assert!(parse(&header).err().unwrap().contains(what), "{text}");
    }
    // What does not fit into octal digits is written in binary, which is not understood.
    let mut header = good("a");
    header.set_size(1 << 40);
    header.set_cksum();
    assert!(parse(&header).is_err());
    assert!(Header::parse(&[0; 511]).is_err());
}

#[test]
fn a_third_goes_and_a_fifth_changes() {
    let fates: Vec<Fate> = (0..15).map(Fate::of).collect();
    let count = |fate| fates.iter().filter(|other| **other == fate).count();
    assert_eq!((count(Fate::Deleted), count(Fate::Rewritten), count(Fate::Kept)), (5, 2, 8));
    assert_eq!((fates[2], fates[4], fates[14]), (Fate::Deleted, Fate::Rewritten, Fate::Deleted));
    assert_eq!((Fate::Rewritten.byte(0x0F), Fate::Rewritten.tail(b"a")), (0xF0, &b"a"[..]));
    assert_eq!((Fate::Kept.byte(0x0F), Fate::Kept.tail(b"a")), (0x0F, &b""[..]));
}
