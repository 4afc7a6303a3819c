//! Writes that a device lost, sent elsewhere, or forgot: every write of a recorded run in turn.
//!
//! ```text
//!   write w     ...  commit settled   ...  commit settled  ...  end
//!                    ^ examined here       ^ and here           ^ and here
//! ```
//!
//! The run goes on as if nothing had happened (the device still has the right bytes in its cache); then it is switched
//! off between two commits, and what the medium holds is examined as any other damage ([`crate::corrupt`]). Everything
//! that the write brought may be missing, and what lies where it went; neither may show.
#![forbid(unsafe_code)]

use crate::corrupt::{image_at, Examiner, Outcome, Subject};
use crate::trace::{Event, Mark};
use crate::tree::{Recording, Tree};

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It never happened.
    Lost,
    /// It went to the block at this address.
    Misdirected(u64),
    /// It is there, and reads show what was there before it: the first read, or all.
    Stale {
        /// Only the first.
        once: bool,
    },
}

/// A run that settles after each commit, and the moments between two commits.
pub struct Run<'r, T: Tree> {
    recording: &'r Recording<T>,
    /// The volume at each of them, with the number of the event in front of which that is.
    pub moments: Vec<(usize, Subject<T>)>,
    /// Numbers of the events that issue a write.
    pub writes: Vec<usize>,
}

impl<'r, T: Tree> Run<'r, T> {
    /// Prepares a recording of one life, see the head of this module.
    pub fn new(recording: &'r Recording<T>) -> Result<Self, String> {
        let events = &recording.trace.events;
        let (mut moments, mut writes, mut shown) = (Vec::new(), Vec::new(), 0);
        for (number, event) in events.iter().enumerate() {
            match event {
                Event::Mark(Mark::Begun(_)) if shown > 0 => {
                    moments.push((number, Subject::at(recording, number, shown)?));
                }
                Event::Mark(Mark::Acknowledged(commit)) => shown = *commit,
                Event::Issue { .. } => writes.push(number),
                _ => {}
            }
        }
        moments.push((events.len(), Subject::at(recording, events.len(), shown)?));
        Ok(Self { recording, moments, writes })
    }

    /// The place and the bytes of a write.
    pub fn write(&self, number: usize) -> Option<(u64, &[u8])> {
        match self.recording.trace.events.get(number)? {
            Event::Issue { addr, bytes, .. } => Some((*addr, bytes)),
            _ => None,
        }
    }

    /// Examines one fate of one write, at one moment; `None` if it came to pass later, or changes nothing.
    pub fn examine(
        &self,
        examiner: &mut Examiner<'_, T>,
        moment: usize,
        number: usize,
        fate: Fate,
    ) -> Option<Result<Outcome, String>> {
        let (end, subject) = self.moments.get(moment)?;
        let (place, bytes) = self.write(number).filter(|_| number < *end)?;
        let alter = |to: Option<u64>| {
            image_at(&self.recording.trace, *end, |event, addr| if event == number { to } else { Some(addr) })
        };
        let size = subject.block_size;
        let same = |image: &[u8]| *image == *subject.image;
        match fate {
            Fate::Lost => {
                let image = alter(None);
                (!same(&image)).then(|| examiner.image(&image, &[place]))
            }
            // A block that is not there cannot be hit.
            Fate::Misdirected(to) if to == place || to + bytes.len() as u64 > subject.image.len() as u64 => None,
            Fate::Misdirected(to) => {
                let image = alter(Some(to));
                (!same(&image)).then(|| examiner.image(&image, &[place, to]))
            }
            Fate::Stale { once } => {
                let before = image_at(&self.recording.trace, number, |_, addr| Some(addr));
                let range = place as usize..place as usize + size.len_bytes();
                let (old, new) = (before.get(range.clone())?, subject.image.get(range)?);
                // Only the newest write of a block can be forgotten in this way.
                (old != new && new == bytes).then(|| examiner.stale(place, old, once))
            }
        }
    }
}

impl<T: Tree> std::fmt::Debug for Run<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("writes", &self.writes.len()).field("moments", &self.moments.len()).finish()
    }
}
