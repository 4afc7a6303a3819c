//! Text is ASCII, lines and files are short, nothing is left as a note to oneself.

use std::fs;
use std::path::{Path, PathBuf};

const COLUMNS: usize = 120;
/// Prose may be a little longer.
const PROSE_COLUMNS: usize = 130;
const LINES: usize = 600;
const KINDS: [&str; 9] = ["rs", "md", "toml", "s", "ld", "c", "h", "yml", "sh"];
/// Notes to oneself, in halves, so that this file has none.
const NOTES: [[&str; 2]; 3] = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"]];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Our texts: not what is built, hidden or not ours.
fn files() -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name());
            let hidden = name.to_string_lossy().starts_with('.') && name != ".cargo";
            let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or("");
            if entry.file_type().unwrap().is_dir() && !hidden && name != "target" {
                folders.push(path);
            } else if KINDS.contains(&kind) && !hidden {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 100, "only {} files found", found.len());
    found
}

/// What is wrong with a file of this kind.
fn flaws(kind: &str, text: &str) -> Vec<String> {
    let mut flaws = Vec::new();
    let mut say = |line: usize, what: &str| flaws.push(format!("{line}: {what}"));
    for (number, line) in (1..).zip(text.lines()) {
        let long = line.chars().count() > if kind == "md" { PROSE_COLUMNS } else { COLUMNS };
        // A row of a table cannot be broken, nor can a picture, nor an address.
        let table =
            kind == "md" && line.starts_with(['|', '!']) || line.trim_start_matches(['/', '!', ' ']).starts_with('|');
        if long && !table && !line.contains("://") {
            say(number, "too many columns");
        }
        if !line.is_ascii() {
            say(number, "not ASCII");
        }
        if kind == "rs" && line.contains('\t') {
            say(number, "a tab");
        }
        if line.ends_with([' ', '\t']) {
            say(number, "space at the end");
        }
        let words = || line.split(|c: char| !c.is_ascii_alphanumeric());
        if NOTES.iter().any(|halves| words().any(|word| word == halves.concat())) && kind != "md" {
            say(number, "a note to oneself");
        }
    }
    if kind == "rs" && text.lines().count() > LINES {
        say(LINES, "more lines than a file should have");
    }
    if !text.is_empty() && !text.ends_with('\n') {
        say(text.lines().count(), "no end of line at the end");
    }
    flaws
}

#[test]
fn texts_are_tidy() {
    let mut all = Vec::new();
    for path in files() {
        let kind = path.extension().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        all.extend(flaws(&kind, &text).into_iter().map(|flaw| format!("{shown}:{flaw}")));
    }
    assert!(all.is_empty(), "{} flaws:\n{}", all.len(), all.join("\n"));
}

#[test]
fn each_flaw_is_seen() {
    let long = "x".repeat(COLUMNS + 1);
    let note = NOTES[0].concat();
    for (kind, text, flaw) in [
        ("rs", format!("// {long}\n"), "1: too many columns"),
        ("rs", "// caf\u{e9}\n".to_owned(), "1: not ASCII"),
        ("rs", "\tlet x = 1;\n".to_owned(), "1: a tab"),
        ("toml", "a = 1 \n".to_owned(), "1: space at the end"),
        ("rs", format!("// {note}: later\n"), "1: a note to oneself"),
        ("rs", "//\n".repeat(LINES + 1), "600: more lines than a file should have"),
        ("md", "text".to_owned(), "1: no end of line at the end"),
    ] {
        assert_eq!(flaws(kind, &text), [flaw], "{kind}");
    }
    assert!(flaws("md", &format!("| {long} |\nhttps://{long}\n")).is_empty());
}
