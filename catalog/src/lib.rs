//! Copy-on-write catalogue.
#![no_std]
#![forbid(unsafe_code)]
