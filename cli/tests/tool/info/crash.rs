//! Crashes of the original: its process dies after any of a commit's writes, in several orders of those that it may
//! issue in any order. Each state is shown as the rules of the format have it, and as one would expect.

use super::original::{commit, Change, Log, Part, Write};
use super::reference::{self, State};
use crate::scratch::Scratch;

fn small(arena: usize) -> Change {
    Change { allocate: 1 + arena, free: arena % 4, churn: 0 }
}

/// Enough for log blocks to fill up in some arenas.
fn large(arena: usize) -> Change {
    match arena {
        1 => Change { allocate: 1000, free: 120, churn: 2200 },
        3 => Change { allocate: 900, free: 230, churn: 1500 },
        6 => Change { allocate: 1020, free: 0, churn: 504 },
        _ => small(arena),
    }
}

/// What holds of a commit that leaves the committed barrier in the log: nothing of it is seen before the first
/// superblock, and all of it from then on.
fn check_switch(image: &Scratch, before: &State, write: &Write, step: u64, free_after: u64) {
    let info = image.info();
    let free = info["free"].as_u64().unwrap();
    if write.part < Part::FirstSuperblock {
        assert_eq!((free, &info["qgen"]), (before.free_bytes(), &before.qgen.into()));
        if write.part == Part::FirstHeader {
            assert_eq!(info["arenas"][write.arena]["header"], "backup");
        }
    } else {
        assert_eq!((free, &info["qgen"]), (free_after, &(before.qgen + step).into()));
        assert!(info["arenas"].as_array().unwrap().iter().all(|arena| arena["header"] == "primary"));
    }
    if write.part == Part::FirstSuperblock {
        let lags = format!("lags behind at generation {}", before.qgen);
        assert_eq!(info["superblocks"], serde_json::json!(["ok", lags]));
    }
}

/// Carries out writes one by one, and looks at the image after each.
fn cut_everywhere(image: &Scratch, writes: &[Write], look: impl Fn(&Write)) {
    for (count, write) in writes.iter().enumerate() {
        image.write(write.addr, &write.bytes);
        let context = format!("after write {count}, {:?} of arena {}", write.part, write.arena);
        reference::state(image).check(image.info(), &context);
        look(write);
    }
    assert!(!image.table().contains("note:"));
}

/// Returns the most blocks that a log has after the commit.
fn whole_commit(name: &str, step: u64, log: Log, change: impl Fn(usize) -> Change) -> u64 {
    let image = Scratch::image(name);
    let before = reference::state(&image);
    let writes = commit(&image, &before, step, log, change);
    let after = Scratch::image(name);
    for write in &writes {
        after.write(write.addr, &write.bytes);
    }
    let free_after = reference::state(&after).free_bytes();
    assert_ne!(free_after, before.free_bytes());
    cut_everywhere(&image, &writes, |write| check_switch(&image, &before, write, step, free_after));
    let info = image.info();
    info["arenas"].as_array().unwrap().iter().filter_map(|arena| arena["log_blocks"].as_u64()).max().unwrap()
}

#[test]
fn log_appended_in_place() {
    assert_eq!(whole_commit("populated", 2, Log::Append, small), 1);
}

#[test]
fn log_appended_with_the_next_generation() {
    assert_eq!(whole_commit("killed-1", 1, Log::Append, small), 1);
}

#[test]
fn log_blocks_fill_up() {
    assert_eq!(whole_commit("killed-1", 2, Log::Append, large), 3);
}

#[test]
fn log_compressed() {
    assert_eq!(whole_commit("populated", 2, Log::Compress, small), 1);
}

#[test]
fn log_compressed_and_filled_again() {
    assert_eq!(whole_commit("killed-1", 2, Log::Compress, large), 3);
}

/// A fresh volume has no barrier, so that whatever is in its logs counts, and the first commit with it.
#[test]
fn first_commit_of_a_fresh_volume() {
    let image = Scratch::image("fresh-256M");
    let before = reference::state(&image);
    let writes = commit(&image, &before, 2, Log::Append, |arena| Change {
        allocate: 1200 + 90 * arena,
        free: 0,
        churn: 300 * arena,
    });
    cut_everywhere(&image, &writes, |_| {});
}

/// Each arena has a queue of its own, so blocks of different arenas, and headers and logs, come in any order.
#[test]
fn any_order_before_the_superblock() {
    let image = Scratch::image("killed-1");
    let before = reference::state(&image);
    for (turn, log) in [Log::Compress, Log::Append, Log::Compress, Log::Append].into_iter().enumerate() {
        let mut writes = commit(&image, &before, 2, log, small);
        writes.retain(|write| write.part < Part::FirstSuperblock);
        shuffle(&mut writes, turn as u64);
        let fresh = Scratch::image("killed-1");
        for (count, write) in writes.iter().enumerate() {
            fresh.write(write.addr, &write.bytes);
            let info = fresh.info();
            assert_eq!(info["free"].as_u64(), Some(before.free_bytes()));
            reference::state(&fresh).check(info, &format!("turn {turn}, after {count}"));
        }
    }
}

fn shuffle(writes: &mut [Write], seed: u64) {
    let mut random = seed.wrapping_mul(2) + 1;
    for end in (1..writes.len()).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        writes.swap(end, (random >> 33) as usize % (end + 1));
    }
}

/// The original is started after a crash, overwrites the committed barriers, and is killed in its next commit, which
/// has the number of the one that was cut off.
#[test]
fn second_crash_after_a_restart() {
    let image = Scratch::image("populated");
    let first = commit(&image, &reference::state(&image), 2, Log::Append, large);
    let end = first.iter().position(|write| write.part == Part::FirstSuperblock).unwrap();
    for cut in [end, end - 3, end - 12, 3] {
        let image = Scratch::image("populated");
        write_all(&image, &first[..cut]);
        let before = reference::state(&image);
        let second = commit(&image, &before, 2, Log::Cut, small);
        cut_everywhere(&image, &second, |_| {});
    }
}

/// The same, and the logs are compressed before that commit.
#[test]
fn crash_in_a_compression_after_a_restart() {
    for name in ["populated", "killed-1"] {
        let image = Scratch::image(name);
        let writes = commit(&image, &reference::state(&image), 2, Log::CutAndCompress, small);
        cut_everywhere(&image, &writes, |_| {});
    }
}

fn write_all(image: &Scratch, writes: &[Write]) {
    for write in writes {
        image.write(write.addr, &write.bytes);
    }
    reference::state(image).check(image.info(), "after the first crash");
}

/// A volume that grows old: many commits of both kinds, each looked at.
#[test]
fn many_commits() {
    let image = Scratch::image("fresh-256M");
    for round in 0..12 {
        let log = if round % 5 == 4 { Log::Compress } else { Log::Append };
        let before = reference::state(&image);
        let change = |arena: usize| Change { allocate: 40 + 7 * arena, free: 60 * (round % 2), churn: 90 * arena };
        for write in commit(&image, &before, 2, log, change) {
            image.write(write.addr, &write.bytes);
        }
        reference::state(&image).check(image.info(), &format!("commit {round}"));
    }
}
