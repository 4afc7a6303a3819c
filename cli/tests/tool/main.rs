//! `arenite`, run as a user runs it, against volumes that the original wrote, volumes of its own, and what may become
//! of them.
//!
//! ```text
//!   scratch     an image in a file of its own, and the tool run on it
//!   info        what the tool shows of a volume
//!   check       what it finds in damaged ones       structures   volumes with known contents, for that
//!   format      new volumes                         grow         larger ones
//!   exercise    volumes in use                      usage        arguments and exit codes
//!   dump        blocks as text and JSON             map          a volume as a picture
//!   timeline    a commit as a picture               pages        manual pages, completions, --quiet
//!   svg         pictures as a reader of XML sees them
//! ```
#![forbid(unsafe_code)]

mod check;
mod dump;
mod exercise;
mod format;
mod grow;
mod info;
mod map;
mod pages;
mod place;
mod scratch;
mod serve;
mod structures;
mod svg;
mod timeline;
mod usage;
