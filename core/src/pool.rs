//! The page pool: who may touch the bytes of a block buffer, and how.
//!
//! But for `in_place`, this is the one file of the crate with `unsafe`. Everything else sees four owners of buffers,
//! each of which makes wrong use impossible in safe code:
//!
//! ```text
//!             claim                share                       last drop
//!   (idle) ----------> Slot ----------------> Shared ... Shared ----------> (idle, bytes kept)
//!      ^                |  \                     |  \
//!      |      drop      |   \ push               |   \ push
//!      +----------------+    SlotChain           |    SharedChain     (what a device request owns)
//!      |                                         |
//!      +------------------ hold -----------------+
//! ```
//!
//! A [`Slot`] is the only owner of its frame and may write the bytes; a [`Shared`] is one of several readers of bytes
//! that nobody can change. A chain owns the slots or shares linked into it, so that a device request is one small
//! value however many buffers it carries. Forgetting any of them leaks a buffer; it never frees one in use.
//!
//! # Invariant (all of the `unsafe` rests on it)
//! All seats of frame *i* are taken while exactly one `Slot` (or link of a `SlotChain`) for *i* exists; each `Shared`
//! (and link of a `SharedChain`, and parked share) for *i* is counted in one of them. [`seats`] says why the two
//! exclude each other; only the functions of this file call what changes a seat. Frame *i* of a pool covers the bytes
//! `[i * B, (i + 1) * B)` of the page area, disjoint from every other frame; a page area backs one pool only, because
//! [`Pool::new`] consumes its token.

mod seats;

use crate::cache::FrameMeta;
use crate::format::BlockSize;
use crate::in_place::Vacant;
use crate::sync::{const_new, AtomicU32, Ordering};
use core::cell::UnsafeCell;
use core::marker::PhantomData;
#[cfg(test)]
pub(crate) use seats::Seat;
pub(crate) use seats::{Row, SeatRow, ROWS};
use seats::{SeatId, Seats};

/// Size of one page of a [`crate::Memory`], in bytes. Buffers are aligned to it, or to the block size if that is
/// smaller.
pub const PAGE_LEN_BYTES: usize = 4096;

/// One page of buffer memory. All-zero when untouched.
#[repr(C, align(4096))]
pub struct Page(UnsafeCell<[u8; PAGE_LEN_BYTES]>);

impl Page {
    /// A page of zeros.
    pub const fn new() -> Self {
        Self(UnsafeCell::new([0; PAGE_LEN_BYTES]))
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: the bytes are reached only through `Pool`, whose reference counts admit either one writer or many readers
// (the invariant at the head of this file), from whichever threads these are.
unsafe impl Sync for Page {}

/// The bookkeeping of one buffer but for its owners, in a cache line of its own, which those who only look the block up
/// and read it do not write to. All-zero when untouched.
#[repr(align(64))]
pub(crate) struct Frame {
    /// The next frame in the chain that owns this one: its number plus one, 0 at the end.
    next: AtomicU32,
    /// The seat (its number plus one) of the one share of this frame that is parked here: in a queue that stores
    /// numbers, or in a `SharedChain`. Else 0.
    parked: AtomicU32,
    /// What the cache knows of the block in this buffer; no ownership depends on it.
    pub(crate) meta: FrameMeta,
}

impl Frame {
    const_new! {
        pub(crate) fn new() -> Self {
            Self {
                next: AtomicU32::new(0),
                parked: AtomicU32::new(0),
                meta: FrameMeta::new()
            }
        }
    }
}

/// What a model has in place of a [`crate::Memory`], but for the pages.
#[cfg(test)]
pub(crate) struct Bookkeeping<const N: usize> {
    frames: [Frame; N],
    seats: [SeatRow<N>; ROWS],
}

#[cfg(test)]
impl<const N: usize> Bookkeeping<N> {
    pub(crate) fn new() -> Self {
        Self { frames: core::array::from_fn(|_| Frame::new()), seats: core::array::from_fn(|_| SeatRow::new()) }
    }
}

/// The right to build one [`Pool`] over some pages.
pub(crate) struct PageArea<'m> {
    pages: &'m [Page],
    frames: &'m [Frame],
    seats: Seats<'m>,
}

impl<'m> PageArea<'m> {
    /// Called once for each memory value, by the code that takes it.
    pub(crate) fn new<const N: usize>(
        _taken: crate::memory::Taken,
        pages: &'m [Page],
        frames: &'m [Frame; N],
        seats: &'m [SeatRow<N>; ROWS],
    ) -> Self {
        Self { pages, frames, seats: Seats::new(seats) }
    }

    /// How many blocks of this size the pages and frames can hold.
    pub(crate) fn capacity(&self, block: BlockSize) -> u32 {
        let by_pages = self.pages.len() as u64 * PAGE_LEN_BYTES as u64 / block.len_bytes() as u64;
        by_pages.min(self.frames.len() as u64).min(u64::from(SeatId::MAX_FRAMES)) as u32
    }
}

/// The number of a frame of one pool; always in range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameId(u32);

impl FrameId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
    /// For links that are kept in memory which starts as zeros: number plus one.
    pub(crate) fn link(self) -> u32 {
        self.0 + 1
    }
}

/// Where the buffers of a pool are.
pub(crate) struct Extent<'m> {
    pages: &'m [Page],
    frames: &'m [Frame],
    seats: Seats<'m>,
    block: BlockSize,
}

/// A set of buffers of one block size: a pointer to where that is noted in the memory, so that every owner of a buffer,
/// and a request with it, is small and cheap to move.
#[derive(Clone, Copy)]
pub(crate) struct Pool<'m>(&'m Extent<'m>);

impl<'m> Extent<'m> {
    fn of(area: PageArea<'m>, block: BlockSize) -> Self {
        let count = area.capacity(block) as usize;
        let frames = area.frames.get(..count).unwrap_or(&[]);
        Self { pages: area.pages, frames, seats: area.seats, block }
    }
}

impl<'m> Pool<'m> {
    /// Divides the pages into buffers of one block each.
    pub(crate) fn new(area: PageArea<'m>, block: BlockSize, place: Vacant<'m, Extent<'static>>) -> Self {
        Self(place.fill(Extent::of(area, block)))
    }

    /// For models of the pool or the cache alone.
    #[cfg(test)]
    pub(crate) fn in_model<const N: usize>(pages: &'m [Page], keeping: &'m Bookkeeping<N>) -> Self {
        let area = PageArea::new(crate::memory::Taken::in_model(), pages, &keeping.frames, &keeping.seats);
        let block = BlockSize::new(PAGE_LEN_BYTES as u32).unwrap();
        Self(std::boxed::Box::leak(std::boxed::Box::new(Extent::of(area, block))))
    }

    pub(crate) fn block_size(&self) -> BlockSize {
        self.0.block
    }

    /// Whether this is the same pool.
    pub(crate) fn is(&self, other: &Self) -> bool {
        core::ptr::eq(self.0, other.0)
    }

    /// Number of buffers.
    pub(crate) fn len(&self) -> u32 {
        self.0.frames.len() as u32
    }

    pub(crate) fn id(&self, index: u32) -> Option<FrameId> {
        (index < self.len()).then_some(FrameId(index))
    }

    /// The frame behind a stored link (number plus one; 0 is none).
    pub(crate) fn by_link(&self, link: u32) -> Option<FrameId> {
        self.id(link.checked_sub(1)?)
    }

    pub(crate) fn frame(&self, id: FrameId) -> &'m Frame {
        self.frame_at(id.index())
    }

    /// The bookkeeping of the frame with this number, which is below [`Pool::len`].
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    pub(crate) fn frame_at(&self, index: usize) -> &'m Frame {
        // An id is in range; that it need not be proved to the compiler keeps panics out of mount.
        #[cfg(not(any(loom, feature = "shuttle")))]
        {
            static NOBODYS: Frame = Frame::new();
            self.0.frames.get(index).unwrap_or(&NOBODYS)
        }
        #[cfg(any(loom, feature = "shuttle"))]
        &self.0.frames[index]
    }

    /// Takes sole ownership of a frame that nobody owns.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    pub(crate) fn claim(self, id: FrameId) -> Option<Slot<'m>> {
        self.0.seats.claim(id).then(|| Slot { pool: self, id })
    }

    /// Adds a reader of a frame that has no sole owner, counted in this row. (Nor one who tries to become it.)
    pub(crate) fn hold(self, id: FrameId, row: Row) -> Option<Shared<'m>> {
        let seat = SeatId::new(id, row);
        self.join(seat).then(|| Shared { pool: self, seat })
    }

    #[cfg_attr(target_pointer_width = "32", inline(never))]
    fn join(self, seat: SeatId) -> bool {
        self.0.seats.at(seat).join()
    }

    /// Drops one reader (see `Shared::drop`).
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    fn release(self, seat: SeatId) {
        self.0.seats.at(seat).leave();
    }

    /// Ends a sole ownership (see [`Slot`]), with so many readers in the first row from then on.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    fn give(self, id: FrameId, readers: u32) {
        self.0.seats.give(id, readers);
    }

    /// Whether nobody owns the frame at this moment.
    pub(crate) fn is_idle(self, id: FrameId) -> bool {
        self.0.seats.are_empty(id)
    }

    /// Counts a look-up that ended at this frame.
    pub(crate) fn note_hit(&self, id: FrameId, row: Row) {
        self.0.seats.at(SeatId::new(id, row)).note_hit();
    }

    /// Look-ups that ended at this frame; may wrap.
    pub(crate) fn hits(&self, id: FrameId) -> u32 {
        self.0.seats.hits(id)
    }

    /// Leaves one share with the frame itself, for a queue that stores numbers. Refused if one is parked already.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    pub(crate) fn park<'s>(self, share: Shared<'s>) -> Result<FrameId, Shared<'s>>
    where
        'm: 's,
    {
        let id = share.id();
        let parked = &self.frame(id).parked;
        // Release: with the share goes what its owner knows.
        let is_free = || parked.compare_exchange(0, share.seat.link(), Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if !core::ptr::eq(share.pool.0, self.0) || !is_free() {
            return Err(share);
        }
        core::mem::forget(share);
        Ok(id)
    }

    /// Takes the parked share back, if there is one.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    pub(crate) fn unpark(self, id: FrameId) -> Option<Shared<'m>> {
        let seat = SeatId::by_link(self.frame(id).parked.swap(0, Ordering::AcqRel))?;
        Some(Shared { pool: self, seat })
    }

    /// Start of the bytes of a frame. In bounds of the page area for each valid id.
    fn start(&self, id: FrameId) -> *mut u8 {
        let base = self.0.pages.as_ptr() as *mut u8;
        base.wrapping_add(id.index() * self.0.block.len_bytes())
    }

    /// # Safety
    /// The caller owns a share (or the sole ownership) of frame `id` for at least `'a`.
    unsafe fn bytes<'a>(&self, id: FrameId) -> &'a [u8] {
        // SAFETY: frame `id` covers `len_bytes` bytes inside the page area (`capacity` bounds the ids), all
        // initialised (pages start as zeros); the caller's share keeps writers away for `'a`.
        unsafe { core::slice::from_raw_parts(self.start(id), self.0.block.len_bytes()) }
    }

    /// # Safety
    /// The caller is the sole owner of frame `id` for at least `'a` and makes no other reference to its bytes
    /// meanwhile.
    unsafe fn bytes_mut<'a>(&self, id: FrameId) -> &'a mut [u8] {
        // SAFETY: in bounds and initialised as in `bytes`; sole ownership keeps everybody else away for `'a`. Writing
        // through a pointer that came from a shared slice is allowed, since each page is an `UnsafeCell`.
        unsafe { core::slice::from_raw_parts_mut(self.start(id), self.0.block.len_bytes()) }
    }
}

/// Sole owner of one buffer.
pub(crate) struct Slot<'m> {
    pool: Pool<'m>,
    id: FrameId,
}

impl<'m> Slot<'m> {
    pub(crate) fn id(&self) -> FrameId {
        self.id
    }

    pub(crate) fn meta(&self) -> &'m FrameMeta {
        &self.pool.frame(self.id).meta
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: this slot is the sole owner, and the result borrows it.
        unsafe { self.pool.bytes(self.id) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: this slot is the sole owner, and the result borrows it mutably.
        unsafe { self.pool.bytes_mut(self.id) }
    }

    /// Gives up writing: the bytes are final from here on.
    pub(crate) fn share(self) -> Shared<'m> {
        self.pool.give(self.id, 1);
        let share = Shared { pool: self.pool, seat: SeatId::new(self.id, Row::FIRST) };
        core::mem::forget(self);
        share
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.pool.give(self.id, 0);
    }
}

/// One reader of a buffer whose bytes cannot change.
pub(crate) struct Shared<'m> {
    pool: Pool<'m>,
    /// In which it is counted.
    seat: SeatId,
}

impl<'m> Shared<'m> {
    #[inline]
    pub(crate) fn id(&self) -> FrameId {
        self.seat.frame()
    }

    pub(crate) fn meta(&self) -> &'m FrameMeta {
        &self.pool.frame(self.id()).meta
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: this share keeps writers away, and the result borrows it.
        unsafe { self.pool.bytes(self.id()) }
    }
}

impl Clone for Shared<'_> {
    fn clone(&self) -> Self {
        // In the same seat, which cannot be taken while this share is counted there; in another it could be, by
        // somebody whose claim is about to fail.
        let _counted = self.pool.join(self.seat);
        debug_assert!(_counted);
        Self { pool: self.pool, seat: self.seat }
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        self.pool.release(self.seat);
    }
}

/// Buffers linked in order, all owned by the chain: exclusively ([`SlotChain`]) or as shares ([`SharedChain`]).
struct Links<'m> {
    pool: Pool<'m>,
    /// The first frame and the last: numbers plus one, 0 while there is none.
    head: u32,
    tail: u32,
    count: u32,
}

impl<'m> Links<'m> {
    fn new(pool: Pool<'m>) -> Self {
        Self { pool, head: 0, tail: 0, count: 0 }
    }

    fn push(&mut self, id: FrameId) {
        self.pool.frame(id).next.store(0, Ordering::Relaxed);
        match self.pool.by_link(self.tail) {
            Some(tail) => self.pool.frame(tail).next.store(id.link(), Ordering::Relaxed),
            None => self.head = id.link(),
        }
        self.tail = id.link();
        self.count += 1;
    }

    /// The frame that a link leads to, if it leads anywhere; the link then leads to the next.
    fn follow(&self, link: &mut u32) -> Option<FrameId> {
        let id = self.pool.by_link(*link)?;
        *link = self.pool.frame(id).next.load(Ordering::Relaxed);
        Some(id)
    }

    fn pop(&mut self) -> Option<FrameId> {
        let mut head = self.head;
        let id = self.follow(&mut head)?;
        self.head = head;
        self.count -= 1;
        if head == 0 {
            self.tail = 0;
        }
        Some(id)
    }
}

/// A chain of buffers with one owner: the target of a read.
pub(crate) struct SlotChain<'m>(Links<'m>);

impl<'m> SlotChain<'m> {
    pub(crate) fn new(slot: Slot<'m>) -> Self {
        let mut chain = Self(Links::new(slot.pool));
        chain.push(slot);
        chain
    }

    pub(crate) fn push(&mut self, slot: Slot<'m>) {
        self.0.push(slot.id);
        core::mem::forget(slot);
    }

    pub(crate) fn pop(&mut self) -> Option<Slot<'m>> {
        self.0.pop().map(|id| Slot { pool: self.0.pool, id })
    }

    pub(crate) fn len(&self) -> u32 {
        self.0.count
    }

    /// The pool that the buffers are of.
    pub(crate) fn pool(&self) -> &Pool<'m> {
        &self.0.pool
    }

    /// The buffers in order, each for writing.
    pub(crate) fn iter_mut(&mut self) -> BuffersMut<'_, 'm> {
        BuffersMut { at: self.0.head, links: &self.0, _exclusive: PhantomData }
    }
}

impl Drop for SlotChain<'_> {
    fn drop(&mut self) {
        while let Some(slot) = self.pop() {
            slot.meta().abandon();
        }
    }
}

/// A chain of final buffers: the source of a write.
pub(crate) struct SharedChain<'m>(Links<'m>);

impl<'m> SharedChain<'m> {
    /// A chain of one buffer. Gives the share back as [`SharedChain::push`] does.
    pub(crate) fn new(share: Shared<'m>) -> Result<Self, Shared<'m>> {
        let mut chain = Self(Links::new(share.pool));
        chain.push(share)?;
        Ok(chain)
    }

    /// Appends a buffer. The link is in the frame, so a buffer is in one chain (or parked in one queue) at a time;
    /// the share is given back when it already is.
    pub(crate) fn push(&mut self, share: Shared<'m>) -> Result<(), Shared<'m>> {
        let id = self.0.pool.park(share)?;
        self.0.push(id);
        Ok(())
    }

    pub(crate) fn pop(&mut self) -> Option<Shared<'m>> {
        let id = self.0.pop()?;
        self.0.pool.unpark(id)
    }

    pub(crate) fn len(&self) -> u32 {
        self.0.count
    }

    /// The pool that the buffers are of.
    pub(crate) fn pool(&self) -> &Pool<'m> {
        &self.0.pool
    }

    /// The buffers in order.
    pub(crate) fn iter(&self) -> Buffers<'_, 'm> {
        Buffers { at: self.0.head, links: &self.0 }
    }
}

impl Drop for SharedChain<'_> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

/// Iterator over the buffers of a write request.
pub struct Buffers<'a, 'm> {
    links: &'a Links<'m>,
    at: u32,
}

impl<'a> Iterator for Buffers<'a, '_> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let id = self.links.follow(&mut self.at)?;
        // SAFETY: the chain owns a share of each frame linked into it and is borrowed for `'a`.
        Some(unsafe { self.links.pool.bytes(id) })
    }
}

/// Iterator over the buffers of a read request, for writing into them.
pub struct BuffersMut<'a, 'm> {
    links: &'a Links<'m>,
    at: u32,
    _exclusive: PhantomData<&'a mut [u8]>,
}

impl<'a> Iterator for BuffersMut<'a, '_> {
    type Item = &'a mut [u8];

    fn next(&mut self) -> Option<&'a mut [u8]> {
        let id = self.links.follow(&mut self.at)?;
        // SAFETY: the chain is the sole owner of each frame linked into it and is borrowed mutably for `'a`; a frame
        // is linked once (its link is in the frame), so no two items name the same bytes.
        Some(unsafe { self.links.pool.bytes_mut(id) })
    }
}
