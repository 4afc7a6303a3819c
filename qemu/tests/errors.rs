//! What a user sees who asks for what cannot be: one line that says what is wrong, and the status that the runner
//! documents. The runner is called as a program; none of these gets as far as building a kernel.

#![cfg(unix)]

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

/// A directory of its own, removed with the value.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("arenite-errors-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().into()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs `cargo demo` with these options; its status, and what it says on standard error.
fn demo(path: Option<&str>, options: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arenite-runner"));
    command.arg("demo").arg("--").args(options);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// Demands one line and a status.
fn fails(options: &[&str], status: i32, line: &str) {
    let (code, said) = demo(None, options);
    assert_eq!((code, said.as_str()), (Some(status), format!("error: {line}\n").as_str()), "{options:?}");
}

#[test]
fn the_input_has_to_be_a_directory_with_something_in_it() {
    let dir = TempDir::new("input");
    let missing = dir.path("missing");
    fails(&["--input", &missing], 2, &format!("the input directory {missing} does not exist"));
    let empty = dir.path("empty");
    std::fs::create_dir(&empty).unwrap();
    fails(&["--input", &empty], 2, &format!("the input directory {empty} is empty"));
    let file = dir.path("file");
    File::create(&file).unwrap();
    let reason = format!("the input directory {file} cannot be read: Not a directory (os error 20)");
    fails(&["--input", &file], 2, &reason);
}

#[test]
fn the_disk_has_to_be_a_file_of_some_size() {
    let dir = TempDir::new("disk");
    let itself = dir.path("");
    fails(&["--disk", &itself], 2, &format!("the disk {itself} is a directory"));
    let small = dir.path("small.img");
    File::create(&small).unwrap().set_len(4096).unwrap();
    fails(&["--disk", &small], 1, &format!("the disk {small} has 4096 bytes and needs at least 1048576"));
    assert_eq!(std::fs::metadata(&small).unwrap().len(), 4096);
    let (code, said) = demo(None, &["--size", "4096"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("a disk has at least 1M"), "{said}");
}

#[test]
fn a_disk_that_cannot_be_written_is_named() {
    let dir = TempDir::new("unwritable");
    let nowhere = dir.path("no/such/directory/disk.img");
    let reason = "cannot be opened for writing: No such file or directory (os error 2)";
    fails(&["--disk", &nowhere], 1, &format!("the disk {nowhere} {reason}"));
    let device = "/dev/null";
    fails(&["--disk", device], 2, &format!("the disk {device} is no regular file"));
}

#[test]
fn a_disk_of_another_run_is_left_alone() {
    let dir = TempDir::new("locked");
    let disk = dir.path("disk.img");
    let file = File::create(&disk).unwrap();
    file.set_len(1 << 20).unwrap();
    file.lock().unwrap();
    fails(&["--disk", &disk], 1, &format!("{disk} is in use by another run"));
}

#[test]
fn without_qemu_and_an_installer_the_user_is_told_what_to_do() {
    let dir = TempDir::new("path");
    let (code, said) = demo(Some(&dir.path("")), &["--input", env!("CARGO_MANIFEST_DIR")]);
    let line = "error: QEMU is missing; put qemu-system-x86_64 on the PATH (no package manager was found that could \
                install it)\n";
    assert_eq!((code, said.as_str()), (Some(2), line));
}

#[test]
fn with_an_installer_that_fails_the_user_is_told_its_command() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new("installer");
    for (name, script) in [("apt-get", "#!/bin/sh\nexit 1\n"), ("id", "#!/bin/sh\necho 0\n")] {
        std::fs::write(dir.path(name), script).unwrap();
        std::fs::set_permissions(dir.path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let (code, said) = demo(Some(&dir.path("")), &["--input", env!("CARGO_MANIFEST_DIR")]);
    assert_eq!(code, Some(2));
    let last = said.lines().last().unwrap();
    let command = "apt-get update; apt-get install -y --no-install-recommends qemu-system-x86";
    assert_eq!(last, format!("error: QEMU is missing; install it with: {command}"));
}

#[test]
fn unknown_names_are_refused() {
    fails(&["--scenario", "none"], 2, "there is no scenario `none` (cargo demo --list-scenarios names them)");
}
