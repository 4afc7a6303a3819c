//! A small commit, recorded on the spot: a file of two blocks is put into a catalogue on a disk in memory.

use arenite_catalog::{Catalog, Kind};
use arenite_core::format::BlockSize;
use arenite_core::{Error, FormatOptions, Store};
use arenite_shim::record::{Recorder, Tape};
use arenite_shim::trace::{Mark, Trace};
use arenite_shim::{boxed_memory, Disk, HostPlatform, MemDevice, MemOptions, SmallMemory};
use std::sync::Arc;

const BLOCK_LEN: u32 = 4096;
const DISK_LEN_BYTES: u64 = 1 << 20;

/// Formats a disk, commits once, and then records a commit.
pub(crate) fn record() -> Result<Trace, String> {
    let memory: Box<SmallMemory> = boxed_memory();
    let disk = Arc::new(Disk::zeroed(DISK_LEN_BYTES));
    let tape = Tape::new();
    let device = Recorder::new(MemDevice::new(Arc::clone(&disk), MemOptions::default()), Arc::clone(&tape));
    let resources = memory.take().ok_or_else(|| Error::NoBuffer.to_string())?;
    let block_size = BlockSize::new(BLOCK_LEN).ok_or("no block size")?;
    let options = FormatOptions { block_size, arenas: 1, force: false };
    let store = Store::format(resources, &device, &HostPlatform, options).map_err(|failed| failed.error.to_string())?;
    let text = |error: arenite_catalog::Error| error.to_string();
    let mut catalog = Catalog::open(&store).map_err(text)?;
    catalog.put_bytes(b"/old", Kind::File, 0o644, b"before").map_err(text)?;
    catalog.commit().map_err(text)?;
    store.settle().map_err(|error| error.to_string())?;
    let (base, skip) = (disk.snapshot(), tape.trace(Arc::from([])).events.len());
    tape.mark(Mark::Begun(1));
    catalog.put_bytes(b"/new", Kind::File, 0o644, &[0x61; 2 * BLOCK_LEN as usize]).map_err(text)?;
    catalog.commit().map_err(text)?;
    tape.mark(Mark::Acknowledged(1));
    store.settle().map_err(|error| error.to_string())?;
    store.unmount().map_err(|error| error.to_string())?;
    let mut trace = tape.trace(base);
    trace.events.drain(..skip);
    Ok(trace)
}
