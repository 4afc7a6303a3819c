//! The programs that the runner calls: where the repository is, which cargo to use, what is on the PATH.

use anyhow::{bail, Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Something that has to be installed and could not be; the process then ends with status 2.
#[derive(Debug)]
pub struct Missing {
    /// What is missing.
    pub what: String,
    /// What to do about it: `install it with: ...`.
    pub remedy: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is missing; {}", self.what, self.remedy)
    }
}

impl std::error::Error for Missing {}

/// The command line asks for what cannot be; the process then ends with status 2.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The root of the repository: what cargo says when it runs us, otherwise the nearest directory above the current one
/// that holds the demo kernel.
pub fn repository_root() -> Result<PathBuf> {
    let is_root = |dir: &Path| dir.join("kernel-demo/Cargo.toml").is_file() && dir.join("Cargo.toml").is_file();
    if let Some(own) = std::env::var_os("CARGO_MANIFEST_DIR") {
        if let Some(root) = Path::new(&own).parent().filter(|dir| is_root(dir)) {
            return Ok(root.to_path_buf());
        }
    }
    let here = std::env::current_dir().context("the current directory cannot be read")?;
    match here.ancestors().find(|dir| is_root(dir)) {
        Some(root) => Ok(root.to_path_buf()),
        None => bail!("run this inside the repository (no kernel-demo here or above)"),
    }
}

/// A cargo command in the repository's root: the very cargo that runs us, if one does.
pub fn cargo(root: &Path) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root);
    command
}

/// Where a program is on the PATH.
pub fn find_program(name: &str) -> Option<PathBuf> {
    find_programs(name).into_iter().next()
}

/// All the places where a program is on the PATH, in their order.
pub fn find_programs(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).filter(|file| is_executable(file)).collect()
}

#[cfg(unix)]
fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(file: &Path) -> bool {
    file.is_file()
}

/// Runs a command, its output going where ours goes; an error unless it ends with success.
pub fn run(command: &mut Command) -> Result<()> {
    let name = show(command);
    let status = command.status().with_context(|| format!("`{name}` could not be started"))?;
    if !status.success() {
        bail!("`{name}` failed ({status})");
    }
    Ok(())
}

/// A command as one would type it (for people; nothing parses it).
pub fn show(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
