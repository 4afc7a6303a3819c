//! Partitions, and images that somebody else has.

use crate::scratch::{run, Scratch};
use arenite_shim::{FileDevice, FileOptions};
use std::os::unix::fs::FileExt;
use std::process::Command;

const BOOT: (u64, u64) = (1 << 20, 2 << 20);
const DATA_LEN: u64 = 32 << 20;

/// A disk with three partitions, written by a crate that is not ours: `boot`, `data`, and one without a name. All that
/// is outside of `data` and no table is not zero.
fn disk() -> Scratch {
    let image = Scratch::blank(64 << 20);
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(&image.path).unwrap();
    gpt::mbr::ProtectiveMBR::with_lb_size((64 << 11) - 1).overwrite_lba0(&mut file).unwrap();
    let mut table = gpt::GptConfig::new().writable(true).create_from_device(&mut file, None).unwrap();
    for (name, len) in [("boot", BOOT.1), ("data", DATA_LEN), ("", 4 << 20)] {
        table.add_partition(name, len, gpt::partition_types::LINUX_FS, 0, Some(2048)).unwrap();
    }
    table.write().unwrap();
    for (start, len) in [(BOOT.0, BOOT.1), (BOOT.0 + BOOT.1 + DATA_LEN, 4 << 20)] {
        image.write(start, &vec![0xa5; len as usize]);
    }
    image
}

/// All bytes that are not of `data`.
fn beside(image: &Scratch) -> u64 {
    let mut bytes = std::fs::read(&image.path).unwrap();
    bytes.drain((BOOT.0 + BOOT.1) as usize..(BOOT.0 + BOOT.1 + DATA_LEN) as usize);
    arenite_core::hash::hash64(&bytes)
}

#[test]
fn every_command_keeps_to_a_partition() {
    let image = disk();
    let before = beside(&image);
    for (index, arguments) in [
        &["format", "--partition", "data"][..],
        &["check", "--partition", "2"],
        &["info", "--partition", "2"],
        &["exercise", "--partition", "data", "--ops", "5000", "--seed", "1", "--fill", "90"],
        &["map", "--partition", "2"],
        &["dump", "--partition", "2"],
        &["check", "--partition", "data"],
    ]
    .iter()
    .enumerate()
    {
        let (code, out, complaint) = image.run(arguments);
        assert_eq!((code, complaint.as_str()), (0, ""), "{arguments:?}");
        assert!(!out.is_empty());
        if index == 0 {
            assert!(out.starts_with(&format!("{}: partition data: formatted: 32 MiB", image.name())), "{out}");
        }
    }
    assert_eq!(beside(&image), before, "something was written beside the partition");
    // The same volume as a whole file: addresses count from the start of the partition.
    let part = Scratch::blank(DATA_LEN);
    let mut bytes = vec![0; DATA_LEN as usize];
    std::fs::File::open(&image.path).unwrap().read_exact_at(&mut bytes, BOOT.0 + BOOT.1).unwrap();
    part.write(0, &bytes);
    for command in [&["info", "--json"][..], &["dump", "--json"], &["check", "--json"]] {
        let (code, out, _) = image.run(&[command, &["--partition", "2"]].concat());
        assert_eq!((code, &out), (0, &part.run(command).1));
    }
    // The last block of the partition is its second superblock; behind it is nothing.
    let last = format!("{:#x}", DATA_LEN - 16384);
    assert_eq!(run(&["dump", "--partition", "2", image.name(), &last]).0, 0);
    let (code, _, complaint) = run(&["dump", "--partition", "2", image.name(), "32M"]);
    assert_eq!(code, 1);
    assert!(complaint.contains("the image ends at 0x2000000"), "{complaint}");
}

#[test]
fn partitions_that_cannot_be() {
    let image = disk();
    let before = image.fingerprint();
    for (arguments, code, words) in [
        (&["info", "--partition", "4"][..], 2, "there is no such partition"),
        (&["format", "--partition", "date"], 1, "there is no such partition"),
        (&["format", "--partition", "boot"], 1, "not blank: it holds something at 0x0"),
        (&["format", "--partition", "3", "--size", "1M"], 1, "cannot be used with"),
        (&["grow", "--partition", "3", "--size", "1M"], 1, "cannot be used with"),
        (&["check", "--partition", "boot"], 2, "not a volume"),
        (&["format"], 1, "not blank: it holds something at 0x1c0"),
        (&["format"], 1, "a disk with partitions, of which --partition takes one"),
        (&["check"], 2, "a disk with partitions, of which --partition takes one"),
    ] {
        let (found, out, complaint) = image.run(arguments);
        assert_eq!((found, out.as_str()), (code, ""), "{arguments:?}");
        assert!(complaint.contains(words), "{arguments:?}: {complaint}");
    }
    assert_eq!(image.fingerprint(), before);
    let bare = Scratch::blank(8 << 20);
    let (code, _, complaint) = bare.run(&["info", "--partition", "1"]);
    assert_eq!(code, 2);
    assert!(complaint.contains("partition 1: partition table: there is none"), "{complaint}");
    let empty = Scratch::blank(0);
    let (code, _, complaint) = empty.run(&["format", "--partition", "1"]);
    assert_eq!(code, 1);
    assert!(complaint.contains("partition table: "), "{complaint}");
    let (code, _, complaint) = run(&["format", "--partition", "1", "/no/such/disk"]);
    assert_eq!((code, complaint.as_str()), (1, "arenite: /no/such/disk: partition 1: no such file\n"));
}

#[test]
fn a_volume_grows_with_its_partition() {
    let image = disk();
    assert_eq!(image.run(&["format", "--partition", "data"]).0, 0);
    let (code, _, complaint) = image.run(&["grow", "--partition", "data"]);
    assert_eq!(code, 1);
    assert!(complaint.ends_with("; make the partition larger first\n"), "{complaint}");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&image.path).unwrap();
    let mut table = gpt::GptConfig::new().writable(true).open_from_device(file).unwrap();
    table.remove_partition(3);
    let mut partitions = table.partitions().clone();
    partitions.get_mut(&2).unwrap().last_lba += 8 << 11;
    table.update_partitions(partitions).unwrap();
    table.write().unwrap();
    let (code, out, complaint) = image.run(&["grow", "--partition", "data"]);
    assert_eq!((code, complaint.as_str()), (0, ""));
    assert!(out.contains("partition data: grown: 8 -> "), "{out}");
    assert_eq!(image.run(&["check", "--partition", "data"]).0, 0);
}

/// Every command, with its exit code for an image that is in use. The last ones may be told to look nevertheless.
const COMMANDS: [(&[&str], i32, bool); 8] = [
    (&["format", "--force"], 1, false),
    (&["check"], 2, false),
    (&["exercise", "--ops", "1", "--seed", "1"], 2, false),
    (&["grow", "--size", "2M"], 2, false),
    (&["serve", "--socket", "/tmp/arenite-never.sock"], 2, false),
    (&["info"], 2, true),
    (&["dump"], 2, true),
    (&["map"], 2, true),
];

fn all_refuse(image: &Scratch, why: &str) {
    let before = image.fingerprint();
    for (arguments, code, may_look) in COMMANDS {
        let (found, out, complaint) = image.run(arguments);
        assert_eq!((found, out.as_str(), complaint.lines().count()), (code, "", 1), "{arguments:?}: {complaint}");
        assert!(complaint.contains(&format!("in use: {why}")), "{arguments:?}: {complaint}");
        assert_eq!(complaint.contains("--no-lock"), may_look, "{complaint}");
        if may_look {
            let (found, _, complaint) = image.run(&[arguments, &["--no-lock"]].concat());
            assert_eq!((found, complaint.as_str()), (0, ""), "{arguments:?}");
        }
    }
    assert_eq!(image.fingerprint(), before);
}

#[test]
fn what_another_program_has_is_refused() {
    let image = Scratch::blank(1 << 20);
    assert_eq!(image.run(&["format"]).0, 0);
    let device = FileDevice::open(&image.path, FileOptions::default()).unwrap();
    all_refuse(&image, "another program has it locked");
    drop(device);
    assert_eq!(image.run(&["check"]).0, 0);
    // Two that only read do not disturb each other.
    let reader = FileDevice::open(&image.path, FileOptions { read_only: true, ..FileOptions::default() }).unwrap();
    assert_eq!((image.run(&["check"]).0, image.run(&["info"]).0, image.run(&["grow"]).0), (0, 0, 2));
    drop(reader);
}

/// QEMU has locks of its own: on byte 101 while it may write to an image.
#[cfg(target_os = "linux")]
#[test]
fn the_disk_of_a_virtual_machine_is_refused() {
    use nix::fcntl::{fcntl, FcntlArg};
    use nix::libc::{flock, F_RDLCK, SEEK_SET};
    let lock_byte = |file: &std::fs::File, byte| {
        let lock = flock { l_type: F_RDLCK as i16, l_whence: SEEK_SET as i16, l_start: byte, l_len: 1, l_pid: 0 };
        fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).is_ok()
    };
    let image = Scratch::blank(1 << 20);
    assert_eq!(image.run(&["format"]).0, 0);
    let machine = std::fs::File::open(&image.path).unwrap();
    assert!(lock_byte(&machine, 101));
    all_refuse(&image, "a virtual machine has it open");
    drop(machine);
    assert_eq!(image.run(&["check"]).0, 0);

    // And the other way round: what is served is nothing that a machine can have.
    let socket = std::env::temp_dir().join(format!("arenite-place-{}.sock", std::process::id()));
    let mut tool = Command::new(env!("CARGO_BIN_EXE_arenite"));
    let mut child = tool.args(["serve", "-q", "--socket"]).arg(&socket).arg(&image.path).spawn().unwrap();
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let machine = std::fs::File::open(&image.path).unwrap();
    assert!(!lock_byte(&machine, 101) && !lock_byte(&machine, 100));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(lock_byte(&machine, 101));
}

/// A loop device over the file, if this machine lets us have one.
struct Loop(String);

impl Loop {
    fn over(image: &Scratch) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(&image.path).output().ok()?;
        output.status.success().then(|| Self(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn block_devices_are_had_by_one_program() {
    let image = Scratch::blank(1 << 20);
    let Some(device) = Loop::over(&image) else {
        eprintln!("not tried: no loop device can be had");
        return;
    };
    let node = device.0.as_str();
    let (code, out, complaint) = run(&["format", node]);
    assert_eq!((code, complaint.as_str()), (0, ""));
    assert!(out.contains("formatted: 1 MiB"), "{out}");
    for arguments in [&["info"][..], &["check"], &["exercise", "--ops", "300", "--seed", "1"], &["map"], &["dump"]] {
        assert_eq!(run(&[arguments, &[node]].concat()).0, 0, "{arguments:?}");
    }
    let (code, _, complaint) = run(&["grow", node]);
    assert!(code == 1 && complaint.contains("too small for one more arena"), "{complaint}");
    // As the kernel has it while it is mounted.
    let held = FileDevice::open(node.as_ref(), FileOptions::default()).unwrap();
    assert!(FileDevice::open(node.as_ref(), FileOptions::default()).is_err());
    for (arguments, code, _) in COMMANDS {
        let arguments: Vec<&str> = arguments.iter().copied().filter(|word| !["--size", "2M"].contains(word)).collect();
        let (found, _, complaint) = run(&[&arguments, &[node][..]].concat());
        assert_eq!(found, code, "{arguments:?}");
        assert!(complaint.contains("in use: "), "{complaint}");
    }
    drop(held);
    assert_eq!(run(&["check", node]).0, 0);
}
