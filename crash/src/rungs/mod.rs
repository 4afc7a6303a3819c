//! The rungs, one a file.

pub mod corruption;
pub mod corruption_runs;
pub mod endurance;
pub mod errors;
pub mod fuzzing;
pub mod kernel;
pub mod miri;
pub mod production;
pub mod sabotage;
pub mod small;
pub mod threads;
