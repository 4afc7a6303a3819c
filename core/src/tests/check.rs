//! The check of a whole volume.

use super::disk::Disk;
use super::store::{memory, options, write, BLOCK};
use crate::{
    Allocate, BlockPtr, CheckReport, CheckStep, Damage, Error, Finding, MemoryPart, MountOptions, NoInterrupts,
    ScrubReport, Store,
};
use std::vec;
use std::vec::Vec;

/// A volume of two arenas whose "structure" is a list of blocks that only the test knows.
fn volume<'d, 'm>(memory: crate::Resources<'m>, disk: &'d Disk<'m>) -> (Store<'d, 'm>, Vec<BlockPtr>) {
    let store = Store::format(memory, disk, &NoInterrupts, options(2)).unwrap();
    let mut ptrs: Vec<BlockPtr> = (0..40).map(|i| write(&store, i).unwrap()).collect();
    let mut other = store.allocate(Allocate::data().hint(1)).unwrap();
    other.bytes_mut().fill(99);
    ptrs.push(store.enqueue(other).unwrap().ptr());
    store.commit(store.roots().with_root(Some(ptrs[0]), 1)).unwrap();
    store.settle().unwrap();
    (store, ptrs)
}

/// Everything that a check finds, those of visits first.
fn check(store: &Store<'_, '_>, visits: &[BlockPtr]) -> (Vec<Finding>, CheckReport) {
    let mut words = vec![u64::MAX; store.check_words()];
    let mut check = store.check(&mut words).unwrap();
    let mut found: Vec<Finding> = visits.iter().filter_map(|ptr| check.visit(*ptr).err()).collect();
    let report = check.finish(&mut |finding| found.push(finding)).unwrap();
    assert_eq!(report.findings, found.len() as u64);
    (found, report)
}

#[test]
fn a_volume_in_good_order_has_no_findings_and_every_block_is_counted() {
    let memories = [memory(), memory()];
    let disk = Disk::new(vec![0; 1 << 20]);
    let (store, ptrs) = volume(memories[0].take().unwrap(), &disk);
    let (found, report) = check(&store, &ptrs);
    assert_eq!(found, []);
    let scrub = ScrubReport { blocks: 2 + 2 * 3, damaged: 0, left_out: 0 };
    let generation = store.generation();
    let counts = CheckReport {
        generation,
        reachable_blocks: 41,
        log_blocks: 2,
        spare_blocks: 4,
        scrub,
        ..CheckReport::default()
    };
    assert_eq!(report, counts);
    let space = store.space();
    assert_eq!(
        space.total_blocks - space.free_blocks,
        report.reachable_blocks + report.log_blocks + report.spare_blocks
    );
    // What was not committed is free on disk, and no business of the check.
    let later = write(&store, 1).unwrap();
    store.free(ptrs[7]).unwrap();
    assert_eq!(check(&store, &ptrs).0, []);
    assert_eq!(check(&store, &[later]).0[0], Finding::ReachableButFree { addr: later.addr });
    store.unmount().unwrap();
    let read_only = MountOptions { read_only: true, ..MountOptions::default() };
    let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, read_only).unwrap();
    disk.take_log();
    assert_eq!(check(&store, &ptrs), (vec![], report));
    assert_eq!(disk.take_log(), [], "a check writes nothing");
}

#[test]
fn what_the_owner_reaches_is_compared_with_the_free_space() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let (store, ptrs) = volume(memory.take().unwrap(), &disk);
    let at = |addr: u64| BlockPtr { addr, hash: 0, gen: 0 };
    let log = store.arena(1).unwrap().log_addr;
    let arena = store.arena(0).unwrap();
    let last = arena.addr + 2 * BLOCK as u64 + arena.size_bytes - BLOCK as u64;
    let free = (0..).map(|i| last - (2 + i) * BLOCK as u64).find(|addr| store.is_free(*addr) == Ok(true)).unwrap();
    let with = |extra: u64| [&ptrs[..], &[at(extra)]].concat();
    for (extra, finding) in [
        (ptrs[3].addr, Finding::ReachedTwice { addr: ptrs[3].addr }),
        (free, Finding::ReachableButFree { addr: free }),
        (0, Finding::Outside { addr: 0 }),
        (arena.addr, Finding::Outside { addr: arena.addr }),
        (ptrs[3].addr + 512, Finding::Outside { addr: ptrs[3].addr + 512 }),
        (u64::MAX, Finding::Outside { addr: u64::MAX }),
        (last, Finding::Outside { addr: last }),
        (log, Finding::ReachableLog { addr: log }),
    ] {
        assert_eq!(check(&store, &with(extra)).0, [finding]);
    }
    // Runs of blocks that nobody reaches, one of them at the end of what was allocated, one in the other arena.
    let lost = [(5, 1), (10, 4), (39, 1), (40, 1)];
    let is_lost = |i: &usize| lost.iter().any(|(first, len)| (*first..first + len).contains(i));
    let kept: Vec<BlockPtr> = (0..ptrs.len()).filter(|i| !is_lost(i)).map(|i| ptrs[i]).collect();
    let (found, report) = check(&store, &kept);
    let runs = lost.map(|(first, len)| Finding::UsedButUnreachable { addr: ptrs[first].addr, blocks: len as u32 });
    assert_eq!(found, runs);
    assert_eq!((report.unreachable_blocks, report.reachable_blocks), (7, 34));
    // What the owner knows to be in use for another reason is not lost.
    let mut words = vec![0; store.check_words()];
    let mut again = store.check(&mut words).unwrap();
    kept.iter().for_each(|ptr| again.visit(*ptr).unwrap());
    ptrs.iter().for_each(|ptr| again.explain(ptr.addr));
    assert!(again.is_known(ptrs[11].addr) && !again.is_known(free));
    assert_eq!(again.finish(&mut |finding| panic!("{:#x}: {finding}", finding.addr())).unwrap().unreachable_blocks, 0);
}

#[test]
fn damage_to_superblocks_headers_and_logs_is_told_apart() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let (store, ptrs) = volume(memory.take().unwrap(), &disk);
    let (header, log) = (store.arena(1).unwrap().addr, store.arena(0).unwrap().log_addr);
    for addr in [0, (1 << 20) - BLOCK as u64, header, header + BLOCK as u64] {
        disk.edit(|bytes| bytes[addr as usize + 33] ^= 8);
        let found = check(&store, &ptrs).0;
        disk.edit(|bytes| bytes[addr as usize + 33] ^= 8);
        let is_there =
            |finding: &Finding| matches!(finding, Finding::BadCopy(Error::Corrupt { addr: at, .. }) if *at == addr);
        assert!(found.len() == 1 && is_there(&found[0]), "{found:?}");
    }
    disk.edit(|bytes| bytes[log as usize + 40] ^= 8);
    let (found, report) = check(&store, &ptrs[1..]);
    assert!(matches!(found[..], [Finding::BadLog(Error::Corrupt { addr, .. })] if addr == log), "{found:?}");
    assert_eq!((report.left_out, report.unreachable_blocks), (1, 0), "nobody knows where that log was");
}

/// Mounted for what can still be read: nobody knows what such an arena has in use, and it is said once.
#[test]
fn an_arena_that_mount_gave_up_is_one_finding() {
    let memories = [memory(), memory()];
    let disk = Disk::new(vec![0; 1 << 20]);
    let (store, ptrs) = volume(memories[0].take().unwrap(), &disk);
    let (log, header) = (store.arena(0).unwrap().log_addr, store.arena(1).unwrap().addr);
    store.unmount().unwrap();
    for addr in [log, header, header + BLOCK as u64] {
        disk.edit(|bytes| bytes[addr as usize + 40] ^= 8);
    }
    let options = MountOptions { read_only: true, damaged: true, ..MountOptions::default() };
    let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, options).unwrap();
    assert_eq!(store.report().damaged_arenas, 2);
    let (found, report) = check(&store, &ptrs[..3]);
    let finding = |addr| Finding::BadLog(Error::Corrupt { addr, damage: Damage::LogNotReplayed });
    assert_eq!(found, [finding(log), finding(header)]);
    let scrub = ScrubReport { blocks: 2, damaged: 2, left_out: 0 };
    assert_eq!((report.left_out, report.unreachable_blocks, report.log_blocks, report.scrub), (2, 0, 0, scrub));
}

#[test]
fn too_few_words_for_a_check_are_refused_with_what_it_needs() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let (store, _) = volume(memory.take().unwrap(), &disk);
    let need = store.check_words();
    assert!(need <= crate::check_words((1 << 20) / BLOCK as u64) && need >= 7, "{need}");
    let mut words = vec![0; need - 1];
    let (need, have) = (need as u64, need as u64 - 1);
    let error = store.check(&mut words).unwrap_err();
    assert_eq!(error, Error::MemoryTooSmall { part: MemoryPart::CheckWords, need, have });
}

#[test]
fn a_check_goes_by_steps_and_notices_a_commit() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let (store, ptrs) = volume(memory.take().unwrap(), &disk);
    let mut words = vec![0; store.check_words()];
    let mut check = store.check(&mut words).unwrap();
    ptrs.iter().for_each(|ptr| check.visit(*ptr).unwrap());
    disk.take_reads();
    let mut verify = check.verify();
    let mut steps = 0;
    while verify.step().unwrap() == CheckStep::Working {
        assert!(disk.take_reads().len() <= 1, "one block at a time");
        store.step();
        steps += 1;
    }
    assert!(matches!(verify.step(), Ok(CheckStep::Done(_))));
    assert!((16..40).contains(&steps), "{steps}");

    let mut words = vec![0; store.check_words()];
    let mut verify = store.check(&mut words).unwrap().verify();
    assert_eq!(verify.step(), Ok(CheckStep::Working));
    let ticket = store.commit_start(store.roots().with_root(Some(ptrs[1]), 1)).unwrap();
    assert_eq!(verify.step(), Err(Error::CommitInFlight));
    let mut more = vec![0; store.check_words()];
    assert_eq!(store.check(&mut more).unwrap_err(), Error::CommitInFlight);
    while store.commit_poll(&ticket).is_none() {
        store.step();
    }
    store.settle().unwrap();
    assert_eq!(verify.step(), Err(Error::CommitInFlight), "it is another state");
    assert!(store.check(&mut more).is_ok());
}

/// No hash covers the way from one log block to the next, so it may lead in a circle.
#[test]
fn a_log_that_has_come_to_lead_in_a_circle_is_a_finding() {
    let memory = memory();
    let disk = Disk::new(vec![0; 2 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    let mut kept: Vec<BlockPtr> = core::iter::from_fn(|| write(&store, 1).ok()).collect();
    let mut odd = false;
    store.commit(store.roots().with_root(Some(kept[0]), 1)).unwrap();
    kept.retain(|ptr| {
        odd = !odd;
        odd || store.free(*ptr).is_err()
    });
    store.commit(store.roots()).unwrap();
    store.settle().unwrap();
    for round in 0..6 {
        kept.push(write(&store, round).unwrap());
        store.commit(store.roots()).unwrap();
        store.settle().unwrap();
    }
    let arena = store.arena(0).unwrap();
    assert!(arena.log_blocks >= 4, "{arena:?}");
    let spare = (arena.addr + arena.size_bytes) as usize;
    disk.edit(|bytes| {
        let head = arena.log_addr as usize;
        bytes.copy_within(head..head + BLOCK, spare);
        for at in [head, spare] {
            bytes[at + 12..at + 20].copy_from_slice(&(spare as u64).to_be_bytes());
        }
    });
    let (found, report) = check(&store, &kept);
    assert!(found.iter().any(|finding| matches!(finding, Finding::BadLog(_))), "{found:?}");
    assert!(report.spare_blocks <= 2, "{report:?}");
}

/// Where a lost arena claims to be says nothing about how large the volume is.
#[test]
fn a_lost_arena_far_away_needs_no_memory_for_a_check() {
    let memories = [memory(), memory()];
    let disk = Disk::new(vec![0; 1 << 20]);
    volume(memories[0].take().unwrap(), &disk).0.unmount().unwrap();
    disk.edit(|bytes| {
        bytes[104 + 16..104 + 24].copy_from_slice(&(1_u64 << 60).to_be_bytes());
        let hash = crate::hash::hash64(&bytes[..136]);
        bytes[136..144].copy_from_slice(&hash.to_be_bytes());
    });
    let options = MountOptions { read_only: true, damaged: true, ..MountOptions::default() };
    let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, options).unwrap();
    assert_eq!(store.report().damaged_arenas, 1);
    assert!(store.check_words() <= crate::check_words(512), "{}", store.check_words());
    let (found, _) = check(&store, &[]);
    assert!(found.iter().any(|finding| matches!(finding, Finding::BadLog(_))), "{found:?}");
}

/// What is known is a block, not the bytes in it; and not what has the same number in fewer bits.
#[test]
fn only_addresses_of_blocks_are_known() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let (store, ptrs) = volume(memory.take().unwrap(), &disk);
    let mut words = vec![0; store.check_words()];
    let mut check = store.check(&mut words).unwrap();
    check.visit(ptrs[0]).unwrap();
    assert!(check.is_known(ptrs[0].addr));
    for addr in [ptrs[0].addr + 1, ptrs[0].addr + (1 << 49), u64::MAX] {
        assert!(!check.is_known(addr), "{addr:#x}");
    }
}
