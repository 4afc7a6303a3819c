//! The eight states of a block, explored to the last sequence against explicit sets of allocated blocks a generation.
//!
//! One block is enough: the planes treat each bit alone (the last test). The product of plane pattern and reference
//! state is finite, and every transition from every state that can be reached is taken, so every sequence is covered.

use std::collections::{BTreeSet, VecDeque};

use arenite_model::planes::Planes;

/// The slow reference: is the block allocated in the durable commit, in the one in flight, in the working state; is it
/// handed out and not yet enqueued?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Reference {
    durable: bool,
    flight: Option<bool>,
    next: bool,
    reserved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Reserve,
    Enqueue,
    GiveBack,
    Free,
    Start,
    TakeForLog,
    FreeFromLog,
    Finish,
}

const OPS: [Op; 8] =
    [Op::Reserve, Op::Enqueue, Op::GiveBack, Op::Free, Op::Start, Op::TakeForLog, Op::FreeFromLog, Op::Finish];

impl Reference {
    fn may_be_handed_out(&self) -> bool {
        !self.durable && self.flight != Some(true) && !self.next && !self.reserved
    }

    /// The state after an operation; nothing if it must be refused.
    fn after(mut self, op: Op) -> Option<Reference> {
        match op {
            Op::Reserve if self.may_be_handed_out() => self.reserved = true,
            Op::Enqueue if self.reserved => (self.reserved, self.next) = (false, true),
            Op::GiveBack if self.reserved => self.reserved = false,
            Op::Free if self.next => self.next = false,
            Op::TakeForLog if self.may_be_handed_out() => (self.flight, self.next) = (Some(true), true),
            Op::FreeFromLog if self.durable && self.flight == Some(true) && self.next => {
                (self.flight, self.next) = (Some(false), false);
            }
            Op::Start => self.flight = Some(self.next),
            Op::Finish => (self.durable, self.flight) = (self.flight == Some(true), None),
            _ => return None,
        }
        Some(self)
    }

    /// May the caller ask for it at all? Commits take turns, and logs are written by a commit in flight.
    fn in_order(&self, op: Op) -> bool {
        match op {
            Op::Start => self.flight.is_none(),
            Op::TakeForLog | Op::FreeFromLog | Op::Finish => self.flight.is_some(),
            _ => true,
        }
    }
}

/// The transitions under test; variants replace some.
#[derive(Clone, Copy)]
struct Subject {
    start: fn(&mut Planes),
    finish: fn(&mut Planes),
    allocatable: fn(&Planes) -> u64,
}

const REAL: Subject = Subject { start: Planes::start, finish: Planes::finish, allocatable: Planes::allocatable };

fn apply(subject: Subject, planes: &mut Planes, op: Op) -> bool {
    let outcome = match op {
        Op::Reserve if (subject.allocatable)(planes) & 1 == 1 && planes.pattern(0) != 7 => {
            // A variant hands out what the real planes would not.
            *planes = Planes { durable: 0, flight: 1, next: 0 };
            Ok(())
        }
        Op::Reserve => planes.reserve(0),
        Op::Enqueue => planes.enqueue(0),
        Op::GiveBack => planes.give_back(0),
        Op::Free => planes.free(0),
        Op::TakeForLog => planes.take_for_log(0),
        Op::FreeFromLog => planes.free_from_log(0),
        Op::Start => {
            (subject.start)(planes);
            Ok(())
        }
        Op::Finish => {
            (subject.finish)(planes);
            Ok(())
        }
    };
    outcome.is_ok()
}

/// Compares one pair of states; says what is wrong.
fn compare(subject: Subject, planes: &Planes, reference: &Reference) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what}: {:03b} against {reference:?}", planes.pattern(0)));
    if ((subject.allocatable)(planes) & 1 == 1) != reference.may_be_handed_out() {
        return wrong("handed out wrongly, or never again");
    }
    if (planes.reserved() & 1 == 1) != reference.reserved {
        return wrong("reserved");
    }
    if let Some(allocated) = reference.flight {
        if (planes.free_in_flight() & 1 == 0) != allocated {
            return wrong("free on disk in the commit in flight");
        }
        let (takes, frees) = planes.delta();
        let expected = (allocated && !reference.durable, !allocated && reference.durable);
        if (takes & 1 == 1, frees & 1 == 1) != expected {
            return wrong("logged");
        }
    }
    Ok(())
}

/// Explores all that can be reached. Gives the patterns seen, and the numbers of states and transitions.
fn explore(subject: Subject) -> Result<(BTreeSet<u8>, usize, usize), String> {
    let start = (Planes::mounted(1), Reference { durable: false, flight: None, next: false, reserved: false });
    let mut queue = VecDeque::from([start]);
    let mut seen = BTreeSet::from([(start.0.pattern(0), start.1)]);
    let mut transitions = 0;
    while let Some((planes, reference)) = queue.pop_front() {
        compare(subject, &planes, &reference)?;
        for op in OPS.into_iter().filter(|op| reference.in_order(*op)) {
            let mut moved = planes;
            let done = apply(subject, &mut moved, op);
            let expected = reference.after(op);
            transitions += 1;
            if done != expected.is_some() {
                return Err(format!("{op:?} from {:03b}, {reference:?}: {done}", planes.pattern(0)));
            }
            if let Some(expected) = expected {
                if seen.insert((moved.pattern(0), expected)) {
                    queue.push_back((moved, expected));
                }
            } else if moved != planes {
                return Err(format!("{op:?} was refused and changed {:03b}", planes.pattern(0)));
            }
        }
    }
    Ok((seen.iter().map(|s| s.0).collect(), seen.len(), transitions))
}

#[test]
fn every_sequence_agrees_with_the_reference() {
    let (patterns, states, transitions) = explore(REAL).expect("the planes agree with the reference");
    println!("model: planes: {states} states, {transitions} transitions, {} patterns, 0 failures", patterns.len());
    assert_eq!(patterns.len(), 8, "all eight patterns come up: {patterns:?}");
    assert!(states >= 13 && transitions >= 70, "shrunk: {states} states, {transitions} transitions");
}

/// Each pattern means one thing, whether or not a commit is in flight.
#[test]
fn transitions_are_those_of_the_table() {
    let table = [
        (0b111, Op::Reserve, 0b010),
        (0b010, Op::Enqueue, 0b110),
        (0b010, Op::GiveBack, 0b111),
        (0b000, Op::Free, 0b001),
        (0b100, Op::Free, 0b101),
        (0b110, Op::Free, 0b111),
        (0b111, Op::TakeForLog, 0b100),
        (0b000, Op::FreeFromLog, 0b011),
        (0b001, Op::Start, 0b011),
        (0b110, Op::Start, 0b100),
        (0b010, Op::Start, 0b010),
        (0b011, Op::Finish, 0b111),
        (0b100, Op::Finish, 0b000),
        (0b101, Op::Finish, 0b001),
        (0b010, Op::Finish, 0b010),
        (0b110, Op::Finish, 0b110),
    ];
    for (from, op, to) in table {
        let bit = |at: u8| u64::from(from >> at & 1u8);
        let mut planes = Planes { durable: bit(2), flight: bit(1), next: bit(0) };
        assert!(apply(REAL, &mut planes, op), "{op:?} from {from:03b} is refused");
        assert_eq!(planes.pattern(0), to, "{op:?} from {from:03b}");
    }
}

#[test]
fn wrong_transitions_are_found() {
    let variants: [(&str, Subject); 6] = [
        ("start forgets the reserved", Subject { start: |p| p.flight = p.next, ..REAL }),
        ("start takes over the flight plane", Subject { start: |p| p.flight |= p.next, ..REAL }),
        ("finish releases the reserved", Subject { finish: |p| p.durable = p.flight, ..REAL }),
        ("finish takes over the next plane", Subject { finish: |p| p.durable = p.next, ..REAL }),
        ("two planes decide: next and flight", Subject { allocatable: |p| p.flight & p.next, ..REAL }),
        ("two planes decide: next and durable", Subject { allocatable: |p| p.durable & p.next, ..REAL }),
    ];
    for (name, subject) in variants {
        let found = explore(subject);
        println!("model: planes: {name}: {found:?}");
        assert!(found.is_err(), "{name} was not found");
    }
}

#[test]
fn blocks_do_not_disturb_each_other() {
    // 64 blocks in all patterns; each operation on one leaves the others as they are.
    let all = (0..64u32).fold(Planes::mounted(0), |mut p, i| {
        let bit = |at: u32| u64::from(i >> at & 1) << i;
        p.durable |= bit(2);
        p.flight |= bit(1);
        p.next |= bit(0);
        p
    });
    type Single = fn(&mut Planes, u32) -> Result<(), arenite_model::planes::Refusal>;
    let single: [Single; 6] = [
        Planes::reserve,
        Planes::enqueue,
        Planes::give_back,
        Planes::free,
        Planes::take_for_log,
        Planes::free_from_log,
    ];
    for op in single {
        for block in 0..64 {
            let mut planes = all;
            let _ = op(&mut planes, block);
            assert!((0..64).filter(|i| *i != block).all(|i| planes.pattern(i) == all.pattern(i)));
        }
    }
    for op in [Planes::start, Planes::finish] {
        let mut together = all;
        op(&mut together);
        for i in 0..64 {
            let bit = |plane: u64| plane >> i & 1;
            let mut alone = Planes { durable: bit(all.durable), flight: bit(all.flight), next: bit(all.next) };
            op(&mut alone);
            assert_eq!(together.pattern(i), alone.pattern(0));
        }
    }
}
