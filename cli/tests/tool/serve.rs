//! An image as a block device at a socket. What the server says to its clients is tested where it is.

use crate::scratch::{run, Scratch};
use arenite_shim::nbd::tracefile;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Paths beside an image, for its socket and other files.
fn beside(image: &Scratch, name: &str) -> PathBuf {
    // The paths of sockets must be short.
    let stem = image.path.file_stem().unwrap().to_string_lossy().into_owned();
    std::env::temp_dir().join(format!("arenite-{stem}.{name}"))
}

/// Starts a server and waits until it says that it serves.
fn start(arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arenite"));
    let mut child = command.arg("serve").args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert!(line.contains(": serving 1048576 bytes at "), "{line}");
    (child, output)
}

#[test]
fn serves_until_interrupted_and_leaves_all_clean() {
    let image = Scratch::blank(1 << 20);
    let (socket, trace) = (beside(&image, "sock"), beside(&image, "trace"));
    let (socket_text, trace_text) = (socket.to_str().unwrap(), trace.to_str().unwrap());
    let arguments = ["--socket", socket_text, "--record", trace_text, image.path.to_str().unwrap()];
    let (mut child, mut output) = start(&arguments);
    let mut magic = [0; 8];
    UnixStream::connect(&socket).unwrap().read_exact(&mut magic).unwrap();
    assert_eq!(magic, *b"NBDMAGIC");

    // Neither the image nor the socket can be had twice.
    let (code, _, error) = run(&["serve", "--socket", "/tmp/never.sock", image.path.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(error.contains("in use"), "{error}");
    let other = Scratch::blank(1 << 20);
    let (code, _, error) = run(&["serve", "--socket", socket_text, other.path.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(error.contains("another server answers"), "{error}");

    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("served: 0 sessions"), "{rest}");
    assert!(!socket.exists());
    let loaded = tracefile::load(&trace).unwrap();
    assert_eq!((loaded.trace.base.len(), loaded.trace.events.len(), loaded.cut_off), (1 << 20, 0, false));
    std::fs::remove_file(trace).unwrap();
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_made() {
    let image = Scratch::blank(1 << 20);
    let (socket, script) = (beside(&image, "sock"), beside(&image, "script"));
    let path = image.path.to_str().unwrap();
    std::fs::write(&script, "write lose\nwrite explode\n").unwrap();
    let refused = |arguments: &[&str]| {
        let (code, output, error) = run(&[&["serve", "--socket", socket.to_str().unwrap()], arguments].concat());
        assert!(output.is_empty() && !socket.exists());
        (code, error)
    };
    let (code, error) = refused(&["--script", script.to_str().unwrap(), path]);
    assert_eq!(code, 1);
    assert!(error.contains("line 2: `explode` is neither"), "{error}");
    let (code, error) = refused(&["--record", script.to_str().unwrap(), path]);
    assert_eq!(code, 1);
    assert!(error.contains("exists, and is no trace"), "{error}");
    assert_eq!(refused(&["/no/such/image"]).0, 2);
    std::fs::remove_file(script).unwrap();
}
