#![forbid(unsafe_code)]
//! The words `selftest` and `fault=`: does the platform do what it says?
//!
//! `selftest` overwrites the disk with the serial number `scratch`: it writes a pattern with many requests in flight,
//! flushes, reads it back and compares, then tries requests that must be refused. `requests=N` and `bytes=N` change
//! the number and the size of the transfers, `timeout_us=N` the driver's patience; `lines=N` prints N lines first.
//!
//! `fault=` breaks the kernel on purpose, on the CPU `cpu=`, see [`provoke`].

use alloc::vec::Vec;
use core::fmt;

use crate::blk::{Disk, DiskError, Op, Piece, Pieces, ReadyDisk, SECTOR_BYTES};
use crate::cmdline::CmdLine;
use crate::outcome::Outcome;
use crate::stacks::PAGE_BYTES;
use crate::traps::{self, Fault};
use crate::{crew, exit, heap, memory, println, time};

/// The kind of disk that the test works on.
pub type TestDisk = Disk<Pieces>;

/// Buffers of one request, if the disk takes so many.
const PIECES: usize = 4;

fn fail(outcome: Outcome, what: fmt::Arguments<'_>) -> ! {
    exit::fail(outcome, format_args!("selftest: {what}"))
}

fn outcome_of(error: DiskError) -> Outcome {
    match error {
        DiskError::Unsupported => Outcome::NoFlush,
        _ => Outcome::Io,
    }
}

fn number(cmdline: &CmdLine, key: &str, default: usize) -> usize {
    match cmdline.get_number(key) {
        Ok(value) => value.map_or(default, |value| value as usize),
        Err(text) => fail(Outcome::BadOption, format_args!("{key}={text} is not a number")),
    }
}

/// The option `fault=`: breaks the kernel on the CPU `cpu=`, to prove that this ends the run with the right status.
pub fn provoke(name: &str, cmdline: &CmdLine) {
    let on = number(cmdline, "cpu", 0);
    if !crew::members().any(|cpu| cpu == on) {
        fail(Outcome::BadOption, format_args!("there is no CPU {on}"));
    }
    crew::run(&|cpu| {
        if cpu == on {
            provoke_here(name);
        }
    });
}

fn provoke_here(name: &str) {
    println!("provoking {name}");
    let fault = match name {
        "pf" => Fault::ReadNull,
        "wt" => Fault::WriteText,
        "nx" => Fault::ExecuteData,
        "ud" => Fault::Undefined,
        "gp" => Fault::NonCanonical,
        "de" => Fault::Divide,
        "df" => Fault::Double,
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

/// How much is transferred, and in what portions.
struct Plan {
    requests: usize,
    bytes: usize,
    /// Buffers of one request.
    pieces: usize,
}

impl Plan {
    fn of(cmdline: &CmdLine, disk: &TestDisk) -> Self {
        let pieces = if disk.info().max_segments < PIECES { 1 } else { PIECES };
        let (requests, bytes) = (number(cmdline, "requests", 1024), number(cmdline, "bytes", 16 << 10));
        let plan = Self { requests, bytes, pieces };
        let fits = plan.bytes > 0 && plan.requests as u64 <= disk.info().sectors * SECTOR_BYTES / plan.bytes as u64;
        if !fits || !plan.bytes.is_multiple_of(PIECES * PAGE_BYTES) {
            fail(Outcome::BadOption, format_args!("{} requests of {} bytes", plan.requests, plan.bytes));
        }
        plan
    }

    fn first_byte(&self, request: usize) -> u64 {
        request as u64 * self.bytes as u64
    }

    fn total_bytes(&self) -> u64 {
        self.first_byte(self.requests)
    }

    fn take_pieces(&self) -> Option<Pieces> {
        let piece = |_| memory::take_zeroed(self.bytes / self.pieces / PAGE_BYTES).map(Piece::Exclusive);
        Some(Pieces { tag: 0, list: (0..self.pieces).map(piece).collect::<Option<_>>()? })
    }
}

/// The eight bytes at byte `addr` of the disk after the test.
fn pattern(addr: u64) -> [u8; 8] {
    (addr ^ 0x5EED).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()
}

/// The words of a request, each with its address on the disk.
fn words(pieces: &mut Pieces, first_byte: u64) -> impl Iterator<Item = (u64, &mut [u8])> {
    let exclusive = pieces.list.iter_mut().filter_map(|piece| match piece {
        Piece::Exclusive(buffer) => Some(buffer),
        Piece::Shared(_) => None,
    });
    let words = exclusive.flat_map(|buffer| buffer.chunks_exact_mut(8));
    (first_byte..).step_by(8).zip(words)
}

/// Runs the test on the disk called `scratch`; returns only if all is well.
pub fn run(disks: Vec<ReadyDisk>, cmdline: &CmdLine) {
    print_test(number(cmdline, "lines", 0));
    heap_test();
    let Some(disk) = disks.into_iter().find(|disk| disk.info().serial() == "scratch") else {
        fail(Outcome::NoDisk, format_args!("no disk with serial=scratch"));
    };
    let disk: &'static TestDisk = disk.claim();
    if disk.info().read_only {
        fail(Outcome::ReadOnly, format_args!("the scratch disk is read-only"));
    }
    let plan = Plan::of(cmdline, disk);
    if cmdline.has("timeout_us") {
        disk.set_timeout_us(number(cmdline, "timeout_us", 0) as u64);
    }
    let mut idle: Vec<Pieces> = (0..disk.info().max_requests).map_while(|_| plan.take_pieces()).collect();
    if idle.is_empty() {
        fail(Outcome::Limit, format_args!("no memory for buffers"));
    }
    let depth = idle.len();
    pass(disk, &plan, &mut idle, Pass::Write);
    flush(disk);
    pass(disk, &plan, &mut idle, Pass::Compare);
    pass(disk, &plan, &mut idle, Pass::Read);
    refusals(disk, &mut idle);
    println!("selftest: {} requests of {} bytes with up to {depth} at once: all is well", plan.requests, plan.bytes);
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

fn heap_test() {
    let (before, _) = heap::usage();
    let filled = |len: usize| alloc::vec![1u8; len * 64].iter().map(|&byte| usize::from(byte)).sum::<usize>();
    let sum: usize = (0..100).map(filled).sum();
    let (after, free) = heap::usage();
    if sum != 64 * 4950 || before != after {
        fail(Outcome::Mismatch, format_args!("the heap: sum {sum}, {before} bytes before, {after} after"));
    }
    println!("selftest: heap {after} bytes in use, {free} free");
}

/// What is done with all requests of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// Write the pattern.
    Write,
    /// Read, and compare with the pattern.
    Compare,
    /// Read, to see how fast that is.
    Read,
}

/// Makes one pass, each buffer being used again as soon as it comes back.
fn pass(disk: &TestDisk, plan: &Plan, idle: &mut Vec<Pieces>, pass: Pass) {
    let (depth, begin) = (idle.len(), time::micros());
    let (mut next, mut most) = (0, 0);
    while next < plan.requests || idle.len() < depth {
        while next < plan.requests && submit(disk, plan, idle, pass, next) {
            next += 1;
        }
        most = most.max(disk.pending());
        let Some((mut pieces, result)) = disk.poll() else {
            core::hint::spin_loop();
            continue;
        };
        if let Err(error) = result {
            fail(outcome_of(error), format_args!("a transfer failed: {error:?}"));
        }
        let first_byte = plan.first_byte(pieces.tag);
        if pass == Pass::Compare && !words(&mut pieces, first_byte).all(|(addr, word)| word == pattern(addr)) {
            fail(Outcome::Mismatch, format_args!("request {} read something else than was written", pieces.tag));
        }
        idle.push(pieces);
    }
    let elapsed_us = (time::micros() - begin).max(1);
    let (bytes, rate) = (plan.total_bytes(), plan.total_bytes() / elapsed_us);
    println!("selftest: {pass:?} {} KiB in {elapsed_us} us, {rate} MB/s, {most} in flight", bytes >> 10);
}

/// Submits one request; `false` if no buffer is idle or the queue is full.
fn submit(disk: &TestDisk, plan: &Plan, idle: &mut Vec<Pieces>, pass: Pass, request: usize) -> bool {
    let Some(mut pieces) = idle.pop() else { return false };
    pieces.tag = request;
    let sector = plan.first_byte(request) / SECTOR_BYTES;
    let op = match pass {
        Pass::Write => Op::Write(sector),
        Pass::Compare | Pass::Read => Op::Read(sector),
    };
    if pass != Pass::Read {
        for (addr, word) in words(&mut pieces, plan.first_byte(request)) {
            word.copy_from_slice(&if pass == Pass::Write { pattern(addr) } else { [0xEE; 8] });
        }
    }
    match disk.submit(op, pieces) {
        Ok(()) => true,
        Err(pieces) => {
            idle.push(pieces);
            false
        }
    }
}

fn flush(disk: &TestDisk) {
    let begin = time::micros();
    let (_, result) = disk.run(Op::Flush, Pieces { tag: 0, list: Vec::new() });
    if let Err(error) = result {
        fail(outcome_of(error), format_args!("the flush failed: {error:?}"));
    }
    println!("selftest: flushed in {} us", time::micros() - begin);
}

/// Requests that must fail, each without harm to the next.
fn refusals(disk: &TestDisk, idle: &mut Vec<Pieces>) {
    static CONSTANT: [u8; 512] = [0; 512];
    let sectors = disk.info().sectors;
    let empty = || Pieces { tag: 0, list: Vec::new() };
    let shared = |count| Pieces { tag: 0, list: (0..count).map(|_| Piece::Shared(&CONSTANT)).collect() };
    let exclusive = idle.pop().unwrap_or_else(empty);
    let cases = [
        (Op::Read(sectors), exclusive),
        (Op::Read(0), shared(1)),
        (Op::Write(u64::MAX), shared(1)),
        (Op::Write(sectors - 1), shared(2)),
        (Op::Write(0), shared(40)),
        (Op::Write(0), empty()),
        (Op::Flush, shared(1)),
    ];
    for (op, pieces) in cases {
        let (_, result) = disk.run(op, pieces);
        if result != Err(DiskError::Invalid) {
            fail(Outcome::Mismatch, format_args!("{op:?} ended with {result:?}"));
        }
    }
}
