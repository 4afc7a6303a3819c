//! Manual pages, completions, and what is quiet.

use crate::scratch::{arenite, run, Scratch};
use crate::structures::volume;
use std::path::Path;

const COMMANDS: [&str; 10] =
    ["info", "format", "check", "exercise", "dump", "map", "timeline", "grow", "completions", "serve"];

#[test]
fn every_command_has_a_page_with_its_exit_codes() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("man-{}", std::process::id()));
    let (code, out, complaint) = run(&["man", "--out", folder.to_str().unwrap()]);
    assert_eq!((code, out.as_str(), complaint.as_str()), (0, "", ""));
    for command in COMMANDS.iter().chain(&["man"]) {
        let page = std::fs::read_to_string(folder.join(format!("arenite-{command}.1"))).unwrap();
        for part in [".TH arenite", ".SH NAME", ".SH SYNOPSIS", ".SH NOTES\n.nf", "Exit codes:"] {
            assert!(page.contains(part), "{command}: {part}");
        }
        // The help of the terminal has the same lines behind its options.
        let help = String::from_utf8(arenite(&[command, "--help"]).stdout).unwrap();
        assert!(help.contains("Examples:\n"), "{command}");
        assert!(help.contains("Exit codes:\n  0"), "{command}");
        let (_, behind) = help.split_once("Examples:").unwrap();
        assert!(help.is_ascii() && behind.lines().all(|line| line.len() <= 120), "{command}");
    }
    assert!(folder.join("arenite.1").exists());
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(run(&["man", "--out", "/proc/nowhere"]).0, 1);
}

#[test]
fn every_shell_completes_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, complaint) = run(&["completions", shell]);
        assert_eq!((code, complaint.as_str()), (0, ""));
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    let (code, _, complaint) = run(&["completions", "tcsh"]);
    assert_eq!(code, 1);
    assert!(complaint.contains("possible values"), "{complaint}");
}

#[test]
fn quiet_says_nothing_of_success_and_all_of_failure() {
    let image = Scratch::blank(1 << 20);
    for arguments in [
        &["format", "-q"][..],
        &["--quiet", "check"],
        &["exercise", "--quiet", "--ops", "500", "--seed", "1"],
        &["grow", "-q", "--size", "2M"],
    ] {
        assert_eq!(image.run(arguments), (0, String::new(), String::new()), "{arguments:?}");
    }
    let (code, out, complaint) = image.run(&["-q", "format"]);
    assert_eq!((code, out.as_str(), complaint.lines().count()), (1, "", 1));
    image.flip(4096 + 20);
    image.flip(8192 + 20);
    let (code, out, _) = image.run(&["-q", "check"]);
    assert!(code == 1 && out.contains("damaged"), "{out}");
    // For `check`, 1 is kept for damage, wherever the option stands.
    assert_eq!(run(&["-q", "check", "--yaml", "x"]).0, 2);
}

/// No bar where nobody watches, however long it takes.
#[test]
fn no_progress_but_on_a_terminal() {
    let image = volume("64M", "4096");
    let started = std::time::Instant::now();
    let (code, _, complaint) = image.run(&["exercise", "--ops", "150000", "--seed", "1", "--commit-every", "50"]);
    assert_eq!((code, complaint.as_str()), (0, ""), "{:?}", started.elapsed());
}
