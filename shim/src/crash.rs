//! All that a crash in one epoch can leave.
//!
//! The pending writes of an epoch touch some sectors; after a crash each of these holds what was durable or what one
//! of the writes had for it, independently of all others. So a crash state is one choice for each sector that any write
//! would change, and sectors that no write changes take no part.
//!
//! - Up to [`Limits::exhaustive_writes`] writes, every combination of choices is visited: every subset of the writes,
//!   every tear of each, and for writes to one place every order.
//! - Beyond that: every prefix in the order of issue, the loss of every single write and every pair, every tear of every
//!   single write with the others all present or all absent, and some combinations at random.
#![forbid(unsafe_code)]

use crate::disk::Disk;
use crate::rng::{mix64, Rng};
use crate::trace::{Epoch, SECTOR_LEN_BYTES};
use arenite_core::hash::hash64;
use arenite_core::DeviceError;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// How far the enumeration goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Epochs with up to this number of writes are enumerated exhaustively.
    pub exhaustive_writes: usize,
    /// ... if they have no more states than this (writes of larger blocks have more sectors).
    pub exhaustive_states: u64,
    /// States at random for each epoch that is not.
    pub samples: u64,
}

impl Limits {
    /// Up to four writes, and then the states that every larger epoch gets, and some more.
    pub const DEFAULT: Self = Self { exhaustive_writes: 4, exhaustive_states: 1 << 16, samples: 32 };
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
    /// For each option, what it changes in the digest of the whole disk.
    deltas: Vec<u128>,
}

/// The crash states of one epoch.
pub struct CrashSpace<'e> {
    epoch: &'e Epoch,
    sites: Vec<Site<'e>>,
    /// Number of writes that change anything.
    writes: usize,
    limits: Limits,
}

/// One crash state: for each site, 0 for what is durable, or the number of an option.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Choice(Vec<u8>);

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|option| write!(f, "{option:x}"))
    }
}

impl std::str::FromStr for Choice {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.char_indices().filter_map(|(at, digit)| text.get(at..at + digit.len_utf8()));
        digits.map(|digit| u8::from_str_radix(digit, 16)).collect::<Result<_, _>>().map(Self)
    }
}

/// A digest of the place and bytes of a sector. The digest of a disk is the sum over its sectors, so that it follows a
/// change of one of them at once.
fn sector_digest(addr: u64, bytes: &[u8]) -> u128 {
    let content = hash64(bytes);
    // A second, independent function of the same bytes: their words, mixed one after the other.
    let chained = bytes.chunks(8).fold(addr, |sum, word| {
        let mut padded = [0; 8];
        padded.iter_mut().zip(word).for_each(|(to, from)| *to = *from);
        mix64(sum.wrapping_add(u64::from_le_bytes(padded)).wrapping_add(0x9e37_79b9_7f4a_7c15))
    });
    u128::from(mix64(content ^ mix64(addr))) << 64 | u128::from(chained)
}

/// What changes in the digest of a disk that was `old` and is `new`; both have the same length.
pub fn digest_change(old: &[u8], new: &[u8]) -> u128 {
    let sectors = old.chunks(SECTOR_LEN_BYTES).zip(new.chunks(SECTOR_LEN_BYTES)).enumerate();
    sectors.filter(|(_, (old, new))| old != new).fold(0, |sum, (at, (old, new))| {
        let addr = (at * SECTOR_LEN_BYTES) as u64;
        sum.wrapping_add(sector_digest(addr, new)).wrapping_sub(sector_digest(addr, old))
    })
}

impl<'e> CrashSpace<'e> {
    /// The crash states of an epoch.
    pub fn new(epoch: &'e Epoch, limits: Limits) -> Self {
        let mut sites: BTreeMap<u64, Site<'e>> = BTreeMap::new();
        for (number, write) in epoch.pending.iter().enumerate() {
            for (at, bytes) in write.bytes.chunks(SECTOR_LEN_BYTES).enumerate() {
                let addr = write.addr + (at * SECTOR_LEN_BYTES) as u64;
                let site = sites.entry(addr).or_insert_with(|| Site {
                    addr,
                    options: Vec::new(),
                    by_write: BTreeMap::new(),
                    deltas: Vec::new(),
                });
                site.add(number, bytes, durable(epoch, addr, bytes.len()));
            }
        }
        let mut sites: Vec<_> = sites.into_values().filter(|site| !site.options.is_empty()).collect();
        // From here on writes are counted without those that change nothing.
        let changing: BTreeSet<_> = sites.iter().flat_map(|site| site.by_write.keys().copied()).collect();
        let position: BTreeMap<_, _> = changing.iter().enumerate().map(|(at, write)| (*write, at)).collect();
        for site in &mut sites {
            site.by_write = site.by_write.iter().map(|(write, option)| (position[write], *option)).collect();
        }
        Self { epoch, sites, writes: changing.len(), limits }
    }

    /// How many combinations of choices there are, if they can be counted in 64 bits.
    pub fn combinations(&self) -> Option<u64> {
        self.sites.iter().try_fold(1u64, |product, site| product.checked_mul(site.options.len() as u64 + 1))
    }

    /// Whether every combination is visited.
    pub fn is_exhaustive(&self) -> bool {
        self.writes <= self.limits.exhaustive_writes
            && self.combinations().is_some_and(|count| count <= self.limits.exhaustive_states)
    }

    /// Writes that would change something.
    pub fn writes(&self) -> usize {
        self.writes
    }

    /// What a choice changes in the digest of the epoch's base.
    pub fn delta(&self, choice: &Choice) -> u128 {
        let chosen = self.sites.iter().zip(&choice.0);
        chosen.fold(0u128, |sum, (site, option)| sum.wrapping_add(site.delta(*option)))
    }

    /// Puts the crash state on a disk whose base is that of the epoch.
    pub fn apply(&self, choice: &Choice, disk: &Disk) -> Result<(), DeviceError> {
        disk.rebase(&self.epoch.base);
        for (site, option) in self.sites.iter().zip(&choice.0) {
            let bytes = usize::from(*option).checked_sub(1).and_then(|at| site.options.get(at));
            if let Some(bytes) = bytes {
                disk.write_at(site.addr, bytes)?;
            }
        }
        Ok(())
    }

    /// Visits the crash states until told to stop. Without exhaustion, some come up more than once.
    pub fn visit(&self, seed: u64, mut visitor: impl FnMut(Choice) -> ControlFlow<()>) -> ControlFlow<()> {
        if self.is_exhaustive() {
            return self.visit_all(&mut visitor);
        }
        self.visit_losses(&mut visitor)?;
        self.visit_tears(&mut visitor)?;
        let mut rng = Rng::new(seed ^ self.epoch.index as u64);
        for _ in 0..self.limits.samples {
            let options = self.sites.iter().map(|site| rng.below(site.options.len() as u64 + 1) as u8);
            visitor(Choice(options.collect()))?;
        }
        ControlFlow::Continue(())
    }

    fn visit_all(&self, visitor: &mut impl FnMut(Choice) -> ControlFlow<()>) -> ControlFlow<()> {
        let mut choice = vec![0; self.sites.len()];
        loop {
            visitor(Choice(choice.clone()))?;
            // Count up, the first site fastest.
            let Some(at) = (0..choice.len()).find(|at| usize::from(choice[*at]) < self.sites[*at].options.len()) else {
                return ControlFlow::Continue(());
            };
            choice[at] += 1;
            choice[..at].fill(0);
        }
    }

    fn visit_losses(&self, visitor: &mut impl FnMut(Choice) -> ControlFlow<()>) -> ControlFlow<()> {
        let count = self.writes;
        for len in 0..=count {
            self.visit_subset(|at| at < len, visitor)?;
        }
        for first in 0..count {
            self.visit_subset(|at| at != first, visitor)?;
            for second in first + 1..count {
                self.visit_subset(|at| at != first && at != second, visitor)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// A subset of the writes, whole; `present` is asked for the number of each in the order of issue. Where several
    /// of them meet in one sector, both the first and the last may have won.
    fn visit_subset(
        &self,
        present: impl Fn(usize) -> bool,
        visitor: &mut impl FnMut(Choice) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let chosen = |site: &Site<'e>, last: bool| {
            let mut options = site.by_write.iter().filter(|(write, _)| present(**write));
            if last { options.next_back() } else { options.next() }.map_or(0, |(_, option)| *option)
        };
        let winners = |last| Choice(self.sites.iter().map(|site| chosen(site, last)).collect());
        let (last, first) = (winners(true), winners(false));
        if first != last {
            visitor(first)?;
        }
        visitor(last)
    }

    fn visit_tears(&self, visitor: &mut impl FnMut(Choice) -> ControlFlow<()>) -> ControlFlow<()> {
        for write in 0..self.writes {
            let torn: Vec<_> =
                (0..self.sites.len()).filter(|at| self.sites[*at].by_write.contains_key(&write)).collect();
            // More sectors than that are torn at one point only, in either direction.
            let masks: Vec<u64> = match torn.len() {
                count @ 0..=6 => (1..(1 << count) - 1).collect(),
                count => (1..count.min(63)).flat_map(|at| [(1 << at) - 1, !((1 << at) - 1)]).collect(),
            };
            for others in [false, true] {
                let whole = |site: &Site<'e>| {
                    let mut options = site.by_write.iter().filter(|(other, _)| others && **other != write);
                    options.next_back().map_or(0, |(_, option)| *option)
                };
                let base: Vec<_> = self.sites.iter().map(whole).collect();
                for mask in &masks {
                    let mut choice = base.clone();
                    for (bit, at) in torn.iter().enumerate() {
                        if mask >> bit.min(63) & 1 != 0 {
                            choice[*at] = self.sites[*at].by_write.get(&write).copied().unwrap_or(0);
                        }
                    }
                    visitor(Choice(choice))?;
                }
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
                let (old, new) = (sector_digest(self.addr, durable), sector_digest(self.addr, bytes));
                self.deltas.push(new.wrapping_sub(old));
                self.options.len()
            }
        };
        self.by_write.insert(write, at as u8);
    }

    fn delta(&self, option: u8) -> u128 {
        usize::from(option).checked_sub(1).and_then(|at| self.deltas.get(at)).copied().unwrap_or(0)
    }
}

fn durable(epoch: &Epoch, addr: u64, len: usize) -> &[u8] {
    epoch.base.get(addr as usize..addr as usize + len).unwrap_or(&[])
}

impl std::fmt::Debug for CrashSpace<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CrashSpace").field("writes", &self.writes).field("sites", &self.sites.len()).finish()
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
        let _ = space.visit(1, |choice| {
            visited += 1;
            space.apply(&choice, &disk).unwrap();
            let bytes = disk.snapshot();
            assert_eq!(digest_change(&epoch.base, &bytes), space.delta(&choice));
            assert_eq!(choice, choice.to_string().parse().unwrap());
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
        let (_, seen) = images(&epoch, Limits { exhaustive_writes: 1, samples: 0, ..Limits::default() });
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
        // 7 prefixes, 6 + 15 losses, 6 writes torn in 14 ways with the others there or not.
        assert_eq!(visited, 7 + 21 + 6 * 14 * 2);
        // All but the last lost is a prefix too, and so is the loss of the last two.
        assert_eq!(seen.len() as u64, visited - 2);
    }

    #[test]
    fn nothing_pending_is_one_state() {
        assert_eq!(images(&epoch(vec![]), Limits::default()).0, 1);
    }
}
