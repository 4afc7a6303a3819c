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

/// Programs that stand in for those of a machine without the kernel's target: rustup cannot get it.
struct Machine(TempDir);

impl Machine {
    fn without_target(name: &str) -> Self {
        let machine = Self(TempDir::new(name));
        machine.program("qemu-system-x86_64", "exit 1");
        machine.program("rustup", "exit 1");
        machine.program("id", "echo 0");
        machine
    }

    fn program(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.path(name);
        std::fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A compiler of this version, with the sources of its library, and a cargo that writes down what it is asked for.
    fn compiler(&self, version: &str) {
        let library = self.0.path("lib/rustlib/src/rust/library/core");
        std::fs::create_dir_all(&library).unwrap();
        std::fs::write(format!("{library}/Cargo.toml"), "").unwrap();
        let (root, asked) = (self.0.path(""), self.0.path("asked"));
        let answers =
            format!("case \"$*\" in *sysroot) echo {root} ;; --version) echo rustc {version} ;; *) exit 1 ;; esac");
        self.program("rustc", &answers);
        self.program("cargo", &format!("echo \"$RUSTC_BOOTSTRAP $RUSTC $*\" > {asked}; exit 1"));
    }

    /// The status of `cargo demo` on it, and the last line.
    fn demo(&self, option: &str) -> (Option<i32>, String) {
        let (code, said) = demo(Some(&self.0.path("")), &["--input", env!("CARGO_MANIFEST_DIR"), option]);
        (code, said.lines().last().unwrap_or_default().into())
    }
}

const NO_TARGET: &str = "error: the Rust target x86_64-unknown-none is missing; install it with: rustup target add \
                         x86_64-unknown-none (in the repository); to do without it: ";
const NO_COMPILER: &str = "a Rust compiler with the sources of its library is missing; ";

#[test]
fn without_the_target_the_kernel_is_built_by_a_compiler_with_sources() {
    let machine = Machine::without_target("sources");
    machine.compiler("1.96.0");
    machine.program("ld", "");
    machine.program("ld.lld", "");
    assert_eq!(machine.demo("--keep"), (Some(1), "error: the demo kernel does not build".into()));
    let asked = std::fs::read_to_string(machine.0.path("asked")).unwrap();
    assert!(asked.starts_with(&format!("1 {} build -Zbuild-std=core,alloc", machine.0.path("rustc"))), "{asked}");
    let linker = format!("--config target.x86_64-unknown-none.linker='{}'", machine.0.path("ld.lld"));
    assert!(asked.contains(&linker), "{asked}");
    machine.program("ld.lld-19", "");
    machine.demo("--build-std");
    assert!(std::fs::read_to_string(machine.0.path("asked")).unwrap().contains("ld.lld-19"));
}

#[test]
fn a_compiler_that_is_too_old_is_named() {
    let machine = Machine::without_target("old");
    machine.compiler("1.85.0");
    machine.program("ld", "");
    let why = format!(
        "{} is 1.85.0, and 1.95 is needed, and there is no apt-get to install another",
        machine.0.path("rustc")
    );
    assert_eq!(machine.demo("--keep"), (Some(2), format!("{NO_TARGET}{NO_COMPILER}{why}")));
    assert_eq!(machine.demo("--build-std"), (Some(2), format!("error: {NO_COMPILER}{why}")));
}

#[test]
fn packages_that_are_too_old_are_not_installed() {
    let machine = Machine::without_target("packages");
    let installed = machine.0.path("installed");
    machine.program("apt-get", &format!("[ $1 != install ] || echo > {installed}"));
    machine
        .program("apt-cache", "[ $2 = rustc-web ] && echo '  Candidate: 1.85.0+dfsg3-1' || echo '  Candidate: (none)'");
    let why = "apt-get has rustc-web 1.85.0+dfsg3-1 only, and 1.95 is needed";
    assert_eq!(machine.demo("--build-std"), (Some(2), format!("error: {NO_COMPILER}{why}")));
    assert!(!std::path::Path::new(&installed).exists());
}

#[test]
fn a_compiler_that_cannot_be_installed_is_a_line_to_type() {
    let machine = Machine::without_target("refused");
    machine.program("apt-get", "exit 100");
    machine.program("apt-cache", "echo '  Candidate: 1.96.0+dfsg1-1~deb12u2'");
    let command =
        "apt-get update; apt-get install -y --no-install-recommends --no-remove rustc-web cargo-web rust-web-src \
                   lld-19";
    let line = format!("{NO_TARGET}{NO_COMPILER}install it with: {command}");
    assert_eq!(machine.demo("--keep"), (Some(2), line));
    machine.program("id", "echo 1000");
    let (code, line) = machine.demo("--build-std");
    assert_eq!(code, Some(2));
    assert!(
        line.ends_with(
            "install it with: sudo apt-get update; sudo apt-get install -y --no-install-recommends \
                            --no-remove rustc-web cargo-web rust-web-src lld-19"
        ),
        "{line}"
    );
}
