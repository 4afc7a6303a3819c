//! Crash states at 2 KiB blocks: every subset and every tear of every flush epoch of up to four writes, and of larger ones
//! every prefix, all single and pair losses, and every tear of a single write.
//!
//! The numbers of distinct images of what mount reads are asserted, so that the tests cannot shrink unnoticed.

use arenite_shim::explore::{Counts, Explorer, Options};
use arenite_shim::workload::{record, Config, Prelude};

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

/// Every so many distinct states, a second crash is enumerated.
const DEEP: Options = Options { deep_every: 101, ..DEFAULT };
const DEFAULT: Options = Options::DEFAULT;

fn seeds(count: u64, config: fn(u64) -> Config) -> impl Iterator<Item = Config> {
    (0..count).map(config)
}

#[test]
fn small_commits_one_sector_a_block() {
    let configs = seeds(8, Config::small).map(|config| Config { dense: 0, ..config });
    let counts = explore("small, sparse", DEEP, configs);
    assert!(counts.mount_images >= 5_000 && counts.exhaustive_epochs >= 2_000, "{counts}");
}

#[test]
fn small_commits_whole_blocks() {
    let counts = explore("small, dense", DEEP, seeds(2, Config::small));
    assert!(counts.images >= 300_000 && counts.exhaustive_epochs >= 1_500, "{counts}");
}

#[test]
fn several_arenas() {
    let counts = explore("arenas", DEEP, seeds(40, Config::arenas));
    assert!(counts.mount_images >= 60_000, "{counts}");
}

#[test]
fn overlapping_generations() {
    let counts = explore("overlap", DEEP, seeds(3, Config::large));
    assert!(counts.mount_images >= 15_000 && counts.most_writes >= 12, "{counts}");
}

#[test]
fn nearly_full() {
    let full = seeds(6, Config::full).map(|config| Config { dense: 0, ..config });
    let filled = seeds(6, Config::full).map(|config| Config { dense: 0, prelude: Prelude::Filled, ..config });
    let counts = explore("nearly full", DEEP, full.chain(filled));
    assert!(counts.mount_images >= 5_000, "{counts}");
}

#[test]
fn logs_of_several_blocks() {
    let counts = explore("long logs", DEEP, seeds(4, Config::long_logs));
    assert!(counts.mount_images >= 700, "{counts}");
}

#[test]
fn three_crashes_in_a_row() {
    let options = Options { deep_every: 61, max_crashes: 3, ..DEFAULT };
    let counts =
        explore("three crashes", options, seeds(2, |seed| Config { commits: 3, ..Config::arenas(100 + seed) }));
    assert!(counts.deep >= 50, "{counts}");
}

#[test]
fn crashes_of_the_kernel_before_that_of_the_power() {
    let counts = explore("restarts", DEEP, seeds(6, Config::restarts));
    assert!(counts.mount_images >= 5_000, "{counts}");
}

#[test]
fn superblocks_that_can_be_torn() {
    let counts = explore("many arenas", DEEP, seeds(3, Config::many_arenas));
    assert!(counts.mount_images >= 500, "{counts}");
}

#[test]
fn volumes_of_the_original() {
    let counts = explore("foreign", DEEP, seeds(6, Config::foreign));
    assert!(counts.mount_images >= 500, "{counts}");
}
