#![forbid(unsafe_code)]
//! Commands about the volume and the machine: `df`, `check`, `workers`.

use core::ops::ControlFlow;

use arenite_catalog::{visit_blocks, BlockUse, Depth};
use arenite_core::Class;

use super::command::Name;
use super::Session;
use crate::failure::Failure;
use crate::{crew, interrupts, println};

/// Damaged blocks that are told of one by one.
const SHOWN_DAMAGES: u64 = 16;
/// Blocks at the end of each arena that are never handed out.
const TAIL_BLOCKS: u64 = 2;

/// What a walk over all blocks has found.
#[derive(Default)]
struct Found {
    tree: u64,
    pointers: u64,
    data: u64,
    damaged: u64,
    /// Reachable, and free at the same time.
    free: u64,
}

impl Session<'_> {
    /// Says how much space there is.
    pub(super) fn space(&self) {
        let store = &self.volume.store;
        let (space, size) = (store.space(), store.block_size().len_u64());
        let mib = |blocks: u64| (blocks * size) >> 20;
        println!("generation {}, blocks of {size} bytes, {} arenas", store.generation(), store.report().arenas);
        println!("{:>8} blocks in all, {} MiB", space.total_blocks, mib(space.total_blocks));
        println!("{:>8} free, {} MiB", space.free_blocks, mib(space.free_blocks));
        println!("{:>8} of them can be used now", store.room_blocks(Class::Normal));
        println!("{:>8} were freed, and can be used after the next commit or two", space.pending_blocks);
        println!("{:>8} hold the allocation logs", space.log_blocks);
        self.say_uncommitted();
    }

    /// Reads every block that the newest commit leads to, and accounts for all others. What is not committed has no
    /// part in it.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        let store = &self.volume.store;
        store.settle()?;
        let (mut found, mut interrupted) = (Found::default(), false);
        visit_blocks(store, &store.roots(), Depth::Everything, &mut |visited| {
            match visited.block_use {
                BlockUse::Pivot | BlockUse::Leaf => found.tree += 1,
                BlockUse::Pointers => found.pointers += 1,
                BlockUse::Data => found.data += 1,
            }
            if let Err(error) = visited.outcome {
                found.damaged += 1;
                if found.damaged <= SHOWN_DAMAGES {
                    println!("{}: {error}", Name(visited.path.unwrap_or(b"(the catalogue)")));
                }
            }
            found.free += u64::from(store.is_free(visited.ptr.addr) != Ok(false));
            interrupted = self.is_interrupted();
            if interrupted {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        if interrupted {
            println!("interrupted");
            return Ok(());
        }
        self.judge(&found);
        Ok(())
    }

    fn judge(&self, found: &Found) {
        let store = &self.volume.store;
        let (space, arenas) = (store.space(), store.report().arenas as u64);
        let Found { tree, pointers, data, damaged, free } = *found;
        let (tails, log) = (TAIL_BLOCKS * arenas, space.log_blocks);
        println!(
            "generation {}: {tree} blocks of the catalogue, {pointers} of pointers, {data} of data; \
             every hash compared",
            store.generation()
        );
        println!("{log} of logs, {tails} never used, {} free; {} in all", space.free_blocks, space.total_blocks);
        let sum = tree + pointers + data + log + tails + space.free_blocks;
        let lost = space.total_blocks as i64 - sum as i64;
        match (damaged, free, lost) {
            (0, 0, 0) => println!("check: good; every block is accounted for"),
            _ => println!("check: BAD: {damaged} damaged, {free} in use and free at once, {lost} lost"),
        }
        self.say_uncommitted();
    }

    /// Says what the processors and the store have done.
    pub(super) fn workers(&self) {
        for cpu in crew::members() {
            let ticks = interrupts::ticks(cpu);
            let (all, deferred, intruded) = (ticks.all, ticks.deferred, ticks.intruded);
            println!("CPU {cpu}: {all} ticks, {deferred} after a critical section, {intruded} inside one");
        }
        let counters = self.volume.store.counters();
        let (commits, traffic) = (counters.commit.commits, self.volume.device.traffic());
        let (blocks, requests) = (counters.queued_block_writes, counters.queued_requests);
        println!(
            "store: {commits} commits; {blocks} blocks written in {requests} requests, {} flushes",
            traffic.flushes
        );
        let (lookups, hits) = (counters.cache_lookups, counters.cache_hits);
        println!("cache: {lookups} lookups, {hits} hits; waiting: {} blocks", counters.pending_blocks);
    }
}
