//! Failing devices and lost power: whatever fails, the catalogue is the old one or the new one, whole.

mod common;

use arenite_catalog::{Catalog, Error, FileReader, Kind};
use arenite_core::{Error as StoreError, Store};
use common::{check, Disk, Fault, Rng};
use std::collections::BTreeMap;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn name(number: u64) -> Vec<u8> {
    format!("/home/{:03}/some-file-with-a-name-{number}", number * 37 % 101).into_bytes()
}

/// A volume with two hundred files, and what is in it.
fn prepared() -> (Disk, Model) {
    let disk = Disk::new(2048, 1400, 2);
    let mut model = Model::new();
    disk.format(|store| {
        let mut catalog = Catalog::open(store).unwrap();
        for number in 0..200 {
            let bytes = Rng(number).bytes(number as usize * 40);
            catalog.put_bytes(&name(number), Kind::File, 0, &bytes).unwrap();
            model.insert(name(number), bytes);
        }
        catalog.commit().unwrap();
    });
    (disk, model)
}

fn content(catalog: &Catalog<'_, '_, '_>) -> Model {
    let read = |item: Result<arenite_catalog::Item<'_>, Error>| {
        let item = item.unwrap();
        let mut bytes = vec![0; item.entry().content.size_bytes() as usize];
        assert_eq!(catalog.reader(&item.entry()).read_at(0, &mut bytes), Ok(bytes.len()));
        (item.path().to_vec(), bytes)
    };
    catalog.iter().map(read).collect()
}

/// One change; `None` removes.
type Change = (Vec<u8>, Option<Vec<u8>>);

fn changes(seed: u64, count: usize) -> Vec<Change> {
    let mut rng = Rng(seed);
    let one = |_| {
        let path = name(rng.below(250));
        let len = rng.below(7000) as usize;
        (path, (rng.below(3) > 0).then(|| rng.bytes(len)))
    };
    (0..count).map(one).collect()
}

fn apply(model: &mut Model, (path, bytes): &Change) -> bool {
    match bytes {
        Some(bytes) => model.insert(path.clone(), bytes.clone()).is_some(),
        None => model.remove(path).is_some(),
    }
}

fn make(catalog: &mut Catalog<'_, '_, '_>, (path, bytes): &Change) -> Result<bool, Error> {
    match bytes {
        Some(bytes) => catalog.put_bytes(path, Kind::File, 0, bytes),
        None => catalog.remove(path),
    }
}

#[test]
fn a_failed_read_fails_one_change_and_leaves_nothing_behind() {
    let (disk, model) = prepared();
    let mut failures = 0;
    for fuse in 0..80 {
        let disk = disk.copy(Fault::ReadError, fuse + 20);
        disk.mount(|store| failures += usize::from(one_failed_read(store, &disk, model.clone(), fuse as u64)));
    }
    assert!(failures > 40, "{failures}");
}

fn one_failed_read(store: &Store<'_, '_>, disk: &Disk, mut model: Model, seed: u64) -> bool {
    let Ok(mut catalog) = Catalog::open(store) else { return false };
    let mut failed = false;
    let mut lost = false;
    for change in changes(seed, 60) {
        match make(&mut catalog, &change) {
            Ok(was_there) => assert_eq!(was_there, apply(&mut model, &change)),
            Err(Error::Unfreed { cause: StoreError::Device { .. } }) => {
                // The change is made; what lay under the block that could not be read is lost to the volume.
                lost = true;
                apply(&mut model, &change);
            }
            Err(Error::Store(StoreError::Device { .. })) => {
                failed = true;
                assert_eq!(make(&mut catalog, &change), Ok(apply(&mut model, &change)));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(!(failed && lost), "there was one fault");
    disk.defuse();
    catalog.commit().unwrap();
    if !lost {
        check(store);
    }
    assert!(content(&catalog) == model);
    failed
}

#[test]
fn after_a_failed_write_the_last_commit_stays() {
    let (disk, old) = prepared();
    let mut failures = 0;
    for fuse in 0..100 {
        let disk = disk.copy(Fault::WriteError, fuse);
        let mut new = old.clone();
        let outcome = disk.mount(|store| {
            let mut catalog = Catalog::open(store)?;
            for change in changes(1, 15) {
                make(&mut catalog, &change)?;
                apply(&mut new, &change);
            }
            catalog.commit()
        });
        failures += u32::from(outcome.is_err());
        disk.mount(|store| {
            check(store);
            let found = content(&Catalog::open(store).unwrap());
            assert!(found == new && outcome.is_ok() || found == old || found == new && outcome.is_err());
        });
    }
    assert!(failures > 20, "{failures}");
}

/// Power is lost after each block that is written, in a session with two commits.
#[test]
fn power_loss_at_any_block_leaves_a_whole_catalogue() {
    let (disk, old) = prepared();
    let (first, second) = (changes(2, 12), changes(3, 12));
    let mut states = vec![old];
    for part in [&first, &second] {
        let mut model = states.last().unwrap().clone();
        for change in part {
            apply(&mut model, change);
        }
        states.push(model);
    }
    let mut seen = [0; 3];
    for fuse in 0.. {
        let disk = disk.copy(Fault::PowerLoss, fuse);
        let acknowledged = disk.mount(|store| session(store, &disk, &[&first, &second]));
        let found = disk.mount(|store| {
            check(store);
            let found = content(&Catalog::open(store).unwrap());
            states.iter().position(|state| *state == found).expect("no state that ever was")
        });
        assert!(found == acknowledged || found == acknowledged + 1, "{acknowledged} acknowledged, {found} found");
        seen[found] += 1;
        if disk.is_sound() {
            break;
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

/// Makes changes and commits after each part, until the power is gone; returns the commits that were acknowledged.
fn session(store: &Store<'_, '_>, disk: &Disk, parts: &[&[Change]]) -> usize {
    let mut catalog = Catalog::open(store).unwrap();
    for (number, part) in parts.iter().enumerate() {
        for change in *part {
            if let Err(error) = make(&mut catalog, change) {
                assert!(!disk.is_sound(), "{error}");
                return number;
            }
        }
        catalog.commit().unwrap();
        if !disk.is_sound() {
            return number;
        }
    }
    parts.len()
}

#[test]
fn a_read_ahead_that_fails_is_made_good() {
    let disk = Disk::new(2048, 400, 1);
    let bytes = Rng(4).bytes(2048 * 80);
    let content = disk.format(|store| {
        let mut catalog = Catalog::open(store).unwrap();
        catalog.put_bytes(b"f", Kind::File, 0, &bytes).unwrap();
        catalog.commit().unwrap();
        catalog.get(b"f").unwrap().unwrap().content
    });
    for fuse in 1..40 {
        let mut disk = disk.copy(Fault::ReadError, i64::MAX);
        disk.roomy = true;
        disk.mount(|store| {
            let mut reader = FileReader::new(store, content).with_read_ahead(8);
            assert!(reader.next_block().unwrap().is_some());
            disk.fuse.store(fuse, std::sync::atomic::Ordering::Relaxed);
            let mut number = 1;
            while let Some(block) = reader.next_block().unwrap() {
                assert!(*block == bytes[number * 2048..][..2048]);
                number += 1;
            }
            assert_eq!(number, 80);
            assert!(!disk.is_sound());
        });
    }
}
