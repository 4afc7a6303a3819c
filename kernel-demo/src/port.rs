//! Port I/O: every port that the kernel touches is named here, and nothing else can be reached.
//!
//! A port can only be had as one of the constants below, so reading and writing it is safe: none of these devices can
//! be made to change memory behind the compiler's back, with one exception that the rest of the world treats as safe
//! too. The PCI configuration ports can move a device's window or let it do DMA; `pci.rs`, their only user, is written
//! with that in mind.

use core::arch::asm;

/// A port of one byte.
#[derive(Clone, Copy)]
pub struct Port8(u16);

/// A port of four bytes.
#[derive(Clone, Copy)]
pub struct Port32(u16);

/// Base of the first serial port, a 16550.
const COM1: u16 = 0x3F8;
/// Serial port: data, or the low half of the divisor.
pub const SERIAL_DATA: Port8 = Port8(COM1);
/// Serial port: interrupt enable, or the high half of the divisor.
pub const SERIAL_INTERRUPTS: Port8 = Port8(COM1 + 1);
/// Serial port: FIFO control.
pub const SERIAL_FIFO: Port8 = Port8(COM1 + 2);
/// Serial port: line format and the divisor latch.
pub const SERIAL_LINE: Port8 = Port8(COM1 + 3);
/// Serial port: modem lines.
pub const SERIAL_MODEM: Port8 = Port8(COM1 + 4);
/// Serial port: line status.
pub const SERIAL_STATUS: Port8 = Port8(COM1 + 5);
/// Interval timer: counter of channel 0.
pub const TIMER_COUNTER: Port8 = Port8(0x40);
/// Interval timer: mode and latch commands.
pub const TIMER_COMMAND: Port8 = Port8(0x43);
/// Interrupt controller of the PC/AT: the mask of its first half.
pub const PIC_FIRST_MASK: Port8 = Port8(0x21);
/// Interrupt controller of the PC/AT: the mask of its second half.
pub const PIC_SECOND_MASK: Port8 = Port8(0xA1);
/// PCI: address of the configuration word.
pub const PCI_ADDRESS: Port32 = Port32(0xCF8);
/// PCI: the configuration word.
pub const PCI_DATA: Port32 = Port32(0xCFC);
/// QEMU's isa-debug-exit device.
pub const DEBUG_EXIT: Port32 = Port32(0xF4);

impl Port8 {
    /// Reads the port.
    #[inline]
    pub fn read(self) -> u8 {
        let value: u8;
        // SAFETY: the port is one of the constants of this module, whose reads do not touch memory.
        unsafe { asm!("in al, dx", in("dx") self.0, out("al") value, options(nomem, nostack, preserves_flags)) };
        value
    }

    /// Writes the port.
    #[inline]
    pub fn write(self, value: u8) {
        // SAFETY: the port is one of the constants of this module, whose writes do not touch memory.
        unsafe { asm!("out dx, al", in("dx") self.0, in("al") value, options(nomem, nostack, preserves_flags)) };
    }
}

impl Port32 {
    /// Reads the port.
    #[inline]
    pub fn read(self) -> u32 {
        let value: u32;
        // SAFETY: the port is one of the constants of this module, whose reads do not touch memory.
        unsafe { asm!("in eax, dx", in("dx") self.0, out("eax") value, options(nomem, nostack, preserves_flags)) };
        value
    }

    /// Writes the port.
    #[inline]
    pub fn write(self, value: u32) {
        // SAFETY: the port is one of the constants of this module. Not `nomem`: a PCI command may start DMA, so
        // memory must be up to date.
        unsafe { asm!("out dx, eax", in("dx") self.0, in("eax") value, options(nostack, preserves_flags)) };
    }
}
