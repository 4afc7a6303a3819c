//! The block server, with a client of the tests' own: handshake, transmission, hostile clients, and the record.

mod bench;
mod client;
mod handshake;
mod scripts;
mod transmission;
