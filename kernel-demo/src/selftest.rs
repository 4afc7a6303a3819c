#![forbid(unsafe_code)]
//! The word `selftest`: does the platform do what it says? Overwrites the disk with the serial number `scratch`.
//!
//! Writes a pattern with many requests in flight, flushes, reads it back and compares; then tries requests that must be
//! refused. `lines=N` prints that many lines first. `requests=N` and `bytes=N` change the number and the size of the transfers, `timeout_us=N` the driver's
//! patience.

use alloc::vec::Vec;
use core::fmt;

use crate::blk::{Disk, DiskError, Op, SECTOR_BYTES};
use crate::cmdline::CmdLine;
use crate::outcome::Outcome;
use crate::stacks::PAGE_BYTES;
use crate::traps::{self, Fault};
use crate::{exit, heap, memory, println, time};

/// The kind of disk that the test works on: each request owns one piece of memory that lives for ever.
pub type TestDisk = Disk<&'static mut [u8]>;

const BUFFERS: usize = 48;

fn fail(outcome: Outcome, what: fmt::Arguments<'_>) -> ! {
    exit::fail(outcome, format_args!("selftest: {what}"))
}

fn outcome_of(error: DiskError) -> Outcome {
    match error {
        DiskError::Unsupported => Outcome::NoFlush,
        _ => Outcome::Io,
    }
}

struct Plan {
    requests: usize,
    bytes: usize,
}

impl Plan {
    fn sector(&self, request: usize) -> u64 {
        (request * self.bytes) as u64 / SECTOR_BYTES
    }
}

/// What byte `offset` of the disk holds after the test: the request's number in every 8-byte word, mixed with the place.
fn fill(buffer: &mut [u8], first_byte: u64) {
    for (index, word) in (0u64..).zip(buffer.chunks_exact_mut(8)) {
        word.copy_from_slice(&pattern(first_byte + 8 * index));
    }
}

fn pattern(byte: u64) -> [u8; 8] {
    (byte ^ 0x5EED).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()
}

fn matches(buffer: &[u8], first_byte: u64) -> bool {
    (0u64..).zip(buffer.chunks_exact(8)).all(|(index, word)| word == pattern(first_byte + 8 * index))
}

/// Runs the test on the disk called `scratch`; returns only if all is well.
pub fn run(disks: &[&'static TestDisk], cmdline: &CmdLine) {
    print_test(number(cmdline, "lines", 0));
    heap_test();
    let Some(disk) = disks.iter().find(|disk| disk.info().serial() == "scratch") else {
        fail(Outcome::NoDisk, format_args!("no disk with serial=scratch"));
    };
    let plan = Plan { requests: number(cmdline, "requests", 1024), bytes: number(cmdline, "bytes", 16 << 10) };
    let wanted = plan.requests.checked_mul(plan.bytes).map_or(u64::MAX, |bytes| bytes as u64);
    if plan.bytes == 0 || plan.bytes % PAGE_BYTES != 0 || wanted > disk.info().sectors * SECTOR_BYTES {
        fail(Outcome::BadOption, format_args!("{} requests of {} bytes", plan.requests, plan.bytes));
    }
    if disk.info().read_only {
        fail(Outcome::ReadOnly, format_args!("the scratch disk is read-only"));
    }
    if cmdline.has("timeout_us") {
        disk.set_timeout_us(number(cmdline, "timeout_us", 0) as u64);
    }
    let mut buffers: Vec<&'static mut [u8]> =
        (0..BUFFERS).map_while(|_| memory::take_zeroed(plan.bytes / PAGE_BYTES)).collect();
    if buffers.is_empty() {
        fail(Outcome::Limit, format_args!("no memory for buffers"));
    }
    let depth = buffers.len();
    pass(disk, &plan, &mut buffers, true);
    flush(disk);
    pass(disk, &plan, &mut buffers, false);
    refusals(disk, &mut buffers);
    println!("selftest: {} requests of {} bytes at depth {depth}: all is well", plan.requests, plan.bytes);
}

fn number(cmdline: &CmdLine, key: &str, default: usize) -> usize {
    match cmdline.get_number(key) {
        Ok(value) => value.map_or(default, |value| value as usize),
        Err(text) => fail(Outcome::BadOption, format_args!("{key}={text} is not a number")),
    }
}

/// The option `fault=`: breaks the kernel on purpose, to prove that this ends the run with the right status.
pub fn provoke(name: &str) {
    println!("provoking {name}");
    let fault = match name {
        "pf" => Fault::PageFault,
        "wt" => Fault::WriteText,
        "nx" => Fault::ExecuteData,
        "ud" => Fault::InvalidOpcode,
        "gp" => Fault::GeneralProtection,
        "de" => Fault::Divide,
        "df" => Fault::DoubleFault,
        "nmi" => Fault::Nmi,
        "panic" => panic!("provoked on purpose"),
        "stack" => {
            println!("sum {}", overflow(u64::MAX));
            return;
        }
        "oom" => {
            println!("allocated {}", alloc::vec![1u8; 64 << 20].len());
            return;
        }
        _ => exit::fail(Outcome::BadOption, format_args!("unknown fault: {name}")),
    };
    traps::provoke(fault);
    exit::fail(Outcome::Mismatch, format_args!("{fault:?} went unnoticed"));
}

/// Recursion that the compiler cannot turn into a loop.
fn overflow(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 64]);
    match depth {
        0 => 0,
        _ => overflow(depth - 1).wrapping_add(frame[(depth % 64) as usize]),
    }
}

fn heap_test() {
    let (before, _) = heap::usage();
    let sum: usize =
        (0..100).map(|len| alloc::vec![1u8; len * 64].iter().map(|&byte| usize::from(byte)).sum::<usize>()).sum();
    let (after, free) = heap::usage();
    if sum != 64 * 4950 || before != after {
        fail(Outcome::Mismatch, format_args!("the heap: sum {sum}, {before} bytes before, {after} after"));
    }
    println!("selftest: heap {after} bytes in use, {free} free");
}

fn print_test(lines: usize) {
    let begin = time::micros();
    for line in 0..lines {
        println!("line {line} of {lines}, with some text behind it to make it about as long as a usual one is");
    }
    if lines > 0 {
        println!("selftest: {lines} lines in {} us", time::micros() - begin);
    }
}

/// Writes or reads all requests of the plan, each buffer being used again as soon as it comes back.
fn pass(disk: &TestDisk, plan: &Plan, buffers: &mut Vec<&'static mut [u8]>, write: bool) {
    let total = buffers.len();
    // Requests may end in any order, so each buffer remembers its request: by its address.
    let mut current: Vec<(usize, usize)> = Vec::with_capacity(total);
    let (mut next, mut most, begin) = (0, 0, time::micros());
    while next < plan.requests || buffers.len() < total {
        while next < plan.requests {
            let Some(buffer) = buffers.pop() else { break };
            let first_byte = plan.sector(next) * SECTOR_BYTES;
            if write {
                fill(buffer, first_byte);
            } else {
                buffer.fill(0xEE);
            }
            let addr = buffer.as_ptr() as usize;
            let op = if write { Op::Write(plan.sector(next)) } else { Op::Read(plan.sector(next)) };
            if let Err(buffer) = disk.submit(op, buffer) {
                buffers.push(buffer);
                break;
            }
            current.push((addr, next));
            next += 1;
        }
        most = most.max(disk.pending());
        let Some((buffer, result)) = disk.poll() else { continue };
        if let Err(error) = result {
            fail(outcome_of(error), format_args!("a transfer failed: {error:?}"));
        }
        let addr = buffer.as_ptr() as usize;
        let Some(place) = current.iter().position(|(known, _)| *known == addr) else {
            fail(Outcome::Mismatch, format_args!("a buffer came back that was not submitted"));
        };
        let (_, request) = current.swap_remove(place);
        if !write && !matches(buffer, plan.sector(request) * SECTOR_BYTES) {
            fail(Outcome::Mismatch, format_args!("request {request} read something else than was written"));
        }
        buffers.push(buffer);
    }
    let elapsed_us = (time::micros() - begin).max(1);
    let rate = (plan.requests * plan.bytes) as u64 / elapsed_us;
    let what = if write { "wrote" } else { "read and compared" };
    println!(
        "selftest: {what} {} KiB in {elapsed_us} us, {rate} MB/s, {most} in flight",
        plan.requests * plan.bytes >> 10
    );
}

fn flush(disk: &TestDisk) {
    let begin = time::micros();
    let (_, result) = disk.run(Op::Flush, &mut []);
    if let Err(error) = result {
        fail(outcome_of(error), format_args!("the flush failed: {error:?}"));
    }
    println!("selftest: flushed in {} us", time::micros() - begin);
}

/// Requests that must fail, each without harm to the next.
fn refusals(disk: &TestDisk, buffers: &mut Vec<&'static mut [u8]>) {
    let sectors = disk.info().sectors;
    for op in [Op::Read(sectors), Op::Read(u64::MAX), Op::Write(sectors - 1), Op::Flush] {
        let Some(buffer) = buffers.pop() else { return };
        let (buffer, result) = disk.run(op, buffer);
        if result != Err(DiskError::Invalid) {
            fail(Outcome::Mismatch, format_args!("{op:?} ended with {result:?}"));
        }
        buffers.push(buffer);
    }
    let (_, result) = disk.run(Op::Read(0), &mut []);
    if result != Err(DiskError::Invalid) {
        fail(Outcome::Mismatch, format_args!("an empty read ended with {result:?}"));
    }
}
