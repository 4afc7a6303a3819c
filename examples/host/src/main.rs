//! Counts how often it was run, in a volume in a file: `cargo run`, again and again. Another file: `cargo run -- FILE`.

use arenite_core::{format::BlockSize, Allocate, Device, Error, Failed, FormatOptions, MountOptions, Store};
use arenite_shim::file::create_file;
use arenite_shim::{FileDevice, FileOptions, HostPlatform};
use std::path::PathBuf;

arenite_core::memory! {
    /// All memory of the store: a cache of 64 blocks, volumes of up to 1 GiB.
    static MEMORY: cache_blocks = 64, block_len_bytes = 16384, volume_blocks = 65536, arenas = 8, queue = 64;
}

/// Mounts the volume, or makes one on a blank disk; adds one to the number in its root block.
fn count(disk: &dyn Device<'static>) -> Result<u64, Error> {
    let memory = MEMORY.take().ok_or(Error::NoBuffer)?;
    let store = match Store::mount(memory, disk, &HostPlatform, MountOptions::default()) {
        Err(Failed { error: Error::NotAVolume { .. }, memory: Some(memory) }) => {
            let options = FormatOptions { block_size: BlockSize::ORIGINAL, arenas: 8, force: false };
            Store::format(memory, disk, &HostPlatform, options)
        }
        mounted => mounted,
    };
    let store = store.map_err(|failed| failed.error)?;
    let mut runs = [0; 8];
    if let Some(root) = store.roots().root_ptr() {
        runs.copy_from_slice(&store.read(root)?[..8]);
        store.free(root)?;
    }
    let runs = u64::from_le_bytes(runs) + 1;
    let mut block = store.allocate(Allocate::data())?;
    block.bytes_mut()[..8].copy_from_slice(&runs.to_le_bytes());
    let root = store.enqueue(block)?.ptr();
    store.commit(store.roots().with_root(Some(root), 1))?;
    store.unmount().map(|()| runs)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("disk.img"), PathBuf::from);
    if !path.exists() {
        create_file(&path, 64 << 20)?;
    }
    let disk = FileDevice::open(&path, FileOptions::default())?;
    let runs = count(&disk).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("run number {runs}");
    Ok(())
}
