//! A disk in memory: bytes that outlive the devices which serve them.
//!
//! ```text
//!   overlay   |    | c1 |    |    | c4 |        changed chunks, owned
//!   base      | b0 | b1 | b2 | b3 | b4 | b5 |   shared by any number of disks, or all zero
//! ```
//!
//! Disks over one base cost what was changed, so that millions of crash states can be tried in turn.
//!
//! # Lock order
//! The disk's lock is a leaf: nothing is called under it.
#![forbid(unsafe_code)]

use crate::image::{out_of_range, ReadAt};
use arenite_core::DeviceError;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Unit of copying, in bytes.
const CHUNK_LEN_BYTES: usize = 2048;

struct State {
    base: Option<Arc<[u8]>>,
    overlay: BTreeMap<u64, Box<[u8]>>,
}

/// A disk in memory. Its length never changes.
pub struct Disk {
    len_bytes: u64,
    state: Mutex<State>,
}

impl Disk {
    /// A disk of zeros. Chunks that stay zero take no memory.
    pub fn zeroed(len_bytes: u64) -> Self {
        Self { len_bytes, state: Mutex::new(State { base: None, overlay: BTreeMap::new() }) }
    }

    /// A disk that starts as `base` and leaves it as it is.
    pub fn over(base: Arc<[u8]>) -> Self {
        Self { len_bytes: base.len() as u64, state: Mutex::new(State { base: Some(base), overlay: BTreeMap::new() }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No invariant of the state spans a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops all changes and starts again from `base`, which must have the length of the disk; otherwise nothing
    /// happens, and the result is `false`.
    pub fn rebase(&self, base: &Arc<[u8]>) -> bool {
        if base.len() as u64 != self.len_bytes {
            return false;
        }
        let mut state = self.lock();
        state.overlay.clear();
        state.base = Some(Arc::clone(base));
        true
    }

    /// Bytes from `addr` on. [`DeviceError::Io`] if they are not all on the disk.
    pub fn write_at(&self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        if out_of_range(self.len_bytes, addr, bytes.len()) {
            return Err(DeviceError::Io);
        }
        let mut state = self.lock();
        let State { base, overlay } = &mut *state;
        for (chunk, at, part) in chunks(addr, bytes.len()) {
            let fresh = || fresh_chunk(base.as_deref(), chunk, self.len_bytes);
            let target = overlay.entry(chunk).or_insert_with(fresh);
            if let (Some(to), Some(from)) = (target.get_mut(at..at + part.len()), bytes.get(part)) {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }

    /// All bytes of the disk, as a base for others.
    pub fn snapshot(&self) -> Arc<[u8]> {
        let mut bytes = vec![0; self.len_bytes as usize];
        // In range by construction.
        let _ = self.read_at(0, &mut bytes);
        bytes.into()
    }
}

impl ReadAt for Disk {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read_at(&self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        if out_of_range(self.len_bytes, addr, bytes.len()) {
            return Err(DeviceError::Io);
        }
        let state = self.lock();
        for (chunk, at, part) in chunks(addr, bytes.len()) {
            let Some(to) = bytes.get_mut(part) else { continue };
            let start = chunk as usize * CHUNK_LEN_BYTES + at;
            let from = match (state.overlay.get(&chunk), state.base.as_deref()) {
                (Some(changed), _) => changed.get(at..at + to.len()),
                (None, Some(base)) => base.get(start..start + to.len()),
                (None, None) => None,
            };
            match from {
                Some(from) => to.copy_from_slice(from),
                None => to.fill(0),
            }
        }
        Ok(())
    }
}

fn fresh_chunk(base: Option<&[u8]>, chunk: u64, len_bytes: u64) -> Box<[u8]> {
    let start = chunk as usize * CHUNK_LEN_BYTES;
    let end = (start + CHUNK_LEN_BYTES).min(len_bytes as usize);
    match base.and_then(|base| base.get(start..end)) {
        Some(bytes) => bytes.into(),
        None => vec![0; end - start].into(),
    }
}

/// Cuts a range of the disk at the borders of chunks: number of the chunk, first byte in it, bytes of the range.
fn chunks(addr: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let here = addr + done as u64;
        let at = (here % CHUNK_LEN_BYTES as u64) as usize;
        let part = done..(done + CHUNK_LEN_BYTES - at).min(len);
        done = part.end;
        (!part.is_empty()).then_some((here / CHUNK_LEN_BYTES as u64, at, part))
    })
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("len_bytes", &self.len_bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{fill, Rng};

    #[test]
    fn agrees_with_plain_bytes() {
        let mut model = vec![0u8; 3 * CHUNK_LEN_BYTES + 512];
        fill(3, &mut model);
        let base: Arc<[u8]> = model.clone().into();
        let disk = Disk::over(Arc::clone(&base));
        let mut rng = Rng::new(5);
        for round in 0..200 {
            let addr = rng.below(model.len() as u64) as usize;
            let len = rng.below((model.len() - addr) as u64 + 1) as usize;
            fill(round, &mut model[addr..addr + len]);
            disk.write_at(addr as u64, &model[addr..addr + len]).unwrap();
            let from = rng.below(model.len() as u64) as usize;
            let mut got = vec![1; model.len() - from];
            disk.read_at(from as u64, &mut got).unwrap();
            assert_eq!(got, model[from..]);
        }
        assert_eq!(disk.snapshot()[..], model[..]);
        assert!(disk.rebase(&base));
        assert_eq!(disk.snapshot(), base);
    }

    #[test]
    fn refuses_what_is_not_on_the_disk() {
        let disk = Disk::zeroed(4096);
        assert_eq!(disk.write_at(4095, &[1, 2]), Err(DeviceError::Io));
        assert_eq!(disk.write_at(u64::MAX, &[1]), Err(DeviceError::Io));
        assert_eq!(disk.read_at(4096, &mut [0]), Err(DeviceError::Io));
        assert_eq!(disk.read_at(4096, &mut []), Ok(()));
        assert!(disk.snapshot().iter().all(|byte| *byte == 0));
        assert!(!disk.rebase(&Arc::from(vec![0u8; 512])));
    }
}
