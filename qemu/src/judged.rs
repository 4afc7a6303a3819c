//! Tests of the judgement itself: made-up kernels, good ones and ones with a single flaw, against the scenarios. What a
//! flawed kernel does has to fail.

use crate::accel::Accel;
use crate::demo::{demonstrate, Bench, Demo, Plan};
use crate::scenarios;
use crate::testing::TempDir;
use crate::vm::{Board, Driver, Limits};
use std::path::Path;
use std::time::Duration;

/// A bench whose kernel is a shell script; see tests/fake-qemu.
fn bench(root: &TempDir, kernel: &str) -> Bench {
    let script = root.path().join("kernel.sh");
    std::fs::write(&script, kernel).unwrap();
    let silence = Duration::from_secs(60);
    Bench {
        root: root.path().into(),
        qemu: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-qemu"),
        kernel: script,
        accel: Accel::Tcg,
        board: Board::Q35,
        driver: Driver::Queue,
        cpus: 1,
        limits: Limits { silence, whole: silence },
        verbose: false,
        keep: false,
    }
}

/// What is to judge a kernel.
type Judge = fn(&Bench) -> anyhow::Result<()>;

/// Runs a scenario by its name.
macro_rules! scenario {
    ($name:literal) => {
        |bench| (scenarios::named($name).unwrap()[0].run)(bench).map(drop)
    };
}

/// Judges a made-up kernel.
fn judge(judge: Judge, kernel: &str) -> Result<(), String> {
    let root = TempDir::new("judged");
    judge(&bench(&root, kernel)).map_err(|error| format!("{error:#}"))
}

/// Demands that the kernel passes, and that it fails with each of the replacements, for the reason given.
fn only_this_passes(by: Judge, kernel: &str, flaws: &[(&str, &str, &str)]) {
    judge(by, kernel).unwrap();
    for (good, bad, reason) in flaws {
        assert!(kernel.contains(good), "{good}");
        let error = judge(by, &kernel.replace(good, bad)).expect_err(bad);
        assert!(error.contains(reason), "`{bad}` failed with `{error}`");
    }
}

#[test]
fn a_wrong_byte_has_to_be_named_in_full() {
    let kernel = "
        case $words in
            phase=import) echo @datablock addr=0x4000; verdict 16 ;;
            phase=verify) [ $(od -An -tu1 -j16461 -N1 \"$disk\") = 255 ] || verdict 16
                echo @corrupt file=a/b addr=0x4000 expected=0x1 found=0x2; verdict 27 ;;
        esac";
    let flaws = [
        ("verdict 27", "verdict 16", "not with `volume corrupt`"),
        ("verdict 27", "verdict 17", "not with `volume corrupt`"),
        ("verdict 27", "exit 0", "without a verdict"),
        ("@datablock", "datablock", "no data block"),
        ("addr=0x4000 expected", "addr=0x8000 expected", "another address"),
        ("file=a/b", "", "did not name the file"),
        ("found=0x2", "found=0x1", "both hashes"),
        ("found=0x2", "", "both hashes"),
        ("@corrupt", "corrupt", "did not name the damage"),
    ];
    only_this_passes(scenario!("flip-data"), kernel, &flaws);
}

#[test]
fn a_full_volume_has_to_keep_what_it_had() {
    let kernel = "
        case $words in
            phase=import) echo @full need=66 room=10 files=20 bytes=200; verdict 26 ;;
            'phase=verify partial=yes') echo @result files=20 bytes=200; echo @result files=13; verdict 16 ;;
        esac";
    let flaws = [
        ("verdict 26", "verdict 16", "not with `volume full`"),
        ("need=66", "", "no need"),
        ("room=10", "room=66", "room for 66 of 66"),
        ("files=20", "files=0", "0 files of 64"),
        ("files=20", "files=64", "64 files of 64"),
        ("@result files=20", "@result files=19", "20 files, 200 bytes were committed"),
        ("@result files=20 bytes=200", "@result files=20 bytes=199", "20 files, 200 bytes were committed"),
        ("files=13", "files=20", "nothing was deleted"),
        ("verdict 16 ;;\n        esac", "verdict 29 ;;\n        esac", "data mismatch"),
    ];
    only_this_passes(|bench| scenarios::full_in_kernel(bench).map(drop), kernel, &flaws);
}

#[test]
fn a_foreign_disk_has_to_be_left_alone() {
    let kernel = "
        case $words in
            phase=import) verdict 24 ;;
            'phase=import format=force') verdict 16 ;;
        esac";
    let write = "printf x | dd of=\"$disk\" bs=1 seek=5000000 conv=notrunc 2>/dev/null; verdict 24";
    let flaws = [
        ("verdict 24", "verdict 16", "not with `disk not blank`"),
        ("verdict 24", write, "was changed"),
        ("verdict 16", "verdict 24", "disk not blank"),
    ];
    only_this_passes(scenario!("foreign"), kernel, &flaws);
}

/// What the kernel counts is compared with the archive; the host's part is judged apart.
#[test]
fn the_demonstration_compares_the_figures() {
    let faults = |import: &str, verify: &str| {
        let root = TempDir::new("demo");
        let input = TempDir::new("input");
        std::fs::write(input.path().join("one"), "12345").unwrap();
        let kernel = format!("case $words in *=import) {import} ;; *) {verify} ;; esac");
        let bench = bench(&root, &kernel);
        let plan =
            Plan { input: Some(input.path().into()), disk: None, size: 1 << 20, memory: 1 << 26, sector_bytes: 512 };
        let mut demo = Demo::prepare(&bench, "demo", &plan).unwrap();
        let report = demonstrate(&mut demo, &[], &[], &[]).unwrap();
        let verdict = report.verdict();
        verdict.lines().filter(|line| !line.contains("host")).map(String::from).collect::<Vec<_>>()
    };
    let good = "echo @progress 5 5; echo @result files=1 bytes=5; verdict 16";
    assert!(faults(good, good).iter().all(|line| line == "demo: FAILED"));
    for bad in ["verdict 16", "echo @result files=1 bytes=4; verdict 16", "echo @result files=1 bytes=5; verdict 29"] {
        assert!(faults(bad, good)[0].starts_with("demo: import: "), "{bad}");
        assert!(faults(good, bad)[0].starts_with("demo: verify: "), "{bad}");
    }
}
