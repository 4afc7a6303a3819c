//! The address space: everything is mapped where it physically is.
//!
//! `boot.rs` fills [`PML4`], [`PDPT`] and [`PDS`] so that the first 4 GiB are visible. [`init`] then takes rights away:
//!
//! | addresses                    | pages | rights                                      |
//! |------------------------------|-------|---------------------------------------------|
//! | 0 .. 4 KiB                   | 4 KiB | none: a null pointer faults                 |
//! | 4 KiB .. 2 MiB               | 4 KiB | rw-                                         |
//! | kernel text                  | 4 KiB | r-x                                         |
//! | kernel read-only data        | 4 KiB | r--                                         |
//! | kernel data, stacks          | 4 KiB | rw-, except that stack guards have none     |
//! | all other RAM, .bss          | 2 MiB | rw-                                         |
//! | 0xB000_0000 .. 4 GiB         | 2 MiB | rw-, uncached                               |
//!
//! Device memory above 4 GiB is added on demand by [`map_device`]. RAM above 4 GiB is not mapped and not used.
//!
//! Tables are arrays of atomics: the processor reads them at any time (and sets accessed and dirty bits), and this
//! leaves nothing unsafe to write here. Other CPUs would need a TLB shootdown after [`map_device`] only if it took
//! rights away, which it never does.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::cpu;
use crate::stacks::{self, PAGE_BYTES};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDR_MASK: u64 = 0x000F_FFFF_FFFF_F000;
const LARGE_PAGE_BYTES: usize = 2 << 20;
/// Bits of an entry that keep the caches away: cache disable and write-through.
pub const UNCACHED_BITS: u32 = 0x18;
/// First address that is mapped uncached; q35 never has RAM between here and 4 GiB.
pub const FIRST_UNCACHED: u32 = 0xB000_0000;

const IMAGE_BASE: usize = 0x20_0000;
const IMAGE_TABLES: usize = 2;
const SPARE_TABLES: usize = 8;
const _: () = assert!(IMAGE_BASE == LARGE_PAGE_BYTES, "the fine table of low memory ends where the image begins");

/// One page table of any level.
#[repr(C, align(4096))]
pub struct Table([AtomicU64; 512]);

impl Table {
    const fn empty() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    fn get(&self, index: usize) -> u64 {
        self.0[index].load(Ordering::Relaxed)
    }

    fn set(&self, index: usize, entry: u64) {
        self.0[index].store(entry, Ordering::Release);
    }

    fn addr(&self) -> u64 {
        self as *const Self as u64
    }
}

/// The root table.
#[link_section = ".bss.boot.tables"]
pub static PML4: Table = Table::empty();
/// The table of the first 512 GiB.
#[link_section = ".bss.boot.tables"]
pub static PDPT: Table = Table::empty();
/// The directories of the first 4 GiB.
#[link_section = ".bss.boot.tables"]
pub static PDS: [Table; 4] = [const { Table::empty() }; 4];

static LOW: Table = Table::empty();
static IMAGE: [Table; IMAGE_TABLES] = [const { Table::empty() }; IMAGE_TABLES];
static SPARE: [Table; SPARE_TABLES] = [const { Table::empty() }; SPARE_TABLES];
static SPARE_USED: AtomicUsize = AtomicUsize::new(0);
static DEVICE_LOCK: spin::Mutex<()> = spin::Mutex::new(());

/// The parts of the image, from the linker script.
pub mod image {
    use core::ops::Range;

    extern "C" {
        static __image_start: u8;
        static __text_end: u8;
        static __rodata_end: u8;
        static __image_end: u8;
    }

    /// Machine code.
    pub fn text() -> Range<usize> {
        (&raw const __image_start) as usize..(&raw const __text_end) as usize
    }

    /// Constants.
    pub fn rodata() -> Range<usize> {
        (&raw const __text_end) as usize..(&raw const __rodata_end) as usize
    }

    /// Everything, `.bss` included.
    pub fn all() -> Range<usize> {
        (&raw const __image_start) as usize..(&raw const __image_end) as usize
    }
}

fn image_rights(addr: usize) -> u64 {
    if image::text().contains(&addr) {
        PRESENT
    } else if image::rodata().contains(&addr) {
        PRESENT | NO_EXECUTE
    } else {
        PRESENT | WRITABLE | NO_EXECUTE
    }
}

/// Takes away the rights that the boot tables leave open. To be called once, early, on the first CPU.
pub fn init() {
    for page in 1..512 {
        LOW.set(page, (page * PAGE_BYTES) as u64 | PRESENT | WRITABLE | NO_EXECUTE);
    }
    for (index, table) in IMAGE.iter().enumerate() {
        for page in 0..512 {
            let addr = IMAGE_BASE + index * LARGE_PAGE_BYTES + page * PAGE_BYTES;
            table.set(page, addr as u64 | image_rights(addr));
        }
    }
    for guard in stacks::guards() {
        let page = (guard - IMAGE_BASE) / PAGE_BYTES;
        IMAGE[page / 512].set(page % 512, 0);
    }
    // Executability is the AND of all levels, so the entries above fine tables must not forbid it, not even for a
    // moment: this code is itself looked up through them.
    PDS[0].set(0, LOW.addr() | PRESENT | WRITABLE);
    for (index, table) in IMAGE.iter().enumerate() {
        PDS[0].set(1 + index, table.addr() | PRESENT | WRITABLE);
    }
    let large = PDS.iter().flat_map(|directory| (0..512).map(move |index| (directory, index))).skip(1 + IMAGE_TABLES);
    for (directory, index) in large {
        directory.set(index, directory.get(index) | NO_EXECUTE);
    }
    cpu::flush_tlb();
}

/// Why device memory cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// The range is empty, lies outside the lower half of the address space, or in the kernel's image.
    OutOfRange,
    /// No page table is left in the pool.
    NoTables,
}

/// Makes device memory visible at its physical address, uncached. Below 4 GiB it is visible already, and this only
/// turns the caches off where they are not off yet.
///
/// # Errors
/// See [`MapError`]; nothing but unused tables has changed then.
pub fn map_device(range: Range<u64>) -> Result<(), MapError> {
    if range.start >= range.end || range.end > 1 << 47 {
        return Err(MapError::OutOfRange);
    }
    let _guard = DEVICE_LOCK.lock();
    let mut addr = range.start & !(LARGE_PAGE_BYTES as u64 - 1);
    while addr < range.end {
        let index = (addr >> 21) as usize & 511;
        if let Some(directory) = PDS.get((addr >> 30) as usize) {
            if directory.get(index) & LARGE == 0 {
                return Err(MapError::OutOfRange);
            }
            directory.set(index, directory.get(index) | u64::from(UNCACHED_BITS));
        } else {
            let pdpt = child(&PML4, (addr >> 39) as usize & 511)?;
            let directory = child(pdpt, (addr >> 30) as usize & 511)?;
            let entry = addr | PRESENT | WRITABLE | LARGE | NO_EXECUTE | u64::from(UNCACHED_BITS);
            directory.set(index, entry);
        }
        addr += LARGE_PAGE_BYTES as u64;
    }
    cpu::flush_tlb();
    Ok(())
}

/// The table below entry `index` of `table`, made from the pool if there is none.
fn child(table: &Table, index: usize) -> Result<&'static Table, MapError> {
    let entry = table.get(index);
    if entry & PRESENT == 0 {
        let used = SPARE_USED.load(Ordering::Relaxed);
        let fresh = SPARE.get(used).ok_or(MapError::NoTables)?;
        SPARE_USED.store(used + 1, Ordering::Relaxed);
        table.set(index, fresh.addr() | PRESENT | WRITABLE);
        return Ok(fresh);
    }
    let addr = entry & ADDR_MASK;
    let known = SPARE.iter().chain(core::iter::once(&PDPT));
    known.into_iter().find(|known| known.addr() == addr).ok_or(MapError::OutOfRange)
}
