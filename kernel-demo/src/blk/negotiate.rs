#![forbid(unsafe_code)]
//! Agreeing with a device on features, and reading what it says about itself.
//!
//! Offsets in the device's configuration space (virtio 1.2, 5.2.4): 0 u64 capacity in 512-byte sectors; 8 u32 largest
//! segment; 12 u32 segments a request; 20 u32 logical sector; 24 u8 log2(physical / logical sector); 25 u8 alignment
//! offset in logical sectors; 32 u8 write cache on.

use virtio_drivers::transport::{DeviceStatus, SomeTransport, Transport};

use super::queue::{MAX_REQUESTS, MAX_SEGMENTS};
use super::{DiskInfo, Place};

const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const RO: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const TOPOLOGY: u64 = 1 << 10;
const CONFIG_WCE: u64 = 1 << 11;
const VERSION_1: u64 = 1 << 32;

// Not wanted: event indices, because the queue's test for them fails when the index wraps, and a lost notification is a
// request that hangs; indirect descriptors, because they would need the heap for each request.
const WANTED: u64 = SIZE_MAX | SEG_MAX | RO | BLK_SIZE | FLUSH | TOPOLOGY | CONFIG_WCE | VERSION_1;

/// Resets the device, agrees on features and reads the configuration. The caller then sets up the queue and finishes.
pub(super) fn negotiate(transport: &mut SomeTransport<'static>, place: Place) -> Result<DiskInfo, &'static str> {
    transport.set_status(DeviceStatus::empty());
    let mut status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
    transport.set_status(status);
    let offered = transport.read_device_features();
    let features = offered & WANTED;
    if features & VERSION_1 == 0 {
        return Err("older than virtio 1.0");
    }
    transport.write_driver_features(features);
    status |= DeviceStatus::FEATURES_OK;
    transport.set_status(status);
    if !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
        return Err("it refuses the features that it offered");
    }
    transport
        .read_consistent(|| read_info(transport, place, features))
        .map_err(|_| "its configuration space is too small")
        .and_then(check)
}

fn read_info(transport: &SomeTransport<'static>, place: Place, features: u64) -> virtio_drivers::Result<DiskInfo> {
    let has = |feature: u64| features & feature != 0;
    let read_u32 = |offset, feature, default| match has(feature) {
        true => transport.read_config_space::<u32>(offset),
        false => Ok(default),
    };
    let read_u8 = |offset, feature, default| match has(feature) {
        true => transport.read_config_space::<u8>(offset),
        false => Ok(default),
    };
    let low = transport.read_config_space::<u32>(0)?;
    let high = transport.read_config_space::<u32>(4)?;
    let logical = read_u32(20, BLK_SIZE, 512)?;
    let physical_exponent = u32::from(read_u8(24, TOPOLOGY, 0)?);
    let offset = u32::from(read_u8(25, TOPOLOGY, 0)?);
    // Without the write cache setting, nothing tells a device that writes through from one that cannot flush.
    let write_cache = read_u8(32, CONFIG_WCE, 1)?;
    Ok(DiskInfo {
        place,
        sectors: u64::from(high) << 32 | u64::from(low),
        read_only: has(RO),
        flush: has(FLUSH),
        volatile_cache: write_cache != 0,
        logical_sector_bytes: logical,
        physical_sector_bytes: logical.checked_shl(physical_exponent).unwrap_or(0),
        alignment_offset_bytes: logical.saturating_mul(offset),
        max_requests: MAX_REQUESTS,
        max_segments: (read_u32(12, SEG_MAX, MAX_SEGMENTS as u32)? as usize).clamp(1, MAX_SEGMENTS),
        max_segment_bytes: read_u32(8, SIZE_MAX, u32::MAX)?,
        serial_bytes: [0; 20],
    })
}

fn check(info: DiskInfo) -> Result<DiskInfo, &'static str> {
    let logical = info.logical_sector_bytes;
    if !logical.is_power_of_two() || !(512..=1 << 16).contains(&logical) {
        return Err("its logical sector size makes no sense");
    }
    if info.physical_sector_bytes < logical || info.physical_sector_bytes > 1 << 20 {
        return Err("its physical sector size makes no sense");
    }
    if info.max_segment_bytes < logical {
        return Err("its largest segment is less than a sector");
    }
    Ok(info)
}
