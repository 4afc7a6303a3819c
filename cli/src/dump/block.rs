//! One block, decoded by its type. Every type of block has one value here; text and JSON are both made from it.
//!
//! The names of the fields are the keys of the JSON. Addresses and lengths are numbers of bytes; hashes, keys and
//! values are hexadecimal digits, because JSON numbers of 64 bits are not safe with every reader.

use arenite_core::format::{
    AddrHash, ArenaHeader, BlockSize, BlockType, DeadListBlock, Extension, FormatError, Leaf, LogBlock, LogEntry,
    Pivot, RawPtr, Superblock, NONE,
};
use arenite_core::hash::hash64;
use serde::Serialize;
use std::fmt::Write;

/// What a block is to be read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Superblock,
    Header,
    Log,
    DeadList,
    Pivot,
    Leaf,
    Data,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Superblock => "superblock",
            Self::Header => "arena header",
            Self::Log => "log",
            Self::DeadList => "dead list",
            Self::Pivot => "pivot",
            Self::Leaf => "leaf",
            Self::Data => "data",
        }
    }

    /// What the first two bytes say.
    fn claimed(page: &[u8]) -> Self {
        let raw = page.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes));
        match BlockType::try_from(raw) {
            Ok(BlockType::Superblock) => Self::Superblock,
            Ok(BlockType::ArenaHeader) => Self::Header,
            Ok(BlockType::Log) => Self::Log,
            Ok(BlockType::DeadList) => Self::DeadList,
            Ok(BlockType::Pivot) => Self::Pivot,
            Ok(BlockType::Leaf) => Self::Leaf,
            Ok(BlockType::Data) | Err(_) => Self::Data,
        }
    }
}

/// A block: what it was read as, and what came of that.
#[derive(Debug, Serialize)]
pub(crate) struct Decoded {
    pub(super) addr: u64,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    /// Of the whole block, as pointers have it.
    pub(super) hash: String,
    /// Why it is not what it should be; the bytes are then shown as they are.
    pub(super) damage: Option<String>,
    #[serde(flatten)]
    pub(super) body: Body,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Body {
    Superblock(SuperBody),
    Header(HeaderBody),
    Log { next: Option<u64>, entries: Vec<Entry> },
    DeadList { next: Option<u64>, dead: Vec<u64> },
    Pivot { fill: usize, children: Vec<ChildBody>, messages: Vec<MessageBody> },
    Leaf { fill: usize, items: Vec<ItemBody> },
    Data { bytes: String },
}

#[derive(Debug, Serialize)]
pub(crate) struct SuperBody {
    pub(super) block_size: u64,
    pub(super) qgen: u64,
    pub(super) height: u32,
    pub(super) root: Named,
    pub(super) dead_list_head: Named,
    pub(super) dead_list_tail: Named,
    pub(super) flag: u64,
    pub(super) next_qid: u64,
    pub(super) next_gen: u64,
    /// Whether Arenite wrote this commit.
    pub(super) sealed: bool,
    pub(super) arenas: Vec<Named>,
}

/// An address (null for none), and the hash of what belongs there.
#[derive(Debug, Serialize)]
pub(crate) struct Named {
    pub(super) addr: Option<u64>,
    pub(super) hash: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct HeaderBody {
    pub(super) size: u64,
    pub(super) used: u64,
    pub(super) log_head: u64,
    pub(super) seal: Option<SealBody>,
}

#[derive(Debug, Serialize)]
pub(crate) struct SealBody {
    pub(super) gen: u64,
    pub(super) blocks: u32,
    pub(super) digest: String,
    pub(super) tail: u64,
}

/// One entry of a log, and the byte of the block at which it begins.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    pub(super) at: usize,
    #[serde(flatten)]
    pub(super) what: What,
}

#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum What {
    Alloc { addr: u64, len: u64 },
    Free { addr: u64, len: u64 },
    Barrier { gen: u64 },
    Bad { what: String },
}

#[derive(Debug, Serialize)]
pub(crate) struct ChildBody {
    pub(super) key: String,
    pub(super) addr: u64,
    pub(super) hash: String,
    pub(super) gen: u64,
    pub(super) fill: u16,
}

#[derive(Debug, Serialize)]
pub(crate) struct MessageBody {
    pub(super) op: u8,
    pub(super) key: String,
    pub(super) value: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct ItemBody {
    pub(super) key: String,
    pub(super) value: String,
}

impl Decoded {
    /// Decodes a block. Without `kind` it is what its first bytes say, if it is that in every respect; data otherwise.
    pub(super) fn new(page: &[u8], size: BlockSize, addr: u64, base: u64, kind: Option<Kind>) -> Self {
        let claimed = Kind::claimed(page);
        let (kind, body) = match (kind, decode(page, size, base, kind.unwrap_or(claimed))) {
            (wanted, Ok(body)) => (wanted.unwrap_or(claimed), Ok(body)),
            (Some(wanted), Err(error)) => (wanted, Err(error.to_string())),
            (None, Err(error)) => (Kind::Data, Err(format!("begins like a {}, but: {error}", claimed.name()))),
        };
        let (damage, body) = match body {
            Ok(body) => (None, body),
            Err(error) => (Some(error), Body::Data { bytes: hex(page) }),
        };
        Self { addr, kind: kind.name(), hash: hash(hash64(page)), damage, body }
    }

    /// A block that could not be read.
    pub(super) fn unread(addr: u64, kind: Kind, why: &std::io::Error) -> Self {
        let body = Body::Data { bytes: String::new() };
        Self { addr, kind: kind.name(), hash: String::new(), damage: Some(format!("cannot be read: {why}")), body }
    }
}

fn decode(page: &[u8], size: BlockSize, base: u64, kind: Kind) -> Result<Body, FormatError> {
    Ok(match kind {
        Kind::Superblock => superblock(&Superblock::decode(page)?),
        Kind::Header => header(&ArenaHeader::decode(page, size, base)?),
        Kind::Log => {
            let block = LogBlock::decode(page, size)?;
            Body::Log { next: some(block.chain()), entries: entries(&block) }
        }
        Kind::DeadList => {
            let block = DeadListBlock::decode(page, size)?;
            Body::DeadList { next: some(block.chain()), dead: block.addrs().collect::<Result<_, _>>()? }
        }
        Kind::Pivot => pivot(&Pivot::parse(page, size)?),
        Kind::Leaf => {
            let leaf = Leaf::parse(page, size)?;
            let items = leaf.iter().map(|(key, value)| ItemBody { key: hex(key), value: hex(value) });
            Body::Leaf { fill: leaf.fill(), items: items.collect() }
        }
        Kind::Data => Body::Data { bytes: hex(page) },
    })
}

fn superblock(block: &Superblock<'_>) -> Body {
    let head = block.head();
    let arenas = block.arenas().map(|arena| Named { addr: Some(arena.header_addr), hash: hash(arena.header_hash) });
    Body::Superblock(SuperBody {
        block_size: head.block_size.len_u64(),
        qgen: head.qgen,
        height: head.root_height,
        root: named(AddrHash { addr: head.root_addr, hash: head.root_hash }),
        dead_list_head: named(head.deadlist_head),
        dead_list_tail: named(head.deadlist_tail),
        flag: head.flag,
        next_qid: head.next_qid,
        next_gen: head.next_gen,
        sealed: matches!(block.extension(), Extension::Ours { .. }),
        arenas: arenas.collect(),
    })
}

fn header(header: &ArenaHeader) -> Body {
    let seal = header.seal.map(|seal| SealBody {
        gen: seal.gen,
        blocks: seal.blocks,
        digest: hash(seal.digest),
        tail: seal.tail_addr,
    });
    let ArenaHeader { log_head, size_bytes, used_bytes, .. } = *header;
    Body::Header(HeaderBody { size: size_bytes, used: used_bytes, log_head: log_head.addr, seal })
}

fn entries(block: &LogBlock<'_>) -> Vec<Entry> {
    let mut rest = block.entries();
    let mut found = Vec::new();
    loop {
        let at = rest.offset();
        let what = match rest.next() {
            None => return found,
            Some(Ok(LogEntry::Alloc { addr, len_bytes })) => What::Alloc { addr, len: len_bytes },
            Some(Ok(LogEntry::Free { addr, len_bytes })) => What::Free { addr, len: len_bytes },
            Some(Ok(LogEntry::Barrier { gen })) => What::Barrier { gen },
            Some(Err(error)) => What::Bad { what: error.to_string() },
        };
        found.push(Entry { at, what });
    }
}

fn pivot(pivot: &Pivot<'_>) -> Body {
    let child = |index| {
        let (key, child) = (pivot.key(index)?, pivot.child(index)?);
        let RawPtr { addr, hash: sum, gen } = child.ptr;
        Some(ChildBody { key: hex(key), addr, hash: hash(sum), gen, fill: child.fill })
    };
    let message = |index| {
        let message = pivot.message(index)?;
        Some(MessageBody { op: message.op, key: hex(message.key), value: hex(message.value) })
    };
    Body::Pivot {
        fill: pivot.fill(),
        children: (0..pivot.len()).filter_map(child).collect(),
        messages: (0..pivot.message_count()).filter_map(message).collect(),
    }
}

fn some(addr: u64) -> Option<u64> {
    (addr != NONE).then_some(addr)
}

fn named(pair: AddrHash) -> Named {
    Named { addr: some(pair.addr), hash: hash(pair.hash) }
}

pub(super) fn hash(hash: u64) -> String {
    format!("{hash:016x}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes behind hexadecimal digits that [`hex`] made.
pub(super) fn bytes(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0) as u8;
    hex.as_bytes().chunks_exact(2).map(|pair| (digit(pair[0]) << 4) | digit(pair[1])).collect()
}
