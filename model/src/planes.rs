//! Space of one arena as three bit planes, one bit a block, 1 = free: durable, in flight, next.
//!
//! A block may be handed out only if it is free in the working state (next), in the commit in flight and in the last
//! durable commit. The pattern 010 cannot come about by commits alone, so it marks a block that is handed out but not
//! yet enqueued; on disk such a block is free in every state.
//!
//! ```text
//!   D C F
//!   1 1 1  free: the only state from which a block is handed out
//!   0 1 0  reserved: handed out, not yet enqueued
//!   1 1 0  new: enqueued, belongs to the next commit
//!   0 0 0  in use
//!   0 0 1  freed in next
//!   0 1 1  freed in flight
//!   1 0 0  allocated in flight
//!   1 0 1  allocated in flight, freed in next
//! ```

/// Why a transition was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The block is not free in all three planes.
    NotFree,
    /// The block is not reserved.
    NotReserved,
    /// The block is not in use in the working state.
    NotInUse,
}

/// The three planes of up to 64 blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Planes {
    /// Free in the last durable commit (reserved blocks apart).
    pub durable: u64,
    /// Free in the commit in flight; without one, in the last commit.
    pub flight: u64,
    /// Free in the working state.
    pub next: u64,
}

impl Planes {
    /// After a mount: all planes alike.
    pub fn mounted(free: u64) -> Self {
        Planes { durable: free, flight: free, next: free }
    }

    /// The pattern of one block, DCF as a number from 0 to 7.
    pub fn pattern(&self, block: u32) -> u8 {
        let bit = |plane: u64| (plane >> block & 1) as u8;
        bit(self.durable) << 2 | bit(self.flight) << 1 | bit(self.next)
    }

    /// Blocks that may be handed out.
    pub fn allocatable(&self) -> u64 {
        self.durable & self.flight & self.next
    }

    /// Blocks handed out and not yet enqueued.
    pub fn reserved(&self) -> u64 {
        !self.durable & self.flight & !self.next
    }

    /// Hands a block out: 111 -> 010.
    pub fn reserve(&mut self, block: u32) -> Result<(), Refusal> {
        self.step(block, 0b111, 0b010, Refusal::NotFree)
    }

    /// Enqueues a reserved block: 010 -> 110.
    pub fn enqueue(&mut self, block: u32) -> Result<(), Refusal> {
        self.step(block, 0b010, 0b110, Refusal::NotReserved)
    }

    /// Gives a reserved block back: 010 -> 111.
    pub fn give_back(&mut self, block: u32) -> Result<(), Refusal> {
        self.step(block, 0b010, 0b111, Refusal::NotReserved)
    }

    /// Frees a block of the working state: 110 -> 111, 000 -> 001, 100 -> 101.
    pub fn free(&mut self, block: u32) -> Result<(), Refusal> {
        match self.pattern(block) {
            0b110 | 0b000 | 0b100 => {
                self.next |= 1 << block;
                Ok(())
            }
            _ => Err(Refusal::NotInUse),
        }
    }

    /// Takes a block for the log of the commit in flight: 111 -> 100.
    pub fn take_for_log(&mut self, block: u32) -> Result<(), Refusal> {
        self.step(block, 0b111, 0b100, Refusal::NotFree)
    }

    /// Frees a log block in the commit in flight: 000 -> 011.
    pub fn free_from_log(&mut self, block: u32) -> Result<(), Refusal> {
        self.step(block, 0b000, 0b011, Refusal::NotInUse)
    }

    /// A commit begins: the working state becomes the one in flight, reserved blocks stay free on disk.
    pub fn start(&mut self) {
        self.flight = self.next | (self.flight & !self.durable);
    }

    /// The commit in flight is durable, and nothing older can be exposed any more.
    pub fn finish(&mut self) {
        self.durable = self.flight & (self.durable | self.next);
    }

    /// What the commit in flight changes on disk: blocks it allocates, blocks it frees.
    pub fn delta(&self) -> (u64, u64) {
        (self.durable & !self.flight, !self.durable & self.flight & !self.reserved())
    }

    /// Blocks free on disk in the commit in flight.
    pub fn free_in_flight(&self) -> u64 {
        self.flight
    }

    fn step(&mut self, block: u32, from: u8, to: u8, refusal: Refusal) -> Result<(), Refusal> {
        if self.pattern(block) != from {
            return Err(refusal);
        }
        for (plane, bit) in [(&mut self.durable, 4), (&mut self.flight, 2), (&mut self.next, 1)] {
            *plane = *plane & !(1 << block) | u64::from(to & bit != 0) << block;
        }
        Ok(())
    }
}
