//! The store as its users see it, on a disk in memory.

mod disk;
mod store;
