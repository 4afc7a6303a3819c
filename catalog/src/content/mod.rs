//! The bytes of files: writing, reading and freeing trees of data blocks.

mod reader;
mod walk;
mod writer;

pub use reader::{FileBlock, FileReader, MAX_READ_AHEAD};
pub use walk::free_content;
pub(crate) use walk::{walk, Piece};
pub use writer::FileWriter;
