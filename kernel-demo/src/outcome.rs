//! How a run of the demo kernel ended, as the number that both sides of the virtual machine know.
//!
//! The kernel writes the code to QEMU's isa-debug-exit device, and QEMU exits with `2 * code + 1`. Codes start at 16,
//! so that no status collides with QEMU's own (0 and 1) or with those of a shell. This file has no dependencies:
//! the host includes the same source.

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Everything that was asked for was done and checked. QEMU exits with 33.
    Success = 16,
    /// The kernel panicked. 35.
    Panic = 17,
    /// The processor raised an exception, or a stack overflowed. 37.
    Exception = 18,
    /// The machine is not one that the kernel can run on: no start information, too little memory. 39.
    Machine = 19,
    /// The kernel's command line has a word that it does not know, or a value that makes no sense. 41.
    BadOption = 20,
    /// No disk, or none of the given name, or a disk that the driver cannot use. 43.
    NoDisk = 21,
    /// The disk has a volatile cache, or may have, and cannot be told to flush it. 45.
    NoFlush = 22,
    /// The disk is read-only and the task needs to write. 47.
    ReadOnly = 23,
    /// The disk holds something, and formatting it was not forced. 49.
    NotBlank = 24,
    /// The disk holds no volume where one was expected. 51.
    NoVolume = 25,
    /// The volume is full. 53.
    Full = 26,
    /// The volume is damaged: a checksum or a structure on it is wrong. 55.
    Corrupt = 27,
    /// The device reported an error, timed out or went away. 57.
    Io = 28,
    /// Data that was read back differs from what was written. 59.
    Mismatch = 29,
    /// The input to be imported is malformed. 61.
    BadInput = 30,
    /// A limit of the kernel was reached: memory, table entries. 63.
    Limit = 31,
    /// The user of the shell wants the machine to be started anew. Everything is committed. 65.
    Restart = 32,
    /// The user of the shell has stopped the machine in the middle of things. 67.
    Crash = 33,
}

impl Outcome {
    /// All outcomes, in the order of their codes.
    pub const ALL: [Self; 18] = [
        Self::Success,
        Self::Panic,
        Self::Exception,
        Self::Machine,
        Self::BadOption,
        Self::NoDisk,
        Self::NoFlush,
        Self::ReadOnly,
        Self::NotBlank,
        Self::NoVolume,
        Self::Full,
        Self::Corrupt,
        Self::Io,
        Self::Mismatch,
        Self::BadInput,
        Self::Limit,
        Self::Restart,
        Self::Crash,
    ];

    /// The value that the kernel writes to isa-debug-exit.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The status with which QEMU exits.
    pub const fn exit_status(self) -> i32 {
        2 * (self as i32) + 1
    }

    /// The outcome behind a status of QEMU, or `None` if the kernel did not end the run itself.
    pub fn from_exit_status(status: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.exit_status() == status)
    }

    /// A name in lower case, for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Panic => "panic",
            Self::Exception => "exception",
            Self::Machine => "unsuitable machine",
            Self::BadOption => "bad option",
            Self::NoDisk => "no disk",
            Self::NoFlush => "no flush",
            Self::ReadOnly => "read-only disk",
            Self::NotBlank => "disk not blank",
            Self::NoVolume => "no volume",
            Self::Full => "volume full",
            Self::Corrupt => "volume corrupt",
            Self::Io => "i/o error",
            Self::Mismatch => "data mismatch",
            Self::BadInput => "bad input",
            Self::Limit => "limit reached",
            Self::Restart => "restart",
            Self::Crash => "crash on request",
        }
    }
}
