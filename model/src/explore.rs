//! The explorer: runs a scenario under a protocol, and judges every state that a crash can leave.
//!
//! A state is good when
//! 1. mount succeeds;
//! 2. it shows the last acknowledged commit or the one in flight, and every block of its tree has its content;
//! 3. the free map is all but headers, log blocks and tree;
//! 4. a further commit works, and leaves a disk that is good again and that the bare rule reads alike;
//! 5. every crash during that further commit, repairs included, leaves a good state again (`depth` times over).

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use crate::content::{Body, Ptr, QuickBuild, Universe};
use crate::disk::{Device, Disk, Kind, Write};
use crate::mount::{expected_free, mount, reach, Fault};
use crate::protocol::{Protocol, Reuse, Rule, Window};
use crate::scenario::{format, Change, Hold, Round, Scenario};
use crate::store::{Commit, Error, Store};

/// What was wrong with a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// Mount failed, or a block of the tree is lost.
    Unreadable(Fault),
    /// Mount shows neither the acknowledged commit nor the one in flight.
    WrongCommit,
    /// The free map holds a block in use, or lacks a free one.
    WrongSpace,
    /// An operation after the mount was refused.
    Refused,
    /// After a commit that ended, the bare rule reads something else than the extension.
    BareDiffers,
    /// After a commit that ended, the planes in memory differ from the disk.
    MemoryDiffers,
}

/// Counts of one exploration.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Crash states enumerated.
    pub states: u64,
    /// Of these, distinct ones (in what they were judged by, too).
    pub distinct: u64,
    /// Commits that were run to their end from mounted states.
    pub follow_ups: u64,
    /// States that a foreign program left and that nobody can read: no failures of ours.
    pub lost_by_foreign: u64,
    /// Good states that the bare rule reads alike, without any repair; counted only where a scenario asks for it.
    pub bare_alike: u64,
    /// Good states that the bare rule refuses to mount.
    pub bare_refused: u64,
    /// Good states that the bare rule mounts with another free map.
    pub bare_wrong: u64,
    /// Failures of each kind, with the window in which the crash was.
    pub failures: BTreeMap<(Window, Failure), u64>,
}

impl Report {
    /// Number of failures.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Did a failure of this kind come up?
    pub fn has(&self, failure: Failure) -> bool {
        self.failures.keys().any(|(_, f)| *f == failure)
    }

    /// Adds another report's counts.
    pub fn add(&mut self, other: &Report) {
        self.states += other.states;
        self.distinct += other.distinct;
        self.follow_ups += other.follow_ups;
        self.lost_by_foreign += other.lost_by_foreign;
        self.bare_alike += other.bare_alike;
        self.bare_refused += other.bare_refused;
        self.bare_wrong += other.bare_wrong;
        other.failures.iter().for_each(|(k, n)| *self.failures.entry(*k).or_default() += n);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { states, distinct, follow_ups, .. } = self;
        write!(f, "{states} crash states, {distinct} distinct, {follow_ups} follow-ups, {} failures", self.failed())?;
        self.failures.iter().try_for_each(|((w, k), n)| write!(f, "\n    {n} x {k:?} in {w:?}"))
    }
}

/// Writes and flushes of one commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Block writes by kind.
    pub writes: BTreeMap<Kind, u64>,
    /// Flushes.
    pub flushes: u64,
    /// Flushes before the acknowledgement.
    pub flushes_before_ack: u64,
}

impl Cost {
    /// Block writes in all.
    pub fn total(&self) -> u64 {
        self.writes.values().sum()
    }
}

/// A mounted store on its device.
#[derive(Clone)]
pub struct Machine {
    /// The store.
    pub store: Store,
    /// The device.
    pub dev: Device,
    /// Root of the last acknowledged commit, or of what mount showed.
    pub acked: Ptr,
    life: u8,
    round: u8,
}

/// What a crash state is judged by.
#[derive(Clone, Copy)]
struct Context {
    acked: Ptr,
    in_flight: Ptr,
    window: Window,
    depth: usize,
    life: u8,
}

/// Life number of commits that follow a state without crashes.
const FOLLOW_UP: u8 = 99;

/// A reader that knows the format only.
const BARE: Protocol = Protocol { rule: Rule::Bare, ..Protocol::CHOSEN };

/// The original as it would be with flushes, and without reusing blocks that the last commit needs: what it loses then
/// is lost by tails, headers and superblocks.
const FOREIGN: Protocol = Protocol { reuse: Reuse::AfterE3, ..Protocol::ORIGINAL_FLUSHED };

/// States of one epoch beyond which a scenario is taken to be a mistake.
const MOST_STATES: u64 = 1 << 26;

/// Runs scenarios.
pub struct Explorer<'a> {
    /// Contents.
    pub u: Universe,
    /// The protocol in force.
    pub p: Protocol,
    ours: Protocol,
    scenario: &'a Scenario,
    seen: HashSet<u128, QuickBuild>,
    followed: HashSet<Store, QuickBuild>,
    report: Report,
}

/// Explores a scenario under a protocol.
pub fn explore(p: Protocol, scenario: &Scenario) -> Report {
    let mut e = Explorer::new(p, scenario);
    let outcome = e.prepare().and_then(|mut m| {
        if scenario.foreign_crashes {
            e.p = FOREIGN;
        }
        for round in &scenario.script {
            e.round(&mut m, round, Some(scenario.depth), Window::E3)?;
        }
        Ok(())
    });
    if outcome.is_err() {
        e.fail(Window::E0, Failure::Refused);
    }
    e.report
}

impl<'a> Explorer<'a> {
    /// An explorer that has seen nothing.
    pub fn new(p: Protocol, scenario: &'a Scenario) -> Self {
        let s = &scenario.shape;
        Explorer {
            u: Universe::new(s.front_entries, s.back_entries, s.super_layout),
            p,
            ours: p,
            scenario,
            seen: HashSet::default(),
            followed: HashSet::default(),
            report: Report::default(),
        }
    }

    /// Formats the volume, runs warm-up, foreign rounds and damage, and gives the machine at the script's beginning.
    pub fn prepare(&mut self) -> Result<Machine, Error> {
        let scenario = self.scenario;
        let (disk, store) = format(&mut self.u, &scenario.shape)?;
        let mut m = Machine { acked: store.root, store, dev: Device::new(disk), life: 0, round: 1 };
        for round in &scenario.warmup {
            self.round(&mut m, round, None, Window::E3)?;
        }
        m.dev.flush(u32::MAX);
        if !scenario.foreign.is_empty() {
            let ours = std::mem::replace(&mut self.p, Protocol { opening_barrier: true, ..Protocol::ORIGINAL_FLUSHED });
            let prepared =
                scenario.foreign.iter().try_for_each(|r| self.round(&mut m, r, None, Window::E3).map(|_| ()));
            self.p = ours;
            prepared?;
        }
        if !scenario.damage.is_empty() || !scenario.foreign.is_empty() {
            let garbage = self.u.garbage();
            scenario.damage.iter().for_each(|addr| m.dev.media.write(*addr, garbage));
            match self.mount(&m.dev.media) {
                Ok(store) => m.store = store,
                Err(fault) => self.fail(Window::E0, Failure::Unreadable(fault)),
            }
        }
        m.life = 1;
        Ok(m)
    }

    fn mount(&self, disk: &Disk) -> Result<Store, Fault> {
        mount(&self.u, &self.scenario.shape, disk, &self.p)
    }

    fn fail(&mut self, window: Window, failure: Failure) {
        *self.report.failures.entry((window, failure)).or_default() += 1;
    }

    /// Runs one commit. With `depth`, every crash state on the way is judged. Failures at its end count for `window`.
    pub fn round(&mut self, m: &mut Machine, r: &Round, depth: Option<usize>, window: Window) -> Result<Cost, Error> {
        let shape = &self.scenario.shape;
        let mut lazy = Vec::new();
        if self.p.repair_before_data {
            self.repair_now(m, depth);
        }
        for change in &r.changes {
            if let Some(w) = self.change(m, change, 2 * m.round)? {
                if change.lazy {
                    lazy.push(w)
                } else {
                    m.dev.write(w)
                }
            }
        }
        let held = r.hold.map(|h| m.store.reserve(shape, h.arena).map(|addr| (h, addr))).transpose()?;
        lazy.push(m.store.new_root(&mut self.u, shape, r.root, m.life, 2 * m.round)?);
        let commit = m.store.begin(&mut self.u, shape, &self.p)?;
        let cost = self.epochs(m, r, (&commit, lazy, held), depth)?;
        if let Some((h, addr)) = held.filter(|(h, _)| h.end.is_none()) {
            self.end_hold(m, h, addr)?;
        }
        m.round += 1;
        self.judge_end(m, window);
        Ok(cost)
    }

    /// Variant: repairs in an epoch of their own before any data is written.
    fn repair_now(&mut self, m: &mut Machine, depth: Option<usize>) {
        let repairs = m.store.repairs(&mut self.u, &self.scenario.shape, &self.p);
        if repairs.is_empty() {
            return;
        }
        repairs.into_iter().for_each(|w| m.dev.write(w));
        if let Some(depth) = depth {
            let ctx = Context { acked: m.acked, in_flight: m.acked, window: Window::E0, depth, life: m.life };
            self.crashes(&m.dev, ctx);
        }
        m.dev.flush(m.store.gen);
    }

    fn epochs(
        &mut self,
        m: &mut Machine,
        r: &Round,
        (commit, mut lazy, held): (&Commit, Vec<Write>, Option<(Hold, u16)>),
        depth: Option<usize>,
    ) -> Result<Cost, Error> {
        let in_flight = m.store.root;
        let mut cost = Cost::default();
        let mut acked = false;
        // Data that was enqueued before the commit began counts for this commit as well.
        m.dev.pending.iter().filter(|w| w.gen == commit.gen).for_each(|w| *cost.writes.entry(w.kind).or_default() += 1);
        for epoch in self.p.epochs(commit) {
            for (_, change) in r.early.iter().filter(|(w, _)| *w == epoch.window) {
                if let Some(w) = self.change(m, change, 2 * m.round + 1)? {
                    m.dev.write(w);
                }
            }
            if let Some((h, addr)) = held.filter(|(h, _)| h.end == Some(epoch.window)) {
                self.end_hold(m, h, addr)?;
            }
            let mut writes = epoch.writes.clone();
            if epoch.window != Window::E0 {
                let data = std::mem::take(&mut lazy);
                let skip = self.p.skip_freed_writes;
                writes.extend(data.iter().filter(|w| !skip || m.store.pattern(&self.scenario.shape, w.addr) != 0b101));
            }
            for w in writes {
                *cost.writes.entry(w.kind).or_default() += 1;
                m.dev.write(w);
            }
            acked |= epoch.acknowledges && self.p.ack_unflushed;
            m.acked = if acked { in_flight } else { m.acked };
            if let Some(depth) = depth {
                let ctx = Context { acked: m.acked, in_flight, window: epoch.window, depth, life: m.life };
                self.crashes(&m.dev, ctx);
            }
            if epoch.flush {
                m.dev.flush(commit.gen);
                cost.flushes += 1;
                cost.flushes_before_ack += u64::from(!acked);
            }
            acked |= epoch.acknowledges;
            m.acked = if acked { in_flight } else { m.acked };
            if epoch.releases {
                m.store.finish();
            }
        }
        Ok(cost)
    }

    fn change(&mut self, m: &mut Machine, c: &Change, round: u8) -> Result<Option<Write>, Error> {
        let shape = &self.scenario.shape;
        let mut write = None;
        let mut new = None;
        if let Some(arena) = c.to {
            let addr = m.store.reserve(shape, arena)?;
            m.store.enqueue(shape, addr)?;
            let body = self.u.body(Body::Leaf { slot: c.slot as u8, life: m.life, round });
            new = Some(Ptr { addr, body });
            write = Some(Write { kind: Kind::Data, addr, block: self.u.data(body), gen: m.store.gen + 1 });
        }
        if let Some(old) = std::mem::replace(&mut m.store.tree[c.slot], new) {
            m.store.free(shape, old.addr)?;
        }
        Ok(write)
    }

    fn end_hold(&mut self, m: &mut Machine, h: Hold, addr: u16) -> Result<(), Error> {
        let shape = &self.scenario.shape;
        if !h.enqueue {
            return m.store.give_back(shape, addr);
        }
        m.store.enqueue(shape, addr)?;
        let body = self.u.body(Body::Leaf { slot: h.slot as u8, life: m.life, round: 2 * m.round + 1 });
        if let Some(old) = m.store.tree[h.slot].replace(Ptr { addr, body }) {
            m.store.free(shape, old.addr)?;
        }
        m.dev.write(Write { kind: Kind::Data, addr, block: self.u.data(body), gen: m.store.gen + 1 });
        Ok(())
    }

    /// After a commit that ended: what a mount of the disk would give is what is in memory, by either rule.
    fn judge_end(&mut self, m: &Machine, window: Window) {
        let view = m.dev.view();
        let store = match self.judge(&view, &[m.acked]) {
            Ok(store) => store,
            Err(failure) => return self.fail(window, failure),
        };
        let memory = m.store.arenas.iter().map(|a| a.planes.durable | a.planes.reserved());
        // Enqueued blocks of the next commit, and blocks it freed, differ from the disk only in the next plane.
        if !store.arenas.iter().map(|a| a.planes.durable).eq(memory) {
            self.fail(window, Failure::MemoryDiffers);
        }
        if self.scenario.bare {
            let bare = mount(&self.u, &self.scenario.shape, &view, &BARE);
            let alike = bare.is_ok_and(|b| b.arenas.iter().all(|a| !a.stale_link) && same_space(&b, &store));
            if !alike {
                self.fail(window, Failure::BareDiffers);
            }
        }
    }

    /// Mounts a disk and judges what it shows.
    pub(crate) fn judge(&self, disk: &Disk, allowed: &[Ptr]) -> Result<Store, Failure> {
        let store = self.mount(disk).map_err(Failure::Unreadable)?;
        if !allowed.contains(&store.root) {
            return Err(Failure::WrongCommit);
        }
        let shape = &self.scenario.shape;
        let reached = reach(&self.u, shape, disk, store.root).map_err(Failure::Unreadable)?;
        let expected = expected_free(shape, &store, &reached);
        if !store.arenas.iter().map(|a| a.planes.durable).eq(expected) {
            return Err(Failure::WrongSpace);
        }
        Ok(store)
    }

    /// Counts what the bare rule makes of a crashed disk that nobody has repaired.
    fn count_bare(&mut self, disk: &Disk, store: &Store) {
        match mount(&self.u, &self.scenario.shape, disk, &BARE) {
            Err(_) => self.report.bare_refused += 1,
            Ok(b) if same_space(&b, store) => self.report.bare_alike += 1,
            Ok(_) => self.report.bare_wrong += 1,
        }
    }

    fn crashes(&mut self, dev: &Device, ctx: Context) {
        let mut states = dev.crash_states();
        assert!(states.total() <= MOST_STATES, "{}: too many states to enumerate", self.scenario.name);
        let salt = {
            let warm = if self.scenario.warm { dev.media.key().rotate_left(9) } else { 0 };
            let ids = [ctx.acked.addr.into(), ctx.acked.body, ctx.in_flight.addr.into(), ctx.in_flight.body];
            let salt = ids.iter().fold(ctx.depth as u128, |s, id| {
                (s.rotate_left(31) ^ u128::from(*id)).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
            });
            salt ^ warm
        };
        while let Some(disk) = states.next_state() {
            self.report.states += 1;
            if self.seen.insert(disk.key() ^ salt) {
                self.report.distinct += 1;
                if self.scenario.foreign_crashes && ctx.life == 1 {
                    let foreign = std::mem::replace(&mut self.p, self.ours);
                    self.visit_foreign(disk, dev, ctx);
                    self.p = foreign;
                } else {
                    self.visit(disk, dev, ctx);
                }
            }
        }
    }

    /// Judges what a crash of a foreign program left. If nobody can read it, that program included, it is not our loss.
    fn visit_foreign(&mut self, disk: &Disk, dev: &Device, ctx: Context) {
        let shape = &self.scenario.shape;
        let readable =
            |p: &Protocol| mount(&self.u, shape, disk, p).and_then(|s| reach(&self.u, shape, disk, s.root)).is_ok();
        if readable(&self.ours) || readable(&BARE) {
            self.report.bare_refused += u64::from(!readable(&BARE));
            self.visit(disk, dev, ctx);
        } else {
            self.report.lost_by_foreign += 1;
        }
    }

    /// Judges one crash state, and what comes after it.
    fn visit(&mut self, disk: &Disk, dev: &Device, ctx: Context) {
        let store = match self.judge(disk, &[ctx.acked, ctx.in_flight]) {
            Ok(store) => store,
            Err(failure) => return self.fail(ctx.window, failure),
        };
        if self.scenario.bare_crashes {
            self.count_bare(disk, &store);
        }
        // A commit without crashes reads nothing but what mount found, and mount verified all of that: the same mounted
        // store need not be followed twice.
        if ctx.depth == 0 && !self.followed.insert(store.clone()) {
            return;
        }
        let acked = store.root;
        let mut dev = if self.scenario.warm { warm_device(&dev.media, disk) } else { Device::new(disk.clone()) };
        if self.p.flush_at_mount {
            dev.flush(u32::MAX);
        }
        let life = if ctx.depth == 0 { FOLLOW_UP } else { ctx.life + 1 };
        let mut m = Machine { store, dev, acked, life, round: 0 };
        let rounds = if ctx.depth == 0 { &self.scenario.recover[..1] } else { &self.scenario.recover[..] };
        for round in rounds {
            self.report.follow_ups += 1;
            if self.round(&mut m, round, ctx.depth.checked_sub(1), ctx.window).is_err() {
                return self.fail(ctx.window, Failure::Refused);
            }
        }
    }
}

/// Arenas whose free blocks are the same by both mounts.
fn same_space(a: &Store, b: &Store) -> bool {
    a.arenas.iter().map(|x| x.planes).eq(b.arenas.iter().map(|x| x.planes))
}

/// A device whose cache survived a crash of the software: reads give `view`, and `media` is what is durable.
fn warm_device(media: &Disk, view: &Disk) -> Device {
    let mut dev = Device::new(media.clone());
    for addr in 0..media.blocks() as u16 {
        if media.read(addr) != view.read(addr) {
            dev.write(Write { kind: Kind::Data, addr, block: view.read(addr), gen: 0 });
        }
    }
    dev
}
