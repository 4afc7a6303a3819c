//! One damage to a volume, and what a mount makes of it.
//!
//! A volume that was settled is damaged in one place. Whatever the place, exactly one of these must come of it:
//!
//! ```text
//!   detected   mount or a read says which block is damaged; mounted for reading only, all else is there
//!   repaired   mount works and shows everything, and the next commit makes the damage good
//!   harmless   mount works and shows everything: nobody reads these bits
//! ```
//!
//! Never are wrong bytes returned, never is an older commit shown, never is a block free that is in use. Which outcome
//! is right follows from the place: bits that count for nothing are listed by field in [`Subject::allows`], and a bit
//! of any other field that makes no difference is a failure too.
#![forbid(unsafe_code)]

use crate::check::{RawVolume, Rule};
use crate::corrupt_stale::{Stale, StaleDevice};
use crate::disk::Disk;
use crate::explore::without_panic;
use crate::mem::{MemDevice, MemOptions};
use crate::oracle::{mount, Judge};
use crate::platform::{reset_patience, ImpatientPlatform};
use crate::rng::Rng;
use crate::room::Room;
use crate::trace::{Event, Trace};
use crate::tree::{Recording, Snapshot, Tree};
use arenite_core::format::BlockSize;
use arenite_core::{CopyState, Error, MountOptions, MountReport, Store};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// What a block of a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A copy of the superblock.
    Superblock,
    /// A copy of an arena's header.
    Header,
    /// A block of a log, and whether it is the last one.
    Log(bool),
    /// A block of the structure.
    Tree,
}

/// A block of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First byte.
    pub addr: u64,
    /// What it is.
    pub kind: Kind,
}

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// What mount says, and which blocks are free.
    Mount,
    /// All content, too.
    Content,
    /// The next commit, too, and the volume after that.
    Commit,
}

/// What came of a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It was told.
    Detected,
    /// It was made good.
    Repaired,
    /// It makes no difference.
    Harmless,
}

/// A volume that is well, with one commit, and what that commit holds.
pub struct Subject<T: Tree> {
    pub(crate) shape: T::Shape,
    /// Size of the blocks.
    pub block_size: BlockSize,
    /// The bytes.
    pub image: Arc<[u8]>,
    /// What it holds.
    pub snapshot: Snapshot<T::Content>,
    pub(crate) raw: RawVolume,
    pub(crate) tree: BTreeSet<u64>,
}

/// The disk as all writes up to this event leave it, if each arrives; `alter` says what becomes of a write instead.
pub fn image_at(trace: &Trace, end: usize, mut alter: impl FnMut(usize, u64) -> Option<u64>) -> Arc<[u8]> {
    let mut bytes = trace.base.to_vec();
    for (number, event) in trace.events.iter().take(end).enumerate() {
        let Event::Issue { addr, bytes: new, .. } = event else { continue };
        let Some(addr) = alter(number, *addr) else { continue };
        if let Some(target) = bytes.get_mut(addr as usize..addr as usize + new.len()) {
            target.copy_from_slice(new);
        }
    }
    bytes.into()
}

impl<T: Tree> Subject<T> {
    /// What a recorded run leaves behind.
    pub fn last_of(recording: &Recording<T>) -> Result<Self, String> {
        let end = recording.trace.events.len();
        Self::at(recording, end, recording.model.len() - 1)
    }

    /// What it leaves behind if it ends before this event, which is behind the end of commit `number`.
    pub fn at(recording: &Recording<T>, end: usize, number: usize) -> Result<Self, String> {
        let image = image_at(&recording.trace, end, |_, addr| Some(addr));
        let disk = Arc::new(Disk::over(Arc::clone(&image)));
        let raw = RawVolume::read(&*disk, Rule::Sealed).map_err(|error| error.to_string())?;
        let snapshot = recording.model.get(number).ok_or("no such commit")?.clone();
        let (shape, block_size) = (recording.shape.clone(), recording.block_size);
        let mut room = Room::new(block_size, image.len() as u64);
        let device = MemDevice::new(disk, MemOptions::default());
        let store = Store::mount(room.fresh().ok_or("memory")?, &device, &ImpatientPlatform, MountOptions::default());
        let store = store.map_err(|failed| format!("undamaged: {}", failed.error))?;
        let tree = T::open(&shape, &store)?;
        let well = store.roots() == snapshot.roots && tree.content() == snapshot.content && !told(&store.report());
        let tree = tree.addresses().into_iter().collect();
        well.then_some(Self { shape, block_size, image, snapshot, raw, tree }).ok_or("the volume is not well".into())
    }

    /// All blocks of metadata, and those of the structure.
    pub fn places(&self) -> Vec<Place> {
        let unit = self.block_size.len_u64();
        let place = |addr, kind| Place { addr, kind };
        let mut places = vec![place(0, Kind::Superblock), place(self.last_addr(), Kind::Superblock)];
        for arena in &self.raw.arenas {
            places.extend([arena.addr, arena.addr + unit].map(|addr| place(addr, Kind::Header)));
            let last = arena.log.last().copied();
            places.extend(arena.log.iter().map(|addr| place(*addr, Kind::Log(Some(*addr) == last))));
        }
        places.extend(self.tree.iter().map(|addr| place(*addr, Kind::Tree)));
        places
    }

    /// Blocks of metadata that a commit may read, each with others of its kind that a device may mistake for it: its
    /// neighbours in the list, the first and the last.
    pub fn misreads(&self) -> Vec<(Place, u64)> {
        let mut pairs = Vec::new();
        for same in [|kind| matches!(kind, Kind::Header), |kind| matches!(kind, Kind::Log(_))] {
            let places: Vec<_> = self.places().into_iter().filter(|place| same(place.kind)).collect();
            for (at, place) in places.iter().enumerate() {
                let mut others = vec![0, at.wrapping_sub(1), at + 1, at + 2, places.len() - 1];
                others.sort_unstable();
                others.dedup();
                let others = others.into_iter().filter(|other| *other != at).filter_map(|other| places.get(other));
                pairs.extend(others.map(|other| (*place, other.addr)));
            }
        }
        pairs
    }

    /// The bytes of the block at an address.
    pub fn bytes(&self, addr: u64) -> Vec<u8> {
        self.image[addr as usize..addr as usize + self.block_size.len_bytes()].to_vec()
    }

    /// Log blocks of each arena.
    pub fn log_lens(&self) -> Vec<usize> {
        self.raw.arenas.iter().map(|arena| arena.log.len()).collect()
    }

    fn last_addr(&self) -> u64 {
        (self.image.len() as u64 / self.block_size.len_u64() - 1) * self.block_size.len_u64()
    }

    /// Whether the same blocks are free in a store as in the subject.
    pub(crate) fn same_space(&self, store: &Store<'_, '_>) -> Result<(), Unseen> {
        let unit = self.block_size.len_u64();
        let wrong = |addr| Unseen::Wrong(format!("the block at {addr:#x} is free or in use, and was not"));
        self.raw.arenas.iter().try_for_each(|arena| {
            let first = arena.addr + 2 * unit;
            let mut blocks = (first..).step_by(unit as usize).zip(&arena.free);
            let other = blocks.find(|(addr, free)| store.is_free(*addr) != Ok(**free));
            other.map_or(Ok(()), |(addr, _)| Err(wrong(addr)))
        })
    }

    /// The other copy of a superblock or header.
    fn other_copy(&self, place: Place) -> Option<u64> {
        let unit = self.block_size.len_u64();
        match place.kind {
            Kind::Superblock => Some(if place.addr == 0 { self.last_addr() } else { 0 }),
            Kind::Header => {
                let first = self.raw.arenas.iter().any(|arena| arena.addr == place.addr);
                Some(if first { place.addr + unit } else { place.addr - unit })
            }
            Kind::Log(_) | Kind::Tree => None,
        }
    }

    fn kind_of(&self, addr: u64) -> Option<Kind> {
        self.places().into_iter().find(|place| place.addr == addr).map(|place| place.kind)
    }

    /// The field that a byte of a block belongs to (docs/FORMAT.md).
    pub fn field(&self, place: Place, offset: usize) -> &'static str {
        let table_end = 104 + 16 * self.raw.arenas.len();
        let logsz = self.image.get(place.addr as usize + 2..).and_then(|rest| rest.first_chunk());
        let entries_end = 36 + usize::from(u16::from_be_bytes(logsz.copied().unwrap_or([0; 2])));
        match place.kind {
            Kind::Superblock if offset < table_end + 8 => "superblock",
            Kind::Superblock if offset < table_end + 32 => "superblock, extension",
            Kind::Superblock => "superblock, behind the extension",
            Kind::Header => "header",
            Kind::Tree => "block of the structure",
            Kind::Log(_) if (20..36).contains(&offset) => "log, hash and generation of the chain pointer",
            Kind::Log(_) if offset >= entries_end => "log, behind the entries",
            Kind::Log(false) => "log",
            Kind::Log(true) => match offset {
                2..12 => "last log block, length and hash",
                12..20 => "last log block, chain pointer",
                36.. if offset + 8 >= entries_end => "last log block, closing barrier",
                _ => "last log block",
            },
        }
    }

    /// Whether this may come of a flipped bit in a field.
    pub fn allows(&self, field: &str, outcome: Outcome) -> bool {
        match (field, outcome) {
            ("superblock, behind the extension", Outcome::Harmless) => true,
            ("log, hash and generation of the chain pointer" | "log, behind the entries", Outcome::Harmless) => true,
            // It leads nowhere that counts.
            ("last log block, chain pointer", Outcome::Harmless | Outcome::Detected) => true,
            // What the seal in the header vouches for is restored, where there is one.
            ("last log block, length and hash" | "last log block, closing barrier", _) => true,
            ("superblock" | "superblock, extension" | "header", Outcome::Repaired) => true,
            ("block of the structure" | "log" | "last log block", Outcome::Detected) => true,
            _ => false,
        }
    }
}

/// Whether a report says that a copy is not good.
pub(crate) fn told(report: &MountReport) -> bool {
    report.bad_header_copies > 0 || report.superblocks.iter().any(|copy| *copy != CopyState::Good)
}

/// Examines damages of one subject, one after the other.
pub struct Examiner<'s, T: Tree> {
    subject: &'s Subject<T>,
    room: Room,
    disk: Arc<Disk>,
    judge: Judge<T>,
}

impl<'s, T: Tree> Examiner<'s, T> {
    /// An examiner.
    pub fn new(subject: &'s Subject<T>) -> Self {
        let len_bytes = subject.image.len() as u64;
        let judge = Judge::new(subject.shape.clone(), subject.block_size, len_bytes);
        Self { subject, room: Room::new(subject.block_size, len_bytes), disk: Arc::new(Disk::zeroed(len_bytes)), judge }
    }

    /// Flips one bit of a block: 0 is the lowest of its first byte.
    pub fn flip(&mut self, place: Place, bit: usize, depth: Depth) -> Result<Outcome, String> {
        let byte = self.subject.image[place.addr as usize + bit / 8] ^ (1 << (bit % 8));
        let outcome = self.damaged(&[(place.addr + bit as u64 / 8, &[byte])], depth)?;
        let field = self.subject.field(place, bit / 8);
        match self.subject.allows(field, outcome) {
            true => Ok(outcome),
            false => Err(format!("{outcome:?}, which a bit of {field:?} must not be")),
        }
    }

    /// Examines the subject with these bytes changed.
    pub fn damaged(&mut self, changes: &[(u64, &[u8])], depth: Depth) -> Result<Outcome, String> {
        self.disk.rebase(&self.subject.image);
        let put = |(addr, bytes): &(u64, &[u8])| self.disk.write_at(*addr, bytes);
        changes.iter().try_for_each(put).map_err(|error| error.to_string())?;
        let unit = self.subject.block_size.len_u64();
        let hit: Vec<u64> = changes.iter().map(|(addr, _)| addr - addr % unit).collect();
        self.examine(&hit, depth)
    }

    /// Examines another image of the same commit that differs in these blocks.
    pub fn image(&mut self, image: &Arc<[u8]>, hit: &[u64]) -> Result<Outcome, String> {
        self.disk.rebase(image);
        self.examine(hit, Depth::Commit)
    }

    /// Examines the subject on a device that serves one block as it was before: for one read, or until it is written.
    pub fn stale(&mut self, addr: u64, bytes: &[u8], once: bool) -> Result<Outcome, String> {
        self.disk.rebase(&self.subject.image);
        let reads = if once { 1 } else { u32::MAX };
        let stale = Arc::new(Mutex::new(Some(Stale { addr, bytes: bytes.to_vec(), unreadable: false, reads })));
        let outcome = self.look(&[addr], &stale, Depth::Content)?;
        if once && outcome == Outcome::Detected {
            // It was the device for a moment, and not the volume.
            return match self.look(&[addr], &stale, Depth::Content)? {
                Outcome::Harmless => Ok(outcome),
                other => Err(format!("{other:?} after one stale read")),
            };
        }
        Ok(outcome)
    }

    /// Examines the subject on a device that serves these bytes as a block, once, after mount: to the next commit, if
    /// it reads that block. A commit may fail then; but it must not make anything worse, and one that does not fail
    /// must leave everything well. For a copy of a superblock or header, the other one is damaged first, so that the
    /// commit reads this one.
    pub fn misread(&mut self, place: Place, bytes: &[u8]) -> Result<Outcome, String> {
        self.disk.rebase(&self.subject.image);
        if let Some(other) = self.subject.other_copy(place) {
            let garbage = vec![0x67; self.subject.block_size.len_bytes()];
            self.disk.write_at(other, &garbage).map_err(|error| error.to_string())?;
        }
        without_panic(|| self.misread_by_commit(place.addr, bytes))
    }

    fn misread_by_commit(&mut self, addr: u64, bytes: &[u8]) -> Result<Outcome, String> {
        let Self { subject, room, disk, judge } = self;
        let stale = Arc::new(Mutex::new(None));
        let mut model = vec![subject.snapshot.clone()];
        let failed = {
            let device = StaleDevice::new(Arc::clone(disk), Arc::clone(&stale));
            let resources = room.fresh().ok_or("memory is taken")?;
            let store = mount(resources, &device)?;
            let mut tree = T::open(&subject.shape, &store)?;
            let early = |error: Error| format!("before the commit: {error}");
            tree.change(&store, &mut Rng::new(1)).map_err(early)?;
            let roots = tree.prepare(&store).map_err(early)?;
            store.settle().map_err(early)?;
            model.push(Snapshot { roots, generation: None, content: tree.content() });
            let served = Stale { addr, bytes: bytes.to_vec(), unreadable: false, reads: 1 };
            *stale.lock().map_err(|error| error.to_string())? = Some(served);
            let failed = store.commit(roots).and_then(|_| store.settle()).err();
            if failed.is_some() != store.is_read_only() {
                return Err(format!("{failed:?}, but read-only is {}", store.is_read_only()));
            }
            failed
        };
        if failed.is_none() {
            let device = MemDevice::new(Arc::clone(disk), MemOptions::default());
            let resources = room.fresh().ok_or("memory is taken")?;
            let store = mount(resources, &device).map_err(|error| format!("after the commit: {error}"))?;
            if told(&store.report()) || store.roots() != model[1].roots {
                return Err("a commit that did not fail left something that is not well".into());
            }
        }
        judge.disk().rebase(&disk.snapshot());
        judge.judge(&model, false, |_| false)?;
        let harmless = stale.lock().is_ok_and(|stale| stale.is_some());
        Ok(match failed {
            Some(_) => Outcome::Detected,
            None if harmless => Outcome::Harmless,
            None => Outcome::Repaired,
        })
    }

    fn examine(&mut self, hit: &[u64], depth: Depth) -> Result<Outcome, String> {
        let outcome = self.look(hit, &Arc::default(), depth)?;
        if depth < Depth::Commit || outcome == Outcome::Detected {
            return Ok(outcome);
        }
        let next = without_panic(|| self.next_commit());
        next.map(|()| outcome).map_err(|what| format!("{outcome:?}, but {what}"))
    }

    /// The next commit must make the damage good, and the volume must be well in every respect after it.
    fn next_commit(&mut self) -> Result<(), String> {
        let after = {
            let Self { subject, room, disk, .. } = self;
            let resources = room.fresh().ok_or("memory is taken")?;
            let device = MemDevice::new(Arc::clone(disk), MemOptions::default());
            let store = Store::mount(resources, &device, &ImpatientPlatform, MountOptions::default());
            let store = store.map_err(|failed| format!("mount: {}", failed.error))?;
            let mut tree = T::open(&subject.shape, &store)?;
            let failed = |error: Error| format!("the next commit: {error}");
            tree.change(&store, &mut Rng::new(1)).map_err(failed)?;
            let roots = tree.prepare(&store).map_err(failed)?;
            let generation = Some(store.commit(roots).map_err(failed)?);
            let content = tree.content();
            store.unmount().map_err(failed)?;
            Snapshot { roots, generation, content }
        };
        let Self { room, disk, judge, .. } = self;
        {
            let resources = room.fresh().ok_or("memory is taken")?;
            let device = MemDevice::new(Arc::clone(disk), MemOptions::default());
            let store = Store::mount(resources, &device, &ImpatientPlatform, MountOptions::default());
            let store = store.map_err(|failed| format!("mount after the next commit: {}", failed.error))?;
            if told(&store.report()) {
                return Err("not repaired by the next commit".into());
            }
        }
        judge.disk().rebase(&disk.snapshot());
        judge.judge(&[after], false, |_| false).map(drop)
    }

    /// Mounts, compares, and says what became of the blocks at `hit`.
    fn look(&mut self, hit: &[u64], stale: &Arc<Mutex<Option<Stale>>>, depth: Depth) -> Result<Outcome, String> {
        let kinds: Vec<Kind> = hit.iter().filter_map(|addr| self.subject.kind_of(*addr)).collect();
        // A panic is a failure of this damage and no more.
        without_panic(|| self.look_at(&kinds, stale, depth))
    }

    fn look_at(&mut self, kinds: &[Kind], stale: &Arc<Mutex<Option<Stale>>>, depth: Depth) -> Result<Outcome, String> {
        reset_patience();
        let Self { subject, room, disk, .. } = self;
        let is_log = kinds.iter().any(|kind| matches!(kind, Kind::Log(_)));
        let is_tree = kinds.contains(&Kind::Tree);
        let once = stale.lock().is_ok_and(|stale| stale.as_ref().is_some_and(|stale| stale.reads == 1));
        let of = |outcome, shown| match shown {
            Ok(()) => Ok(outcome),
            Err(Unseen::Unreadable(_)) if is_tree => Ok(Outcome::Detected),
            Err(Unseen::Unreadable(what) | Unseen::Wrong(what)) => Err(what),
        };
        {
            let resources = room.fresh().ok_or("memory is taken")?;
            let device = StaleDevice::new(Arc::clone(disk), Arc::clone(stale));
            let mounted = Store::mount(resources, &device, &ImpatientPlatform, MountOptions::default());
            match mounted {
                Ok(store) => {
                    let outcome = if told(&store.report()) { Outcome::Repaired } else { Outcome::Harmless };
                    let space = subject.same_space(&store);
                    return of(outcome, space.and_then(|()| shows(subject, &store, depth)));
                }
                Err(failed) => match failed.error {
                    Error::Corrupt { .. } if is_log => {}
                    error => return Err(format!("mount: {error}")),
                },
            };
        }
        // A bad log leaves everything else to be read.
        let options = MountOptions { read_only: true, damaged: true, ..MountOptions::default() };
        let resources = room.fresh().ok_or("memory is taken")?;
        let device = StaleDevice::new(Arc::clone(disk), Arc::clone(stale));
        let store = Store::mount(resources, &device, &ImpatientPlatform, options);
        let store = store.map_err(|failed| format!("mount for reading only: {}", failed.error))?;
        if store.report().damaged_arenas == 0 && !once {
            return Err("mounted for reading only, with nothing damaged".into());
        }
        of(Outcome::Detected, shows(subject, &store, depth)).map_err(|what| format!("mounted for reading only: {what}"))
    }
}

/// Flips one bit of every byte at the beginning of each block, and of some further in; says which is not as it must be.
pub fn flip_some<T: Tree>(subject: &Subject<T>) -> Result<(), String> {
    let mut examiner = Examiner::new(subject);
    for place in subject.places() {
        for byte in (0..256).chain((256..subject.block_size.len_bytes()).step_by(61)) {
            let outcome = examiner.flip(place, byte * 8 + byte % 8, Depth::Commit);
            outcome.map_err(|what| format!("byte {byte} of the block at {:#x}: {what}", place.addr))?;
        }
    }
    Ok(())
}

/// Answers what the next commit reads of one block of metadata with another one of the same kind, of every pair of
/// neighbours; how many were noticed, of no consequence, and never read, or which makes a difference that it must not.
pub fn misread_some<T: Tree>(subject: &Subject<T>) -> Result<[u64; 3], String> {
    let mut examiner = Examiner::new(subject);
    let mut counts = [0; 3];
    for (place, other) in subject.misreads() {
        let bytes = subject.bytes(other);
        let outcome = examiner.misread(place, &bytes);
        let outcome = outcome.map_err(|what| format!("{other:#x} for {:#x}: {what}", place.addr))?;
        counts[outcome as usize] += 1;
    }
    Ok(counts)
}

/// Why a store does not show what it should.
pub(crate) enum Unseen {
    /// It says that something cannot be read.
    Unreadable(String),
    /// It says something else.
    Wrong(String),
}

fn shows<T: Tree>(subject: &Subject<T>, store: &Store<'_, '_>, depth: Depth) -> Result<(), Unseen> {
    if store.roots() != subject.snapshot.roots {
        return Err(Unseen::Wrong("shows another commit".into()));
    }
    if depth == Depth::Mount {
        return Ok(());
    }
    let tree = T::open(&subject.shape, store).map_err(Unseen::Unreadable)?;
    match tree.content() == subject.snapshot.content {
        true => Ok(()),
        false => Err(Unseen::Wrong("the content is not that of the commit".into())),
    }
}

impl<T: Tree> std::fmt::Debug for Subject<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("places", &self.places().len()).finish_non_exhaustive()
    }
}

impl<T: Tree> std::fmt::Debug for Examiner<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Examiner").field("subject", &self.subject).finish_non_exhaustive()
    }
}
