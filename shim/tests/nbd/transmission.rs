//! Reads, writes and flushes, the errors of requests that cannot be, and the record.

use crate::bench::{serve_with, spell, with_client};
use crate::client::Client;
use arenite_shim::nbd::wire::*;
use arenite_shim::nbd::Backing;
use arenite_shim::rng::Rng;
use arenite_shim::trace::Event;
use arenite_shim::{Disk, ReadAt};
use std::sync::atomic::{AtomicU64, Ordering};

const INVAL: u32 = Errno::Inval as u32;
const NOSPC: u32 = Errno::NoSpc as u32;

#[test]
fn what_was_written_is_read_and_recorded() {
    let (_, events) = with_client(|client| {
        assert_eq!(client.write(1024, &[7; 1024]), 0);
        assert_eq!(client.flush(), 0);
        let read = client.read(512, 2048).unwrap();
        assert_eq!((read[511], read[512], read[1535], read[1536]), (0, 7, 7, 0));
        assert_eq!(client.ask(CMD_TRIM, 1024, 512), 0);
        assert_eq!(client.read(1024, 512).unwrap(), [0; 512]);
        client.end();
    });
    assert_eq!(spell(&events), "w1 c1 f2 F2 w3 c3");
    assert!(matches!(&events[0], Event::Issue { addr: 1024, bytes, .. } if **bytes == [7; 1024]));
    assert!(matches!(&events[4], Event::Issue { addr: 1024, bytes, .. } if **bytes == [0; 512]));
}

#[test]
fn impossible_requests_get_errors_and_the_session_goes_on() {
    const END: u64 = 64 << 10;
    let (counts, events) = with_client(|client| {
        assert_eq!(client.write(END, &[1; 512]), NOSPC);
        assert_eq!(client.write(END - 512, &[1; 1024]), NOSPC);
        assert_eq!(client.write(u64::MAX - 511, &[1; 512]), NOSPC);
        assert_eq!(client.ask(CMD_TRIM, 0, u32::MAX - 511), NOSPC);
        for (offset, len) in [(END, 512), (0, END as u32 + 512), (u64::MAX - 511, 512), (1, 512), (0, 511), (0, 0)] {
            assert_eq!(client.read(offset, len), Err(INVAL), "{offset} {len}");
        }
        assert_eq!(client.read(0, u32::MAX - 511), Err(INVAL));
        assert_eq!(client.write(0, &[]), INVAL);
        assert_eq!(client.write(3, &[1; 512]), INVAL);
        // Too long for any write: the data are read and dropped.
        let long = vec![1; MAX_PAYLOAD_BYTES as usize + 512];
        assert_eq!(client.write(0, &long), INVAL);
        // Commands that were not offered, flags that nobody knows, a flush of a part.
        for command in [5, 6, 7, 0xffff] {
            assert_eq!(client.ask(command, 0, 512), INVAL);
        }
        assert_eq!(client.ask(CMD_FLUSH, 0, 512), INVAL);
        let header = RequestHeader { flags: 1, command: CMD_READ, cookie: 1, offset: 0, len: 512 };
        client.send(&header.encode());
        assert_eq!(client.reply(), (INVAL, 1));
        assert_eq!(client.read(0, 512).unwrap(), [0; 512]);
        // Without the magic number nothing can be relied on any more.
        client.send(&[0; REQUEST_LEN_BYTES]);
        assert!(client.is_closed());
    });
    assert_eq!((counts.writes, counts.errors, events.len()), (0, 20, 0));
}

#[test]
fn clients_that_break_off_hurt_nobody() {
    let disk = Disk::zeroed(64 << 10);
    let (counts, events) = serve_with(
        &disk,
        |_| {},
        |path, _| {
            let mut client = Client::connect(path);
            client.issue(CMD_WRITE, 0, 4096, &[1; 100]);
            drop(client);
            let mut rng = Rng::new(3);
            for _ in 0..40 {
                let mut client = Client::connect(path);
                let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
                bytes.extend((0..rng.below(200)).map(|_| rng.next_u64() as u8 & 7));
                client.send(&bytes);
            }
            let mut client = Client::connect(path);
            assert_eq!(client.write(512, &[2; 512]), 0);
            client.end();
        },
    );
    assert_eq!(counts.sessions, 42);
    assert!(spell(&events).contains('w'));
    let mut bytes = [0; 512];
    disk.read_at(512, &mut bytes).unwrap();
    assert_eq!(bytes, [2; 512]);
}

/// A disk whose first write waits until the client has sent more.
struct Slow {
    disk: Disk,
    wait: AtomicU64,
}

impl ReadAt for Slow {
    fn len_bytes(&self) -> u64 {
        self.disk.len_bytes()
    }

    fn read_at(&self, addr: u64, bytes: &mut [u8]) -> Result<(), arenite_core::DeviceError> {
        self.disk.read_at(addr, bytes)
    }
}

impl Backing for Slow {
    fn write_at(&self, addr: u64, bytes: &[u8]) -> Result<(), arenite_core::DeviceError> {
        std::thread::sleep(std::time::Duration::from_millis(self.wait.swap(0, Ordering::Relaxed)));
        self.disk.write_at(addr, bytes)
    }

    fn sync(&self) -> Result<(), arenite_core::DeviceError> {
        Ok(())
    }
}

#[test]
fn a_flush_sent_before_the_reply_does_not_cover_the_write() {
    let disk = Slow { disk: Disk::zeroed(64 << 10), wait: AtomicU64::new(300) };
    let (_, events) = serve_with(
        &disk,
        |_| {},
        |path, _| {
            let mut client = Client::connect(path);
            let write = client.issue(CMD_WRITE, 0, 512, &[1; 512]);
            // Sent while the write is carried out.
            std::thread::sleep(std::time::Duration::from_millis(100));
            let flush = client.issue(CMD_FLUSH, 0, 0, &[]);
            assert_eq!(client.reply(), (0, write));
            assert_eq!(client.reply(), (0, flush));
            assert_eq!(client.flush(), 0);
            client.end();
        },
    );
    assert_eq!(spell(&events), "w1 f2 c1 F2 f3 F3");
}

#[test]
fn writes_nobody_heard_of_are_settled_when_the_next_client_comes() {
    let disk = Slow { disk: Disk::zeroed(64 << 10), wait: AtomicU64::new(200) };
    let (_, events) = serve_with(
        &disk,
        |_| {},
        |path, _| {
            let mut client = Client::connect(path);
            client.issue(CMD_WRITE, 0, 512, &[1; 512]);
            drop(client);
            let mut client = Client::connect(path);
            assert_eq!(client.read(0, 512).unwrap(), [1; 512]);
            client.end();
        },
    );
    assert_eq!(spell(&events), "w1 c1");
}
