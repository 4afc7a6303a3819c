#![forbid(unsafe_code)]
//! The word `phase=verify`: everything that was imported is there, byte for byte; then files are deleted and rewritten,
//! and what is there now is right again.
//!
//! A pass goes through the archive from front to back, looks each path up in the catalogue, and compares the content
//! through verified pointers. That the catalogue holds nothing else is seen by counting. With `partial=yes` files of
//! the archive may be missing: the import ended before them.
//!
//! All CPUs take part, each with the next entry of the archive; see `team`.

use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU64, Ordering};

use arenite_catalog::{
    visit_blocks, Content, Depth, Entry, Error as CatalogError, FileBlock, FileReader, FileWriter, Kind, MAX_READ_AHEAD,
};
use arenite_core::{Damage, Error as StoreError};
use spin::Mutex;

use crate::archive::{self, Archive};
use crate::failure::{Failure, PathText};
use crate::fate::Fate;
use crate::outcome::Outcome;
use crate::report::{Meter, Progress, Shares, Tally};
use crate::team::{Changes, KernelCatalog, Team};
use crate::volume::{Volume, DATA_HINT};
use crate::{crew, println};

/// Damaged files that are told of one by one.
const SHOWN_DAMAGES: u64 = 32;

/// Verifies, changes, verifies.
///
/// # Errors
/// The volume is damaged, or holds something else than it should; the disk failed; the archive is malformed.
pub fn run(volume: &Volume, archive: &Archive, partial: bool) -> Result<(), Failure> {
    let catalog = crew::assist(|| volume.store.step(), || volume.catalog())?;
    let meter = Meter::start(volume);
    let (first, shares) = Pass::new(volume, &catalog, archive, Stage::Imported, partial).run()?;
    meter.finish("verify", first, &shares);

    let meter = Meter::start(volume);
    let change = Change::new(volume, catalog, archive, partial);
    let (deleted, rewritten) = change.run()?;
    println!("verify: deleted {} files, rewrote {}", deleted.files, rewritten.files);
    let mut changed = deleted;
    changed += rewritten;
    meter.finish("change", changed, &change.shares);
    let catalog = change.changes.into_catalog();

    let meter = Meter::start(volume);
    let (second, shares) = Pass::new(volume, &catalog, archive, Stage::Changed, partial).run()?;
    meter.finish("verify-again", second, &shares);
    if second.files + deleted.files != first.files {
        let (had, has, gone) = (first.files, second.files, deleted.files);
        let what = format_args!("of {had} files {gone} were deleted and {has} are left");
        return Err(Failure::new(Outcome::Mismatch, what));
    }
    Ok(())
}

/// Deletes every third file and rewrites every fifth, in one commit if there is room for that.
struct Change<'v> {
    volume: &'v Volume,
    changes: Changes<'v>,
    archive: &'v Archive,
    partial: bool,
    /// Of the deleted files, and of the rewritten ones.
    tallies: Mutex<(Tally, Tally)>,
    shares: Shares,
}

impl<'v> Change<'v> {
    fn new(volume: &'v Volume, catalog: KernelCatalog<'v>, archive: &'v Archive, partial: bool) -> Self {
        let (changes, tallies) = (Changes::new(volume, catalog), Mutex::new((Tally::default(), Tally::default())));
        archive.rewind();
        Self { volume, changes, archive, partial, tallies, shares: Shares::new() }
    }

    /// What was deleted, and what was rewritten.
    fn run(&self) -> Result<(Tally, Tally), Failure> {
        self.changes.team.run(&|cpu| self.work(cpu))?;
        let volume = self.volume;
        crew::assist(
            || volume.store.step(),
            || {
                volume.commit(&mut self.changes.catalog())?;
                Ok::<(), Failure>(volume.store.settle()?)
            },
        )?;
        Ok(*self.tallies.lock())
    }

    /// What each CPU does.
    fn work(&self, cpu: usize) -> Result<(), Failure> {
        while !self.changes.team.is_over() {
            let Some(entry) = self.archive.next_entry()? else { break };
            let fate = match entry.kind {
                archive::Kind::File { .. } => Fate::of(entry.number),
                archive::Kind::Symlink { .. } => Fate::Kept,
            };
            if fate != Fate::Kept {
                self.entry(&entry, fate).map_err(|failure| failure.at(&entry.path))?;
                self.shares.count(cpu);
            }
        }
        Ok(())
    }

    /// Deletes or rewrites one file.
    fn entry(&self, entry: &archive::Entry, fate: Fate) -> Result<(), Failure> {
        let found = self.changes.catalog().get(&entry.path)?;
        let Some(old) = found else { return if self.partial { Ok(()) } else { Err(not_there()) } };
        let write = || match fate {
            Fate::Deleted => Ok(None),
            _ => self.explained(rewrite(self.volume, &entry.path, &old)).map(Some),
        };
        let enter = |catalog: &mut KernelCatalog<'v>, content: Option<Content>| {
            self.explained(match content {
                None => catalog.remove(&entry.path),
                Some(content) => catalog.put_or_free(&entry.path, &Entry { content, ..old }),
            })
        };
        let changed = self.changes.side_by_side(|| {
            let content = write()?;
            enter(&mut self.changes.catalog(), content)
        });
        let changed = match changed {
            Err(failure) if failure.outcome == Outcome::Full => {
                // What was freed can be used after a commit.
                self.changes.alone(|catalog| {
                    self.volume.commit(catalog)?;
                    self.volume.store.settle()?;
                    enter(catalog, write()?)
                })
            }
            result => result,
        };
        if changed? == Some(false) {
            return Err(not_there());
        }
        let mut tally = Tally::file(old.content.size_bytes());
        tally.blocks = old.content.all_blocks(self.volume.store.block_size());
        let mut tallies = self.tallies.lock();
        *if fate == Fate::Deleted { &mut tallies.0 } else { &mut tallies.1 } += tally;
        Ok(())
    }

    fn explained<T>(&self, result: Result<T, CatalogError>) -> Result<T, Failure> {
        result.map_err(|error| self.volume.explain(error.into()))
    }
}

/// Writes the content of a file anew, from what the store holds.
fn rewrite(volume: &Volume, path: &[u8], old: &Entry) -> Result<Content, CatalogError> {
    let fate = Fate::Rewritten;
    let mut reader = FileReader::new(&volume.store, old.content).with_read_ahead(MAX_READ_AHEAD);
    let mut writer = FileWriter::new(&volume.store, DATA_HINT);
    let mut buffer = [0; 4096];
    while let Some(block) = reader.next_block()? {
        for piece in block.chunks(buffer.len()) {
            for (to, from) in buffer.iter_mut().zip(piece) {
                *to = fate.byte(*from);
            }
            writer.write(&buffer[..piece.len()])?;
        }
        volume.store.step();
    }
    writer.write(fate.tail(path))?;
    writer.finish()
}

fn not_there() -> Failure {
    Failure::new(Outcome::Mismatch, format_args!("it is not in the catalogue"))
}

/// Which state of the files is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// As the import left them.
    Imported,
    /// As [`Change`] left them.
    Changed,
}

/// How a stored file differs from what it should be.
enum Difference {
    /// It cannot be read.
    Unreadable(CatalogError),
    /// The byte at this offset is another one, or is missing.
    Byte(u64),
}

/// One comparison of the whole catalogue with the archive.
struct Pass<'v> {
    volume: &'v Volume,
    catalog: &'v KernelCatalog<'v>,
    archive: &'v Archive,
    stage: Stage,
    partial: bool,
    progress: Progress,
    tally: Mutex<Tally>,
    shares: Shares,
    damaged: AtomicU64,
}

impl<'v> Pass<'v> {
    fn new(
        volume: &'v Volume,
        catalog: &'v KernelCatalog<'v>,
        archive: &'v Archive,
        stage: Stage,
        partial: bool,
    ) -> Self {
        let len = archive.len_bytes();
        let progress = Progress::new(if stage == Stage::Imported { 0 } else { len }, 2 * len);
        archive.rewind();
        let (tally, shares, damaged) = (Mutex::new(Tally::default()), Shares::new(), AtomicU64::new(0));
        Self { volume, catalog, archive, stage, partial, progress, tally, shares, damaged }
    }

    fn run(self) -> Result<(Tally, Shares), Failure> {
        let (team, volume) = (Team::new(self.volume), self.volume);
        team.run(&|cpu| self.work(&team, cpu))?;
        let damaged = self.damaged.load(Ordering::Relaxed);
        if damaged > 0 {
            return Err(Failure::new(Outcome::Corrupt, format_args!("{damaged} files are damaged")));
        }
        crew::assist(
            || volume.store.step(),
            || {
                self.check_count()?;
                self.check_blocks()
            },
        )?;
        Ok((self.tally.into_inner(), self.shares))
    }

    /// What each CPU does. It is inside an epoch for one file at a time, as readers have to be where others free.
    fn work(&self, team: &Team<'_>, cpu: usize) -> Result<(), Failure> {
        while !team.is_over() {
            let Some(entry) = self.archive.next_entry()? else { break };
            let fate = match (&entry.kind, self.stage) {
                (archive::Kind::File { .. }, Stage::Changed) => Fate::of(entry.number),
                _ => Fate::Kept,
            };
            let _epoch = self.volume.store.enter(cpu as u32)?;
            self.entry(&entry, fate)?;
            self.shares.count(cpu);
        }
        Ok(())
    }

    /// Looks one path of the archive up, and compares.
    fn entry(&self, entry: &archive::Entry, fate: Fate) -> Result<(), Failure> {
        let path = &entry.path;
        let differs = |what: &str| Err(Failure::new(Outcome::Mismatch, format_args!("{what}")).at(path));
        let found = match self.catalog.get(path) {
            Ok(found) => found,
            Err(error) => return self.damage(path, error),
        };
        let found = match found {
            Some(_) if fate == Fate::Deleted => return differs("it was deleted and is there"),
            Some(found) => found,
            None if fate == Fate::Deleted || self.partial => return Ok(()),
            None => return Err(not_there().at(path)),
        };
        let (kind, size_bytes) = match &entry.kind {
            archive::Kind::File { size_bytes } => (Kind::File, size_bytes + fate.tail(path).len() as u64),
            archive::Kind::Symlink { target } => (Kind::Symlink, target.len() as u64),
        };
        if (found.kind, found.mode) != (kind, entry.mode) {
            return differs("its kind or mode differs");
        }
        if found.content.size_bytes() != size_bytes {
            return differs("its length differs");
        }
        match self.compare(entry, &found, fate)? {
            Ok(()) => {}
            Err(Difference::Byte(at)) => {
                let what = format_args!("byte {at} differs");
                return Err(Failure::new(Outcome::Mismatch, what).at(path));
            }
            Err(Difference::Unreadable(error)) => return self.damage(path, error),
        }
        *self.tally.lock() += if kind == Kind::File { Tally::file(size_bytes) } else { Tally::link() };
        Ok(())
    }

    /// Compares the content of one file. The outer error means that the archive cannot be read.
    fn compare(&self, entry: &archive::Entry, found: &Entry, fate: Fate) -> Result<Result<(), Difference>, Failure> {
        let reader = self.catalog.reader(found).with_read_ahead(MAX_READ_AHEAD);
        let mut stored = Stored { reader, block: None, used: 0, at: 0 };
        if let archive::Kind::Symlink { target } = &entry.kind {
            return Ok(stored.expect(target, Fate::Kept));
        }
        let mut content = self.archive.content(entry);
        while let Some(bytes) = content.next_piece()? {
            if let Err(difference) = stored.expect(&bytes, fate) {
                return Ok(Err(difference));
            }
            self.progress.add(bytes.len() as u64);
        }
        Ok(stored.expect(fate.tail(&entry.path), Fate::Kept))
    }

    /// Names damage and goes on, unless it is something else.
    fn damage(&self, path: &[u8], error: CatalogError) -> Result<(), Failure> {
        let Some(StoreError::Corrupt { addr, damage }) = error.store_error() else {
            return Err(Failure::from(error).at(path));
        };
        if self.damaged.fetch_add(1, Ordering::Relaxed) >= SHOWN_DAMAGES {
            return Ok(());
        }
        let file = PathText(path);
        match damage {
            Damage::Hash { expected, found } => {
                println!("@corrupt file={file} addr={addr:#x} expected={expected:#018x} found={found:#018x}");
            }
            _ => println!("@corrupt file={file} addr={addr:#x}"),
        }
        println!("verify: {file}: {error}");
        Ok(())
    }

    /// The catalogue holds as many paths as were found, hence no others.
    fn check_count(&self) -> Result<(), Failure> {
        let tally = *self.tally.lock();
        let (count, found) = (self.catalog.count()?, tally.files + tally.links);
        if count != found {
            let what = format_args!("the catalogue holds {count} paths, the archive {found} of them");
            return Err(Failure::new(Outcome::Mismatch, what));
        }
        Ok(())
    }

    /// Every block that the catalogue leads to is in use according to the free map.
    fn check_blocks(&self) -> Result<(), Failure> {
        let store = &self.volume.store;
        let (mut result, mut blocks) = (Ok(()), 0);
        visit_blocks(store, &store.roots(), Depth::Structure, &mut |visited| {
            blocks += 1;
            let checked = visited.outcome.and_then(|()| Ok(store.is_free(visited.ptr.addr)?));
            match checked {
                Ok(false) => return ControlFlow::Continue(()),
                Ok(true) => {
                    let what = format_args!("the block at {:#x} is in use and counts as free", visited.ptr.addr);
                    result = Err(Failure::new(Outcome::Corrupt, what));
                }
                Err(error) => result = Err(error.into()),
            }
            ControlFlow::Break(())
        })?;
        self.tally.lock().blocks = blocks;
        result
    }
}

/// The content of a stored file, as a stream.
struct Stored<'s> {
    reader: FileReader<'s, 'static, 'static>,
    block: Option<FileBlock<'s>>,
    /// Bytes of the block that were compared.
    used: usize,
    /// Bytes of the file that were compared.
    at: u64,
}

impl Stored<'_> {
    /// Compares the next bytes with these.
    fn expect(&mut self, mut expected: &[u8], fate: Fate) -> Result<(), Difference> {
        while !expected.is_empty() {
            let block = match self.block.take().filter(|block| self.used < block.len()) {
                Some(block) => block,
                None => {
                    self.used = 0;
                    let next = self.reader.next_block().map_err(Difference::Unreadable)?;
                    next.ok_or(Difference::Byte(self.at))?
                }
            };
            let stored = block.get(self.used..).unwrap_or(&[]);
            let (now, rest) = expected.split_at(expected.len().min(stored.len()));
            let stored = &stored[..now.len()];
            let equal = match fate {
                Fate::Rewritten => now.iter().zip(stored).all(|(from, to)| fate.byte(*from) == *to),
                Fate::Kept | Fate::Deleted => now == stored,
            };
            if !equal {
                let offset = now.iter().zip(stored).position(|(from, to)| fate.byte(*from) != *to).unwrap_or(0);
                return Err(Difference::Byte(self.at + offset as u64));
            }
            self.used += now.len();
            self.at += now.len() as u64;
            expected = rest;
            self.block = Some(block);
        }
        Ok(())
    }
}
