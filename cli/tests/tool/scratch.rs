//! An image in a sparse file of its own, which goes away with the value, and the tool run on it.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Block size of every volume of the original.
pub const BLOCK: usize = 16384;
pub const BLOCK_LEN: u64 = BLOCK as u64;

static NUMBER: AtomicU32 = AtomicU32::new(0);

pub struct Scratch {
    pub path: PathBuf,
    file: File,
}

/// Length of an image, and its chunks that are not all zero.
type Unpacked = (u64, Arc<Vec<(u64, Vec<u8>)>>);

/// Images that some test wanted already.
static UNPACKED: Mutex<BTreeMap<String, Unpacked>> = Mutex::new(BTreeMap::new());

fn unpack(name: &str) -> Unpacked {
    let packed = File::open(testdata(&format!("{name}.img.zst"))).unwrap();
    let mut source = ruzstd::decoding::StreamingDecoder::new(packed).unwrap();
    let mut chunks = Vec::new();
    let mut at = 0;
    loop {
        let mut chunk = Vec::new();
        let count = source.by_ref().take(1 << 16).read_to_end(&mut chunk).unwrap() as u64;
        if count == 0 {
            return (at, Arc::new(chunks));
        }
        if chunk.iter().any(|byte| *byte != 0) {
            chunks.push((at, chunk));
        }
        at += count;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Runs the tool.
pub fn arenite(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_arenite")).args(arguments).output().unwrap()
}

/// Runs the tool; returns exit code, standard output and standard error.
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = arenite(arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

pub fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata").join(name)
}

impl Scratch {
    /// A file of zeroes.
    pub fn blank(len_bytes: u64) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("info-{}-{number}.img", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(len_bytes).unwrap();
        Self { path, file }
    }

    /// A copy of an image that the original wrote.
    pub fn image(name: &str) -> Self {
        let mut unpacked = UNPACKED.lock().unwrap_or_else(PoisonError::into_inner);
        let (len_bytes, chunks) = unpacked.entry(name.to_owned()).or_insert_with(|| unpack(name)).clone();
        drop(unpacked);
        let scratch = Self::blank(len_bytes);
        for (at, chunk) in chunks.iter() {
            scratch.write(*at, chunk);
        }
        scratch
    }

    pub fn len_bytes(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }

    pub fn set_len(&self, len_bytes: u64) {
        self.file.set_len(len_bytes).unwrap();
    }

    pub fn read(&self, addr: u64) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        self.file.read_exact_at(&mut block, addr).unwrap();
        block
    }

    pub fn write(&self, addr: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, addr).unwrap();
    }

    /// Byte address of the second superblock.
    pub fn second(&self) -> u64 {
        let len_bytes = self.len_bytes();
        len_bytes - len_bytes % BLOCK_LEN - BLOCK_LEN
    }

    /// `info --json`, which must succeed and have nothing to complain about.
    pub fn info(&self) -> Value {
        let output = arenite(&["info", "--json", self.path.to_str().unwrap()]);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), complaint.as_str()), (Some(0), ""));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The table, which must be there.
    pub fn table(&self) -> String {
        let output = arenite(&["info", self.path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The path as an argument.
    pub fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// All bytes, as a hash.
    pub fn fingerprint(&self) -> u64 {
        arenite_core::hash::hash64(&std::fs::read(&self.path).unwrap())
    }

    /// Flips a bit of one byte.
    pub fn flip(&self, addr: u64) {
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, addr).unwrap();
        self.write(addr, &[byte[0] ^ 0x10]);
    }

    /// Runs a command on the image; returns exit code, standard output and standard error.
    pub fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        run(&[arguments, &[self.name()]].concat())
    }

    /// `check --json`, which must end with this code.
    pub fn check(&self, code: i32) -> Value {
        let (found, out, complaint) = self.run(&["check", "--json"]);
        assert_eq!((found, complaint.as_str()), (code, ""), "{out}");
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(report["clean"], code == 0);
        let (found, text, _) = self.run(&["check"]);
        assert_eq!(found, code);
        for finding in report["findings"].as_array().unwrap() {
            let line = format!("{:#x}: {}", finding["addr"].as_u64().unwrap(), finding["what"].as_str().unwrap());
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
        report
    }

    /// Checks, and must find one thing: at this address, with these words.
    pub fn check_finds(&self, addr: u64, what: &str) -> Value {
        let report = self.check(1);
        let findings = report["findings"].as_array().unwrap();
        assert_eq!(findings.len(), 1, "{report:#}");
        assert_eq!(findings[0]["addr"], addr, "{report:#}");
        assert!(findings[0]["what"].as_str().unwrap().contains(what), "{report:#}");
        report
    }

    /// Free bytes and bytes of logs, as `info` has them: all that other blocks leave.
    pub fn room(&self) -> u64 {
        let info = self.info();
        let logs: u64 =
            info["arenas"].as_array().unwrap().iter().map(|arena| arena["log_blocks"].as_u64().unwrap()).sum();
        info["free"].as_u64().unwrap() + logs * info["block_size"].as_u64().unwrap()
    }

    /// The complaint of `info`, which must be the only output: one line that names the image, then the reason.
    pub fn complaint(&self) -> String {
        complaint(self.path.to_str().unwrap())
    }
}

/// See [`Scratch::complaint`].
pub fn complaint(path: &str) -> String {
    let table = arenite(&["info", path]);
    let json = arenite(&["info", "--json", path]);
    for output in [&table, &json] {
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
    assert_eq!(table.stderr, json.stderr);
    let text = String::from_utf8(table.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text.trim_end().strip_prefix(&format!("arenite: {path}: ")).unwrap().to_owned()
}
