#![forbid(unsafe_code)]
//! What the store costs in this kernel: `phase=bench` in time, `phase=counts` in instructions. The host makes tables of
//! both (`qemu/src/speed.rs`, `qemu/src/instructions.rs`).
//!
//! | file          | what                                                               |
//! |---------------|--------------------------------------------------------------------|
//! | `rounds.rs`   | `phase=bench`: store and raw driver in turn, on one disk           |
//! | `raw.rs`      | the raw driver's side: requests of any size, any number at once    |
//! | `moving.rs`   | the store's side: blocks written and committed, and read           |
//! | `small.rs`    | calls that cost the processor alone, beside something plain        |
//! | `counts.rs`   | `phase=counts`: instructions of each call                          |
//! | `ram_disk.rs` | the disk for that                                                  |

mod counts;
mod moving;
mod ram_disk;
mod raw;
mod rounds;
mod small;

pub use counts::run as count;
pub use rounds::{run as bench, Plan};

/// Bytes of a block in all of these.
const BLOCK_BYTES: usize = 16 << 10;
