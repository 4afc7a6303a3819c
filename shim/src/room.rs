//! Memory for the stores of the harness, for small blocks and for large ones.
#![forbid(unsafe_code)]

use crate::memory_box::{boxed_memory, renew_memory, SmallMemory};
use arenite_core::format::BlockSize;
use arenite_core::memory::{map_words, pages_for};
use arenite_core::{Memory, Resources};

/// 32 buffers of 16 KiB (or 8 of 64 KiB), volumes of up to 65536 blocks in up to 64 arenas.
pub type CrashMemory = Memory<{ pages_for(32, 16384) }, 32, { map_words(1 << 16, 64) }, 64, 16>;

/// Memory of one store after the other.
pub enum Room {
    /// For blocks of 2 KiB: a sixteenth of the bytes, which are cleared for each store.
    Small(Box<SmallMemory>),
    /// For larger ones.
    Large(Box<CrashMemory>),
}

/// Volumes of up to so many blocks fit the small memory.
const SMALL_BLOCKS: u64 = 900;

impl Room {
    /// Memory for a volume of so many bytes.
    pub fn new(size: BlockSize, len_bytes: u64) -> Self {
        if size == BlockSize::MIN && len_bytes / size.len_u64() <= SMALL_BLOCKS {
            Self::Small(boxed_memory())
        } else {
            Self::Large(boxed_memory())
        }
    }

    /// Fresh memory. What was made of it before is gone, or this would not compile.
    pub fn fresh(&mut self) -> Option<Resources<'_>> {
        match self {
            Self::Small(memory) => {
                renew_memory(memory);
                memory.take()
            }
            Self::Large(memory) => {
                renew_memory(memory);
                memory.take()
            }
        }
    }
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Small(_)) { "Room::Small" } else { "Room::Large" })
    }
}
