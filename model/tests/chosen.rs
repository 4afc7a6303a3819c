//! x
use arenite_model::explore::*;
use arenite_model::protocol::Protocol;
use arenite_model::suite;

#[test]
fn all() {
    for s in suite::all() {
        let t = std::time::Instant::now();
        println!("model: {}: {} {:?}", s.name, explore(Protocol::CHOSEN, &s), t.elapsed());
    }
    let mut r = Report::default();
    for s in suite::bad_copies() {
        r.add(&explore(Protocol::CHOSEN, &s));
    }
    println!("bad {r}");
}
