//! `arenite dump`.

use crate::scratch::{Scratch, BLOCK_LEN};
use crate::structures::{catalog, commit, data, leaf, pivot, volume, with_store};
use serde_json::{json, Value};

/// `dump --json`, which must end with this code.
fn dumped(image: &Scratch, code: i32, arguments: &[&str]) -> Value {
    let (found, out, complaint) = crate::scratch::run(&[&["dump", "--json", image.name()], arguments].concat());
    assert_eq!(found, code, "{complaint}");
    serde_json::from_str(&out).unwrap()
}

fn text(image: &Scratch, arguments: &[&str]) -> String {
    let (code, out, complaint) = crate::scratch::run(&[&["dump", image.name()], arguments].concat());
    assert_eq!((code, complaint.as_str()), (0, ""));
    out
}

/// What the logs free and allocate, replayed, is what `info` says is free.
#[test]
fn logs_entry_by_entry() {
    for name in ["fresh-256M", "populated", "killed-1"] {
        let image = Scratch::image(name);
        let (info, dump) = (image.info(), dumped(&image, 0, &[]));
        for copy in dump["superblocks"].as_array().unwrap() {
            assert_eq!((&copy["type"], &copy["damage"]), (&json!("superblock"), &Value::Null));
            assert_eq!((&copy["qgen"], &copy["root"]["hash"]), (&info["qgen"], &info["root"]["hash"]));
        }
        let arenas = dump["arenas"].as_array().unwrap();
        assert_eq!(arenas.len(), 8);
        for (arena, known) in arenas.iter().zip(info["arenas"].as_array().unwrap()) {
            assert_eq!((&arena["addr"], &arena["header"], &arena["damage"]), (&known["addr"], &json!(1), &Value::Null));
            let mut free = 0_i64;
            for block in arena["log"].as_array().unwrap() {
                for entry in block["entries"].as_array().unwrap() {
                    let len = entry["len"].as_i64().unwrap_or(0);
                    match entry["op"].as_str().unwrap() {
                        "free" => free += len,
                        "alloc" => free -= len,
                        op => assert_eq!(op, "barrier"),
                    }
                    let end = &arena["log_end"];
                    if end["addr"] == block["addr"] && end["at"].as_u64() == entry["at"].as_u64().map(|at| at + 8) {
                        break;
                    }
                }
            }
            assert_eq!(Value::from(free), known["free"], "{name} {arena:#}");
        }
    }
}

#[test]
fn every_type_of_block() {
    let image = volume("4M", "4096");
    let (bytes, one, two) = with_store(&image, |store| {
        let bytes = data(store, 0x41);
        let one = leaf(store, &[(b"key \"1\"".to_vec(), vec![0, 255]), (b"key 2".to_vec(), vec![b'v'; 60])]);
        let two = pivot(store, &[(b"key".to_vec(), one)], &[(7, b"m".to_vec(), b"n".to_vec())]);
        commit(store, two, 2);
        (bytes, one, two)
    });
    let at = |addr: u64| format!("{addr:#x}");
    let block = dumped(&image, 0, &[&at(two.addr)]);
    assert_eq!((&block["type"], &block["hash"]), (&json!("pivot"), &json!(format!("{:016x}", two.hash))));
    assert_eq!(block["children"][0]["addr"], one.addr);
    assert_eq!(block["messages"], json!([{"op": 7, "key": "6d", "value": "6e"}]));
    let block = dumped(&image, 0, &[&one.addr.to_string()]);
    assert_eq!((&block["type"], &block["items"][0]["value"]), (&json!("leaf"), &json!("00ff")));
    let shown = text(&image, &[&at(one.addr)]);
    assert!(shown.contains("\"key \\\"1\\\"\" = [00ff]") && shown.contains("\"... (60 bytes)"), "{shown}");
    let block = dumped(&image, 0, &[&at(bytes.addr)]);
    assert_eq!((&block["type"], &block["bytes"]), (&json!("data"), &json!("41".repeat(4096))));
    let shown = text(&image, &[&at(bytes.addr)]);
    let line = format!("  000000  {}  |{}|\n  *\n  001000\n", ["41"; 16].join(" "), "A".repeat(16));
    assert!(shown.ends_with(&line), "{shown}");
    // Data may begin like anything.
    image.write(bytes.addr, &[0, 2, 0xff, 0xff, 0xff, 0xff]);
    let block = dumped(&image, 0, &[&at(bytes.addr)]);
    assert_eq!((&block["type"], block["bytes"].is_string()), (&json!("data"), true));
    assert!(block["damage"].as_str().unwrap().starts_with("begins like a leaf, but: "), "{block}");
    // Each log ends somewhere, right behind a barrier.
    let shown = text(&image, &[]);
    let lines: Vec<_> = shown.lines().collect();
    let ends: Vec<_> = (0..lines.len()).filter(|index| lines[*index].contains("the log ends here")).collect();
    assert_eq!(ends.len(), image.info()["arenas"].as_array().unwrap().len());
    assert!(ends.iter().all(|index| lines[index - 1].contains("barrier  generation")), "{shown}");
    let end = &dumped(&image, 0, &[])["arenas"][0]["log_end"];
    assert!(end["at"].as_u64().is_some_and(|at| at >= 44), "{end}");
    // Blocks that have their place are known by it; anything can be read as data.
    for (addr, kind) in [(0, "superblock"), (4096, "arena header"), (8192, "arena header"), (0x3f_f000, "superblock")] {
        assert_eq!(dumped(&image, 0, &[&at(addr)])["type"], kind);
        assert_eq!(dumped(&image, 0, &["--as", "data", &at(addr)])["type"], "data");
    }
    let log = dumped(&image, 0, &[])["arenas"][0]["log"][0]["addr"].as_u64().unwrap();
    assert_eq!(dumped(&image, 0, &[&at(log)])["type"], "log");
    let wrong = dumped(&image, 0, &["--as", "leaf", &at(log)]);
    assert_eq!((&wrong["type"], wrong["bytes"].is_string()), (&json!("leaf"), true));
    assert!(wrong["damage"].as_str().unwrap().contains("block type 0x3"), "{wrong}");
}

#[test]
fn dead_lists() {
    let image = Scratch::image("killed-1");
    // A list of the original's is found by its type.
    let size = image.len_bytes();
    let list = (0..size).step_by(BLOCK_LEN as usize).find(|addr| image.read(*addr)[..2] == [0, 4]);
    let list = list.expect("a dead list").to_string();
    let block = dumped(&image, 0, &[&list]);
    assert_eq!(block["type"], "dead list", "{block:#}");
    assert!(!block["dead"].as_array().unwrap().is_empty());
    assert!(text(&image, &[&list]).contains("  dead  0x"));
}

#[test]
fn damaged_volumes_as_far_as_it_goes() {
    let image = volume("4M", "4096");
    catalog(&image, 3);
    let whole = dumped(&image, 0, &[]);
    let arenas = whole["arenas"].as_array().unwrap();
    let (first, second) = (arenas[0]["addr"].as_u64().unwrap(), arenas[1]["addr"].as_u64().unwrap());
    let log = arenas[1]["log"][0]["addr"].as_u64().unwrap();
    image.flip(first + 20);
    image.flip(first + 4096 + 20);
    image.flip(log + 40);
    image.flip(30);
    let dump = dumped(&image, 0, &[]);
    assert!(dump["superblocks"][0]["damage"].as_str().unwrap().contains("hash"), "{dump:#}");
    assert_eq!(dump["superblocks"][1], whole["superblocks"][1]);
    assert_eq!(dump["arenas"][0]["header"], Value::Null);
    let damage = dump["arenas"][1]["damage"].as_str().unwrap();
    assert_eq!(damage, format!("the log cannot be followed beyond {log:#x}"));
    assert!(dump["arenas"][1]["log"][0]["damage"].as_str().unwrap().contains("hash"));
    assert_eq!(dump["arenas"][2], whole["arenas"][2]);
    assert_eq!(dump["arenas"][1]["addr"], second);
    let shown = text(&image, &[]);
    assert_eq!(shown.lines().filter(|line| line.trim_start().starts_with("damage: ")).count(), 3, "{shown}");
    // Without any superblock: said, and what there is is shown.
    image.flip(0x3f_f000 + 30);
    let (code, out, complaint) = crate::scratch::run(&["dump", image.name()]);
    assert_eq!(code, 2);
    assert!(complaint.ends_with(": no copy of the superblock is good\n"), "{complaint}");
    assert_eq!(out.matches("superblock\n").count(), 2, "{out}");
    let header = dumped(&image, 0, &["--block-size", "4096", "--as", "header", "0x1000"]);
    assert!(header["log_head"].is_number() || header["damage"].is_string());
}

#[test]
fn a_chain_that_comes_back_ends() {
    let image = Scratch::image("populated");
    let log = dumped(&image, 0, &[])["arenas"][0]["log"][0]["addr"].as_u64().unwrap();
    // The generation of the last barrier is one that nobody waits for, and the chain leads to itself.
    let mut block = image.read(log);
    block[12..20].copy_from_slice(&log.to_be_bytes());
    let len = usize::from(u16::from_be_bytes([block[2], block[3]]));
    block[36 + len - 8..36 + len].copy_from_slice(&0x103_u64.to_be_bytes());
    let sum = arenite_core::hash::hash64(&block[36..36 + len]);
    block[4..12].copy_from_slice(&sum.to_be_bytes());
    image.write(log, &block);
    let arena = dumped(&image, 0, &[])["arenas"][0].clone();
    assert_eq!(arena["damage"], format!("the chain comes back to {log:#x}"));
    assert_eq!((arena["log"].as_array().unwrap().len(), &arena["log_end"]), (1, &Value::Null));
}

#[test]
fn mistakes() {
    let image = volume("1M", "4096");
    for (arguments, code, words) in [
        (&["0x1001"][..], 1, "no block begins at 0x1001: blocks have 4096 bytes; the one around it begins at 0x1000"),
        (&["0x100000"], 1, "no block at 0x100000: the image ends at 0x100000"),
        (&["0xfffffffffffff000"], 1, "no block at"),
        (&["--as", "leaf"], 1, "required"),
        (&["--as", "tree", "0"], 1, "possible values"),
        (&["12x"], 1, "an address is a number of bytes"),
    ] {
        let (found, out, complaint) = crate::scratch::run(&[&["dump", image.name()], arguments].concat());
        assert_eq!((found, out.as_str()), (code, ""), "{complaint}");
        assert!(complaint.contains(words), "{complaint}");
    }
    let blank = Scratch::blank(1 << 20);
    let (code, out, complaint) = blank.run(&["dump"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(complaint.contains("--block-size B reads them anyway"), "{complaint}");
    for command in ["dump", "check", "info", "map"] {
        let (code, _, complaint) = Scratch::blank(1000).run(&[command]);
        assert_eq!((code, complaint.lines().count()), (2, 1), "{complaint}");
        assert!(complaint.ends_with("not a volume (the image has only 1000 bytes)\n"), "{complaint}");
    }
    let (code, _, complaint) = crate::scratch::run(&["dump", "/nowhere/at-all"]);
    assert_eq!((code, complaint.lines().count()), (2, 1), "{complaint}");
}
