//! Stores on disks that wait.

mod common;

use arenite_adapters::{AssumeWriteThrough, Blocking, Disk, FlushWith};
use arenite_core::{Completion, Device, DeviceError, DeviceGeometry, DeviceOp, Error, FlushTag};
use arenite_shim::boxed_memory;
use common::{check, fill, round_trip, VecDisk};
use std::sync::mpsc::channel;

#[test]
fn a_store_lives_on_a_disk_that_flushes_by_a_function() {
    let disk = round_trip(FlushWith::new(VecDisk::new(), VecDisk::sync));
    assert!(disk.geometry().volatile_cache);
}

#[test]
fn what_is_acknowledged_is_on_the_medium() {
    let mut disk = VecDisk::new();
    {
        let memory = boxed_memory();
        let device = Blocking::new(FlushWith::new(Borrowed(&mut disk), |disk: &mut Borrowed<'_>| disk.0.sync()));
        fill(&memory, &device).unwrap();
    }
    assert!(disk.flushes >= 3);
    // Power fails: only what was flushed remains.
    let VecDisk { cache, medium, .. } = &mut disk;
    cache.copy_from_slice(medium);
    let memory = boxed_memory();
    let device = Blocking::new(AssumeWriteThrough(disk));
    check(&memory, &device).unwrap();
}

struct Borrowed<'a>(&'a mut VecDisk);

impl Disk for Borrowed<'_> {
    fn geometry(&self) -> DeviceGeometry {
        self.0.geometry()
    }

    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.0.read(addr, bytes)
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.0.write(addr, bytes)
    }
}

#[test]
fn a_disk_that_cannot_flush_makes_no_commit() {
    let memory = boxed_memory();
    let device = Blocking::new(FlushWith::new(VecDisk::new(), |_: &mut VecDisk| Err(DeviceError::Unsupported)));
    let error = fill(&memory, &device).unwrap_err();
    assert!(matches!(error, Error::Device { op: DeviceOp::Flush, cause: DeviceError::Unsupported, .. }), "{error:?}");
}

#[test]
fn who_says_that_media_need_no_flush_gets_no_volatile_cache() {
    let disk = round_trip(AssumeWriteThrough(VecDisk::new()));
    assert!(!disk.geometry().volatile_cache);
    assert_eq!(disk.0.flushes, 0);
}

#[test]
fn one_request_is_taken_and_discard_is_not_claimed() {
    let device: Blocking<'_, _> = Blocking::new(AssumeWriteThrough(VecDisk::new()));
    let DeviceGeometry { queue_depth, discard, len_bytes, .. } = device.geometry();
    assert_eq!((queue_depth, discard, len_bytes), (1, false, common::LEN_BYTES as u64));
    assert!(device.poll().is_none());
    assert!(format!("{device:?}").contains("len_bytes"));
}

#[test]
fn a_disk_for_reading_is_not_written() {
    let mut disk = VecDisk::new();
    disk.geometry.read_only = true;
    let memory = boxed_memory();
    let device = Blocking::new(AssumeWriteThrough(disk));
    let error = fill(&memory, &device).unwrap_err();
    assert!(matches!(error, Error::ReadOnly), "{error:?}");
    assert!(device.into_disk().unwrap().0.cache.iter().all(|byte| *byte == 0));
}

/// A disk whose `fail_after`th transfer and all later ones fail.
struct Failing {
    disk: VecDisk,
    left: u32,
}

impl Failing {
    fn count(&mut self) -> Result<(), DeviceError> {
        self.left = self.left.checked_sub(1).ok_or(DeviceError::Io)?;
        Ok(())
    }
}

impl Disk for Failing {
    fn geometry(&self) -> DeviceGeometry {
        self.disk.geometry()
    }

    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.count()?;
        self.disk.read(addr, bytes)
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.count()?;
        self.disk.write(addr, bytes)
    }
}

#[test]
fn errors_of_the_disk_arrive_at_the_caller() {
    let mut ended = false;
    for left in (0..400).step_by(7) {
        let memory = boxed_memory();
        let device = Blocking::new(AssumeWriteThrough(Failing { disk: VecDisk::new(), left }));
        match fill(&memory, &device) {
            Err(Error::Device { cause: DeviceError::Io, .. } | Error::ReadOnly) => {}
            Ok(_) => ended = true,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(ended, "no run was long enough to succeed");
}

/// While one CPU waits for the disk, another may ask for more and poll: nothing of that is lost.
#[test]
fn what_is_asked_for_while_the_disk_works_is_done_afterwards() {
    let (begun, has_begun) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let device = Blocking::new(FlushWith::new(VecDisk::new(), move |_: &mut VecDisk| {
        begun.send(()).unwrap();
        may_go_on.recv().map_err(|_| DeviceError::Gone)
    }));
    let flushed = |tag| move |done| matches!(done, Some(Completion::Flush(ended, Ok(()))) if ended == FlushTag(tag));
    device.flush(FlushTag(1)).unwrap();
    // Judged only when the thread is through, which waits for this one.
    let (meanwhile, refused, first) = std::thread::scope(|scope| {
        let first = scope.spawn(|| device.poll());
        has_begun.recv().unwrap();
        let second = device.flush(FlushTag(2));
        let meanwhile = (second, device.poll());
        let refused = device.flush(FlushTag(3));
        [(), ()].into_iter().for_each(|()| go_on.send(()).unwrap());
        (meanwhile, refused, first.join().unwrap())
    });
    assert!(matches!(meanwhile, (Ok(()), None)), "the disk is in other hands: {meanwhile:?}");
    assert_eq!(refused, Err(FlushTag(3)), "one waits already");
    assert!(flushed(1)(first));
    assert!(flushed(2)(device.poll()));
}
