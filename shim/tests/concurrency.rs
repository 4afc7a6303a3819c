//! Several threads on one store: some change and read blocks, one commits, one only steps. Afterwards the volume must
//! hold what the last commit held, and so must the crash states of the whole time.

use arenite_shim::crash::Limits;
use arenite_shim::crowd::{run, Plan};
use arenite_shim::explore::{Explorer, Options};
use arenite_shim::oracle::Judge;
use arenite_shim::probes::grace;

/// Few changes for each commit, and all crash states of the whole time.
fn crash_states(plan: &Plan) {
    let (recording, _) = run(plan, true);
    let limits = Limits { exhaustive_states: 1 << 8, samples: 16, ..Limits::DEFAULT };
    let mut explorer = Explorer::new(Options { limits, ..Options::DEFAULT });
    explorer.explore(&recording);
    println!("{}", explorer.counts());
    assert!(explorer.failures().is_empty(), "{:#?}", explorer.failures());
    assert!(explorer.counts().mount_images > plan.commits as u64 * 3, "{}", explorer.counts());
}

#[test]
fn crash_states_of_two_threads() {
    crash_states(&Plan { threads: 2, commits: 40, changes_per_commit: 24, reorder: false, seed: 1 });
}

#[test]
fn crash_states_of_four_threads_and_completions_in_any_order() {
    crash_states(&Plan { threads: 4, commits: 25, changes_per_commit: 24, reorder: true, seed: 2 });
}

#[test]
fn what_a_reader_may_reach_stays_until_it_has_left() {
    grace(true).unwrap();
    grace(false).unwrap();
}

#[test]
fn four_threads_at_full_speed() {
    for reorder in [false, true] {
        let plan = Plan { threads: 4, commits: 100, changes_per_commit: u64::MAX, reorder, seed: 3 };
        let (recording, disk) = run(&plan, false);
        let mut judge = Judge::of(&recording);
        judge.disk().rebase(&disk.snapshot());
        assert_eq!(judge.judge(&recording.model, false, |_| false).unwrap().shown, plan.commits);
    }
}
