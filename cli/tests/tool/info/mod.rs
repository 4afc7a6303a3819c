//! `arenite info`.
//!
//! ```text
//!   reference  what the tool must say, from the bytes of the image alone
//!   original   what the original writes in a commit, block by block
//! ```

mod crash;
mod damage;
mod images;
mod original;
mod ours;
mod reference;
