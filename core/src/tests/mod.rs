//! The store as its users see it, on a disk in memory.

#[cfg(not(loom))]
mod disk;
#[cfg(loom)]
mod loom_epoch;
#[cfg(loom)]
mod loom_pool;
#[cfg(not(loom))]
mod store;
#[cfg(not(loom))]
mod upkeep;
