#![forbid(unsafe_code)]
//! Ending the run: the outcome becomes QEMU's exit status.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::outcome::Outcome;
use crate::{apic, cpu, port, println, serial, stacks};

/// The CPU that ends the run, plus one; 0 while it goes on.
static ENDING: AtomicUsize = AtomicUsize::new(0);

/// Makes this CPU the one that ends the run, and stops the others. `false` if it is that already, and something has gone
/// wrong again. If another one is, this does not return.
pub fn seize() -> bool {
    cpu::interrupts_off();
    let me = stacks::current_cpu() + 1;
    match ENDING.compare_exchange(0, me, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            if apic::is_there() {
                apic::interrupt_others();
            }
            true
        }
        Err(other) if other == me => false,
        Err(_) => cpu::halt_forever(),
    }
}

/// Whether some CPU is ending the run.
pub fn is_ending() -> bool {
    ENDING.load(Ordering::Acquire) != 0
}

/// Ends the run. Prints the outcome as the last line, in a form that the host can look for.
pub fn exit(outcome: Outcome) -> ! {
    println!("kernel-demo: outcome {} ({})", outcome.code(), outcome.name());
    power_off(outcome)
}

/// Ends the run with a reason.
pub fn fail(outcome: Outcome, reason: fmt::Arguments<'_>) -> ! {
    println!("kernel-demo: error: {reason}");
    exit(outcome)
}

/// Ends the run from a panic or a trap, where locks may be held by nobody.
pub fn exit_emergency(outcome: Outcome) -> ! {
    serial::print_emergency(format_args!("kernel-demo: outcome {} ({})\n", outcome.code(), outcome.name()));
    power_off(outcome)
}

/// Ends the run without a word.
pub fn power_off(outcome: Outcome) -> ! {
    port::DEBUG_EXIT.write(u32::from(outcome.code()));
    serial::print_emergency(format_args!("kernel-demo: no isa-debug-exit device at port 0xf4, halted\n"));
    cpu::halt_forever()
}
