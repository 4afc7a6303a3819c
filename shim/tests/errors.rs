//! A device that fails, at every single call of a run: once and from then on, before and after it did the work. Nothing
//! may panic or hang, no failure may go unnoticed, and what was committed must be there, at once and after a power cut.

mod common;

use arenite_core::DeviceError;
use arenite_shim::faulty::{Effect, Op};
use arenite_shim::workload::{Config, Prelude};
use common::{fault_campaign, lost_log_write, FaultBench};

fn bench(arenas: u32) -> FaultBench {
    let config = Config { arenas, slots: 20, changes: 3, overlap: 40, dense: 0, reread: 50, ..Config::small(11) };
    FaultBench::new(Config { volume_blocks: 96, prelude: Prelude::Filled, ..config })
}

/// Every kind of failure of one kind of call; `least` is how many calls the run has at least.
fn fail_everywhere(op: Op, bench: &FaultBench, least: u64) {
    for effect in [Effect::Refuse(DeviceError::Io), Effect::FailLate(DeviceError::Timeout)] {
        for sticky in [false, true] {
            let calls = fault_campaign(bench, op, sticky, effect).unwrap_or_else(|what| panic!("{what}"));
            println!("{op:?}, {effect:?}, sticky {sticky}: {calls} calls");
            assert!(calls >= least, "only {calls} calls");
        }
    }
}

#[test]
fn failing_reads() {
    fail_everywhere(Op::Read, &bench(2), 30);
}

#[test]
fn failing_writes() {
    fail_everywhere(Op::Write, &bench(2), 50);
}

#[test]
fn failing_flushes() {
    fail_everywhere(Op::Flush, &bench(2), 18);
}

#[test]
fn a_device_that_is_gone() {
    let bench = bench(1);
    for op in Op::ALL {
        let gone = Effect::Refuse(DeviceError::Gone);
        fault_campaign(&bench, op, true, gone).unwrap_or_else(|what| panic!("{what}"));
    }
}

#[test]
fn garbage_instead_of_what_was_written() {
    for sticky in [false, true] {
        let calls = fault_campaign(&bench(2), Op::Read, sticky, Effect::Garbage);
        assert!(calls.unwrap_or_else(|what| panic!("{what}")) >= 30);
    }
}

#[test]
fn errors_in_long_logs() {
    let bench = FaultBench::new(Config { commits: 3, ..Config::long_logs(3) });
    for op in Op::ALL {
        let failing = Effect::Refuse(DeviceError::Io);
        fault_campaign(&bench, op, false, failing).unwrap_or_else(|what| panic!("{what}"));
    }
}

#[test]
fn a_lost_log_write_is_noticed() {
    lost_log_write().unwrap();
}
