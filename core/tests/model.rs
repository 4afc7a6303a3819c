//! Random calls of the store against a model of what they must do: which blocks there are, what is in each, and how
//! much space is used, at every remount and after every settled commit.
#![cfg(not(any(loom, feature = "shuttle")))]

mod sim;

use arenite_core::format::BlockSize;
use arenite_core::{
    Allocate, BlockPtr, Class, CommitTicket, Error, Filling, FormatOptions, MountOptions, NoInterrupts, Roots, Store,
};
use sim::{check, hinted, memory, Contents, Disk, Media, Rng};

const SEEDS: u64 = 256;
const OPERATIONS: u32 = 10_000;
/// Blocks being filled at once: fewer than the buffers that a reader may have too.
const MAX_FILLINGS: usize = 3;

/// What must be on the volume.
#[derive(Clone, Default)]
struct State {
    contents: Contents,
    /// The number that the roots carry.
    number: u64,
}

/// What has been done, apart from the store itself.
struct Model {
    rng: Rng,
    /// What a mount must find: the newest commit that is known to be durable, and the one that may be.
    durable: State,
    begun: Option<State>,
    /// What the next commit will hold.
    now: Contents,
    next_number: u64,
    /// Blocks in `now` that no commit has begun to hold: they are still free on the volume.
    fresh: u64,
    /// Blocks that were freed since a commit began, and that it holds.
    freed: u64,
    counts: Counts,
}

#[derive(Default, Debug)]
struct Counts {
    operations: u64,
    reads: u64,
    commits: u64,
    remounts: u64,
    lost: u64,
    full: u64,
}

/// A store in use: what goes away with it.
struct Session<'d, 'm, 's> {
    store: &'s Store<'d, 'm>,
    fillings: Vec<(Filling<'s>, u8)>,
    ticket: Option<CommitTicket>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let (durable, now) = (State::default(), Contents::new());
        let counts = Counts::default();
        Self { rng: Rng(seed), durable, begun: None, now, next_number: 1, fresh: 0, freed: 0, counts }
    }

    fn allocate(&mut self, session: &mut Session<'_, '_, '_>) {
        if session.fillings.len() >= MAX_FILLINGS {
            return;
        }
        // What the newest durable commit holds; what the one before held may be handed out once that is settled.
        self.commit_finish(session, false);
        let class = if self.rng.below(4) == 0 { Class::Reclaim } else { Class::Normal };
        let fill = self.rng.next() as u8;
        match session.store.allocate(hinted(self.rng.below(9) as u32, class)) {
            Ok(mut filling) => {
                assert!(filling.bytes().iter().all(|byte| *byte == 0));
                let live = |ptr: &BlockPtr| ptr.addr == filling.addr();
                assert!(!self.now.iter().any(|(ptr, _)| live(ptr)), "a block in use was handed out");
                assert!(!self.durable.contents.iter().any(|(ptr, _)| live(ptr)), "a committed block was handed out");
                filling.bytes_mut().fill(fill);
                session.fillings.push((filling, fill));
            }
            Err(Error::Full { .. }) => {
                self.counts.full += 1;
                for _ in 0..self.now.len() / 3 {
                    self.free(session);
                }
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn enqueue(&mut self, session: &mut Session<'_, '_, '_>) {
        if let Some((filling, fill)) = self.rng.take(&mut session.fillings) {
            let ptr = session.store.enqueue(filling).unwrap().ptr();
            self.now.push((ptr, fill));
            self.fresh += 1;
        }
    }

    fn free(&mut self, session: &Session<'_, '_, '_>) {
        let Some((ptr, _)) = self.rng.take(&mut self.now) else { return };
        let is_fresh = session.store.is_free(ptr.addr).unwrap();
        session.store.free(ptr).unwrap();
        assert_eq!(session.store.free(ptr), Err(Error::NotAllocated { addr: ptr.addr }));
        self.fresh -= u64::from(is_fresh);
        self.freed += u64::from(!is_fresh);
    }

    fn read(&mut self, session: &Session<'_, '_, '_>) {
        if let Some((ptr, fill)) = self.now.get(self.rng.below(self.now.len() as u64) as usize) {
            let block = session.store.read(*ptr).unwrap();
            assert!(block.iter().all(|byte| byte == fill), "{ptr:?}");
            self.counts.reads += 1;
        }
    }

    /// Begins a commit, unless one is in flight.
    fn commit_start(&mut self, session: &mut Session<'_, '_, '_>) {
        self.commit_finish(session, false);
        let root = self.now.first().map(|entry| entry.0);
        let roots = Roots { next_qid: self.next_number, ..session.store.roots() }.with_root(root, 1);
        match session.store.commit_start(roots) {
            Ok(ticket) => {
                assert!(session.ticket.is_none());
                session.ticket = Some(ticket);
                self.begun = Some(State { contents: self.now.clone(), number: self.next_number });
                self.next_number += 1;
                (self.fresh, self.freed) = (0, 0);
            }
            Err(Error::CommitInFlight) => {
                session.store.step();
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Looks after a commit in flight, or waits for it.
    fn commit_finish(&mut self, session: &mut Session<'_, '_, '_>, wait: bool) {
        let Some(ticket) = session.ticket else { return };
        loop {
            match session.store.commit_poll(&ticket) {
                Some(result) => {
                    assert_eq!(result, Ok(session.store.generation()));
                    self.durable = self.begun.take().unwrap();
                    session.ticket = None;
                    self.counts.commits += 1;
                    return;
                }
                None if wait => {
                    session.store.step();
                }
                None => return,
            }
        }
    }

    /// A commit to its very end, after which all numbers are known.
    fn commit_and_check(&mut self, session: &mut Session<'_, '_, '_>) {
        self.commit_finish(session, true);
        session.store.settle().unwrap();
        self.commit_start(session);
        self.commit_finish(session, true);
        session.store.settle().unwrap();
        check(session.store, &self.durable.contents).unwrap();
        self.check_counts(session);
    }

    /// With nothing in flight: what is handed out, freed and new since the last commit.
    fn check_counts(&self, session: &Session<'_, '_, '_>) {
        let space = session.store.space();
        assert_eq!(space.reserved_blocks, session.fillings.len() as u64, "{space:?}");
        assert_eq!(space.pending_blocks, self.freed, "{space:?}");
        assert_eq!(space.free_blocks, space.avail_blocks + space.reserved_blocks + self.fresh, "{space:?}");
    }

    /// One random call.
    fn operate(&mut self, session: &mut Session<'_, '_, '_>) {
        self.counts.operations += 1;
        match self.rng.below(100) {
            0..25 => self.allocate(session),
            25..50 => self.enqueue(session),
            50..54 => drop(self.rng.take(&mut session.fillings)),
            54..70 => self.free(session),
            70..80 => self.read(session),
            80..83 => self.commit_start(session),
            83..95 => {
                session.store.step();
                self.commit_finish(session, false);
            }
            95..97 => self.commit_finish(session, true),
            97 => self.commit_and_check(session),
            _ => {
                session.store.settle().unwrap();
                self.check_counts(session);
            }
        }
    }

    /// One store from mount to unmount; how many operations it was used for.
    fn session(&mut self, store: Store<'_, '_>, limit: u32) -> u32 {
        self.remounted(&store);
        let operations = (1 + self.rng.below(150) as u32).min(limit);
        let mut session = Session { store: &store, fillings: Vec::new(), ticket: None };
        for _ in 0..operations {
            self.operate(&mut session);
        }
        if self.rng.below(2) == 0 {
            self.commit_finish(&mut session, true);
        }
        drop(session);
        match self.rng.below(2) {
            0 => {
                store.unmount().unwrap();
                if let Some(begun) = self.begun.take() {
                    self.durable = begun;
                }
            }
            _ => drop(store),
        }
        operations
    }

    /// Right after a mount: the newest commit that was known to be durable, or one that was in flight.
    fn remounted(&mut self, store: &Store<'_, '_>) {
        let number = store.roots().next_qid;
        if let Some(begun) = self.begun.take().filter(|begun| begun.number == number) {
            self.durable = begun;
            self.counts.lost += 1;
        }
        assert_eq!(number, self.durable.number);
        check(store, &self.durable.contents).unwrap();
        let space = store.space();
        assert_eq!(space.free_blocks, space.avail_blocks);
        self.now = self.durable.contents.clone();
        (self.fresh, self.freed) = (0, 0);
        self.counts.remounts += 1;
    }
}

fn run(seed: u64) -> Counts {
    let mut model = Model::new(seed);
    let len_bytes = (128 << (seed % 4)) << 10;
    let mut media = Media::blank(len_bytes + 512 * (seed as usize % 7));
    let block_size = BlockSize::new(if seed.is_multiple_of(3) { 4096 } else { 2048 }).unwrap();
    let arenas = if seed.is_multiple_of(4) { 1 } else { 1 + seed as u32 % 3 };
    let mut done = 0;
    while done < OPERATIONS {
        let memory = memory();
        let disk =
            if seed.is_multiple_of(2) { Disk::in_order(media) } else { Disk::new(media, seed + u64::from(done)) };
        let disk = disk.with_geometry(|geometry| geometry.discard = seed % 3 == 1);
        let resources = memory.take().unwrap();
        let store = match done {
            0 => Store::format(resources, &disk, &NoInterrupts, FormatOptions { block_size, arenas, force: false }),
            _ => Store::mount(resources, &disk, &NoInterrupts, MountOptions::default()),
        };
        let store = store.unwrap_or_else(|failed| panic!("seed {seed}, {done} operations: {}", failed.error));
        done += model.session(store, OPERATIONS - done);
        media = disk.into_media();
    }
    model.counts
}

#[test]
fn the_store_does_what_the_model_says() {
    let mut sum = Counts::default();
    for seed in 0..SEEDS {
        let counts = run(seed);
        sum.operations += counts.operations;
        sum.reads += counts.reads;
        sum.commits += counts.commits;
        sum.remounts += counts.remounts;
        sum.lost += counts.lost;
        sum.full += counts.full;
    }
    println!("{sum:?}");
    assert_eq!(sum.operations, SEEDS * u64::from(OPERATIONS));
    assert!(sum.reads > 5_000 && sum.commits > 3_000 && sum.remounts > 1_000 && sum.full > 50, "{sum:?}");
}

#[test]
fn a_filling_that_is_kept_over_commits_is_part_of_the_one_that_it_is_enqueued_for() {
    let memories = [memory(), memory()];
    let disk = Disk::in_order(Media::blank(256 << 10));
    let store = sim::format(&memories[0], &disk, 2);
    let mut filling = store.allocate(Allocate::data()).unwrap();
    filling.bytes_mut().fill(5);
    let other = sim::put(&store, 6).unwrap();
    sim::commit_root(&store, other);
    check(&store, &[(other, 6)]).unwrap();
    let ptr = store.enqueue(filling).unwrap().ptr();
    sim::commit_root(&store, ptr);
    store.unmount().unwrap();
    check(&sim::mount(&memories[1], &disk).unwrap(), &[(other, 6), (ptr, 5)]).unwrap();
}
