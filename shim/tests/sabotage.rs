//! Every guarantee of the core, broken on purpose: the tests must notice each. One test, because the switches are for
//! the whole process.

use arenite_core::sabotage::ALL;
use arenite_shim::breaking::{order, try_on};

#[test]
fn every_switch_is_noticed() {
    let mut unnoticed = Vec::new();
    for switch in ALL.iter().copied() {
        let start = std::time::Instant::now();
        let seen = order(switch).into_iter().find_map(|rung| Some((rung, try_on(rung, switch, None).err()?)));
        match seen {
            None => unnoticed.push(switch),
            Some((rung, what)) => println!("{switch:?} (rung {rung}, {:?}): {what}", start.elapsed()),
        }
    }
    assert!(unnoticed.is_empty(), "nothing noticed {unnoticed:?}");
}
