#![forbid(unsafe_code)]
//! The word `phase=import`: every file of the archive goes into the store.
//!
//! What the catalogue held before is removed first, so that it holds the archive afterwards and nothing else. There is
//! a commit after every [`COMMIT_EVERY_BYTES`], always between two files: what a "volume full" leaves behind is whole
//! files. So does a machine that is switched off in the middle: an import with `resume=yes` keeps what was committed
//! and goes on with what is missing. It tells files apart by path, kind, mode and size; whether their bytes are right
//! is for `phase=verify` to say.
//!
//! All CPUs take part: each takes the next entry of the archive, writes its content, and puts it into the catalogue;
//! see `team` for what is done side by side.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arenite_catalog::{Catalog, Content, Entry, FileReader, FileWriter, Kind};
use arenite_core::Class;
use spin::Mutex;

use crate::archive::{self, Archive};
use crate::failure::{Failure, PathText};
use crate::outcome::Outcome;
use crate::report::{Meter, Progress, Shares, Tally};
use crate::team::{Changes, KernelCatalog};
use crate::volume::{blocks_for, Volume, DATA_HINT};
use crate::{crew, println};

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
pub fn run(volume: &Volume, archive: &Archive, options: Options) -> Result<(), Failure> {
    let (catalog, found) = crew::assist(|| volume.store.step(), || begin(volume, options))?;
    tell("import", volume, found);
    let meter = Meter::start(volume);
    let import = Import {
        volume,
        changes: Changes::new(volume, catalog),
        archive,
        options,
        progress: Progress::new(0, archive.len_bytes()),
        found,
        put: Mutex::new(Put::default()),
        shares: Shares::new(),
        unstepped_bytes: AtomicUsize::new(0),
        is_shown: AtomicBool::new(false),
    };
    import.changes.team.run(&|cpu| import.work(cpu))?;
    crew::assist(|| volume.store.step(), || import.finish())?;
    meter.finish("import", import.put.lock().tally, &import.shares);
    Ok(())
}

/// The catalogue to import into, and what it holds.
fn begin(volume: &Volume, options: Options) -> Result<(KernelCatalog<'_>, Tally), Failure> {
    let mut catalog = volume.catalog()?;
    if !options.resume {
        clear(volume, &mut catalog)?;
    }
    let found = count(&catalog)?;
    Ok((catalog, found))
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

/// What was put, and how much of it was not committed yet.
#[derive(Clone, Copy, Default)]
struct Put {
    tally: Tally,
    uncommitted_bytes: u64,
}

struct Import<'v> {
    volume: &'v Volume,
    changes: Changes<'v>,
    archive: &'v Archive,
    options: Options,
    progress: Progress,
    /// What was there before.
    found: Tally,
    /// Changes together with the catalogue.
    put: Mutex<Put>,
    shares: Shares,
    unstepped_bytes: AtomicUsize,
    /// The host was told where some data lies.
    is_shown: AtomicBool,
}

impl<'v> Import<'v> {
    /// What each CPU does.
    fn work(&self, cpu: usize) -> Result<(), Failure> {
        while !self.changes.team.is_over() {
            let Some(entry) = self.archive.next_entry()? else { break };
            if self.options.resume && self.is_there(&entry)? {
                continue;
            }
            let Some(content) = self.put(&entry)? else { break };
            self.shares.count(cpu);
            if let archive::Kind::File { .. } = entry.kind {
                self.show_data_block(content)?;
            }
            if self.is_commit_due() {
                self.changes.alone(|catalog| if self.is_commit_due() { self.commit(catalog) } else { Ok(()) })?;
            }
        }
        Ok(())
    }

    /// Commits the rest.
    fn finish(&self) -> Result<(), Failure> {
        self.commit(&mut self.changes.catalog())?;
        Ok(self.volume.store.settle()?)
    }

    fn is_commit_due(&self) -> bool {
        self.put.lock().uncommitted_bytes >= self.options.commit_every_bytes
    }

    /// Commits all that was put so far.
    fn commit(&self, catalog: &mut KernelCatalog<'v>) -> Result<(), Failure> {
        self.volume.commit(catalog)?;
        self.put.lock().uncommitted_bytes = 0;
        tell("commit", self.volume, self.held());
        Ok(())
    }

    /// What the catalogue holds.
    fn held(&self) -> Tally {
        let mut held = self.found;
        held += self.put.lock().tally;
        held
    }

    /// Whether an earlier import has put this entry.
    fn is_there(&self, entry: &archive::Entry) -> Result<bool, Failure> {
        let found = self.changes.catalog().get(&entry.path);
        let Some(found) = found.map_err(|error| Failure::from(error).at(&entry.path))? else { return Ok(false) };
        let kind = kind_of(entry);
        Ok((found.kind, found.mode, found.content.size_bytes()) == (kind, entry.mode, entry.kind.size_bytes()))
    }

    /// Puts one entry into the catalogue. If the volume is full, a commit may make room, once. `None` if the import is
    /// over.
    fn put(&self, entry: &archive::Entry) -> Result<Option<Content>, Failure> {
        let put = self.changes.side_by_side(|| {
            let content = self.write(entry)?;
            self.insert(&mut self.changes.catalog(), entry, content)
        });
        match put {
            Err(failure) if failure.outcome == Outcome::Full => {
                self.changes.alone(|catalog| self.put_after_commit(catalog, entry))
            }
            result => result,
        }
    }

    fn put_after_commit(&self, catalog: &mut KernelCatalog<'v>, entry: &archive::Entry) -> Result<Content, Failure> {
        self.commit(catalog)?;
        self.volume.store.settle()?;
        let need = blocks_for(entry.kind.size_bytes(), self.volume.store.block_size(), catalog.height());
        if self.volume.store.room_blocks(Class::Normal) >= need {
            match self.write(entry).and_then(|content| self.insert(catalog, entry, content)) {
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

    /// Puts an entry whose content is written, and counts it.
    fn insert(
        &self,
        catalog: &mut KernelCatalog<'v>,
        entry: &archive::Entry,
        content: Content,
    ) -> Result<Content, Failure> {
        let new = Entry { kind: kind_of(entry), mode: entry.mode, modified_s: 0, content };
        let put = catalog.put_or_free(&entry.path, &new);
        put.map_err(|error| self.volume.explain(error.into()).at(&entry.path))?;
        let mut tally = match entry.kind {
            archive::Kind::File { size_bytes } => Tally::file(size_bytes),
            archive::Kind::Symlink { .. } => Tally::link(),
        };
        tally.blocks = content.all_blocks(self.volume.store.block_size());
        let mut put = self.put.lock();
        put.tally += tally;
        put.uncommitted_bytes += content.size_bytes();
        Ok(content)
    }

    /// Writes the content of an entry.
    fn write(&self, entry: &archive::Entry) -> Result<Content, Failure> {
        self.try_write(entry).map_err(|failure| self.volume.explain(failure).at(&entry.path))
    }

    fn try_write(&self, entry: &archive::Entry) -> Result<Content, Failure> {
        let store = &self.volume.store;
        let mut writer = FileWriter::new(store, DATA_HINT);
        if let archive::Kind::Symlink { target } = &entry.kind {
            writer.write(target)?;
        }
        let mut content = self.archive.content(entry);
        while let Some(bytes) = content.next_piece()? {
            writer.write(&bytes)?;
            if self.unstepped_bytes.fetch_add(bytes.len(), Ordering::Relaxed) >= STEP_EVERY_BYTES {
                self.unstepped_bytes.store(0, Ordering::Relaxed);
                store.step();
            }
            self.progress.add(bytes.len() as u64);
        }
        Ok(writer.finish()?)
    }

    /// Tells the host, once, where a block of some file's content lies.
    fn show_data_block(&self, content: Content) -> Result<(), Failure> {
        if !self.is_shown.load(Ordering::Relaxed) {
            if let Some(block) = FileReader::new(&self.volume.store, content).block(0)? {
                if !self.is_shown.swap(true, Ordering::Relaxed) {
                    println!("@datablock addr={:#x}", block.ptr().addr);
                }
            }
        }
        Ok(())
    }
}

fn kind_of(entry: &archive::Entry) -> Kind {
    match entry.kind {
        archive::Kind::File { .. } => Kind::File,
        archive::Kind::Symlink { .. } => Kind::Symlink,
    }
}
