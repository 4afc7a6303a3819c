//! The chosen protocol: no crash state of any scenario is bad. Each test also asserts how many states it saw at
//! least, so that it cannot shrink unnoticed.

use arenite_model::explore::{explore, Report};
use arenite_model::protocol::Protocol;
use arenite_model::scenario::Scenario;
use arenite_model::suite;

/// Explores with the chosen protocol; no failures, and at least `states` crash states, `distinct` of them distinct.
fn good(scenario: &Scenario, states: u64, distinct: u64) -> Report {
    let report = explore(Protocol::CHOSEN, scenario);
    println!("model: {}: {report}", scenario.name);
    assert_eq!(report.failed(), 0, "{}: {report}", scenario.name);
    assert!(report.states >= states && report.distinct >= distinct, "{}: shrunk: {report}", scenario.name);
    report
}

/// The same, with a further crash in the recovery from each crash in a recovery.
fn good_deeper(mut scenario: Scenario, states: u64, distinct: u64) {
    scenario.depth += 1;
    good(&scenario, states, distinct);
}

#[test]
fn one_block_logs() {
    good_deeper(suite::short(), 10_000_000, 200_000);
}

#[test]
fn one_block_logs_of_arenas_that_stay_clean() {
    good_deeper(suite::short_clean_arenas(), 3_000_000, 50_000);
}

#[test]
fn one_block_logs_torn_between_their_sectors() {
    good_deeper(suite::short_torn_log(), 10_000_000, 170_000);
}

#[test]
fn appended_logs() {
    good(&suite::append(), 7_000_000, 250_000);
}

#[test]
fn appended_logs_of_arenas_that_stay_clean() {
    good_deeper(suite::append_clean_arenas(), 29_000_000, 110_000);
}

#[test]
fn append_undone_and_its_block_reused_before_any_repair() {
    good(&suite::append_undone(), 28_000_000, 1_600_000);
}

#[test]
fn appended_and_compressed_logs() {
    good(&suite::append_compress(), 13_000_000, 89_000);
}

#[test]
fn rewritten_logs_of_several_blocks() {
    good(&suite::rewrite(), 4_000_000, 280_000);
    good(&suite::rewrite_spare(), 750_000, 34_000);
}

#[test]
fn rewritten_logs_that_are_appended_to() {
    good_deeper(suite::rewrite_append(), 660_000, 24_000);
}

#[test]
fn superblocks_of_two_sectors() {
    good_deeper(suite::wide(), 2_500_000, 40_000);
}

#[test]
fn blocks_freed_and_reused_with_a_commit_in_flight() {
    good_deeper(suite::in_flight(), 8_000_000, 230_000);
}

#[test]
fn blocks_freed_before_their_write_is_issued() {
    good_deeper(suite::lazy(), 260_000, 20_000);
}

#[test]
fn reserved_blocks_held_over_commits() {
    good_deeper(suite::held(0), 2_000_000, 84_000);
    good_deeper(suite::held(3), 8_900_000, 160_000);
}

#[test]
fn full_volume() {
    good_deeper(suite::full(0), 190_000, 9_000);
    good_deeper(suite::full(3), 800_000, 19_000);
}

#[test]
fn software_crash_with_a_warm_cache() {
    good_deeper(suite::warm(), 1_600_000, 110_000);
}

#[test]
fn last_commit_written_by_the_original() {
    good_deeper(suite::foreign(), 890_000, 8_400);
}

/// The original crashed on a volume of ours. What it can still read we read as well, and more: it refuses a last block
/// that was torn, of which we need the part before the barrier only.
#[test]
fn crash_of_the_original() {
    let r = good(&suite::foreign_crash(), 270_000, 28_000);
    println!("model: crash of the original: {} lost by it, {} that only we read", r.lost_by_foreign, r.bare_refused);
    assert!(r.bare_refused > 0);
}

#[test]
fn superblock_extension_that_can_be_torn_off() {
    good(&suite::extension_apart(), 1_300_000, 15_000);
}

#[test]
fn four_crashes_in_a_row() {
    good_deeper(suite::three_crashes(), 320_000, 12_000);
}

#[test]
fn every_choice_of_bad_copies() {
    let mut sum = Report::default();
    for scenario in suite::bad_copies() {
        let report = explore(Protocol::CHOSEN, &scenario);
        assert_eq!(report.failed(), 0, "{:?}: {report}", scenario.damage);
        sum.add(&report);
    }
    println!("model: 27 choices of bad copies: {sum}");
    assert!(sum.states >= 3_200_000 && sum.distinct >= 96_000, "shrunk: {sum}");
}

/// What a program that knows nothing of the extensions makes of a disk that crashed under the chosen protocol, before
/// any repair. Logs that are rewritten are read alike at every crash point. Logs that are appended to are not: a link
/// may have survived without the block it leads to. That is why a crashed volume must be repaired before the original
/// reads it.
#[test]
fn what_the_bare_rule_makes_of_crashed_disks() {
    let counted = |mut scenario: Scenario| {
        scenario.bare_crashes = true;
        let r = good(&scenario, 1, 1);
        let (alike, refused, wrong) = (r.bare_alike, r.bare_refused, r.bare_wrong);
        println!("model: {}: bare rule: {alike} alike, {refused} refused, {wrong} wrong", scenario.name);
        (alike, refused + wrong)
    };
    for scenario in [suite::short(), suite::short_clean_arenas(), suite::rewrite(), suite::in_flight(), suite::held(0)]
    {
        let (alike, others) = counted(scenario);
        assert!(alike > 10_000);
        assert_eq!(others, 0);
    }
    assert!(counted(suite::append_clean_arenas()).1 > 0);
}
