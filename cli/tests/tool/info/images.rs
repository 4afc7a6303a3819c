//! The images that the original wrote, against what the original itself said of them (testdata/README.md).

use super::reference;
use crate::scratch::{testdata, Scratch};
use serde_json::Value;

/// The original's own figures.
fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(testdata("expected.json")).unwrap()).unwrap()
}

fn check(name: &str) {
    let image = Scratch::image(name);
    let want = &expected()[name];
    let info = image.info();
    assert_eq!(info["format"], "gefs9.00");
    assert_eq!(info["superblocks"], serde_json::json!(["ok", "ok"]));
    for key in ["block_size", "qgen", "root", "free"] {
        assert_eq!(info[key], want[key], "{key}");
    }
    let arenas = info["arenas"].as_array().unwrap();
    let used = want["arena_used"].as_array().unwrap();
    assert_eq!(arenas.len(), used.len());
    for (arena, used) in arenas.iter().zip(used) {
        let size = arena["size"].as_u64().unwrap();
        assert_eq!(Value::from(size), want["arena_size"]);
        assert_eq!(size - arena["free"].as_u64().unwrap(), used.as_u64().unwrap(), "{arena}");
        assert_eq!(arena["header"], "primary");
        assert_eq!(arena["log_blocks"], 1);
    }
    reference::state(&image).check(info, name);
    let table = image.table();
    assert!(table.contains(&format!("{} (", want["free"])), "{table}");
    assert!(!table.contains("note:"), "{table}");
}

#[test]
fn fresh() {
    check("fresh-256M");
}

#[test]
fn populated() {
    check("populated");
}

#[test]
fn killed() {
    check("killed-1");
}

#[test]
fn keys_are_in_their_order() {
    let image = Scratch::image("fresh-256M");
    let output = crate::scratch::arenite(&["info", "--json", image.path.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    let keys = [
        "format",
        "block_size",
        "qgen",
        "root",
        "addr",
        "hash",
        "height",
        "superblocks",
        "arenas",
        "addr",
        "size",
        "free",
        "log_blocks",
        "header",
    ];
    let mut rest = text.as_str();
    for key in keys {
        let at = rest.find(&format!("\"{key}\":")).unwrap_or_else(|| panic!("{key} in {rest}"));
        rest = &rest[at..];
    }
    assert!(text.trim_end().ends_with("\"free\": 267583488\n}"), "{text}");
}

#[test]
fn image_is_not_changed() {
    let image = Scratch::image("killed-1");
    let before = std::fs::metadata(&image.path).unwrap().modified().unwrap();
    let mut permissions = std::fs::metadata(&image.path).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&image.path, permissions).unwrap();
    image.info();
    image.table();
    assert_eq!(std::fs::metadata(&image.path).unwrap().modified().unwrap(), before);
}
