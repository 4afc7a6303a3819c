//! The rungs, one a file.

pub mod errors;
pub mod production;
pub mod small;
