//! Crash-safe block store (under construction).
#![no_std]
#![forbid(unsafe_code)]
