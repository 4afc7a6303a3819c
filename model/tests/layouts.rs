//! The layouts and orders that were considered, side by side: what a commit of one changed block costs, and whether a
//! crash can lose anything. The chosen one is the cheapest that loses nothing.

use arenite_model::disk::Kind;
use arenite_model::explore::{explore, Cost, Explorer, Failure, Report};
use arenite_model::mount::Fault;
use arenite_model::protocol::{Order, Protocol, Reuse, Window};
use arenite_model::scenario::Scenario;
use arenite_model::suite;

/// What a commit of one changed block costs in the steady state; it must be the same in every round.
fn steady_cost(p: Protocol, arenas: usize, max_chain: usize) -> Cost {
    let scenario = suite::steady(arenas, max_chain);
    let mut e = Explorer::new(p, &scenario);
    let mut m = e.prepare().expect("the warm-up runs");
    let mut costs: Vec<Cost> = scenario
        .script
        .iter()
        .map(|round| e.round(&mut m, round, None, Window::E3).expect("the commit runs"))
        .collect();
    let cost = costs.pop().expect("there is a round");
    assert!(costs.iter().all(|c| *c == cost), "the cost is not steady: {costs:?}, {cost:?}");
    cost
}

fn judged(p: Protocol) -> Report {
    let scenarios = [
        suite::short_clean_arenas(),
        suite::append_clean_arenas(),
        suite::append_compress(),
        suite::wide(),
        suite::in_flight(),
    ];
    let mut sum = Report::default();
    scenarios.iter().for_each(|s| sum.add(&explore(p, s)));
    sum
}

#[test]
fn cost_of_one_block_logs() {
    let cost = steady_cost(Protocol::CHOSEN, 8, 0);
    println!("model: one-block logs: {} writes, {} flushes: {cost:?}", cost.total(), cost.flushes);
    assert_eq!((cost.total(), cost.flushes, cost.flushes_before_ack), (6, 3, 2));
    let kinds = [Kind::Data, Kind::Log, Kind::HeaderA, Kind::HeaderB, Kind::Super0, Kind::Super1];
    assert!(kinds.iter().all(|k| cost.writes.get(k) == Some(&1)));
}

#[test]
fn cost_of_appended_logs() {
    let cost = steady_cost(Protocol::CHOSEN, 8, 20);
    println!("model: appended logs: {} writes, {} flushes: {cost:?}", cost.total(), cost.flushes);
    assert_eq!((cost.total(), cost.flushes, cost.flushes_before_ack), (7, 3, 2));
    assert_eq!(cost.writes.get(&Kind::Relink), Some(&1));
}

#[test]
fn cost_of_the_original() {
    // 8 logs, 8 first headers, 2 superblocks, 8 second headers, and the block itself; nothing is flushed.
    let cost = steady_cost(Protocol { log_in_place: false, ..Protocol::ORIGINAL }, 8, 0);
    println!("model: original: {} writes, {} flushes: {cost:?}", cost.total(), cost.flushes);
    assert_eq!((cost.total(), cost.flushes), (8 + 8 + 2 + 8 + 1, 0));
}

#[test]
fn cost_of_links_without_the_extension() {
    let cost = steady_cost(Protocol::BARE_LINKS, 8, 20);
    println!("model: links by the bare rule: {} writes, {} flushes: {cost:?}", cost.total(), cost.flushes);
    assert_eq!((cost.total(), cost.flushes, cost.flushes_before_ack), (7, 4, 3));
}

#[test]
fn original_order_loses_commits() {
    let flushed = judged(Protocol::ORIGINAL_FLUSHED);
    println!("model: original, flushed after each pass: {flushed}");
    assert!(flushed.has(Failure::Unreadable(Fault::BadLog)) && flushed.has(Failure::Unreadable(Fault::TreeLost)));
    // Without flushes all that was ever written is in flight, so one commit is as much as can be enumerated.
    let mut scenario = suite::short();
    scenario.script.truncate(1);
    scenario.depth = 0;
    let report = explore(Protocol::ORIGINAL, &scenario);
    println!("model: original: {report}");
    assert!(report.has(Failure::WrongCommit) && report.has(Failure::Unreadable(Fault::TreeLost)));
    // Each of its holes alone, the others closed.
    let base = Protocol::CHOSEN;
    let holes = [
        (
            "frees before the superblock",
            Protocol { reuse: Reuse::AtStart, ..base },
            Failure::Unreadable(Fault::TreeLost),
        ),
        (
            "log tails in place",
            Protocol { log_in_place: true, prefix_digest: false, ..base },
            Failure::Unreadable(Fault::WrongChain),
        ),
        (
            "no repair of a torn set of headers",
            Protocol { repair_second: false, ..base },
            Failure::Unreadable(Fault::NoHeader),
        ),
        (
            "both superblocks at once",
            Protocol { order: Order::SupersTogether, ..base },
            Failure::Unreadable(Fault::NoSuperblock),
        ),
    ];
    for (name, p, how) in holes {
        let report = judged(p);
        println!("model: {name}: {report}");
        assert!(report.has(how), "{name}: {report}");
    }
}

/// A log that is added to in place, with a digest of what stands before its last barrier, is as safe for our reader as
/// fresh blocks are, whatever its length, and costs no more than a one-block log. But on a disk that crashed the bare
/// rule refuses what a tear left, where it reads every state of a log that is rewritten to fresh blocks. Hence fresh
/// blocks.
#[test]
fn logs_in_place_with_the_prefix_digest() {
    let p = Protocol { log_in_place: true, ..Protocol::CHOSEN };
    let report = judged(p);
    println!("model: logs in place, digest up to the barrier: {report}");
    assert_eq!(report.failed(), 0);
    assert!(report.states > 10_000_000);
    let mut scenario = suite::short_torn_log();
    scenario.bare_crashes = true;
    let (fresh, in_place) = (explore(Protocol::CHOSEN, &scenario), explore(p, &scenario));
    println!(
        "model: bare rule refuses {} states with fresh blocks, {} in place",
        fresh.bare_refused, in_place.bare_refused
    );
    assert_eq!((fresh.failed(), fresh.bare_refused, fresh.bare_wrong), (0, 0, 0));
    assert_eq!(in_place.failed(), 0);
    assert!(in_place.bare_refused > 0);
}

/// Links can be made safe without the extension, at one more flush before each acknowledgement and with repairs before
/// the first data write. Both are needed.
#[test]
fn links_without_the_extension() {
    let scenarios: Vec<Scenario> = suite::all();
    let all = |p: Protocol| {
        let mut sum = Report::default();
        scenarios.iter().for_each(|s| sum.add(&explore(p, s)));
        sum
    };
    let safe = all(Protocol::BARE_LINKS);
    println!("model: links by the bare rule: {safe}");
    assert_eq!(safe.failed(), 0);
    assert!(safe.states > 1_500_000);
    let early = explore(Protocol { repair_before_data: false, ..Protocol::BARE_LINKS }, &suite::append_undone());
    println!("model: links by the bare rule, data before repairs: {early}");
    assert!(early.has(Failure::Unreadable(Fault::BadLog)));
}
