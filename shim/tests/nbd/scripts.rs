//! What a script makes a server do, to the client and in the record.

use crate::bench::{serve_with, spell};
use crate::client::Client;
use arenite_shim::nbd::wire::*;
use arenite_shim::nbd::{Counts, Script};
use arenite_shim::trace::Event;
use arenite_shim::Disk;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const IO: u32 = Errno::Io as u32;

fn with_script(script: &str, body: impl FnOnce(&mut Client, &Path)) -> (Counts, Vec<Event>) {
    let script = Script::parse(script).unwrap();
    let disk = Disk::zeroed(64 << 10);
    serve_with(&disk, |export| export.follow(&script), |path, _| body(&mut Client::connect(path), path))
}

#[test]
fn failures_are_told_and_nothing_is_done() {
    let script =
        "write nth 2 fail eio\nwrite from 3 at 4K..8K fail enospc\nflush nth 1 fail eio\nread at 0..512 fail eio";
    let (counts, events) = with_script(script, |client, _| {
        assert_eq!(client.write(512, &[1; 512]), 0);
        assert_eq!(client.write(512, &[2; 512]), IO);
        assert_eq!(client.read(512, 512).unwrap(), [1; 512]);
        assert_eq!(client.read(0, 1024), Err(IO));
        assert_eq!((client.flush(), client.flush()), (IO, 0));
        let errors: Vec<u32> = (0..4).map(|_| client.write(4096, &[3; 512])).collect();
        assert_eq!(errors, [0, 0, Errno::NoSpc as u32, Errno::NoSpc as u32]);
        client.end();
    });
    assert_eq!(spell(&events), "w1 c1 w2 c2! f3 F3! f4 F4 w5 c5 w6 c6 w7 c7! w8 c8!");
    assert_eq!((counts.scripted, counts.errors), (5, 5));
}

#[test]
fn lost_and_torn_writes_are_recorded_as_what_they_left() {
    let script = "write nth 2 lose\nwrite nth 3 tear 1\nwrite nth 4 tear 3 fail\nflush lose";
    let (_, events) = with_script(script, |client, _| {
        assert_eq!(client.write(0, &[1; 2048]), 0);
        assert_eq!(client.write(0, &[2; 2048]), 0);
        assert_eq!(client.read(0, 2048).unwrap(), [1; 2048]);
        assert_eq!(client.write(0, &[3; 2048]), 0);
        let read = client.read(0, 2048).unwrap();
        assert_eq!((read[511], read[512]), (3, 1));
        assert_eq!(client.write(0, &[4; 2048]), IO);
        let read = client.read(0, 2048).unwrap();
        assert_eq!((read[1535], read[1536]), (4, 1));
        assert_eq!(client.flush(), 0);
        client.end();
    });
    assert_eq!(spell(&events), "w1 c1 w2 c2 w3 c3 w4 c4! f5 F5!");
    let bytes = |at: usize| match &events[at] {
        Event::Issue { bytes, .. } => [bytes[0], bytes[512], bytes[1024], bytes[1536]],
        other => panic!("{other:?}"),
    };
    assert_eq!((bytes(2), bytes(4), bytes(6)), ([1; 4], [3, 1, 1, 1], [4, 4, 4, 1]));
}

#[test]
fn a_stale_read_gives_what_was_there_before() {
    with_script("read nth 3 stale", |client, _| {
        client.write(0, &[1; 1024]);
        client.write(512, &[2; 512]);
        let mut read = || client.read(0, 1536).map(|read| [read[0], read[512], read[1024]]);
        assert_eq!(read(), Ok([1, 2, 0]));
        assert_eq!(read(), Ok([1, 2, 0]));
        assert_eq!(read(), Ok([0, 1, 0]));
        assert_eq!(read(), Ok([1, 2, 0]));
    });
}

#[test]
fn what_is_withheld_is_issued_and_not_completed() {
    let script = "write nth 1 withhold\nwrite nth 2 withhold for 2\nwrite nth 3 withhold until flush";
    let (_, events) = with_script(script, |client, _| {
        let cookies: Vec<u64> = (0..3).map(|at| client.issue(CMD_WRITE, at * 512, 512, &[7; 512])).collect();
        let read = client.issue(CMD_READ, 0, 512, &[]);
        assert_eq!(client.reply(), (0, cookies[1]));
        assert_eq!(client.reply(), (0, read));
        // What is not answered is done nevertheless.
        assert_eq!(client.receive(512), [7; 512]);
        let flush = client.issue(CMD_FLUSH, 0, 0, &[]);
        assert_eq!(client.reply(), (0, cookies[2]));
        assert_eq!(client.reply(), (0, flush));
        client.end();
    });
    assert_eq!(spell(&events), "w1 w2 w3 c2 f4 c3 F4");
}

#[test]
fn replies_come_late_and_in_another_order() {
    with_script("write delay 120\nread reorder 4", |client, _| {
        let started = Instant::now();
        assert_eq!(client.write(0, &[1; 512]), 0);
        assert!(started.elapsed() >= Duration::from_millis(120));
        let mut shuffled = false;
        for _ in 0..10 {
            let sent: Vec<u64> = (0..4).map(|_| client.issue(CMD_READ, 0, 512, &[])).collect();
            let mut got: Vec<u64> = (0..4).map(|_| (client.reply().1, client.receive(512)).0).collect();
            shuffled |= got != sent;
            got.sort_unstable();
            assert_eq!(got, sent);
        }
        assert!(shuffled);
        // One alone does not wait for ever.
        assert_eq!(client.read(0, 512).unwrap(), [1; 512]);
    });
}

#[test]
fn connections_are_closed_for_once_or_for_good() {
    let (_, events) = with_script("write nth 1 withhold\nwrite nth 2 close\nflush gone", |client, path| {
        client.issue(CMD_WRITE, 0, 512, &[1; 512]);
        client.issue(CMD_WRITE, 512, 512, &[2; 512]);
        assert!(client.is_closed());
        let mut client = Client::connect(path);
        // The first was carried out, the second was not.
        let read = client.read(0, 1024).unwrap();
        assert_eq!((read[0], read[512]), (1, 0));
        client.issue(CMD_FLUSH, 0, 0, &[]);
        assert!(client.is_closed());
        let until = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(path).is_ok() {
            assert!(Instant::now() < until, "the server is still there");
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    assert_eq!(spell(&events), "w1 w2 c1 l2 f3");
}

#[test]
fn more_replies_than_can_be_held_end_the_session() {
    with_script("write withhold", |client, path| {
        for _ in 0..1025 {
            client.issue(CMD_WRITE, 0, 512, &[1; 512]);
        }
        assert!(client.is_closed());
        Client::connect(path).end();
    });
}
