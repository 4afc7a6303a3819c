//! All that a crash in one epoch can leave.
//!
//! The pending writes of an epoch touch some sectors; after a crash each of these holds what was durable or what one
//! of the writes had for it, independently of all others. So a crash state is one choice for each sector that any write
//! would change, and sectors that no write changes take no part.
//!
//! - Up to [`Limits::exhaustive_writes`] writes, every combination of choices is visited: every subset of the writes,
//!   every tear of each, and for writes to one place every order.
//! - Beyond that: every subset of up to [`Limits::subset_writes`] writes, each whole; for still more writes every
//!   prefix in the order of issue, the loss of every single write and every pair, every single survivor, and
//!   [`Limits::samples`] subsets at random. And one write torn at a time, the others all present or all absent: of up
//!   to six sectors every combination, of more every prefix, every suffix and every single sector.
//!
//! What the device promises is in [`Contract`]: a device that promises more has fewer states.
#![forbid(unsafe_code)]

use crate::disk::Disk;
use crate::point::{Mask, Point, Tear};
use crate::rng::Rng;
use crate::trace::{Epoch, SECTOR_LEN_BYTES};
use arenite_core::DeviceError;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};

/// What a device promises about writes that no flush covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contract {
    /// What is written whole or not at all, in bytes: a sector, or a block on a device with atomic writes of blocks.
    pub atomic_len_bytes: usize,
    /// Writes reach the medium in the order of issue: what survives is a prefix, its last write perhaps torn.
    pub ordered: bool,
}

impl Contract {
    /// What the store assumes: sectors of 512 bytes, in any order.
    pub const WEAKEST: Self = Self { atomic_len_bytes: SECTOR_LEN_BYTES, ordered: false };
}

impl Default for Contract {
    fn default() -> Self {
        Self::WEAKEST
    }
}

/// How far the enumeration goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Epochs with up to this number of writes are enumerated exhaustively.
    pub exhaustive_writes: usize,
    /// ... if they have no more states than this (writes of larger blocks have more sectors).
    pub exhaustive_states: u64,
    /// Every subset of whole writes, up to this number of them.
    pub subset_writes: usize,
    /// Subsets at random for each epoch that has more.
    pub samples: u64,
    /// What the device promises.
    pub contract: Contract,
}

impl Limits {
    /// Up to four writes, and then the states that every larger epoch gets, and some more.
    pub const DEFAULT: Self = Self {
        exhaustive_writes: 4,
        exhaustive_states: 1 << 16,
        subset_writes: 4,
        samples: 32,
        contract: Contract::WEAKEST,
    };

    /// For blocks of many sectors: every subset of up to twelve writes, beyond that a thousand at random.
    pub const PRODUCTION: Self = Self { exhaustive_states: 1 << 12, subset_writes: 12, samples: 1000, ..Self::DEFAULT };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// One sector that pending writes would change.
struct Site<'e> {
    addr: u64,
    /// What it may hold instead of what is durable, in the order of issue, each once.
    options: Vec<&'e [u8]>,
    /// For each write by its number, the option that it would leave here, counted from 1; 0 is what is durable.
    by_write: BTreeMap<usize, u8>,
}

/// The crash states of one epoch.
pub struct CrashSpace<'e> {
    epoch: &'e Epoch,
    sites: Vec<Site<'e>>,
    /// For each write that changes anything, the sites where it does, and the option that it leaves there.
    writes: Vec<Vec<(usize, u8)>>,
    /// Two writes meet in some sector.
    overlapping: bool,
    limits: Limits,
}

/// For each site, 0 for what is durable, or the number of an option.
pub type Choice = [u8];

type Visitor<'v> = dyn FnMut(&Point, &Choice) -> ControlFlow<()> + 'v;

impl<'e> CrashSpace<'e> {
    /// The crash states of an epoch.
    pub fn new(epoch: &'e Epoch, limits: Limits) -> Self {
        let unit = limits.contract.atomic_len_bytes.max(1);
        let mut sites: BTreeMap<u64, Site<'e>> = BTreeMap::new();
        for (number, write) in epoch.pending.iter().enumerate() {
            // Units lie at multiples of their length on the device, not at multiples from the start of the write.
            for part in units(write.addr, write.bytes.len(), unit) {
                let addr = write.addr + part.start as u64;
                let site =
                    sites.entry(addr).or_insert_with(|| Site { addr, options: Vec::new(), by_write: BTreeMap::new() });
                let bytes = &write.bytes[part];
                site.add(number, bytes, durable(epoch, addr, bytes.len()));
            }
        }
        let sites: Vec<_> = sites.into_values().filter(|site| !site.options.is_empty()).collect();
        // From here on writes are counted without those that change nothing.
        let changing: BTreeSet<_> = sites.iter().flat_map(|site| site.by_write.keys().copied()).collect();
        let position: BTreeMap<_, _> = changing.iter().enumerate().map(|(at, write)| (*write, at)).collect();
        let mut writes = vec![Vec::new(); changing.len()];
        for (at, site) in sites.iter().enumerate() {
            for (write, option) in &site.by_write {
                writes[position[write]].push((at, *option));
            }
        }
        let overlapping = sites.iter().any(|site| site.by_write.len() > 1);
        Self { epoch, sites, writes, overlapping, limits }
    }

    /// How many combinations of choices there are, if they can be counted in 64 bits.
    pub fn combinations(&self) -> Option<u64> {
        self.sites.iter().try_fold(1u64, |product, site| product.checked_mul(site.options.len() as u64 + 1))
    }

    /// Whether every combination is visited.
    pub fn is_exhaustive(&self) -> bool {
        !self.limits.contract.ordered
            && self.writes.len() <= self.limits.exhaustive_writes
            && self.combinations().is_some_and(|count| count <= self.limits.exhaustive_states)
    }

    /// Writes that would change something.
    pub fn writes(&self) -> usize {
        self.writes.len()
    }

    /// Numbers of the sites in a range of the device.
    pub fn sites_in(&self, addr: u64, len: u64) -> Range<usize> {
        let from = self.sites.partition_point(|site| site.addr < addr);
        from..self.sites.partition_point(|site| site.addr < addr + len).max(from)
    }

    /// Puts the crash state on a disk whose base is that of the epoch.
    pub fn apply(&self, choice: &Choice, disk: &Disk) -> Result<(), DeviceError> {
        disk.rebase(&self.epoch.base);
        for (site, option) in self.sites.iter().zip(choice) {
            let bytes = usize::from(*option).checked_sub(1).and_then(|at| site.options.get(at));
            if let Some(bytes) = bytes {
                disk.write_at(site.addr, bytes)?;
            }
        }
        Ok(())
    }

    /// The choice that a point stands for; the same buffer can serve many.
    pub fn choose(&self, point: &Point, choice: &mut Vec<u8>) {
        choice.clear();
        choice.resize(self.sites.len(), 0);
        match point {
            Point::Choice(options) => choice.iter_mut().zip(options).for_each(|(to, from)| *to = *from),
            Point::Writes(mask, tear) => {
                let mut put = |write: usize| {
                    let torn = tear.write() == Some(write);
                    let sectors = self.writes.get(write).filter(|_| torn || mask.has(write));
                    for (sector, (at, option)) in sectors.into_iter().flatten().enumerate() {
                        if !torn || tear.has(sector) {
                            choice[*at] = *option;
                        }
                    }
                };
                // The last one to be put wins.
                match tear {
                    Tear::FirstWins => (0..self.writes.len()).rev().for_each(&mut put),
                    // A write that is torn is the one of interest: no other one hides it.
                    _ => {
                        let whole = (0..self.writes.len()).filter(|at| tear.write() != Some(*at));
                        whole.chain(tear.write()).for_each(&mut put);
                    }
                }
            }
        }
    }

    /// Visits the crash states until told to stop. Without exhaustion, some come up more than once.
    pub fn visit(&self, seed: u64, mut visitor: impl FnMut(&Point, &Choice) -> ControlFlow<()>) -> ControlFlow<()> {
        if self.is_exhaustive() {
            return self.visit_all(&mut visitor);
        }
        let mut choice = Vec::new();
        let mut visit = |mask: Mask, tear: Tear| {
            let point = Point::Writes(mask, tear);
            self.choose(&point, &mut choice);
            visitor(&point, &choice)
        };
        if self.limits.contract.ordered {
            return self.visit_in_order(&mut visit);
        }
        self.visit_subsets(seed, &mut visit)?;
        self.visit_tears(&mut visit)
    }

    /// One of all crash states, as by chance: a prefix of the writes, a subset of them, one with a torn write besides,
    /// or each sector for itself.
    pub fn draw(&self, rng: &mut Rng) -> Point {
        let count = self.writes.len();
        let bits = |rng: &mut Rng| Mask::Bits((0..count.div_ceil(64)).map(|_| rng.next_u64()).collect());
        match rng.below(6) {
            0 => Point::Writes(Mask::Prefix(rng.below(count as u64 + 1) as usize), Tear::None),
            1 => Point::Writes(bits(rng), Tear::None),
            2 if count > 0 => {
                let torn = Tear::Bits(rng.below(count as u64) as usize, rng.next_u64());
                Point::Writes(bits(rng), torn)
            }
            _ => {
                let option = |site: &Site<'_>| rng.below(site.options.len() as u64 + 1) as u8;
                Point::Choice(self.sites.iter().map(option).collect())
            }
        }
    }

    fn visit_all(&self, visitor: &mut Visitor<'_>) -> ControlFlow<()> {
        let mut point = Point::Choice(vec![0; self.sites.len()]);
        loop {
            let Point::Choice(choice) = &point else { return ControlFlow::Continue(()) };
            visitor(&point, choice)?;
            let Point::Choice(choice) = &mut point else { return ControlFlow::Continue(()) };
            // Count up, the first site fastest.
            let Some(at) = (0..choice.len()).find(|at| usize::from(choice[*at]) < self.sites[*at].options.len()) else {
                return ControlFlow::Continue(());
            };
            choice[at] += 1;
            choice[..at].fill(0);
        }
    }

    /// Subsets of whole writes. Where several of them meet in one sector, both the first and the last may have won.
    fn visit_subsets(&self, seed: u64, visit: &mut impl FnMut(Mask, Tear) -> ControlFlow<()>) -> ControlFlow<()> {
        let count = self.writes.len();
        let mut both = |mask: Mask| {
            if self.overlapping {
                visit(mask.clone(), Tear::FirstWins)?;
            }
            visit(mask, Tear::None)
        };
        if count <= self.limits.subset_writes.min(20) {
            return (0..1u64 << count).try_for_each(|bits| both(Mask::Bits(vec![bits])));
        }
        (0..=count).try_for_each(|len| both(Mask::Prefix(len)))?;
        for first in 0..count {
            both(Mask::Lost(first))?;
            both(Mask::Only(first))?;
            (first + 1..count).try_for_each(|second| both(Mask::LostTwo(first, second)))?;
        }
        let mut rng = Rng::new(seed ^ self.epoch.index as u64);
        for _ in 0..self.limits.samples {
            both(Mask::Bits((0..count.div_ceil(64)).map(|_| rng.next_u64()).collect()))?;
        }
        ControlFlow::Continue(())
    }

    fn visit_tears(&self, visit: &mut impl FnMut(Mask, Tear) -> ControlFlow<()>) -> ControlFlow<()> {
        for write in 0..self.writes.len() {
            for others in [Mask::Prefix(0), Mask::Prefix(self.writes.len())] {
                self.tears(write, &mut |tear| visit(others.clone(), tear))?;
            }
        }
        ControlFlow::Continue(())
    }

    /// All tears of one write.
    fn tears(&self, write: usize, visit: &mut impl FnMut(Tear) -> ControlFlow<()>) -> ControlFlow<()> {
        match self.writes[write].len() {
            count @ 0..=6 => (1..(1u64 << count) - 1).try_for_each(|bits| visit(Tear::Bits(write, bits))),
            count => (0..count).try_for_each(|at| {
                if at > 0 {
                    visit(Tear::Prefix(write, at))?;
                    visit(Tear::Suffix(write, at))?;
                }
                visit(Tear::One(write, at))
            }),
        }
    }

    fn visit_in_order(&self, visit: &mut impl FnMut(Mask, Tear) -> ControlFlow<()>) -> ControlFlow<()> {
        for len in 0..=self.writes.len() {
            visit(Mask::Prefix(len), Tear::None)?;
            if len < self.writes.len() {
                self.tears(len, &mut |tear| visit(Mask::Prefix(len), tear))?;
            }
        }
        ControlFlow::Continue(())
    }
}

impl<'e> Site<'e> {
    fn add(&mut self, write: usize, bytes: &'e [u8], durable: &[u8]) {
        if bytes == durable && self.options.is_empty() {
            return;
        }
        let known = self.options.iter().position(|option| *option == bytes);
        let at = match (known, bytes == durable) {
            (Some(at), _) => at + 1,
            (None, true) => 0,
            (None, false) => {
                self.options.push(bytes);
                self.options.len()
            }
        };
        self.by_write.insert(write, at as u8);
    }
}

/// Cuts a write at the multiples of `unit` on the device; ranges within the write.
fn units(addr: u64, len: usize, unit: usize) -> impl Iterator<Item = Range<usize>> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let here = ((addr + done as u64) % unit as u64) as usize;
        let part = done..(done + unit - here).min(len);
        done = part.end;
        (!part.is_empty()).then_some(part)
    })
}

fn durable(epoch: &Epoch, addr: u64, len: usize) -> &[u8] {
    epoch.base.get(addr as usize..addr as usize + len).unwrap_or(&[])
}

impl std::fmt::Debug for CrashSpace<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CrashSpace").field("writes", &self.writes.len()).field("sites", &self.sites.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::tests::sector;
    use crate::trace::PendingWrite;
    use std::collections::HashSet;
    use std::sync::Arc;

    fn write(at: u64, values: &[u8]) -> PendingWrite {
        let bytes = values.iter().flat_map(|value| sector(*value).to_vec()).collect();
        PendingWrite { addr: at * SECTOR_LEN_BYTES as u64, bytes }
    }

    fn epoch(pending: Vec<PendingWrite>) -> Epoch {
        let base = vec![0; 64 * SECTOR_LEN_BYTES].into();
        Epoch { index: 0, base, pending, acknowledged: 0, begun: 0 }
    }

    /// First bytes of all sectors, for each state visited.
    fn images(epoch: &Epoch, limits: Limits) -> (u64, HashSet<Vec<u8>>) {
        let space = CrashSpace::new(epoch, limits);
        let disk = Disk::over(Arc::clone(&epoch.base));
        let (mut visited, mut seen) = (0, HashSet::new());
        let mut again = Vec::new();
        let _ = space.visit(1, |point, choice| {
            visited += 1;
            space.apply(choice, &disk).unwrap();
            let bytes = disk.snapshot();
            space.choose(&point.to_string().parse().unwrap(), &mut again);
            assert_eq!(again, choice, "{point}");
            seen.insert(bytes.iter().step_by(SECTOR_LEN_BYTES).copied().collect());
            ControlFlow::Continue(())
        });
        (visited, seen)
    }

    #[test]
    fn every_subset_and_every_tear_once() {
        let epoch = epoch(vec![write(0, &[1, 2]), write(5, &[3, 0, 4])]);
        let (visited, seen) = images(&epoch, Limits::default());
        // Four sectors change; the one that is written as it was takes no part.
        assert_eq!((visited, seen.len()), (16, 16));
        assert!(seen.iter().any(|image| image[..8] == [1, 0, 0, 0, 0, 0, 0, 4]));
    }

    #[test]
    fn writes_to_one_place_may_land_in_any_order() {
        let epoch = epoch(vec![write(0, &[1, 1]), write(0, &[2, 2])]);
        let (visited, seen) = images(&epoch, Limits::default());
        assert_eq!((visited, seen.len()), (9, 9));
        assert!(seen.iter().any(|image| image[..2] == [2, 1]));
        let (_, seen) = images(&epoch, Limits { exhaustive_writes: 1, samples: 0, ..Limits::DEFAULT });
        assert!([[0, 0], [1, 1], [2, 2], [2, 1]].iter().all(|want| seen.iter().any(|image| image[..2] == *want)));
    }

    #[test]
    fn a_rewrite_of_what_is_durable_can_still_win_over_a_change() {
        let epoch = epoch(vec![write(0, &[1]), write(0, &[0])]);
        let (_, seen) = images(&epoch, Limits::default());
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn beyond_the_limit_prefixes_losses_and_single_tears() {
        let epoch = epoch((0..6).map(|at| write(at * 4, &[1, 2, 3, 4])).collect());
        let space = CrashSpace::new(&epoch, Limits::default());
        assert!(!space.is_exhaustive());
        let (visited, seen) = images(&epoch, Limits { samples: 0, ..Limits::default() });
        // 7 prefixes, 6 + 15 losses, 6 survivors, 6 writes torn in 14 ways with the others there or not.
        assert_eq!(visited, 7 + 21 + 6 + 6 * 14 * 2);
        // All but the last lost is a prefix too, and so are the loss of the last two and the survival of the first.
        assert_eq!(seen.len() as u64, visited - 3);
        let (visited, _) = images(&epoch, Limits { subset_writes: 6, ..Limits::default() });
        assert_eq!(visited, 64 + 6 * 14 * 2);
    }

    #[test]
    fn writes_of_many_sectors_are_torn_at_every_point_and_single_sectors_survive() {
        let epoch = epoch((0..5).map(|at| write(at * 10, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10])).collect());
        let (visited, _) = images(&epoch, Limits { subset_writes: 12, ..Limits::default() });
        assert_eq!(visited, 32 + 5 * (9 + 9 + 10) * 2);
    }

    #[test]
    fn devices_that_promise_more_have_fewer_states() {
        let epoch = epoch(vec![write(0, &[1, 2, 3, 4]), write(8, &[5, 6, 7, 8])]);
        let with = |atomic_len_bytes, ordered| Limits {
            contract: Contract { atomic_len_bytes, ordered },
            ..Limits::default()
        };
        let count = |limits| images(&epoch, limits).1.len();
        assert_eq!(count(with(512, false)), 256);
        assert_eq!(count(with(1024, false)), 16);
        assert_eq!(count(with(2048, false)), 4);
        // Nothing, 14 tears of the first, the first, 14 tears of the second, both.
        assert_eq!(count(with(512, true)), 1 + 14 + 1 + 14 + 1);
        assert_eq!(count(with(2048, true)), 3);
    }

    #[test]
    fn nothing_pending_is_one_state() {
        assert_eq!(images(&epoch(vec![]), Limits::default()).0, 1);
    }
}
