//! Failing devices and lost power: whatever fails, the catalogue is the old one or the new one, whole.

mod common;

use arenite_catalog::{Catalog, Error, FileReader, Kind};
use arenite_core::{DeviceError, Error as StoreError};
use arenite_shim::crash::{CrashSpace, Limits};
use arenite_shim::faulty::{Effect, Fault, Op};
use arenite_shim::record::Tape;
use arenite_shim::trace::Mark;
use common::{check, Disk, Rng};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

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
            let bytes = Rng::new(number).bytes(number as usize * 40);
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
    let mut rng = Rng::new(seed);
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

fn refuse(op: Op, index: u64) -> Vec<Fault> {
    vec![Fault { op, index, sticky: false, effect: Effect::Refuse(DeviceError::Io) }]
}

#[test]
fn a_failed_read_fails_one_change_and_leaves_nothing_behind() {
    let (disk, model) = prepared();
    let snapshot = disk.inner.snapshot();
    let mut failures = 0;
    for number in 0..80 {
        disk.over(&snapshot).mount_faulty(Vec::new(), |store, device| {
            let mut catalog = Catalog::open(store).unwrap();
            device.set_faults(refuse(Op::Read, device.calls(Op::Read) + number));
            failures += usize::from(one_failed_read(&mut catalog, model.clone(), number, || device.set_faults(vec![])));
        });
    }
    assert!(failures > 40, "{failures}");
}

fn one_failed_read(catalog: &mut Catalog<'_, '_, '_>, mut model: Model, seed: u64, repair: impl FnOnce()) -> bool {
    let mut failed = false;
    let mut lost = false;
    for change in changes(seed, 60) {
        match make(catalog, &change) {
            Ok(was_there) => assert_eq!(was_there, apply(&mut model, &change)),
            Err(Error::Unfreed { cause: StoreError::Device { .. } }) => {
                // The change is made; what lay under the block that could not be read is lost to the volume.
                lost = true;
                apply(&mut model, &change);
            }
            Err(Error::Store(StoreError::Device { .. })) => {
                failed = true;
                assert_eq!(make(catalog, &change), Ok(apply(&mut model, &change)));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(!(failed && lost), "there was one fault");
    repair();
    catalog.commit().unwrap();
    if !lost {
        check(catalog.store());
    }
    assert!(content(catalog) == model);
    failed
}

#[test]
fn after_a_failed_write_the_last_commit_stays() {
    let (disk, old) = prepared();
    let snapshot = disk.inner.snapshot();
    let mut failures = 0;
    for number in 0..100 {
        let disk = disk.over(&snapshot);
        let mut new = old.clone();
        let outcome = disk.mount_faulty(refuse(Op::Write, number), |store, _| {
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
            assert!(found == new || found == old && outcome.is_err());
        });
    }
    assert!(failures > 20, "{failures}");
}

#[test]
fn a_read_ahead_that_fails_is_made_good() {
    let mut disk = Disk::new(2048, 400, 1);
    disk.roomy = true;
    let bytes = Rng::new(4).bytes(2048 * 80);
    let content = disk.format(|store| {
        let mut catalog = Catalog::open(store).unwrap();
        catalog.put_bytes(b"f", Kind::File, 0, &bytes).unwrap();
        catalog.commit().unwrap();
        catalog.get(b"f").unwrap().unwrap().content
    });
    for index in 1..40 {
        disk.mount_faulty(Vec::new(), |store, device| {
            let mut reader = FileReader::new(store, content).with_read_ahead(8);
            assert!(reader.next_block().unwrap().is_some());
            let fault = device.calls(Op::Read) + index;
            device.set_faults(refuse(Op::Read, fault));
            let mut number = 1;
            while let Some(block) = reader.next_block().unwrap() {
                assert!(*block == bytes[number * 2048..][..2048]);
                number += 1;
            }
            assert_eq!(number, 80);
            assert!(device.calls(Op::Read) > fault);
        });
    }
}

/// Two commits, everything that happens at the device, and every crash that could follow: each shows a commit, whole,
/// the acknowledged one or the one under way, and its space is exact.
#[test]
fn any_crash_leaves_a_whole_catalogue() {
    let (disk, old) = prepared();
    let (tape, snapshot) = (Tape::new(), disk.inner.snapshot());
    let mut states = vec![old];
    disk.mount_recorded(&tape, |store| {
        let mut catalog = Catalog::open(store).unwrap();
        for number in 1..=2 {
            let mut model = states.last().unwrap().clone();
            for change in changes(1 + number as u64, 10) {
                assert_eq!(make(&mut catalog, &change), Ok(apply(&mut model, &change)));
            }
            states.push(model);
            tape.mark(Mark::Begun(number));
            catalog.commit().unwrap();
            tape.mark(Mark::Acknowledged(number));
        }
    });
    let limits = Limits { exhaustive_writes: 3, exhaustive_states: 600, samples: 300, ..Limits::DEFAULT };
    let (mut seen, mut images) = ([0; 3], 0);
    for epoch in tape.trace(Arc::clone(&snapshot)).epochs(0) {
        let space = CrashSpace::new(&epoch, limits);
        let mut count = 0;
        let _ = space.visit(1, |_, _| {
            count += 1;
            ControlFlow::Continue(())
        });
        // Epochs with many writes have thousands of states: some hundreds of them, evenly.
        let (stride, mut number) = (count / 500 + 1, 0);
        let _ = space.visit(1, |_, choice| {
            number += 1;
            if number % stride != 0 {
                return ControlFlow::Continue(());
            }
            let crashed = disk.over(&snapshot);
            space.apply(choice, &crashed.inner).unwrap();
            let found = crashed.mount(|store| {
                check(store);
                let found = content(&Catalog::open(store).unwrap());
                states.iter().position(|state| *state == found).expect("a state that never was")
            });
            assert!((epoch.acknowledged..=epoch.begun).contains(&found), "{found} in epoch {}", epoch.index);
            seen[found] += 1;
            images += 1;
            ControlFlow::Continue(())
        });
    }
    assert!(images > 1000 && seen.iter().all(|count| *count >= 5), "{seen:?}");
}
