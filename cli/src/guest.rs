//! Locks as QEMU takes them on its disks, so that neither works on what the other has open.
//!
//! QEMU has no lock on a whole file. It has one (of the open file description, for reading) on a byte for each thing
//! that it may do with the file, and one on another byte for each thing that it lets nobody else do:
//!
//! ```text
//!   byte 100 + n   does n            byte 200 + n   lets nobody else do n            n = 1: writing
//! ```
//!
//! Where the system or the file system knows no such locks, nothing is kept out by them.

use std::fs::File;

#[cfg(target_os = "linux")]
mod bytes {
    use nix::errno::Errno;
    use nix::fcntl::{fcntl, FcntlArg};
    use nix::libc::{flock, F_RDLCK, F_UNLCK, F_WRLCK, SEEK_SET};
    use std::fs::File;

    const DOES: i64 = 100;
    const FORBIDS: i64 = 200;
    const WRITING: i64 = 1;
    /// More things than there are.
    const THINGS: i64 = 100;

    fn lock(kind: i32, start: i64, len: i64) -> flock {
        flock { l_type: kind as i16, l_whence: SEEK_SET as i16, l_start: start, l_len: len, l_pid: 0 }
    }

    fn is_taken(result: Result<i32, Errno>) -> bool {
        matches!(result, Err(Errno::EAGAIN | Errno::EACCES))
    }

    pub(super) fn take_for_writing(file: &File) -> bool {
        let all = lock(F_WRLCK, DOES, FORBIDS + THINGS - DOES);
        !is_taken(fcntl(file, FcntlArg::F_OFD_SETLK(&all)))
    }

    pub(super) fn forbid_writing(file: &File) -> bool {
        let lock = lock(F_RDLCK, FORBIDS + WRITING, 1);
        !is_taken(fcntl(file, FcntlArg::F_OFD_SETLK(&lock))) && !is_written(file)
    }

    pub(super) fn is_written(file: &File) -> bool {
        let mut lock = lock(F_WRLCK, DOES + WRITING, 1);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).is_ok() && i32::from(lock.l_type) != F_UNLCK
    }
}

#[cfg(not(target_os = "linux"))]
mod bytes {
    use std::fs::File;

    pub(super) fn take_for_writing(_file: &File) -> bool {
        true
    }

    pub(super) fn forbid_writing(_file: &File) -> bool {
        true
    }

    pub(super) fn is_written(_file: &File) -> bool {
        false
    }
}

/// How it is told.
pub(crate) const HAS_IT: &str = "a virtual machine has it open";

/// Keeps QEMU from opening the file, for as long as it is open here; false if QEMU has it open already. The file must
/// be open for writing.
pub(crate) fn take_for_writing(file: &File) -> bool {
    bytes::take_for_writing(file)
}

/// Keeps QEMU from opening the file for writing, for as long as it is open here; false if it has done so already.
pub(crate) fn forbid_writing(file: &File) -> bool {
    bytes::forbid_writing(file)
}

/// Whether QEMU has the file open for writing.
pub(crate) fn is_written(file: &File) -> bool {
    bytes::is_written(file)
}
