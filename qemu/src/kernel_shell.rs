//! Tests of those parts of the kernel's shell that run anywhere: the line editor, and what a line asks for.

#[path = "../../kernel-demo/src/shell/command.rs"]
mod command;
#[path = "../../kernel-demo/src/shell/line.rs"]
mod line;

use crate::generate::XorShift;
use command::{parse, Command, Name, Text, HELP};
use line::{Editor, Input, MAX_LINE_BYTES};

/// Types at an editor; what it has completed, and what it has shown.
fn type_in(editor: &mut Editor, keys: &[u8]) -> (Vec<Input>, String) {
    let (mut inputs, mut shown) = (Vec::new(), String::new());
    for key in keys {
        inputs.extend(editor.feed(*key, "> ", &mut shown).unwrap());
    }
    (inputs, shown)
}

fn line(keys: &str) -> String {
    match &type_in(&mut Editor::new(80), format!("{keys}\r").as_bytes()).0[..] {
        [Input::Line(line)] => line.clone(),
        other => panic!("{keys:?}: {other:?}"),
    }
}

#[test]
fn keys_edit_the_line() {
    for (keys, expected) in [
        ("abc", "abc"),
        ("abc\x7f\x08d", "ad"),
        ("bc\x1b[Ha", "abc"),
        ("bc\x1b[1~a\x1b[4~d", "abcd"),
        ("bc\x1bOHa\x1bOFd", "abcd"),
        ("ac\x1b[Db\x1b[Cd", "abcd"),
        ("ac\x02b\x06d", "abcd"),
        ("xabc\x01\x04", "abc"),
        ("abxc\x1b[D\x1b[D\x1b[3~", "abc"),
        ("abc def\x17ghi", "abc ghi"),
        ("abc def  \x17\x17x", "x"),
        ("abc\x02\x02\x0b", "a"),
        ("abc\x02\x15", "c"),
        ("ab\x0cc", "abc"),
        ("ab\x1b[1;5Cc\x1b[99Zd", "abcd"),
        ("ab\x1bqc", "abc"),
        ("\x7f\x1b[D\x1b[C\x1b[3~\x17\x0b\x15\x1b[A\x1b[B", ""),
        ("\u{e4}\u{65e5}\u{1f980}\x7f\x1b[D\x7fx", "x\u{65e5}"),
        ("ae\u{301}\x1b[Dx\x1b[3~", "ax"),
    ] {
        assert_eq!(line(keys), expected, "{keys:?}");
    }
}

#[test]
fn earlier_lines_come_back() {
    let mut editor = Editor::new(80);
    for old in ["one", "two", "two", "  ", "three"] {
        editor.remember(old);
    }
    let mut recall = |keys: &str| type_in(&mut editor, format!("{keys}\r").as_bytes()).0[0].clone();
    assert_eq!(recall("\x1b[A"), Input::Line("three".into()));
    assert_eq!(recall("\x1b[A\x1b[A\x10!"), Input::Line("one!".into()));
    assert_eq!(recall("dr\x1b[A\x1b[A\x1b[A\x1b[A\x1b[B\x1b[B\x0e\x1b[Baft"), Input::Line("draft".into()));
    (0..1000).for_each(|number| editor.remember(&number.to_string()));
    let (inputs, _) = type_in(&mut editor, format!("{}\r", "\x10".repeat(1000)).as_bytes());
    assert_eq!(inputs, [Input::Line("936".into())]);
}

#[test]
fn lines_end_are_given_up_or_are_the_last() {
    let typed = |keys: &[u8]| type_in(&mut Editor::new(80), keys).0;
    assert_eq!(typed(b"a\r\nb\n\n"), ["a", "b", ""].map(|line| Input::Line(line.into())));
    assert_eq!(typed(b"abc\x03d\n"), [Input::Cancelled, Input::Line("d".into())]);
    assert_eq!(typed(b"\x04"), [Input::End]);
    assert_eq!(typed(b"a\x04"), []);
}

#[test]
fn what_is_no_text_does_not_get_in() {
    let typed = |keys: &[u8]| type_in(&mut Editor::new(80), keys);
    assert_eq!(typed(b"a\xffb\xc3(\x80\xc0\xaf\xed\xa0\x80c\n").0, [Input::Line("abc".into())]);
    assert_eq!(typed(b"a\xc3\n").0, [Input::Line("a".into())]);
    assert_eq!(typed("a\u{85}b\n".as_bytes()).0, [Input::Line("ab".into())]);
    let (inputs, shown) = typed(format!("{}\n", "\u{e4}".repeat(MAX_LINE_BYTES)).as_bytes());
    assert!(matches!(&inputs[..], [Input::Line(line)] if line.len() == MAX_LINE_BYTES));
    assert!(shown.contains('\x07'));
}

/// A long line is shown in part, never in more columns than the terminal has.
#[test]
fn a_row_is_never_overrun() {
    let mut editor = Editor::new(40);
    type_in(&mut editor, "0123456789".repeat(20).as_bytes());
    for keys in ["\x01", "\x05", "\x1b[D", "\x7f"] {
        let (_, shown) = type_in(&mut editor, keys.as_bytes());
        let row = shown.rsplit("\r> ").next().unwrap().split("\x1b[K").next().unwrap();
        assert!(row.len() >= 30 && row.len() <= 37, "{row:?}");
    }
    let (_, shown) = type_in(&mut Editor::new(20), "\u{65e5}".repeat(50).as_bytes());
    let row = shown.rsplit("\r> ").next().unwrap().split("\x1b[K").next().unwrap();
    assert!((7..=8).contains(&row.chars().count()), "{row:?}");
}

#[test]
fn no_keys_break_the_editor() {
    let mut random = XorShift::new(7);
    let mut editor = Editor::new(30);
    for _ in 0..50_000 {
        let word = random.next();
        let keys: &[u8] = match word % 8 {
            0 => b"\x1b[D",
            1 => b"\x1b[A",
            2 => "e\u{301}\u{65e5} ".as_bytes(),
            3 => b"\x17",
            4 => b"\x1b",
            _ => &[(word >> 8) as u8],
        };
        for input in type_in(&mut editor, keys).0 {
            if let Input::Line(line) = input {
                assert!(line.len() <= MAX_LINE_BYTES);
                editor.remember(&line);
            }
        }
    }
}

#[test]
fn lines_are_commands() {
    let name = |text: &str| text.as_bytes().to_vec();
    for (line, command) in [
        ("ls", Command::List(vec![])),
        (" ls  a/b ", Command::List(name("a/b"))),
        ("cat \"a b\"", Command::Show(name("a b"))),
        ("cat a\\x20b\\xff", Command::Show(b"a b\xff".to_vec())),
        ("put a b  c", Command::Put(name("a"), Some("b  c".into()))),
        ("put \"a b\" c", Command::Put(name("a b"), Some("c".into()))),
        ("put a", Command::Put(name("a"), None)),
        ("off", Command::Off),
    ] {
        assert_eq!(parse(line), Ok(Some(command)), "{line}");
    }
    assert_eq!(parse("  "), Ok(None));
}

#[test]
fn errors_are_one_line() {
    for (line, part) in [
        ("dance", "there is no command dance; `help` lists them"),
        ("dan\x07ce", "there is no command dan\\x07ce"),
        ("cat", "usage: cat NAME (the name is missing)"),
        ("cat a b", "usage: cat NAME"),
        ("cat \"a", "the closing quote is missing"),
        ("put \"\" x", "the name is empty"),
        ("rm a\\q", "a backslash is written"),
        ("commit now", "usage: commit"),
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.contains(part) && !error.contains('\n'), "{line}: {error}");
    }
}

#[test]
fn every_command_of_the_help_exists() {
    let verbs = HELP.lines().take_while(|line| !line.starts_with("Names")).map(|line| line.split(' ').next().unwrap());
    for verb in verbs {
        let text = parse(verb).map_err(|error| assert!(error.starts_with("usage"), "{verb}: {error}"));
        assert!(text != Ok(None), "{verb}");
    }
}

#[test]
fn what_is_shown_of_a_name_can_be_typed() {
    let mut random = XorShift::new(3);
    for _ in 0..20_000 {
        let len = 1 + random.next() % 12;
        let name: Vec<u8> = match random.next() % 2 {
            0 => (0..len).map(|_| random.next() as u8).collect(),
            _ => (0..len)
                .flat_map(|_| {
                    [" ", "\"", "\\", "a", "\u{e4}", "\n", "\u{a0}", "\u{202e}"][(random.next() % 8) as usize].bytes()
                })
                .collect(),
        };
        let shown = Name(&name).to_string();
        assert!(!shown.contains(|char: char| char.is_control()), "{shown:?}");
        assert_eq!(parse(&format!("cat {shown}")), Ok(Some(Command::Show(name))), "{shown}");
    }
}

#[test]
fn content_cannot_drive_the_terminal() {
    assert_eq!(Text(b"a\tb\n\x1b[2J\xff\r").to_string(), "a\tb\n\\x1b[2J\\xff\\x0d");
}
