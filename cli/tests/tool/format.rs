//! `arenite format`.

use crate::scratch::{run, Scratch};
use crate::structures::catalog;
use arenite_shim::{FileDevice, FileOptions};

/// Refused with one line that has these words, and nothing on standard output; the image is as it was.
fn refused(image: &Scratch, arguments: &[&str], words: &str) {
    let before = (image.len_bytes(), image.fingerprint());
    let (code, out, complaint) = image.run(&[&["format"], arguments].concat());
    assert_eq!((code, out.as_str()), (1, ""), "{complaint}");
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert!(complaint.starts_with(&format!("arenite: {}: ", image.name())) && complaint.contains(words), "{complaint}");
    assert_eq!((image.len_bytes(), image.fingerprint()), before);
}

fn formatted(image: &Scratch, arguments: &[&str]) {
    let (code, out, complaint) = image.run(&[&["format"], arguments].concat());
    assert_eq!((code, complaint.as_str()), (0, ""), "{arguments:?}");
    assert!(out.starts_with(&format!("{}: formatted: ", image.name())), "{out}");
    let report = image.check(0);
    assert_eq!(report["tree"], "none");
    assert_eq!(report["blocks"]["unreachable"], 0);
    assert_eq!(report["notes"], serde_json::json!([]));
}

#[test]
fn every_block_size_and_number_of_arenas() {
    for block_len in [2048_u64, 4096, 8192, 16384, 32768, 65536] {
        let most = ((block_len - 112) / 16).min(256);
        let least = if block_len == 16384 { 2 } else { 1 };
        for arenas in [1, 2, 3, 8, 31, 119, 120, most, 255, 256, 257] {
            // The least that such a volume needs, and bytes that make no block.
            let image = Scratch::blank((18 * arenas + 2) * block_len + 1000);
            let (size, count) = (block_len.to_string(), arenas.to_string());
            let arguments = ["--block-size", &size, "--arenas", &count];
            if arenas < least || arenas > most {
                refused(&image, &arguments, &format!("has {least} to {most} arenas, not {arenas}"));
                continue;
            }
            formatted(&image, &arguments);
            let info = image.info();
            assert_eq!((&info["block_size"], &info["qgen"]), (&block_len.into(), &1.into()));
            let shown = info["arenas"].as_array().unwrap();
            assert_eq!(shown.len() as u64, arenas);
            assert!(shown.iter().all(|arena| arena["size"] == 16 * block_len && arena["free"] == 13 * block_len));
            let (code, _, complaint) = image.run(&["exercise", "--ops", "200", "--seed", "1", "--commit-every", "50"]);
            assert_eq!((code, complaint.as_str()), (0, ""), "{block_len} {arenas}");
            image.check(0);
        }
    }
}

#[test]
fn what_nobody_asked_for() {
    for (len, block_len, arenas) in [
        ("80K", 4096, 1),
        ("1M", 4096, 4),
        ("4194303", 4096, 8),
        ("4M", 16384, 4),
        ("256M", 16384, 8),
        ("3T", 16384, 8),
        ("8T", 16384, 8),
    ] {
        let image = Scratch::blank(0);
        formatted(&image, &["--size", len]);
        let info = image.info();
        assert_eq!(info["block_size"], block_len, "{len}");
        assert_eq!(info["arenas"].as_array().unwrap().len(), arenas, "{len}");
    }
}

#[test]
fn makes_the_file() {
    let image = Scratch::blank(0);
    std::fs::remove_file(&image.path).unwrap();
    let (code, _, complaint) = image.run(&["format"]);
    assert_eq!(code, 1);
    assert!(complaint.ends_with("no such file; --size creates it\n"), "{complaint}");
    assert!(!image.path.exists());
    // One that cannot be formatted is not left behind.
    for (arguments, words) in [
        (&["--size", "64K"][..], "too small"),
        (&["--size", "1M", "--arenas", "200"][..], "too small"),
        (&["--size", "65T"][..], "more than 2^32 blocks of 16384 bytes"),
    ] {
        let (code, out, complaint) = image.run(&[&["format"], arguments].concat());
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(complaint.contains(words), "{complaint}");
        assert!(!image.path.exists());
    }
    formatted(&image, &["--size", "10M"]);
    assert_eq!(std::fs::metadata(&image.path).unwrap().len(), 10 << 20);
}

#[test]
fn blank_only() {
    let len = 16_u64 << 20;
    for addr in [0, 511, (1 << 20) - 1, 1 << 20, 5_000_001, len - (64 << 10) - 1, len - 1] {
        let image = Scratch::blank(len);
        image.write(addr, &[1]);
        let words = format!("not blank: it holds something at {addr:#x}; --force");
        refused(&image, &[], &words);
        // Neither is content cut off, nor kept in what becomes larger.
        refused(&image, &["--size", "1M"], &words);
        refused(&image, &["--size", "32M"], &words);
        formatted(&image, &["--force"]);
        assert_eq!(image.len_bytes(), len);
    }
}

#[test]
fn volumes_are_not_blank() {
    let image = Scratch::image("populated");
    refused(&image, &[], "not blank: it holds something at 0x0");
    formatted(&image, &["--force"]);
    refused(&image, &[], "not blank");
    catalog(&image, 3);
    assert_eq!(image.check(0)["tree"], "catalog");
    formatted(&image, &["--force", "--size", "1M"]);
    assert_eq!(image.len_bytes(), 1 << 20);
    assert_eq!(image.info()["block_size"], 4096);
}

#[test]
fn not_one_in_use() {
    let image = Scratch::blank(1 << 20);
    let device = FileDevice::open(&image.path, FileOptions::default()).unwrap();
    refused(&image, &["--force"], "in use");
    refused(&image, &["--size", "2M"], "in use");
    drop(device);
    formatted(&image, &[]);
}

#[test]
fn refusals_give_the_length_back() {
    let image = Scratch::blank(1 << 20);
    refused(&image, &["--size", "64K"], "too small: ");
    refused(&image, &["--size", "64K", "--force"], "too small: ");
    refused(&image, &["--arenas", "0"], "has 1 to 249 arenas, not 0");
    let empty = Scratch::blank(0);
    refused(&empty, &[], "the file is empty; --size says how long it is to be");
    for (path, words) in [("/dev/null", "neither a regular file"), (env!("CARGO_TARGET_TMPDIR"), "a directory")] {
        let (code, _, complaint) = run(&["format", "--size", "1M", path]);
        assert_eq!(code, 1);
        assert!(complaint.contains(words), "{complaint}");
    }
}

#[test]
fn small_files_are_told_their_own_length() {
    refused(&Scratch::blank(0), &["--size", "10"], "bytes are needed for such arenas and blocks, 10 are there");
}
