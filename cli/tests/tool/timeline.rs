//! `arenite timeline`.

use crate::scratch::run;
use crate::svg::{classes, parse};
use arenite_core::format::BlockSize;
use arenite_core::{FormatOptions, Store};
use arenite_shim::nbd::tracefile::save;
use arenite_shim::record::{Recorder, Tape};
use arenite_shim::trace::{Event, Trace};
use arenite_shim::{boxed_memory, Disk, HostPlatform, MemDevice, MemOptions, SmallMemory};
use std::path::Path;
use std::sync::Arc;

fn lane<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().find(|line| line.starts_with(name)).unwrap().get(14..).unwrap()
}

/// The order that makes a commit safe, as the picture has it.
#[test]
fn the_example_shows_the_order_of_a_commit() {
    let (code, text, complaint) = run(&["timeline", "--example"]);
    assert_eq!((code, complaint.as_str()), (0, ""));
    assert!(text.contains("3 flushes, 2 before it is acknowledged"), "{text}");
    let begins = |name, letter| lane(&text, name).find(letter).unwrap();
    let ends = |name, letter| lane(&text, name).rfind(letter).unwrap();
    let flush = begins("flush", 'F');
    for name in ["data", "log", "header A"] {
        assert!(ends(name, '=') < flush, "{text}");
    }
    assert!(begins("superblock 0", '=') > flush);
    let acknowledged = begins("acknowledged", '^');
    assert!(ends("superblock 0", '=') < acknowledged);
    for name in ["header B", "superblock 1"] {
        assert!(begins(name, '=') > acknowledged && ends(name, '=') < ends("flush", 'F'), "{text}");
    }
    let crash = lane(&text, "after a crash");
    assert_eq!(
        (crash.rfind('o').unwrap() + 1, crash.find('?').unwrap()),
        (begins("superblock 0", '='), begins("superblock 0", '='))
    );
    assert_eq!(crash.find('n').unwrap(), acknowledged);
    assert!(text.contains("acknowledged: generation 3 is durable"), "{text}");
}

#[test]
fn the_picture_has_every_write() {
    let (code, svg, _) = run(&["timeline", "--example", "-o", "-"]);
    assert_eq!(code, 0);
    let counts = classes(&svg);
    // One of each more in the legend; three flushes in their lane, and across all lanes.
    assert_eq!((counts["log"], counts["header"], counts["super"]), (2, 3, 3));
    assert_eq!((counts["flush"], counts["flushbar"]), (3, 4));
    assert_eq!((counts["old"], counts["either"], counts["new"]), (1, 1, 1));
    let words = parse(&svg);
    for part in ["a crash here shows: 2 or 3, whole", "acknowledged: durable from here on", "superblock 1: gen 3"] {
        assert!(words.contains(part), "{part} in {words}");
    }
}

/// A trace of three commits, the last of them cut off before its second flush.
fn recorded(path: &Path) -> [u64; 3] {
    let memory: Box<SmallMemory> = boxed_memory();
    let disk = Arc::new(Disk::zeroed(1 << 20));
    let tape = Tape::new();
    let device = Recorder::new(MemDevice::new(Arc::clone(&disk), MemOptions::default()), Arc::clone(&tape));
    let options = FormatOptions { block_size: BlockSize::new(4096).unwrap(), arenas: 2, force: false };
    let store = Store::format(memory.take().unwrap(), &device, &HostPlatform, options).unwrap();
    let (base, skip) = (disk.snapshot(), tape.trace(Arc::from([])).events.len());
    let generations = [1_u8, 2, 3].map(|byte| {
        crate::structures::data(&store, byte);
        let generation = store.commit(store.roots()).unwrap();
        store.settle().unwrap();
        generation
    });
    let mut trace = tape.trace(base);
    trace.events.drain(..skip);
    let flush = trace.events.iter().rposition(|event| matches!(event, Event::Issue { addr: 0, .. })).unwrap();
    trace.events.truncate(flush + 2);
    save(path, &trace).unwrap();
    generations
}

#[test]
fn commits_of_a_file() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("timeline-{}.trace", std::process::id()));
    let generations = recorded(&path);
    let name = path.to_str().unwrap();
    for (number, generation) in (1..).zip(generations) {
        let (code, text, complaint) = run(&["timeline", name, "--commit", &number.to_string()]);
        assert_eq!((code, complaint.as_str()), (0, ""));
        assert!(text.starts_with(&format!("Commit {number} of 3: generation {generation}\n")), "{text}");
        assert_eq!(text.contains("never acknowledged"), number == 3, "{text}");
        assert!(lane(&text, "data").contains('='), "{text}");
        // What was there before, and no more than one of each kind but the data.
        assert!(text.contains(&format!("o generation {}; ?", generation - 1)), "{text}");
        assert_eq!(text.matches("write    superblock 0").count(), 1, "{text}");
        classes(&run(&["timeline", name, "--commit", &number.to_string(), "-o", "-"]).1);
    }
    // The last one that was acknowledged, if nothing is said.
    assert!(run(&["timeline", name]).1.starts_with("Commit 2 of 3"));
    let cases =
        [(&["--commit", "4"][..], "there is no commit 4: the trace has 3"), (&["-o", name], "overwrite the trace")];
    for (arguments, words) in cases {
        let (code, _, complaint) = run(&[&["timeline", name], arguments].concat());
        assert!(code == 1 && complaint.contains(words), "{complaint}");
    }
    std::fs::remove_file(&path).unwrap();
}

/// Whatever a trace says, it is shown or refused.
#[test]
fn traces_that_make_no_sense() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("timeline-odd-{}.trace", std::process::id()));
    let mut superblock = Disk::zeroed(1 << 20).snapshot().to_vec();
    let image = crate::structures::volume("1M", "4096");
    superblock.copy_from_slice(&std::fs::read(&image.path).unwrap());
    let issue = |id, addr, len| Event::Issue { id, addr, bytes: vec![7; len].into() };
    let second: Arc<[u8]> = superblock[..4096].into();
    let odd = vec![
        Event::Complete { id: 9, result: Ok(()) },
        Event::FlushComplete { id: 8, result: Ok(()) },
        issue(1, 512, 1024),
        issue(2, 4096 * 3, 4096 * 40),
        issue(2, 0xfe000, 4096),
        Event::Lost { id: 77 },
        Event::Issue { id: 3, addr: 0, bytes: second },
        Event::FlushIssue { id: 4 },
        Event::FlushIssue { id: 4 },
    ];
    for count in 0..=odd.len() {
        let trace = Trace { base: superblock.clone().into(), events: odd[..count].to_vec() };
        save(&path, &trace).unwrap();
        let (code, _, complaint) = run(&["timeline", path.to_str().unwrap()]);
        // The superblock is the one that was there.
        assert_eq!(code, 1, "{complaint}");
        assert!(complaint.contains("no commit"), "{complaint}");
        let trace = Trace { base: vec![0; 1 << 20].into(), events: odd[..count].to_vec() };
        save(&path, &trace).unwrap();
        let (code, text, complaint) = run(&["timeline", path.to_str().unwrap()]);
        assert_eq!(code, i32::from(count < 7), "{complaint}");
        assert!(code == 1 || text.contains("A crash shows: o no volume; ?"), "{text}");
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn mistakes() {
    for (arguments, code, words) in [
        (&["timeline"][..], 1, "<TRACE>"),
        (&["timeline", "x", "--example"], 1, "cannot be used with"),
        (&["timeline", "/nowhere/at-all.trace"], 1, "No such file"),
        (&["timeline", "/dev/null"], 1, "not a regular file"),
        (&["timeline", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")], 1, "not a trace"),
        (&["timeline", "--example", "--commit", "2"], 1, "there is no commit 2: the trace has 1"),
        (&["timeline", "--example", "--commit", "0"], 1, "0 is not in"),
        (&["timeline", "--example", "-o", "/nowhere/at-all.svg"], 1, "/nowhere/at-all.svg"),
    ] {
        let (found, out, complaint) = run(arguments);
        assert_eq!((found, out.as_str()), (code, ""), "{complaint}");
        assert!(complaint.contains(words), "{complaint}");
    }
}
