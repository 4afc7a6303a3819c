//! Allocation logs: those of several blocks, whose chain pointers no hash covers; those of volumes that the original
//! filled up; those that somebody made to keep a mount busy.
#![cfg(not(any(loom, feature = "shuttle")))]

mod sim;

use arenite_core::format::{max_sealed_arenas, ranges_per_block, ArenaHeader, BlockSize, LogEntry, LogWriter, NONE};
use arenite_core::memory::{map_words, pages_for};
use arenite_core::{BlockPtr, Class, Damage, Error, FormatOptions, Memory, MountOptions, NoInterrupts, Store};
use sim::{
    check, commit_root, format, free_every_second, hinted, image, memory, mount, options, put, put_as, put_many,
    step_until, Contents, Disk, Media, Misread, Small, BLOCK, SECTOR,
};

/// A volume of one arena with 600 free blocks between blocks in use, so that its log has several blocks.
fn fragmented<'d, 'm>(memory: &'m Small, disk: &'d Disk<'m>) -> (Store<'d, 'm>, Contents) {
    let store = format(memory, disk, 1);
    let contents = put_many(&store, 1200);
    commit_root(&store, contents[0].0);
    let kept = free_every_second(&store, contents);
    commit_root(&store, kept[0].0);
    assert!(store.arena(0).unwrap().log_blocks > 3);
    check(&store, &kept).unwrap();
    (store, kept)
}

fn header_of(disk: &Disk<'_>, base: u64) -> ArenaHeader {
    disk.look(|media| ArenaHeader::decode(&media.view()[base as usize..][..BLOCK], BlockSize::MIN, base).unwrap())
}

/// Where the chain pointer of a log block is.
const AT_CHAIN: usize = 12;

fn chain_of(disk: &Disk<'_>, addr: u64) -> u64 {
    disk.look(|media| u64::from_be_bytes(media.view()[addr as usize + AT_CHAIN..][..8].try_into().unwrap()))
}

/// A commit that frees an old log must not free whatever a misread chain pointer leads to. Each pointer of the log
/// in turn leads to a block of data.
#[test]
fn a_misread_chain_pointer_frees_no_data() {
    let mut position = 0;
    loop {
        let memories = [memory(), memory()];
        let disk = Disk::in_order(Media::blank(4 << 20));
        let (store, contents) = fragmented(&memories[0], &disk);
        let log = store.arena(0).unwrap();
        if position + 1 == log.log_blocks {
            assert!(position >= 3);
            break;
        }
        let addr = (0..position).fold(log.log_addr, |addr, _| chain_of(&disk, addr));
        let victim = contents[100].0;
        disk.misread(Some((addr, Misread::Bytes(AT_CHAIN, victim.addr))));
        // Most blocks go, so that the log is written anew, and the old one is walked.
        let mut kept = Contents::new();
        for (index, entry) in contents.iter().enumerate() {
            if index == 0 || index == 100 || index >= 590 {
                kept.push(*entry);
            } else {
                store.free(entry.0).unwrap();
            }
        }
        let error = store.commit(store.roots().with_root(Some(contents[0].0), 2)).unwrap_err();
        assert_eq!(disk.lies(), 1, "block {position} of the log was not read");
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        disk.misread(None);
        assert!(store.is_read_only());
        drop(store);
        let store = mount(&memories[1], &disk).unwrap();
        check(&store, &contents).unwrap();
        store.free(contents[200].0).unwrap();
        commit_root(&store, contents[0].0);
        position += 1;
    }
}

/// What is written back in place with a new link must be the block that was there.
#[test]
fn a_misdirected_read_of_a_logs_last_block_destroys_nothing() {
    let memories = [memory(), memory()];
    let disk = Disk::in_order(Media::blank(4 << 20));
    let (store, contents) = fragmented(&memories[0], &disk);
    let header = header_of(&disk, store.arena(0).unwrap().addr);
    disk.misread(Some((header.seal.unwrap().tail_addr, Misread::From(header.log_head.addr))));
    put(&store, 7).unwrap();
    let error = store.commit(store.roots()).unwrap_err();
    assert_eq!(disk.lies(), 1);
    assert!(matches!(error, Error::Corrupt { damage: Damage::LogDigest { .. }, .. }), "{error}");
    disk.misread(None);
    drop(store);
    let store = mount(&memories[1], &disk).unwrap();
    check(&store, &contents).unwrap();
    let next = put(&store, 7).unwrap();
    commit_root(&store, next);
}

const MANY: usize = max_sealed_arenas(BlockSize::MIN) as usize + 1;
type Many = Memory<{ pages_for(24, BLOCK) }, 24, { map_words(420 * MANY, MANY) }, MANY, 16>;

fn many() -> Box<Many> {
    Box::new(Memory::new())
}

/// A superblock of the smallest size has no room for the extension beyond some number of arenas. Without it nobody
/// knows where a log ends, so that a log must not be appended to in place.
#[test]
fn without_room_for_the_extension_no_log_is_touched_in_place() {
    let memories = [many(), many()];
    let disk = Disk::in_order(Media::blank(MANY * 402 * BLOCK + 2 * BLOCK));
    let store = {
        let options = FormatOptions { block_size: BlockSize::MIN, arenas: MANY as u32, force: false };
        Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options).unwrap()
    };
    let in_arena = |hint, fill| (put_as(&store, fill, hinted(hint, Class::Normal)).unwrap(), fill);
    let contents: Contents = (0..380).map(|index| in_arena(5, index as u8)).collect();
    commit_root(&store, contents[0].0);
    let mut kept = free_every_second(&store, contents);
    commit_root(&store, kept[0].0);
    kept.push(in_arena(50, 9));
    commit_root(&store, kept[0].0);
    let info = store.arena(5).unwrap();
    assert!(info.free_ranges as usize > ranges_per_block(BlockSize::MIN), "too few for an append: {info:?}");
    let mut log = vec![info.log_addr];
    for _ in 1..info.log_blocks {
        log.push(chain_of(&disk, log[log.len() - 1]));
    }
    // A commit that is cut off in its first flush epoch, of which everything reached the medium but the headers.
    disk.take_writes();
    in_arena(5, 3);
    let ticket = store.commit_start(store.roots()).unwrap();
    let has_header = || disk.look(|media| media.unflushed().iter().any(|sector| sector.at as u64 == info.addr));
    assert!(step_until(&store, || has_header() || store.commit_poll(&ticket).is_some()));
    let written = disk.take_writes();
    assert!(written.iter().all(|addr| !log.contains(addr)), "log {log:x?}, writes {written:x?}");
    let mut bytes = disk.look(|media| media.durable().to_vec());
    disk.look(|media| {
        for sector in media.unflushed().iter().filter(|sector| !is_header(sector.at, info.addr)) {
            bytes[sector.at..][..SECTOR].copy_from_slice(&sector.bytes);
        }
    });
    drop(store);
    let disk = Disk::in_order(Media::new(bytes));
    let memory = memories[1].take().unwrap();
    let store = Store::mount(memory, &disk, &NoInterrupts, MountOptions::default()).unwrap();
    check(&store, &kept).unwrap();
}

fn is_header(at: usize, base: u64) -> bool {
    (base as usize..base as usize + 2 * BLOCK).contains(&at)
}

/// A volume of this size whose arenas the original has filled to the last block.
fn full_of_the_original(len_bytes: usize, arenas: u32, blocks: u32) -> (Vec<u8>, Vec<BlockPtr>) {
    let memory = memory();
    let disk = Disk::in_order(Media::blank(len_bytes));
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(arenas)).unwrap();
    let held: Vec<BlockPtr> =
        (0..blocks).map(|index| put_as(&store, index as u8, hinted(index, Class::Normal)).unwrap()).collect();
    commit_root(&store, held[0]);
    store.unmount().unwrap();
    let mut bytes = disk.into_media().view().to_vec();
    image::fill_up(&mut bytes);
    (bytes, held)
}

#[test]
fn a_volume_that_the_original_filled_up_can_be_freed() {
    let (bytes, held) = full_of_the_original(1 << 20, 2, 20);
    let memories = [memory(), memory()];
    let disk = Disk::in_order(Media::new(bytes));
    let store = mount(&memories[0], &disk).unwrap();
    assert_eq!((store.space().free_blocks, store.space().avail_blocks), (0, 0));
    for ptr in &held[1..] {
        store.free(*ptr).unwrap();
    }
    commit_root(&store, held[0]);
    // The logs were in blocks like others, and are in the last two of their arenas now.
    assert_eq!(store.space().free_blocks, held.len() as u64 - 1 + 2);
    let space = store.space();
    store.unmount().unwrap();
    let store = mount(&memories[1], &disk).unwrap();
    assert_eq!(store.space(), space);
    for (index, ptr) in held.iter().enumerate() {
        assert_eq!(store.is_free(ptr.addr), Ok(index > 0));
    }
}

/// So many pieces of free space that the log of one commit would have no room: the store asks for a commit in between.
#[test]
fn freeing_much_on_a_volume_that_the_original_filled_up_goes_on_in_steps() {
    let (bytes, held) = full_of_the_original(4 << 20, 1, 1900);
    let memories = [memory(), memory(), memory()];
    let disk = Disk::in_order(Media::new(bytes));
    let store = mount(&memories[0], &disk).unwrap();
    assert_eq!(store.space().avail_blocks, 0);
    let mut commits = 0;
    let mut freed = Vec::new();
    for ptr in held.iter().skip(1).step_by(2) {
        match store.free(*ptr) {
            Ok(()) => {}
            Err(Error::Full { .. }) => {
                commit_root(&store, held[0]);
                commits += 1;
                store.free(*ptr).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
        freed.push(*ptr);
    }
    commit_root(&store, held[0]);
    assert!((1..20).contains(&commits), "{commits} commits were asked for");
    let space = store.space();
    assert!(store.arena(0).unwrap().log_blocks > 3);
    // Log blocks come out of what was freed, but for the two that nobody is handed.
    let lost = freed.len() as u64 - space.free_blocks;
    assert!(lost <= space.log_blocks && space.log_blocks <= lost + 2, "{space:?}, freed {}", freed.len());
    drop(store);
    let store = mount(&memories[1], &disk).unwrap();
    assert_eq!(store.space(), space);
    let next = put(&store, 1).unwrap();
    commit_root(&store, next);
    store.unmount().unwrap();
    let store = mount(&memories[2], &disk).unwrap();
    assert_eq!(store.roots().root_ptr().unwrap().addr, next.addr);
}

type Large = Memory<{ pages_for(24, BLOCK) }, 24, { map_words(70_000, 1) }, 1, 16>;

/// A chain of log blocks over half of the volume, each of which frees and allocates the other half over and over: as
/// many words to touch as the square of the volume's size. The mount refuses it after work that one volume is worth.
#[test]
fn a_log_that_keeps_a_mount_busy_is_refused() {
    let len_bytes = 128 << 20;
    let memories: [Box<Large>; 2] = [Box::new(Memory::new()), Box::new(Memory::new())];
    let disk = Disk::in_order(Media::blank(len_bytes));
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    store.unmount().unwrap();
    let mut bytes = disk.into_media().view().to_vec();
    image::fill_up(&mut bytes);
    let (unit, first) = (BLOCK as u64, 3 * BLOCK as u64);
    let half = (len_bytes as u64 / unit - 6) / 2;
    let (addr, len_bytes) = (first + half * unit, (half - 4) * unit);
    for block in 0..half {
        let at = first + block * unit;
        let mut log = LogWriter::new(&mut bytes[at as usize..][..BLOCK], BlockSize::MIN).unwrap();
        for _ in 0..60 {
            log.push(LogEntry::Free { addr, len_bytes }).unwrap();
            log.push(LogEntry::Alloc { addr, len_bytes }).unwrap();
        }
        log.finish(if block + 1 < half { at + unit } else { NONE }).unwrap();
    }
    let disk = Disk::in_order(Media::new(bytes));
    let memory = memories[1].take().unwrap();
    let failed = Store::mount(memory, &disk, &NoInterrupts, MountOptions::default()).unwrap_err();
    assert!(matches!(failed.error, Error::Corrupt { damage: Damage::ReplayWork, .. }), "{}", failed.error);
    assert!(disk.completed() < 100, "{} blocks were read", disk.completed());
}
