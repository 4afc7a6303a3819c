//! Every guarantee of the core, broken on purpose: the tests must notice each. One test, because the switches are for
//! the whole process.

mod common;

use arenite_core::sabotage::{set, Switch, ALL};
use arenite_core::DeviceError;
use arenite_shim::explore::Options;
use arenite_shim::faulty::{Effect, Op};
use arenite_shim::probes::{grace, lost_log_write};
use arenite_shim::workload::{Config, Prelude};
use common::{crash_campaign, fault_bench, fault_campaign};

/// Crash campaigns of several configurations, with second crashes, until one fails.
fn crashes(switch: Switch, configs: impl IntoIterator<Item = Config>) -> Result<(), String> {
    let options = Options { deep_every: 17, max_failures: 1, ..Options::DEFAULT };
    configs.into_iter().try_for_each(|config| {
        set(None);
        crash_campaign(&config, options, || set(Some(switch)))
    })
}

fn seeds(count: u64, config: fn(u64) -> Config) -> impl Iterator<Item = Config> {
    (0..count).map(config)
}

fn faults(switch: Switch, op: Op, effect: Effect) -> Result<(), String> {
    let bench = fault_bench(Config { prelude: Prelude::Filled, ..Config::arenas(5) });
    set(Some(switch));
    fault_campaign(&bench, op, false, effect).map(drop)
}

/// What is to notice a switch; `Ok` means that nothing did.
fn campaign(switch: Switch) -> Result<(), String> {
    let failing = Effect::Refuse(DeviceError::Io);
    match switch {
        Switch::SkipFlushAtMount => crashes(switch, seeds(20, Config::restarts)),
        Switch::SuperblocksTogether => crashes(switch, seeds(10, Config::many_arenas)),
        Switch::ReuseBeforeDurable | Switch::ReuseAtOnce => {
            crashes(switch, seeds(10, Config::full).map(|config| Config { dense: 0, overlap: 60, ..config }))
        }
        Switch::SkipDrain => crashes(switch, seeds(10, Config::large)),
        Switch::SkipHashCheck => faults(switch, Op::Read, Effect::Garbage),
        Switch::SkipGrace => {
            set(Some(switch));
            grace(true)
        }
        Switch::SkipLogDigest => {
            set(Some(switch));
            lost_log_write()
        }
        Switch::SkipLogRewrite => crashes(switch, seeds(20, Config::foreign)),
        Switch::IgnoreFlushError => faults(switch, Op::Flush, failing),
        Switch::IgnoreWriteError => faults(switch, Op::Write, failing),
        _ => crashes(switch, seeds(20, Config::arenas)),
    }
}

#[test]
fn every_switch_is_noticed() {
    let mut unnoticed = Vec::new();
    for switch in ALL {
        let start = std::time::Instant::now();
        let result = campaign(switch);
        set(None);
        match result {
            Ok(()) => unnoticed.push(switch),
            Err(what) => println!("{switch:?} ({:?}): {what}", start.elapsed()),
        }
    }
    assert!(unnoticed.is_empty(), "nothing noticed {unnoticed:?}");
}
