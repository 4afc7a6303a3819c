#![forbid(unsafe_code)]
//! The word `phase=import`: every file of the archive goes into the store.
//!
//! What the catalogue held before is removed first, so that it holds the archive afterwards and nothing else. There is
//! a commit after every [`COMMIT_EVERY_BYTES`], always between two files: what a "volume full" leaves behind is whole
//! files. So does a machine that is switched off in the middle: an import with `resume=yes` keeps what was committed
//! and goes on with what is missing. It tells files apart by path, kind, mode and size; whether their bytes are right
//! is for `phase=verify` to say.

use arenite_catalog::{Catalog, Content, Entry, FileReader, FileWriter, Kind};
use arenite_core::Class;

use crate::archive::{self, Archive};
use crate::failure::{Failure, PathText};
use crate::outcome::Outcome;
use crate::println;
use crate::report::{Meter, Progress, Tally};
use crate::volume::{blocks_for, Volume, DATA_HINT};

/// Bytes of content after which there is a commit.
pub const COMMIT_EVERY_BYTES: u64 = 16 << 20;
/// Bytes of content after which the disk gets what is queued. Not less: nodes of the catalogue that the next file
/// replaces are then never written.
const STEP_EVERY_BYTES: usize = 1 << 20;
/// Files that one commit removes at most.
const REMOVALS_PER_COMMIT: u64 = 1024;

/// How an import goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Keep what the catalogue holds, and put only what is missing.
    pub resume: bool,
    /// Bytes of content after which there is a commit.
    pub commit_every_bytes: u64,
}

/// Imports the archive.
///
/// # Errors
/// The volume is full or damaged, the disk failed, the archive is malformed.
pub fn run(volume: &Volume, archive: &mut Archive, options: Options) -> Result<(), Failure> {
    let mut catalog = volume.catalog()?;
    if !options.resume {
        clear(volume, &mut catalog)?;
    }
    let found = count(&catalog)?;
    tell("import", volume, found);
    let meter = Meter::start(volume);
    let progress = Progress::new(0, archive.len_bytes());
    let mut import = Import {
        volume,
        catalog,
        archive,
        options,
        progress,
        found,
        tally: Tally::default(),
        uncommitted_bytes: 0,
        unstepped_bytes: 0,
        shown: false,
    };
    import.all()?;
    let tally = import.tally;
    volume.store.settle()?;
    meter.finish("import", tally);
    Ok(())
}

/// What the catalogue holds.
fn count(catalog: &Catalog<'_, 'static, 'static>) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    for item in catalog.iter() {
        let entry = item?.entry();
        match entry.kind {
            Kind::Symlink => tally.links += 1,
            _ => {
                tally.files += 1;
                tally.bytes += entry.content.size_bytes();
            }
        }
    }
    Ok(tally)
}

/// Tells the host what the newest commit holds.
fn tell(event: &str, volume: &Volume, held: Tally) {
    let (generation, Tally { files, links, bytes, .. }) = (volume.store.generation(), held);
    println!("@{event} generation={generation} files={files} links={links} bytes={bytes}");
}

/// Removes whatever the catalogue holds.
fn clear<'s>(volume: &'s Volume, catalog: &mut Catalog<'s, 'static, 'static>) -> Result<(), Failure> {
    let mut removed = 0;
    while let Some(item) = catalog.next_after(&[])? {
        let path = item.path().to_vec();
        drop(item);
        volume.change(catalog, |catalog| catalog.remove(&path))?;
        removed += 1;
        if removed % REMOVALS_PER_COMMIT == 0 {
            volume.commit(catalog)?;
        }
    }
    if removed > 0 {
        println!("import: removed the {removed} files that were there");
        volume.commit(catalog)?;
        volume.store.settle()?;
    }
    Ok(())
}

struct Import<'v, 'a> {
    volume: &'v Volume,
    catalog: Catalog<'v, 'static, 'static>,
    archive: &'a mut Archive,
    options: Options,
    progress: Progress,
    /// What was there before.
    found: Tally,
    /// What was put.
    tally: Tally,
    uncommitted_bytes: u64,
    unstepped_bytes: usize,
    /// The host was told where some data lies.
    shown: bool,
}

impl Import<'_, '_> {
    fn all(&mut self) -> Result<(), Failure> {
        while let Some(entry) = self.archive.next_entry()? {
            if self.options.resume && self.is_there(&entry)? {
                continue;
            }
            let content = self.put(&entry)?;
            if let archive::Kind::File { size_bytes } = entry.kind {
                self.tally.files += 1;
                self.tally.bytes += size_bytes;
                self.show_data_block(content)?;
            } else {
                self.tally.links += 1;
            }
            self.tally.blocks += content.all_blocks(self.volume.store.block_size());
            self.uncommitted_bytes += content.size_bytes();
            if self.uncommitted_bytes >= self.options.commit_every_bytes {
                self.commit()?;
            }
        }
        self.commit()
    }

    /// Commits all that was put so far.
    fn commit(&mut self) -> Result<(), Failure> {
        self.volume.commit(&mut self.catalog)?;
        self.uncommitted_bytes = 0;
        tell("commit", self.volume, self.held());
        Ok(())
    }

    /// What the catalogue holds.
    fn held(&self) -> Tally {
        let (found, put) = (&self.found, &self.tally);
        Tally {
            files: found.files + put.files,
            links: found.links + put.links,
            bytes: found.bytes + put.bytes,
            blocks: found.blocks + put.blocks,
        }
    }

    /// Whether an earlier import has put this entry.
    fn is_there(&self, entry: &archive::Entry) -> Result<bool, Failure> {
        let Some(found) = self.catalog.get(&entry.path).map_err(|error| Failure::from(error).at(&entry.path))? else {
            return Ok(false);
        };
        let (kind, size_bytes) = match &entry.kind {
            archive::Kind::File { size_bytes } => (Kind::File, *size_bytes),
            archive::Kind::Symlink { target } => (Kind::Symlink, target.len() as u64),
        };
        Ok((found.kind, found.mode, found.content.size_bytes()) == (kind, entry.mode, size_bytes))
    }

    /// Puts one entry into the catalogue. If the volume is full, a commit may make room, once.
    fn put(&mut self, entry: &archive::Entry) -> Result<Content, Failure> {
        match self.try_put(entry) {
            Err(failure) if failure.outcome == Outcome::Full => {}
            result => return result,
        }
        self.commit()?;
        self.volume.store.settle()?;
        let size_bytes = match &entry.kind {
            archive::Kind::File { size_bytes } => *size_bytes,
            archive::Kind::Symlink { target } => target.len() as u64,
        };
        let need = blocks_for(size_bytes, self.volume.store.block_size(), self.catalog.height());
        if self.volume.store.room_blocks(Class::Normal) >= need {
            self.archive.restart_file();
            match self.try_put(entry) {
                Err(failure) if failure.outcome == Outcome::Full => {}
                result => return result,
            }
        }
        Err(self.full(entry, need))
    }

    /// Says what was needed and what there is.
    fn full(&self, entry: &archive::Entry, need: u64) -> Failure {
        let room = self.volume.store.room_blocks(Class::Normal);
        let Tally { files, bytes, .. } = self.held();
        println!("@full need={need} room={room} files={files} bytes={bytes}");
        println!("import: {files} files, {bytes} bytes are committed");
        let path = PathText(&entry.path);
        let what = format_args!("volume full: {path} needs {need} blocks, there is room for {room}");
        Failure::new(Outcome::Full, what)
    }

    fn try_put(&mut self, entry: &archive::Entry) -> Result<Content, Failure> {
        let volume = self.volume;
        let content = self.write(entry).map_err(|failure| volume.explain(failure).at(&entry.path))?;
        let kind = match entry.kind {
            archive::Kind::File { .. } => Kind::File,
            archive::Kind::Symlink { .. } => Kind::Symlink,
        };
        let new = Entry { kind, mode: entry.mode, modified_s: 0, content };
        let put = self.catalog.put_or_free(&entry.path, &new);
        put.map_err(|error| volume.explain(error.into()).at(&entry.path))?;
        Ok(content)
    }

    /// Writes the content of an entry.
    fn write(&mut self, entry: &archive::Entry) -> Result<Content, Failure> {
        let store = &self.volume.store;
        let mut writer = FileWriter::new(store, DATA_HINT);
        if let archive::Kind::Symlink { target } = &entry.kind {
            writer.write(target)?;
        }
        while let Some(bytes) = self.archive.read()? {
            writer.write(bytes)?;
            self.unstepped_bytes += bytes.len();
            if self.unstepped_bytes >= STEP_EVERY_BYTES {
                self.unstepped_bytes = 0;
                store.step();
            }
            self.progress.at(self.archive.position());
        }
        Ok(writer.finish()?)
    }

    /// Tells the host, once, where a block of some file's content lies.
    fn show_data_block(&mut self, content: Content) -> Result<(), Failure> {
        if !self.shown {
            if let Some(block) = FileReader::new(&self.volume.store, content).block(0)? {
                println!("@datablock addr={:#x}", block.ptr().addr);
                self.shown = true;
            }
        }
        Ok(())
    }
}
