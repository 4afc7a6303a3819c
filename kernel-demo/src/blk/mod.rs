//! Virtio disks: asynchronous, scatter-gather, flushes included, polled; over PCI or memory-mapped registers.
//!
//! Written on the queue and transports of `virtio-drivers` rather than on its block driver, because that one waits
//! inside a flush, answers a flush with success on a device that has none, and takes one buffer per request.
//!
//! To use it in another kernel, copy this directory and write `env.rs` anew: it names the three things that the driver
//! wants, which are a `virtio_drivers::Hal`, a clock and a line on the console. Besides that it takes a global
//! allocator (while disks are opened, not later) and the crates `virtio-drivers` and `spin`. Who finds the devices is
//! not its business: it is given a transport and a name for each ([`FoundDisk`]). `device.rs`, beside this directory,
//! is the adapter to the store.
//!
//! * [`Disk::submit`] hands a request and the owner of its buffers to the driver and never waits. Only a full queue
//!   gives them back; whatever else is wrong with a request comes out of [`Disk::poll`] as its result.
//! * [`Disk::poll`] returns owners, in the order in which the device finishes them, each with a result.
//! * A flush is a request like any other. It makes durable what had been returned by `poll` before it was submitted.
//! * A request that takes longer than the limit (see [`Disk::set_timeout_us`]) fails all that are in flight: the device
//!   is reset, so that it lets go of their buffers, and is unusable from then on.
//!
//! Any CPU may call any of these at any time. One spin lock per disk is held for the length of one call. Lock order:
//! disk, then console (only to report that a device is given up). [`Owner::segments`] runs before the lock is taken.
//!
//! | file          | what                                                        |
//! |---------------|-------------------------------------------------------------|
//! | `mod.rs`      | the public face: what a request may be                      |
//! | `owner.rs`    | who owns the memory that a device reads and writes          |
//! | `negotiate.rs`| features, size, sectors, cache                              |
//! | `queue.rs`    | requests in flight, deadlines, reset                        |
//! | `ring.rs`     | the ring, as large as the device offers it                  |
//! | `buffers.rs`  | the buffers of a request, as the ring takes them            |
//! | `env.rs`      | what is needed of the kernel                                |
//!
//! The depth follows the device: a ring of `n` entries, up to 1024, takes `n / 3` requests of one buffer each, up to
//! 256, and fewer that have more buffers.

#[allow(unsafe_code)]
mod buffers;
mod env;
mod negotiate;
#[allow(unsafe_code)]
mod owner;
#[allow(unsafe_code)]
mod queue;
#[allow(unsafe_code)]
mod ring;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::mem::ManuallyDrop;

use spin::Mutex;
use virtio_drivers::transport::pci::bus::DeviceFunction;
use virtio_drivers::transport::SomeTransport;

pub use owner::{Owner, Piece, Pieces, Prefix, Segments};
pub use queue::DiskError;

use env::println;
use queue::{Kind, Nobody, Queue};

/// Bytes of the unit in which virtio counts disk addresses, whatever the disk's own sector.
pub const SECTOR_BYTES: u64 = 512;

/// What a request asks for. Addresses count 512-byte sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Fill the owner's buffers, from this sector on.
    Read(u64),
    /// Write the owner's buffers, from this sector on.
    Write(u64),
    /// Make durable every write that has been returned as complete. The owner has no buffers.
    Flush,
}

/// Where a device was found, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On a PCI bus.
    Pci(DeviceFunction),
    /// At this physical address.
    Mmio(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(place) => place.fmt(f),
            Self::Mmio(addr) => write!(f, "{addr:#x}"),
        }
    }
}

/// A virtio block device that was found and is not set up yet.
pub struct FoundDisk {
    /// Where.
    pub place: Place,
    /// The way to its registers.
    pub transport: SomeTransport<'static>,
}

/// What a disk is like. Constant from [`Disk::open`] on.
#[derive(Clone, Debug)]
pub struct DiskInfo {
    /// Where it is.
    pub place: Place,
    /// Size in 512-byte sectors.
    pub sectors: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether the device takes flushes. If not, a flush ends with [`DiskError::Unsupported`].
    pub flush: bool,
    /// Whether completed writes may be lost in a power failure before a flush. Assumed, unless the device says that it
    /// writes through.
    pub volatile_cache: bool,
    /// Unit of addressing in bytes: requests are multiples of it.
    pub logical_sector_bytes: u32,
    /// Unit of atomic writing in bytes.
    pub physical_sector_bytes: u32,
    /// First byte that is aligned to a physical sector.
    pub alignment_offset_bytes: u32,
    /// Largest number of requests that are pending at once; fewer if they have many buffers.
    pub max_requests: usize,
    /// Largest number of buffers in one request.
    pub max_segments: usize,
    /// Largest buffer in bytes.
    pub max_segment_bytes: u32,
    /// The serial number, padded with zeroes.
    pub serial_bytes: [u8; 20],
}

impl DiskInfo {
    /// The serial number, empty if the device has none or it is no text.
    pub fn serial(&self) -> &str {
        let text = self.serial_bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        core::str::from_utf8(text).unwrap_or_default()
    }
}

/// A disk whose requests are owned by values of type `O`.
pub struct Disk<O: Owner> {
    info: DiskInfo,
    queue: Mutex<Queue<O>>,
}

/// A device that is set up and works, but has no owner type yet: what it says of itself decides who uses it.
pub struct ReadyDisk {
    info: DiskInfo,
    /// Never dropped: that would free memory that the device still uses.
    queue: ManuallyDrop<Queue<Nobody>>,
}

impl ReadyDisk {
    /// Sets a found device up. Needs the heap and the DMA pool, which are not used once there is a [`Disk`].
    ///
    /// # Errors
    /// A reason why the device cannot be used, for the console.
    pub fn open(found: FoundDisk) -> Result<Self, &'static str> {
        let FoundDisk { place, mut transport } = found;
        let mut info = negotiate::negotiate(&mut transport, place)?;
        let mut queue = ManuallyDrop::new(Queue::new(place, transport)?);
        info.max_requests = queue.max_requests();
        info.max_segments = info.max_segments.min(queue.max_segments());
        info.serial_bytes = queue.read_serial().unwrap_or_default();
        Ok(Self { info, queue })
    }

    /// What the disk is like.
    pub fn info(&self) -> &DiskInfo {
        &self.info
    }

    /// Lets go of the device, for another driver to set up anew.
    ///
    /// # Errors
    /// The device does not reset; it keeps what it has for ever.
    pub fn release(self) -> Result<FoundDisk, &'static str> {
        let transport = ManuallyDrop::into_inner(self.queue).into_transport()?;
        Ok(FoundDisk { place: self.info.place, transport })
    }

    /// The disk for requests that are owned by values of type `O`. It lives for ever.
    pub fn claim<O: Owner>(self) -> &'static Disk<O> {
        let queue = ManuallyDrop::into_inner(self.queue).for_owners();
        Box::leak(Box::new(Disk { info: self.info, queue: Mutex::new(queue) }))
    }
}

impl<O: Owner> Disk<O> {
    /// What the disk is like.
    pub fn info(&self) -> &DiskInfo {
        &self.info
    }

    /// Starts a request. Never waits.
    ///
    /// # Errors
    /// The owner comes back if the queue is full; [`Disk::poll`] makes room.
    pub fn submit(&self, op: Op, mut owner: O) -> Result<(), O> {
        let mut segments = Segments::new();
        owner.segments(&mut segments);
        let checked = self.check(op, &segments);
        let mut queue = self.queue.lock();
        match checked {
            Ok((kind, sector)) => queue.start(kind, sector, &segments, owner),
            Err(error) => queue.refuse(owner, error),
        }
    }

    /// Returns the owner of a request that ended, and how. Never waits.
    pub fn poll(&self) -> Option<(O, Result<(), DiskError>)> {
        self.queue.lock().poll()
    }

    /// Requests that were submitted and not yet returned by [`Disk::poll`].
    pub fn pending(&self) -> usize {
        self.queue.lock().pending()
    }

    /// Runs one request and waits for its end. For setting up only: while nothing else is pending, as completions of
    /// other requests would have nowhere to go.
    ///
    /// # Panics
    /// If another request is pending.
    pub fn run(&self, op: Op, owner: O) -> (O, Result<(), DiskError>) {
        assert_eq!(self.pending(), 0, "a blocking request while others are pending");
        if let Err(owner) = self.submit(op, owner) {
            return (owner, Err(DiskError::Gone));
        }
        loop {
            if let Some(ended) = self.poll() {
                return ended;
            }
            core::hint::spin_loop();
        }
    }

    /// Sets how long a request may take before the device is given up, 30 seconds to begin with.
    pub fn set_timeout_us(&self, timeout_us: u64) {
        self.queue.lock().set_timeout_us(timeout_us);
    }

    /// What the device must be asked for, or why it need not be asked.
    fn check(&self, op: Op, segments: &Segments) -> Result<(Kind, u64), DiskError> {
        let info = &self.info;
        let (kind, sector) = match op {
            Op::Read(_) if !segments.is_writable() => return Err(DiskError::Invalid),
            Op::Read(sector) => (Kind::Read, sector),
            Op::Write(_) if info.read_only => return Err(DiskError::Unsupported),
            Op::Write(sector) => (Kind::Write, sector),
            Op::Flush if !info.flush => return Err(DiskError::Unsupported),
            Op::Flush if segments.is_empty() => return Ok((Kind::Flush, 0)),
            Op::Flush => return Err(DiskError::Invalid),
        };
        let len_bytes = segments.checked_len_bytes(info.max_segments, info.max_segment_bytes)?;
        let start = sector.checked_mul(SECTOR_BYTES).ok_or(DiskError::Invalid)?;
        let end = start.checked_add(len_bytes).ok_or(DiskError::Invalid)?;
        let aligned = [start, len_bytes].iter().all(|bytes| bytes % u64::from(info.logical_sector_bytes) == 0);
        if !aligned || len_bytes == 0 || end / SECTOR_BYTES > info.sectors {
            return Err(DiskError::Invalid);
        }
        Ok((kind, sector))
    }
}

/// Sets up all disks that were found. What cannot be used is reported on the console and left out.
pub fn open_all(found: impl IntoIterator<Item = FoundDisk>) -> Vec<ReadyDisk> {
    let mut disks = Vec::new();
    for found in found {
        let place = found.place;
        match ReadyDisk::open(found) {
            Ok(disk) => disks.push(disk),
            Err(reason) => println!("disk {place}: not usable: {reason}"),
        }
    }
    disks
}
