//! A step of `cargo verify`: the first section of docs/EMBEDDING.md, followed to the letter in an empty folder.
//!
//! The commands of its shell block are run as they are; `src/main.rs` is its lines and the code of the sections that it
//! names. The kernel must count its boots, and it must print what the section says.

use crate::tools::{self, cargo};
use anyhow::{bail, Context, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The sections whose code makes the kernel, behind the lines of the first one.
const SECTIONS: [&str; 3] = ["## 2. ", "## 6. ", "## 7. "];
/// Boots that the section shows.
const BOOTS: usize = 2;

/// A folder that goes away with the value.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is no reason to fail.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes the kernel and boots it.
pub fn check(root: &Path) -> Result<String> {
    let guide = std::fs::read_to_string(root.join("docs/EMBEDDING.md"))?;
    let first = section(&guide, "## 0. ")?;
    let commands = block(first, "sh").context("no commands in the first section")?;
    let mut program = block(first, "rust,kernel").context("no lines of a kernel in the first section")?.to_owned();
    for heading in SECTIONS {
        program += block(section(&guide, heading)?, "rust").with_context(|| format!("no code in `{heading}`"))?;
    }
    let expected = block(first, "text").context("the first section does not say what is printed")?;

    // Outside of the repository: cargo would take the new package for a member of its workspace.
    let folder = Folder(std::env::temp_dir().join(format!("arenite-first-kernel-{}", std::process::id())));
    std::fs::create_dir(&folder.0).with_context(|| format!("{} cannot be made", folder.0.display()))?;
    std::os::unix::fs::symlink(root, folder.0.join("arenite"))?;
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", commands]).current_dir(&folder.0);
    tools::run(&mut shell)?;
    let kernel = folder.0.join("mykernel");
    std::fs::write(kernel.join("src/main.rs"), program)?;
    let mut printed = String::new();
    for _ in 0..BOOTS {
        printed += &boot(root, &kernel)?;
    }
    if printed != expected {
        bail!("the guide says `{}`, and the kernel `{}`", expected.trim_end(), printed.trim_end());
    }
    Ok(format!("{BOOTS} boots"))
}

/// What a kernel prints.
fn boot(root: &Path, kernel: &Path) -> Result<String> {
    let mut command = cargo(kernel);
    command.args(["run", "--quiet", "--target-dir"]).arg(root.join("target/examples"));
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cargo does not start")?;
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    if !output.status.success() {
        bail!("the kernel of the guide ended with {}: {text}", output.status);
    }
    Ok(text)
}

/// The text below a heading that begins so.
fn section<'t>(text: &'t str, heading: &str) -> Result<&'t str> {
    let (_, rest) = text.split_once(&format!("\n{heading}")).with_context(|| format!("no section `{heading}`"))?;
    Ok(rest.split("\n## ").next().unwrap_or(rest))
}

/// The first block of code in this language.
fn block<'t>(text: &'t str, language: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("\n```{language}\n"))?;
    let end = rest.find("\n```")?;
    rest.get(..=end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_and_their_blocks_are_found() {
        let text = "# T\n\n## 0. A\n\n```sh\nls\n```\n\n```rust,kernel\nx\ny\n```\n\n## 1. B\n\n```rust\nz\n```\n";
        let first = section(text, "## 0. ").unwrap();
        assert_eq!(block(first, "sh"), Some("ls\n"));
        assert_eq!(block(first, "rust,kernel"), Some("x\ny\n"));
        assert_eq!(block(first, "rust"), None);
        assert_eq!(block(section(text, "## 1. ").unwrap(), "rust"), Some("z\n"));
        assert!(section(text, "## 2. ").is_err());
    }
}
