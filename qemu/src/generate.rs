//! Input made up for the scenarios: the same seed gives the same files on every machine.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Marsaglia's xorshift generator with 64 bits of state.
pub struct XorShift(u64);

impl XorShift {
    /// A generator; a seed of zero, which it could not leave, is replaced.
    pub fn new(seed: u64) -> Self {
        Self(if seed == 0 { 0x9E37_79B9_7F4A_7C15 } else { seed })
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn write_file(&mut self, path: &Path, len_bytes: u64) -> Result<()> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
        let mut file = BufWriter::with_capacity(1 << 16, file);
        let mut left = len_bytes;
        while left > 0 {
            let word = self.next().to_le_bytes();
            let count = usize::try_from(left.min(8))?;
            file.write_all(&word[..count])?;
            left -= count as u64;
        }
        Ok(file.flush()?)
    }
}

/// A few dozen files, some 3 MiB: lengths around the sizes of sectors and blocks, an empty file, and paths that need
/// ustar's prefix or a long-name entry.
pub fn small(dir: &Path, seed: u64) -> Result<()> {
    const LENGTHS: [u64; 14] =
        [0, 1, 511, 512, 513, 4095, 4096, 4097, 16383, 16384, 16385, 65536, 100_000, (1 << 20) + 7];
    let mut random = XorShift::new(seed);
    for len in LENGTHS {
        random.write_file(&dir.join(format!("length/{len}")), len)?;
    }
    for number in 0..40 {
        let len = random.next() % 65536;
        random.write_file(&dir.join(format!("some/{}/{number:03}.bin", number % 5)), len)?;
    }
    let deep = ["d".repeat(60), "e".repeat(60)].join("/");
    random.write_file(&dir.join(&deep).join("needs a prefix.txt"), 3000)?;
    random.write_file(&dir.join(&deep).join(&deep).join("f".repeat(120)), 5000)
}

/// `count` files of up to 3000 bytes, every tenth empty, in directories of a hundred.
pub fn many(dir: &Path, seed: u64, count: u32) -> Result<()> {
    let mut random = XorShift::new(seed);
    (0..count).try_for_each(|number| {
        let len = if number % 10 == 0 { 0 } else { random.next() % 3000 };
        random.write_file(&dir.join(format!("many/{:03}/file-{number:06}.txt", number / 100)), len)
    })
}

/// `count` files of `len_bytes` each.
pub fn large(dir: &Path, seed: u64, count: u32, len_bytes: u64) -> Result<()> {
    let mut random = XorShift::new(seed);
    (0..count).try_for_each(|number| random.write_file(&dir.join(format!("large/{number:03}.bin")), len_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn the_same_seed_gives_the_same_files() {
        let (one, two) = (TempDir::new("seed"), TempDir::new("seed"));
        large(one.path(), 5, 2, 1001).unwrap();
        large(two.path(), 5, 2, 1001).unwrap();
        let read = |dir: &TempDir, name: &str| std::fs::read(dir.path().join("large").join(name)).unwrap();
        assert_eq!(read(&one, "001.bin").len(), 1001);
        assert_eq!(read(&one, "001.bin"), read(&two, "001.bin"));
        assert_ne!(read(&one, "000.bin"), read(&one, "001.bin"));
    }

    #[test]
    fn a_seed_of_zero_works() {
        let mut random = XorShift::new(0);
        assert_ne!(random.next(), random.next());
    }
}
