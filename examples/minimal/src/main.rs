//! The smallest kernel that keeps something: it counts how often it was booted. `cargo run`, again and again.
#![no_std]
#![no_main]

mod machine;

use arenite_adapters::Blocking;
use arenite_core::{
    format::BlockSize, Allocate, Device, Error, Failed, FormatOptions, MountOptions, NoInterrupts, Store,
};
use core::fmt::Write;

arenite_core::memory! {
    /// All memory of the store: a cache of 64 blocks, volumes of up to 1 GiB.
    static MEMORY: cache_blocks = 64, block_len_bytes = 16384, volume_blocks = 65536, arenas = 8, queue = 64;
}

/// Mounts the volume, or makes one on a blank disk; adds one to the number in its root block.
fn count(disk: &dyn Device<'static>) -> Result<u64, Error> {
    let memory = MEMORY.take().ok_or(Error::NoBuffer)?;
    let store = match Store::mount(memory, disk, &NoInterrupts, MountOptions::default()) {
        Err(Failed { error: Error::NotAVolume { .. }, memory: Some(memory) }) => {
            let options = FormatOptions { block_size: BlockSize::ORIGINAL, arenas: 8, force: false };
            Store::format(memory, disk, &NoInterrupts, options)
        }
        mounted => mounted,
    };
    let store = store.map_err(|failed| failed.error)?;
    let mut boots = [0; 8];
    if let Some(root) = store.roots().root_ptr() {
        boots.copy_from_slice(&store.read(root)?[..8]);
        store.free(root)?;
    }
    let boots = u64::from_le_bytes(boots) + 1;
    let mut block = store.allocate(Allocate::data())?;
    block.bytes_mut()[..8].copy_from_slice(&boots.to_le_bytes());
    let root = store.enqueue(block)?.ptr();
    store.commit(store.roots().with_root(Some(root), 1))?;
    store.unmount().map(|()| boots)
}

/// Where `boot.s` hands over. Interrupts are off, and there is one CPU. To return ends the machine.
#[unsafe(no_mangle)]
extern "C" fn kernel() {
    let disk = machine::find_disk().map(Blocking::new).expect("no disk");
    let boots = count(&disk).unwrap_or_else(|error| panic!("{error}"));
    writeln!(machine::Console, "boot number {boots}").expect("the console never fails");
}
