#![forbid(unsafe_code)]
//! Text out of the first serial port, a 16550 with a 16-byte FIFO, and bytes in.
//!
//! [`print!`](crate::print) and [`println!`](crate::println) take one lock for a whole message, so that lines of
//! several CPUs do not mix. The lock is never taken by anything that already holds another lock of this kernel and
//! nothing else is locked while it is held. Panics and traps use [`print_emergency`], which does not wait for a
//! holder that will never come back.

use core::fmt::{self, Write};

use spin::Mutex;

use crate::port;

const RECEIVED: u8 = 1 << 0;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
const FIFO_BYTES: u8 = 16;
/// Turns that an emergency message waits for the lock.
const EMERGENCY_TURNS: u32 = 1_000_000;

/// The transmitter and how many bytes its FIFO surely still takes: asking once in 16 bytes is what makes it fast.
struct Uart {
    room_bytes: u8,
}

static UART: Mutex<Uart> = Mutex::new(Uart { room_bytes: 0 });

impl Uart {
    fn put(&mut self, byte: u8) {
        if self.room_bytes == 0 {
            while port::SERIAL_STATUS.read() & TRANSMITTER_EMPTY == 0 {
                core::hint::spin_loop();
            }
            self.room_bytes = FIFO_BYTES;
        }
        port::SERIAL_DATA.write(byte);
        self.room_bytes -= 1;
    }
}

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.put(byte));
        Ok(())
    }
}

/// Sets the port to 115200 baud, 8 data bits, FIFOs on, interrupts off.
pub fn init() {
    let _uart = UART.lock();
    port::SERIAL_INTERRUPTS.write(0);
    port::SERIAL_LINE.write(0x80);
    port::SERIAL_DATA.write(1);
    port::SERIAL_INTERRUPTS.write(0);
    port::SERIAL_LINE.write(0x03);
    port::SERIAL_FIFO.write(0x07);
    port::SERIAL_MODEM.write(0x03);
}

/// A byte that has come in, if there is one. Nothing is lost: the other end waits while the FIFO is full. For one CPU.
pub fn read_byte() -> Option<u8> {
    (port::SERIAL_STATUS.read() & RECEIVED != 0).then(|| port::SERIAL_DATA.read())
}

/// Prints a message; the macros call this.
pub fn print(message: fmt::Arguments<'_>) {
    // The transmitter cannot fail; an error could only come from a `Display` of the caller's, and is not worth a panic.
    let _ = UART.lock().write_fmt(message);
}

/// Prints a message even if the lock is held by something that died, then perhaps in the middle of its line.
pub fn print_emergency(message: fmt::Arguments<'_>) {
    for _ in 0..EMERGENCY_TURNS {
        if let Some(mut uart) = UART.try_lock() {
            let _ = uart.write_fmt(message);
            return;
        }
        core::hint::spin_loop();
    }
    let _ = Uart { room_bytes: 0 }.write_fmt(message);
}

/// Prints to the serial port.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::serial::print(format_args!($($arg)*)) };
}

/// Prints a line to the serial port.
#[macro_export]
macro_rules! println {
    () => { $crate::serial::print(format_args!("\n")) };
    ($($arg:tt)*) => { $crate::serial::print(format_args!("{}\n", format_args!($($arg)*))) };
}
