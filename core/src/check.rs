//! The check: whether superblocks, headers, logs and free space agree with what the owner of a structure can reach.
//!
//! The store does not know what hangs from the root; whoever built it does. The owner walks it and tells the check of
//! every block, once each; then the check reads all that is the store's own, and looks for blocks that nobody told it
//! of.
//!
//! ```text
//!   Store::check(words) -> Check -- visit, visit, ... --> verify -> Verify -- step, step, ... --> CheckReport
//!                            |         |                              |         |
//!                            |  outside, never handed out,            |   bad copies and logs, log blocks that are
//!                            |  free, visited before                  |   reachable or free, in use but unreachable
//!                            +--------------------- finish -----------+
//! ```
//!
//! # Memory and time
//! No heap: the caller lends one bit for each block of the volume ([`Store::check_words`]). A visit costs a lock
//! section of one arena; a step starts to read a block, checks one that has arrived, or looks at [`SCAN_BLOCKS`] blocks
//! of a free map.
//!
//! # What it compares
//! The newest durable commit. What was enqueued or freed since does not matter, but a commit does: the check then ends
//! with [`Error::CommitInFlight`], and has to be begun anew. Volumes that are mounted for reading only are checked like
//! all others.
//!
//! # Lock order
//! Takes the commit's lock or one arena's for a moment, never both, and no lock across a wait.

use crate::block::BlockPtr;
use crate::error::{Error, MemoryPart};
use crate::scrub::{Scrub, ScrubReport, ScrubStep};
use crate::store::Store;
use core::fmt;

/// Blocks of a free map that one step looks at.
const SCAN_BLOCKS: u32 = 512;
const WORD_BITS: u64 = u64::BITS as u64;

/// Words that the check of a device of so many blocks needs at most. [`Store::check_words`] is exact.
pub const fn check_words(device_blocks: u64) -> usize {
    device_blocks.div_ceil(WORD_BITS) as usize
}

/// Something that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A pointer leads to something that is no block of any arena, or to one of the two at an arena's end that are
    /// never handed out.
    Outside {
        /// Byte address.
        addr: u64,
    },
    /// A reachable block is free: it can be overwritten.
    ReachableButFree {
        /// Byte address.
        addr: u64,
    },
    /// A block is reachable in two ways.
    ReachedTwice {
        /// Byte address.
        addr: u64,
    },
    /// A block of a log is reachable, too.
    ReachableLog {
        /// Byte address.
        addr: u64,
    },
    /// A block of a log is free: it can be overwritten.
    FreeLog {
        /// Byte address.
        addr: u64,
    },
    /// Blocks are in use, and nobody has told of them: lost until somebody frees them.
    UsedButUnreachable {
        /// Byte address of the first.
        addr: u64,
        /// How many there are, one behind the other.
        blocks: u32,
    },
    /// A copy of a superblock or header is not good. The next commit repairs it.
    BadCopy(Error),
    /// A log is not what its header says. What its arena has in use is not looked through.
    BadLog(Error),
}

impl Finding {
    /// Byte address of the block that it is about.
    pub fn addr(&self) -> u64 {
        match *self {
            Self::Outside { addr }
            | Self::ReachableButFree { addr }
            | Self::ReachedTwice { addr }
            | Self::ReachableLog { addr }
            | Self::FreeLog { addr }
            | Self::UsedButUnreachable { addr, .. } => addr,
            Self::BadCopy(error) | Self::BadLog(error) => match error {
                Error::Corrupt { addr, .. } | Error::Device { addr, .. } => addr,
                _ => 0,
            },
        }
    }
}

/// What is wrong, without the address (but the errors of the store name theirs).
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside { .. } => f.write_str("reachable, but no block that is ever handed out"),
            Self::ReachableButFree { .. } => f.write_str("reachable, but free"),
            Self::ReachedTwice { .. } => f.write_str("reachable twice"),
            Self::ReachableLog { .. } => f.write_str("reachable, but a block of a log"),
            Self::FreeLog { .. } => f.write_str("a block of a log, but free"),
            Self::UsedButUnreachable { blocks, .. } => {
                write!(f, "in use, but unreachable ({blocks} blocks from here on)")
            }
            Self::BadCopy(error) => write!(f, "bad copy: {error}"),
            Self::BadLog(error) => write!(f, "bad log: {error}"),
        }
    }
}

/// What a check has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The generation that was checked.
    pub generation: u64,
    /// Different blocks that were visited, without those outside.
    pub reachable_blocks: u64,
    /// Blocks of the logs.
    pub log_blocks: u64,
    /// The last two blocks of each arena, without those that a log is in: never handed out, and no finding.
    pub spare_blocks: u64,
    /// Blocks that are in use without a reason.
    pub unreachable_blocks: u64,
    /// Findings, those of visits included.
    pub findings: u64,
    /// Arenas that were not looked through for unreachable blocks, because their log is damaged.
    pub left_out: u32,
    /// What was read of superblocks, headers and logs.
    pub scrub: ScrubReport,
}

/// The outcome of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckStep {
    /// There is more to do; a block may be on its way.
    Working,
    /// Something is wrong. There may be more.
    Found(Finding),
    /// Everything was looked at.
    Done(CheckReport),
}

/// A check whose owner is told of reachable blocks: see the head of this module.
pub struct Check<'s, 'd, 'm, 'w> {
    store: &'s Store<'d, 'm>,
    /// A bit for each block: somebody has told of it, or a log is in it.
    known: &'w mut [u64],
    report: CheckReport,
}

impl<'d, 'm> Store<'d, 'm> {
    /// Words that a check of this volume needs: one bit for each block up to the end of the last arena.
    pub fn check_words(&self) -> usize {
        let arenas = &self.engine.arenas;
        // One without a block was lost, and may claim to be anywhere.
        let end = (0..arenas.len()).rev().find(|arena| arenas.blocks(*arena) != 0).map_or(0, |last| {
            (arenas.base_addr(last) >> self.engine.size.shift()) + 2 + u64::from(arenas.blocks(last))
        });
        check_words(end)
    }

    /// Begins a check of the newest durable commit. The words are cleared first.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`] for fewer than [`Store::check_words`] words; [`Error::CommitInFlight`] while a commit
    /// is not settled.
    pub fn check<'s, 'w>(&'s self, words: &'w mut [u64]) -> Result<Check<'s, 'd, 'm, 'w>, Error> {
        let (need, have) = (self.check_words(), words.len());
        let Some(known) = words.get_mut(..need) else {
            return Err(Error::MemoryTooSmall { part: MemoryPart::CheckWords, need: need as u64, have: have as u64 });
        };
        let generation = self.settled_generation().ok_or(Error::CommitInFlight)?;
        known.fill(0);
        Ok(Check { store: self, known, report: CheckReport { generation, ..CheckReport::default() } })
    }
}

impl<'s, 'd, 'm, 'w> Check<'s, 'd, 'm, 'w> {
    /// Notes a block; `false` if it was noted before.
    fn note(&mut self, addr: u64) -> bool {
        let block = addr >> self.store.engine.size.shift();
        let bit = 1 << (block % WORD_BITS);
        // There is a word for each block of an arena.
        let Some(word) = self.known.get_mut((block / WORD_BITS) as usize) else { return true };
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Whether the block at a byte address was visited or explained.
    pub fn is_known(&self, addr: u64) -> bool {
        let size = self.store.engine.size;
        let block = addr >> size.shift();
        let word = usize::try_from(block / WORD_BITS).ok().filter(|_| size.divides(addr));
        let word = word.and_then(|at| self.known.get(at));
        word.is_some_and(|word| word & (1 << (block % WORD_BITS)) != 0)
    }

    /// A pointer that the newest commit holds leads to this block. To be called once for each block, also where several
    /// pointers may rightly lead to one (ask [`Check::is_known`] then). What the block holds is not read.
    ///
    /// # Errors
    /// What is wrong with that, unless it shows only later: [`Finding::Outside`], [`Finding::ReachedTwice`],
    /// [`Finding::ReachableButFree`].
    pub fn visit(&mut self, ptr: BlockPtr) -> Result<(), Finding> {
        let visited = self.try_visit(ptr.addr);
        self.report.findings += u64::from(visited.is_err());
        visited
    }

    fn try_visit(&mut self, addr: u64) -> Result<(), Finding> {
        let arenas = &self.store.engine.arenas;
        let place = arenas.locate(addr).ok_or(Finding::Outside { addr })?;
        if arenas.is_spare(place) {
            return Err(Finding::Outside { addr });
        }
        let free = arenas.change(place.arena, |state, map| !state.in_doubt && map.is_free_in_flight(place.index));
        if !self.note(addr) {
            return Err(Finding::ReachedTwice { addr });
        }
        self.report.reachable_blocks += 1;
        if free {
            return Err(Finding::ReachableButFree { addr });
        }
        Ok(())
    }

    /// The block at this byte address may be in use for a reason that the owner knows, without being reachable. Whether
    /// it is does not matter.
    pub fn explain(&mut self, addr: u64) {
        if self.store.engine.arenas.locate(addr).is_some() {
            self.note(addr);
        }
    }

    /// Ends the visits, and begins to look at everything else: the form for executors, and for those who choose the
    /// pace.
    pub fn verify(mut self) -> Verify<'s, 'd, 'm, 'w> {
        let scrub = self.store.scrub();
        self.report.spare_blocks = 2 * self.store.engine.arenas.len() as u64;
        Verify { check: self, scrub, arena: None, whole: true, scan: None, run: None }
    }

    /// Ends the visits, and looks at everything else; `see` is told of each finding. Waits for the device.
    ///
    /// # Errors
    /// As [`Verify::step`].
    pub fn finish(self, see: &mut dyn FnMut(Finding)) -> Result<CheckReport, Error> {
        let store = self.store;
        let mut verify = self.verify();
        loop {
            let step = store.retry_no_buffer(|| match verify.step() {
                Err(Error::NoBuffer) => None,
                step => Some(step),
            });
            match step.ok_or(Error::NoBuffer)?? {
                CheckStep::Done(report) => return Ok(report),
                CheckStep::Found(finding) => see(finding),
                CheckStep::Working if verify.is_reading() => store.step_or_relax(),
                CheckStep::Working => {}
            }
        }
    }
}

/// The second part of a check.
pub struct Verify<'s, 'd, 'm, 'w> {
    check: Check<'s, 'd, 'm, 'w>,
    scrub: Scrub<'s, 'd, 'm>,
    /// The arena whose header and log are being read.
    arena: Option<usize>,
    /// Its log is in order so far.
    whole: bool,
    /// The arena that is looked through, and from which of its blocks on.
    scan: Option<(usize, u32)>,
    /// Unreachable blocks that were just passed: address of the first, and number.
    run: Option<(u64, u32)>,
}

impl Verify<'_, '_, '_, '_> {
    /// Does a bounded piece of work. The caller drives the store between two steps ([`Store::step`]) and chooses the
    /// pace.
    ///
    /// # Errors
    /// [`Error::NoBuffer`] while there is no buffer; the step can be taken again. [`Error::CommitInFlight`] if a commit
    /// was begun since the check was: what was seen so far does not fit what is there now.
    pub fn step(&mut self) -> Result<CheckStep, Error> {
        let store = self.check.store;
        if store.settled_generation() != Some(self.check.report.generation) {
            return Err(Error::CommitInFlight);
        }
        let found = match self.scan {
            Some((arena, from)) => self.scan(arena, from),
            None => match self.read()? {
                Ok(found) => found,
                Err(scrub) => return Ok(CheckStep::Done(CheckReport { scrub, ..self.check.report })),
            },
        };
        self.check.report.findings += u64::from(found.is_some());
        Ok(found.map_or(CheckStep::Working, CheckStep::Found))
    }

    /// Whether the next step waits for the device.
    fn is_reading(&self) -> bool {
        self.scan.is_none() && self.scrub.is_reading()
    }

    /// One step of the scrub; behind an arena's log, that arena is looked through. The inner error is the end.
    fn read(&mut self) -> Result<Result<Option<Finding>, ScrubReport>, Error> {
        let in_log = self.scrub.is_in_log();
        let mut log_block = None;
        let found = match self.scrub.step_with(&mut |addr| log_block = Some(addr))? {
            ScrubStep::Done(report) => return Ok(Err(report)),
            ScrubStep::Found(error) if in_log => {
                self.whole = false;
                Some(Finding::BadLog(error))
            }
            ScrubStep::Found(error) => Some(Finding::BadCopy(error)),
            ScrubStep::Working => log_block.and_then(|addr| self.log_block(addr)),
        };
        let next = self.scrub.arena();
        if next != self.arena {
            let behind = core::mem::replace(&mut self.arena, next);
            let whole = core::mem::replace(&mut self.whole, true);
            self.scan = behind.filter(|_| whole).map(|arena| (arena, 0));
            self.check.report.left_out += u32::from(!whole);
        }
        Ok(Ok(found))
    }

    /// A log is in this block.
    fn log_block(&mut self, addr: u64) -> Option<Finding> {
        let arenas = &self.check.store.engine.arenas;
        let spare = arenas.locate(addr).is_some_and(|place| arenas.is_spare(place));
        self.check.report.log_blocks += 1;
        if !self.check.note(addr) {
            // Or a log that leads there twice, since what mount read of it went bad: then its digest is wrong, too.
            return Some(Finding::ReachableLog { addr });
        }
        self.check.report.spare_blocks = self.check.report.spare_blocks.saturating_sub(u64::from(spare));
        (self.check.store.is_free(addr) == Ok(true)).then_some(Finding::FreeLog { addr })
    }

    /// Looks at some blocks of an arena, up to the end of the first run of unreachable ones.
    fn scan(&mut self, arena: usize, from: u32) -> Option<Finding> {
        let arenas = &self.check.store.engine.arenas;
        // The last two are never handed out.
        let end = arenas.blocks(arena).saturating_sub(2);
        let to = from.saturating_add(SCAN_BLOCKS).min(end);
        let mut used = [false; SCAN_BLOCKS as usize];
        arenas.change(arena, |_, map| {
            for (used, index) in used.iter_mut().zip(from..to) {
                *used = !map.is_free_in_flight(index);
            }
        });
        for (used, index) in used.iter().zip(from..to) {
            let addr = arenas.addr(arenas.at(arena, index));
            if *used && !self.check.is_known(addr) {
                let (first, blocks) = self.run.unwrap_or((addr, 0));
                self.run = Some((first, blocks + 1));
            } else if let Some(finding) = self.end_run() {
                self.scan = Some((arena, index));
                return Some(finding);
            }
        }
        self.scan = (to < end).then_some((arena, to));
        if self.scan.is_some() {
            return None;
        }
        self.end_run()
    }

    fn end_run(&mut self) -> Option<Finding> {
        let (addr, blocks) = self.run.take()?;
        self.check.report.unreachable_blocks += u64::from(blocks);
        Some(Finding::UsedButUnreachable { addr, blocks })
    }
}

impl fmt::Debug for Check<'_, '_, '_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("report", &self.report).finish_non_exhaustive()
    }
}

impl fmt::Debug for Verify<'_, '_, '_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verify").field("report", &self.check.report).finish_non_exhaustive()
    }
}
