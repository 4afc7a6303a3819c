//! Counts the calls of panics that the compiler leaves in the core, function by function.
//!
//! The core is compiled, optimised, to assembler text for the kernel's target, and each call of one of the panic
//! functions of Rust's core library is put down to the function that it stands in. No function of mount, replay and
//! decoding may have one: no image, whatever its bytes, can then make a kernel panic there.

use crate::setup::KERNEL_TARGET;
use crate::tools::{self, cargo};
use anyhow::{bail, Context, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// Parts of symbol names of functions that only panic.
const PANICS: [&str; 6] =
    ["core9panicking", "slice_index_fail", "unwrap_failed", "expect_failed", "len_mismatch_fail", "slice_error_fail"];
/// Parts of symbol names of what must be free of them.
const FREE_OF_PANICS: [&str; 4] =
    ["arenite_core5mount", "arenite_core6format", "arenite_core4hash", "arenite_core7freemap"];

/// Calls of panics by function.
fn count(assembler: &str) -> BTreeMap<&str, usize> {
    let mut calls = BTreeMap::new();
    let mut function = "";
    for line in assembler.lines() {
        if let Some(label) = line.strip_suffix(':').filter(|label| !label.starts_with(['.', ' ', '\t', '#'])) {
            function = label;
        } else if PANICS.iter().any(|panic| line.contains(panic)) && line.trim_start().starts_with(['c', 'j']) {
            *calls.entry(function).or_insert(0) += 1;
        }
    }
    calls
}

/// Fails if mount, replay or decoding can panic; returns how many calls there are elsewhere.
pub fn check(root: &Path) -> Result<usize> {
    let target_dir = root.join("target").join("panics");
    let mut command = cargo(root);
    command.args(["rustc", "--package", "arenite-core", "--release", "--target", KERNEL_TARGET, "--target-dir"]);
    command.arg(&target_dir).args(["--", "--emit", "asm", "-C", "debuginfo=0", "-C", "codegen-units=1"]);
    tools::run(&mut command)?;
    let deps = target_dir.join(KERNEL_TARGET).join("release").join("deps");
    let newest = std::fs::read_dir(&deps)
        .with_context(|| format!("cannot list {}", deps.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "s"))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("arenite_core")))
        .max_by_key(|path| path.metadata().and_then(|meta| meta.modified()).ok());
    let text = std::fs::read_to_string(newest.context("the compiler wrote no assembler text")?)?;
    if !text.contains("arenite_core5mount") {
        bail!("the assembler text holds no mount: nothing was counted");
    }
    let calls = count(&text);
    calls.iter().for_each(|(function, calls)| println!("{calls} in {function}"));
    if let Some(function) = calls.keys().find(|function| FREE_OF_PANICS.iter().any(|part| function.contains(part))) {
        bail!("{function} can panic");
    }
    Ok(calls.values().sum())
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn calls_are_put_down_to_their_functions() {
        let text = "_ZN12arenite_core5mount4step:\n\tcallq\t*_RN4core9panicking18panic_bounds_check@GOT\n.Lx:\n\
                    \tleaq _RN4core9panicking, %rax\n_ZN1a:\n\tjmp core9panicking5panic\n\tcallq other\n";
        assert_eq!(count(text).into_iter().collect::<Vec<_>>(), [("_ZN12arenite_core5mount4step", 1), ("_ZN1a", 1)]);
    }
}
