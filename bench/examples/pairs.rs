//! Pairs of allocate and free, for callgrind.
use arenite_core::bench::allocate_logged;
use arenite_core::format::BlockSize;
use arenite_core::{BlockPtr, FormatOptions, Store};
use arenite_shim::{boxed_memory, HostPlatform, MemDevice, MemOptions, SmallMemory, disk::Disk};
fn main() {
    let memory: Box<SmallMemory> = boxed_memory();
    let device = MemDevice::new(std::sync::Arc::new(Disk::zeroed(2 << 20)), MemOptions::default());
    let store = Store::format(memory.take().unwrap(), &device, &HostPlatform, FormatOptions { block_size: BlockSize::new(2048).unwrap(), arenas: 8, force: true }).unwrap();
    let mut live = std::collections::VecDeque::new();
    for _ in 0..100_000 {
        live.push_back(allocate_logged(&store, 0).unwrap());
        if live.len() == 32 { store.free(BlockPtr { addr: live.pop_front().unwrap(), hash: 0, gen: 0 }).unwrap(); }
    }
}
