//! Builds the demo kernel and looks into its image.

use crate::build_std::Compiler;
use crate::setup::KERNEL_TARGET;
use crate::tools::cargo;
use anyhow::{bail, Context, Result};
use object::{Object, ObjectSection, SectionKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The package of the kernel.
pub const PACKAGE: &str = "kernel-demo";

/// By what the kernel is built.
#[derive(Clone, Debug)]
pub enum Builder {
    /// The active toolchain, which has the target.
    Toolchain,
    /// A compiler that builds Rust's library along.
    WithLibrary(Compiler),
}

impl Builder {
    fn command(&self, root: &Path) -> Command {
        match self {
            Self::Toolchain => {
                let mut command = cargo(root);
                command.args(["build", "--target", KERNEL_TARGET]);
                command
            }
            Self::WithLibrary(compiler) => compiler.cargo_build(root, KERNEL_TARGET),
        }
    }
}

/// Builds the kernel, with these cargo features, and returns the path of its ELF image.
pub fn build(root: &Path, builder: &Builder, features: &[&str]) -> Result<PathBuf> {
    if let Builder::WithLibrary(compiler) = builder {
        println!("demo: by {compiler}");
    }
    let mut command = builder.command(root);
    command.args(["--quiet", "--release", "--package", PACKAGE]);
    if !features.is_empty() {
        command.arg("--features").arg(features.join(","));
    }
    command.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = command.output().context("cargo could not be started")?;
    if !output.status.success() {
        bail!("the demo kernel does not build");
    }
    executable(&String::from_utf8_lossy(&output.stdout)).context("cargo built no kernel image")
}

/// The executable that cargo's JSON messages name for the kernel's package.
fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == PACKAGE)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

/// What the sections of an image occupy, in bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Footprint {
    /// `.data`, initialised and writable: in the image and in memory. (`.data.rel.ro` is read-only.)
    pub data: u64,
    /// Zeroed data: in memory only.
    pub bss: u64,
}

/// Reads the section sizes of an ELF image.
pub fn footprint(image: &Path) -> Result<Footprint> {
    let bytes = std::fs::read(image).with_context(|| format!("{} cannot be read", image.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("{} is no object file", image.display()))?;
    let mut found = Footprint { data: 0, bss: 0 };
    for section in file.sections() {
        let name = section.name().unwrap_or_default();
        if section.kind() == SectionKind::UninitializedData {
            found.bss += section.size();
        } else if name == ".data" || (name.starts_with(".data.") && !name.starts_with(".data.rel.ro")) {
            found.data += section.size();
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_image_among_the_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"spin"},"executable":null}"#,
            "\nnot json at all\n",
            r#"{"reason":"compiler-artifact","target":{"name":"build-script-build"},"executable":"/b"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"kernel-demo"},"executable":"/t/kernel-demo"}"#,
        );
        assert_eq!(executable(messages), Some(PathBuf::from("/t/kernel-demo")));
        assert_eq!(executable(""), None);
    }

    /// The running test is itself an image with a large zeroed static; its size has to show up as bss, not as data.
    #[cfg(target_os = "linux")]
    #[test]
    fn zeroed_statics_are_bss() {
        use std::sync::atomic::AtomicU8;
        static ZEROED: [AtomicU8; 1 << 20] = [const { AtomicU8::new(0) }; 1 << 20];
        std::hint::black_box(&ZEROED);
        let found = footprint(&std::env::current_exe().unwrap()).unwrap();
        assert!(found.bss >= 1 << 20, "{found:?}");
        assert!(found.data > 0 && found.data < 1 << 20, "{found:?}");
    }

    #[test]
    fn a_text_file_is_no_image() {
        let path = std::env::temp_dir().join(format!("arenite-no-image-{}", std::process::id()));
        std::fs::write(&path, "hello").unwrap();
        let error = footprint(&path).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("is no object file"), "{error}");
    }
}
