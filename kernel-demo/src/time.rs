#![forbid(unsafe_code)]
//! Time: the time stamp counter, measured once against the interval timer.
//!
//! For rates, deadlines and messages only. Channel 0 of the timer is used because it runs on every machine type,
//! while the gate of channel 2 (port 0x61) is missing on some.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::{cpu, port};

/// Ticks of the interval timer in a second.
const TIMER_HZ: u64 = 1_193_182;
/// Timer ticks that the measurement lasts: 10 ms.
const MEASURED_TICKS: u64 = TIMER_HZ / 100;
/// Reads of the timer after which it is taken for dead.
const MAX_READS: u32 = 1_000_000;
/// The rate assumed when the timer does not run: on the fast side, so that deadlines come late rather than early.
const FALLBACK_HZ: u64 = 4_000_000_000;

static TICKS_PER_SECOND: AtomicU64 = AtomicU64::new(FALLBACK_HZ);
static START: AtomicU64 = AtomicU64::new(0);

fn read_timer() -> u16 {
    port::TIMER_COMMAND.write(0x00);
    let low = port::TIMER_COUNTER.read();
    let high = port::TIMER_COUNTER.read();
    u16::from_le_bytes([low, high])
}

/// Measures the counter's rate, which takes 10 ms. Returns ticks per second, or `None` if the timer does not run and a
/// guess is used.
pub fn init() -> Option<u64> {
    START.store(cpu::time_stamp(), Ordering::Relaxed);
    // Mode 2, counting down from 65536 and around: differences are taken modulo 65536.
    port::TIMER_COMMAND.write(0x34);
    port::TIMER_COUNTER.write(0);
    port::TIMER_COUNTER.write(0);
    let mut last = read_timer();
    let begin = cpu::time_stamp();
    let mut passed = 0;
    for _ in 0..MAX_READS {
        let now = read_timer();
        passed += u64::from(last.wrapping_sub(now));
        last = now;
        if passed >= MEASURED_TICKS {
            let elapsed = cpu::time_stamp() - begin;
            let rate = (elapsed * TIMER_HZ / passed).max(1_000_000);
            TICKS_PER_SECOND.store(rate, Ordering::Relaxed);
            return Some(rate);
        }
    }
    None
}

/// Counter ticks since the kernel started to count.
pub fn ticks() -> u64 {
    cpu::time_stamp().saturating_sub(START.load(Ordering::Relaxed))
}

/// Microseconds since the kernel started to count.
pub fn micros() -> u64 {
    let micros = u128::from(ticks()) * 1_000_000 / u128::from(TICKS_PER_SECOND.load(Ordering::Relaxed));
    u64::try_from(micros).unwrap_or(u64::MAX)
}

/// Waits, busily.
pub fn wait_us(duration_us: u64) {
    let end_us = micros() + duration_us;
    while micros() < end_us {
        core::hint::spin_loop();
    }
}
