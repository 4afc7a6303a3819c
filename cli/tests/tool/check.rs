//! `arenite check`.

use crate::scratch::{run, Scratch, BLOCK_LEN};
use crate::structures::{catalog, commit, data, leaf, pivot, raw, volume, with_store};
use arenite_catalog::{Catalog, Kind};
use arenite_core::format::{BlockSize, Leaf, Pivot, RawPtr};
use arenite_core::BlockPtr;
use arenite_shim::{FileDevice, FileOptions};
use serde_json::{json, Value};

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(*bytes[at..].first_chunk().unwrap())
}

/// Addresses of one block of each kind in the newest snapshot of `populated`.
struct Places {
    snapshots: u64,
    pivot: u64,
    leaf: u64,
    data: BlockPtr,
}

fn places(image: &Scratch) -> Places {
    let size = BlockSize::ORIGINAL;
    let snapshots = image.info()["root"]["addr"].as_u64().unwrap();
    let block = image.read(snapshots);
    let tree = Leaf::parse(&block, size).unwrap();
    let (_, newest) = tree.iter().filter(|(key, _)| key[0] == 4).last().unwrap();
    let pivot_addr = be64(newest, 48);
    let block = image.read(pivot_addr);
    let pivot = Pivot::parse(&block, size).unwrap();
    let leaf_addr = pivot.child(0).unwrap().ptr.addr;
    let block = image.read(leaf_addr);
    let leaf = Leaf::parse(&block, size).unwrap();
    let waits = |key: &[u8]| pivot.message(pivot.first_message(key)).is_some_and(|message| message.key == key);
    let (_, value) = leaf.iter().find(|(key, _)| key[0] == 0 && !waits(key)).unwrap();
    let ptr = RawPtr::decode(value, 0).unwrap();
    let data = BlockPtr { addr: ptr.addr, hash: ptr.hash, gen: ptr.gen };
    Places { snapshots, pivot: pivot_addr, leaf: leaf_addr, data }
}

fn summary(report: &Value) -> [Value; 4] {
    ["tree", "snapshots", "nodes", "data"].map(|key| report[key].clone())
}

#[test]
fn volumes_of_the_original_are_clean() {
    for (name, want, blocks) in [
        ("fresh-256M", json!(["gefs", 3, 3, 1]), json!([16332, 4, 0, 0, 0])),
        ("populated", json!(["gefs", 3, 39, 3745]), json!([12487, 3784, 0, 21, 44])),
        ("killed-1", json!(["gefs", 5, 28, 1862]), json!([14266, 1908, 0, 125, 37])),
    ] {
        let image = Scratch::image(name);
        let report = image.check(0);
        assert_eq!(json!(summary(&report)), want, "{name}");
        let keys = ["free", "reachable", "dead", "replaced", "unreachable"];
        assert_eq!(json!(keys.map(|key| report["blocks"][key].clone())), blocks, "{name}");
        let total: u64 = report["blocks"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(report["blocks"]["total"], total / 2);
        assert_eq!((&report["complete"], &report["sealed"]), (&json!(true), &json!(false)));
        assert_eq!(report["superblocks"], json!(["ok", "ok"]));
        let notes = report["notes"].as_array().unwrap();
        assert_eq!(notes.len(), usize::from(blocks[4] != 0), "{notes:?}");
    }
}

#[test]
fn nothing_is_written() {
    let image = volume("2M", "4096");
    catalog(&image, 5);
    image.flip(100);
    let before = image.fingerprint();
    image.check(0);
    assert_eq!(image.fingerprint(), before);
}

#[test]
fn bad_copies_are_notes() {
    let image = Scratch::image("populated");
    let want = image.check(0);
    let arena = be64(&image.read(0), 104 + 16 * 3);
    for (addr, words) in [
        (100, "first superblock: hash"),
        (image.second() + 100, "second superblock: hash"),
        (arena + 20, "arena 3 at 0x5ff8000: first header"),
        (arena + BLOCK_LEN + 9000, "arena 3 at 0x5ff8000: second header"),
    ] {
        image.flip(addr);
        let report = image.check(0);
        image.flip(addr);
        let notes: Vec<_> = report["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
        assert!(notes.iter().any(|note| note.starts_with(words)), "{notes:?}");
        assert_eq!((summary(&report), &report["blocks"]), (summary(&want), &want["blocks"]));
    }
    assert_eq!(image.check(0), want);
}

#[test]
fn damage_is_found_where_it_is() {
    let image = Scratch::image("populated");
    let places = places(&image);
    for (addr, what) in
        [(places.data.addr, "hash"), (places.leaf, "hash"), (places.pivot, "hash"), (places.snapshots, "hash")]
    {
        for at in [0, 1, 77, 16383] {
            image.flip(addr + at);
            image.check_finds(addr, what);
            image.flip(addr + at);
        }
    }
    image.check(0);
}

#[test]
fn several_findings_are_all_reported() {
    let image = Scratch::image("populated");
    let places = places(&image);
    let log = image.info()["arenas"][5]["addr"].as_u64().unwrap();
    let log = be64(&image.read(log), 2);
    let mut want = vec![places.data.addr, places.leaf, log];
    image.flip(places.leaf + 5);
    image.flip(places.data.addr + 5);
    image.flip(log + 50);
    let report = image.check(1);
    let found = |addr: &u64| report["findings"].as_array().unwrap().iter().any(|finding| finding["addr"] == *addr);
    // The data hangs from the leaf that is damaged.
    want.remove(0);
    assert!(want.iter().all(found), "{report:#}");
    image.flip(places.leaf + 5);
    let report = image.check(1);
    let found: Vec<_> = report["findings"].as_array().unwrap().iter().map(|finding| finding["addr"].clone()).collect();
    let mut want = [places.data.addr, log];
    want.sort_unstable();
    assert_eq!(json!(found), json!(want));
    assert_eq!(report["damaged_arenas"], 1);
}

#[test]
fn damaged_logs_and_headers() {
    let image = Scratch::image("populated");
    let want = image.check(0);
    let arena = be64(&image.read(0), 104 + 16 * 2);
    let log = be64(&image.read(arena), 2);
    for at in [0, 3, 4, 40] {
        image.flip(log + at);
        let report = image.check_finds(log, "");
        assert_eq!(summary(&report), summary(&want), "the rest is checked nevertheless");
        assert_eq!((&report["damaged_arenas"], &report["complete"]), (&json!(1), &json!(false)));
        image.flip(log + at);
    }
    image.flip(arena + 30);
    image.flip(arena + BLOCK_LEN + 31);
    let report = image.check_finds(arena, "no copy of the arena header");
    assert_eq!(summary(&report), summary(&want));
}

/// Seals notice what the bare format does not: an old log block, whole in itself, in the place of a new one.
#[test]
fn stale_log_of_a_sealed_volume() {
    let image = volume("64M", "16384");
    let log_of = |image: &Scratch| be64(&image.read(image.info()["arenas"][0]["addr"].as_u64().unwrap()), 2);
    let old = image.read(log_of(&image));
    with_store(&image, |store| commit(store, data(store, 1), 1));
    let log = log_of(&image);
    assert_eq!(image.check(0)["sealed"], true);
    image.write(log, &old);
    image.check_finds(log, "log");
}

#[test]
fn no_volume_at_all() {
    let image = Scratch::image("fresh-256M");
    image.flip(100);
    image.flip(image.second() + 100);
    let blank = Scratch::blank(1 << 20);
    for (path, words) in [
        (image.name(), "not a volume (first superblock: hash"),
        (blank.name(), "not a volume ("),
        ("/nonexistent/image", "No such file"),
        ("/dev/null", "neither a regular file nor a block device"),
        (env!("CARGO_TARGET_TMPDIR"), "a directory"),
    ] {
        for arguments in [&["check", path][..], &["check", "--json", path]] {
            let (code, out, complaint) = run(arguments);
            assert_eq!((code, out.as_str()), (2, ""), "{path}");
            assert!(complaint.starts_with(&format!("arenite: {path}: ")) && complaint.contains(words), "{complaint}");
            assert_eq!(complaint.lines().count(), 1);
        }
    }
    let empty = Scratch::blank(0);
    assert_eq!(empty.run(&["check"]).0, 2);
}

#[test]
fn cut_short() {
    let image = Scratch::image("populated");
    image.set_len(200 << 20);
    let report = image.check(1);
    assert!(!report["findings"].as_array().unwrap().is_empty());
}

#[test]
fn not_while_somebody_writes() {
    let image = volume("1M", "4096");
    let device = FileDevice::open(&image.path, FileOptions::default()).unwrap();
    let (code, _, complaint) = image.run(&["check"]);
    assert_eq!(code, 2);
    assert!(complaint.contains("in use"), "{complaint}");
    drop(device);
    let _reader = FileDevice::open(&image.path, FileOptions { read_only: true, ..FileOptions::default() }).unwrap();
    image.check(0);
}

/// A block of a file of the original is freed under its feet.
#[test]
fn reachable_but_free() {
    let image = Scratch::image("populated");
    let places = places(&image);
    with_store(&image, |store| {
        store.free(places.data).unwrap();
        store.commit(store.roots()).unwrap();
    });
    image.check_finds(places.data.addr, "reachable, but free");
}

/// Such a volume can be mounted for reading only; the rest is checked nevertheless.
#[test]
fn root_that_is_free() {
    let image = Scratch::image("populated");
    let want = image.check(0);
    let root = with_store(&image, |store| {
        let root = store.roots().root_ptr().unwrap();
        store.free(root).unwrap();
        store.commit(store.roots()).unwrap();
        root
    });
    let report = image.check(1);
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().all(|finding| finding["addr"] == root.addr), "{report:#}");
    let says = |words: &str| findings.iter().any(|finding| finding["what"] == words);
    assert!(says("the superblock points to a block that is not in use") && says("reachable, but free"), "{report:#}");
    assert_eq!(summary(&report), summary(&want));
}

#[test]
fn catalogues() {
    for block_size in ["2048", "16384", "65536"] {
        let image = volume("32M", block_size);
        catalog(&image, 40);
        let report = image.check(0);
        assert_eq!((&report["tree"], &report["complete"]), (&json!("catalog"), &json!(true)));
        assert!(report["nodes"].as_u64().unwrap() > 0 && report["data"] == 40 * 4, "{report:#}");
        let first = with_store(&image, |store| {
            let catalog = Catalog::open(store).unwrap();
            let entry = catalog.get(b"/7").unwrap().unwrap();
            let addr = catalog.reader(&entry).next_block().unwrap().unwrap().ptr();
            addr
        });
        image.flip(first.addr + 9);
        image.check_finds(first.addr, "hash");
        image.flip(first.addr + 9);
        // Lost: in use, and nothing leads to it.
        let lost = with_store(&image, |store| {
            let lost = data(store, 7);
            store.commit(store.roots()).unwrap();
            lost
        });
        let report = image.check_finds(lost.addr, "in use, but unreachable (1 blocks");
        assert_eq!(report["blocks"]["unreachable"], 1);
        with_store(&image, |store| {
            store.free(lost).unwrap();
            store.free(first).unwrap();
            store.commit(store.roots()).unwrap();
        });
        image.check_finds(first.addr, "reachable, but free");
    }
}

#[test]
fn catalogue_that_reaches_blocks_twice() {
    let image = volume("8M", "4096");
    catalog(&image, 3);
    let blocks = with_store(&image, |store| {
        let mut catalog = Catalog::open(store).unwrap();
        let entry = catalog.get(b"/1").unwrap().unwrap();
        assert_eq!(entry.kind, Kind::File);
        catalog.put(b"/again", &entry).unwrap();
        catalog.commit().unwrap();
        entry.content.all_blocks(store.block_size())
    });
    let report = image.check(1);
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len() as u64, blocks, "{report:#}");
    assert!(findings.iter().all(|finding| finding["what"] == "reachable twice in one tree"), "{report:#}");
}

#[test]
fn trees_that_are_not_known() {
    let image = volume("8M", "4096");
    let root = with_store(&image, |store| {
        let root = data(store, 3);
        commit(store, root, 1);
        root
    });
    let report = image.check(0);
    assert_eq!((&report["tree"], &report["complete"]), (&json!("not walked"), &json!(false)));
    let (_, text, _) = image.run(&["check"]);
    assert!(text.contains("note: tree: not walked beyond pivots"), "{text}");
    image.flip(root.addr);
    image.check_finds(root.addr, "hash");
    // Pivots are followed.
    let leaves = with_store(&image, |store| {
        let leaves = [1, 2].map(|number| leaf(store, &[(vec![number; 3], b"something".to_vec())]));
        let root = pivot(store, &[(vec![1], leaves[0]), (vec![2], leaves[1])], &[]);
        commit(store, root, 2);
        leaves
    });
    assert_eq!(image.check(0)["nodes"], 3);
    image.flip(leaves[1].addr + 4000);
    image.check_finds(leaves[1].addr, "hash");
}

/// Height and fields of a snapshot, as in the table in the module that walks them.
fn snapshot(labels: u32, height: u32, root: BlockPtr) -> Vec<u8> {
    let mut value = vec![0; 48];
    value[4..8].copy_from_slice(&labels.to_be_bytes());
    value[8..12].copy_from_slice(&height.to_be_bytes());
    value.extend(raw(root));
    value
}

fn snapshot_key(number: u64) -> Vec<u8> {
    [&[4][..], &number.to_be_bytes()].concat()
}

fn label(name: &str, number: u64) -> (Vec<u8>, Vec<u8>) {
    ([&[3], name.as_bytes()].concat(), [&snapshot_key(number)[..], &[0; 4]].concat())
}

fn data_key(offset: u64) -> Vec<u8> {
    [&[0][..], &9_u64.to_be_bytes(), &offset.to_be_bytes()].concat()
}

/// Two levels of each kind of tree, with messages of all kinds in both.
#[test]
fn messages_hide_what_is_below() {
    let image = volume("8M", "4096");
    let blocks = with_store(&image, |store| {
        let blocks: Vec<_> = (0..6).map(|byte| data(store, byte)).collect();
        let items: Vec<_> = (0..4).map(|at| (data_key(at as u64), raw(blocks[at]))).collect();
        let below = leaf(store, &items);
        let messages = [
            (1, data_key(0), raw(blocks[4])),
            (3, data_key(1), vec![]),
            (1, data_key(2), raw(blocks[3])),
            (1, data_key(2), raw(blocks[5])),
        ];
        let tree = pivot(store, &[(vec![], below)], &messages);
        let old = leaf(store, &[(data_key(0), raw(blocks[0]))]);
        let first = leaf(store, &[label("main", 1), (snapshot_key(1), snapshot(1, 1, old))]);
        let messages = [(1, snapshot_key(1), snapshot(1, 2, tree)), (2, snapshot_key(2), vec![])];
        let second = leaf(store, &[(snapshot_key(2), snapshot(1, 1, old))]);
        let root = pivot(store, &[(vec![], first), (snapshot_key(2), second)], &messages);
        commit(store, root, 2);
        blocks
    });
    // Blocks 0, 1 and 2 were replaced; the message that put block 3 there was itself, but block 3 has a place besides.
    let report = image.check(0);
    assert_eq!(json!(summary(&report)), json!(["gefs", 1, 5, 3]), "{report:#}");
    assert_eq!((&report["blocks"]["replaced"], &report["complete"]), (&json!(3), &json!(true)));
    // The leaf that only hidden snapshots had is lost.
    assert_eq!(report["blocks"]["unreachable"], 1);
    image.flip(blocks[1].addr);
    image.check(0);
    image.flip(blocks[5].addr);
    image.check_finds(blocks[5].addr, "hash");
}

#[test]
fn what_is_not_understood_is_said() {
    let image = volume("8M", "4096");
    let write = |labels, op| {
        with_store(&image, |store| {
            let tree = leaf(store, &[(data_key(0), raw(data(store, 1)))]);
            let first = leaf(store, &[label("main", 1), (snapshot_key(1), snapshot(labels, 1, tree))]);
            let root = pivot(store, &[(vec![], first)], &[(op, snapshot_key(2), vec![])]);
            commit(store, root, 2);
        });
        image.check(0)
    };
    assert_eq!(write(1, 2)["complete"], true);
    for (labels, op) in [(1, 6), (0, 2)] {
        let report = write(labels, op);
        assert_eq!((&report["complete"], &report["blocks"]["unreachable"]), (&json!(false), &json!(0)));
        let note = report["notes"][0].as_str().unwrap();
        assert!(note.starts_with("tree: not walked to the end"), "{note}");
    }
}

/// Pivots that lead to each other in ever more ways are gone through once.
#[test]
fn circles_and_bundles_end() {
    let image = volume("8M", "4096");
    with_store(&image, |store| {
        let mut child = leaf(store, &[(data_key(0), raw(data(store, 1)))]);
        for _ in 0..30 {
            child = pivot(store, &[(vec![0], child), (vec![1], child), (vec![2], child)], &[]);
        }
        let first = leaf(store, &[label("main", 1), (snapshot_key(1), snapshot(1, 31, child))]);
        commit(store, first, 1);
    });
    let report = image.check(1);
    assert_eq!(report["findings"].as_array().unwrap().len(), 60, "{report:#}");
    assert_eq!(report["findings"][0]["what"], "reachable twice in one tree");
}
