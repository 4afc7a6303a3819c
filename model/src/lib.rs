//! An executable model of Arenite's commit and mount protocol.
#![forbid(unsafe_code)]

pub mod content;
pub mod disk;
pub mod explore;
pub mod mount;
pub mod planes;
pub mod protocol;
pub mod scenario;
pub mod store;
pub mod suite;
