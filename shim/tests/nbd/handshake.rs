//! The handshake, of good clients and others.

use crate::bench::{serve_with, socket_path, with_client};
use crate::client::{go, option_header, Client};
use arenite_shim::nbd::wire::*;
use arenite_shim::nbd::{BindError, Server};
use arenite_shim::Disk;
use std::os::unix::net::UnixListener;
use std::path::Path;

fn with_path(body: impl FnOnce(&Path)) {
    serve_with(&Disk::zeroed(64 << 10), |_| {}, |path, _| body(path));
}

fn export_info(read_only: bool) -> Vec<u8> {
    let flags: u16 = if read_only { 3 } else { 1 + 4 + 32 };
    let mut bytes = vec![0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
    bytes.extend(flags.to_be_bytes());
    bytes
}

#[test]
fn go_tells_size_flags_and_limits() {
    with_path(|path| {
        let mut client = Client::greeted(path);
        let told = client.option(OPT_INFO, &go("disk", &[INFO_NAME, INFO_BLOCK_SIZE]));
        let limits = vec![0, 3, 0, 0, 2, 0, 0, 0, 16, 0, 2, 0, 0, 0];
        let wanted = vec![
            (REP_INFO, export_info(false)),
            (REP_INFO, limits),
            (REP_INFO, b"\0\x01disk".to_vec()),
            (REP_ACK, vec![]),
        ];
        assert_eq!(told, wanted);
        let told = client.option(OPT_GO, &go("", &[]));
        assert_eq!(told.len(), 3);
        assert_eq!(client.flush(), 0);
    });
}

#[test]
fn exports_are_listed_and_unknown_ones_refused() {
    with_path(|path| {
        let mut client = Client::greeted(path);
        let told = client.option(OPT_LIST, &[]);
        assert_eq!(told, [(REP_SERVER, b"\0\0\0\x04disk".to_vec()), (REP_ACK, vec![])]);
        let kind = |replies: Vec<(u32, Vec<u8>)>| replies.last().unwrap().0;
        assert_eq!(kind(client.option(OPT_LIST, &[1])), REP_ERR_INVALID);
        assert_eq!(kind(client.option(OPT_GO, &go("other", &[]))), REP_ERR_UNKNOWN);
        // Structured replies, and options that nobody knows.
        assert_eq!(kind(client.option(8, &[])), REP_ERR_UNSUP);
        assert_eq!(kind(client.option(0xffff, &[0; 100])), REP_ERR_UNSUP);
        assert_eq!(kind(client.option(OPT_ABORT, &[])), REP_ACK);
        assert!(client.is_closed());
    });
}

#[test]
fn the_old_way_to_choose_an_export_pads_if_wanted() {
    with_path(|path| {
        for (flags, padding) in [(1_u32, 124), (3, 0)] {
            let mut client = Client::raw(path);
            client.send(&flags.to_be_bytes());
            client.send(&option_header(OPT_EXPORT_NAME, 4));
            client.send(b"disk");
            let told = client.receive(10 + padding);
            assert_eq!(told[..10], export_info(false)[2..]);
            assert_eq!(client.read(0, 512), Ok(vec![0; 512]));
            client.end();
        }
        let mut client = Client::greeted(path);
        client.send(&option_header(OPT_EXPORT_NAME, 3));
        client.send(b"dis");
        assert!(client.is_closed());
    });
}

#[test]
fn nonsense_is_refused_or_ends_the_session() {
    let mut good = go("disk", &[1]);
    good.pop();
    let odd = [good, vec![], vec![0, 0], u32::MAX.to_be_bytes().to_vec(), go("disk", &[])[..9].to_vec()];
    with_path(|path| {
        let mut client = Client::greeted(path);
        for data in &odd {
            assert_eq!(client.option(OPT_GO, data).last().unwrap().0, REP_ERR_INVALID, "{data:?}");
        }
        let kind = client.option(OPT_GO, &vec![0; 100_000]).last().unwrap().0;
        assert_eq!(kind, REP_ERR_TOO_BIG);
        // The same session still works.
        assert_eq!(client.option(OPT_GO, &go("disk", &[])).last().unwrap().0, REP_ACK);
        client.end();

        let mut client = Client::raw(path);
        client.send(&0xffff_u32.to_be_bytes());
        assert!(client.is_closed());
        let mut client = Client::greeted(path);
        client.send(&option_header(OPT_GO, u32::MAX));
        assert!(client.is_closed());
        let mut client = Client::greeted(path);
        client.send(&[0x55; 16]);
        assert!(client.is_closed());
    });
}

#[test]
fn a_client_that_says_nothing_is_shut_out_after_a_while() {
    with_path(|path| {
        let mut silent = Client::raw(path);
        // Waits behind the silent one.
        let mut client = Client::connect(path);
        assert_eq!(client.flush(), 0);
        assert!(silent.is_closed());
    });
}

#[test]
fn read_only_is_told_and_kept() {
    let disk = Disk::zeroed(64 << 10);
    serve_with(
        &disk,
        |export| export.make_read_only(),
        |path, _| {
            let mut client = Client::greeted(path);
            assert_eq!(client.option(OPT_GO, &go("", &[]))[0].1, export_info(true));
            assert_eq!(client.write(0, &[1; 512]), Errno::Perm as u32);
            assert_eq!(client.ask(CMD_TRIM, 0, 512), Errno::Perm as u32);
            assert_eq!(client.read(0, 512), Ok(vec![0; 512]));
        },
    );
}

#[test]
fn a_socket_is_taken_over_from_the_dead_alone() {
    let path = socket_path();
    // A listener that goes away leaves its socket behind.
    drop(UnixListener::bind(&path).unwrap());
    let server = Server::bind(&path).unwrap();
    assert!(matches!(Server::bind(&path), Err(BindError::Alive)));
    drop(server);
    std::fs::write(&path, "x").unwrap();
    assert!(matches!(Server::bind(&path), Err(BindError::NotASocket)));
    std::fs::remove_file(&path).unwrap();
    // What took its place is not removed by a server that ends.
    let server = Server::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let other = Server::bind(&path).unwrap();
    drop(server);
    assert!(path.exists());
    drop(other);
    assert!(!path.exists());
}

#[test]
fn counts_are_kept() {
    let (counts, _) = with_client(|client| {
        client.write(0, &[1; 1024]);
        client.read(0, 512).unwrap();
        client.flush();
        client.ask(9, 0, 512);
        client.end();
    });
    assert_eq!(counts.to_string(), "1 sessions, 1 reads, 1 writes, 1 flushes, 1 errors");
}
