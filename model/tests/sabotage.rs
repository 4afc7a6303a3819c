//! Every part of the protocol is there for a reason: take it away, and the enumerator finds a crash that loses
//! something. Where taking it away is harmless under the media contract, the test says so, and why it is kept.

use arenite_model::explore::{explore, Failure, Report};
use arenite_model::losses::lose_each_write;
use arenite_model::mount::Fault;
use arenite_model::protocol::{Order, Protocol, Reuse, Rule};
use arenite_model::scenario::Scenario;
use arenite_model::suite;

const CHOSEN: Protocol = Protocol::CHOSEN;

fn run(what: &str, p: Protocol, scenarios: &[Scenario]) -> Report {
    let mut sum = Report::default();
    scenarios.iter().for_each(|s| sum.add(&explore(p, s)));
    println!("model: {what}: {sum}");
    sum
}

/// The variant must fail, and in this way among others. That the chosen protocol does not, on the same scenarios, is
/// what tests/chosen.rs shows.
fn fails(what: &str, p: Protocol, scenarios: &[Scenario], how: Failure) {
    let report = run(what, p, scenarios);
    assert!(report.has(how), "{what} was to end in {how:?}: {report}");
}

/// The variant does no harm to a reader of the chosen protocol.
fn harmless(what: &str, p: Protocol, scenarios: &[Scenario], states: u64) {
    let report = run(what, p, scenarios);
    assert_eq!(report.failed(), 0, "{what} does harm: {report}");
    assert!(report.states >= states, "{what}: shrunk: {report}");
}

fn small() -> Vec<Scenario> {
    vec![suite::short_clean_arenas(), suite::append_clean_arenas(), suite::wide(), suite::in_flight()]
}

#[test]
fn flush_at_mount_dropped() {
    // The software died, the device did not: mount reads what is only in the cache, and writes on top of it.
    let how = Failure::Unreadable(Fault::NoHeader);
    fails("no flush at mount", Protocol { flush_at_mount: false, ..CHOSEN }, &[suite::warm()], how);
}

#[test]
fn flush_after_repairs_dropped() {
    let how = Failure::Unreadable(Fault::NoHeader);
    fails("no flush after E0", Protocol { flush_repairs: false, ..CHOSEN }, &small(), how);
}

#[test]
fn flush_before_the_superblock_dropped() {
    let how = Failure::Unreadable(Fault::NoHeader);
    fails("no flush after E1", Protocol { flush_logs: false, ..CHOSEN }, &small(), how);
}

#[test]
fn flush_of_the_superblock_dropped() {
    let p = Protocol { flush_super: false, ..CHOSEN };
    fails("no flush after E2", p, &small(), Failure::WrongCommit);
    fails("no flush after E2", p, &small(), Failure::Unreadable(Fault::NoHeader));
    fails("no flush after E2", p, &[suite::wide()], Failure::Unreadable(Fault::NoSuperblock));
}

#[test]
fn last_flush_dropped() {
    let how = Failure::Unreadable(Fault::NoHeader);
    fails("no flush after E3", Protocol { flush_last: false, ..CHOSEN }, &small(), how);
}

#[test]
fn repairs_skipped() {
    let p = Protocol { repair_first: false, repair_second: false, cut_links: false, ..CHOSEN };
    fails("no E0", p, &small(), Failure::Unreadable(Fault::NoHeader));
    let second = Protocol { repair_second: false, ..CHOSEN };
    fails("second copies not repaired", second, &small(), Failure::Unreadable(Fault::NoHeader));
    fails("second copies not repaired", second, &suite::bad_copies()[1..], Failure::Unreadable(Fault::NoHeader));
}

/// A first copy is overwritten by the commit before anything depends on it again, so a bad one need not be repaired for
/// the sake of crashes. It is repaired because two good copies are what survives a bad sector.
#[test]
fn first_copies_not_repaired_is_harmless() {
    let p = Protocol { repair_first: false, ..CHOSEN };
    harmless("first copies not repaired", p, &small(), 1_000_000);
    harmless("first copies not repaired", p, &suite::bad_copies(), 1_000_000);
}

#[test]
fn superblock_before_headers() {
    let how = Failure::Unreadable(Fault::NoHeader);
    fails("superblock before headers", Protocol { order: Order::SuperBeforeHeaders, ..CHOSEN }, &small(), how);
}

/// A superblock of one sector is written whole or not at all, so two in flight leave at least one good; one of two
/// sectors (more than 25 arenas) can tear, and both copies with it.
#[test]
fn both_superblocks_at_once() {
    let p = Protocol { order: Order::SupersTogether, ..CHOSEN };
    fails("superblocks together", p, &[suite::wide()], Failure::Unreadable(Fault::NoSuperblock));
    harmless("superblocks of one sector together", p, &[suite::short_clean_arenas(), suite::in_flight()], 1_000_000);
}

#[test]
fn both_header_copies_at_once() {
    let how = Failure::Unreadable(Fault::NoHeader);
    let scenarios = [suite::short_clean_arenas(), suite::rewrite_append()];
    fails("header copies together", Protocol { order: Order::HeadersTogether, ..CHOSEN }, &scenarios, how);
}

#[test]
fn blocks_released_at_the_start_of_the_commit() {
    let how = Failure::Unreadable(Fault::TreeLost);
    fails("released at the start", Protocol { reuse: Reuse::AtStart, ..CHOSEN }, &[suite::in_flight()], how);
}

/// Once the superblock is durable no crash exposes the commit before it. Blocks are held until the end of E3 all the
/// same: only then is there a second superblock that does not need them.
#[test]
fn blocks_released_after_the_superblock_is_harmless() {
    let p = Protocol { reuse: Reuse::AfterE2, ..CHOSEN };
    harmless("released after E2", p, &small(), 1_000_000);
}

#[test]
fn acknowledged_before_the_flush() {
    fails("acknowledged unflushed", Protocol { ack_unflushed: true, ..CHOSEN }, &small(), Failure::WrongCommit);
}

#[test]
fn log_written_in_place() {
    // With a digest of whole blocks; tests/layouts.rs has the digest up to the barrier, which bears it.
    let p = Protocol { log_in_place: true, prefix_digest: false, ..CHOSEN };
    fails("log in place", p, &small(), Failure::Unreadable(Fault::WrongChain));
    fails("log in place", p, &[suite::short_torn_log()], Failure::Unreadable(Fault::BadLog));
}

#[test]
fn reserved_blocks_logged_as_allocated() {
    let p = Protocol { log_reserved: true, ..CHOSEN };
    fails("reserved blocks logged, rewritten", p, &[suite::held(0)], Failure::WrongSpace);
    fails("reserved blocks logged, appended", p, &[suite::held(3)], Failure::WrongSpace);
}

#[test]
fn touched_arena_not_written() {
    fails("an arena forgotten", Protocol { forget_arena: true, ..CHOSEN }, &small(), Failure::WrongSpace);
}

#[test]
fn freed_block_of_the_commit_in_flight_not_written() {
    let how = Failure::Unreadable(Fault::TreeLost);
    fails("freed block not written", Protocol { skip_freed_writes: true, ..CHOSEN }, &[suite::lazy()], how);
}

#[test]
fn append_takes_the_reserve_of_the_rewrite() {
    let p = Protocol { append_from_reserve: true, ..CHOSEN };
    fails("append from the reserve", p, &[suite::full(3)], Failure::Refused);
}

#[test]
fn stale_extension_trusted_after_a_foreign_commit() {
    // The superblock says that the last commit was ours, but arenas that it left alone carry extensions from before,
    // and the log up to that old barrier still has the digest given there: what was logged since is silently dropped.
    let p = Protocol { rewrite_after_foreign: false, ..CHOSEN };
    fails("arenas left alone", p, &[suite::foreign()], Failure::WrongSpace);
    fails("entries of an aborted foreign commit kept", p, &[suite::foreign_crash()], Failure::WrongSpace);
}

#[test]
fn digest_of_the_whole_last_block() {
    // The original adds to the last block in place before its commit is durable: a volume that it can still read is
    // lost.
    let p = Protocol { prefix_digest: false, ..CHOSEN };
    fails("digest of the whole block", p, &[suite::foreign_crash()], Failure::Unreadable(Fault::WrongChain));
}

/// When the superblock's extension is torn off, the bare rule holds for a state of ours. Then the two things that only
/// the bare rule needs are needed.
#[test]
fn extension_torn_off() {
    let scenario = [suite::extension_apart()];
    fails("no opening barrier", Protocol { opening_barrier: false, ..CHOSEN }, &scenario, Failure::WrongSpace);
    fails("links not cut", Protocol { cut_links: false, ..CHOSEN }, &scenario, Failure::Unreadable(Fault::BadLog));
}

#[test]
fn barrier_before_the_last_block() {
    let p = Protocol { barrier_last: false, ..CHOSEN };
    let how = Failure::Unreadable(Fault::BadLog);
    fails("barrier not in the last block", p, &[suite::rewrite_spare()], how);
    // A digest of whole blocks would not mind, but the bare rule does not know of the block behind the barrier.
    let p = Protocol { prefix_digest: false, ..p };
    fails("barrier not in the last block, bare rule", p, &[suite::rewrite_spare()], Failure::BareDiffers);
}

/// Our reader counts blocks and never follows a link past the end of a log. A stale link harms the bare rule alone: the
/// arena's last barrier grows old, and what an aborted commit left becomes live.
#[test]
fn stale_link_not_cut() {
    let p = Protocol { cut_links: false, ..CHOSEN };
    let scenarios = [suite::append_clean_arenas(), suite::wide()];
    fails("links not cut, bare rule after the commit", p, &scenarios, Failure::BareDiffers);
    let ours: Vec<Scenario> = scenarios.into_iter().map(|s| Scenario { bare: false, ..s }).collect();
    harmless("links not cut, our reader", p, &ours, 1_000_000);
    let bare = Protocol { cut_links: false, ..Protocol::BARE_LINKS };
    let report = run("links not cut, bare reader", bare, &ours);
    assert!(report.has(Failure::WrongSpace), "{report}");
}

/// Our reader does not need the barrier that opens an appended block. It halves what the bare rule gets wrong on a disk
/// that crashed, and costs one entry.
#[test]
fn opening_barrier_left_out() {
    let p = Protocol { opening_barrier: false, ..CHOSEN };
    let mut scenario = suite::append();
    scenario.bare_crashes = true;
    harmless("no opening barrier, our reader", p, std::slice::from_ref(&scenario), 1_000_000);
    let (with, without) = (explore(CHOSEN, &scenario), explore(p, &scenario));
    println!("model: bare rule on crashed disks: wrong {} with, {} without", with.bare_wrong, without.bare_wrong);
    assert_eq!(with.bare_wrong, 0);
    assert!(without.bare_wrong > 0);
    let bare = Protocol { opening_barrier: false, ..Protocol::BARE_LINKS };
    assert!(run("no opening barrier, bare reader", bare, &[scenario]).has(Failure::WrongSpace));
}

/// Where the media keep their contract the digest never fails: order alone is enough. It is there for media that do
/// not. A freed log block stays a valid log, so a log write that was lost leaves one that a reader without the digest
/// believes.
#[test]
fn digest_not_checked() {
    let p = Protocol { check_digest: false, ..CHOSEN };
    harmless("digest not checked, honest media", p, &small(), 1_000_000);
    let without_order = Protocol { flush_logs: false, ..p };
    fails("digest not checked, no flush after E1", without_order, &small(), Failure::WrongSpace);
    let with_digest = run("digest checked, no flush after E1", Protocol { flush_logs: false, ..CHOSEN }, &small());
    assert!(!with_digest.has(Failure::WrongSpace), "the digest lets a stale log pass: {with_digest}");
}

#[test]
fn lost_and_misdirected_writes_are_never_believed() {
    let scenarios =
        [suite::short_clean_arenas(), suite::append(), suite::append_compress(), suite::rewrite(), suite::wide()];
    let total = |p: Protocol| {
        scenarios.iter().fold((0, 0), |(disks, silent), s| {
            let l = lose_each_write(p, s).expect("the scenario runs");
            println!("model: one write lost or misdirected, {}: {l:?}", s.name);
            assert_eq!(l.disks, l.harmless + l.detected + l.silent);
            assert!(l.harmless > 0 && l.detected > 0);
            (disks + l.disks, silent + l.silent)
        })
    };
    let (disks, silent) = total(CHOSEN);
    assert!(disks > 3_000);
    assert_eq!(silent, 0);
    let (_, silent) = total(Protocol { check_digest: false, ..CHOSEN });
    assert!(silent > 0, "without the digest every loss was found as well");
}

#[test]
fn bare_rule_with_the_chosen_order() {
    let p = Protocol { rule: Rule::Bare, check_digest: false, ..CHOSEN };
    let scenarios = [suite::append_clean_arenas(), suite::append_compress()];
    fails("no extension, link lands without its block", p, &scenarios, Failure::Unreadable(Fault::BadLog));
    fails("no extension, link lands on a stale log", p, &scenarios, Failure::WrongSpace);
}
