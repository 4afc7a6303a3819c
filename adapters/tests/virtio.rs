//! `VirtioDisk` on a device that is made of this process's memory: what it does to the queue, and when it does not
//! answer.
#![cfg(feature = "virtio")]

mod common;

use arenite_adapters::{Disk, FlushDisk, VirtioDisk};
use arenite_core::DeviceError;
use common::{round_trip, LEN_BYTES};
use std::alloc::{alloc_zeroed, dealloc, Layout};
use std::ptr::NonNull;
use std::sync::atomic::{fence, Ordering};
use std::sync::{Arc, Mutex};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PhysAddr, PAGE_SIZE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const READ_ONLY: u64 = 1 << 5;
const SECTOR_LEN: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const TOPOLOGY: u64 = 1 << 10;
const VERSION_1: u64 = 1 << 32;

/// The process as a platform: an address is an address.
struct Process;

fn layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).unwrap()
}

// SAFETY: pages come zeroed and once from the allocator; the device sees the addresses that we see.
unsafe impl Hal for Process {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { alloc_zeroed(layout(pages)) }).unwrap();
        (start.as_ptr() as PhysAddr, start)
    }
    unsafe fn dma_dealloc(_: PhysAddr, start: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: this is what `dma_alloc` gave for so many pages.
        unsafe { dealloc(start.as_ptr(), layout(pages)) };
        0
    }
    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("there are no registers in memory")
    }
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// What the tests see and set.
struct State {
    features: u64,
    /// Notifications that are lost from now on.
    deaf: u32,
    /// Requests that are answered from now on; the others stay in the queue.
    answers: u32,
    /// What each answered request ends as.
    verdict: u8,
    medium: Vec<u8>,
    status: DeviceStatus,
    resets: u32,
    flushes: u32,
    queue: [u64; 3],
    size: u16,
    seen: u16,
}

#[derive(Clone)]
struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn new(features: u64) -> Self {
        let state = State {
            features: features | VERSION_1,
            deaf: 0,
            answers: u32::MAX,
            verdict: 0,
            medium: vec![0; LEN_BYTES],
            status: DeviceStatus::empty(),
            resets: 0,
            flushes: 0,
            queue: [0; 3],
            size: 0,
            seen: 0,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }
}

/// Memory of the driver, as the device reads it.
fn peek<T: Copy>(addr: u64) -> T {
    // SAFETY: the addresses come from the queue of a driver that waits for us in this very thread.
    unsafe { (addr as *const T).read_volatile() }
}

fn poke<T>(addr: u64, value: T) {
    // SAFETY: as for `peek`.
    unsafe { (addr as *mut T).write_volatile(value) }
}

impl State {
    /// Carries out what is in the queue: chains of head, data, and status, one descriptor each.
    fn work(&mut self) {
        let [descriptors, available, used] = self.queue;
        fence(Ordering::SeqCst);
        while self.size > 0 && self.seen != peek::<u16>(available + 2) && self.answers > 0 {
            self.answers -= 1;
            let head: u16 = peek(available + 4 + 2 * u64::from(self.seen % self.size));
            let mut chain = Vec::new();
            let mut next = Some(head);
            while let Some(index) = next {
                let at = descriptors + 16 * u64::from(index);
                chain.push((peek::<u64>(at), peek::<u32>(at + 8) as usize));
                next = (peek::<u16>(at + 12) & 1 != 0).then(|| peek(at + 14));
            }
            let verdict = self.carry_out(&chain);
            poke(chain.last().unwrap().0, verdict);
            let place = used + 4 + 8 * u64::from(self.seen % self.size);
            poke(place, u32::from(head));
            poke(place + 4, 1u32);
            self.seen = self.seen.wrapping_add(1);
            fence(Ordering::SeqCst);
            poke(used + 2, self.seen);
        }
    }

    fn carry_out(&mut self, chain: &[(u64, usize)]) -> u8 {
        let (kind, sector): (u32, u64) = (peek(chain[0].0), peek(chain[0].0 + 8));
        if self.verdict != 0 {
            return self.verdict;
        }
        if kind == 4 {
            self.flushes += 1;
            return 0;
        }
        let (addr, len) = chain[1];
        let Some(bytes) = self.medium.get_mut(sector as usize * 512..).and_then(|rest| rest.get_mut(..len)) else {
            return 1;
        };
        for (at, byte) in (addr..).zip(bytes) {
            if kind == 0 {
                poke(at, *byte);
            } else {
                *byte = peek(at);
            }
        }
        0
    }
}

impl Transport for Fake {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }
    fn read_device_features(&mut self) -> u64 {
        self.0.lock().unwrap().features
    }
    fn write_driver_features(&mut self, _: u64) {}
    fn max_queue_size(&mut self, _: u16) -> u32 {
        16
    }
    fn notify(&mut self, _: u16) {
        self.set(|state| match state.deaf.checked_sub(1) {
            Some(left) => state.deaf = left,
            None => state.work(),
        });
    }
    fn get_status(&self) -> DeviceStatus {
        self.0.lock().unwrap().status
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.set(|state| {
            state.resets += u32::from(status.is_empty());
            if status.is_empty() {
                (state.queue, state.size, state.seen) = ([0; 3], 0, 0);
            }
            state.status = status;
        });
    }
    fn set_guest_page_size(&mut self, _: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, _: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        self.set(|state| (state.queue, state.size) = ([descriptors, driver, device], size as u16));
    }
    fn queue_unset(&mut self, _: u16) {}
    fn queue_used(&mut self, _: u16) -> bool {
        false
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
        let mut config = [0u8; 64];
        config[..8].copy_from_slice(&(LEN_BYTES as u64 / 512).to_le_bytes());
        config[20..24].copy_from_slice(&512u32.to_le_bytes());
        config[24] = 3;
        Ok(T::read_from_prefix(&config[offset..]).ok().unwrap().0)
    }
    fn write_config_space<T: IntoBytes + Immutable>(&mut self, _: usize, _: T) -> virtio_drivers::Result<()> {
        Ok(())
    }
}

fn disk(fake: &Fake) -> VirtioDisk<Process, Fake> {
    VirtioDisk::new(fake.clone()).unwrap()
}

#[test]
fn a_store_lives_on_it() {
    let fake = Fake::new(FLUSH);
    let disk = round_trip(disk(&fake));
    assert!(disk.can_flush());
    drop(disk);
    assert!(fake.0.lock().unwrap().flushes >= 3);
}

#[test]
fn what_the_device_says_of_itself_is_heard() {
    let geometry = disk(&Fake::new(FLUSH)).geometry();
    assert_eq!((geometry.len_bytes, geometry.read_only), (LEN_BYTES as u64, false));
    assert_eq!((geometry.logical_sector_len_bytes, geometry.physical_sector_len_bytes), (512, 512));
    let geometry = disk(&Fake::new(SECTOR_LEN | TOPOLOGY | READ_ONLY)).geometry();
    assert_eq!((geometry.logical_sector_len_bytes, geometry.physical_sector_len_bytes), (512, 4096));
    assert!(geometry.read_only);
}

#[test]
fn a_device_that_does_not_offer_flush_is_not_flushed() {
    let fake = Fake::new(0);
    let mut disk = disk(&fake);
    assert!(!disk.can_flush());
    assert_eq!(disk.flush(), Err(DeviceError::Unsupported));
    assert_eq!(disk.write(0, &[1; 512]), Ok(()));
}

#[test]
fn a_lost_notification_costs_time_and_nothing_else() {
    let fake = Fake::new(FLUSH);
    let mut disk = disk(&fake);
    let mut bytes = [0; 1024];
    fake.set(|state| state.deaf = 1);
    assert_eq!(disk.write(4096, &[7; 1024]), Ok(()));
    fake.set(|state| state.deaf = 3);
    assert_eq!(disk.read(4096, &mut bytes), Ok(()));
    assert_eq!(bytes, [7; 1024]);
}

#[test]
fn a_device_that_does_not_answer_is_reset_and_given_up() {
    let fake = Fake::new(FLUSH);
    let mut disk = disk(&fake).with_patience(1000);
    fake.set(|state| (state.answers, state.resets) = (0, 0));
    let mut bytes = [9; 512];
    assert_eq!(disk.read(0, &mut bytes), Err(DeviceError::Timeout));
    assert!(fake.0.lock().unwrap().resets > 0, "it may still write to the buffer");
    // Even if it comes back to life, it knows of no queue any more.
    fake.set(|state| state.answers = u32::MAX);
    fake.set(State::work);
    assert_eq!(bytes, [9; 512]);
    assert_eq!(disk.read(0, &mut bytes), Err(DeviceError::Gone));
    assert_eq!(disk.write(0, &bytes), Err(DeviceError::Gone));
    assert_eq!(disk.flush(), Err(DeviceError::Gone));
}

#[test]
fn errors_and_odd_transfers_are_told_apart() {
    let fake = Fake::new(FLUSH);
    let mut disk = disk(&fake);
    assert_eq!(disk.read(LEN_BYTES as u64, &mut [0; 512]), Err(DeviceError::Io));
    fake.set(|state| state.verdict = 2);
    assert_eq!(disk.write(0, &[0; 512]), Err(DeviceError::Unsupported));
    assert_eq!(disk.write(1, &[0; 512]), Err(DeviceError::Unsupported));
    assert_eq!(disk.read(0, &mut []), Err(DeviceError::Unsupported));
    assert_eq!(disk.read(0, &mut [0; 100]), Err(DeviceError::Unsupported));
}
