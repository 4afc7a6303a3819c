#![forbid(unsafe_code)]
//! The word `phase=verify`: everything that was imported is there, byte for byte; then files are deleted and rewritten,
//! and what is there now is right again.
//!
//! A pass goes through the archive from front to back, looks each path up in the catalogue, and compares the content
//! through verified pointers. That the catalogue holds nothing else is seen by counting. With `partial=yes` files of
//! the archive may be missing: the import ended before them.

use core::ops::ControlFlow;

use arenite_catalog::{
    visit_blocks, Catalog, Depth, Entry, Error as CatalogError, FileBlock, FileReader, FileWriter, Kind, MAX_READ_AHEAD,
};
use arenite_core::{Damage, Error as StoreError};

use crate::archive::{self, Archive};
use crate::failure::{Failure, PathText};
use crate::fate::Fate;
use crate::outcome::Outcome;
use crate::println;
use crate::report::{Meter, Progress, Tally};
use crate::volume::{Volume, DATA_HINT};

/// Damaged files that are told of one by one.
const SHOWN_DAMAGES: u64 = 32;

/// Verifies, changes, verifies.
///
/// # Errors
/// The volume is damaged, or holds something else than it should; the disk failed; the archive is malformed.
pub fn run(volume: &Volume, archive: &mut Archive, partial: bool) -> Result<(), Failure> {
    let mut catalog = volume.catalog()?;
    let meter = Meter::start(volume);
    let first = Pass::new(volume, &catalog, archive, Stage::Imported, partial).run()?;
    meter.finish("verify", first);

    let meter = Meter::start(volume);
    let (deleted, rewritten) = change_files(volume, &mut catalog, archive, partial)?;
    volume.store.settle()?;
    println!("verify: deleted {} files, rewrote {}", deleted.files, rewritten.files);
    let sum = |of: fn(&Tally) -> u64| of(&deleted) + of(&rewritten);
    let changed = Tally { files: sum(|t| t.files), links: 0, bytes: sum(|t| t.bytes), blocks: sum(|t| t.blocks) };
    meter.finish("change", changed);

    let meter = Meter::start(volume);
    let second = Pass::new(volume, &catalog, archive, Stage::Changed, partial).run()?;
    meter.finish("verify-again", second);
    if second.files + deleted.files != first.files {
        let (had, has, gone) = (first.files, second.files, deleted.files);
        let what = format_args!("of {had} files {gone} were deleted and {has} are left");
        return Err(Failure::new(Outcome::Mismatch, what));
    }
    Ok(())
}

/// Deletes every third file and rewrites every fifth, in one commit if there is room for that.
fn change_files<'s>(
    volume: &'s Volume,
    catalog: &mut Catalog<'s, 'static, 'static>,
    archive: &mut Archive,
    partial: bool,
) -> Result<(Tally, Tally), Failure> {
    let (mut deleted, mut rewritten, mut number) = (Tally::default(), Tally::default(), 0);
    archive.rewind();
    while let Some(entry) = archive.next_entry()? {
        let archive::Kind::File { .. } = entry.kind else { continue };
        let fate = Fate::of(number);
        number += 1;
        let tally = match fate {
            Fate::Kept => continue,
            Fate::Deleted => &mut deleted,
            Fate::Rewritten => &mut rewritten,
        };
        let Some(old) = catalog.get(&entry.path)? else {
            if partial {
                continue;
            }
            return Err(missing(&entry.path));
        };
        let changed = match fate {
            Fate::Deleted => volume.change(catalog, |catalog| catalog.remove(&entry.path)),
            _ => volume.change(catalog, |catalog| rewrite(volume, catalog, &entry.path, &old)),
        };
        if !changed.map_err(|failure| failure.at(&entry.path))? {
            return Err(missing(&entry.path));
        }
        tally.files += 1;
        tally.bytes += old.content.size_bytes();
        tally.blocks += old.content.all_blocks(volume.store.block_size());
    }
    volume.commit(catalog)?;
    Ok((deleted, rewritten))
}

/// Writes the content of a file anew, from what the store holds. Returns whether there was such a file.
fn rewrite<'s>(
    volume: &'s Volume,
    catalog: &mut Catalog<'s, 'static, 'static>,
    path: &[u8],
    old: &Entry,
) -> Result<bool, CatalogError> {
    let fate = Fate::Rewritten;
    let mut reader = catalog.reader(old).with_read_ahead(MAX_READ_AHEAD);
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
    let content = writer.finish()?;
    catalog.put_or_free(path, &Entry { content, ..*old })
}

fn missing(path: &[u8]) -> Failure {
    Failure::new(Outcome::Mismatch, format_args!("it is not in the catalogue")).at(path)
}

/// Which state of the files is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// As the import left them.
    Imported,
    /// As [`change_files`] left them.
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
struct Pass<'v, 'c, 'a> {
    volume: &'v Volume,
    catalog: &'c Catalog<'v, 'static, 'static>,
    archive: &'a mut Archive,
    stage: Stage,
    partial: bool,
    progress: Progress,
    tally: Tally,
    damaged: u64,
}

impl<'v, 'c, 'a> Pass<'v, 'c, 'a> {
    fn new(
        volume: &'v Volume,
        catalog: &'c Catalog<'v, 'static, 'static>,
        archive: &'a mut Archive,
        stage: Stage,
        partial: bool,
    ) -> Self {
        let len = archive.len_bytes();
        let progress = Progress::new(if stage == Stage::Imported { 0 } else { len }, 2 * len);
        archive.rewind();
        Self { volume, catalog, archive, stage, partial, progress, tally: Tally::default(), damaged: 0 }
    }

    fn run(mut self) -> Result<Tally, Failure> {
        let mut number = 0;
        while let Some(entry) = self.archive.next_entry()? {
            let fate = match (&entry.kind, self.stage) {
                (archive::Kind::File { .. }, Stage::Changed) => Fate::of(number),
                _ => Fate::Kept,
            };
            number += u64::from(matches!(entry.kind, archive::Kind::File { .. }));
            self.entry(&entry, fate)?;
        }
        if self.damaged > 0 {
            return Err(Failure::new(Outcome::Corrupt, format_args!("{} files are damaged", self.damaged)));
        }
        self.check_count()?;
        self.check_blocks()?;
        Ok(self.tally)
    }

    /// Looks one path of the archive up, and compares.
    fn entry(&mut self, entry: &archive::Entry, fate: Fate) -> Result<(), Failure> {
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
            None => return Err(missing(path)),
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
        match kind {
            Kind::File => {
                self.tally.files += 1;
                self.tally.bytes += size_bytes;
            }
            _ => self.tally.links += 1,
        }
        Ok(())
    }

    /// Compares the content of one file. The outer error means that the archive cannot be read.
    fn compare(
        &mut self,
        entry: &archive::Entry,
        found: &Entry,
        fate: Fate,
    ) -> Result<Result<(), Difference>, Failure> {
        let reader = self.catalog.reader(found).with_read_ahead(MAX_READ_AHEAD);
        let mut stored = Stored { reader, block: None, used: 0, at: 0 };
        if let archive::Kind::Symlink { target } = &entry.kind {
            return Ok(stored.expect(target, Fate::Kept));
        }
        while let Some(bytes) = self.archive.read()? {
            if let Err(difference) = stored.expect(bytes, fate) {
                return Ok(Err(difference));
            }
            self.progress.at(self.archive.position());
        }
        Ok(stored.expect(fate.tail(&entry.path), Fate::Kept))
    }

    /// Names damage and goes on, unless it is something else.
    fn damage(&mut self, path: &[u8], error: CatalogError) -> Result<(), Failure> {
        let Some(StoreError::Corrupt { addr, damage }) = error.store_error() else {
            return Err(Failure::from(error).at(path));
        };
        self.damaged += 1;
        if self.damaged > SHOWN_DAMAGES {
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
        let (count, found) = (self.catalog.count()?, self.tally.files + self.tally.links);
        if count != found {
            let what = format_args!("the catalogue holds {count} paths, the archive {found} of them");
            return Err(Failure::new(Outcome::Mismatch, what));
        }
        Ok(())
    }

    /// Every block that the catalogue leads to is in use according to the free map.
    fn check_blocks(&mut self) -> Result<(), Failure> {
        let store = &self.volume.store;
        let mut result = Ok(());
        let blocks = &mut self.tally.blocks;
        visit_blocks(store, &store.roots(), Depth::Structure, &mut |visited| {
            *blocks += 1;
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
