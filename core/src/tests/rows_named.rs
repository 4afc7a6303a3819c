//! docs/ROWS.md names tests. Each of them must be there: a test that was renamed or left out would be missed otherwise.

use std::collections::BTreeSet;
use std::format;
use std::fs;
use std::path::{Path, PathBuf};
use std::string::{String, ToString};
use std::vec::Vec;

/// Where a test with this path is: a file of the crate's source, or of its integration tests.
fn candidates(root: &Path, package: &str, modules: &[&str]) -> Vec<PathBuf> {
    let inner = modules.iter().filter(|module| **module != "tests").copied().collect::<Vec<_>>().join("/");
    let modules = modules.join("/");
    let base = root.join(package);
    ["src", "tests"]
        .iter()
        .flat_map(|at| {
            [format!("{modules}.rs"), format!("{modules}/mod.rs"), format!("{modules}/main.rs"), format!("{inner}.rs")]
                .map(|file| base.join(at).join(file))
        })
        .collect()
}

fn is_test(root: &Path, name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    let [package, modules @ .., test] = &parts[..] else { return false };
    candidates(root, package, modules).iter().any(|file| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let wanted = format!("fn {test}(");
        let is_wanted = |item: &str| {
            let function = item.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("#["));
            function.is_some_and(|line| line.starts_with(&wanted))
        };
        text.split("#[test]").skip(1).any(is_wanted)
    })
}

#[test]
fn every_test_that_the_documentation_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let Ok(text) = fs::read_to_string(root.join("docs/ROWS.md")) else {
        assert!(!root.join("docs").exists(), "the page is missing");
        return;
    };
    let rows: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" | "))
        .filter(|(number, _)| number.parse::<u32>().is_ok())
        .map(|(number, rest)| format!("{number} {}", rest.split(" | ").next().unwrap_or("")))
        .collect();
    assert_eq!(rows.len(), 36 + 16 + 9);
    let mut missing = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| #")) {
        let last = line.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or("");
        let names: Vec<String> = last.split(", ").map(|name| name.trim_matches('`').to_string()).collect();
        missing.extend(names.into_iter().filter(|name| !is_test(&root, name)));
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
