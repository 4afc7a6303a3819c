//! Processor exceptions: descriptor tables, and one handler that reports and ends the run.
//!
//! No exception is expected, so none is handled: the handler prints what happened and exits with
//! [`Outcome::Exception`]. Five of them (see [`STACK_OF`]) run on stacks of their own, because they come when the stack
//! in use may be the problem, or at any instruction. A fault while a fault is being reported exits at once. The CPU
//! that ends the run stops the others with a non-maskable interrupt.
//!
//! Interrupts come from the timer of each CPU alone; they are handled on a stack of their own, and return.
//!
//! Tables are per CPU where the processor demands it (task state, and the descriptor that points to it); the interrupt
//! table is shared. They consist of atomics, as the processor reads them behind the compiler's back.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::apic::{SPURIOUS_VECTOR, TIMER_VECTOR};
use crate::boot::{CODE_DESCRIPTOR, CODE_SELECTOR, DATA_DESCRIPTOR};
use crate::outcome::Outcome;
use crate::stacks::{self, MAX_CPUS, PAGE_BYTES, TRAP_STACKS};
use crate::{cpu, exit, interrupts, paging, serial};

const DOUBLE_FAULT: usize = 8;
const PAGE_FAULT: usize = 14;
const NON_MASKABLE: usize = 2;
const TIMER: usize = TIMER_VECTOR as usize;
/// Vectors that switch stacks; the position is the number of the trap stack.
const STACK_OF: [usize; TRAP_STACKS] = [DOUBLE_FAULT, PAGE_FAULT, NON_MASKABLE, 13, 18, TIMER];

const TASK_SELECTOR: u16 = 0x18;
const TASK_BYTES: usize = 104;

/// Task state segment: only the stack pointers 1 to 7 at offset 36 and the (absent) port map at 102 matter.
#[repr(C, align(16))]
struct TaskState([AtomicU32; TASK_BYTES / 4]);

/// Null, code, data, and the task state descriptor, which takes two places.
#[repr(C, align(16))]
struct Descriptors([AtomicU64; 5]);

/// An interrupt gate in two halves.
#[repr(C, align(16))]
struct Gate([AtomicU64; 2]);

static TASKS: [TaskState; MAX_CPUS] = [const { TaskState([const { AtomicU32::new(0) }; TASK_BYTES / 4]) }; MAX_CPUS];
static GDTS: [Descriptors; MAX_CPUS] = [const { Descriptors([const { AtomicU64::new(0) }; 5]) }; MAX_CPUS];
static IDT: [Gate; 256] = [const { Gate([const { AtomicU64::new(0) }; 2]) }; 256];

/// What the stubs leave on the stack: registers, the vector, and what the processor pushed.
#[repr(C)]
struct Frame {
    /// r15 to r8, rbp, rdi, rsi, rdx, rcx, rbx, rax.
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

// One stub of 16 bytes per vector: it makes the frame the same for exceptions with and without an error code.
global_asm!(
    r#"
    .section .text.traps, "ax"
    .balign 16
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    // 8, 10 to 14, 17, 21, 29 and 30 come with an error code.
    .if (vector > 30) | (((0x60227D00 >> vector) & 1) == 0)
    pushq $0
    .endif
    pushq $vector
    jmp trap_common
    .set vector, vector + 1
    .endr
    .balign 16
trap_common:
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, %rdi
    movq %rsp, %rbx
    cld
    andq $-16, %rsp
    call {dispatch}
    movq %rbx, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp                      // the vector and the error code
    iretq
    .text
    "#,
    dispatch = sym dispatch,
    options(att_syntax),
);

extern "C" {
    static trap_stubs: u8;
}

/// Loads the tables on CPU `cpu`, which must be the one that calls. CPU 0, which comes first, also fills the shared
/// table.
///
/// # Panics
/// If `cpu` is not below [`MAX_CPUS`].
pub fn init(cpu: usize) {
    if cpu == 0 {
        fill_idt();
    }
    let task = &TASKS[cpu].0;
    for index in 0..TRAP_STACKS {
        let top = stacks::trap(cpu, index).end as u64;
        task[9 + 2 * index].store(top as u32, Ordering::Relaxed);
        task[10 + 2 * index].store((top >> 32) as u32, Ordering::Relaxed);
    }
    task[TASK_BYTES / 4 - 1].store((TASK_BYTES as u32) << 16, Ordering::Relaxed);

    let base = task.as_ptr() as u64;
    let limit = TASK_BYTES as u64 - 1;
    let low = limit | (base & 0xFF_FFFF) << 16 | 0x89 << 40 | (base >> 24 & 0xFF) << 56;
    let descriptors = [0, CODE_DESCRIPTOR, DATA_DESCRIPTOR, low, base >> 32];
    for (place, descriptor) in GDTS[cpu].0.iter().zip(descriptors) {
        place.store(descriptor, Ordering::Release);
    }
    load(cpu);
}

fn fill_idt() {
    let stubs = (&raw const trap_stubs) as u64;
    for (vector, gate) in IDT.iter().enumerate() {
        let handler = stubs + 16 * vector as u64;
        let stack = STACK_OF.iter().position(|&of| of == vector).map_or(0, |index| index as u64 + 1);
        let low = handler & 0xFFFF
            | u64::from(CODE_SELECTOR) << 16
            | stack << 32
            | 0x8E << 40
            | (handler >> 16 & 0xFFFF) << 48;
        gate.0[1].store(handler >> 32, Ordering::Relaxed);
        gate.0[0].store(low, Ordering::Release);
    }
}

/// Operand of LGDT and LIDT.
#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

fn load(cpu: usize) {
    let gdt = TablePointer { limit: size_of::<Descriptors>() as u16 - 1, base: GDTS[cpu].0.as_ptr() as u64 };
    let idt = TablePointer { limit: size_of_val(&IDT) as u16 - 1, base: IDT.as_ptr() as u64 };
    // SAFETY: the table is static and complete, and has the same code and data segments in the same places as the one
    // in force, so no segment register needs to change.
    unsafe { asm!("lgdt [{}]", in(reg) &gdt, options(readonly, nostack, preserves_flags)) };
    // SAFETY: the selector names the task state descriptor that `init` just wrote, which is available, as this CPU
    // loads it once.
    unsafe { asm!("ltr {:x}", in(reg) TASK_SELECTOR, options(nostack, preserves_flags)) };
    // SAFETY: every gate of the static table leads to a stub.
    unsafe { asm!("lidt [{}]", in(reg) &idt, options(readonly, nostack, preserves_flags)) };
}

fn name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid task state segment",
        11 => "segment not present",
        12 => "stack segment fault",
        13 => "general protection fault",
        14 => "page fault",
        16 => "x87 floating point error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating point error",
        20 => "virtualization exception",
        21 => "control protection exception",
        32.. => "unexpected interrupt",
        _ => "reserved exception",
    }
}

/// Sorts interrupts from exceptions. The stubs call this; where it returns to goes on as if nothing had been.
extern "C" fn dispatch(frame: &Frame) {
    const SPURIOUS: usize = SPURIOUS_VECTOR as usize;
    match frame.vector as usize {
        TIMER => interrupts::on_timer(),
        // Nothing was delivered, so there is nothing to acknowledge.
        SPURIOUS => {}
        NON_MASKABLE if exit::is_ending() => exit::stop(),
        _ => report(frame),
    }
}

/// Reports an exception and ends the run.
fn report(frame: &Frame) -> ! {
    if !exit::seize() {
        exit::power_off(Outcome::Exception);
    }
    serial::print_emergency(format_args!(
        "\nkernel-demo: CPU {}: exception {} ({}) at rip {:#x}, error code {:#x}\n",
        stacks::current_cpu(),
        frame.vector,
        name(frame.vector),
        frame.rip,
        frame.error
    ));
    serial::print_emergency(format_args!(
        "  cs {:#x} ss {:#x} rsp {:#x} rflags {:#x}\n",
        frame.cs, frame.ss, frame.rsp, frame.rflags
    ));
    if frame.vector == PAGE_FAULT as u64 {
        report_page_fault(frame.error);
    }
    const NAMES: [&str; 15] =
        ["r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rbp", "rdi", "rsi", "rdx", "rcx", "rbx", "rax"];
    for (name, value) in NAMES.iter().zip(frame.registers).rev() {
        serial::print_emergency(format_args!("  {name} {value:#x}\n"));
    }
    exit::exit_emergency(Outcome::Exception)
}

fn report_page_fault(error: u64) {
    let addr = cpu::fault_address();
    let access = match error {
        _ if error & 16 != 0 => "execute",
        _ if error & 2 != 0 => "write",
        _ => "read",
    };
    let cause = if error & 1 != 0 { "not permitted" } else { "not mapped" };
    serial::print_emergency(format_args!("  cr2 {addr:#x}: {access} {cause}\n"));
    if stacks::guards().any(|guard| (guard..guard + PAGE_BYTES).contains(&(addr as usize))) {
        serial::print_emergency(format_args!("  stack overflow: the address is a guard page\n"));
    }
}

/// Ways to break the kernel on purpose, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Read through a null pointer.
    ReadNull,
    /// Write to the kernel's text.
    WriteText,
    /// Execute data.
    ExecuteData,
    /// Execute an undefined instruction.
    Undefined,
    /// Touch a non-canonical address.
    NonCanonical,
    /// Divide by zero.
    Divide,
    /// Fault with no handler to go to.
    Double,
    /// A non-maskable interrupt.
    Nmi,
}

/// Breaks the kernel. If the processor lets it pass, this returns, which is a failure in itself.
pub fn provoke(fault: Fault) {
    match fault {
        Fault::ReadNull => touch(8),
        Fault::NonCanonical => touch(0xDEAD_0000_0000_0000),
        Fault::WriteText => {
            let addr = paging::image::text().start;
            // SAFETY: none, by intention: the write must fault, and the run ends there.
            unsafe { asm!("mov byte ptr [{}], 0x90", in(reg) addr) };
        }
        Fault::ExecuteData => {
            static CODE: AtomicU16 = AtomicU16::new(0xC3);
            // SAFETY: none, by intention: the jump must fault, and the run ends there. If it did not, the callee is
            // one RET instruction.
            unsafe { asm!("call {}", in(reg) CODE.as_ptr(), clobber_abi("C")) };
        }
        // SAFETY: the instruction faults and the handler never returns.
        Fault::Undefined => unsafe { asm!("ud2") },
        // SAFETY: the instruction faults and the handler never returns.
        Fault::Divide => unsafe {
            asm!("xor edx, edx", "xor ecx, ecx", "div ecx", out("eax") _, out("ecx") _, out("edx") _)
        },
        Fault::Double => {
            // Without their gates, delivering the page fault faults again, twice over.
            IDT[PAGE_FAULT].0[0].store(0, Ordering::Release);
            touch(8);
        }
        // SAFETY: vector 2 pushes no error code, like the real event, and the handler never returns.
        Fault::Nmi => unsafe { asm!("int 2") },
    }
}

fn touch(addr: u64) {
    // SAFETY: none, by intention: the read must fault, and the run ends there.
    unsafe { asm!("mov {tmp}, [{addr}]", addr = in(reg) addr, tmp = out(reg) _, options(nostack, readonly)) };
}
