//! What a volume that the original wrote last cannot tell, and that it is the only thing.

use arenite_shim::config::{Config, Prelude};
use arenite_shim::corrupt_bare::examine;
use arenite_shim::workload::record;

#[test]
fn only_a_stale_log_of_the_original_goes_unnoticed_and_only_until_our_first_commit_there() {
    let config = Config { lives: 1, settle: 100, hold: 0, commits: 6, prelude: Prelude::Foreign, ..Config::foreign(2) };
    let tally = examine(&record(&config).unwrap()).unwrap();
    println!("{tally:?}");
    assert!(tally.unnoticed >= 4 && tally.untouched >= 1 && tally.noticed >= 4 && tally.others >= 100, "{tally:?}");
}
