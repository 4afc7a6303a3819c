#![forbid(unsafe_code)]
//! The command `bench`: how long a small commit takes, and how fast files are written and read.
//!
//! What is measured lies below [`DIR`], and is removed afterwards. It is refused while there are uncommitted changes,
//! because it commits. A machine that goes away in the middle leaves files there, which the next `bench` removes.

use alloc::format;
use alloc::vec::Vec;

use arenite_catalog::{Entry, FileWriter, Kind, MAX_READ_AHEAD};
use arenite_core::Class;

use super::{Are, Session};
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::volume::DATA_HINT;
use crate::{println, time};

/// Where the files are.
const DIR: &[u8] = b".bench/";
/// Small commits that are measured.
const COMMITS: u64 = 50;
/// Bytes of the file that each of them puts.
const SMALL_BYTES: usize = 4096;
/// Bytes of the large file: more than the cache holds.
const LARGE_BYTES: u64 = 32 << 20;
/// Bytes by which it is written.
const PIECE_BYTES: usize = 16 << 10;

impl Session<'_> {
    /// Measures small commits, writing and reading.
    pub(super) fn bench(&mut self) -> Result<(), Failure> {
        if self.changes.count > 0 {
            let what = format_args!("bench commits, and {} not committed: `commit` first", Are(self.changes.count));
            return Err(Failure::new(Outcome::Mismatch, what));
        }
        self.remove_bench()?;
        let measured = self.small_commits().and_then(|()| self.large_file());
        // Also after a failure.
        let removed = self.remove_bench();
        measured.and(removed)
    }

    fn small_commits(&mut self) -> Result<(), Failure> {
        let bytes = [0x5A; SMALL_BYTES];
        let (began_us, mut longest_us) = (time::micros(), 0);
        let mut done = 0;
        while done < COMMITS && !self.is_interrupted() {
            let one_us = time::micros();
            let path = format!(".bench/small/{done}");
            self.catalog.put_bytes(path.as_bytes(), Kind::File, 0o644, &bytes)?;
            self.catalog.commit()?;
            longest_us = longest_us.max(time::micros() - one_us);
            done += 1;
        }
        let mean_us = (time::micros() - began_us) / done.max(1);
        let rate = 1_000_000 / mean_us.max(1);
        println!("{done} times put {SMALL_BYTES} bytes and commit: {mean_us} us each, {longest_us} at most; {rate}/s");
        Ok(())
    }

    fn large_file(&mut self) -> Result<(), Failure> {
        let store = &self.volume.store;
        let size = store.block_size().len_u64();
        let len_bytes = LARGE_BYTES.min(store.room_blocks(Class::Normal) / 2 * size);
        let piece = [0xA5; PIECE_BYTES];
        let began_us = time::micros();
        let mut writer = FileWriter::new(store, DATA_HINT);
        for _ in 0..len_bytes / PIECE_BYTES as u64 {
            writer.write(&piece)?;
            store.step();
        }
        let content = writer.finish()?;
        let entry = Entry { kind: Kind::File, mode: 0o644, modified_s: 0, content };
        self.catalog.put_or_free(b".bench/large", &entry)?;
        self.catalog.commit()?;
        say_rate("wrote and committed", content.size_bytes(), time::micros() - began_us);

        let began_us = time::micros();
        let mut reader = self.catalog.reader(&entry).with_read_ahead(MAX_READ_AHEAD);
        let mut read_bytes = 0;
        while let Some(block) = reader.next_block()? {
            read_bytes += block.len() as u64;
        }
        say_rate("read from the disk, every hash compared,", read_bytes, time::micros() - began_us);

        // What was read last is still in the cache.
        const WARM_BLOCKS: u64 = 64;
        let last = content.data_blocks(store.block_size());
        let began_us = time::micros();
        let mut read_bytes = 0;
        for index in last.saturating_sub(WARM_BLOCKS)..last {
            read_bytes += reader.block(index)?.map_or(0, |block| block.len() as u64);
        }
        say_rate("read from the cache", read_bytes, time::micros() - began_us);
        Ok(())
    }

    /// Removes what is below [`DIR`], and commits.
    fn remove_bench(&mut self) -> Result<(), Failure> {
        let mut removed = 0;
        while let Some(path) = self.first_below_bench()? {
            self.volume.change(&mut self.catalog, |catalog| catalog.remove(&path))?;
            removed += 1;
        }
        if removed > 0 {
            self.catalog.commit()?;
        }
        Ok(())
    }

    fn first_below_bench(&self) -> Result<Option<Vec<u8>>, Failure> {
        match self.catalog.next_after(DIR)? {
            Some(item) if item.path().starts_with(DIR) => Ok(Some(item.path().into())),
            _ => Ok(None),
        }
    }
}

fn say_rate(what: &str, bytes: u64, us: u64) {
    println!("{what} {} KiB: {} MB/s", bytes >> 10, bytes / us.max(1));
}
