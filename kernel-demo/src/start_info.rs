//! What the hypervisor says about the machine: the PVH start information.
//!
//! The structures lie somewhere below 4 GiB, in memory that nobody has set aside, so [`read`] copies all that is of
//! use before any memory is handed out, and before page 0 is unmapped: QEMU's firmware puts the
//! memory map there. Layout (little endian, from the PVH boot protocol):
//!
//! ```text
//! start information                         memory map entry
//!  0 u32 magic 0x336EC578                    0 u64 address
//!  4 u32 version (>= 1 has a memory map)     8 u64 bytes
//!  8 u32 flags    12 u32 modules            16 u32 type, as in E820: 1 is RAM
//! 16 u64 module list                        20 u32 reserved
//! 24 u64 command line, ends with a zero
//! 32 u64 ACPI RSDP
//! 40 u64 memory map   48 u32 entries
//! ```

use crate::acpi::{self, Cpus};
use crate::cmdline::{CmdLine, CmdLineError, MAX_BYTES};

const MAGIC: u32 = 0x336E_C578;
const ENTRY_BYTES: u64 = 24;
const MAPPED_BYTES: u64 = 4 << 30;
/// Entries of the longest memory map that is understood.
pub const MAX_REGIONS: usize = 32;

/// A range of physical addresses of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// First address behind.
    pub end: u64,
    /// Kind, as in E820.
    pub kind: u32,
}

impl Region {
    /// Whether the range is ordinary memory.
    pub fn is_ram(&self) -> bool {
        self.kind == 1
    }

    /// The kind in words.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            1 => "usable",
            2 => "reserved",
            3 => "ACPI tables",
            4 => "ACPI non-volatile",
            5 => "unusable",
            7 => "persistent memory",
            _ => "unknown",
        }
    }
}

/// What was read from the start information.
pub struct StartInfo {
    regions: [Region; MAX_REGIONS],
    region_count: usize,
    /// The command line.
    pub cmdline: CmdLine,
    /// The processors, if the firmware's tables name them.
    pub cpus: Option<Cpus>,
}

impl StartInfo {
    /// The memory map.
    pub fn regions(&self) -> &[Region] {
        &self.regions[..self.region_count]
    }
}

/// Why the start information is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartInfoError {
    /// A pointer is null or leads out of the first 4 GiB.
    BadPointer(u64),
    /// The magic number is wrong.
    BadMagic(u32),
    /// The version has no memory map.
    NoMemoryMap,
    /// The memory map has more than [`MAX_REGIONS`] entries, or an entry wraps.
    BadMemoryMap,
    /// The command line is refused.
    CmdLine(CmdLineError),
}

/// Physical memory below 4 GiB, while it still is as the hypervisor left it. One value exists at a time, in [`read`].
pub struct LowMemory;

impl LowMemory {
    fn check(&self, addr: u64, len_bytes: u64) -> Result<(), StartInfoError> {
        let end = addr.checked_add(len_bytes).ok_or(StartInfoError::BadPointer(addr))?;
        if addr == 0 || end > MAPPED_BYTES {
            return Err(StartInfoError::BadPointer(addr));
        }
        Ok(())
    }

    /// Reads one byte.
    pub fn byte(&self, addr: u64) -> Result<u8, StartInfoError> {
        self.check(addr, 1)?;
        // SAFETY: `check` keeps the address within the identity map, and not null. A volatile read of one byte has no
        // alignment, every value is a valid `u8`, and nothing else runs that could be writing there.
        Ok(unsafe { core::ptr::read_volatile(addr as *const u8) })
    }

    /// Reads as many bytes as the array has.
    pub fn bytes<const N: usize>(&self, addr: u64) -> Result<[u8; N], StartInfoError> {
        let mut bytes = [0; N];
        for (offset, byte) in (0..).zip(bytes.iter_mut()) {
            *byte = self.byte(addr + offset)?;
        }
        Ok(bytes)
    }

    /// Reads a number.
    pub fn u32(&self, addr: u64) -> Result<u32, StartInfoError> {
        self.bytes(addr).map(u32::from_le_bytes)
    }

    /// Reads a number.
    pub fn u64(&self, addr: u64) -> Result<u64, StartInfoError> {
        self.bytes(addr).map(u64::from_le_bytes)
    }
}

/// Copies the start information at physical address `addr`, as passed to the entry point.
///
/// # Errors
/// See [`StartInfoError`].
pub fn read(addr: u64) -> Result<StartInfo, StartInfoError> {
    let memory = LowMemory;
    memory.check(addr, 56)?;
    let magic = memory.u32(addr)?;
    if magic != MAGIC {
        return Err(StartInfoError::BadMagic(magic));
    }
    if memory.u32(addr + 4)? < 1 {
        return Err(StartInfoError::NoMemoryMap);
    }
    let cmdline = read_cmdline(&memory, memory.u64(addr + 24)?)?;
    let map = memory.u64(addr + 40)?;
    let region_count = memory.u32(addr + 48)? as usize;
    let mut regions = [Region::default(); MAX_REGIONS];
    let wanted = regions.get_mut(..region_count).ok_or(StartInfoError::BadMemoryMap)?;
    memory.check(map, ENTRY_BYTES * region_count as u64)?;
    for (entry, region) in (map..).step_by(ENTRY_BYTES as usize).zip(wanted) {
        let start = memory.u64(entry)?;
        let end = start.checked_add(memory.u64(entry + 8)?).ok_or(StartInfoError::BadMemoryMap)?;
        *region = Region { start, end, kind: memory.u32(entry + 16)? };
    }
    let cpus = acpi::read_cpus(&memory, memory.u64(addr + 32)?);
    Ok(StartInfo { regions, region_count, cmdline, cpus })
}

fn read_cmdline(memory: &LowMemory, addr: u64) -> Result<CmdLine, StartInfoError> {
    if addr == 0 {
        return CmdLine::new(core::iter::empty()).map_err(StartInfoError::CmdLine);
    }
    memory.check(addr, 1)?;
    let bytes = (addr..addr + MAX_BYTES as u64 + 1).map_while(|addr| memory.byte(addr).ok());
    CmdLine::new(bytes).map_err(StartInfoError::CmdLine)
}
