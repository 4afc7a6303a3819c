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

/// For `check`, 1 is kept for damage.
#[test]
fn wrong_arguments_of_check_exit_with_2() {
    for arguments in [&["check"][..], &["check", "--yaml", "x"], &["check", "x", "y"]] {
        let output = arenite(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn numbers_are_bounded() {
    for arguments in [
        &["format", "--size", "1.5G", "x"][..],
        &["format", "--size", "16777216T", "x"],
        &["format", "--block-size", "1K", "x"],
        &["format", "--block-size", "5000", "x"],
        &["grow", "--size", "64MB", "x"],
        &["exercise", "--ops", "1", "--seed", "1", "--threads", "0", "x"],
        &["exercise", "--ops", "1", "--seed", "1", "--threads", "65", "x"],
        &["exercise", "--ops", "1", "--seed", "1", "--fill", "101", "x"],
        &["exercise", "--ops", "1", "--seed", "1", "--commit-every", "0", "x"],
        &["exercise", "--ops", "1", "x"],
    ] {
        let output = arenite(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
        assert!(!std::path::Path::new("x").exists());
    }
}

#[test]
fn help_tells_exit_codes_and_more() {
    for (command, parts) in [
        ("info", &["Examples:", "superblocks", "log_blocks", "block device"][..]),
        ("format", &["Examples:", "--force", "block device", "locked"]),
        ("check", &["JSON keys:", "findings", "complete", "not walked"]),
        ("exercise", &["Examples:", "killed", "stay in use", "130"]),
        ("grow", &["Examples:", "block device", "old length"]),
        ("serve", &["Examples:", "NBD", "withhold", "chance P"]),
    ] {
        let output = arenite(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).unwrap();
        for part in parts.iter().chain(&["Exit codes:\n  0"]) {
            assert!(text.contains(part), "{command}: {part}");
        }
        assert!(text.is_ascii());
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

/// `bench` and `crash` give their arguments to programs beside the tool, and say what is missing if there is none.
#[test]
fn front_ends_find_their_programs_or_say_so() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("front-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let tool = folder.join("arenite");
    std::fs::copy(env!("CARGO_BIN_EXE_arenite"), &tool).unwrap();
    let run = |arguments: &[&str]| Command::new(&tool).args(arguments).env("PATH", "/nowhere").output().unwrap();
    for (name, hint) in [("bench", "cargo bench-store"), ("crash", "cargo crash")] {
        let output = run(&[name, "--list"]);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), complaint.lines().count()), (Some(1), 1), "{complaint}");
        assert!(complaint.contains(hint), "{complaint}");
        let program = folder.join(format!("arenite-{name}"));
        std::fs::write(&program, "#!/bin/sh\necho \"$0 got $*\"; exit 7\n").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let output = run(&[name, "--rung", "1", "--help", "-q"]);
        let out = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(7));
        assert!(out.contains(&format!("arenite-{name} got --rung 1 --help -q")), "{out}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
