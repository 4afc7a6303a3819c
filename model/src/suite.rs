//! The named scenarios. Each is small enough that every crash state can be visited, and each aims at something.

use crate::content::SuperLayout;
use crate::protocol::Window;
use crate::scenario::{Round, Scenario};
use crate::store::Shape;

/// Two arenas of 12 blocks, three slots, log blocks of 4 + 3 entries.
pub fn two_arenas() -> Shape {
    Shape {
        arenas: 2,
        blocks: 12,
        front_entries: 4,
        back_entries: 3,
        super_layout: SuperLayout::OneSector,
        slots: vec![(0, 5), (1, 5), (1, 7)],
        max_chain: 0,
        log_reserve: 1,
    }
}

/// Three arenas of 10 blocks, three slots, one in each.
pub fn three_arenas() -> Shape {
    Shape { arenas: 3, blocks: 10, slots: vec![(0, 5), (1, 5), (2, 5)], ..two_arenas() }
}

/// One log block an arena, both arenas in turn and together, a change of the next commit in flight.
pub fn short() -> Scenario {
    let script = vec![
        Round::put(0, &[(0, 0)]),
        Round::put(0, &[(1, 1)]).early(Window::E1, 0, Some(0)),
        Round::put(0, &[(2, 1)]),
    ];
    Scenario::new("short", two_arenas(), script, vec![Round::put(0, &[(1, 1)])])
}

/// Three arenas, two of which stay clean for several commits.
pub fn short_clean_arenas() -> Scenario {
    let script = vec![
        Round::put(0, &[(0, 0)]),
        Round::put(0, &[]),
        Round::put(0, &[(0, 0)]),
        Round::put(0, &[(2, 2)]),
        Round::put(1, &[]),
    ];
    let recover = vec![Round::put(0, &[]), Round::put(0, &[(1, 1)])];
    Scenario::new("short, clean arenas", three_arenas(), script, recover)
}

/// One log block whose entries lie in both sectors.
pub fn short_torn_log() -> Scenario {
    let shape = Shape { front_entries: 1, back_entries: 6, ..two_arenas() };
    let script = vec![Round::put(0, &[(1, 1)]), Round::put(1, &[(0, 0)])];
    Scenario::new("short, log in both sectors", shape, script, vec![Round::put(0, &[(2, 1)])])
}

/// Logs that grow by appended blocks.
pub fn append() -> Scenario {
    Scenario { name: "append", shape: Shape { max_chain: 4, ..two_arenas() }, ..short() }
}

/// An append that a crash undid, then commits that pass that arena by, then one that touches it.
pub fn append_clean_arenas() -> Scenario {
    let shape = Shape { max_chain: 3, ..three_arenas() };
    let script = vec![Round::put(0, &[(1, 1)]), Round::put(0, &[]), Round::put(0, &[(1, 1)])];
    let recover = vec![Round::put(0, &[]), Round::put(0, &[]), Round::put(0, &[(1, 1)])];
    Scenario::new("append, clean arenas", shape, script, recover)
}

/// An append that a crash undid, to a log that had stayed clean; the recovery puts data where the undone log block was,
/// before anything has been repaired.
pub fn append_undone() -> Scenario {
    let shape = Shape { max_chain: 4, ..three_arenas() };
    let script = vec![Round::put(0, &[(1, 1)]), Round::put(0, &[]), Round::put(0, &[(1, 1)])];
    let recover = vec![Round::put(0, &[(1, 1), (2, 1)]), Round::put(0, &[])];
    Scenario::new("append undone", shape, script, recover)
}

/// A chain that is appended to twice and then compressed, over and over.
pub fn append_compress() -> Scenario {
    let shape = Shape { max_chain: 3, front_entries: 3, back_entries: 1, ..two_arenas() };
    let script = (0..6).map(|i| Round::put(i % 2, &[(0, 0)])).collect();
    Scenario::new("append and compress", shape, script, vec![Round::put(0, &[]), Round::put(1, &[])])
}

/// Logs of several blocks, rewritten by each commit.
pub fn rewrite() -> Scenario {
    let shape =
        Shape { blocks: 16, front_entries: 1, back_entries: 1, slots: vec![(0, 5), (0, 3), (0, 8)], ..two_arenas() };
    let script = vec![Round::put(0, &[(0, 0)]), Round::put(1, &[]), Round::put(1, &[(1, 1)])];
    Scenario::new("rewrite of several blocks", shape, script, vec![Round::put(0, &[])])
}

/// Rewritten logs that turn out a block longer than their entries need: the block taken last was a free range itself.
pub fn rewrite_spare() -> Scenario {
    let shape =
        Shape { blocks: 14, front_entries: 1, back_entries: 1, slots: vec![(0, 3), (0, 5), (0, 7)], ..two_arenas() };
    let script = vec![Round::put(0, &[]), Round::put(0, &[]), Round::put(1, &[])];
    Scenario::new("rewrite with a block to spare", shape, script, vec![Round::put(0, &[])])
}

/// A rewritten log of several blocks that is then appended to.
pub fn rewrite_append() -> Scenario {
    let shape = Shape {
        blocks: 16,
        front_entries: 2,
        back_entries: 2,
        slots: vec![(0, 5), (0, 7), (0, 9)],
        max_chain: 4,
        ..two_arenas()
    };
    let script = vec![Round::put(0, &[(2, 0)]), Round::put(0, &[(1, 1)]), Round::put(0, &[])];
    Scenario::new("rewrite and append", shape, script, vec![Round::put(0, &[])])
}

/// Superblocks of two sectors, which can tear.
pub fn wide() -> Scenario {
    let shape = Shape { super_layout: SuperLayout::TwoSectors, max_chain: 2, ..three_arenas() };
    let script = vec![Round::put(0, &[(1, 1)]), Round::put(2, &[])];
    Scenario::new("superblocks of two sectors", shape, script, vec![Round::put(0, &[]), Round::put(1, &[])])
}

/// Superblocks whose extension lies in another sector than their hash, so that it can be torn off.
pub fn extension_apart() -> Scenario {
    let shape = Shape { super_layout: SuperLayout::ExtensionApart, max_chain: 3, ..three_arenas() };
    let script = vec![Round::put(0, &[(1, 1)]), Round::put(0, &[]), Round::put(1, &[])];
    Scenario::new("extension apart", shape, script, vec![Round::put(0, &[]), Round::put(1, &[])])
}

/// Blocks freed by one commit, taken by the next, freed again while that is in flight: in every window.
pub fn in_flight() -> Scenario {
    let script = vec![
        Round::put(0, &[(0, 0)]).early(Window::E1, 0, Some(0)),
        Round::put(0, &[]).early(Window::E2, 0, Some(0)).early(Window::E3, 1, Some(0)),
        Round::put(0, &[]).early(Window::E1, 0, None),
        Round::put(0, &[]).early(Window::E3, 0, Some(0)),
        Round::put(0, &[(0, 0)]).early(Window::E1, 0, Some(0)).early(Window::E2, 0, Some(0)),
        Round::put(0, &[(1, 0)]),
    ];
    let recover = vec![Round::put(0, &[]).early(Window::E1, 0, Some(0)), Round::put(0, &[])];
    Scenario::new("freed and reused in flight", two_arenas(), script, recover)
}

/// Blocks whose write is due in E1 and which are freed, for the next commit, before it is issued.
pub fn lazy() -> Scenario {
    let script = vec![
        Round::put(0, &[]).lazy(0, 0).early(Window::E1, 0, Some(0)),
        Round::put(0, &[]).lazy(1, 1).early(Window::E1, 1, None),
        Round::put(0, &[]),
    ];
    Scenario::new("freed before it is written", two_arenas(), script, vec![Round::put(0, &[])])
}

/// Reserved blocks held over commits, enqueued or given back in each window.
pub fn held(max_chain: usize) -> Scenario {
    let shape = Shape { max_chain, ..two_arenas() };
    let script = vec![
        Round::put(0, &[]).hold(0, 0, true, Some(Window::E1)),
        Round::put(0, &[]).hold(1, 1, true, Some(Window::E2)),
        Round::put(0, &[]).hold(0, 0, true, Some(Window::E3)),
        Round::put(0, &[]).hold(0, 0, true, None),
        Round::put(1, &[]).hold(0, 0, false, Some(Window::E2)),
        Round::put(0, &[]).hold(1, 0, false, None),
        Round::put(0, &[]),
    ];
    let recover = vec![Round::put(0, &[]).hold(0, 0, true, Some(Window::E2)), Round::put(0, &[])];
    Scenario::new("reserved blocks held", shape, script, recover)
}

/// A volume filled up to the reserves: removal and commit must go on, and the space come back.
pub fn full(max_chain: usize) -> Scenario {
    let slots = [(0, 2..7), (1, 2..9)].into_iter().flat_map(|(a, r)| r.map(move |b| (a, b))).collect();
    let shape = Shape { blocks: 11, slots, max_chain, log_reserve: 1, ..two_arenas() };
    let script = vec![
        Round::put(0, &[]),
        Round::put(0, &[]).remove(7),
        Round::put(0, &[]).remove(0),
        Round::put(0, &[(7, 1)]),
        Round::put(0, &[]).remove(9),
    ];
    Scenario::new("full volume", shape, script, vec![Round::put(0, &[]).remove(2), Round::put(0, &[])])
}

/// A crash of the software alone: the device keeps its cache and may lose it later.
pub fn warm() -> Scenario {
    let script = vec![Round::put(0, &[(1, 1)]), Round::put(0, &[(0, 0)])];
    let recover = vec![Round::put(0, &[(0, 0)]), Round::put(1, &[])];
    Scenario { warm: true, ..Scenario::new("warm restart", two_arenas(), script, recover) }
}

/// The original wrote the last commit; it carries our extensions along unread.
pub fn foreign() -> Scenario {
    let shape = Shape { max_chain: 3, ..three_arenas() };
    Scenario {
        warmup: vec![Round::put(0, &[(1, 1)]), Round::put(0, &[])],
        foreign: vec![Round::put(0, &[(2, 2)]), Round::put(0, &[(1, 1)])],
        ..Scenario::new(
            "after a foreign commit",
            shape,
            vec![Round::put(0, &[]), Round::put(0, &[])],
            vec![Round::put(0, &[])],
        )
    }
}

/// The original crashes on a volume that we wrote: its tails in place, its headers and superblocks.
pub fn foreign_crash() -> Scenario {
    let shape = Shape { max_chain: 3, ..two_arenas() };
    Scenario {
        warmup: vec![Round::put(0, &[(1, 1)]), Round::put(0, &[])],
        foreign_crashes: true,
        ..Scenario::new(
            "crash of the original",
            shape,
            vec![Round::put(0, &[]), Round::put(0, &[(1, 1)])],
            vec![Round::put(0, &[]), Round::put(1, &[])],
        )
    }
}

/// Three crashes in a row, the second and the third during recovery.
pub fn three_crashes() -> Scenario {
    let shape = Shape { max_chain: 3, slots: vec![(0, 5)], ..two_arenas() };
    let script = vec![Round::put(0, &[]), Round::put(1, &[])];
    Scenario { depth: 2, ..Scenario::new("three crashes", shape, script, vec![Round::put(0, &[])]) }
}

/// Every choice of one bad copy, or none, of the superblock and of each header: 27 scenarios, the first without damage.
pub fn bad_copies() -> Vec<Scenario> {
    let shape = Shape { max_chain: 3, ..two_arenas() };
    let pairs = [[0, shape.last()], [shape.base(0), shape.base(0) + 1], [shape.base(1), shape.base(1) + 1]];
    (0..27usize)
        .map(|n| {
            let digits = [n % 3, n / 3 % 3, n / 9];
            let damage = digits.iter().zip(pairs).filter(|(d, _)| **d > 0).map(|(d, pair)| pair[*d - 1]).collect();
            let script = vec![Round::put(0, &[]), Round::put(1, &[])];
            let base = Scenario::new("bad copies", shape.clone(), script, vec![Round::put(0, &[]), Round::put(1, &[])]);
            Scenario { warmup: vec![Round::put(0, &[(0, 0)])], damage, ..base }
        })
        .collect()
}

/// A volume of `arenas` arenas with nothing but a root, for counting what a commit costs.
pub fn steady(arenas: usize, max_chain: usize) -> Scenario {
    let shape = Shape { arenas, slots: Vec::new(), max_chain, ..two_arenas() };
    let rounds = vec![Round::put(0, &[]); 3];
    Scenario { warmup: rounds.clone(), ..Scenario::new("steady state", shape, rounds, vec![Round::put(0, &[])]) }
}

/// Every scenario but the bad copies.
pub fn all() -> Vec<Scenario> {
    vec![
        short(),
        short_clean_arenas(),
        short_torn_log(),
        append(),
        append_clean_arenas(),
        append_undone(),
        append_compress(),
        rewrite(),
        rewrite_spare(),
        rewrite_append(),
        wide(),
        extension_apart(),
        in_flight(),
        lazy(),
        held(0),
        held(3),
        full(0),
        full(3),
        warm(),
        foreign(),
        foreign_crash(),
        three_crashes(),
    ]
}
