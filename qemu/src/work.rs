//! The work directory: `.arenite/NAME` in the repository, one for each kind of run, locked while it is used.
//!
//! Lock files and disks are locked with the advisory lock of the standard library. The lock goes with the process, so
//! a killed run leaves nothing to clean up. QEMU takes locks of another kind on the images that it opens; the two do
//! not meet. The host's check opens a disk anew and shares its lock ([`while_shared`]).

use crate::tools::Usage;
use anyhow::{bail, Context, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// The directory, relative to the repository, under which all work directories lie.
pub const DIR: &str = ".arenite";

/// A locked work directory. It is removed by [`WorkDir::remove`] alone: what a failed run leaves may be wanted.
pub struct WorkDir {
    path: PathBuf,
    _lock: File,
}

impl WorkDir {
    /// Takes the directory for runs called `name`, empties it.
    pub fn take(root: &Path, name: &str) -> Result<Self> {
        let path = root.join(DIR).join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("{} cannot be created", path.display()))?;
        let lock = path.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock);
        let file = file.with_context(|| format!("{} cannot be created", lock.display()))?;
        lock_file(&file, &path)?;
        for entry in path.read_dir()?.flatten().filter(|entry| entry.path() != lock) {
            let old = entry.path();
            let removed = if old.is_dir() { std::fs::remove_dir_all(&old) } else { std::fs::remove_file(&old) };
            removed.with_context(|| format!("{} cannot be removed", old.display()))?;
        }
        Ok(Self { path, _lock: file })
    }

    /// A path inside.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it with all that is in it, and the directory above if nothing else is left there.
    pub fn remove(self) {
        // What cannot be removed is emptied by the next run; it is no reason to fail now.
        let _ = std::fs::remove_dir_all(&self.path);
        if let Some(parent) = self.path.parent() {
            let _ = std::fs::remove_dir(parent);
        }
    }
}

/// Bytes of the smallest disk.
pub const MIN_DISK_BYTES: u64 = 1 << 20;
/// Bytes of a sector.
const SECTOR_BYTES: u64 = 512;

/// Says whether [`open_disk`] would succeed, before anything is built. Leaves nothing behind.
pub fn try_disk(path: &Path, size_bytes: u64) -> Result<()> {
    let is_new = path.symlink_metadata().is_err();
    let file = open_disk(path, size_bytes);
    if is_new && file.is_ok() {
        std::fs::remove_file(path).with_context(|| format!("the disk {} cannot be removed", path.display()))?;
    }
    file.map(drop)
}

/// Opens a disk image for writing, creating it with `size_bytes` (sparse) if there is none, and locks it.
pub fn open_disk(path: &Path, size_bytes: u64) -> Result<File> {
    let shown = path.display();
    let found = path.metadata();
    match &found {
        Ok(meta) if meta.is_dir() => return Err(Usage(format!("the disk {shown} is a directory")).into()),
        Ok(meta) if !meta.is_file() => return Err(Usage(format!("the disk {shown} is no regular file")).into()),
        _ => {}
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.with_context(|| format!("the disk {shown} cannot be opened for writing"))?;
    lock_file(&file, path)?;
    match file.metadata()?.len() {
        0 => file.set_len(size_bytes).with_context(|| format!("the disk {shown} cannot be sized"))?,
        len if len < MIN_DISK_BYTES => bail!("the disk {shown} has {len} bytes and needs at least {MIN_DISK_BYTES}"),
        len if len % SECTOR_BYTES != 0 => bail!("the disk {shown} has {len} bytes, which are no whole sectors"),
        _ => {}
    }
    Ok(file)
}

/// Runs `body` while others may lock the file for reading, and locks it for us alone again.
pub fn while_shared<R>(file: &File, path: &Path, body: impl FnOnce() -> R) -> Result<R> {
    // Whether a lock can be changed in place depends on the system, so it is given up first. Whoever takes it in
    // between is noticed, here or below.
    file.unlock()?;
    locked(file.try_lock_shared(), path)?;
    let result = body();
    file.unlock()?;
    lock_file(file, path)?;
    Ok(result)
}

fn lock_file(file: &File, path: &Path) -> Result<()> {
    locked(file.try_lock(), path)
}

fn locked(result: Result<(), TryLockError>, path: &Path) -> Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => bail!("{} is in use by another run", path.display()),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("{} cannot be locked", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_at_a_time() {
        let root = crate::testing::TempDir::new("work");
        let first = WorkDir::take(root.path(), "demo").unwrap();
        std::fs::write(first.file("left over"), "x").unwrap();
        let refused = WorkDir::take(root.path(), "demo").err().unwrap().to_string();
        assert!(refused.ends_with("is in use by another run"), "{refused}");
        drop(first);
        let second = WorkDir::take(root.path(), "demo").unwrap();
        assert!(!second.file("left over").exists());
        second.remove();
        assert!(!root.path().join(DIR).exists());
    }

    #[test]
    fn a_disk_keeps_its_size_and_its_lock() {
        let root = crate::testing::TempDir::new("disk");
        let path = root.path().join("disk.img");
        let first = open_disk(&path, 2 * MIN_DISK_BYTES).unwrap();
        assert_eq!(first.metadata().unwrap().len(), 2 * MIN_DISK_BYTES);
        assert!(open_disk(&path, 4096).unwrap_err().to_string().contains("in use by another run"));
        drop(first);
        let again = open_disk(&path, MIN_DISK_BYTES).unwrap();
        assert_eq!(again.metadata().unwrap().len(), 2 * MIN_DISK_BYTES);
    }

    #[test]
    fn a_shared_disk_can_be_read_by_others_and_is_ours_again() {
        let root = crate::testing::TempDir::new("shared");
        let path = root.path().join("disk.img");
        let disk = open_disk(&path, 4096).unwrap();
        let other = File::open(&path).unwrap();
        assert!(other.try_lock_shared().is_err());
        let both = while_shared(&disk, &path, || {
            let locked = other.try_lock_shared().is_ok();
            other.unlock().unwrap();
            locked
        });
        assert!(both.unwrap());
        assert!(other.try_lock_shared().is_err());
        // Whoever still has it then is named.
        let kept = while_shared(&disk, &path, || other.try_lock_shared().unwrap());
        assert!(kept.unwrap_err().to_string().contains("in use by another run"));
    }

    #[test]
    fn a_disk_that_cannot_be_written_is_named() {
        let root = crate::testing::TempDir::new("nodisk");
        let error = format!("{:#}", open_disk(&root.path().join("no/such/disk.img"), 4096).unwrap_err());
        assert!(error.contains("cannot be opened for writing") && error.contains("disk.img"), "{error}");
        let error = format!("{:#}", open_disk(root.path(), 4096).unwrap_err());
        assert!(error.ends_with("is a directory"), "{error}");
    }

    #[test]
    fn a_disk_of_another_size_is_refused() {
        let root = crate::testing::TempDir::new("small");
        let path = root.path().join("disk.img");
        for (len, reason) in [(4096, "at least 1048576"), (MIN_DISK_BYTES + 1, "no whole sectors")] {
            File::create(&path).unwrap().set_len(len).unwrap();
            let error = open_disk(&path, MIN_DISK_BYTES).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn trying_a_disk_leaves_nothing_behind() {
        let root = crate::testing::TempDir::new("try");
        let path = root.path().join("disk.img");
        try_disk(&path, MIN_DISK_BYTES).unwrap();
        assert!(!path.exists());
        drop(open_disk(&path, MIN_DISK_BYTES).unwrap());
        try_disk(&path, MIN_DISK_BYTES).unwrap();
        assert!(path.exists());
    }
}
