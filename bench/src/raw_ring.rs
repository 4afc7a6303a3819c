//! The raw side over io_uring: one thread that keeps so many requests under way.
//!
//! This and `c` are the only files of the crate with `unsafe`.

use crate::raw::{fill, Aligned};
use anyhow::{ensure, Result};
use io_uring::{opcode, types, IoUring};
use std::fs::File;
use std::os::fd::AsRawFd;

/// What is to be done with the buffers.
#[derive(Clone, Copy, Debug)]
pub enum Transfer<'a> {
    /// Fill them from the file, and show each.
    Read(fn(&[u8])),
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
    let mut buffers: Vec<Aligned> = (0..depth).map(|_| Aligned::new(len_each)).collect();
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
            // One that the kernel does not have.
            let buffer = buffers[index].get_mut();
            if let Transfer::Write(content) = what {
                fill(buffer, content);
            }
            let (start, len) = (buffer.as_mut_ptr(), len_each as u32);
            let entry = match what {
                Transfer::Write(_) => opcode::Write::new(fd, start, len).offset(addr).build(),
                Transfer::Read(_) => opcode::Read::new(fd, start, len).offset(addr).build(),
            };
            let entry = entry.user_data(index as u64);
            let mut queue = ring.submission();
            // SAFETY: the buffer is one of `buffers`, which outlives every transfer: this function waits for all of
            // them, or leaves the buffers where they are for ever; and no other entry has the buffer while its number
            // is not in `free`.
            if unsafe { queue.push(&entry) }.is_err() {
                failed = Some(-1);
            }
        }
        if free.len() == depth {
            break;
        }
        if let Err(error) = ring.submit_and_wait(1) {
            // The kernel may still have some of them.
            std::mem::forget(buffers);
            return Err(error.into());
        }
        for entry in ring.completion() {
            let index = entry.user_data() as usize;
            free.push(index);
            if entry.result() != len_each as i32 {
                failed = Some(entry.result());
            }
            if let Transfer::Read(see) = what {
                see(buffers[index].get_mut());
            }
        }
    }
    ensure!(failed.is_none(), "a raw transfer has failed: {failed:?}");
    Ok(())
}
