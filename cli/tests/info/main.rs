//! `arenite info`, run as a user runs it, against volumes that the original wrote and what may become of them.
//!
//! ```text
//!   scratch    an image in a file of its own, and the tool run on it
//!   reference  what the tool must say, from the bytes of the image alone
//!   original   what the original writes in a commit, block by block
//! ```
#![forbid(unsafe_code)]

mod crash;
mod damage;
mod images;
mod original;
mod ours;
mod reference;
mod scratch;
mod usage;
