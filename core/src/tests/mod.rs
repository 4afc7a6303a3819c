//! The store as its users see it, on a disk in memory.

#[cfg(not(loom))]
mod disk;
#[cfg(loom)]
mod loom_epoch;
#[cfg(loom)]
mod loom_pool;
#[cfg(not(any(loom, feature = "shuttle")))]
mod rows_blocks;
#[cfg(not(any(loom, feature = "shuttle")))]
mod rows_cache;
#[cfg(not(any(loom, feature = "shuttle")))]
mod rows_commit;
#[cfg(not(any(loom, feature = "shuttle")))]
mod rows_locks;
#[cfg(not(any(loom, feature = "shuttle")))]
mod rows_log;
#[cfg(not(any(loom, feature = "shuttle")))]
mod rows_space;
#[cfg(not(loom))]
mod store;
#[cfg(not(loom))]
mod upkeep;
