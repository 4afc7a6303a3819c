//! Traces that were recorded below the store, by a block server for example: what its commits were follows from the
//! superblocks that it wrote.
//!
//! ```text
//!   data, logs, headers A | flush | superblock 0 | flush | headers B, superblock 1 | flush | next headers A
//!                                   begun           acknowledged
//! ```
//!
//! A commit is begun when the first superblock is issued with its generation, and acknowledged when a flush is complete
//! that covers this write. From then on a crash must not lose it. Everything in front of the moment at which the disk
//! first holds a volume, with nothing pending, is taken for granted: before the end of a format there need be none.

use crate::catalogue::Files;
use arenite_core::format::{BlockSize, Superblock};
use arenite_core::{MountOptions, Roots, Store};
use arenite_shim::platform::HostPlatform;
use arenite_shim::room::Room;
use arenite_shim::trace::{Event, Mark, Trace};
use arenite_shim::tree::{Recording, Snapshot, Tree};
use arenite_shim::{Disk, MemDevice, MemOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Superblock0,
    Superblock1,
    HeaderA,
    HeaderB,
    Other,
}

/// Where the metadata of a volume is, and what it shows.
struct Volume {
    size: BlockSize,
    last_addr: u64,
    headers: BTreeSet<u64>,
    generation: u64,
    roots: Roots,
}

impl Volume {
    /// Mounts an image.
    fn of(image: &Arc<[u8]>) -> Option<Self> {
        let block = Superblock::decode_front(image).ok()?;
        let (size, len_bytes) = (block.head().block_size, image.len() as u64);
        let headers = block.arenas().map(|arena| arena.header_addr).collect();
        let mut room = Room::new(size, len_bytes);
        let device = MemDevice::new(Arc::new(Disk::over(Arc::clone(image))), MemOptions::default());
        let store = Store::mount(room.fresh()?, &device, &HostPlatform, MountOptions::default()).ok()?;
        Files::open(&(), &store).ok()?;
        let last_addr = len_bytes - len_bytes % size.len_u64() - size.len_u64();
        Some(Self { size, last_addr, headers, generation: store.generation(), roots: store.roots() })
    }

    fn part(&self, addr: u64) -> Part {
        match addr {
            0 => Part::Superblock0,
            _ if addr == self.last_addr => Part::Superblock1,
            _ if self.headers.contains(&addr) => Part::HeaderA,
            _ if addr.checked_sub(self.size.len_u64()).is_some_and(|addr| self.headers.contains(&addr)) => {
                Part::HeaderB
            }
            _ => Part::Other,
        }
    }
}

/// Writes that no flush covers, as the trace goes on.
#[derive(Default)]
struct Pending {
    writes: BTreeMap<u64, (u64, bool)>,
    flushes: BTreeMap<u64, Vec<u64>>,
}

impl Pending {
    /// Takes an event; the writes that it makes durable.
    fn take(&mut self, event: &Event) -> Vec<(u64, u64)> {
        match event {
            Event::Issue { id, addr, .. } => drop(self.writes.insert(*id, (*addr, false))),
            Event::Complete { id, result: Ok(()) } => {
                if let Some(write) = self.writes.get_mut(id) {
                    write.1 = true;
                }
            }
            Event::Lost { id } => drop(self.writes.remove(id)),
            Event::FlushIssue { id } => {
                let covered = self.writes.iter().filter(|(_, (_, completed))| *completed).map(|(id, _)| *id);
                drop(self.flushes.insert(*id, covered.collect()));
            }
            Event::FlushComplete { id, result: Ok(()) } => {
                let covered = self.flushes.remove(id).unwrap_or_default();
                return covered.into_iter().filter_map(|id| Some((id, self.writes.remove(&id)?.0))).collect();
            }
            _ => {}
        }
        Vec::new()
    }
}

/// The volume at the first moment at which there is one and nothing is pending, and the number of the next event.
fn start(trace: &Trace) -> Option<(usize, Arc<[u8]>, Volume)> {
    if let Some(volume) = Volume::of(&trace.base) {
        return Some((0, Arc::clone(&trace.base), volume));
    }
    let (mut pending, mut image) = (Pending::default(), trace.base.to_vec());
    for (number, event) in trace.events.iter().enumerate() {
        if let Event::Issue { addr, bytes, .. } = event {
            image.get_mut(*addr as usize..*addr as usize + bytes.len())?.copy_from_slice(bytes);
        }
        let durable = pending.take(event);
        if !durable.is_empty() && pending.writes.is_empty() {
            let image: Arc<[u8]> = image.as_slice().into();
            if let Some(volume) = Volume::of(&image) {
                return Some((number + 1, image, volume));
            }
        }
    }
    None
}

/// A trace with marks at its commits, and what each of them holds.
pub fn recording(trace: &Trace) -> Result<Recording<Files>, String> {
    let (first, base, volume) = start(trace).ok_or("the trace never shows a volume with a catalogue")?;
    let mut model = vec![Snapshot { roots: volume.roots, generation: Some(volume.generation), content: () }];
    let (mut pending, mut events, mut begun) = (Pending::default(), Vec::new(), BTreeMap::new());
    for event in trace.events.iter().skip(first).filter(|event| !matches!(event, Event::Mark(_))) {
        if let Event::Issue { id, addr: 0, bytes } = event {
            let head = *Superblock::decode_front(bytes).map_err(|error| format!("write {id}: {error}"))?.head();
            if model.last().is_some_and(|last| last.generation != Some(head.qgen)) {
                let roots = roots_of(&head);
                model.push(Snapshot { roots, generation: Some(head.qgen), content: () });
                events.push(Event::Mark(Mark::Begun(model.len() - 1)));
            }
            begun.insert(*id, model.len() - 1);
        }
        let durable = pending.take(event);
        events.push(event.clone());
        let newest = durable.iter().filter_map(|(id, _)| begun.get(id)).max();
        events.extend(newest.map(|number| Event::Mark(Mark::Acknowledged(*number))));
    }
    Ok(Recording { shape: (), block_size: volume.size, trace: Trace { base, events }, model })
}

fn roots_of(head: &arenite_core::format::SuperHead) -> Roots {
    Roots {
        root: arenite_core::format::AddrHash { addr: head.root_addr, hash: head.root_hash },
        height: head.root_height,
        deadlist_head: head.deadlist_head,
        deadlist_tail: head.deadlist_tail,
        flag: head.flag,
        next_qid: head.next_qid,
        next_gen: head.next_gen,
    }
}

/// Demands a flush at each place where a commit needs one; how many there are.
pub fn flushes(recording: &Recording<Files>) -> Result<u64, String> {
    let volume = Volume::of(&recording.trace.base).ok_or("no volume")?;
    let (mut pending, mut places) = (Pending::default(), 0);
    for event in &recording.trace.events {
        if let Event::Issue { addr, .. } = event {
            let part = volume.part(*addr);
            let wants: &[Part] = match part {
                // Everything that the superblock leads to.
                Part::Superblock0 => &[Part::HeaderA],
                Part::HeaderB | Part::Superblock1 => &[Part::Superblock0],
                Part::HeaderA => &[Part::Superblock1, Part::HeaderB],
                Part::Other => &[],
            };
            let open = pending.writes.values().map(|(addr, _)| volume.part(*addr)).find(|part| wants.contains(part));
            if let Some(open) = open {
                return Err(format!("{part:?} was written at {addr:#x} while {open:?} was not durable"));
            }
            places += u64::from(!wants.is_empty());
        }
        pending.take(event);
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arenite_catalog::{Catalog, Kind};
    use arenite_core::FormatOptions;
    use arenite_shim::explore::{Explorer, Options};
    use arenite_shim::record::{Recorder, Tape};

    /// A format and three commits of files, as a block server would see them.
    fn trace() -> Trace {
        let disk = Arc::new(Disk::zeroed(64 * BlockSize::MIN.len_u64()));
        let (tape, base) = (Tape::new(), disk.snapshot());
        let mut room = Room::new(BlockSize::MIN, base.len() as u64);
        let device = Recorder::new(MemDevice::new(disk, MemOptions::default()), Arc::clone(&tape));
        let options = FormatOptions { block_size: BlockSize::MIN, arenas: 2, force: false };
        let store = Store::format(room.fresh().unwrap(), &device, &HostPlatform, options).unwrap();
        for number in 0..3u8 {
            let mut catalog = Catalog::open(&store).unwrap();
            catalog.put_bytes(&[b'a' + number % 2], Kind::File, 0o644, &[number; 3000]).unwrap();
            catalog.commit().unwrap();
            store.settle().unwrap();
        }
        store.unmount().unwrap();
        tape.trace(base)
    }

    fn failures(recording: &Recording<Files>) -> usize {
        let mut explorer = Explorer::new(Options::DEFAULT);
        explorer.explore(recording);
        assert!(explorer.counts().states > 0);
        explorer.failures().len()
    }

    #[test]
    fn commits_follow_from_the_superblocks() {
        let recording = recording(&trace()).unwrap();
        assert_eq!(recording.model.len(), 4);
        assert!(flushes(&recording).unwrap() > 12);
        assert_eq!(failures(&recording), 0);
    }

    #[test]
    fn a_flush_that_is_missing_is_noticed() {
        let good = recording(&trace()).unwrap();
        let is_flush = |event: &Event| matches!(event, Event::FlushComplete { .. });
        let count = good.trace.events.iter().filter(|event| is_flush(event)).count();
        let (mut late, mut lost) = (0, 0);
        for missing in 0..count {
            let mut number = 0..;
            let mut trace = good.trace.clone();
            trace.events.retain(|event| !is_flush(event) || number.next() != Some(missing));
            let bad = Recording { shape: (), block_size: good.block_size, trace, model: good.model.clone() };
            late += usize::from(flushes(&bad).is_err());
            lost += failures(&bad).min(1);
        }
        // Three a commit, two of the last one; one more where a mount or a settling had nothing to wait for.
        assert!(late >= 8, "{late} places of {count} without their flush were seen");
        assert!(lost > 0, "no crash state was bad");
    }
}
