//! The raw side over io_uring: one thread that keeps so many requests under way.
//!
//! This and `c` are the only files of the crate with `unsafe`.

use crate::raw::fill;
use anyhow::{ensure, Result};
use io_uring::{opcode, types, IoUring};
use std::fs::File;
use std::os::fd::AsRawFd;

/// Start of every buffer.
const ALIGN: usize = 4096;

/// What is transferred, and where its bytes are.
struct Buffers {
    bytes: Vec<u8>,
    start: usize,
    len_each: usize,
}

impl Buffers {
    fn new(count: usize, len_each: usize) -> Self {
        let bytes = vec![0x5a_u8; count * len_each + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { bytes, start, len_each }
    }

    /// A buffer that the kernel does not have.
    fn get_mut(&mut self, index: usize) -> &mut [u8] {
        let start = self.start + index * self.len_each;
        &mut self.bytes[start..start + self.len_each]
    }

    /// Start of one buffer; the whole of it is inside `bytes`.
    fn at(&mut self, index: usize) -> *mut u8 {
        self.bytes.as_mut_ptr().wrapping_add(self.start + index * self.len_each)
    }
}

/// What is to be done with the buffers.
#[derive(Clone, Copy, Debug)]
pub enum Transfer<'a> {
    /// Fill them from the file.
    Read,
    /// Write them, with this content in each block if there is one.
    Write(Option<&'a [u8]>),
}

/// Reads or writes the requests at these addresses, `depth` of them at once.
///
/// # Errors
/// Those of the system, and a transfer that comes back short.
pub fn transfer(
    file: &File,
    addrs: impl Iterator<Item = u64>,
    len_each: usize,
    depth: usize,
    what: Transfer<'_>,
) -> Result<()> {
    let mut buffers = Buffers::new(depth, len_each);
    // Declared behind the buffers, so dropped before them; and nothing is under way when this function returns well.
    let mut ring = IoUring::new(depth.next_power_of_two() as u32)?;
    let fd = types::Fd(file.as_raw_fd());
    let mut free: Vec<usize> = (0..depth).collect();
    let mut addrs = addrs.fuse();
    let mut failed = None;
    loop {
        while failed.is_none() {
            let Some(index) = free.pop() else { break };
            let Some(addr) = addrs.next() else {
                free.push(index);
                break;
            };
            if let Transfer::Write(content) = what {
                fill(buffers.get_mut(index), content);
            }
            let (start, len) = (buffers.at(index), len_each as u32);
            let entry = match what {
                Transfer::Write(_) => opcode::Write::new(fd, start, len).offset(addr).build(),
                Transfer::Read => opcode::Read::new(fd, start, len).offset(addr).build(),
            };
            let entry = entry.user_data(index as u64);
            let mut queue = ring.submission();
            // SAFETY: the buffer is inside `buffers`, which outlives every transfer: this function waits for all of
            // them, and no other entry has the buffer while its number is not in `free`.
            if unsafe { queue.push(&entry) }.is_err() {
                failed = Some(-1);
            }
        }
        if free.len() == depth {
            break;
        }
        ring.submit_and_wait(1)?;
        for entry in ring.completion() {
            free.push(entry.user_data() as usize);
            if entry.result() != len_each as i32 {
                failed = Some(entry.result());
            }
        }
    }
    ensure!(failed.is_none(), "a raw transfer has failed: {failed:?}");
    Ok(())
}
