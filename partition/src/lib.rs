//! A store on a partition: reading a GUID partition table (GPT), and using a part of a device as a device.
//!
//! ```text
//!   [`Table::open`]        which copy of the table is good, and is it one?
//!        |
//!   [`Table::find`]        one partition, by number, name, type or identity
//!        |
//!   [`Window::new`]        an `arenite_core::Device` that is this range of bytes of another one
//!        |
//!   `Store::mount`         as on a whole disk
//! ```
//!
//! ```
//! use arenite_core::Device;
//! use arenite_partition::{ReadSectors, Table, Wanted, Window};
//!
//! /// The partition called `arenite` on a disk with sectors of 512 bytes.
//! fn partition<'d, 'm, R: ReadSectors>(disk: &mut R, device: &'d dyn Device<'m>) -> Result<Window<'d, 'm>, String>
//! where
//!     R::Error: std::fmt::Display,
//! {
//!     let mut sector = [0; 512];
//!     let table = Table::open(disk, &mut sector).map_err(|error| error.to_string())?;
//!     let found = table.find(disk, &mut sector, Wanted::Name("arenite")).map_err(|error| error.to_string())?;
//!     Window::of_partition(device, &found).map_err(|error| error.to_string())
//! }
//! ```
//!
//! For kernels: no heap, no unsafe code, one sector of memory, which the caller provides. Everything on the disk is
//! distrusted; whatever it holds, the answer is a partition within the table's usable range that overlaps no other one,
//! or an error that names the flaw. Nothing is ever written.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod error;
mod header;
mod partition;
mod table;
mod window;

pub use error::{Error, Flaw};
pub use partition::{Name, Partition};
pub use table::{ReadSectors, Source, Table, Wanted};
pub use uguid::Guid;
pub use window::{Window, WindowError};
