//! Arguments and exit codes.

use crate::scratch::{arenite, Scratch};
use std::process::{Command, Stdio};

#[test]
fn wrong_arguments_exit_with_1() {
    for arguments in [&[][..], &["info"], &["fromat", "x"], &["info", "--yaml", "x"], &["info", "x", "y"]] {
        let output = arenite(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8(output.stderr).unwrap().contains("Usage:"), "{arguments:?}");
    }
}

#[test]
fn help_tells_keys_and_exit_codes() {
    let output = arenite(&["info", "--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["Examples:", "Exit codes:", "superblocks", "log_blocks", "block device"] {
        assert!(text.contains(part), "{part}");
    }
    assert_eq!(arenite(&["--version"]).status.code(), Some(0));
}

#[test]
fn full_output_exits_with_1() {
    let image = Scratch::image("fresh-256M");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    // Not every system has it.
    let Ok(full) = full else { return };
    let status = Command::new(env!("CARGO_BIN_EXE_arenite"))
        .args(["info", image.path.to_str().unwrap()])
        .stdout(full)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
}
