//! All CPUs at one job, and what they do in between.
//!
//! [`run`] has every CPU call the same function, each with its own number, and returns when all of them have. The first
//! CPU takes part like any other; alone, it waits for nobody. Between jobs the others [`serve`]: they look for the next
//! one, and sleep from one tick of their timer to the next.
//!
//! One job at a time, given out by the first CPU. There is no lock to hold while a job runs.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use spin::{Mutex, MutexGuard};

use crate::stacks::MAX_CPUS;
use crate::{interrupts, stacks};

/// What all CPUs call, with the CPU's number.
type Job = dyn Fn(usize) + Sync;

/// The CPUs that take part, one bit each. The first always does.
static MEMBERS: AtomicUsize = AtomicUsize::new(1);
static JOB: Mutex<Option<&'static Job>> = Mutex::new(None);
/// Counts jobs, so that a CPU sees that there is another one.
static JOB_NUMBER: AtomicUsize = AtomicUsize::new(0);
/// CPUs other than the first that have not finished the job.
static UNFINISHED: AtomicUsize = AtomicUsize::new(0);

/// Adds a CPU, which is or will be in [`serve`]. On the first CPU, between jobs.
pub fn admit(cpu: usize) {
    MEMBERS.fetch_or(1 << cpu, Ordering::AcqRel);
}

/// The CPUs that take part, the first one first.
pub fn members() -> impl Iterator<Item = usize> + Clone {
    let members = MEMBERS.load(Ordering::Acquire);
    (0..MAX_CPUS).filter(move |cpu| members & 1 << cpu != 0)
}

/// How many CPUs take part.
pub fn size() -> usize {
    members().count()
}

/// Has all CPUs call `job`, this one included, which must be the first; returns when all have returned.
///
/// # Panics
/// On another CPU, or inside a job.
pub fn run(job: &(dyn Fn(usize) + Sync)) {
    assert_eq!(stacks::current_cpu(), 0, "jobs are given out by the first CPU");
    // SAFETY: only the lifetime changes. The reference is gone from `JOB` before this function returns, and every CPU
    // that took a copy has finished with it by then: each counts `UNFINISHED` down after its last use. A panic on any
    // CPU ends the run, so there is no other way out.
    let lasting = unsafe { core::mem::transmute::<&(dyn Fn(usize) + Sync), &'static Job>(job) };
    let previous = JOB.lock().replace(lasting);
    assert!(previous.is_none(), "a job inside a job");
    UNFINISHED.store(size() - 1, Ordering::Release);
    JOB_NUMBER.fetch_add(1, Ordering::AcqRel);
    lasting(0);
    while UNFINISHED.load(Ordering::Acquire) > 0 {
        interrupts::relax();
    }
    *JOB.lock() = None;
}

/// Has the first CPU do `work` while the others call `help` again and again; `help` says whether it found anything to
/// do.
pub fn assist<R: Send>(help: impl Fn() -> bool + Sync, work: impl FnOnce() -> R + Send) -> R {
    let (work, result, is_done) = (Mutex::new(Some(work)), Mutex::new(None), AtomicBool::new(false));
    run(&|cpu| {
        if cpu != 0 {
            return help_until(&help, || is_done.load(Ordering::Acquire));
        }
        let work = work.lock().take();
        let worked = work.map(|work| work());
        *result.lock() = worked;
        is_done.store(true, Ordering::Release);
    });
    result.into_inner().expect("the first CPU has done the work")
}

/// Calls `help` until `is_done`.
pub fn help_until(help: impl Fn() -> bool, is_done: impl Fn() -> bool) {
    while !is_done() {
        if !help() {
            interrupts::relax();
        }
    }
}

/// Locks what another CPU may hold for long, calling `help` in the meantime.
pub fn lock<'m, T>(mutex: &'m Mutex<T>, help: impl Fn() -> bool) -> MutexGuard<'m, T> {
    loop {
        if let Some(guard) = mutex.try_lock() {
            return guard;
        }
        if !help() {
            interrupts::relax();
        }
    }
}

/// What CPUs other than the first do all their life.
pub fn serve(cpu: usize) -> ! {
    let mut seen = 0;
    loop {
        let number = JOB_NUMBER.load(Ordering::Acquire);
        if number == seen || MEMBERS.load(Ordering::Acquire) & 1 << cpu == 0 {
            interrupts::relax();
            continue;
        }
        seen = number;
        let job = *JOB.lock();
        if let Some(job) = job {
            job(cpu);
            UNFINISHED.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
