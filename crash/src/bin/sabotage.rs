//! One guarantee of the core, broken on purpose: which rung notices? Called by rung 9, once for each switch, because a
//! switch is for the whole process. `arenite_shim::breaking` says in which order the rungs are tried: the first one
//! that notices is the last, unless there is time.
//!
//! Arguments: the name of a switch, or `list`; then the seconds that there are for the rungs behind the first that
//! notices. Output: one line for each rung that noticed, `rung N: what it saw`.
#![forbid(unsafe_code)]

use arenite_core::sabotage::ALL;
use arenite_shim::breaking::{order, try_on};
use std::time::{Duration, Instant};

fn main() -> std::process::ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let name = std::env::args().nth(1).unwrap_or_default();
    if name == "list" {
        ALL.iter().for_each(|switch| println!("{switch:?}"));
        return std::process::ExitCode::SUCCESS;
    }
    let Some(switch) = ALL.iter().copied().find(|switch| format!("{switch:?}") == name) else {
        eprintln!("error: no switch has the name {name:?}");
        return std::process::ExitCode::from(2);
    };
    let seconds = std::env::args().nth(2).and_then(|word| word.parse().ok());
    let late = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut deadline = None;
    for rung in order(switch) {
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            break;
        }
        if let Err(what) = try_on(rung, switch, deadline) {
            println!("rung {rung}: {}", what.replace('\n', " "));
            if late.is_none() {
                break;
            }
            deadline = late;
        }
    }
    std::process::ExitCode::SUCCESS
}
