//! A block server: what a program (QEMU, say) uses as its disk, and what sees every request that this disk gets.
//!
//! ```text
//!                    Unix socket
//!   client  <--------------------->  session --> backing      a file, locked, or a disk in memory
//!   (QEMU, one at a time)               |
//!                                       +------> sink         issue and completion of every write and flush:
//!                                                             a tape, a trace file, nothing
//! ```
//!
//! - [`Server`] listens and runs one session after the other; [`Export`] is what it serves.
//! - [`script`] is the language in which a server is told what to do wrong, and when.
//! - [`tracefile`] is the format in which a record is kept.
//! - `wire` has every number of the protocol, `negotiate` the handshake, `session` the transmission.
//!
//! # Protocol
//! NBD as the document `doc/proto.md` of the NetworkBlockDevice/nbd repository has it: fixed newstyle handshake with
//! EXPORT_NAME, GO, INFO, LIST and ABORT; READ, WRITE, FLUSH, TRIM and DISC with simple replies. There is one export;
//! it answers to the empty name and to its own. Neither structured replies nor encryption are offered, nor FUA, so that
//! the record needs no notion of a single write that is durable. Requests are multiples of 512 bytes, and clients are
//! told so.
//!
//! # What counts as completed
//! The record is what the numbered contract of `arenite_core::device` speaks of. A write is completed once its reply
//! was handed to the socket. Before each reply the session takes in all that the client has sent so far and records it
//! as issued, so a flush that the client sent before it could know of a reply is recorded in front of that completion,
//! and does not cover that write.
//!
//! # Hostile clients
//! Whatever a client sends, it gets an error of the protocol, or is disconnected. A session holds at most
//! [`MAX_QUEUED_BYTES`] bytes and one request more, whatever their number. A handshake ends after ten seconds, so that
//! nobody keeps others out by saying nothing; after it, silence is normal.
//!
//! # Lock order
//! There are no locks: a server and its sessions run on the thread that calls [`Server::serve`].
#![forbid(unsafe_code)]

mod backing;
mod held;
mod history;
mod inbox;
mod negotiate;
pub mod script;
mod server;
mod session;
mod sink;
pub mod tracefile;
pub mod wire;

pub use backing::Backing;
pub use script::{Script, ScriptError};
pub use server::{BindError, ServeError, Server};
pub use session::{Counts, Export, MAX_QUEUED_BYTES};
pub use sink::Sink;
