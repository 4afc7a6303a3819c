//! `arenite map`.

use crate::scratch::{run, Scratch};
use crate::structures::{catalog, volume};
use crate::svg::{classes, parse};
use arenite_core::format::BlockSize;
use std::process::Command;

fn picture(image: &Scratch) -> String {
    let (code, out, complaint) = image.run(&["map", "-o", "-"]);
    assert_eq!((code, complaint.as_str()), (0, ""));
    out
}

/// The rows of arenas: letters between the address and the share.
fn bars(text: &str) -> Vec<String> {
    let rows = text.lines().filter(|line| line.contains(" 0x") && line.ends_with("free") | line.ends_with("damaged"));
    rows.filter(|line| !line.contains("blocks of"))
        .map(|line| line.split_whitespace().nth(2).unwrap().to_owned())
        .collect()
}

#[test]
fn letters_and_pictures_show_what_is_there() {
    let image = Scratch::image("populated");
    let (code, text, complaint) = image.run(&["map"]);
    assert_eq!((code, complaint.as_str()), (0, ""));
    assert!(text.starts_with("256 MiB, blocks of 16 KiB, 8 arenas, generation 26, 195.10 MiB free\n"), "{text}");
    let bars = bars(&text);
    assert_eq!(bars.len(), 8, "{text}");
    for bar in &bars {
        assert!(bar.starts_with("HH") && bar.ends_with("--"), "{bar}");
        assert_eq!(bar.matches('L').count(), 1, "{bar}");
    }
    // The last arena is the fullest.
    let full = |bar: &String| bar.matches('#').count();
    assert!(bars.iter().all(|bar| full(bar) <= full(&bars[7])), "{text}");
    let svg = picture(&image);
    let counts = classes(&svg);
    // One of each more in the legend.
    assert_eq!((counts["header"], counts["reserved"], counts["super"], counts["log"]), (17, 17, 3, 9));
    assert!(svg.contains("prefers-color-scheme: dark") && svg.contains("68.3% free"), "{svg}");
    assert!(parse(&svg).contains("superblock 0 at 0x0: ok"));
    assert!(svg.len() < 40_000, "{}", svg.len());
}

/// Blocks in use in the picture's hover texts are those that `check` counts.
#[test]
fn numbers_agree_with_the_check() {
    let image = volume("8M", "4096");
    catalog(&image, 40);
    let blocks = image.check(0)["blocks"].clone();
    let svg = picture(&image);
    let used: u64 = svg
        .split(": ")
        .filter_map(|part| part.split_once(" blocks in use")?.0.split_once(" of "))
        .map(|(used, _)| used.parse::<u64>().unwrap())
        .sum();
    assert_eq!(blocks["reachable"], used);
    let free: u64 = svg.split(" blocks, ").filter_map(|part| part.split_once(" free, ")?.0.parse::<u64>().ok()).sum();
    assert_eq!(blocks["free"], free);
}

#[test]
fn every_size_and_shape() {
    for block_len in [2048_u64, 16384, 65536] {
        let size = BlockSize::new(block_len as u32).unwrap();
        for arenas in [2, 17, 60, u64::from(arenite_core::format::max_arenas(size))] {
            let image = Scratch::blank((18 * arenas + 2) * block_len);
            let (count, unit) = (arenas.to_string(), block_len.to_string());
            assert_eq!(image.run(&["format", "--arenas", &count, "--block-size", &unit]).0, 0);
            let (code, text, _) = image.run(&["map"]);
            assert_eq!((code, bars(&text).len() as u64), (0, arenas));
            assert_eq!(classes(&picture(&image))["header"] as u64, 2 * arenas + 1);
        }
    }
}

#[test]
fn damage_is_shown_where_it_is() {
    let image = volume("4M", "4096");
    catalog(&image, 3);
    let second = image.info()["arenas"][1]["addr"].as_u64().unwrap();
    let third = image.info()["arenas"][2]["addr"].as_u64().unwrap();
    image.flip(second + 20);
    image.flip(second + 4096 + 20);
    image.flip(third + 20);
    image.flip(30);
    let (code, text, _) = image.run(&["map"]);
    assert_eq!(code, 0);
    let bars = bars(&text);
    assert!(bars[1].contains("???") && text.contains("damaged\n") && bars[2].starts_with("hH"), "{text}");
    assert!(!bars[0].contains('?') && text.contains("note: first superblock: "), "{text}");
    let svg = picture(&image);
    assert!(svg.contains("nothing is known of its blocks") && svg.contains("header copy 0 at"), "{svg}");
    // Legend, superblock, one arena with both its headers, and one header more.
    assert!(classes(&svg)["damaged"] >= 4, "{svg}");
}

#[test]
fn no_colours_but_on_a_terminal() {
    let image = volume("1M", "4096");
    let output = Command::new(env!("CARGO_BIN_EXE_arenite")).args(["map", image.name()]).env("TERM", "xterm").output();
    assert!(!output.unwrap().stdout.contains(&0x1b));
}

#[test]
fn names_are_made_safe() {
    let image = volume("1M", "4096");
    let path = image.path.with_file_name(format!("a<b>&\"{}.img", std::process::id()));
    std::fs::copy(&image.path, &path).unwrap();
    let (code, svg, _) = run(&["map", path.to_str().unwrap(), "-o", "-"]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(code, 0);
    assert!(parse(&svg).contains("a<b>&\""));
}

#[test]
fn mistakes() {
    let image = volume("1M", "4096");
    let before = image.fingerprint();
    let (code, out, complaint) = image.run(&["map", "-o", "/nowhere/at-all.svg"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(complaint.starts_with("arenite: /nowhere/at-all.svg: "), "{complaint}");
    let blank = Scratch::blank(1 << 20);
    let (code, _, complaint) = blank.run(&["map"]);
    assert_eq!((code, complaint.lines().count()), (2, 1), "{complaint}");
    assert!(complaint.contains("not a"), "{complaint}");
    // Its own image is no place for the picture.
    let (code, _, complaint) = image.run(&["map", "-o", image.name()]);
    assert_eq!(code, 1);
    assert!(complaint.contains("the image itself"), "{complaint}");
    assert_eq!(image.fingerprint(), before);
}
