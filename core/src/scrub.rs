//! The scrubber: reads every superblock, arena header and log block again, in small steps, while the volume is in use.
//!
//! Damage to a second copy does no harm until the first is lost too. Whoever lets a scrubber run now and then hears of
//! it before that. A copy that turns out to be bad is repaired by the next commit, like one that mount finds.
//!
//! Commits change what is read here. Each part is read between two looks at the generation; if it moved on meanwhile,
//! the part is read again, and after a few tries left out and counted.
//!
//! Needs one buffer of the cache, no memory of its own, and no lock for longer than a look at one arena.

use crate::cache::Ticket;
use crate::error::{Damage, Error};
use crate::format::{chain_digest, LogBlock, Superblock, CHAIN_DIGEST_START};
use crate::hash::hash64;
use crate::store::Store;

/// How often a part is read anew because a commit changed it meanwhile.
const TRIES_MAX: u32 = 8;

/// What a scrub has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Blocks read.
    pub blocks: u64,
    /// Findings.
    pub damaged: u32,
    /// Parts (superblocks, or one arena) left out because commits kept changing them.
    pub left_out: u32,
}

/// The outcome of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubStep {
    /// There is more to do; a block may be on its way.
    Working,
    /// Something is wrong at this byte address. There may be more.
    Found(Error),
    /// Everything was read.
    Done(ScrubReport),
}

/// What is being read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Superblock {
        copy: u8,
    },
    Header {
        arena: usize,
        copy: u8,
    },
    Log {
        arena: usize,
        addr: u64,
        left: u32,
        digest: u64,
    },
    /// An arena that mount gave up. There is nothing to compare its blocks with.
    Lost {
        arena: usize,
    },
    Done,
}

impl Part {
    /// What is read as one: an arena, or both superblocks.
    fn arena(self) -> Option<usize> {
        match self {
            Self::Header { arena, .. } | Self::Log { arena, .. } | Self::Lost { arena } => Some(arena),
            Self::Superblock { .. } | Self::Done => None,
        }
    }
}

/// A scrub in progress.
pub struct Scrub<'s, 'd, 'm> {
    store: &'s Store<'d, 'm>,
    part: Part,
    /// The generation in which the part was begun.
    generation: u64,
    tries: u32,
    reading: Option<Ticket<'s>>,
    report: ScrubReport,
}

impl<'s, 'd, 'm> Scrub<'s, 'd, 'm> {
    pub(crate) fn new(store: &'s Store<'d, 'm>) -> Self {
        let (part, report) = (Part::Superblock { copy: 0 }, ScrubReport::default());
        Self { store, part, generation: store.settled_generation().unwrap_or(0), tries: 0, reading: None, report }
    }

    /// Does a bounded piece of work: starts to read a block, or checks one that has arrived. The caller drives the
    /// store between two steps ([`Store::step`]) and chooses the pace.
    ///
    /// # Errors
    /// [`Error::NoBuffer`] while there is no buffer; the step can be taken again.
    pub fn step(&mut self) -> Result<ScrubStep, Error> {
        self.step_with(&mut |_| {})
    }

    /// The same; `log_block` is told of each block that is found to be part of a log.
    pub(crate) fn step_with(&mut self, log_block: &mut dyn FnMut(u64)) -> Result<ScrubStep, Error> {
        if let Part::Lost { arena } = self.part {
            let addr = self.store.engine.arenas.with(arena, |state, _| state.log.tail_addr);
            return Ok(self.found(Error::corrupt(addr, Damage::LogNotReplayed)));
        }
        let Some(addr) = self.addr() else { return Ok(ScrubStep::Done(self.report)) };
        let Some(ticket) = &self.reading else {
            if self.store.settled_generation() != Some(self.generation) {
                self.restart();
                return Ok(ScrubStep::Working);
            }
            self.reading = Some(self.store.start_raw_read(addr)?);
            return Ok(ScrubStep::Working);
        };
        let Some(result) = ticket.poll() else { return Ok(ScrubStep::Working) };
        self.reading = None;
        if self.store.settled_generation() != Some(self.generation) {
            self.restart();
            return Ok(ScrubStep::Working);
        }
        self.report.blocks += 1;
        let found = match result {
            Ok(share) => self.check(addr, share.bytes()),
            Err(cause) => Err(Error::Device { op: crate::DeviceOp::Read, addr, cause }),
        };
        match found {
            Ok(next) => {
                if self.is_in_log() {
                    log_block(addr);
                }
                self.go_to(next);
            }
            Err(error) => return Ok(self.found(error)),
        }
        Ok(ScrubStep::Working)
    }

    /// Counts a finding, and goes on behind it.
    fn found(&mut self, error: Error) -> ScrubStep {
        self.report.damaged += 1;
        self.note_bad_copy();
        let next = self.behind();
        self.go_to(next);
        ScrubStep::Found(error)
    }

    /// The arena whose header or log comes next.
    pub(crate) fn arena(&self) -> Option<usize> {
        self.part.arena()
    }

    /// Whether a log block comes next, or would if the log were known.
    pub(crate) fn is_in_log(&self) -> bool {
        matches!(self.part, Part::Log { .. } | Part::Lost { .. })
    }

    /// Whether a block is on its way.
    pub(crate) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    fn addr(&self) -> Option<u64> {
        match self.part {
            Part::Superblock { copy } => Some(self.store.superblock_addr(copy)),
            Part::Header { arena, copy } => {
                let engine = self.store.engine;
                Some(engine.arenas.base_addr(arena) + u64::from(copy) * engine.size.len_u64())
            }
            Part::Log { addr, .. } => Some(addr),
            Part::Lost { .. } | Part::Done => None,
        }
    }

    /// Checks the block of the present part; the part that comes next.
    fn check(&self, addr: u64, bytes: &[u8]) -> Result<Part, Error> {
        let engine = self.store.engine;
        match self.part {
            Part::Superblock { .. } => {
                let superblock = Superblock::decode(bytes).map_err(|error| Error::format(addr, error))?;
                same(addr, self.generation, superblock.head().qgen)?;
            }
            Part::Header { arena, .. } => {
                let expected = engine.arenas.log(arena).header_hash;
                same(addr, expected, hash64(bytes))?;
            }
            Part::Log { arena, left, digest, .. } => {
                let log = engine.arenas.log(arena);
                let block = LogBlock::decode(bytes, engine.size).map_err(|error| Error::format(addr, error))?;
                let sum = block.sum();
                if left > 1 {
                    let digest = chain_digest(digest, addr, sum.hash, sum.len_bytes);
                    // No hash covers the chain pointer.
                    engine.arenas.locate(block.chain()).ok_or(Error::corrupt(addr, Damage::ForeignLog))?;
                    return Ok(Part::Log { arena, addr: block.chain(), left: left - 1, digest });
                }
                if addr != log.tail_addr || digest != log.before_tail {
                    let (expected, found) = (log.before_tail, digest);
                    return Err(Error::corrupt(addr, Damage::LogDigest { expected, found }));
                }
                if let Some(seal) = log.seal {
                    let (expected, found) = (seal.digest, chain_digest(digest, addr, sum.hash, sum.len_bytes));
                    if expected != found && !self.is_restored(arena) {
                        return Err(Error::corrupt(addr, Damage::LogDigest { expected, found }));
                    }
                }
            }
            Part::Lost { .. } | Part::Done => {}
        }
        Ok(self.behind())
    }

    /// The log's last block was found with what the original had added; it is as mount left it until the next commit.
    fn is_restored(&self, arena: usize) -> bool {
        self.store.engine.arenas.with(arena, |state, _| state.unclean)
    }

    /// What comes after the present part, if nothing more of it is to be read.
    fn behind(&self) -> Part {
        let first_log = |arena: usize| {
            let log = self.store.engine.arenas.log(arena);
            Part::Log { arena, addr: log.head_addr, left: log.blocks, digest: CHAIN_DIGEST_START }
        };
        match self.part {
            Part::Superblock { copy: 0 } => Part::Superblock { copy: 1 },
            Part::Superblock { .. } => self.arena_part(0),
            Part::Header { arena, copy: 0 } => Part::Header { arena, copy: 1 },
            Part::Header { arena, .. } => first_log(arena),
            Part::Log { arena, .. } | Part::Lost { arena } => self.arena_part(arena + 1),
            Part::Done => Part::Done,
        }
    }

    fn arena_part(&self, arena: usize) -> Part {
        let arenas = &self.store.engine.arenas;
        if arena >= arenas.len() {
            Part::Done
        } else if arenas.with(arena, |state, _| state.log.blocks == 0) {
            Part::Lost { arena }
        } else {
            Part::Header { arena, copy: 0 }
        }
    }

    fn go_to(&mut self, part: Part) {
        if self.part.arena() != part.arena() {
            self.tries = 0;
        }
        self.part = part;
    }

    /// A commit has changed what is being read: begins the part again, or leaves it out.
    fn restart(&mut self) {
        let Some(generation) = self.store.settled_generation() else { return };
        self.generation = generation;
        self.tries += 1;
        self.part = match self.part {
            Part::Superblock { .. } if self.tries < TRIES_MAX => Part::Superblock { copy: 0 },
            Part::Header { arena, .. } | Part::Log { arena, .. } if self.tries < TRIES_MAX => self.arena_part(arena),
            Part::Lost { .. } | Part::Done => self.part,
            left_out => {
                self.report.left_out += 1;
                self.tries = 0;
                match left_out {
                    Part::Header { arena, .. } | Part::Log { arena, .. } => self.arena_part(arena + 1),
                    _ => self.arena_part(0),
                }
            }
        };
    }

    /// The next commit repairs it.
    fn note_bad_copy(&self) {
        match self.part {
            Part::Superblock { copy } => self.store.note_bad_superblock(copy, self.generation),
            Part::Header { arena, copy } => {
                self.store.engine.arenas.with(arena, |state, _| state.bad_copies |= 1 << copy)
            }
            Part::Log { arena, .. } => {
                // What is in memory is right. A log of one block is written anew by the next commit; of a longer one
                // nobody knows any more which blocks it has.
                self.store.engine.arenas.with(arena, |state, _| {
                    let anew = state.log.blocks == 1;
                    state.must_rewrite |= anew;
                    state.unclean |= anew;
                });
            }
            // The volume is mounted for reading only.
            Part::Lost { .. } | Part::Done => {}
        }
    }
}

fn same(addr: u64, expected: u64, found: u64) -> Result<(), Error> {
    if expected == found {
        Ok(())
    } else {
        Err(Error::corrupt(addr, Damage::Hash { expected, found }))
    }
}

impl core::fmt::Debug for Scrub<'_, '_, '_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Scrub").field("part", &self.part).field("report", &self.report).finish_non_exhaustive()
    }
}
