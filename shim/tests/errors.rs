//! A device that fails, at every single call of a run: once and from then on, before and after it did the work. Nothing
//! may panic or hang, no failure may go unnoticed, and what was committed must be there, at once and after a power cut.

mod common;

use arenite_core::{DeviceError, MountOptions, Store};
use arenite_shim::check::{RawVolume, Rule};
use arenite_shim::client::{Client, Version};
use arenite_shim::faults::FaultBench;
use arenite_shim::faulty::{Effect, Fault, Faulty, Op};
use arenite_shim::mem::{MemDevice, MemOptions};
use arenite_shim::memory_box::{boxed_memory, SmallMemory};
use arenite_shim::oracle::Judge;
use arenite_shim::platform::ImpatientPlatform;
use arenite_shim::probes::lost_log_write;
use arenite_shim::workload::{format, record, Config, Prelude, Run};
use arenite_shim::{Disk, ReadAt};
use common::{fault_bench, fault_campaign};
use std::sync::Arc;

fn bench(arenas: u32) -> FaultBench<Run> {
    let config = Config { arenas, slots: 20, changes: 3, overlap: 40, dense: 0, reread: 50, ..Config::small(11) };
    fault_bench(Config { volume_blocks: 96, prelude: Prelude::Filled, ..config })
}

/// Every kind of failure of one kind of call; `least` is how many calls the run has at least.
fn fail_everywhere(op: Op, bench: &FaultBench<Run>, least: u64) {
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
fn failing_discards_are_of_no_consequence() {
    let bench = fault_bench(Config { restart: 0, delete: 60, ..Config::discards(2) });
    for sticky in [false, true] {
        let refused = Effect::Refuse(DeviceError::Unsupported);
        let calls = fault_campaign(&bench, Op::Discard, sticky, refused).unwrap_or_else(|what| panic!("{what}"));
        assert!(calls >= 8, "only {calls} calls");
    }
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
    let bench = fault_bench(Config { commits: 3, ..Config::long_logs(3) });
    for op in Op::ALL {
        let failing = Effect::Refuse(DeviceError::Io);
        fault_campaign(&bench, op, false, failing).unwrap_or_else(|what| panic!("{what}"));
    }
}

#[test]
fn a_lost_log_write_is_noticed() {
    lost_log_write().unwrap();
}

fn run_for_a_while(store: &Store<'_, '_>) {
    for _ in 0..500 {
        store.step();
    }
}

/// One commit with the completion of one call held back: it must not be acknowledged before that arrived, and not at
/// all if it is a failure in the end. Returns whether there was such a call before the acknowledgement.
fn withhold(base: &Arc<[u8]>, op: Op, index: u64, outcome: Result<(), DeviceError>) -> bool {
    let memory: Box<SmallMemory> = boxed_memory();
    let device = Faulty::new(MemDevice::new(Arc::new(Disk::over(Arc::clone(base))), MemOptions::default()), Vec::new());
    let resources = memory.take().unwrap();
    let store = Store::mount(resources, &device, &ImpatientPlatform, MountOptions::default()).unwrap();
    let index = device.calls(op) + index;
    device.set_faults(vec![Fault { op, index, sticky: false, effect: Effect::Withhold }]);
    let mut client = Client::load(&store, 8, 1).unwrap();
    (0..3).for_each(|slot| client.put(slot, Version::new(7, true)).unwrap());
    let ticket = store.commit_start(client.prepare().unwrap()).unwrap();
    run_for_a_while(&store);
    let early = store.commit_poll(&ticket);
    if device.withheld() == 0 || early.is_some() {
        // It belongs to the second copies, or there is none.
        assert!(matches!(early, Some(Ok(_))), "{op:?} {index}: {early:?}");
        device.release(Ok(()));
        return false;
    }
    device.release(outcome);
    run_for_a_while(&store);
    let late = store.commit_poll(&ticket);
    assert_eq!(late.map(|result| result.is_ok()), Some(outcome.is_ok()), "{op:?} {index}: {late:?}");
    true
}

#[test]
fn nothing_is_acknowledged_before_its_completions_arrived() {
    let disk = Arc::new(Disk::zeroed(64 * 2048));
    format(&disk, 1).unwrap();
    let base = disk.snapshot();
    for outcome in [Ok(()), Err(DeviceError::Timeout)] {
        let before = |op| (0..20).filter(|index| withhold(&base, op, *index, outcome)).count();
        // Data, root, log, header and superblock, of which the first two may go in one request; two flushes.
        assert!(before(Op::Write) >= 4);
        assert_eq!(before(Op::Flush), 2);
    }
}

#[test]
fn the_damage_of_one_copy_costs_nothing() {
    let config = Config::arenas(4);
    let recording = record(&config).unwrap();
    let base = Arc::clone(&recording.trace.epochs(0).last().unwrap().base);
    let raw = RawVolume::read(&base, Rule::Sealed).unwrap();
    let len = raw.size.len_u64();
    let headers = raw.arenas.iter().flat_map(|arena| [arena.addr, arena.addr + len]);
    let mut judge = Judge::of(&recording);
    for addr in headers.chain([0, base.len_bytes() - len]) {
        for damage in [[0; 2048], [0x67; 2048]] {
            judge.disk().rebase(&base);
            judge.disk().write_at(addr, &damage).unwrap();
            let verdict =
                judge.judge(&recording.model, false, |_| false).unwrap_or_else(|what| panic!("{addr:#x}: {what}"));
            assert_eq!(verdict.shown, recording.model.len() - 1);
        }
    }
}
#[test]
fn an_unreadable_superblock_never_hides_an_acknowledged_commit() {
    let recording = record(&Config::arenas(3)).unwrap();
    for epoch in recording.trace.epochs(0) {
        for index in 0..12 {
            let fault = Fault { op: Op::Read, index, sticky: false, effect: Effect::Refuse(DeviceError::Io) };
            let memory: Box<SmallMemory> = boxed_memory();
            let device = MemDevice::new(Arc::new(Disk::over(Arc::clone(&epoch.base))), MemOptions::default());
            let device = Faulty::new(device, vec![fault]);
            let resources = memory.take().unwrap();
            let store = Store::mount(resources, &device, &ImpatientPlatform, MountOptions::default());
            let Ok(store) = store else { continue };
            let shown = store.roots().next_qid as usize;
            let newest = shown == epoch.acknowledged || shown == epoch.begun;
            assert!(newest || store.is_read_only(), "epoch {}, read {index}: shows {shown}", epoch.index);
        }
    }
}
