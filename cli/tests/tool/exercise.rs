//! `arenite exercise`.

use crate::scratch::{arenite, Scratch};
use crate::structures::{catalog, volume};
use arenite_shim::check::{RawVolume, Rule};
use arenite_shim::{FileDevice, FileOptions};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Exercises, and compares what must not change.
fn exercised(image: &Scratch, arguments: &[&str]) -> String {
    let (root, room, report) = (image.info()["root"].clone(), image.room(), image.check(0));
    let (code, out, complaint) = image.run(&[&["exercise"], arguments].concat());
    assert_eq!((code, complaint.as_str()), (0, ""), "{out}");
    assert_eq!((image.info()["root"].clone(), image.room()), (root, room), "{out}");
    let now = image.check(0);
    for key in ["tree", "complete", "snapshots", "nodes", "data"] {
        assert_eq!(now[key], report[key], "{key}");
    }
    for key in ["reachable", "dead", "replaced", "unreachable"] {
        assert_eq!(now["blocks"][key], report["blocks"][key], "{key}");
    }
    out
}

/// The number in front of a line's first word behind the name.
fn count(out: &str, name: &str) -> u64 {
    let line = out.lines().find(|line| line.starts_with(name)).unwrap();
    line[name.len()..].split_whitespace().next().unwrap().trim_end_matches(',').parse().unwrap()
}

/// What a reader finds that knows nothing of seals, as the original does.
fn same_for_the_original(image: &Scratch) {
    let device = FileDevice::open(&image.path, FileOptions { read_only: true, ..FileOptions::default() }).unwrap();
    let (sealed, bare) =
        (RawVolume::read(&device, Rule::Sealed).unwrap(), RawVolume::read(&device, Rule::Bare).unwrap());
    assert_eq!(sealed.arenas, bare.arenas);
}

#[test]
fn volumes_of_the_original() {
    for name in ["populated", "killed-1", "fresh-256M"] {
        let image = Scratch::image(name);
        let out = exercised(&image, &["--ops", "20000", "--seed", "1", "--threads", "2"]);
        assert_eq!(count(&out, "operations"), 20000, "{out}");
        assert!(count(&out, "allocated") > 5000 && count(&out, "read back") > 5000, "{out}");
        assert!(count(&out, "commits") >= 3 && count(&out, "errors") == 0, "{out}");
        same_for_the_original(&image);
    }
}

#[test]
fn full_volume_of_the_original() {
    let image = Scratch::image("populated");
    let arguments = ["--ops", "60000", "--seed", "2", "--threads", "2", "--fill", "100", "--commit-every", "1500"];
    let out = exercised(&image, &arguments);
    assert!(count(&out, "refused") > 0, "{out}");
    same_for_the_original(&image);
}

#[test]
fn every_block_size_full() {
    for (len, block_size) in
        [("2M", "2048"), ("3M", "4096"), ("6M", "8192"), ("8M", "16384"), ("16M", "32768"), ("20M", "65536")]
    {
        let image = volume(len, block_size);
        catalog(&image, 5);
        for (threads, fill) in [("1", "100"), ("3", "100"), ("8", "50"), ("2", "1")] {
            let arguments =
                ["--ops", "3000", "--seed", "9", "--threads", threads, "--fill", fill, "--commit-every", "77"];
            exercised(&image, &arguments);
        }
        same_for_the_original(&image);
    }
}

#[test]
fn one_seed_does_the_same_with_one_thread() {
    let lines = |seed| {
        let image = volume("4M", "4096");
        let out = exercised(&image, &["--ops", "3000", "--seed", seed, "--fill", "40"]);
        let names = ["operations", "allocated", "refused", "read back", "freed"];
        out.lines().filter(|line| names.iter().any(|name| line.starts_with(name))).collect::<Vec<_>>().join("\n")
    };
    let first = lines("1");
    assert_eq!(first, lines("1"));
    assert_ne!(first, lines("2"));
}

#[test]
fn no_operation_changes_nothing_but_copies() {
    let image = volume("4M", "4096");
    let before = image.fingerprint();
    exercised(&image, &["--ops", "0", "--seed", "1"]);
    assert_eq!(image.fingerprint(), before);
    image.flip(100);
    exercised(&image, &["--ops", "0", "--seed", "1"]);
    assert_eq!(image.fingerprint(), before);
}

/// A run that goes on until it is told to stop, or until the value goes away.
struct Running(Option<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Running {
    /// Starts a run, and waits until it has committed so many times.
    fn start(image: &Scratch, commits: u64) -> Self {
        let before = image.info()["qgen"].as_u64().unwrap();
        let arguments = ["exercise", "--ops", "100000000000", "--seed", "1", "--threads", "2", "--commit-every", "300"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_arenite"));
        command.args(arguments).arg(&image.path).stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = Self(Some(command.spawn().unwrap()));
        let started = Instant::now();
        loop {
            // Looking at a volume that changes may take several attempts, and fail in the end.
            let output = arenite(&["info", "--no-lock", "--json", image.name()]);
            let info: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
            if info.and_then(|info| info["qgen"].as_u64()).is_some_and(|now| now > before + commits) {
                return running;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "no commit");
        }
    }

    /// Sends a signal; returns exit code (none if the signal killed it), standard output and standard error.
    fn end(mut self, signal: &str) -> (Option<i32>, String, String) {
        let child = self.0.take().unwrap();
        let status = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(status.success());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

#[test]
fn ends_in_good_order_when_interrupted() {
    for name in ["-INT", "-TERM", "-HUP"] {
        let image = Scratch::image("populated");
        let (root, room) = (image.info()["root"].clone(), image.room());
        let running = Running::start(&image, 5);
        // Nobody else gets at it meanwhile.
        assert_eq!(image.run(&["exercise", "--ops", "1", "--seed", "1"]).0, 2);
        assert_eq!(image.run(&["check"]).0, 2);
        let (code, out, complaint) = running.end(name);
        assert_eq!((code, complaint.as_str()), (Some(130), ""), "{out}");
        assert!(out.contains(", interrupted"), "{out}");
        assert_eq!((image.info()["root"].clone(), image.room()), (root, room));
        image.check(0);
    }
}

/// What the help warns of: the blocks of the last commit stay in use, and the check says where.
#[test]
fn killed_it_leaves_blocks_in_use() {
    let image = volume("64M", "4096");
    catalog(&image, 10);
    let report = image.check(0);
    assert_eq!(Running::start(&image, 5).end("-KILL").0, None);
    let now = image.check(1);
    let findings = now["findings"].as_array().unwrap();
    assert!(findings.iter().all(|finding| finding["what"].as_str().unwrap().starts_with("in use, but unreachable")));
    assert!(now["blocks"]["unreachable"].as_u64().unwrap() > 100, "{now:#}");
    assert_eq!((&now["nodes"], &now["data"]), (&report["nodes"], &report["data"]));
}

/// Somebody else writes over the volume meanwhile: what is read back is found to be wrong.
#[test]
fn wrong_bytes_are_noticed() {
    let image = volume("64M", "4096");
    // Until there are more blocks than the cache holds.
    let running = Running::start(&image, 50);
    let junk = vec![0xa5; 1 << 20];
    for mib in (0..5).flat_map(|_| 1..63) {
        image.write(mib << 20, &junk);
    }
    let (code, out, complaint) = running.end("-INT");
    assert_eq!(code, Some(1), "{out}{complaint}");
    assert!(complaint.contains("damaged at 0x") && complaint.contains("hash"), "{complaint}");
    assert!(count(&out, "errors") > 0, "{out}");
}

#[test]
fn refuses_what_is_no_volume_or_in_use() {
    let blank = Scratch::blank(1 << 20);
    let (code, out, complaint) = blank.run(&["exercise", "--ops", "1", "--seed", "1"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(complaint.contains("not a volume"), "{complaint}");
    let image = volume("1M", "4096");
    let _device = FileDevice::open(&image.path, FileOptions::default()).unwrap();
    let (code, _, complaint) = image.run(&["exercise", "--ops", "1", "--seed", "1"]);
    assert_eq!(code, 2);
    assert!(complaint.contains("in use"), "{complaint}");
}
