//! Crash states at 2 KiB blocks: every subset and every tear of every flush epoch of up to four writes, and of larger
//! ones every prefix, all single and pair losses, and every tear of a single write.
//!
//! A quick form: a seed or two of each configuration. `cargo crash` takes hundreds of them. The numbers of distinct
//! images of what mount reads are asserted, so that the tests cannot shrink unnoticed.

use arenite_core::format::BlockSize;
use arenite_core::{Error, FormatOptions, MountOptions, Roots, Store};
use arenite_shim::check::check_volume;
use arenite_shim::client::{Client, Slots};
use arenite_shim::crash::{CrashSpace, Limits};
use arenite_shim::explore::{Counts, Explorer, Options};
use arenite_shim::mem::{MemDevice, MemOptions};
use arenite_shim::memory_box::{boxed_memory, renew_memory, SmallMemory};
use arenite_shim::platform::ImpatientPlatform;
use arenite_shim::record::{Recorder, Tape};
use arenite_shim::tree::Recording;
use arenite_shim::workload::{record, Config, Prelude};
use arenite_shim::Disk;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Explores the runs of these configurations; no state may fail.
fn explore(name: &str, options: Options, configs: impl IntoIterator<Item = Config>) -> Counts {
    let mut explorer = Explorer::new(options);
    for config in configs {
        let recording = record(&config).unwrap_or_else(|error| panic!("{name}, {config:?}: {error:?}"));
        explorer.explore(&recording);
        assert!(explorer.failures().is_empty(), "{name}, {config:?}: {:#?}", explorer.failures());
    }
    println!("{name}: {}", explorer.counts());
    explorer.counts()
}

/// Every so many further commits, the crash states of one are enumerated too.
const DEEP: Options = Options { deep_every: 5, ..DEFAULT };
const DEFAULT: Options = Options::DEFAULT;

fn seeds(count: u64, config: fn(u64) -> Config) -> impl Iterator<Item = Config> {
    (0..count).map(config)
}

#[test]
fn small_commits_one_sector_a_block() {
    let configs = seeds(3, Config::small).map(|config| Config { dense: 0, ..config });
    let counts = explore("small, sparse", DEEP, configs);
    assert!(counts.mount_images >= 150 && counts.exhaustive_epochs >= 80, "{counts}");
}

#[test]
fn small_commits_whole_blocks() {
    let counts = explore("small, dense", DEEP, seeds(2, Config::small));
    assert!(counts.states >= 10_000 && counts.exhaustive_epochs >= 50, "{counts}");
}

#[test]
fn several_arenas() {
    let counts = explore("arenas", DEEP, seeds(5, Config::arenas));
    assert!(counts.mount_images >= 1_000, "{counts}");
}

#[test]
fn overlapping_generations() {
    let counts = explore("overlap", DEEP, seeds(1, Config::large));
    assert!(counts.mount_images >= 200 && counts.most_writes >= 12, "{counts}");
}

#[test]
fn nearly_full() {
    let full = seeds(1, Config::full).map(|config| Config { dense: 0, ..config });
    let filled = seeds(1, Config::full).map(|config| Config { dense: 0, prelude: Prelude::Filled, ..config });
    let counts = explore("nearly full", DEEP, full.chain(filled));
    assert!(counts.mount_images >= 200, "{counts}");
}

#[test]
fn logs_of_several_blocks() {
    let counts = explore("long logs", DEEP, seeds(1, Config::long_logs));
    assert!(counts.mount_images >= 30, "{counts}");
}

#[test]
fn three_crashes_in_a_row() {
    let options = Options { deep_every: 5, max_crashes: 3, ..DEFAULT };
    let counts =
        explore("three crashes", options, seeds(1, |seed| Config { commits: 3, ..Config::arenas(1000 + seed) }));
    assert!(counts.deep >= 5, "{counts}");
}

#[test]
fn crashes_of_the_kernel_before_that_of_the_power() {
    let reordered = seeds(1, Config::restarts).map(|config| Config { reorder: true, overlap: 50, ..config });
    let counts = explore("restarts", DEEP, seeds(2, Config::restarts).chain(reordered));
    assert!(counts.mount_images >= 200, "{counts}");
}

#[test]
fn superblocks_that_can_be_torn() {
    let counts = explore("many arenas", DEEP, seeds(1, Config::many_arenas));
    assert!(counts.mount_images >= 50, "{counts}");
}

#[test]
fn volumes_of_the_original() {
    let counts = explore("foreign", DEEP, seeds(2, Config::foreign));
    assert!(counts.mount_images >= 50, "{counts}");
}

#[test]
fn discards() {
    let counts = explore("discards", DEEP, seeds(2, Config::discards));
    assert!(counts.mount_images >= 100, "{counts}");
}

#[test]
fn growing() {
    let counts = explore("growing", DEEP, seeds(2, Config::growing));
    assert!(counts.mount_images >= 100, "{counts}");
}

/// Growing is the first commit that gets through on a volume of the original.
#[test]
fn growing_a_volume_of_the_original() {
    let config = |seed| {
        let growing = Config { arenas: 2, commits: 1, restart: 60, ..Config::growing(seed) };
        Config { prelude: Prelude::Foreign, ..growing }
    };
    let counts = explore("growing, foreign", DEEP, seeds(12, config));
    assert!(counts.mount_images >= 100, "{counts}");
}

#[test]
fn a_cut_off_format_leaves_the_old_volume_or_the_new_one_or_none() {
    let old = record(&Config { lives: 1, ..Config::arenas(9) }).unwrap();
    let base = Arc::clone(&old.trace.epochs(0).last().unwrap().base);
    let tape = Tape::new();
    {
        let memory: Box<SmallMemory> = boxed_memory();
        let device = MemDevice::new(Arc::new(Disk::over(Arc::clone(&base))), MemOptions::default());
        let device = Recorder::new(device, Arc::clone(&tape));
        let options = FormatOptions { block_size: BlockSize::MIN, arenas: 2, force: true };
        Store::format(memory.take().unwrap(), &device, &ImpatientPlatform, options).unwrap().unmount().unwrap();
    }
    let mut seen = [0u64; 3];
    let epochs = tape.trace(base).epochs(0);
    let last = epochs.len() - 1;
    for epoch in &epochs {
        let space = CrashSpace::new(epoch, Limits::DEFAULT);
        let disk = Arc::new(Disk::over(Arc::clone(&epoch.base)));
        let _ = space.visit(1, |_, choice| {
            space.apply(choice, &disk).unwrap();
            let found = what_is_there(&disk, &old);
            assert!(epoch.index < last || found == 2, "a format that was done, and {found} shows");
            seen[found] += 1;
            ControlFlow::Continue(())
        });
    }
    println!("{} show nothing, {} the old volume, {} the new one", seen[0], seen[1], seen[2]);
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

/// What a mount shows after a format that was cut off: nothing (0), the old volume whole (1), or a new one (2). In
/// every case another format must work.
fn what_is_there(disk: &Arc<Disk>, old: &Recording<Slots>) -> usize {
    let mut memory: Box<SmallMemory> = boxed_memory();
    let found = {
        let device = MemDevice::new(Arc::clone(disk), MemOptions::default());
        let mounted = Store::mount(memory.take().unwrap(), &device, &ImpatientPlatform, MountOptions::default());
        match mounted {
            Err(failed) => {
                // Damaged, if the old volume lost its headers before its superblocks.
                assert!(matches!(failed.error, Error::NotAVolume { .. } | Error::Corrupt { .. }), "{}", failed.error);
                0
            }
            Ok(store) if store.roots() == Roots::EMPTY => {
                assert!(check_volume(&**disk, Some(&store), []).unwrap().is_clean());
                2
            }
            Ok(store) => {
                let snapshot = old.model.last().unwrap();
                let client = Client::load(&store, snapshot.content.len(), old.shape.levels).unwrap();
                assert_eq!(client.versions(), snapshot.content);
                assert!(check_volume(&**disk, Some(&store), client.addresses()).unwrap().is_clean());
                1
            }
        }
    };
    renew_memory(&mut memory);
    let device = MemDevice::new(Arc::clone(disk), MemOptions::default());
    let options = FormatOptions { block_size: BlockSize::MIN, arenas: 3, force: true };
    let store = Store::format(memory.take().unwrap(), &device, &ImpatientPlatform, options).unwrap();
    assert_eq!(store.roots(), Roots::EMPTY);
    store.unmount().unwrap();
    found
}
