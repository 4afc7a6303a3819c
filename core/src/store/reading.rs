//! Verified reads.

use super::{Engine, Store};
use crate::arena::{Class, Place};
use crate::block::{Block, BlockPtr};
use crate::cache::{Lookup, Ticket};
use crate::device::{Purpose, Request};
use crate::error::{Damage, DeviceOp, Error};
use crate::pool::{Shared, SlotChain};
use crate::sabotage::{sabotaged, Switch};
use crate::scrub::Scrub;
use crate::trace::{trace, Holder};

impl<'d, 'm> Store<'d, 'm> {
    /// Begins to read every superblock, header and log block again, at the caller's pace: see [`Scrub`].
    pub fn scrub(&self) -> Scrub<'_, 'd, 'm> {
        Scrub::new(self)
    }

    /// Starts to read any block of the device, past the cache and without a pointer to verify it by.
    pub(crate) fn start_raw_read(&self, addr: u64) -> Result<Ticket<'_>, Error> {
        if !self.promise() {
            return Err(Error::NoBuffer);
        }
        let Some((slot, ticket)) = self.engine.cache.private_read() else {
            self.keep_promise(None);
            return Err(Error::NoBuffer);
        };
        let request = Request::read(addr, SlotChain::new(slot), Purpose::CacheRead);
        self.keep_promise(self.submit(request));
        Ok(ticket)
    }
}

/// How to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Reclaim may use the buffers that are kept back for it.
    pub class: Class,
    /// A block that is not in the cache is not kept there: for content that is read once.
    pub past_cache: bool,
}

impl Store<'_, '_> {
    /// Reads a block and verifies it against its pointer. Waits for the device if the block is not in the cache.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the bytes are not those that the pointer promises; [`Error::Device`];
    /// [`Error::BadAddress`]; [`Error::NoBuffer`].
    #[track_caller]
    pub fn read(&self, ptr: BlockPtr) -> Result<Block<'_>, Error> {
        self.read_with(ptr, ReadOptions::default())
    }

    /// [`Store::read`] with options.
    ///
    /// # Errors
    /// As [`Store::read`].
    #[track_caller]
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    pub fn read_with(&self, ptr: BlockPtr, options: ReadOptions) -> Result<Block<'_>, Error> {
        trace!(self.engine, Read, ptr.addr, caller);
        match self.in_cache(ptr) {
            Some(share) => verified(self.engine, share, ptr),
            None => self.read_and_wait(ptr, options),
        }
    }

    /// Apart from a hit, which then needs no room for what is under way.
    #[track_caller]
    #[cfg_attr(target_pointer_width = "32", inline(always))]
    #[cfg_attr(not(target_pointer_width = "32"), inline(never))]
    fn read_and_wait(&self, ptr: BlockPtr, options: ReadOptions) -> Result<Block<'_>, Error> {
        let place = self.locate(ptr)?;
        let begun = self.retry_no_buffer(|| self.begin_read(ptr, place, options));
        let reading = begun.ok_or(Error::NoBuffer)?;
        loop {
            if let Some(result) = reading.poll() {
                return result;
            }
            self.step_or_relax();
        }
    }

    /// Starts to read a block; [`Reading::poll`] has it after enough steps.
    ///
    /// # Errors
    /// [`Error::BadAddress`]; [`Error::NoBuffer`] if there is no buffer right now.
    #[track_caller]
    pub fn start_read(&self, ptr: BlockPtr) -> Result<Reading<'_>, Error> {
        self.start_read_with(ptr, ReadOptions::default())
    }

    /// [`Store::start_read`] with options.
    ///
    /// # Errors
    /// As [`Store::start_read`].
    #[track_caller]
    pub fn start_read_with(&self, ptr: BlockPtr, options: ReadOptions) -> Result<Reading<'_>, Error> {
        trace!(self.engine, Read, ptr.addr, caller);
        if let Some(share) = self.in_cache(ptr) {
            return Ok(Reading { engine: self.engine, source: Source::Here(share), ptr });
        }
        self.begin_read(ptr, self.locate(ptr)?, options).ok_or(Error::NoBuffer)
    }

    fn locate(&self, ptr: BlockPtr) -> Result<Place, Error> {
        self.engine.arenas.locate(ptr.addr).ok_or(Error::BadAddress { addr: ptr.addr })
    }

    /// The block if it can be had at once. What is in the cache lies in an arena, or it would not be there.
    fn in_cache(&self, ptr: BlockPtr) -> Option<Shared<'_>> {
        let block = u32::try_from(ptr.addr >> self.engine.size.shift()).ok()?;
        self.engine.size.divides(ptr.addr).then(|| self.engine.cache.hit(block))?
    }

    /// `None` if there is no buffer.
    fn begin_read(&self, ptr: BlockPtr, place: Place, options: ReadOptions) -> Option<Reading<'_>> {
        if !self.promise() {
            return None;
        }
        let looked_up = self.engine.cache.lookup(place.block, options.class, !options.past_cache);
        let (source, request) = match looked_up {
            None => {
                self.keep_promise(None);
                return None;
            }
            Some(Lookup::Hit(share)) => (Source::Here(share), None),
            Some(Lookup::Wait(ticket)) => (Source::Coming(ticket), None),
            Some(Lookup::Miss(slot, ticket)) => {
                let chain = SlotChain::new(slot);
                let request = Request::read(ptr.addr, chain, Purpose::CacheRead);
                (Source::Coming(ticket), Some(request))
            }
        };
        self.keep_promise(request.and_then(|request| self.submit(request)));
        Some(Reading { engine: self.engine, source, ptr })
    }
}

enum Source<'s> {
    Here(Shared<'s>),
    Coming(Ticket<'s>),
}

/// A read that was started.
pub struct Reading<'s> {
    engine: &'s Engine<'s>,
    source: Source<'s>,
    ptr: BlockPtr,
}

impl<'s> Reading<'s> {
    /// The block, once it is here; the same answer each time after that.
    #[track_caller]
    pub fn poll(&self) -> Option<Result<Block<'s>, Error>> {
        let addr = self.ptr.addr;
        let share = match &self.source {
            Source::Here(share) => share.clone(),
            Source::Coming(ticket) => match ticket.poll()? {
                Ok(share) => share,
                Err(cause) => return Some(Err(Error::Device { op: DeviceOp::Read, addr, cause })),
            },
        };
        Some(verified(self.engine, share, self.ptr))
    }
}

/// The content, if it is what the pointer promises.
#[track_caller]
fn verified<'s>(engine: &'s Engine<'s>, share: Shared<'s>, ptr: BlockPtr) -> Result<Block<'s>, Error> {
    let (expected, found) = (ptr.hash, share.meta().hash());
    if expected != found && !sabotaged(Switch::SkipHashCheck) {
        engine.cache.distrust(&share, (ptr.addr >> engine.size.shift()) as u32);
        return Err(Error::corrupt(ptr.addr, Damage::Hash { expected, found }));
    }
    Ok(Block { share, ptr, _holder: Holder::new(engine, ptr.addr) })
}

impl core::fmt::Debug for Reading<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Reading").field("ptr", &self.ptr).finish_non_exhaustive()
    }
}
