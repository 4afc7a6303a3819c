//! The disk seen from the host: the core that ran in the kernel opens the same image, checks it, and compares every
//! file with the archive.
//!
//! Three readings of one image have to agree: the raw bytes of superblocks, headers and logs (the shim's check, which
//! does not use the store), the mounted store, and what the catalogue leads to. The archive is read by the `tar` crate,
//! not by the kernel's reader.

use crate::fate::Fate;
use anyhow::{bail, ensure, Context, Result};
use arenite_catalog::{visit_blocks, Catalog, Depth, Entry, FileReader, Kind, MAX_READ_AHEAD};
use arenite_core::{MountOptions, Store};
use arenite_shim::check::{check_volume, CheckReport};
use arenite_shim::{boxed_memory, FileDevice, FileOptions, HostPlatform, LargeMemory};
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// How many faults of a volume are told of.
const SHOWN_FAULTS: usize = 8;

/// What the disk has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Every file of the archive, unchanged.
    AsImported,
    /// Some files of the archive, unchanged: the machine was switched off during the import. One copy of a superblock
    /// or header may then be older than the other.
    PartAsImported,
    /// What the kernel's verification leaves: every third file deleted, every fifth rewritten.
    AfterChanges,
    /// The same, of an import that was cut short: files may be missing.
    PartAfterChanges,
}

/// What was compared and found equal.
#[derive(Debug)]
pub struct Checked {
    /// Files.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Blocks that the catalogue consists of.
    pub blocks: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Checks the volume on `disk` and compares its files with those of `archive`. The image is not changed.
pub fn host_check(disk: &Path, archive: &Path, expected: Expected) -> Result<Checked> {
    let started = Instant::now();
    let memory: Box<LargeMemory> = boxed_memory();
    let options = FileOptions { read_only: true, ..FileOptions::default() };
    let device = FileDevice::open(disk, options).with_context(|| format!("{}", disk.display()))?;
    let resources = memory.take().context("the store's memory is in use")?;
    let store =
        Store::mount(resources, &device, &HostPlatform, MountOptions { read_only: true, ..MountOptions::default() });
    let store = store.map_err(|failed| anyhow::anyhow!("{}: {}", disk.display(), failed.error))?;
    let report = check_structure(&store, &device, expected == Expected::PartAsImported)?;
    let (files, bytes) = compare(&store, archive, expected)?;
    Ok(Checked { files, bytes, blocks: report.reachable_blocks, elapsed: started.elapsed() })
}

/// Superblocks, headers, logs, and free space against what the catalogue leads to. Reads every block. With `cut_short`
/// the second copies may be old: the machine went away before they were written.
fn check_structure(store: &Store<'_, '_>, device: &FileDevice<'_>, cut_short: bool) -> Result<CheckReport> {
    let (mut reachable, mut faults) = (Vec::new(), Vec::new());
    visit_blocks(store, &store.roots(), Depth::Everything, &mut |visited| {
        reachable.push(visited.ptr.addr);
        if let Err(error) = visited.outcome {
            faults.push(error.to_string());
        }
        ControlFlow::Continue(())
    })?;
    let report = check_volume(device, Some(store), reachable)?;
    faults.extend(report.problems.iter().map(|problem| problem.to_string()));
    if report.superblocks_good != [true; 2] && !cut_short {
        faults.push(format!("superblocks good: {:?}", report.superblocks_good));
    }
    if report.stale_headers != 0 && !cut_short {
        faults.push(format!("{} copies of arena headers are damaged or old", report.stale_headers));
    }
    let count = faults.len();
    faults.truncate(SHOWN_FAULTS);
    ensure!(count == 0, "the volume has {count} faults: {}", faults.join("; "));
    Ok(report)
}

/// Compares every file with the archive, and the catalogue's length with theirs. Returns files and bytes.
fn compare(store: &Store<'_, '_>, archive: &Path, expected: Expected) -> Result<(u64, u64)> {
    let catalog = Catalog::open(store)?;
    let file = File::open(archive).with_context(|| format!("{} cannot be read", archive.display()))?;
    let mut tar = tar::Archive::new(BufReader::with_capacity(1 << 18, file));
    let (mut number, mut paths, mut files, mut bytes) = (0, 0, 0, 0);
    for entry in tar.entries()? {
        let mut entry = entry?;
        let path = entry.path_bytes().into_owned();
        let is_file = entry.header().entry_type().is_file();
        let fate = match expected {
            Expected::AfterChanges | Expected::PartAfterChanges if is_file => Fate::of(number),
            _ => Fate::Kept,
        };
        number += u64::from(is_file);
        let shown = || format!("{}", String::from_utf8_lossy(&path));
        let found = match catalog.get(&path).with_context(shown)? {
            Some(_) if fate == Fate::Deleted => bail!("{}: it was deleted and is there", shown()),
            None if fate == Fate::Deleted => continue,
            None if matches!(expected, Expected::PartAsImported | Expected::PartAfterChanges) => continue,
            None => bail!("{}: it is not in the catalogue", shown()),
            Some(found) => found,
        };
        compare_entry(store, &mut entry, &found, fate, &path).with_context(shown)?;
        paths += 1;
        if is_file {
            files += 1;
            bytes += found.content.size_bytes();
        }
    }
    let held = catalog.count()?;
    ensure!(held == paths, "the catalogue holds {held} paths, and {paths} of the archive are among them");
    Ok((files, bytes))
}

fn compare_entry(
    store: &Store<'_, '_>,
    entry: &mut tar::Entry<'_, impl Read>,
    found: &Entry,
    fate: Fate,
    path: &[u8],
) -> Result<()> {
    let is_file = entry.header().entry_type().is_file();
    let kind = if is_file { Kind::File } else { Kind::Symlink };
    ensure!(found.kind == kind, "it is a {:?}, not a {kind:?}", found.kind);
    let (mode, wanted) = (found.mode, entry.header().mode()?);
    ensure!(mode == wanted, "its mode is {mode:o}, not {wanted:o}");
    let target = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
    let tail = if is_file { fate.tail(path) } else { &target };
    let wanted_len = if is_file { entry.size() } else { 0 } + tail.len() as u64;
    let len = found.content.size_bytes();
    ensure!(len == wanted_len, "it has {len} bytes, not {wanted_len}");

    let mut reader = FileReader::new(store, found.content).with_read_ahead(MAX_READ_AHEAD);
    let mut wanted = entry.chain(tail);
    let mut buffer = vec![0; store.block_size().len_bytes()];
    let (mut at, mut left) = (0, len - tail.len() as u64);
    while let Some(block) = reader.next_block()? {
        let page = &mut buffer[..block.len()];
        wanted.read_exact(page).context("archive")?;
        // Only what comes from the archive was changed.
        let changed = page.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        page[..changed].iter_mut().for_each(|byte| *byte = fate.byte(*byte));
        left -= changed as u64;
        if let Some(differs) = page.iter().zip(&*block).position(|(one, other)| one != other) {
            bail!("byte {} differs", at + differs as u64);
        }
        at += block.len() as u64;
    }
    ensure!(at == len, "only {at} bytes of it are there");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate;
    use crate::pack::{pack, Input};
    use crate::testing::TempDir;
    use arenite_core::format::BlockSize;
    use arenite_core::{Allocate, FormatOptions};
    use std::os::unix::fs::{symlink, FileExt};
    use std::path::PathBuf;

    const FORMAT: FormatOptions = FormatOptions { block_size: BlockSize::ORIGINAL, arenas: 2, force: false };

    /// An archive and a disk with its content, as the kernel would leave them.
    struct Case {
        _dir: TempDir,
        archive: PathBuf,
        disk: PathBuf,
    }

    impl Case {
        /// `change` has the last word on the volume, before it is unmounted.
        fn new(expected: Expected, change: impl FnOnce(&Store<'_, '_>, &mut Catalog<'_, '_, '_>)) -> Self {
            let dir = TempDir::new("host");
            let (input, archive, disk) =
                (dir.path().join("in"), dir.path().join("in.tar"), dir.path().join("disk.img"));
            generate::small(&input, 5).unwrap();
            symlink("t".repeat(130), input.join("link")).unwrap();
            pack(&Input::Tree { dir: input, except: None }, &archive).unwrap();
            File::create(&disk).unwrap().set_len(16 << 20).unwrap();
            let memory: Box<LargeMemory> = boxed_memory();
            let device = FileDevice::open(&disk, FileOptions::default()).unwrap();
            let store = Store::format(memory.take().unwrap(), &device, &HostPlatform, FORMAT).unwrap();
            let mut catalog = Catalog::open(&store).unwrap();
            fill(&mut catalog, &archive, expected);
            change(&store, &mut catalog);
            catalog.commit().unwrap();
            store.settle().unwrap();
            Self { _dir: dir, archive, disk }
        }

        fn check(&self, expected: Expected) -> Result<Checked, String> {
            host_check(&self.disk, &self.archive, expected).map_err(|error| format!("{error:#}"))
        }

        fn fails_with(&self, reason: &str) {
            let error = self.check(Expected::AsImported).unwrap_err();
            assert!(error.contains(reason), "`{error}` is not about `{reason}`");
        }

        fn flip(&self, addr: u64) {
            let file = File::options().read(true).write(true).open(&self.disk).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, addr).unwrap();
            file.write_all_at(&[!byte[0]], addr).unwrap();
        }
    }

    /// Puts the archive's files into the catalogue.
    fn fill(catalog: &mut Catalog<'_, '_, '_>, archive: &Path, expected: Expected) {
        let mut tar = tar::Archive::new(File::open(archive).unwrap());
        let mut number = 0;
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let (path, mode) = (entry.path_bytes().into_owned(), entry.header().mode().unwrap());
            if let Some(target) = entry.link_name_bytes() {
                catalog.put_bytes(&path, Kind::Symlink, mode, &target).unwrap();
                continue;
            }
            let fate = if expected == Expected::AsImported { Fate::Kept } else { Fate::of(number) };
            number += 1;
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            bytes.iter_mut().for_each(|byte| *byte = fate.byte(*byte));
            bytes.extend(fate.tail(&path));
            if fate != Fate::Deleted {
                catalog.put_bytes(&path, Kind::File, mode, &bytes).unwrap();
            }
        }
    }

    #[test]
    fn a_good_volume_passes_and_no_other() {
        let imported = Case::new(Expected::AsImported, |_, _| {});
        let checked = imported.check(Expected::AsImported).unwrap();
        assert_eq!(checked.files, 56);
        assert!(checked.bytes > 2_000_000 && checked.blocks > checked.bytes >> 14, "{checked:?}");
        assert!(imported.check(Expected::AfterChanges).unwrap_err().contains("it was deleted and is there"));

        let changed = Case::new(Expected::AfterChanges, |_, _| {});
        assert!(changed.check(Expected::AfterChanges).unwrap().files < 56);
        assert!(changed.check(Expected::AsImported).unwrap_err().contains("not in the catalogue"));
    }

    #[test]
    fn missing_files_are_allowed_only_in_a_part() {
        let part = Case::new(Expected::AfterChanges, |_, catalog| {
            assert!(catalog.remove(b"length/1").unwrap());
        });
        assert!(part.check(Expected::AfterChanges).unwrap_err().contains("length/1: it is not in the catalogue"));
        let all = Case::new(Expected::AfterChanges, |_, _| {}).check(Expected::AfterChanges).unwrap();
        assert_eq!(part.check(Expected::PartAfterChanges).unwrap().files + 1, all.files);
    }

    #[test]
    fn wrong_files_are_noticed() {
        let put = |path: &'static [u8], kind: Kind, mode: u32, bytes: Vec<u8>| {
            Case::new(Expected::AsImported, move |_, catalog| {
                catalog.put_bytes(path, kind, mode, &bytes).unwrap();
            })
        };
        put(b"length/1", Kind::File, 0o644, vec![1; 2]).fails_with("length/1: it has 2 bytes, not 1");
        put(b"length/513", Kind::File, 0o644, vec![1; 513]).fails_with("length/513: byte 0 differs");
        put(b"length/0", Kind::File, 0o600, vec![]).fails_with("length/0: its mode is 600, not 644");
        put(b"length/0", Kind::Symlink, 0o644, vec![]).fails_with("length/0: it is a Symlink, not a File");
        put(b"another", Kind::File, 0o644, vec![]).fails_with("the catalogue holds 58 paths, and 57");
    }

    #[test]
    fn a_lost_block_is_noticed() {
        let case = Case::new(Expected::AsImported, |store, _| {
            store.enqueue(store.allocate(Allocate::data()).unwrap()).unwrap();
        });
        case.fails_with("in use but unreachable");
    }

    #[test]
    fn a_reachable_block_that_is_free_is_noticed() {
        let case = Case::new(Expected::AsImported, |store, catalog| {
            let entry = catalog.get(b"length/512").unwrap().unwrap();
            store.free(entry.content.root().unwrap()).unwrap();
        });
        case.fails_with("reachable but free");
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let mut addr = 0;
        let case = Case::new(Expected::AsImported, |_, catalog| {
            addr = catalog.get(b"length/512").unwrap().unwrap().content.root().unwrap().addr;
        });
        case.check(Expected::AsImported).unwrap();
        for (addr, reason) in [
            (addr + 5000, "damaged at 0x"),
            (31, "superblocks good: [false, true]"),
            ((16 << 20) - 16384 + 31, "superblocks good: [true, false]"),
            (16384 + 25, "1 copies of arena headers"),
            (2 * 16384 + 25, "1 copies of arena headers"),
        ] {
            case.flip(addr);
            case.fails_with(reason);
            case.flip(addr);
        }
        case.check(Expected::AsImported).unwrap();
    }
}
