//! Runs the code in README.md.

use arenite_core::format::BlockSize;
use arenite_core::{Allocate, Error, Failed, FormatOptions, MountOptions, Store};
use arenite_shim::{Disk, HostPlatform, MemDevice, MemOptions};
use std::sync::Arc;

static KERNEL: HostPlatform = HostPlatform;

#[test]
#[allow(non_snake_case, reason = "in a kernel it is a static")]
fn the_code_in_the_readme_does_what_it_says() {
    let DISK = MemDevice::new(Arc::new(Disk::zeroed(64 << 20)), MemOptions::default());
    let run = || -> Result<(), Box<dyn std::error::Error>> { include!(concat!(env!("OUT_DIR"), "/readme.rs")) };
    run().unwrap();
    assert_eq!(run().unwrap_err().to_string(), "taken");
}
