//! Volumes with known contents, made with the store itself.

use crate::scratch::{run, Scratch};
use arenite_catalog::{Catalog, Kind};
use arenite_core::format::{BlockType, LeafBuilder, Message, PivotBuilder, RawPtr};
use arenite_core::{Allocate, BlockPtr, MountOptions, Store};
use arenite_shim::{boxed_memory, FileDevice, FileOptions, HostPlatform, LargeMemory};

/// A new volume.
pub fn volume(len: &str, block_size: &str) -> Scratch {
    let scratch = Scratch::blank(0);
    let (code, _, complaint) = run(&["format", "--size", len, "--block-size", block_size, scratch.name()]);
    assert_eq!((code, complaint.as_str()), (0, ""));
    scratch
}

/// Mounts, does something, and unmounts; nothing is committed besides.
pub fn with_store<R>(image: &Scratch, body: impl FnOnce(&Store<'_, '_>) -> R) -> R {
    let memory: Box<LargeMemory> = boxed_memory();
    let device = FileDevice::open(&image.path, FileOptions::default()).unwrap();
    let mounted = Store::mount(memory.take().unwrap(), &device, &HostPlatform, MountOptions::default());
    let store = mounted.unwrap();
    let result = body(&store);
    store.unmount().unwrap();
    result
}

/// Writes a block of bytes.
pub fn data(store: &Store<'_, '_>, byte: u8) -> BlockPtr {
    let mut filling = store.allocate(Allocate::data()).unwrap();
    filling.bytes_mut().fill(byte);
    store.enqueue(filling).unwrap().ptr()
}

/// Writes a leaf.
pub fn leaf(store: &Store<'_, '_>, items: &[(Vec<u8>, Vec<u8>)]) -> BlockPtr {
    let mut filling = store.allocate(Allocate::new(BlockType::Leaf)).unwrap();
    let mut builder = LeafBuilder::new(filling.bytes_mut(), store.block_size()).unwrap();
    for (key, value) in items {
        builder.push(key, value).unwrap();
    }
    builder.finish().unwrap();
    store.enqueue(filling).unwrap().ptr()
}

/// Operation, key and value of a message.
pub type Text = (u8, Vec<u8>, Vec<u8>);

/// Writes a pivot.
pub fn pivot(store: &Store<'_, '_>, children: &[(Vec<u8>, BlockPtr)], messages: &[Text]) -> BlockPtr {
    let mut filling = store.allocate(Allocate::new(BlockType::Pivot)).unwrap();
    let mut builder = PivotBuilder::new(filling.bytes_mut(), store.block_size()).unwrap();
    for (key, ptr) in children {
        builder.push(key, RawPtr::from(*ptr), 0).unwrap();
    }
    for (op, key, value) in messages {
        builder.push_message(Message { op: *op, key, value }).unwrap();
    }
    builder.finish().unwrap();
    store.enqueue(filling).unwrap().ptr()
}

/// Commits a root.
pub fn commit(store: &Store<'_, '_>, root: BlockPtr, height: u32) {
    store.commit(store.roots().with_root(Some(root), height)).unwrap();
}

/// Files of a catalogue: `files` of three blocks each.
pub fn catalog(image: &Scratch, files: u32) {
    with_store(image, |store| {
        let bytes: Vec<u8> = (0..3 * store.block_size().len_bytes()).map(|at| (at / 7) as u8).collect();
        let mut catalog = Catalog::open(store).unwrap();
        for number in 0..files {
            catalog.put_bytes(format!("/{number}").as_bytes(), Kind::File, 0o644, &bytes).unwrap();
        }
        catalog.commit().unwrap();
    });
}

/// A pointer in 24 bytes.
pub fn raw(ptr: BlockPtr) -> Vec<u8> {
    let mut bytes = vec![0; RawPtr::LEN_BYTES];
    RawPtr::from(ptr).encode(&mut bytes, 0).unwrap();
    bytes
}
