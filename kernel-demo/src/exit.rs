#![forbid(unsafe_code)]
//! Ending the run: the outcome becomes QEMU's exit status.

use core::fmt;

use crate::outcome::Outcome;
use crate::{cpu, port, println, serial};

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
