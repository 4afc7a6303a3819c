//! Input that is not what one expects: names and kinds of files that occur on real machines, and very many files in
//! little memory. All that can be imported comes back byte for byte; all else is named, skipped and counted.

use crate::demo::{Bench, Demo, Plan};
use crate::generate;
use crate::pack::Packed;
use crate::scenarios::{judged, prepare, MIB, PLAN, SEED};
use anyhow::{ensure, Context, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Files of the scenario `many-files`.
const MANY: u32 = 20_000;

/// Odd names, odd kinds, odd sizes.
pub fn odd(bench: &Bench) -> Result<String> {
    let mut expected = Expected::default();
    let demo = prepare(bench, "odd", PLAN, |dir| {
        expected = fill(dir)?;
        Ok(())
    })?;
    expected.compare(&demo.packed)?;
    let note = judged_and_finished(demo)?;
    let Expected { links, skipped, .. } = expected;
    Ok(format!("{note}, {links} links; {} skipped, as they should", skipped.len()))
}

/// Twenty thousand small files, 64 MiB of guest memory.
pub fn many_files(bench: &Bench) -> Result<String> {
    let plan = Plan { size: 512 * MIB, memory: 64 * MIB, ..PLAN };
    let demo = prepare(bench, "many-files", plan, |dir| generate::many(dir, SEED, MANY))?;
    ensure!(demo.packed.files == u64::from(MANY), "{} files of {MANY} were packed", demo.packed.files);
    judged_and_finished(demo)
}

fn judged_and_finished(mut demo: Demo<'_>) -> Result<String> {
    let note = judged(&mut demo)?;
    demo.finish(true);
    Ok(note)
}

/// What packing has to find.
#[derive(Default)]
struct Expected {
    files: u64,
    links: u64,
    skipped: Vec<PathBuf>,
}

impl Expected {
    fn compare(&self, packed: &Packed) -> Result<()> {
        ensure!(packed.files == self.files, "{} files were packed, not {}", packed.files, self.files);
        ensure!(packed.links == self.links, "{} links were packed, not {}", packed.links, self.links);
        let mut skipped: Vec<&Path> = packed.skipped.iter().map(|(path, _)| path.as_path()).collect();
        let mut wanted: Vec<&Path> = self.skipped.iter().map(PathBuf::as_path).collect();
        skipped.sort();
        wanted.sort();
        ensure!(skipped == wanted, "skipped: {skipped:?}; that should have been {wanted:?}");
        Ok(())
    }
}

/// Names of files that occur, all of them good.
const NAMES: [&str; 14] = [
    "name with blanks",
    " blank first and last ",
    "-rf",
    "a=b",
    "@result phase=import files=0",
    "quote\"s and \\ backslash",
    "\u{e4}\u{f6}\u{fc}/\u{df}",
    "\u{65e5}\u{672c}\u{8a9e}.txt",
    "\u{1f980}",
    "e\u{301} and \u{e9}",
    "...",
    ".hidden/.file",
    "percent%20%s%n",
    "CON",
];

/// Makes a directory of oddities.
fn fill(dir: &Path) -> Result<Expected> {
    let mut expected = Expected::default();
    let mut put = |path: &Path, bytes: &[u8]| -> Result<()> {
        let full = dir.join(path);
        std::fs::create_dir_all(full.parent().unwrap_or(dir))?;
        std::fs::write(&full, bytes).with_context(|| format!("{full:?} cannot be written"))?;
        expected.files += 1;
        Ok(())
    };
    for number in 0..40 {
        put(Path::new(&format!("empty/{number}")), b"")?;
    }
    for name in NAMES {
        put(Path::new(name), name.as_bytes())?;
    }
    // The longest path that the catalogue takes, of many short parts, and one more byte.
    let deep = "d/".repeat(510);
    put(Path::new(&format!("{deep}file")), b"as deep as can be")?;
    put(Path::new(&format!("{}/{}", "n".repeat(255), "n".repeat(255))), b"long names")?;
    std::fs::create_dir_all(dir.join("empty directory/inside"))?;
    let too_deep = PathBuf::from(format!("{deep}file!"));
    std::fs::write(dir.join(&too_deep), "too deep")?;
    expected.skipped.push(too_deep);
    fill_unix(dir, &mut expected)?;
    Ok(expected)
}

#[cfg(not(unix))]
fn fill_unix(_: &Path, _: &mut Expected) -> Result<()> {
    Ok(())
}

/// What only Unix has: names of any bytes, links, kinds of files, permissions.
#[cfg(unix)]
fn fill_unix(dir: &Path, expected: &mut Expected) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{symlink, PermissionsExt};
    for name in [&b"tab\tand\nline"[..], b"bell\x07 \x1b[2J"] {
        std::fs::write(dir.join(std::ffi::OsStr::from_bytes(name)), name)?;
        expected.files += 1;
    }
    // Some systems take UTF-8 only.
    if std::fs::write(dir.join(std::ffi::OsStr::from_bytes(b"no utf-8 \xff\xfe")), "x").is_ok() {
        expected.files += 1;
    }
    let targets = [".", "..", "loop", "nowhere/at all", "/etc/passwd", "empty/0", &"t".repeat(300)];
    for (number, target) in targets.into_iter().enumerate() {
        let name = if target == "loop" { "loop".into() } else { format!("link {number}") };
        symlink(target, dir.join(name))?;
        expected.links += 1;
    }
    std::fs::write(dir.join("program"), "#!/bin/sh\n")?;
    std::fs::set_permissions(dir.join("program"), std::fs::Permissions::from_mode(0o4755))?;
    expected.files += 1;

    // A socket's address may be no longer than some hundred bytes, so it is made where that is short.
    let short = std::env::temp_dir().join(format!("arenite-odd-{}", std::process::id()));
    let socket = std::os::unix::net::UnixListener::bind(&short)?;
    if std::fs::rename(&short, dir.join("socket")).is_ok() {
        expected.skipped.push("socket".into());
    } else {
        std::fs::remove_file(&short)?;
    }
    drop(socket);
    let pipe = std::process::Command::new("mkfifo").arg(dir.join("pipe")).status();
    if pipe.is_ok_and(|status| status.success()) {
        expected.skipped.push("pipe".into());
    }
    let secret = dir.join("secret");
    std::fs::write(&secret, "not for everybody")?;
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o0))?;
    // Root reads it all the same.
    match File::open(&secret) {
        Ok(_) => expected.files += 1,
        Err(_) => expected.skipped.push("secret".into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::{pack, Input};
    use crate::testing::TempDir;

    /// Run by a user other than root, this also has a file that may not be read.
    #[test]
    fn oddities_are_packed_or_skipped() {
        let dir = TempDir::new("oddities");
        let input = dir.path().join("in");
        std::fs::create_dir(&input).unwrap();
        let mut expected = fill(&input).unwrap();
        let packed = pack(&Input::Tree { dir: input, except: None }, &dir.path().join("tar")).unwrap();
        expected.compare(&packed).unwrap();
        expected.files += 1;
        expected.compare(&packed).unwrap_err();
    }
}
