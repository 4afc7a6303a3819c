//! What a device saw, and what a crash may leave of it.
//!
//! A [`Trace`] is the sequence of writes issued, completions delivered, flushes issued and flushes completed, with
//! marks that say how far the user's commits were. [`Trace::epochs`] cuts it at the completed flushes:
//!
//! ```text
//!   issue w1   issue w2   done w1   flush f   issue w3   done f     done w2 ...
//!   |------------------------- epoch 0 ------------------|-------- epoch 1 ---
//!     durable: base              pending: w1 w2 w3         durable: base + w1   pending: w2 w3 ...
//! ```
//!
//! A flush covers the writes whose completion was delivered before it was issued, and nothing else. A write that was in
//! flight meanwhile is pending in both epochs. A crash at any point of an epoch leaves the durable bytes and, sector by
//! sector, any of the pending ones (statements 1 to 3 of the contract in `arenite_core::device`).
//!
//! # Why one set of pending writes an epoch is enough
//! Writes only become pending during an epoch, and commits only become acknowledged or begun. What a crash in the
//! middle may leave, a crash at the end may leave too, and there the demand is stricter: more is acknowledged, and a
//! commit that was not begun when the crash came has written nothing that could show.
#![forbid(unsafe_code)]

use arenite_core::DeviceError;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Unit of atomic writing, in bytes.
pub const SECTOR_LEN_BYTES: usize = 512;

/// How far the user's commits are. Numbers are the user's own and ascend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The store is about to be asked for this commit.
    Begun(usize),
    /// The store has said that this commit is durable.
    Acknowledged(usize),
}

/// One thing that happened at the device.
#[derive(Clone, Debug)]
pub enum Event {
    /// A write was accepted by the device.
    Issue {
        /// Names the write in the event of its completion.
        id: u64,
        /// First byte on the device.
        addr: u64,
        /// The bytes.
        bytes: Arc<[u8]>,
    },
    /// The completion of a write was delivered.
    Complete {
        /// The write.
        id: u64,
        /// Its result.
        result: Result<(), DeviceError>,
    },
    /// A write that was not completed will never be carried out: the device was reset.
    Lost {
        /// The write.
        id: u64,
    },
    /// A flush was accepted by the device.
    FlushIssue {
        /// Names the flush in the event of its completion.
        id: u64,
    },
    /// The completion of a flush was delivered.
    FlushComplete {
        /// The flush.
        id: u64,
        /// Its result.
        result: Result<(), DeviceError>,
    },
    /// Something that the user says.
    Mark(Mark),
}

/// A recording that begins with all bytes of the disk durable.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The disk at the beginning.
    pub base: Arc<[u8]>,
    /// What happened, in order.
    pub events: Vec<Event>,
}

/// A write that a crash may lose, whole or by sectors.
#[derive(Clone, Debug)]
pub struct PendingWrite {
    /// First byte on the device.
    pub addr: u64,
    /// The bytes.
    pub bytes: Arc<[u8]>,
}

/// The time between two completed flushes.
#[derive(Clone, Debug)]
pub struct Epoch {
    /// Number of the epoch in its trace.
    pub index: usize,
    /// What is durable. Shared with the epochs before and behind as far as they are equal.
    pub base: Arc<[u8]>,
    /// What may or may not be, in the order of issue.
    pub pending: Vec<PendingWrite>,
    /// The newest commit that was acknowledged by the end of the epoch.
    pub acknowledged: usize,
    /// The newest commit that was begun by the end of the epoch.
    pub begun: usize,
}

/// The state of a walk through a trace.
struct Walk {
    base: Arc<[u8]>,
    pending: BTreeMap<u64, Pending>,
    /// Flushes in flight, with the writes that they cover.
    flushes: BTreeMap<u64, Vec<u64>>,
    acknowledged: usize,
    begun: usize,
}

struct Pending {
    addr: u64,
    bytes: Arc<[u8]>,
    completed: bool,
}

impl Trace {
    /// Cuts the trace at its completed flushes. The commit numbered `before` is the one that the base shows.
    pub fn epochs(&self, before: usize) -> Vec<Epoch> {
        let mut epochs = Vec::new();
        let _ = self.visit_epochs(before, |epoch| {
            epochs.push(epoch.clone());
            ControlFlow::Continue(())
        });
        epochs
    }

    /// How many epochs there are.
    pub fn epoch_count(&self) -> usize {
        1 + self.events.iter().filter(|event| ends_an_epoch(event)).count()
    }

    /// The same one after the other until told to stop, with no more than one of the disks in memory.
    pub fn visit_epochs(&self, before: usize, mut visitor: impl FnMut(&Epoch) -> ControlFlow<()>) -> ControlFlow<()> {
        let mut walk = self.walk(before);
        let mut index = 0;
        for event in &self.events {
            if ends_an_epoch(event) {
                visitor(&walk.epoch(index))?;
                index += 1;
            }
            walk.take(event);
        }
        visitor(&walk.epoch(index))
    }

    /// The last of them: what a crash meets at the end of the trace.
    pub fn last_epoch(&self, before: usize) -> Epoch {
        let mut walk = self.walk(before);
        self.events.iter().for_each(|event| walk.take(event));
        walk.epoch(self.epoch_count() - 1)
    }

    fn walk(&self, before: usize) -> Walk {
        Walk {
            base: Arc::clone(&self.base),
            pending: BTreeMap::new(),
            flushes: BTreeMap::new(),
            acknowledged: before,
            begun: before,
        }
    }
}

pub(crate) fn ends_an_epoch(event: &Event) -> bool {
    matches!(event, Event::FlushComplete { result: Ok(()), .. })
}

impl Walk {
    fn epoch(&self, index: usize) -> Epoch {
        let writes = self.pending.values();
        Epoch {
            index,
            base: Arc::clone(&self.base),
            pending: writes.map(|w| PendingWrite { addr: w.addr, bytes: Arc::clone(&w.bytes) }).collect(),
            acknowledged: self.acknowledged,
            begun: self.begun.max(self.acknowledged),
        }
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Issue { id, addr, bytes } => {
                let write = Pending { addr: *addr, bytes: Arc::clone(bytes), completed: false };
                self.pending.insert(*id, write);
            }
            // A write that failed may have changed any of its sectors, and no flush covers it.
            Event::Complete { id, result } => {
                if let Some(write) = self.pending.get_mut(id) {
                    write.completed = result.is_ok();
                }
            }
            Event::Lost { id } => drop(self.pending.remove(id)),
            Event::FlushIssue { id } => {
                let covered = self.pending.iter().filter(|(_, write)| write.completed).map(|(id, _)| *id);
                self.flushes.insert(*id, covered.collect());
            }
            Event::FlushComplete { id, result } => {
                let covered = self.flushes.remove(id).unwrap_or_default();
                if result.is_ok() {
                    self.make_durable(&covered);
                }
            }
            Event::Mark(Mark::Acknowledged(number)) => self.acknowledged = *number,
            Event::Mark(Mark::Begun(number)) => self.begun = *number,
        }
    }

    fn make_durable(&mut self, covered: &[u64]) {
        let writes: Vec<_> = covered.iter().filter_map(|id| self.pending.remove(id)).collect();
        if writes.is_empty() {
            return;
        }
        // Copied only while somebody still looks at what was durable before.
        let bytes = Arc::make_mut(&mut self.base);
        // Identities ascend with issue, and the recorder does not let writes to one place overlap in time, so later
        // ones win.
        for write in writes {
            let start = write.addr as usize;
            if let Some(target) = bytes.get_mut(start..start + write.bytes.len()) {
                target.copy_from_slice(&write.bytes);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sector(value: u8) -> Arc<[u8]> {
        vec![value; SECTOR_LEN_BYTES].into()
    }

    pub(crate) fn issue(id: u64, at: u64, value: u8) -> Event {
        Event::Issue { id, addr: at * SECTOR_LEN_BYTES as u64, bytes: sector(value) }
    }

    fn done(id: u64) -> Event {
        Event::Complete { id, result: Ok(()) }
    }

    fn flushed(id: u64) -> Event {
        Event::FlushComplete { id, result: Ok(()) }
    }

    fn at(epoch: &Epoch, sector: usize) -> u8 {
        epoch.base[sector * SECTOR_LEN_BYTES]
    }

    fn pending(epoch: &Epoch) -> Vec<u8> {
        epoch.pending.iter().map(|write| write.bytes[0]).collect()
    }

    fn trace(events: Vec<Event>) -> Vec<Epoch> {
        Trace { base: vec![0; 4 * SECTOR_LEN_BYTES].into(), events }.epochs(0)
    }

    #[test]
    fn a_flush_covers_what_completed_before_it_was_issued_and_nothing_else() {
        let epochs = trace(vec![
            issue(1, 0, 1),
            issue(2, 1, 2),
            done(1),
            Event::FlushIssue { id: 9 },
            issue(3, 2, 3),
            done(2),
            done(3),
            flushed(9),
            issue(4, 3, 4),
        ]);
        assert_eq!(epochs.len(), 2);
        assert_eq!((at(&epochs[0], 0), pending(&epochs[0])), (0, vec![1, 2, 3]));
        assert_eq!((at(&epochs[1], 0), at(&epochs[1], 1), pending(&epochs[1])), (1, 0, vec![2, 3, 4]));
    }

    #[test]
    fn failed_flushes_and_failed_writes_make_nothing_durable() {
        let failed = Err(DeviceError::Io);
        let epochs = trace(vec![
            issue(1, 0, 1),
            Event::Complete { id: 1, result: failed },
            issue(2, 1, 2),
            done(2),
            Event::FlushIssue { id: 8 },
            Event::FlushComplete { id: 8, result: failed },
            Event::FlushIssue { id: 9 },
            flushed(9),
        ]);
        assert_eq!(epochs.len(), 2);
        assert_eq!((at(&epochs[1], 0), at(&epochs[1], 1), pending(&epochs[1])), (0, 2, vec![1]));
    }

    #[test]
    fn two_flushes_in_flight_cover_what_each_saw() {
        let epochs = trace(vec![
            issue(1, 0, 1),
            done(1),
            Event::FlushIssue { id: 8 },
            issue(2, 1, 2),
            done(2),
            Event::FlushIssue { id: 9 },
            flushed(9),
            flushed(8),
        ]);
        assert_eq!(epochs.len(), 3);
        assert_eq!(pending(&epochs[0]), vec![1, 2]);
        assert_eq!((at(&epochs[1], 0), at(&epochs[1], 1), pending(&epochs[1])), (1, 2, vec![]));
    }

    #[test]
    fn later_writes_win_and_marks_count_to_the_end_of_the_epoch() {
        let epochs = trace(vec![
            Event::Mark(Mark::Begun(1)),
            issue(1, 0, 1),
            done(1),
            issue(2, 0, 2),
            done(2),
            Event::FlushIssue { id: 9 },
            flushed(9),
            Event::Mark(Mark::Acknowledged(1)),
        ]);
        assert_eq!((epochs[0].acknowledged, epochs[0].begun), (0, 1));
        assert_eq!((at(&epochs[1], 0), epochs[1].acknowledged, epochs[1].begun), (2, 1, 1));
    }
}
