//! Damage on purpose: one byte of the disk image is inverted between two boots.
//!
//! The places are found in the image itself, as far as the format is fixed (docs/FORMAT.md): all integers big-endian;
//! superblocks at 0 and at the last whole block; in the superblock the block size at 8, the number of arenas at 16, and
//! from 104 on sixteen bytes for each arena, the first eight being the address of its header, whose second copy lies
//! one block behind the first.

use anyhow::{bail, ensure, Context, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::str::FromStr;

/// Where a byte is inverted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flip {
    /// In a block of a file's content: this byte of it.
    Data(u64),
    /// In this copy of the superblock, 0 or 1.
    Superblock(u64),
    /// In an arena header; copies are counted through, two for each arena.
    Header(u64),
}

impl FromStr for Flip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, number) = text.split_once(':').unwrap_or((text, "0"));
        let number = number.parse().map_err(|_| format!("`{number}` is not a number"))?;
        match kind {
            "data" => Ok(Self::Data(number)),
            "superblock" if number < 2 => Ok(Self::Superblock(number)),
            "superblock" => Err("there are two superblocks, 0 and 1".into()),
            "header" => Ok(Self::Header(number)),
            _ => Err(format!("`{kind}` is none of data, superblock, header")),
        }
    }
}

/// Inverts the byte and makes it durable; returns its address in the image. `data_block` is the address of a block of
/// some file's content, as the kernel reported it.
pub fn flip(disk: &mut File, what: Flip, data_block: Option<u64>) -> Result<u64> {
    let addr = match what {
        Flip::Data(offset) => {
            let block = data_block.context("the kernel has reported no data block (@datablock addr=...)")?;
            block.checked_add(offset).context("that is beyond any disk")?
        }
        // A byte of the root's address: the copy's own hash no longer holds.
        Flip::Superblock(copy) => Layout::read(disk)?.superblocks[usize::from(copy == 1)] + 31,
        // A byte of the arena's size: the hash in the superblock no longer holds.
        Flip::Header(copy) => {
            let layout = Layout::read(disk)?;
            let count = layout.arenas.len() as u64;
            let arena = usize::try_from(copy / 2).ok().and_then(|at| layout.arenas.get(at));
            let arena = arena.with_context(|| format!("there are {count} arenas, so {} copies", 2 * count))?;
            arena.checked_add(copy % 2 * layout.block_size + 25).context("an arena lies beyond any disk")?
        }
    };
    ensure!(addr < disk.metadata()?.len(), "address {addr:#x} lies outside the disk");
    let mut byte = [0];
    disk.seek(SeekFrom::Start(addr))?;
    disk.read_exact(&mut byte)?;
    byte[0] = !byte[0];
    disk.seek(SeekFrom::Start(addr))?;
    disk.write_all(&byte)?;
    disk.sync_all()?;
    Ok(addr)
}

/// Where the fixed structures of a volume lie.
struct Layout {
    block_size: u64,
    superblocks: [u64; 2],
    arenas: Vec<u64>,
}

impl Layout {
    fn read(disk: &mut File) -> Result<Self> {
        let len = disk.metadata()?.len();
        let mut head = [0; 104 + 16 * 32];
        disk.seek(SeekFrom::Start(0))?;
        disk.read_exact(&mut head).context("the disk is too short for a superblock")?;
        ensure!(head.starts_with(b"gefs9.00"), "the disk holds no store");
        let word = |at: usize| u64::from(u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
        let (block_size, arena_count) = (word(8), word(16));
        if block_size < 512 || len < 2 * block_size || arena_count > 32 {
            bail!("the superblock makes no sense (blocks of {block_size} bytes, {arena_count} arenas)");
        }
        let entries = head[104..].chunks_exact(16).take(usize::try_from(arena_count)?);
        let arenas = entries.map(|entry| entry[..8].iter().fold(0, |addr, byte| addr << 8 | u64::from(*byte)));
        Ok(Self { block_size, superblocks: [0, len - len % block_size - block_size], arenas: arenas.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn places_are_parsed() {
        assert_eq!("data".parse(), Ok(Flip::Data(0)));
        assert_eq!("data:77".parse(), Ok(Flip::Data(77)));
        assert_eq!("superblock:1".parse(), Ok(Flip::Superblock(1)));
        assert_eq!("header:3".parse(), Ok(Flip::Header(3)));
        for text in ["", "superblock:2", "header:x", "header:-1", "tree"] {
            assert!(text.parse::<Flip>().is_err(), "{text}");
        }
    }

    /// A disk of ten and a half blocks of 4096 bytes, with two arenas at blocks 1 and 5.
    fn small_volume(dir: &TempDir) -> File {
        let mut image = vec![0; 4096 * 10 + 2048];
        image[..8].copy_from_slice(b"gefs9.00");
        image[8..12].copy_from_slice(&4096u32.to_be_bytes());
        image[16..20].copy_from_slice(&2u32.to_be_bytes());
        image[104..112].copy_from_slice(&4096u64.to_be_bytes());
        image[120..128].copy_from_slice(&(5 * 4096u64).to_be_bytes());
        let path = dir.path().join("disk");
        std::fs::write(&path, image).unwrap();
        File::options().read(true).write(true).open(path).unwrap()
    }

    #[test]
    fn exactly_one_byte_changes() {
        let dir = TempDir::new("flip");
        let mut disk = small_volume(&dir);
        let before = std::fs::read(dir.path().join("disk")).unwrap();
        let cases = [
            (Flip::Superblock(0), 31),
            (Flip::Superblock(1), 9 * 4096 + 31),
            (Flip::Header(0), 4096 + 25),
            (Flip::Header(3), 6 * 4096 + 25),
            (Flip::Data(5), 8 * 4096 + 5),
        ];
        for (what, addr) in cases {
            assert_eq!(flip(&mut disk, what, Some(8 * 4096)).unwrap(), addr, "{what:?}");
            let after = std::fs::read(dir.path().join("disk")).unwrap();
            let differing: Vec<usize> = (0..before.len()).filter(|at| before[*at] != after[*at]).collect();
            assert_eq!(differing, [usize::try_from(addr).unwrap()], "{what:?}");
            flip(&mut disk, what, Some(8 * 4096)).unwrap();
        }
        assert_eq!(std::fs::read(dir.path().join("disk")).unwrap(), before);
    }

    #[test]
    fn what_cannot_be_flipped_is_an_error() {
        let dir = TempDir::new("noflip");
        let mut disk = small_volume(&dir);
        let before = std::fs::read(dir.path().join("disk")).unwrap();
        let cases = [
            (Flip::Data(0), None),
            (Flip::Data(0), Some(1 << 40)),
            (Flip::Data(u64::MAX), Some(1)),
            (Flip::Header(4), None),
        ];
        for (what, block) in cases {
            assert!(flip(&mut disk, what, block).is_err(), "{what:?} {block:?}");
        }
        assert_eq!(std::fs::read(dir.path().join("disk")).unwrap(), before);
        disk.set_len(100).unwrap();
        assert!(flip(&mut disk, Flip::Superblock(0), None).is_err());
        std::fs::write(dir.path().join("disk"), vec![7; 8192]).unwrap();
        assert!(flip(&mut disk, Flip::Superblock(0), None).unwrap_err().to_string().contains("no store"));
    }
}
