//! The block device: the one trait that a driver implements.
//!
//! # The contract about media
//! The store keeps its promises on every device for which these six statements are true.
//!
//! 1. A 512-byte sector is written whole or not at all. Nothing larger is.
//! 2. Between two flushes any subset of the writes may survive a crash, in any order, each torn at any sectors.
//! 3. A completed flush makes durable what had *completed* before it was issued, and nothing else.
//! 4. A read returns what was last written, or an error, or (a failing medium) garbage, which the hashes must catch.
//! 5. Every submitted request ends in finite time, if need be as [`DeviceError::Timeout`] or [`DeviceError::Gone`]; a
//!    driver gives a buffer back only when the device can no longer touch it.
//! 6. Blocks are not smaller than the physical sector and are aligned to it; an in-place change writes the whole block.
//!
//! # Why requests own their buffers
//! A [`Request`] owns the buffers that it names and carries them back inside its [`Completion`]. That is sound in safe
//! code even when a request is forgotten (a leaked buffer, never one that is freed while the device still writes to
//! it), it lets many requests be in flight, and it leaves a way out of a dead device. A borrowed slice has none of the
//! three.
//!
//! # Context rules
//! The store holds no lock while it calls a device, and calls it from any CPU. `submit`, `flush` and `poll` never wait.
//! None of them may call the store. A driver for DMA implements `Device<'static>` only: the memory that its requests
//! own then outlives everything.

use crate::platform::Platform;
use crate::pool::{Buffers, BuffersMut, Pool, SharedChain, Slot, SlotChain};
use core::fmt;

/// Why a device could not do what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// The device reports that the request failed.
    Io,
    /// The device did not answer in time, and can no longer touch the buffers.
    Timeout,
    /// There is no device any more.
    Gone,
    /// The device cannot do this kind of request.
    Unsupported,
}

impl core::error::Error for DeviceError {}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Io => "input/output error",
            Self::Timeout => "the device did not answer in time",
            Self::Gone => "the device is gone",
            Self::Unsupported => "the device does not support the request",
        })
    }
}

/// What a device is like. Read once, at mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceGeometry {
    /// Size of the device in bytes, a multiple of `logical_sector_len_bytes`.
    pub len_bytes: u64,
    /// Unit of addressing: addresses and lengths of requests are multiples of it.
    pub logical_sector_len_bytes: u32,
    /// Unit of atomic writing. Blocks are not smaller.
    pub physical_sector_len_bytes: u32,
    /// Largest transfer of one request, in bytes.
    pub max_transfer_len_bytes: u32,
    /// Largest number of buffers in one request, at least 1.
    pub max_segments: u16,
    /// Requests that can be in flight at once, at least 1.
    pub queue_depth: u16,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether a write that completed may still be lost in a power failure until a flush completed.
    pub volatile_cache: bool,
    /// Whether the device can be told that a range is of no further use.
    pub discard: bool,
}

/// What a request asks for. More kinds may come; a device completes one that it does not know as
/// [`DeviceError::Unsupported`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Fill the buffers from the device.
    Read,
    /// Write the buffers to the device.
    Write,
    /// The content of the range is of no further use, and may read as anything afterwards. Owns no buffers. Only asked
    /// of a device whose geometry says that it understands.
    Discard,
}

/// What the store wants to know when a request is done. Opaque to devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A block for the cache.
    CacheRead,
    /// A read that mount or commit waits for.
    Private,
    /// Blocks from the sync queue; the low bit of their generation.
    Queued { parity: u8 },
    /// A block that the commit in flight writes from its own buffers.
    Commit,
}

pub(crate) enum Payload<'m> {
    Slots(SlotChain<'m>),
    Shares(SharedChain<'m>),
    /// No buffers: so many blocks. The pool tells whose request it is.
    Nothing(Pool<'m>, u32),
}

/// One request to a device, with the buffers that it owns.
///
/// A device that drops a request instead of completing it breaks rule 5 of the contract: the buffers are reclaimed,
/// but whoever waits for the completion waits until the store is told (by any later completion) that the device is
/// gone.
pub struct Request<'m> {
    pub(crate) payload: Payload<'m>,
    pub(crate) purpose: Purpose,
    addr: u64,
}

impl<'m> Request<'m> {
    pub(crate) fn read(addr: u64, slots: SlotChain<'m>, purpose: Purpose) -> Self {
        Self { payload: Payload::Slots(slots), purpose, addr }
    }

    pub(crate) fn write(addr: u64, shares: SharedChain<'m>, purpose: Purpose) -> Self {
        Self { payload: Payload::Shares(shares), purpose, addr }
    }

    /// Read, write or discard.
    pub fn kind(&self) -> RequestKind {
        match self.payload {
            Payload::Slots(_) => RequestKind::Read,
            Payload::Shares(_) => RequestKind::Write,
            Payload::Nothing(..) => RequestKind::Discard,
        }
    }

    fn pool(&self) -> &Pool<'m> {
        match &self.payload {
            Payload::Slots(chain) => chain.pool(),
            Payload::Shares(chain) => chain.pool(),
            Payload::Nothing(pool, _) => pool,
        }
    }

    /// Whether the buffers are of this pool: a device may deliver what an earlier store has submitted.
    pub(crate) fn is_of(&self, pool: &Pool<'m>) -> bool {
        self.pool().is(pool)
    }

    /// The one buffer of a read that mount waits for.
    pub(crate) fn into_slot(self) -> Option<Slot<'m>> {
        match self.payload {
            Payload::Slots(mut chain) => chain.pop(),
            Payload::Shares(_) | Payload::Nothing(..) => None,
        }
    }

    pub(crate) fn discard(addr: u64, blocks: u32, pool: Pool<'m>) -> Self {
        Self { payload: Payload::Nothing(pool, blocks), purpose: Purpose::Commit, addr }
    }

    /// The same request at another address: for a device that hands requests on to another device of which it is a
    /// part. It must undo this before it gives the request back, completed or not: the store knows its requests by
    /// their addresses. Whether the new address makes sense is for the caller to see to.
    #[must_use]
    pub fn at(self, addr: u64) -> Self {
        Self { addr, ..self }
    }

    /// First byte on the device, a multiple of the block size.
    pub fn addr(&self) -> u64 {
        self.addr
    }

    /// Number of bytes, a multiple of the block size.
    pub fn len_bytes(&self) -> u64 {
        let blocks = match &self.payload {
            Payload::Slots(chain) => chain.len(),
            Payload::Shares(chain) => chain.len(),
            Payload::Nothing(_, blocks) => *blocks,
        };
        u64::from(blocks) << self.pool().block_size().shift()
    }

    /// Number of buffers.
    pub fn segments(&self) -> usize {
        match &self.payload {
            Payload::Slots(chain) => chain.len() as usize,
            Payload::Shares(chain) => chain.len() as usize,
            Payload::Nothing(..) => 0,
        }
    }

    /// The buffers of a write, in the order of their addresses on the device; each is one block long. `None` unless
    /// [`Request::kind`] is `Write`.
    pub fn buffers(&self) -> Option<Buffers<'_, 'm>> {
        match &self.payload {
            Payload::Shares(chain) => Some(chain.iter()),
            Payload::Slots(_) | Payload::Nothing(..) => None,
        }
    }

    /// The buffers of a read, in the order of their addresses on the device; each is one block long. `None` unless
    /// [`Request::kind`] is `Read`.
    ///
    /// The bytes stay where they are in memory while the request is moved, so a driver may hand their addresses to the
    /// device and keep the request in a table until the device is done with them.
    pub fn buffers_mut(&mut self) -> Option<BuffersMut<'_, 'm>> {
        match &mut self.payload {
            Payload::Slots(chain) => Some(chain.iter_mut()),
            Payload::Shares(_) | Payload::Nothing(..) => None,
        }
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("kind", &self.kind())
            .field("addr", &self.addr)
            .field("len_bytes", &self.len_bytes())
            .finish_non_exhaustive()
    }
}

/// Relaxations without any completion after which whoever is dropped while the device still has a buffer of it gives up
/// on the device: it has broken rule 5 of the contract.
const DROP_RELAXATIONS: u32 = u32::MAX;

/// For whoever is dropped: gives `take` each completion, until that returns `false` because nothing more is awaited, or
/// the device is given up.
pub(crate) fn drain<'m>(
    device: &dyn Device<'m>,
    platform: &dyn Platform,
    take: &mut dyn FnMut(Completion<'m>) -> bool,
) {
    let mut idle = 0;
    while idle < DROP_RELAXATIONS {
        let Some(completion) = device.poll() else {
            platform.relax();
            idle += 1;
            continue;
        };
        if !take(completion) {
            return;
        }
        idle = 0;
    }
}

/// Names one flush, so that its completion is told from that of any other, of this store or an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushTag(pub u32);

/// The last tag given out. For all stores together, because a device may still hold a flush of a store that is gone.
static LAST_TAG: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);

impl FlushTag {
    pub(crate) fn fresh() -> Self {
        Self(LAST_TAG.fetch_add(1, core::sync::atomic::Ordering::Relaxed).wrapping_add(1))
    }
}

/// The end of one request or flush.
#[derive(Debug)]
pub enum Completion<'m> {
    /// A read or write ended; its buffers come back. A failed read may have changed the buffers in any way.
    Transfer(Request<'m>, Result<(), DeviceError>),
    /// A flush ended. `Ok` only if everything that had completed before it was issued is durable.
    Flush(FlushTag, Result<(), DeviceError>),
}

/// A block device, as the store sees it. See the head of this module for what it must guarantee.
///
/// `'m` is the life of the memory whose buffers the requests own.
pub trait Device<'m>: Sync {
    /// What the device is like. Constant while a store is mounted on it.
    fn geometry(&self) -> DeviceGeometry;

    /// Starts a request. Never waits: a full queue gives the request back at once, and the store offers it again after
    /// the next [`Device::poll`] that delivered something. A request that the device refuses for good is accepted and
    /// completed with its error.
    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>>;

    /// Starts a flush, which covers every write whose completion [`Device::poll`] has delivered before this call. Never
    /// waits: a full queue gives the tag back. There is no default on purpose: a device that cannot flush must say so
    /// by completing the flush with [`DeviceError::Unsupported`], never with `Ok`.
    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag>;

    /// Delivers one completion, if there is one. Never waits.
    fn poll(&self) -> Option<Completion<'m>>;
}
