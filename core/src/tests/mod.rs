//! The store as its users see it, on a disk in memory.

#[cfg(not(any(loom, feature = "shuttle")))]
mod check;
#[cfg(not(loom))]
#[cfg_attr(feature = "shuttle", allow(dead_code))] // some of its users are left out
mod disk;
#[cfg(not(any(loom, feature = "shuttle")))]
mod edges;
#[cfg(not(any(loom, feature = "shuttle")))]
mod epoch_machine;
#[cfg(not(any(loom, feature = "shuttle")))]
mod formatting;
#[cfg(not(any(loom, feature = "shuttle")))]
mod growing;
#[cfg(not(any(loom, feature = "shuttle")))]
mod lanes;
#[cfg(not(any(loom, feature = "shuttle")))]
mod logs;
#[cfg(loom)]
mod loom_epoch;
#[cfg(loom)]
mod loom_pool;
#[cfg(not(any(loom, feature = "shuttle")))]
mod mounting;
#[cfg(not(any(loom, feature = "shuttle")))]
mod replay;
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
#[cfg(not(any(loom, miri, feature = "shuttle")))]
mod rows_named;
#[cfg(not(any(loom, miri, feature = "shuttle")))]
mod rows_sections;
#[cfg(not(any(loom, feature = "shuttle")))]
mod rows_space;
#[cfg(all(feature = "shuttle", not(loom)))]
mod shuttle_parts;
#[cfg(all(feature = "shuttle", not(loom)))]
mod shuttle_store;
#[cfg(all(feature = "shuttle", not(loom)))]
pub(crate) mod shuttle_world;
#[cfg(not(any(loom, feature = "shuttle")))]
mod sizes;
#[cfg(not(loom))]
mod store;
#[cfg(not(any(loom, feature = "shuttle")))]
mod threads;
#[cfg(not(loom))]
mod upkeep;
