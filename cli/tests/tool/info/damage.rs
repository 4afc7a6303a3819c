//! Copies that are bad, images that are cut short, and what was never a volume.

use super::original::{commit, Change, Log, Part};
use super::reference::{self, be64};
use crate::scratch::{complaint, Scratch, BLOCK, BLOCK_LEN};
use serde_json::Value;

fn flip(image: &Scratch, addr: u64) {
    let at = addr / BLOCK_LEN * BLOCK_LEN;
    let mut block = image.read(at);
    block[(addr - at) as usize] ^= 0x10;
    image.write(at, &block);
}

/// Flips a bit, of which there is another copy: the figures are the same, and the table has a note. Then flips it back.
fn check_survives(image: &Scratch, want: &Value, addr: u64) -> (Value, String) {
    flip(image, addr);
    let said = image.info();
    reference::state(image).check(said.clone(), "damaged");
    let mut info = said.clone();
    info["superblocks"] = want["superblocks"].clone();
    for (arena, want) in info["arenas"].as_array_mut().unwrap().iter_mut().zip(want["arenas"].as_array().unwrap()) {
        arena["header"] = want["header"].clone();
    }
    assert_eq!(info, *want);
    let table = image.table();
    assert_eq!(table.matches("note:").count(), 1, "{table}");
    flip(image, addr);
    (said, table)
}

#[test]
fn either_superblock_bad() {
    let image = Scratch::image("populated");
    let want = image.info();
    for copy in 0..2 {
        for at in [0, 1, 7, 30, 100, 104, 120] {
            let (info, table) = check_survives(&image, &want, [0, image.second()][copy] + at);
            assert_eq!(info["superblocks"][copy ^ 1], "ok");
            assert_ne!(info["superblocks"][copy], "ok");
            let name = ["first", "second"][copy];
            assert!(table.contains(&format!("note: {name} superblock: ")), "{table}");
        }
    }
}

#[test]
fn superblock_torn_at_any_sector() {
    let image = Scratch::image("populated");
    let change = |arena| Change { allocate: 1 + arena, ..Change::default() };
    let writes = commit(&image, &reference::state(&image), 2, Log::Append, change);
    let (old, free_old) = (image.read(0), image.info()["free"].clone());
    for write in writes.iter().filter(|write| write.part < Part::SecondSuperblock) {
        image.write(write.addr, &write.bytes);
    }
    let (new, free_new) = (image.read(0), image.info()["free"].clone());
    // Everything that changes lies in the first sector, so a torn superblock is the old or the new one.
    for sectors in 0..=BLOCK / 512 {
        let torn = [&new[..sectors * 512], &old[sectors * 512..]].concat();
        image.write(0, &torn);
        let info = image.info();
        assert_eq!(info["free"], if sectors == 0 { free_old.clone() } else { free_new.clone() });
        image.write(0, &new);
        image.write(image.second(), &torn);
        assert_eq!(image.info()["free"], free_new);
        image.write(image.second(), &old);
    }
    // The newer copy counts, whichever it is.
    image.write(0, &old);
    image.write(image.second(), &new);
    let info = image.info();
    assert_eq!((&info["free"], &info["superblocks"][1]), (&free_new, &"ok".into()));
    assert_eq!(info["superblocks"][0], "lags behind at generation 26");
    image.write(image.second(), &old);
    // A device that breaks the promise tears inside of it.
    for cut in [8, 96, 100, 104, 112, 200, 230, 236] {
        image.write(0, &[&new[..cut], &old[cut..]].concat());
        let info = image.info();
        assert_eq!(info["free"], free_old, "torn at {cut}");
        assert_eq!(info["superblocks"][1], "ok");
    }
}

#[test]
fn either_header_bad() {
    let image = Scratch::image("populated");
    let want = image.info();
    let superblock = image.read(0);
    for arena in 0..8 {
        let addr = be64(&superblock, 104 + 16 * arena);
        for copy in 0..2 {
            for at in [0, 1, 2, 20, 30, 9000] {
                let (info, _) = check_survives(&image, &want, addr + copy * BLOCK_LEN + at);
                assert_eq!(info["arenas"][arena]["header"], ["backup", "primary"][copy as usize]);
            }
        }
    }
}

#[test]
fn both_superblocks_bad() {
    let image = Scratch::image("fresh-256M");
    flip(&image, 100);
    flip(&image, image.second() + 100);
    let text = image.complaint();
    assert!(text.starts_with("not a volume (first superblock: hash 0x"), "{text}");
}

#[test]
fn both_headers_bad() {
    let image = Scratch::image("populated");
    let superblock = image.read(0);
    let (addr, hash) = (be64(&superblock, 104 + 32), be64(&superblock, 104 + 40));
    flip(&image, addr + 30);
    flip(&image, addr + BLOCK_LEN + 31);
    let text = image.complaint();
    assert_eq!(text, format!("damaged at {addr:#x}: no copy of the arena header has the hash {hash:016x}"));
}

#[test]
fn log_bad() {
    let image = Scratch::image("populated");
    let state = reference::state(&image);
    let addr = state.arenas[5].log[0];
    let block = image.read(addr);
    for at in [4, 36, 60] {
        image.write(addr, &block);
        flip(&image, addr + at);
        let text = image.complaint();
        assert!(text.starts_with(&format!("damaged at {addr:#x}: hash 0x")), "{text}");
    }
    image.write(addr, &[0; BLOCK]);
    assert_eq!(image.complaint(), format!("damaged at {addr:#x}: block type 0x0 where Log belongs"));
}

#[test]
fn cut_short() {
    let image = Scratch::image("killed-1");
    let whole = image.len_bytes();
    for len_bytes in [8192, 16384, 20000, 65536, 1 << 20, 100_000_000, whole - whole / 4] {
        let image = Scratch::image("killed-1");
        image.set_len(len_bytes);
        let text = image.complaint();
        assert!(text.starts_with("damaged at 0x") || text.starts_with("read at 0x"), "{text}");
        assert!(text.contains(&format!("the image ends at {len_bytes:#x}")), "{text}");
    }
    // Behind the last arena there are six blocks that belong to nobody. Without them a volume lacks a copy, no more.
    let mut want = image.info();
    image.set_len(whole - 6 * BLOCK_LEN);
    let mut info = image.info();
    assert_ne!(info["superblocks"][1], "ok");
    assert_eq!(info["superblocks"].take().as_array().unwrap()[0], "ok");
    want["superblocks"].take();
    assert_eq!(info, want);
    image.set_len(whole - 7 * BLOCK_LEN);
    assert!(image.complaint().starts_with("damaged at 0xdfe8000: arena outside the device"));
    image.set_len(100);
    assert_eq!(image.complaint(), "not a volume (the image has only 100 bytes)");
    image.set_len(0);
    assert_eq!(image.complaint(), "not a volume (the image is empty)");
}

/// On a larger device the second superblock is not where it belongs.
#[test]
fn longer_than_its_volume() {
    for more in [1, 511, 512, BLOCK_LEN - 1] {
        let image = Scratch::image("populated");
        let want = image.info();
        image.set_len(image.len_bytes() + more);
        assert_eq!(image.info(), want, "{more} bytes that make no block");
    }
    let image = Scratch::image("populated");
    let want = image.info();
    image.set_len(image.len_bytes() + 3 * BLOCK_LEN);
    let info = image.info();
    assert_eq!(info["free"], want["free"]);
    assert_eq!(info["superblocks"][0], "ok");
    assert!(info["superblocks"][1].as_str().unwrap().starts_with("not a superblock"));
}

#[test]
fn never_a_volume() {
    let image = Scratch::blank(1 << 20);
    assert!(image.complaint().starts_with("not a volume (first superblock: not a superblock: begins with"));
    // The superblock of an ext4 file system: magic 0xef53 at byte 56 of the second KiB.
    image.write(1024 + 56, &[0x53, 0xef]);
    assert!(image.complaint().starts_with("not a volume ("));
    image.write(0, b"gefs8.00");
    assert!(image.complaint().starts_with("not a volume (first superblock: disk version \"8.00\" is not supported"));
    image.write(0, b"gefs9.00");
    image.write(8, &[0xff; 200]);
    assert!(image.complaint().starts_with("not a volume (first superblock: bad block size"));
}

#[test]
fn not_an_image() {
    assert!(complaint("/nonexistent/image").starts_with("No such file or directory"));
    assert_eq!(complaint(env!("CARGO_TARGET_TMPDIR")), "a directory, not an image");
    assert_eq!(complaint("/dev/null"), "neither a regular file nor a block device");
}
