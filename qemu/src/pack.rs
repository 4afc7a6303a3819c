//! Packs the input into a ustar archive, which becomes the kernel's read-only second disk.
//!
//! The archive is deterministic: entries are sorted by path, bytewise, and carry neither times nor owners. Regular
//! files become file entries, symbolic links link entries (never followed); directories have no entries of their own.
//! A path that ustar cannot hold is preceded by a GNU long-name entry. Whatever cannot be packed (sockets, devices,
//! files that cannot be read or change while they are read) is skipped and counted; a half-written entry is cut off.

use crate::progress::Progress;
use crate::tools::Usage;
use anyhow::{bail, Context, Result};
use arenite_catalog::max_path_len;
use arenite_core::format::BlockSize;
use std::fs::{File, FileType};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes of the longest path that the kernel's catalogue takes.
const MAX_PATH_BYTES: usize = max_path_len(BlockSize::ORIGINAL);

/// Where the files come from.
pub enum Input {
    /// The files that git tracks in this directory.
    Tracked(PathBuf),
    /// All files under this directory, but for those under `except`.
    Tree {
        /// The directory.
        dir: PathBuf,
        /// The runner's own work directory, which may lie inside, in canonical form.
        except: Option<PathBuf>,
    },
}

/// What an archive holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Regular files.
    pub files: u64,
    /// Symbolic links.
    pub links: u64,
    /// Bytes of content in the regular files.
    pub bytes: u64,
    /// The length of the archive in bytes.
    pub archive_bytes: u64,
    /// What was left out, and why.
    pub skipped: Vec<(PathBuf, String)>,
}

/// Packs `input` into a new archive at `archive`. An error if nothing is left to pack.
pub fn pack(input: &Input, archive: &Path) -> Result<Packed> {
    pack_with(input, archive, |path| File::open(path))
}

/// An error unless this is a directory that can be read and holds something. Says so before anything is built.
pub fn look_at(dir: &Path) -> Result<()> {
    let shown = dir.display();
    let text = match dir.read_dir().map(|mut entries| entries.next().is_none()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => format!("the input directory {shown} does not exist"),
        Err(error) => format!("the input directory {shown} cannot be read: {error}"),
        Ok(true) => format!("the input directory {shown} is empty"),
        Ok(false) => return Ok(()),
    };
    Err(Usage(text).into())
}

/// How a file is opened.
type Open = fn(&Path) -> io::Result<File>;

fn pack_with(input: &Input, archive: &Path, open: Open) -> Result<Packed> {
    let mut packed = Packed::default();
    let (dir, paths) = match input {
        Input::Tracked(dir) => (dir, tracked(dir, &mut packed)?),
        Input::Tree { dir, except } => (dir, tree(dir, except.as_deref(), &mut packed)?),
    };
    let file = File::create(archive).with_context(|| format!("{} cannot be written", archive.display()))?;
    let mut builder = tar::Builder::new(BufWriter::with_capacity(1 << 18, file));
    let mut progress = Progress::items("pack", paths.len() as u64);
    for (number, path) in paths.iter().enumerate() {
        let failed = || format!("{} cannot be written", archive.display());
        if let Err(reason) = add(&mut builder, dir, path, open, &mut packed).with_context(failed)? {
            packed.skipped.push((path.clone(), reason));
        }
        progress.set(number as u64 + 1);
    }
    progress.finish();
    let mut file =
        builder.into_inner().and_then(|buffered| buffered.into_inner().map_err(|error| error.into_error()))?;
    packed.archive_bytes = file.stream_position()?;
    if packed.files + packed.links == 0 {
        let skipped = match packed.skipped.first() {
            Some((path, reason)) => format!(" ({} skipped, first {}: {reason})", packed.skipped.len(), shown(path)),
            None => String::new(),
        };
        bail!("{} holds no files to import{skipped}", dir.display());
    }
    Ok(packed)
}

type Builder = tar::Builder<BufWriter<File>>;

/// Adds one path. The outer error means that the archive cannot be written; the inner one is why the path is skipped.
fn add(
    builder: &mut Builder,
    dir: &Path,
    path: &Path,
    open: Open,
    packed: &mut Packed,
) -> io::Result<Result<(), String>> {
    let len = path.as_os_str().len();
    if len > MAX_PATH_BYTES {
        return Ok(Err(format!("a path of {len} bytes; the catalogue takes {MAX_PATH_BYTES}")));
    }
    let full = dir.join(path);
    let meta = match full.symlink_metadata() {
        Ok(meta) => meta,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let mut header = tar::Header::new_ustar();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    if meta.is_symlink() {
        let target = match full.read_link() {
            Ok(target) => target,
            Err(error) => return Ok(Err(error.to_string())),
        };
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        let start = position(builder)?;
        return match builder.append_link(&mut header, path, &target) {
            Ok(()) => {
                packed.links += 1;
                Ok(Ok(()))
            }
            Err(error) => rewind(builder, start, error.to_string()),
        };
    }
    if !meta.is_file() {
        return Ok(Err(kind_of(meta.file_type()).into()));
    }
    let file = match open(&full) {
        Ok(file) => file,
        Err(error) => return Ok(Err(error.to_string())),
    };
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(if is_program(&meta) { 0o755 } else { 0o644 });
    header.set_size(meta.len());
    add_file(builder, header, path, file, meta.len(), packed)
}

/// Adds a file of a known length; if it turns out shorter, or cannot be read, the entry is taken back.
fn add_file(
    builder: &mut Builder,
    mut header: tar::Header,
    path: &Path,
    file: File,
    len_bytes: u64,
    packed: &mut Packed,
) -> io::Result<Result<(), String>> {
    let start = position(builder)?;
    let mut source = Exact { inner: file, left: len_bytes, failure: None };
    let appended = builder.append_data(&mut header, path, &mut source);
    if let Some(failure) = source.failure {
        return rewind(builder, start, failure);
    }
    if let Err(error) = appended {
        return match error.kind() {
            // What the tar crate says of a path that it will not store.
            io::ErrorKind::Other | io::ErrorKind::InvalidInput => rewind(builder, start, error.to_string()),
            _ => Err(error),
        };
    }
    packed.files += 1;
    packed.bytes += len_bytes;
    Ok(Ok(()))
}

fn position(builder: &mut Builder) -> io::Result<u64> {
    builder.get_mut().stream_position()
}

/// Cuts the archive back to where an entry began, and passes the reason on.
fn rewind(builder: &mut Builder, start: u64, reason: String) -> io::Result<Result<(), String>> {
    let buffered = builder.get_mut();
    buffered.flush()?;
    buffered.get_ref().set_len(start)?;
    buffered.seek(SeekFrom::Start(start))?;
    Ok(Err(reason))
}

/// Reads exactly `left` bytes, as the entry's header has promised them; remembers why it could not.
struct Exact<R> {
    inner: R,
    left: u64,
    failure: Option<String>,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        match self.inner.read(&mut buffer[..want]) {
            Ok(0) => self.failure = Some("became shorter while it was read".into()),
            Ok(count) => {
                self.left -= count as u64;
                return Ok(count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => self.failure = Some(error.to_string()),
        }
        Ok(0)
    }
}

/// The files that git tracks, sorted; all files of the directory where git cannot tell.
fn tracked(dir: &Path, packed: &mut Packed) -> Result<Vec<PathBuf>> {
    let listed = std::process::Command::new("git").args(["ls-files", "-z"]).current_dir(dir).output();
    match listed {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            let mut paths: Vec<PathBuf> =
                output.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(path_of).collect();
            paths.sort();
            paths.dedup();
            Ok(paths)
        }
        _ => {
            eprintln!("pack: git cannot list the files here; taking all but target, .git and {}", crate::work::DIR);
            let mut paths = tree(dir, None, packed)?;
            paths.retain(|path| !["target", ".git", crate::work::DIR].iter().any(|own| path.starts_with(own)));
            Ok(paths)
        }
    }
}

#[cfg(unix)]
fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

#[cfg(not(unix))]
fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(String::from_utf8_lossy(bytes).into_owned())
}

/// All that is not a directory under `dir`, as sorted paths relative to it. Directories that cannot be read are skipped
/// and counted.
fn tree(dir: &Path, except: Option<&Path>, packed: &mut Packed) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        bail!("the input directory {} does not exist", dir.display());
    }
    let mut paths = Vec::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(inner) = waiting.pop() {
        let full = dir.join(&inner);
        if except.is_some_and(|except| full.canonicalize().is_ok_and(|full| full == except)) {
            continue;
        }
        let entries = match full.read_dir() {
            Ok(entries) => entries,
            Err(error) => {
                packed.skipped.push((inner, error.to_string()));
                continue;
            }
        };
        for entry in entries {
            match entry {
                Ok(entry) => {
                    let path = inner.join(entry.file_name());
                    let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                    if is_dir { &mut waiting } else { &mut paths }.push(path);
                }
                Err(error) => packed.skipped.push((inner.clone(), error.to_string())),
            }
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(unix)]
fn kind_of(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_block_device() || kind.is_char_device() => "a device",
        _ => "no regular file",
    }
}

#[cfg(not(unix))]
fn kind_of(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else {
        "no regular file"
    }
}

#[cfg(unix)]
fn is_program(meta: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    meta.permissions().mode() & 0o100 != 0
}

#[cfg(not(unix))]
fn is_program(_: &std::fs::Metadata) -> bool {
    false
}

/// A path for people: quoted, without control characters, the middle of a long one left out.
fn shown(path: &Path) -> String {
    const LONGEST: usize = 100;
    let chars: Vec<char> = format!("{path:?}").chars().collect();
    if chars.len() <= LONGEST {
        return chars.into_iter().collect();
    }
    let (head, tail) = (&chars[..LONGEST / 2], &chars[chars.len() - LONGEST / 2..]);
    head.iter().chain(&['.'; 3]).chain(tail).collect()
}

/// Prints what was left out: the first few by name, all by number.
pub fn report_skipped(packed: &Packed) {
    const SHOWN: usize = 10;
    for (path, reason) in packed.skipped.iter().take(SHOWN) {
        println!("pack: skipped {}: {reason}", shown(path));
    }
    if packed.skipped.len() > SHOWN {
        println!("pack: and {} more", packed.skipped.len() - SHOWN);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::os::unix::fs::symlink;

    fn pack_tree(dir: &TempDir) -> (Packed, Vec<u8>) {
        let out = TempDir::new("archive");
        let archive = out.path().join("input.tar");
        let packed = pack(&Input::Tree { dir: dir.path().into(), except: None }, &archive).unwrap();
        let bytes = std::fs::read(archive).unwrap();
        assert_eq!(packed.archive_bytes, bytes.len() as u64);
        assert_eq!(bytes.len() % 512, 0);
        (packed, bytes)
    }

    /// Paths, link targets and contents, as an independent reader finds them.
    fn entries(bytes: &[u8]) -> Vec<(String, Option<String>, Vec<u8>)> {
        let mut archive = tar::Archive::new(bytes);
        let text = |path: std::borrow::Cow<'_, Path>| path.to_str().unwrap().to_string();
        let read = |mut entry: tar::Entry<'_, &[u8]>| {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (text(entry.path().unwrap()), entry.link_name().unwrap().map(text), content)
        };
        archive.entries().unwrap().map(|entry| read(entry.unwrap())).collect()
    }

    #[test]
    fn odd_files_are_packed_or_counted() {
        let dir = TempDir::new("odd");
        let long = format!("{0}/{0}/{0}", "x".repeat(120));
        std::fs::create_dir_all(dir.path().join(&long)).unwrap();
        std::fs::create_dir_all(dir.path().join("empty/dir")).unwrap();
        std::fs::write(dir.path().join(&long).join("deep"), "deep down").unwrap();
        std::fs::write(dir.path().join("nothing"), "").unwrap();
        std::fs::write(dir.path().join("new\nline"), "n").unwrap();
        symlink("nothing", dir.path().join("link")).unwrap();
        symlink("t".repeat(150), dir.path().join("long link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();

        let (packed, bytes) = pack_tree(&dir);
        assert_eq!((packed.files, packed.links, packed.bytes), (3, 2, 10));
        assert_eq!(packed.skipped, [(PathBuf::from("socket"), "a socket".to_string())]);
        let expected = [
            ("link".into(), Some("nothing".into()), vec![]),
            ("long link".into(), Some("t".repeat(150)), vec![]),
            ("new\nline".into(), None, b"n".to_vec()),
            ("nothing".into(), None, vec![]),
            (format!("{long}/deep"), None, b"deep down".to_vec()),
        ];
        assert_eq!(entries(&bytes), expected);
    }

    #[test]
    fn what_may_not_be_read_is_skipped_and_counted() {
        let (dir, out) = (TempDir::new("refused"), TempDir::new("archive"));
        ["open", "secret", "secret too"].iter().for_each(|name| std::fs::write(dir.path().join(name), name).unwrap());
        // Nothing is refused to root, so the refusal is made up.
        let refuse = |path: &Path| match path.to_string_lossy().contains("secret") {
            true => Err(io::ErrorKind::PermissionDenied.into()),
            false => File::open(path),
        };
        let input = Input::Tree { dir: dir.path().into(), except: None };
        let packed = pack_with(&input, &out.path().join("tar"), refuse).unwrap();
        assert_eq!((packed.files, packed.bytes, packed.skipped.len()), (1, 4, 2));
        assert!(packed.skipped.iter().all(|(_, reason)| reason == "permission denied"), "{:?}", packed.skipped);

        let error = pack_with(&input, &out.path().join("tar"), |_| Err(io::ErrorKind::PermissionDenied.into()));
        let error = error.unwrap_err().to_string();
        assert!(error.ends_with("holds no files to import (3 skipped, first \"open\": permission denied)"), "{error}");
    }

    #[test]
    fn paths_that_no_catalogue_takes_are_skipped() {
        let dir = TempDir::new("long");
        let part = "p".repeat(250);
        let mut inner = PathBuf::new();
        while inner.as_os_str().len() <= MAX_PATH_BYTES {
            std::fs::create_dir_all(dir.path().join(&inner)).unwrap();
            std::fs::write(dir.path().join(&inner).join("file"), "x").unwrap();
            inner.push(&part);
        }
        let (packed, _) = pack_tree(&dir);
        let fits = MAX_PATH_BYTES.saturating_sub(4) / 251 + 1;
        assert_eq!(packed.files, fits as u64);
        assert!(
            packed.skipped.iter().all(|(_, reason)| reason.contains("the catalogue takes")),
            "{:?}",
            packed.skipped
        );
    }

    #[test]
    fn paths_are_shown_as_one_short_line() {
        assert_eq!(shown(Path::new("a b")), r#""a b""#);
        assert_eq!(shown(Path::new("a\nb\x1b[2J")), r#""a\nb\u{1b}[2J""#);
        let long = shown(Path::new(&"\u{e4}".repeat(1000)));
        assert!(long.chars().count() == 103 && long.contains("..."), "{long}");
    }

    #[test]
    fn the_same_files_give_the_same_archive() {
        let (one, two) = (TempDir::new("same"), TempDir::new("same"));
        for (dir, names) in [(&one, ["a", "b/c", "b-d"]), (&two, ["b-d", "b/c", "a"])] {
            std::fs::create_dir(dir.path().join("b")).unwrap();
            names.iter().for_each(|name| std::fs::write(dir.path().join(name), name).unwrap());
        }
        let (packed, bytes) = pack_tree(&one);
        assert_eq!((packed, bytes), pack_tree(&two));
    }

    #[test]
    fn a_file_that_shrinks_leaves_no_trace() {
        let dir = TempDir::new("shrink");
        std::fs::write(dir.path().join("file"), vec![7; 1000]).unwrap();
        let mut builder = tar::Builder::new(BufWriter::new(File::create(dir.path().join("tar")).unwrap()));
        let mut packed = Packed::default();
        let mut add_as = |len: u64| {
            let mut header = tar::Header::new_ustar();
            header.set_size(len);
            let file = File::open(dir.path().join("file")).unwrap();
            add_file(&mut builder, header, Path::new("file"), file, len, &mut packed).unwrap()
        };
        assert_eq!(add_as(1000), Ok(()));
        assert!(add_as(5000).unwrap_err().contains("shorter"));
        // A file that has grown is cut to the length that its header names.
        assert_eq!(add_as(10), Ok(()));
        assert_eq!((packed.files, packed.bytes), (2, 1010));
        builder.into_inner().unwrap().into_inner().unwrap();
        let lengths: Vec<usize> =
            entries(&std::fs::read(dir.path().join("tar")).unwrap()).iter().map(|entry| entry.2.len()).collect();
        assert_eq!(lengths, [1000, 10]);
    }

    #[test]
    fn no_files_or_no_directory_is_an_error() {
        let dir = TempDir::new("empty");
        let pack_it = |dir: PathBuf, archive: &Path| {
            let error = pack(&Input::Tree { dir, except: None }, archive).unwrap_err();
            error.to_string()
        };
        let out = TempDir::new("archive");
        let archive = out.path().join("input.tar");
        assert!(pack_it(dir.path().into(), &archive).ends_with("holds no files to import"));
        assert!(pack_it(dir.path().join("no"), &archive).ends_with("does not exist"));
        assert!(pack_it(dir.path().into(), Path::new("/no/such/dir/tar")).contains("cannot be written"));
    }

    #[test]
    fn the_work_directory_is_left_out() {
        let dir = TempDir::new("within");
        std::fs::create_dir(dir.path().join("work")).unwrap();
        std::fs::write(dir.path().join("work/tar"), "x").unwrap();
        std::fs::write(dir.path().join("file"), "y").unwrap();
        let mut packed = Packed::default();
        let found = tree(dir.path(), Some(&dir.path().join("work")), &mut packed).unwrap();
        assert_eq!(found, [PathBuf::from("file")]);
    }

    #[test]
    fn without_git_the_whole_directory_is_taken() {
        let dir = TempDir::new("nogit");
        for name in ["target/x", ".arenite/y", "src/z", "target-not"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let found = tracked(dir.path(), &mut Packed::default()).unwrap();
        assert_eq!(found, [PathBuf::from("src/z"), PathBuf::from("target-not")]);
    }
}
