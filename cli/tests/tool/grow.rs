//! `arenite grow`.

use crate::scratch::{run, Scratch};
use crate::structures::{catalog, volume};

fn grown(image: &Scratch, arguments: &[&str]) -> String {
    let (code, out, complaint) = image.run(&[&["grow"], arguments].concat());
    assert_eq!((code, complaint.as_str()), (0, ""), "{arguments:?}");
    out
}

fn refused(image: &Scratch, arguments: &[&str], words: &str) {
    let before = (image.len_bytes(), image.fingerprint());
    let (code, out, complaint) = image.run(&[&["grow"], arguments].concat());
    assert_eq!((code, out.as_str()), (1, ""), "{complaint}");
    assert!(complaint.lines().count() == 1 && complaint.contains(words), "{complaint}");
    assert_eq!((image.len_bytes(), image.fingerprint()), before);
}

#[test]
fn volume_of_the_original() {
    let image = Scratch::image("populated");
    let (before, report) = (image.info(), image.check(0));
    let out = grown(&image, &["--size", "384M"]);
    assert!(out.contains("grown: 8 -> 12 arenas, 16360 -> 24548 blocks of 16384 bytes, 384 MiB in all"), "{out}");
    assert_eq!(image.len_bytes(), 384 << 20);
    let after = image.info();
    assert_eq!(after["root"], before["root"]);
    assert_eq!(after["superblocks"], serde_json::json!(["ok", "ok"]));
    let arenas = after["arenas"].as_array().unwrap();
    for (old, new) in before["arenas"].as_array().unwrap().iter().zip(arenas) {
        assert_eq!((&old["addr"], &old["size"], &old["free"]), (&new["addr"], &new["size"], &new["free"]));
    }
    let added: u64 = arenas[8..].iter().map(|arena| arena["free"].as_u64().unwrap()).sum();
    assert_eq!(after["free"], before["free"].as_u64().unwrap() + added);
    assert!(added > (127 << 20), "{added}");
    // The same is reachable as before.
    let now = image.check(0);
    for key in ["tree", "complete", "snapshots", "nodes", "data"] {
        assert_eq!(now[key], report[key], "{key}");
    }
    let room = image.room();
    let (code, out, _) = image.run(&["exercise", "--ops", "20000", "--seed", "5", "--threads", "2", "--fill", "30"]);
    assert_eq!(code, 0, "{out}");
    assert_eq!(image.room(), room);
    assert_eq!(image.info()["root"], before["root"]);
    image.check(0);
}

#[test]
fn every_block_size_twice() {
    for block_size in ["2048", "4096", "8192", "16384", "32768", "65536"] {
        let image = volume("20M", block_size);
        catalog(&image, 20);
        let before = image.check(0);
        grown(&image, &["--size", "41M"]);
        grown(&image, &["--size", "62000001"]);
        let after = image.check(0);
        assert_eq!((&after["nodes"], &after["data"]), (&before["nodes"], &before["data"]));
        assert!(after["arenas"].as_u64() > before["arenas"].as_u64());
        assert_eq!(after["notes"], serde_json::json!([]));
        let room = image.room();
        let (code, _, _) = image.run(&["exercise", "--ops", "2000", "--seed", "5", "--commit-every", "100"]);
        assert_eq!((code, image.room()), (0, room));
        assert_eq!(image.check(0)["complete"], true);
    }
}

#[test]
fn first_superblock_is_repaired_before_the_second_is_out_of_reach() {
    let image = Scratch::image("populated");
    let root = image.info()["root"].clone();
    image.flip(100);
    grown(&image, &["--size", "300M"]);
    let info = image.info();
    assert_eq!((&info["root"], &info["superblocks"]), (&root, &serde_json::json!(["ok", "ok"])));
    image.check(0);
}

/// A file that was made longer by other means.
#[test]
fn without_a_size() {
    let image = volume("20M", "4096");
    refused(&image, &[], "too small for one more arena");
    image.set_len(30 << 20);
    let out = grown(&image, &[]);
    assert!(out.contains("30 MiB in all"), "{out}");
    image.check(0);
}

#[test]
fn refusals_give_the_length_back() {
    let image = volume("20M", "4096");
    refused(&image, &["--size", "19M"], "cannot shrink");
    refused(&image, &["--size", "20M"], "too small for one more arena");
    refused(&image, &["--size", "20500K"], "too small for one more arena");
    image.check(0);
    let (code, _, complaint) = run(&["grow", "--size", "1M", "/nonexistent/image"]);
    assert_eq!(code, 2, "{complaint}");
    let blank = Scratch::blank(1 << 20);
    let (code, _, complaint) = blank.run(&["grow", "--size", "2M"]);
    assert_eq!((code, blank.len_bytes()), (2, 1 << 20));
    assert!(complaint.contains("not a volume"), "{complaint}");
}

#[test]
fn whoever_left_out_the_size_is_told_of_it() {
    let image = volume("1M", "4096");
    let (code, out, complaint) = image.run(&["grow"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        complaint.contains("too small for one more arena: ") && complaint.contains("; --size makes"),
        "{complaint}"
    );
}
