//! A bare-metal kernel for QEMU's q35 and microvm machines that keeps real files on a virtio disk.
//!
//! One half is the platform: boot, all CPUs, memory, traps, time, PCI and an asynchronous, polled virtio block driver.
//! The only interrupts are those of each CPU's timer. A run is controlled by words on the kernel's command line and
//! ends with a status that says what happened ([`outcome`]).
//!
//! | module       | what                                                     | unsafe because of             |
//! |--------------|----------------------------------------------------------|-------------------------------|
//! | `boot`       | from the PVH entry point to [`kernel_entry`]              | (assembly)                    |
//! | `ap`         | the other CPUs, from their reset to `crew`                | (assembly), the trampoline    |
//! | `apic`       | timer, messages between CPUs                              | registers of the controller   |
//! | `crew`       | all CPUs at one job                                       | a borrow across CPUs          |
//! | `stacks`     | where the stacks are, guard pages                         | memory that the CPU writes    |
//! | `paging`     | the address space                                         | linker symbols, sections      |
//! | `cpu`,`port` | instructions and ports                                    | `asm!`                        |
//! | `traps`      | exceptions                                                | descriptor tables             |
//! | `start_info` | what the hypervisor says: memory map, command line        | reading low memory            |
//! | `memory`     | RAM, handed out once                                      | making slices of RAM          |
//! | `heap`,`dma` | the heap; pages for devices                               | allocator and platform traits |
//! | `pci`,`mmio` | finding devices                                           | a trait method; registers     |
//! | `blk`        | the disk driver: its `queue` and `owner`                 | buffers that a device writes  |
//! | `device`     | the store's disk, over the driver                        | buffers that a device writes  |
//! | `simple_disk`| the same over the driver of `virtio-drivers`             | buffers that a device writes  |
//!
//! The other half is the demonstration, without unsafe code: `phase` finds the disks, `store_disk` chooses driver and
//! partition, `volume` and `platform` are what the store needs and gets, `archive` reads the input, `import` and
//! `verify` do the work on all CPUs under the rules of `team`, `fate` says what becomes of the files, `report` and
//! `failure` tell the host. `probe` measures how much stack the store's calls take, `measure` how much time and how
//! many instructions. `shell` lets a person do all of this.
//!
//! `acpi` counts the CPUs, and `interrupts` what their timers do. Everything else is safe code. Locks are leaves, taken
//! while no other one is held, except that a disk's may be held when the console's is taken, and those of `team`, which
//! has an order of its own. No interrupt handler takes any.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

mod acpi;
#[allow(unsafe_code)]
mod ap;
#[allow(unsafe_code)]
mod apic;
mod archive;
mod blk;
#[allow(unsafe_code)]
mod boot;
mod cmdline;
#[allow(unsafe_code)]
mod cpu;
#[allow(unsafe_code)]
mod crew;
#[allow(unsafe_code)]
mod device;
#[allow(unsafe_code)]
mod dma;
mod exit;
mod failure;
mod fate;
#[allow(unsafe_code)]
mod heap;
mod import;
mod interrupts;
mod measure;
#[allow(unsafe_code)]
mod memory;
#[allow(unsafe_code)]
mod mmio;
#[allow(dead_code, reason = "the host uses the other half of this file")]
mod outcome;
#[allow(unsafe_code)]
mod paging;
#[allow(unsafe_code)]
mod pci;
mod phase;
mod platform;
#[allow(unsafe_code)]
mod port;
mod probe;
mod report;
mod selftest;
mod serial;
mod shell;
#[allow(unsafe_code)]
mod simple_disk;
#[allow(unsafe_code)]
mod stacks;
#[allow(unsafe_code)]
mod start_info;
mod store_disk;
mod team;
mod time;
#[allow(unsafe_code)]
mod traps;
mod verify;
mod volume;

use alloc::vec::Vec;

use outcome::Outcome;

const MIB: u64 = 1 << 20;

/// Where the boot code hands over, on the first CPU's stack, with the physical address of the start information.
extern "C" fn kernel_entry(start_info: u32) -> ! {
    stacks::paint();
    serial::init();
    traps::init(0);
    println!("kernel-demo {} booting", env!("CARGO_PKG_VERSION"));
    let info = match start_info::read(u64::from(start_info)) {
        Ok(info) => info,
        Err(error) => exit::fail(Outcome::Machine, format_args!("start information: {error:?}")),
    };
    paging::init();
    println!("command line: {}", info.cmdline.as_str());
    for region in info.regions() {
        println!("memory: {:#012x}..{:#012x} {}", region.start, region.end, region.kind_name());
    }
    init_memory(&info);
    if !apic::init(true) {
        println!("cpus: the local timer does not run");
    }
    interrupts::start();
    ap::start_all(info.cpus.as_ref(), info.regions());
    let disks = blk::open_all(pci::find_disks().into_iter().chain(mmio::find_disks(&info.cmdline)));
    for disk in &disks {
        print_disk(disk.info());
    }
    run(&info.cmdline, disks);
    exit::exit(Outcome::Success)
}

const OPTIONS: &[&str] = &[
    "selftest",
    "fault",
    "cpu",
    "requests",
    "bytes",
    "timeout_us",
    "lines",
    "phase",
    "format",
    "partial",
    "resume",
    "commit_every",
    mmio::WORD,
    "driver",
    "partition",
    "shell",
    "columns",
    "blocks",
    "rounds",
];

/// Does what the command line asks for.
fn run(cmdline: &cmdline::CmdLine, disks: Vec<blk::ReadyDisk>) {
    if let Some(word) = cmdline.first_unknown(OPTIONS) {
        exit::fail(Outcome::BadOption, format_args!("unknown option: {word}"));
    }
    if let Some(fault) = cmdline.get("fault") {
        selftest::provoke(fault, cmdline);
    }
    if cmdline.has("selftest") {
        return selftest::run(disks, cmdline);
    }
    let done = if cmdline.has("shell") {
        shell::run(disks, cmdline)
    } else if cmdline.has("phase") {
        phase::run(disks, cmdline)
    } else {
        Ok(())
    };
    if let Err(failure) = done {
        exit::fail(failure.outcome, format_args!("{}", failure.reason));
    }
}

fn print_disk(info: &blk::DiskInfo) {
    println!(
        "disk {}: serial \"{}\", {} sectors of {}/{} bytes, {}, {}, {}, {} requests of {} buffers",
        info.place,
        info.serial(),
        info.sectors * blk::SECTOR_BYTES / u64::from(info.logical_sector_bytes),
        info.logical_sector_bytes,
        info.physical_sector_bytes,
        if info.read_only { "read-only" } else { "writable" },
        if info.flush { "flush" } else { "NO flush" },
        if info.volatile_cache { "volatile cache" } else { "write-through" },
        info.max_requests,
        info.max_segments
    );
    if info.alignment_offset_bytes != 0 {
        println!("disk {}: aligned at byte {}, not at 0", info.place, info.alignment_offset_bytes);
    }
}

fn init_memory(info: &start_info::StartInfo) {
    if let Err(error) = memory::init(info.regions()) {
        exit::fail(Outcome::Machine, format_args!("memory: {error:?}"));
    }
    let (Some(heap), Some(dma)) = (heap::init(), dma::init()) else {
        exit::fail(Outcome::Machine, format_args!("memory: nothing left for the heap"));
    };
    let image = paging::image::all();
    println!(
        "memory: image {:#x}..{:#x}, heap {} KiB, DMA {} KiB, {} MiB free",
        image.start,
        image.end,
        heap >> 10,
        dma >> 10,
        memory::free_bytes() as u64 / MIB
    );
    match time::init() {
        Some(rate) => println!("time: counter at {} MHz", rate / 1_000_000),
        None => println!("time: the interval timer does not run; the counter's rate is a guess"),
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    if !exit::seize() {
        exit::power_off(Outcome::Panic);
    }
    serial::print_emergency(format_args!("\nkernel-demo: CPU {}: {info}\n", stacks::current_cpu()));
    exit::exit_emergency(Outcome::Panic)
}
