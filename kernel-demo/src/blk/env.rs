//! All that the driver wants from the kernel around it. Whoever copies the driver writes this file anew.

/// Addresses of buffers for devices, memory for the ring, and device registers: `virtio-drivers` defines the trait.
pub(super) use crate::dma::KernelHal as Hal;
/// One line for people, as with `std::println!`. Called with the lock of a disk held.
pub(super) use crate::println;
/// Microseconds on a clock that never goes back; it may be coarse.
pub(super) use crate::time::micros;
