//! Superblocks: where a volume begins (FORMAT, section 4).
//!
//! Two copies of one structure name the committed state: the root, the dead list, and for each arena the address
//! and the hash of the header that belongs to the commit. A hash at the end of the arena table vouches for all of it.
//! Behind that hash follows the project's extension, which the original carries along without reading it: it tells
//! whether the last commit was written by this code, and thus whether the extensions of the arena headers are current.
//!
//! ```text
//!   0      magic, sizes, root, dead list, counters, generation
//!   104    arena table: narena x { header address, header hash }
//!   H      hash of 0..H                                             H = 104 + 16 * narena
//!   H+8    extension: magic, generation, digest of 0..H+24          optional
//!   H+32   zero to the end of the block
//! ```
#![forbid(unsafe_code)]

use super::bytes::{be32, be64, field, put32, put64, put_array};
use super::{
    check_addr, check_addr_or_none, AddrHash, BlockSize, FormatError, EXTENSION_MAGIC, MAX_ARENAS, MAX_GENERATION,
    SUPERBLOCK_MAGIC,
};
use crate::hash::hash64;
use crate::sabotage::{sabotaged, Switch};
use static_assertions::{const_assert, const_assert_eq};

const AT_BLKSZ: usize = 8;
const AT_BUFSPC: usize = 12;
const AT_NARENA: usize = 16;
const AT_HEIGHT: usize = 20;
const AT_ROOT: usize = 24;
const AT_DEAD_HEAD: usize = 40;
const AT_DEAD_TAIL: usize = 56;
const AT_FLAG: usize = 72;
const AT_NEXT_QID: usize = 80;
const AT_NEXT_GEN: usize = 88;
const AT_QGEN: usize = 96;
const AT_ARENAS: usize = 104;
const ARENA_LEN: usize = 16;
const HASH_LEN: usize = 8;
const EXTENSION_LEN: usize = 24;

const_assert_eq!(AT_BLKSZ, SUPERBLOCK_MAGIC.len());
const_assert_eq!(AT_ROOT, AT_BLKSZ + 4 * 4);
const_assert_eq!(AT_FLAG, AT_ROOT + 3 * 16);
const_assert_eq!(AT_ARENAS, AT_FLAG + 4 * 8);
// The smallest block holds its largest arena table.
const_assert!(AT_ARENAS + ARENA_LEN * max_arenas(BlockSize::MIN) as usize + HASH_LEN <= BlockSize::MIN.len_bytes());

/// One entry of the arena table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArenaRef {
    /// Byte address of the first copy of the arena's header, which is where the arena begins.
    pub header_addr: u64,
    /// Hash of the header that belongs to this commit.
    pub header_hash: u64,
}

/// The part of a superblock in front of the arena table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SuperHead {
    /// Size of the volume's blocks.
    pub block_size: BlockSize,
    /// Message space of a pivot; always [`BlockSize::bufspc`].
    pub bufspc: u32,
    /// Arenas in the table.
    pub narena: u32,
    /// Height of the root tree.
    pub root_height: u32,
    /// Byte address of the root, or none.
    pub root_addr: u64,
    /// Hash of the root.
    pub root_hash: u64,
    /// Newest block of the dead list, or none.
    pub deadlist_head: AddrHash,
    /// Oldest block of the dead list, or none.
    pub deadlist_tail: AddrHash,
    /// Feature flags.
    pub flag: u64,
    /// Next file identity to be given out.
    pub next_qid: u64,
    /// Next tree generation to be given out.
    pub next_gen: u64,
    /// The committed generation, at most 56 bits.
    pub qgen: u64,
}

/// What lies behind a superblock's hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extension {
    /// This code wrote the last commit, whose generation is `gen`: the arena headers' extensions are current.
    Ours {
        /// Generation of the commit; equal to `qgen`.
        gen: u64,
    },
    /// Somebody else wrote the last commit: extensions in the arena headers are stale.
    Absent,
}

impl SuperHead {
    /// Addresses of the root and the ends of the dead list, or none.
    pub(crate) fn pointers(&self) -> [u64; 3] {
        [self.root_addr, self.deadlist_head.addr, self.deadlist_tail.addr]
    }

    /// The first of these for which `is_there` holds.
    pub(crate) fn points_into(&self, is_there: impl Fn(u64) -> bool) -> Option<u64> {
        self.pointers().into_iter().find(|addr| *addr != super::NONE && is_there(*addr))
    }
}

/// Bytes from the start of a superblock within which the longest arena table ends, with its hash and the extension.
pub const SUPERBLOCK_FRONT_LEN: usize = 8192;
const_assert!(SUPERBLOCK_FRONT_LEN >= hash_offset(MAX_ARENAS) + HASH_LEN + EXTENSION_LEN);

/// A superblock that has passed every check, borrowed from the block that holds it.
#[derive(Clone, Copy, Debug)]
pub struct Superblock<'a> {
    head: SuperHead,
    page: &'a [u8],
}

/// Most arenas that a superblock of blocks of this size can name.
#[must_use]
pub const fn max_arenas(size: BlockSize) -> u32 {
    let fit = ((size.len_bytes() - AT_ARENAS - HASH_LEN) / ARENA_LEN) as u32;
    if fit < MAX_ARENAS {
        fit
    } else {
        MAX_ARENAS
    }
}

/// Most arenas for which a superblock of blocks of this size has room for the extension.
#[must_use]
pub const fn max_sealed_arenas(size: BlockSize) -> u32 {
    let fit = ((size.len_bytes() - AT_ARENAS - HASH_LEN - EXTENSION_LEN) / ARENA_LEN) as u32;
    if fit < MAX_ARENAS {
        fit
    } else {
        MAX_ARENAS
    }
}

/// Reads the block size out of the first bytes of what may be a superblock, before a whole block can be read.
/// Nothing is verified but the magic and the size's bounds. Needs 12 bytes.
pub fn probe_block_size(front: &[u8]) -> Result<BlockSize, FormatError> {
    let short = FormatError::BufferLen { got_bytes: front.len(), want_bytes: AT_BUFSPC };
    let magic: [u8; 8] = *field(front, 0).ok_or(short)?;
    if magic != SUPERBLOCK_MAGIC {
        return Err(match magic {
            [b'g', b'e', b'f', b's', found @ ..] => FormatError::Version { found },
            found => FormatError::Magic { found },
        });
    }
    let len_bytes = be32(front, AT_BLKSZ).ok_or(short)?;
    BlockSize::new(len_bytes).ok_or(FormatError::Field {
        name: "block size",
        offset: AT_BLKSZ,
        found: u64::from(len_bytes),
    })
}

impl<'a> Superblock<'a> {
    /// Decodes a superblock from a whole block. Fails with the first thing that is wrong, in this order: magic,
    /// version, block size, buffer length, fields, arena table, hash.
    pub fn decode(page: &'a [u8]) -> Result<Self, FormatError> {
        probe_block_size(page)?.check_page(page)?;
        Self::decode_front(page)
    }

    /// The same from the first bytes of a block: a whole block, or [`SUPERBLOCK_FRONT_LEN`] bytes of a larger one, or
    /// as many bytes that begin with a smaller one. For mount, which does not know the block size yet.
    pub fn decode_front(front: &'a [u8]) -> Result<Self, FormatError> {
        let size = probe_block_size(front)?;
        let want_bytes = size.len_bytes().min(SUPERBLOCK_FRONT_LEN);
        let short = FormatError::BufferLen { got_bytes: front.len(), want_bytes };
        let page = front.get(..want_bytes).ok_or(short)?;
        let narena = check(page, size)?;
        let at = hash_offset(narena);
        let computed = hash64(page.get(..at).unwrap_or(&[]));
        match be64(page, at) {
            Some(stored) if stored == computed || sabotaged(Switch::SkipSuperblockHash) => {
                Ok(Self { head: read_head(page, size, narena).ok_or(short)?, page })
            }
            stored => Err(FormatError::Hash { stored: stored.unwrap_or(0), computed }),
        }
    }

    /// Everything but the arena table.
    #[must_use]
    pub const fn head(&self) -> &SuperHead {
        &self.head
    }

    /// A hash of everything that has a meaning, the extension included: equal in both copies of one commit.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let end = (hash_offset(self.head.narena) + HASH_LEN + EXTENSION_LEN).min(self.page.len());
        hash64(self.page.get(..end).unwrap_or(&[]))
    }

    /// Entry `index` of the arena table, or `None` behind its end.
    #[must_use]
    pub fn arena(&self, index: u32) -> Option<ArenaRef> {
        if index < self.head.narena {
            arena_ref(self.page, index)
        } else {
            None
        }
    }

    /// The arena table, lowest address first.
    pub fn arenas(&self) -> impl Iterator<Item = ArenaRef> + 'a {
        let page = self.page;
        (0..self.head.narena).filter_map(move |index| arena_ref(page, index))
    }

    /// Who wrote the last commit. The extension counts only if it is whole and of this very commit.
    #[must_use]
    pub fn extension(&self) -> Extension {
        match self.extension_gen() {
            Some(gen) if gen == self.head.qgen => Extension::Ours { gen },
            _ => Extension::Absent,
        }
    }

    fn extension_gen(&self) -> Option<u64> {
        let at = hash_offset(self.head.narena) + HASH_LEN;
        let magic: &[u8; 8] = field(self.page, at)?;
        let digest = be64(self.page, at + 16)?;
        if *magic == EXTENSION_MAGIC && digest == hash64(self.page.get(..at + 16)?) {
            be64(self.page, at + 8)
        } else {
            None
        }
    }
}

/// Writes a superblock into `page`, one whole block: `head`, the arena table, for which `arena` is asked once for each
/// index from 0, the hash, the extension if `extended`, and zeroes. Fails when a value would not pass the decoder, or
/// with [`FormatError::Full`] when the extension does not fit behind so many arenas; the page then holds nothing of
/// use.
pub fn encode_superblock(
    page: &mut [u8],
    head: &SuperHead,
    arena: &mut dyn FnMut(u32) -> ArenaRef,
    extended: bool,
) -> Result<(), FormatError> {
    head.block_size.check_page(page)?;
    check_narena(head.block_size, head.narena)?;
    page.fill(0);
    let full = FormatError::Full;
    write_head(page, head).ok_or(full)?;
    for index in 0..head.narena {
        let ArenaRef { header_addr: addr, header_hash: hash } = arena(index);
        AddrHash { addr, hash }.encode(page, arena_offset(index)).ok_or(full)?;
    }
    check(page, head.block_size)?;
    let at = hash_offset(head.narena);
    seal(page, at).ok_or(full)?;
    if extended {
        put_array(page, at + HASH_LEN, EXTENSION_MAGIC).ok_or(full)?;
        put64(page, at + HASH_LEN + 8, head.qgen).ok_or(full)?;
        seal(page, at + HASH_LEN + 16).ok_or(full)?;
    }
    Ok(())
}

const fn arena_offset(index: u32) -> usize {
    AT_ARENAS + ARENA_LEN * index as usize
}

const fn hash_offset(narena: u32) -> usize {
    arena_offset(narena)
}

fn arena_ref(page: &[u8], index: u32) -> Option<ArenaRef> {
    let AddrHash { addr, hash } = AddrHash::decode(page, arena_offset(index))?;
    Some(ArenaRef { header_addr: addr, header_hash: hash })
}

/// Writes the hash of everything in front of `at` to `at`.
fn seal(page: &mut [u8], at: usize) -> Option<()> {
    let hash = hash64(page.get(..at)?);
    put64(page, at, hash)
}

fn write_head(page: &mut [u8], head: &SuperHead) -> Option<()> {
    // Of known length, so that no field in it is looked for.
    let page = page.first_chunk_mut::<AT_ARENAS>()?;
    put_array(page, 0, SUPERBLOCK_MAGIC)?;
    put32(page, AT_BLKSZ, head.block_size.len_bytes() as u32)?;
    put32(page, AT_BUFSPC, head.bufspc)?;
    put32(page, AT_NARENA, head.narena)?;
    put32(page, AT_HEIGHT, head.root_height)?;
    AddrHash { addr: head.root_addr, hash: head.root_hash }.encode(page, AT_ROOT)?;
    head.deadlist_head.encode(page, AT_DEAD_HEAD)?;
    head.deadlist_tail.encode(page, AT_DEAD_TAIL)?;
    put64(page, AT_FLAG, head.flag)?;
    put64(page, AT_NEXT_QID, head.next_qid)?;
    put64(page, AT_NEXT_GEN, head.next_gen)?;
    put64(page, AT_QGEN, head.qgen)
}

fn read_head(page: &[u8], block_size: BlockSize, narena: u32) -> Option<SuperHead> {
    let page = page.first_chunk::<AT_ARENAS>()?;
    let root = AddrHash::decode(page, AT_ROOT)?;
    Some(SuperHead {
        block_size,
        bufspc: block_size.bufspc(),
        narena,
        root_height: be32(page, AT_HEIGHT)?,
        root_addr: root.addr,
        root_hash: root.hash,
        deadlist_head: AddrHash::decode(page, AT_DEAD_HEAD)?,
        deadlist_tail: AddrHash::decode(page, AT_DEAD_TAIL)?,
        flag: be64(page, AT_FLAG)?,
        next_qid: be64(page, AT_NEXT_QID)?,
        next_gen: be64(page, AT_NEXT_GEN)?,
        qgen: be64(page, AT_QGEN)?,
    })
}

fn check_narena(size: BlockSize, narena: u32) -> Result<(), FormatError> {
    if (1..=max_arenas(size)).contains(&narena) {
        Ok(())
    } else {
        Err(FormatError::Field { name: "arena count", offset: AT_NARENA, found: u64::from(narena) })
    }
}

/// All that holds for a superblock except its hash: run on what was read, and on what is about to be written. Returns
/// the number of arenas.
#[cfg_attr(target_pointer_width = "32", inline(never))]
fn check(page: &[u8], size: BlockSize) -> Result<u32, FormatError> {
    let short = FormatError::BufferLen { got_bytes: page.len(), want_bytes: AT_ARENAS };
    let front = page.first_chunk::<AT_ARENAS>().ok_or(short)?;
    let number = |at| be32(front, at).unwrap_or(0);
    let word = |at| be64(front, at).unwrap_or(0);
    let bufspc = number(AT_BUFSPC);
    if bufspc != size.bufspc() {
        return Err(FormatError::Field { name: "bufspc", offset: AT_BUFSPC, found: u64::from(bufspc) });
    }
    let narena = number(AT_NARENA);
    check_narena(size, narena)?;
    for (name, at) in [("root address", AT_ROOT), ("dead list head", AT_DEAD_HEAD), ("dead list tail", AT_DEAD_TAIL)] {
        check_addr_or_none(size, word(at), name, at)?;
    }
    let qgen = word(AT_QGEN);
    if qgen > MAX_GENERATION {
        return Err(FormatError::Field { name: "committed generation", offset: AT_QGEN, found: qgen });
    }
    // Arenas lie behind the first superblock, in ascending order, and each has at least its two headers.
    let mut least = size.len_u64();
    for index in 0..narena {
        let (offset, addr) = (arena_offset(index), arena_ref(page, index).map_or(0, |arena| arena.header_addr));
        check_addr(size, addr, "arena address", offset)?;
        if addr < least {
            return Err(FormatError::Field { name: "arena address", offset, found: addr });
        }
        least = addr.saturating_add(2 * size.len_u64());
    }
    Ok(narena)
}
