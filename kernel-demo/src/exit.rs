#![forbid(unsafe_code)]
//! Ending the run: the outcome becomes QEMU's exit status.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::outcome::Outcome;
use crate::{apic, cpu, crew, port, println, serial, stacks};

/// The CPU that ends the run, plus one; 0 while it goes on.
static ENDING: AtomicUsize = AtomicUsize::new(0);
/// CPUs that have stopped because another one ends the run.
static STOPPED: AtomicUsize = AtomicUsize::new(0);
/// Turns that the CPU which ends the run waits for the others to stop.
const STOP_TURNS: u32 = 10_000_000;

/// Makes this CPU the one that ends the run, and stops the others. `false` if it is that already, and something has
/// gone wrong again. If another one is, this does not return.
pub fn seize() -> bool {
    cpu::interrupts_off();
    let me = stacks::current_cpu() + 1;
    match ENDING.compare_exchange(0, me, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            if apic::is_there() {
                apic::interrupt_others();
            }
            wait_for_others();
            true
        }
        Err(other) if other == me => false,
        Err(_) => stop(),
    }
}

/// Gives the others time to stop. One that does not is no reason not to say what happened.
fn wait_for_others() {
    let others = crew::size() - 1;
    for _ in 0..STOP_TURNS {
        if STOPPED.load(Ordering::Acquire) >= others {
            return;
        }
        core::hint::spin_loop();
    }
}

/// Stops this CPU, as another one ends the run.
pub fn stop() -> ! {
    STOPPED.fetch_add(1, Ordering::AcqRel);
    cpu::halt_forever()
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
    let (stopped, others) = (STOPPED.load(Ordering::Acquire), crew::size() - 1);
    serial::print_emergency(format_args!("kernel-demo: {stopped} of {others} other CPUs have stopped\n"));
    serial::print_emergency(format_args!("kernel-demo: outcome {} ({})\n", outcome.code(), outcome.name()));
    power_off(outcome)
}

/// Ends the run without a word.
pub fn power_off(outcome: Outcome) -> ! {
    port::DEBUG_EXIT.write(u32::from(outcome.code()));
    serial::print_emergency(format_args!("kernel-demo: no isa-debug-exit device at port 0xf4, halted\n"));
    cpu::halt_forever()
}
