//! The judge of one crash state.
//!
//! A state is good when
//! 1. mount succeeds;
//! 2. it shows one of the commits that the model knows, whole: roots, generation, and every block's content;
//! 3. the free map is the complement of what is reachable, the logs, and the two blocks at each arena's end, both on disk
//!    and in the store;
//! 4. a further commit works; after it, both copies of everything are good, the bare rule of the original reads the same
//!    free space as the sealed one, and a remount shows the new commit, whole, with its space exact.
//!
//! Whether the commit that is shown is one that may be shown is for the caller to say.
#![forbid(unsafe_code)]

use crate::check::{check_volume, RawVolume, Rule};
use crate::client::{Client, Version};
use crate::disk::Disk;
use crate::mem::{MemDevice, MemOptions};
use crate::memory_box::{boxed_memory, renew_memory, SmallMemory};
use crate::platform::{reset_patience, ImpatientPlatform};
use crate::record::{ReadDigest, Reads, Recorder, Tape};
use crate::trace::Mark;
use crate::workload::{Recording, Snapshot};
use arenite_core::{Device, Error, MountOptions, Resources, Roots, Store};
use std::sync::Arc;

/// What the judge found in a state that is good.
#[derive(Debug)]
pub struct Verdict {
    /// Number of the commit that is shown.
    pub shown: usize,
    /// What mount read.
    pub reads: Reads,
    /// The further commit, if it was to be recorded.
    pub recovery: Option<Recording>,
}

/// Judges crash states, one after the other, in one memory and on one disk.
pub struct Judge {
    memory: Box<SmallMemory>,
    disk: Arc<Disk>,
    levels: u32,
    next_version: u64,
}

/// Versions of the judge's own: above those of any workload.
const FIRST_VERSION: u64 = 1 << 40;

impl Judge {
    /// A judge for crash states of `len_bytes` bytes that hold a structure with so many levels.
    pub fn new(len_bytes: u64, levels: u32) -> Self {
        Self { memory: boxed_memory(), disk: Arc::new(Disk::zeroed(len_bytes)), levels, next_version: FIRST_VERSION }
    }

    /// The disk on which to put a state. The judge changes it.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Judges what is on the disk. With `record`, the further commit is recorded; without, it is left out if `known` says
    /// that it was tried on a state in which mount read the same (see the head of [`crate::explore`]).
    pub fn judge(
        &mut self,
        model: &[Snapshot],
        record: bool,
        known: impl Fn(&Reads) -> bool,
    ) -> Result<Verdict, String> {
        reset_patience();
        let base = record.then(|| self.disk.snapshot());
        let tape = record.then(Tape::new);
        renew_memory(&mut self.memory);
        let resources = self.memory.take().ok_or("memory is taken")?;
        let device = MemDevice::new(Arc::clone(&self.disk), MemOptions { max_segments: 1, ..MemOptions::default() });
        let device = match &tape {
            Some(tape) => Recorder::new(device, Arc::clone(tape)),
            None => Recorder::off(device),
        };
        let device = ReadDigest::new(device);
        let store = mount(resources, &device)?;
        let reads = device.reads();
        let shown = usize::try_from(store.roots().next_qid).map_err(|_| "commit number out of range")?;
        let snapshot = model.get(shown).ok_or_else(|| format!("shows commit {shown}, which was never begun"))?;
        let client = check_shown(&self.disk, &store, snapshot, self.levels)?;
        if !record && known(&reads) {
            return Ok(Verdict { shown, reads, recovery: None });
        }
        let after = further_commit(&store, client, shown, &mut self.next_version, tape.as_deref())?;
        store.unmount().map_err(|error| format!("unmount after the further commit: {error}"))?;
        drop(device);
        self.check_after(&after)?;
        let recovery = tape.zip(base).map(|(tape, base)| {
            let mut model = model[..=shown].to_vec();
            model.push(after);
            Recording { levels: self.levels, trace: tape.trace(base), model }
        });
        Ok(Verdict { shown, reads, recovery })
    }

    /// Checks the volume as the further commit left it.
    fn check_after(&mut self, after: &Snapshot) -> Result<(), String> {
        let late = |what: String| format!("after the further commit: {what}");
        renew_memory(&mut self.memory);
        let resources = self.memory.take().ok_or("memory is taken")?;
        let device = MemDevice::new(Arc::clone(&self.disk), MemOptions::default());
        let store = mount(resources, &device).map_err(late)?;
        check_shown(&self.disk, &store, after, self.levels).map_err(late)?;
        let read = |rule| RawVolume::read(&*self.disk, rule).map_err(|error| late(error.to_string()));
        let (sealed, bare) = (read(Rule::Sealed)?, read(Rule::Bare)?);
        if sealed.arenas != bare.arenas {
            return Err(late("the bare rule reads other free space".into()));
        }
        let copies = sealed.arenas.iter().map(|arena| arena.copies_good).chain([sealed.copies_good]);
        if copies.flatten().any(|good| !good) {
            return Err(late("a copy of a header or superblock is not good".into()));
        }
        Ok(())
    }
}

fn mount<'d, 'm>(resources: Resources<'m>, device: &'d dyn Device<'m>) -> Result<Store<'d, 'm>, String> {
    let store = Store::mount(resources, device, &ImpatientPlatform, MountOptions::default());
    store.map_err(|failed| format!("mount: {}", failed.error))
}

/// Checks that the store shows this commit, whole, and that its space is exact.
fn check_shown<'a, 'd, 'm>(
    disk: &Disk,
    store: &'a Store<'d, 'm>,
    snapshot: &Snapshot,
    levels: u32,
) -> Result<Client<'a, 'd, 'm>, String> {
    if store.roots() != snapshot.roots {
        return Err("the roots are not those of the commit".into());
    }
    let generation = store.generation();
    // Growing raises it without a commit of the user's.
    if snapshot.generation.is_some_and(|known| known > generation) {
        return Err(format!("generation {generation} is before that of the commit"));
    }
    let client = Client::load(store, snapshot.versions.len(), levels).map_err(|error| format!("content: {error:?}"))?;
    if client.versions() != snapshot.versions {
        return Err("the content is not that of the commit".into());
    }
    let report = check_volume(disk, Some(store), client.addresses()).map_err(|error| format!("check: {error}"))?;
    match report.problems.first() {
        None => Ok(client),
        Some(first) => Err(format!("space: {first}, and {} more problems", report.problems.len() - 1)),
    }
}

/// Changes something, commits it, and says what the volume holds then.
fn further_commit(
    store: &Store<'_, '_>,
    mut client: Client<'_, '_, '_>,
    shown: usize,
    next_version: &mut u64,
    tape: Option<&Tape>,
) -> Result<Snapshot, String> {
    let failed = |error: Error| format!("further commit: {error}");
    let slots = client.versions().len();
    for step in 0..2 {
        let slot = (shown + step * 3) % slots.max(1);
        *next_version += 1;
        match client.put(slot, Version::new(*next_version, false)) {
            Err(Error::Full { .. }) => client.delete(slot).map_err(failed)?,
            result => result.map_err(failed)?,
        }
    }
    let roots = client.prepare().map_err(failed)?;
    let number = shown + 1;
    let roots = Roots { next_qid: number as u64, ..roots };
    let versions = client.versions();
    let mark = |mark| tape.map_or((), |tape| tape.mark(mark));
    mark(Mark::Begun(number));
    let generation = store.commit(roots).map_err(failed)?;
    mark(Mark::Acknowledged(number));
    Ok(Snapshot { roots, generation: Some(generation), versions })
}

impl std::fmt::Debug for Judge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judge").field("disk", &self.disk).finish_non_exhaustive()
    }
}
