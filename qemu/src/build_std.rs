//! The demo kernel where rustup does not have its target: by a compiler of the system that comes with the sources of
//! Rust's library, which are compiled along (cargo's `-Zbuild-std`). Debian packages such a compiler.
//!
//! A compiler does if it stands beside a cargo in a directory of the PATH, is not older than the workspace asks for,
//! and has those sources in its sysroot. If there is none and apt-get may be used, one is installed; nothing is removed
//! for it. `-Zbuild-std` is a switch of nightly compilers; `RUSTC_BOOTSTRAP=1` has others take it, too.

use crate::setup::{privileged, rights, Rights};
use crate::tools::{find_programs, run, Missing};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The linkers that do, the best first. All of them understand the arguments of GNU's.
const LINKERS: [&str; 3] = ["ld.lld-19", "ld.lld", "ld"];

/// What the linker's package may be called.
const LINKER_PACKAGES: [&str; 2] = ["lld-19", "lld"];

/// Sets of Debian packages that hold compiler, cargo and sources. Where both are there, the first is the newer one.
const PACKAGES: [[&str; 3]; 2] = [["rustc-web", "cargo-web", "rust-web-src"], ["rustc", "cargo", "rust-src"]];

/// What is missing, for people.
pub const WHAT: &str = "a Rust compiler with the sources of its library";

/// The oldest compiler that does; the workspace says so.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

/// A compiler that can build the kernel together with Rust's library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    rustc: PathBuf,
    cargo: PathBuf,
    linker: PathBuf,
    version: String,
}

impl Compiler {
    /// Finds one, or installs it.
    ///
    /// # Errors
    /// What is missing, and what to type.
    pub fn set_up() -> Result<Self, Missing> {
        let refused = match Self::find() {
            Ok(compiler) => return Ok(compiler),
            Err(refused) => refused,
        };
        if find_programs("apt-get").is_empty() {
            let remedy = match refused {
                Some(why) => format!("{why}, and there is no apt-get to install another"),
                None => format!("put one of at least {OLDEST} on the PATH (there is no apt-get to install it)"),
            };
            return Err(missing(remedy));
        }
        install(rights())?;
        Self::find().map_err(|refused| missing(refused.unwrap_or_else(|| "apt-get has not brought it".into())))
    }

    /// The first one on the PATH that does. Otherwise, why those that have the sources do not, if there are any.
    fn find() -> Result<Self, Option<String>> {
        let mut refused = None;
        for rustc in with_sources() {
            let cargo = rustc.with_file_name("cargo");
            let version = ask(&rustc, &["--version"]).unwrap_or_default();
            let version = version.split_whitespace().nth(1).unwrap_or("of no version").to_owned();
            if !is_new_enough(&version) {
                refused.get_or_insert(format!("{} is {version}, and {OLDEST} is needed", rustc.display()));
                continue;
            }
            let linker = LINKERS.iter().find_map(|name| find_programs(name).into_iter().next());
            match linker {
                Some(linker) => return Ok(Self { rustc, cargo, linker, version }),
                None => refused = Some(format!("there is no linker (one of {})", LINKERS.join(", "))),
            }
        }
        Err(refused)
    }

    /// A cargo command in the repository's root that builds with this compiler for `triple`, library and all. It has a
    /// target folder of its own.
    pub fn cargo_build(&self, root: &Path, triple: &str) -> Command {
        let mut command = Command::new(&self.cargo);
        command.current_dir(root).env("RUSTC_BOOTSTRAP", "1").env("RUSTC", &self.rustc);
        // What rustup sets for the cargo that runs us concerns another compiler.
        for name in ["CARGO", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH", "CARGO_BUILD_TARGET"] {
            command.env_remove(name);
        }
        command.args(["build", "-Zbuild-std=core,alloc", "-Zbuild-std-features=compiler-builtins-mem"]);
        command.arg("--target").arg(triple).arg("--target-dir").arg(root.join("target").join("build-std"));
        // A TOML string in single quotes has no escapes.
        command.arg("--config").arg(format!("target.{triple}.linker='{}'", self.linker.display()));
        command
    }
}

impl std::fmt::Display for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rustc, linker, version, .. } = self;
        write!(f, "{} {version} and the sources of its library, linked by {}", rustc.display(), linker.display())
    }
}

fn missing(remedy: String) -> Missing {
    Missing { what: WHAT.into(), remedy }
}

/// The compilers on the PATH that have a cargo beside them and the sources of the library, the system's own ones first:
/// what rustup manages is not what the switch for trying this out is about.
fn with_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for rustc in find_programs("rustc").into_iter().filter(|rustc| rustc.with_file_name("cargo").is_file()) {
        let Some(sysroot) = ask(&rustc, &["--print", "sysroot"]) else { continue };
        let library = Path::new(&sysroot).join("lib/rustlib");
        if library.join("src/rust/library/core/Cargo.toml").is_file() {
            found.push((library.join("multirust-channel-manifest.toml").is_file(), rustc));
        }
    }
    found.sort_by_key(|(is_of_rustup, _)| *is_of_rustup);
    found.into_iter().map(|(_, rustc)| rustc).collect()
}

/// The first line that a program prints, if it ends well.
fn ask(program: &Path, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).env_remove("LD_LIBRARY_PATH").stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    text.lines().next().map(|line| line.trim().to_owned())
}

/// The first two numbers of a version, Debian's epoch not counted.
fn numbers(version: &str) -> Option<(u64, u64)> {
    let version = version.split_once(':').map_or(version, |(_, version)| version);
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn is_new_enough(version: &str) -> bool {
    numbers(version).is_some_and(|found| Some(found) >= numbers(OLDEST))
}

/// The version of a package that apt-get would install.
fn candidate(package: &str) -> Option<String> {
    let output = Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// The packages to install. Otherwise what is on offer instead.
fn packages(candidate: impl Fn(&str) -> Option<String>) -> Result<Vec<&'static str>, String> {
    let mut offers = Vec::new();
    for names in PACKAGES {
        match candidate(names[0]) {
            Some(version) if is_new_enough(&version) => {
                let linker = LINKER_PACKAGES.into_iter().find(|name| candidate(name).is_some());
                return Ok(names.into_iter().chain(linker).collect());
            }
            Some(version) => offers.push(format!("{} {version}", names[0])),
            None => {}
        }
    }
    match offers.as_slice() {
        [] => Err("apt-get knows no such package".into()),
        offers => Err(format!("apt-get has {} only, and {OLDEST} is needed", offers.join(" and "))),
    }
}

/// Installs compiler, sources and linker with apt-get.
fn install(rights: Rights) -> Result<(), Missing> {
    const REFRESH: [&str; 2] = ["apt-get", "update"];
    // What the user has is not removed for it.
    const INSTALL: [&str; 5] = ["apt-get", "install", "-y", "--no-install-recommends", "--no-remove"];
    if rights != Rights::Ask {
        eprintln!("setup: {WHAT} is missing, installing it with apt-get");
        // One source that cannot be reached does not spoil the others.
        if let Err(error) = run(&mut privileged(&REFRESH, rights)) {
            eprintln!("setup: {error}; trying the installation all the same");
        }
    }
    let packages = packages(candidate).map_err(missing)?;
    let words: Vec<&str> = INSTALL.into_iter().chain(packages).collect();
    let sudo = if rights == Rights::Direct { "" } else { "sudo " };
    let by_hand = format!("install it with: {sudo}{}; {sudo}{}", REFRESH.join(" "), words.join(" "));
    if rights == Rights::Ask {
        return Err(missing(by_hand));
    }
    run(&mut privileged(&words, rights)).map_err(|error| {
        eprintln!("setup: {error}");
        missing(by_hand)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(offers: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |package| offers.iter().find(|(name, _)| *name == package).map(|(_, version)| (*version).to_owned())
    }

    #[test]
    fn versions_are_compared_by_number() {
        for good in ["1.95.0", "1.96.0+dfsg1-1~deb12u2", "1.100.0", "2.0", "1:1.95"] {
            assert!(is_new_enough(good), "{good}");
        }
        for bad in ["1.85.0+dfsg3-1~deb12u3", "1.9.0", "0.99", "", "nightly", "1"] {
            assert!(!is_new_enough(bad), "{bad}");
        }
    }

    #[test]
    fn the_newest_set_of_packages_is_chosen() {
        let both = offered(&[("rustc-web", "1.96.0+dfsg1-1~deb12u2"), ("rustc", "1.97.0"), ("lld-19", "1:19.1.7")]);
        assert_eq!(packages(both).unwrap(), ["rustc-web", "cargo-web", "rust-web-src", "lld-19"]);
        let plain = offered(&[("rustc-web", "1.85.0"), ("rustc", "1.95.0"), ("lld", "1:14")]);
        assert_eq!(packages(plain).unwrap(), ["rustc", "cargo", "rust-src", "lld"]);
    }

    #[test]
    fn packages_that_are_too_old_are_named_with_what_is_needed() {
        let old = offered(&[("rustc-web", "1.85.0+dfsg3-1~deb12u3"), ("rustc", "1.63.0+dfsg1-2")]);
        let wanted = format!(
            "apt-get has rustc-web 1.85.0+dfsg3-1~deb12u3 and rustc 1.63.0+dfsg1-2 only, and {OLDEST} is needed"
        );
        assert_eq!(packages(old).unwrap_err(), wanted);
        assert_eq!(packages(offered(&[])).unwrap_err(), "apt-get knows no such package");
    }

    #[test]
    fn the_command_says_which_compiler_and_linker() {
        let path = |name: &str| Path::new("/opt/bin").join(name);
        let version = "1.96.0".into();
        let compiler = Compiler { rustc: path("rustc"), cargo: path("cargo"), linker: path("ld"), version };
        let command = compiler.cargo_build(Path::new("/repository"), "x86_64-unknown-none");
        assert_eq!(command.get_program(), path("cargo").as_os_str());
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        assert!(words.iter().any(|word| word == "target.x86_64-unknown-none.linker='/opt/bin/ld'"), "{words:?}");
        let env: Vec<_> = command.get_envs().collect();
        assert!(env.contains(&("RUSTC".as_ref(), Some(path("rustc").as_os_str()))), "{env:?}");
        assert!(env.contains(&("RUSTUP_TOOLCHAIN".as_ref(), None)), "{env:?}");
    }
}
