//! The local interrupt controller of each CPU: its timer, and messages to other CPUs.
//!
//! Two ways lead to the same registers: memory at the address that a model-specific register names (xAPIC), or, where
//! the processor has it, one model-specific register each (x2APIC). The first CPU decides by what the processor says;
//! the others follow. Only registers that are named here can be reached, none of which changes memory; what a message
//! does to another CPU is said where it is sent.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::{cpu, port, time};

/// Vector of the timer.
pub const TIMER_VECTOR: u8 = 0x40;
/// Vector of an interrupt that went away before it could be delivered.
pub const SPURIOUS_VECTOR: u8 = 0xFF;
/// Timer interrupts in a second.
pub const TIMER_HZ: u32 = 1000;

/// A register, as its offset in memory; as a model-specific register it has the number `0x800 + offset / 16`.
#[derive(Clone, Copy)]
struct Register(u32);

const ID: Register = Register(0x20);
const END_OF_INTERRUPT: Register = Register(0xB0);
const SPURIOUS: Register = Register(0xF0);
const COMMAND: Register = Register(0x300);
const COMMAND_HIGH: Register = Register(0x310);
const LOCAL_TIMER: Register = Register(0x320);
const LOCAL_PIN_0: Register = Register(0x350);
const LOCAL_PIN_1: Register = Register(0x360);
const TIMER_START: Register = Register(0x380);
const TIMER_NOW: Register = Register(0x390);
const TIMER_DIVIDER: Register = Register(0x3E0);

const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const SOFTWARE_ENABLED: u32 = 1 << 8;
const BY_16: u32 = 3;
const PENDING: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
const ALL_OTHERS: u32 = 3 << 18;
const NMI: u32 = 4 << 8;
const INIT: u32 = 5 << 8;
const STARTUP: u32 = 6 << 8;

/// The register that says where the controller is and in which mode.
const BASE_REGISTER: u32 = 0x1B;
const BASE_ENABLED: u64 = 1 << 11;
const BASE_X2: u64 = 1 << 10;
/// How long the timer is measured.
const MEASURED_US: u64 = 10_000;
/// Turns after which a message that is not delivered is given up.
const MAX_TURNS: u32 = 1_000_000;

static IS_X2: AtomicBool = AtomicBool::new(false);
static BASE: AtomicU64 = AtomicU64::new(0);
static TIMER_PERIOD: AtomicU32 = AtomicU32::new(0);

/// Reads a model-specific register.
fn read_msr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: called with numbers of registers of this controller alone, which exist in the mode that it is in.
    unsafe {
        asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
fn write_msr(number: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: as for reading. Not `nomem`: a message may start a CPU that reads what was written before.
    unsafe { asm!("wrmsr", in("ecx") number, in("eax") low, in("edx") high, options(nostack, preserves_flags)) };
}

impl Register {
    fn read(self) -> u32 {
        if IS_X2.load(Ordering::Relaxed) {
            return read_msr(0x800 + self.0 / 16) as u32;
        }
        let addr = BASE.load(Ordering::Relaxed) + u64::from(self.0);
        // SAFETY: `init` found the controller at `BASE`, below 4 GiB, where everything is mapped and device memory is
        // uncached; the register is an aligned word there.
        unsafe { core::ptr::read_volatile(addr as *const u32) }
    }

    fn write(self, value: u32) {
        if IS_X2.load(Ordering::Relaxed) {
            return write_msr(0x800 + self.0 / 16, u64::from(value));
        }
        let addr = BASE.load(Ordering::Relaxed) + u64::from(self.0);
        // SAFETY: as for reading; no register changes memory.
        unsafe { core::ptr::write_volatile(addr as *mut u32, value) };
    }
}

/// Whether the controller was found. Nothing else here may be called before [`init`] on the first CPU.
pub fn is_there() -> bool {
    IS_X2.load(Ordering::Relaxed) || BASE.load(Ordering::Relaxed) != 0
}

/// How registers are reached.
pub fn mode_name() -> &'static str {
    if IS_X2.load(Ordering::Relaxed) {
        "x2APIC"
    } else {
        "xAPIC"
    }
}

/// Turns the controller of this CPU on, with all its sources off. The first CPU also silences the older controller and
/// measures the timer.
///
/// Returns whether the timer runs.
pub fn init(is_first: bool) -> bool {
    let base = read_msr(BASE_REGISTER);
    if is_first {
        port::PIC_FIRST_MASK.write(0xFF);
        port::PIC_SECOND_MASK.write(0xFF);
        IS_X2.store(cpu::has_x2apic() || base & BASE_X2 != 0, Ordering::Relaxed);
        BASE.store(base & 0xFFFF_F000, Ordering::Relaxed);
    }
    // Into x2APIC mode only by way of the other one.
    write_msr(BASE_REGISTER, base | BASE_ENABLED);
    if IS_X2.load(Ordering::Relaxed) {
        write_msr(BASE_REGISTER, base | BASE_ENABLED | BASE_X2);
    }
    LOCAL_TIMER.write(MASKED);
    LOCAL_PIN_0.write(MASKED);
    LOCAL_PIN_1.write(MASKED);
    SPURIOUS.write(SOFTWARE_ENABLED | u32::from(SPURIOUS_VECTOR));
    if is_first {
        TIMER_PERIOD.store(measure_timer(), Ordering::Relaxed);
    }
    timer_runs()
}

/// Whether the timer was found to run.
pub fn timer_runs() -> bool {
    TIMER_PERIOD.load(Ordering::Relaxed) > 0
}

/// What the timer counts in one of its periods; 0 if it does not run.
fn measure_timer() -> u32 {
    TIMER_DIVIDER.write(BY_16);
    TIMER_START.write(u32::MAX);
    let begin_us = time::micros();
    time::wait_us(MEASURED_US);
    let (counted, passed_us) = (u32::MAX - TIMER_NOW.read(), (time::micros() - begin_us).max(1));
    TIMER_START.write(0);
    let period = u64::from(counted) * 1_000_000 / passed_us / u64::from(TIMER_HZ);
    u32::try_from(period).unwrap_or(u32::MAX)
}

/// Starts the timer of this CPU: [`TIMER_VECTOR`], [`TIMER_HZ`] times a second.
pub fn start_timer() {
    TIMER_DIVIDER.write(BY_16);
    LOCAL_TIMER.write(PERIODIC | u32::from(TIMER_VECTOR));
    TIMER_START.write(TIMER_PERIOD.load(Ordering::Relaxed));
}

/// The interrupt that is being handled is done with.
pub fn end_of_interrupt() {
    END_OF_INTERRUPT.write(0);
}

/// The number by which this CPU is addressed.
pub fn id() -> u32 {
    if IS_X2.load(Ordering::Relaxed) {
        ID.read()
    } else {
        ID.read() >> 24
    }
}

fn send(apic_id: u32, message: u32) {
    if IS_X2.load(Ordering::Relaxed) {
        return write_msr(0x800 + COMMAND.0 / 16, u64::from(apic_id) << 32 | u64::from(message));
    }
    COMMAND_HIGH.write(apic_id << 24);
    COMMAND.write(message);
    for _ in 0..MAX_TURNS {
        if COMMAND.read() & PENDING == 0 {
            return;
        }
        core::hint::spin_loop();
    }
}

/// Resets another CPU, which then waits for [`send_startup`].
pub fn send_init(apic_id: u32) {
    send(apic_id, INIT | ASSERT);
}

/// Has a CPU that was reset run the code in this page of the first megabyte, in real mode. Anything else ignores it.
pub fn send_startup(apic_id: u32, page: u8) {
    send(apic_id, STARTUP | ASSERT | u32::from(page));
}

/// Interrupts all other CPUs, whatever they do; see `traps.rs` for what they do then.
pub fn interrupt_others() {
    send(0, NMI | ASSERT | ALL_OTHERS);
}
