//! Rung 10: endurance. One image in a file, mounted, worked on, cut off from power and mounted again, ten thousand
//! times in the long form and some dozens of times in the short one (see `arenite_shim::endurance`).
//!
//! A failure is named `seed:image:cycle`; it is tried again by running the cycles up to that one.

use crate::rung::{Context, Rung};
use arenite_core::format::BlockSize;
use arenite_shim::client::{Shape, Slots};
use arenite_shim::endurance::{endure, Endured, Plan, TemporaryPath};
use arenite_shim::explore::Failure;
use arenite_shim::ladder::{parallel, Row, Setup};
use arenite_shim::steps::Steps;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The rung.
pub struct Endurance;

/// An image.
struct Image {
    name: &'static str,
    block_size: BlockSize,
    /// Cycles of the short form and of the long one.
    cycles: [u64; 2],
}

const IMAGES: [Image; 2] = [
    Image { name: "endurance", block_size: BlockSize::MIN, cycles: [80, 10_000] },
    Image { name: "endurance16", block_size: BlockSize::ORIGINAL, cycles: [16, 1000] },
];

/// So many slots that a volume is nearly full when all of them are.
const SHAPE: Shape = Shape { slots: 70, levels: 1 };

impl Image {
    fn endure(&self, seed: u64, cycles: u64, deadline: Option<Instant>) -> Result<Endured, Failure> {
        let (path, steps) = (TemporaryPath::new(), Steps { block_size: self.block_size, ..Steps::ENDURANCE });
        endure::<Slots>(&SHAPE, Plan { steps, seed, cycles, deadline }, path.path())
            .map_err(|(cycle, what)| Failure { replay: format!("{seed}:{}:{cycle}", self.name), what })
    }
}

fn describe(endured: &Endured) -> String {
    format!(
        "{} cycles ({} ended in good order), {} commits acknowledged, {} of {} pending sectors lost, {} times the \
         commit in flight was there; generation {}, space exact",
        endured.cycles,
        endured.clean,
        endured.commits,
        endured.lost_sectors,
        endured.pending_sectors,
        endured.in_flight_shown,
        endured.generation
    )
}

impl Rung for Endurance {
    fn number(&self) -> u32 {
        10
    }

    fn what(&self) -> &'static str {
        "endurance on a file: mount, work, crash, mount"
    }

    fn parts(&self) -> Vec<String> {
        IMAGES.iter().map(|image| format!("{:<16} {:?} cycles, short and long", image.name, image.cycles)).collect()
    }

    fn run(&self, context: &Context) -> Row {
        let row = Mutex::new(Row::default());
        parallel(&IMAGES, &Setup { deadline: None, ..context.setup }, |image| {
            let cycles = image.cycles[usize::from(context.long)];
            let cycles = if context.long { cycles } else { (cycles * context.scale).div_ceil(100) };
            let result = image.endure(0, cycles, context.setup.deadline);
            let mut row = row.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(endured) => {
                    row.cases += endured.cycles;
                    row.states += endured.cycles - endured.clean;
                    row.cut_short |= endured.cycles < cycles;
                    row.notes.push(format!("{}: {}", image.name, describe(&endured)));
                }
                Err(failure) => row.failures.push(failure),
            }
            true
        });
        row.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn replay(&self, seed: u64, trace: &str, name: &str, _setup: &Setup) -> Option<Result<String, String>> {
        let image = IMAGES.iter().find(|image| image.name == trace)?;
        let Ok(cycle) = name.parse::<u64>() else { return Some(Err("the last part is the number of a cycle".into())) };
        let endured = image.endure(seed, cycle.saturating_add(1), None);
        Some(endured.map(|endured| describe(&endured)).map_err(|failure| failure.to_string()))
    }
}
