#![forbid(unsafe_code)]
//! Which processors the machine has, from the firmware's tables: RSDP, then RSDT or XSDT, then MADT.
//!
//! ```text
//! RSDP  "RSD PTR "  16 u32 RSDT   24 u32 length  26 (revision 2) u64 XSDT at 24
//! table header 36 bytes: 0 signature, 4 u32 length, 9 checksum: all bytes sum to 0
//! RSDT  u32 addresses from 36 on         XSDT  u64 addresses
//! MADT  "APIC", entries from 44 on: u8 type, u8 length
//!       type 0: u8 APIC id at 3, u32 flags at 4      type 9: u32 APIC id at 4, u32 flags at 8
//! ```
//!
//! Tables are only believed if their checksums are right. Without any, the machine has the one CPU that runs.

use crate::stacks::MAX_CPUS;
use crate::start_info::{LowMemory, StartInfoError};

/// Bytes of the longest table that is read.
const MAX_TABLE_BYTES: u64 = 64 << 10;
/// Where firmware leaves the RSDP when nobody says where it is.
const SEARCHED: core::ops::Range<u64> = 0xE_0000..0x10_0000;
const HEADER_BYTES: u64 = 36;
/// The processor can be used.
const ENABLED: u32 = 1;

/// The usable processors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpus {
    apic_ids: [u32; MAX_CPUS],
    /// How many there are, which may be more than are listed.
    pub count: usize,
}

impl Cpus {
    /// The APIC ids of the first of them.
    pub fn apic_ids(&self) -> &[u32] {
        &self.apic_ids[..self.count.min(MAX_CPUS)]
    }

    fn add(&mut self, apic_id: u32, flags: u32) {
        if flags & ENABLED == 0 {
            return;
        }
        if let Some(place) = self.apic_ids.get_mut(self.count) {
            *place = apic_id;
        }
        self.count += 1;
    }
}

/// Finds the processors. `rsdp` is the address from the start information, 0 if it has none.
pub fn read_cpus(memory: &LowMemory, rsdp: u64) -> Option<Cpus> {
    let rsdp = if rsdp == 0 { SEARCHED.step_by(16).find(|&addr| is_rsdp(memory, addr))? } else { rsdp };
    if !is_rsdp(memory, rsdp) {
        return None;
    }
    let is_second = memory.byte(rsdp + 15).ok()? >= 2;
    let xsdt = if is_second { memory.u64(rsdp + 24).ok()? } else { 0 };
    let (list, width) = if xsdt == 0 { (u64::from(memory.u32(rsdp + 16).ok()?), 4) } else { (xsdt, 8) };
    let end = list + table_len(memory, list)?;
    let entries = (list + HEADER_BYTES..end).step_by(width).filter(|entry| entry + width as u64 <= end);
    let tables = entries.map_while(|entry| match width {
        4 => memory.u32(entry).ok().map(u64::from),
        _ => memory.u64(entry).ok(),
    });
    let madt = tables.into_iter().find(|&table| memory.bytes(table).is_ok_and(|name: [u8; 4]| name == *b"APIC"))?;
    read_madt(memory, madt).ok().flatten()
}

fn is_rsdp(memory: &LowMemory, addr: u64) -> bool {
    memory.bytes(addr).is_ok_and(|name: [u8; 8]| name == *b"RSD PTR ") && sums_to_zero(memory, addr, 20)
}

fn sums_to_zero(memory: &LowMemory, addr: u64, len_bytes: u64) -> bool {
    let mut bytes = (addr..addr + len_bytes).map(|addr| memory.byte(addr));
    bytes.try_fold(0u8, |sum, byte| byte.map(|byte| sum.wrapping_add(byte))) == Ok(0)
}

/// The length of a table whose checksum is right.
fn table_len(memory: &LowMemory, addr: u64) -> Option<u64> {
    let len_bytes = u64::from(memory.u32(addr + 4).ok()?);
    let is_good = (HEADER_BYTES..=MAX_TABLE_BYTES).contains(&len_bytes) && sums_to_zero(memory, addr, len_bytes);
    is_good.then_some(len_bytes)
}

fn read_madt(memory: &LowMemory, madt: u64) -> Result<Option<Cpus>, StartInfoError> {
    let Some(len_bytes) = table_len(memory, madt) else { return Ok(None) };
    let (mut cpus, mut at, end) = (Cpus::default(), madt + 44, madt + len_bytes);
    while at + 2 <= end {
        let (kind, len) = (memory.byte(at)?, u64::from(memory.byte(at + 1)?));
        if len < 2 || at + len > end {
            break;
        }
        match (kind, len) {
            (0, 8..) => cpus.add(u32::from(memory.byte(at + 3)?), memory.u32(at + 4)?),
            (9, 16..) => cpus.add(memory.u32(at + 4)?, memory.u32(at + 8)?),
            _ => {}
        }
        at += len;
    }
    Ok(Some(cpus).filter(|cpus| cpus.count > 0))
}
