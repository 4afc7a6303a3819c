//! x
use arenite_model::explore::*;
use arenite_model::protocol::*;
use arenite_model::suite;

fn show(name: &str, p: Protocol) {
    let t = std::time::Instant::now();
    println!("== {name}");
    let mut all = suite::all();
    all.extend(suite::bad_copies());
    let mut sum = Report::default();
    let mut names = std::collections::BTreeMap::new();
    for s in all {
        let r = explore(p, &s);
        if r.failed() > 0 {
            *names.entry(s.name).or_insert(0) += r.failed();
        }
        sum.add(&r);
    }
    println!("  {names:?}\n  {sum}");
    println!("   {:?}", t.elapsed());
}

#[test]
fn sab() {
    const C: Protocol = Protocol::CHOSEN;
    show("chosen", C);
    show("no mount flush", Protocol { flush_at_mount: false, ..C });
    show("no E0 flush", Protocol { flush_repairs: false, ..C });
    show("no E1 flush", Protocol { flush_logs: false, ..C });
    show("no E2 flush", Protocol { flush_super: false, ..C });
    show("no E3 flush", Protocol { flush_last: false, ..C });
    show("no repair second", Protocol { repair_second: false, ..C });
    show("no repair first", Protocol { repair_first: false, ..C });
    show("no repair", Protocol { repair_first: false, repair_second: false, cut_links: false, ..C });
    show("no cut", Protocol { cut_links: false, ..C });
    show("super first", Protocol { order: Order::SuperBeforeHeaders, ..C });
    show("supers together", Protocol { order: Order::SupersTogether, ..C });
    show("headers together", Protocol { order: Order::HeadersTogether, ..C });
    show("reuse E2", Protocol { reuse: Reuse::AfterE2, ..C });
    show("reuse start", Protocol { reuse: Reuse::AtStart, ..C });
    show("ack unflushed", Protocol { ack_unflushed: true, ..C });
    show("in place", Protocol { log_in_place: true, ..C });
    show("no digest", Protocol { check_digest: false, ..C });
    show("no digest, no E1 flush", Protocol { check_digest: false, flush_logs: false, ..C });
    show("no opening", Protocol { opening_barrier: false, ..C });
    show("append from reserve", Protocol { append_from_reserve: true, ..C });
    show("barrier anywhere", Protocol { barrier_last: false, ..C });
    show("log reserved", Protocol { log_reserved: true, ..C });
    show("forget arena", Protocol { forget_arena: true, ..C });
    show("skip freed writes", Protocol { skip_freed_writes: true, ..C });
    show("no rewrite after foreign", Protocol { rewrite_after_foreign: false, ..C });
    show("bare", Protocol { rule: Rule::Bare, check_digest: false, ..C });
    show("bare links", Protocol::BARE_LINKS);
    show("bare links, no cut", Protocol { cut_links: false, ..Protocol::BARE_LINKS });
    show("bare links, no opening", Protocol { opening_barrier: false, ..Protocol::BARE_LINKS });
}
