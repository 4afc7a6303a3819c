//! What tests of the house look at.

use serde_json::Value;
use std::process::Command;

/// A file of the repository.
pub fn read(path: &str) -> String {
    let path = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What cargo knows of all packages; from its own cache if that is enough.
pub fn metadata() -> Value {
    let run = |offline: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).args(["metadata", "--format-version", "1"]);
        let output = command.arg("--locked").args(offline).output().unwrap();
        output.status.success().then_some(output.stdout)
    };
    let text = run(&["--offline"]).or_else(|| run(&[])).expect("cargo metadata");
    serde_json::from_slice(&text).unwrap()
}
