//! Steps of `cargo verify` for what leaves the repository, and for what comes into it: packages, dependencies; and for
//! what the README shows of it.

use crate::tools::{self, cargo, Missing};
use anyhow::{bail, Context, Result};
use std::path::{Path, PathBuf};

/// What is published; everything else says `publish = false` (a test of the house compares).
const PUBLISHED: [&str; 6] =
    ["arenite-core", "arenite-catalog", "arenite-partition", "arenite-adapters", "arenite-shim", "arenite"];

/// The workspaces of the repository: the main one, and those apart from it.
const WORKSPACES: [&str; 6] = ["", "examples/minimal", "examples/host", "examples/own-tree", "fuzz", "bench/footprint"];

/// Makes the packages, and builds each from its package alone.
pub fn check_packages(root: &Path) -> Result<String> {
    forget_unpacked()?;
    // Apart, and from nothing: what was built of an unpacked package counts as long as its version is the same.
    let target = root.join("target/packages");
    if target.exists() {
        std::fs::remove_dir_all(&target)?;
    }
    let mut command = cargo(root);
    // Changes that are not committed are no flaw of a package.
    command.args(["package", "--quiet", "--allow-dirty", "--target-dir"]).arg(&target);
    PUBLISHED.iter().for_each(|name| {
        command.args(["--package", name]);
    });
    tools::run(&mut command)?;
    Ok(format!("{} packages", PUBLISHED.len()))
}

/// Deletes what cargo has unpacked of these packages when they were last built so: as long as the version is the same,
/// it would build the others beside that, and not beside the packages as they are now. Such packages lie in folders
/// that begin with a dash, because they come from no host.
fn forget_unpacked() -> Result<()> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let Some(folders) = home.and_then(|home| std::fs::read_dir(home.join("registry/src")).ok()) else { return Ok(()) };
    let local = folders.flatten().filter(|folder| folder.file_name().to_string_lossy().starts_with('-'));
    for unpacked in local.filter_map(|folder| std::fs::read_dir(folder.path()).ok()).flatten().flatten() {
        let name = unpacked.file_name().to_string_lossy().into_owned();
        let package = name.rsplit_once('-').map(|(package, _)| package);
        if package.is_some_and(|package| PUBLISHED.contains(&package)) {
            std::fs::remove_dir_all(unpacked.path())?;
        }
    }
    Ok(())
}

/// Licences, sources and bans of all dependencies.
pub fn check_dependencies(root: &Path) -> Result<String> {
    deny(root, &["licenses", "bans", "sources"])
}

/// Known flaws of all dependencies.
pub fn check_advisories(root: &Path) -> Result<String> {
    let mut command = cargo_deny(root)?;
    if !command.args(["fetch", "db"]).status().context("cargo-deny does not start")?.success() {
        let remedy = "it could not be fetched, see above".to_owned();
        return Err(Missing { what: "the database of advisories".to_owned(), remedy }.into());
    }
    deny(root, &["advisories"])
}

fn cargo_deny(root: &Path) -> Result<std::process::Command> {
    if tools::find_program("cargo-deny").is_none() {
        let remedy = "install it with: cargo install --locked cargo-deny".to_owned();
        return Err(Missing { what: "cargo-deny".to_owned(), remedy }.into());
    }
    let mut command = cargo(root);
    command.args(["deny", "--locked", "--log-level", "error"]);
    Ok(command)
}

fn deny(root: &Path, what: &[&str]) -> Result<String> {
    for workspace in WORKSPACES {
        let mut command = cargo_deny(root)?;
        command.arg("--manifest-path").arg(root.join(workspace).join("Cargo.toml"));
        command.arg("--config").arg(root.join("deny.toml")).arg("check").args(what);
        tools::run(&mut command)?;
    }
    Ok(format!("{} in {} workspaces", what.join(", "), WORKSPACES.len()))
}

/// What the README opens with is what the demonstration prints, but for the numbers.
pub fn check_readme(root: &Path) -> Result<String> {
    let readme = std::fs::read_to_string(root.join("README.md"))?;
    let shown = transcript(&readme).context("README.md does not open with a transcript of `cargo demo`")?;
    let program = std::env::current_exe()?;
    let output = std::process::Command::new(program).arg("demo").current_dir(root).output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("`cargo demo` failed: {printed}{}", String::from_utf8_lossy(&output.stderr));
    }
    let (shown, printed) = (shapes(shown), shapes(&printed));
    if let Some((ours, theirs)) = shown.iter().zip(&printed).find(|(ours, theirs)| ours != theirs) {
        bail!("README.md has `{ours}` where `cargo demo` prints `{theirs}`");
    }
    if shown.len() != printed.len() {
        bail!("README.md has {} lines of {} that `cargo demo` prints", shown.len(), printed.len());
    }
    Ok(format!("{} lines", shown.len()))
}

/// What stands behind `$ cargo demo` in the first block of a text.
fn transcript(text: &str) -> Option<&str> {
    let block = text.split("```").nth(1)?;
    block.strip_prefix("text\n$ cargo demo\n")
}

/// Lines without their numbers, units, rules and widths, which differ from run to run; without those that say how far
/// it is, of which there are the more the longer it takes.
fn shapes(text: &str) -> Vec<String> {
    let units = ["B", "KiB", "MiB", "GiB"];
    let shape = |word: &str| {
        let bare = word.trim_matches(|c: char| "(),".contains(c));
        match bare {
            "tcg" | "kvm" => word.replace(bare, "?"),
            _ if units.contains(&bare) => word.replace(bare, "B"),
            _ if !bare.is_empty() && bare.chars().all(|c| c.is_ascii_digit() || c == '.') => word.replace(bare, "0"),
            _ if bare.len() > 2 && bare.chars().all(|c| c == '-') => "---".to_owned(),
            _ => word.to_owned(),
        }
    };
    let lines = text.lines().map(|line| line.split_whitespace().map(shape).collect::<Vec<_>>().join(" "));
    lines.filter(|line| !line.is_empty() && !line.contains(": 0 % (")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_do_not_count_and_words_do() {
        let readme = "# A\n\n```text\n$ cargo demo\ndemo: x\nboot: 0.8 s (tcg, 256.0 MiB)\n-----\n  a  12\n```\n";
        let ours = shapes(transcript(readme).unwrap());
        assert_eq!(ours, shapes("demo: x\nboot: 1.25 s (kvm, 64 KiB)\n--------\n\na      7\n"));
        assert_ne!(ours, shapes("demo: x\nboot: 1.25 s (kvm, 64 KiB)\n--------\nb 7\n"));
        assert_ne!(ours, shapes("demo: x\nboot: - s (kvm, 64 KiB)\n--------\na 7\n"));
        assert_eq!(transcript("```text\n$ cargo run\n```"), None);
    }
}
