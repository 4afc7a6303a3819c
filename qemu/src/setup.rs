//! Installs what a fresh machine lacks: bare-metal targets and components through rustup, QEMU through the system's
//! package manager where that is allowed (as root, or with a sudo that asks nothing). What cannot be installed ends in
//! [`Missing`], which carries the exact command to type.

use crate::build_std::Compiler;
use crate::kernel::Builder;
use crate::tools::{find_program, run, show, Missing};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The target of the demo kernel.
pub const KERNEL_TARGET: &str = "x86_64-unknown-none";

const QEMU: &str = "qemu-system-x86_64";

/// A package manager, and the commands by which it gets QEMU.
struct Manager {
    /// The program whose presence tells that this manager is in charge.
    program: &'static str,
    /// Run before the installation; allowed to fail, because one unreachable source does not spoil the others.
    refresh: Option<&'static [&'static str]>,
    install: &'static [&'static str],
    /// Whether it has to run as root.
    as_root: bool,
}

const MANAGERS: [Manager; 6] = [
    Manager {
        program: "apt-get",
        refresh: Some(&["apt-get", "update"]),
        install: &["apt-get", "install", "-y", "--no-install-recommends", "qemu-system-x86"],
        as_root: true,
    },
    Manager {
        program: "dnf",
        refresh: None,
        install: &["dnf", "install", "-y", "--setopt=install_weak_deps=False", "qemu-system-x86-core"],
        as_root: true,
    },
    Manager {
        program: "pacman",
        refresh: None,
        install: &["pacman", "-Sy", "--needed", "--noconfirm", "qemu-system-x86"],
        as_root: true,
    },
    Manager { program: "apk", refresh: None, install: &["apk", "add", "qemu-system-x86_64"], as_root: true },
    Manager {
        program: "zypper",
        refresh: None,
        install: &["zypper", "--non-interactive", "install", "qemu-x86"],
        as_root: true,
    },
    Manager { program: "brew", refresh: None, install: &["brew", "install", "qemu"], as_root: false },
];

/// How a command that needs root may be run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rights {
    /// We are root, or root is not needed.
    Direct,
    /// `sudo -n` works.
    Sudo,
    /// Neither; only a person can do it.
    Ask,
}

/// QEMU's path; installs it if need be and allowed.
pub fn qemu() -> Result<PathBuf> {
    if let Some(path) = find_program(QEMU) {
        return Ok(path);
    }
    let Some(manager) = MANAGERS.iter().find(|manager| find_program(manager.program).is_some()) else {
        let remedy = format!("put {QEMU} on the PATH (no package manager was found that could install it)");
        return Err(Missing { what: "QEMU".into(), remedy }.into());
    };
    let rights = if manager.as_root { rights() } else { Rights::Direct };
    if rights != Rights::Ask {
        eprintln!("setup: QEMU is missing, installing it with {}", manager.program);
        if let Some(refresh) = manager.refresh {
            if let Err(error) = run(&mut privileged(refresh, rights)) {
                eprintln!("setup: {error}; trying the installation all the same");
            }
        }
        if let Err(error) = run(&mut privileged(manager.install, rights)) {
            eprintln!("setup: {error}");
        } else if let Some(path) = find_program(QEMU) {
            return Ok(path);
        }
    }
    let remedy = format!("install it with: {}", by_hand(manager, rights));
    Err(Missing { what: "QEMU".into(), remedy }.into())
}

/// What a person would type with the rights that we have.
fn by_hand(manager: &Manager, rights: Rights) -> String {
    let sudo = if rights == Rights::Direct { "" } else { "sudo " };
    let refresh = manager.refresh.map(|words| format!("{sudo}{}; ", words.join(" "))).unwrap_or_default();
    format!("{refresh}{sudo}{}", manager.install.join(" "))
}

/// How we may run what needs root.
pub fn rights() -> Rights {
    let output = Command::new("id").arg("-u").output();
    if output.is_ok_and(|output| output.stdout.trim_ascii() == b"0") {
        return Rights::Direct;
    }
    let sudo = Command::new("sudo").args(["-n", "true"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if sudo.is_ok_and(|status| status.success()) {
        Rights::Sudo
    } else {
        Rights::Ask
    }
}

/// A command that needs root.
pub fn privileged(words: &[&str], rights: Rights) -> Command {
    let mut command = match rights {
        Rights::Sudo => {
            let mut command = Command::new("sudo");
            command.arg("-n").arg("env").arg("DEBIAN_FRONTEND=noninteractive").args(words);
            command
        }
        Rights::Direct | Rights::Ask => {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive");
            command
        }
    };
    command.stdin(Stdio::null());
    command
}

/// Makes sure that the active toolchain can build for `triple`.
pub fn target(root: &Path, triple: &str) -> Result<()> {
    if has_target(root, triple) {
        return Ok(());
    }
    let mut add = Command::new("rustup");
    add.args(["target", "add", triple]).current_dir(root);
    let remedy = in_root(&add);
    if find_program("rustup").is_some() {
        eprintln!("setup: installing the target {triple}");
        if let Err(error) = run(&mut add) {
            eprintln!("setup: {error}");
        } else if has_target(root, triple) {
            return Ok(());
        }
    }
    Err(Missing { what: format!("the Rust target {triple}"), remedy }.into())
}

/// The environment variable that is `1` where the kernel is to be built without the target that rustup has.
const BUILD_STD: &str = "ARENITE_BUILD_STD";

/// By what the kernel is built: by the active toolchain, unless it lacks the target, or another compiler is wanted.
pub fn kernel_builder(root: &Path, build_std: bool) -> Result<Builder> {
    /// Once is enough to find out that there is no target.
    static FOUND: OnceLock<Builder> = OnceLock::new();
    if build_std || std::env::var_os(BUILD_STD).is_some_and(|value| value == "1") {
        return Ok(Builder::WithLibrary(Compiler::set_up()?));
    }
    if let Some(builder) = FOUND.get() {
        return Ok(builder.clone());
    }
    let builder = match target(root, KERNEL_TARGET) {
        Ok(()) => Builder::Toolchain,
        Err(lacks) => {
            eprintln!("setup: the Rust target {KERNEL_TARGET} is missing, looking for {}", crate::build_std::WHAT);
            Builder::WithLibrary(Compiler::set_up().map_err(|too| neither(&lacks, &too))?)
        }
    };
    Ok(FOUND.get_or_init(|| builder).clone())
}

/// Neither the target nor a compiler that does without it.
fn neither(target: &anyhow::Error, compiler: &Missing) -> Missing {
    let Missing { what, remedy } = compiler;
    Missing { what: format!("{target}; to do without it: {what}"), remedy: remedy.clone() }
}

/// Makes sure that `cargo NAME` (fmt, clippy) works; `component` is what rustup calls it.
pub fn component(root: &Path, name: &str, component: &str) -> Result<()> {
    let works = |root: &Path| {
        let mut probe = crate::tools::cargo(root);
        probe.args([name, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    };
    if works(root) {
        return Ok(());
    }
    let mut add = Command::new("rustup");
    add.args(["component", "add", component]).current_dir(root);
    let remedy = in_root(&add);
    if find_program("rustup").is_some() && run(&mut add).is_ok() && works(root) {
        return Ok(());
    }
    Err(Missing { what: format!("the Rust component {component}"), remedy }.into())
}

/// A rustup command as typed in the repository, where it concerns the pinned toolchain.
fn in_root(command: &Command) -> String {
    format!("install it with: {} (in the repository)", show(command))
}

/// Whether the compiler's library directory for this target holds a `core`; asks the compiler, so that it is right for
/// toolchains that rustup does not manage, too.
fn has_target(root: &Path, triple: &str) -> bool {
    let mut command = Command::new("rustc");
    command.args(["--print", "target-libdir", "--target", triple]).current_dir(root).stderr(Stdio::null());
    let Ok(output) = command.output() else { return false };
    let dir = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let Ok(entries) = dir.read_dir() else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manager_has_a_command_to_show() {
        for manager in &MANAGERS {
            let text = by_hand(manager, Rights::Direct);
            assert!(text.contains(manager.program) && text.contains("qemu"), "{text}");
            assert_eq!(manager.install[0], manager.program);
            assert!(!text.contains("sudo"), "{text}");
        }
    }

    #[test]
    fn apt_refreshes_first() {
        let text = by_hand(&MANAGERS[0], Rights::Ask);
        assert_eq!(text, "sudo apt-get update; sudo apt-get install -y --no-install-recommends qemu-system-x86");
    }

    #[test]
    fn sudo_never_asks() {
        let command = privileged(MANAGERS[0].install, Rights::Sudo);
        assert!(show(&command).starts_with("sudo -n env DEBIAN_FRONTEND=noninteractive apt-get install -y"));
    }

    #[test]
    fn an_unknown_target_is_not_there() {
        assert!(!has_target(Path::new("."), "no-such-target"));
    }
}
