//! What is published can be: its metadata are complete. What is not says so.

mod common;

use common::{metadata, read};
use serde_json::Value;

/// The same list is in `qemu/src/packages.rs`, whose step makes the packages.
const PUBLISHED: [&str; 6] =
    ["arenite", "arenite-adapters", "arenite-catalog", "arenite-core", "arenite-partition", "arenite-shim"];

fn own_packages(metadata: &Value) -> Vec<&Value> {
    metadata["packages"].as_array().unwrap().iter().filter(|package| package["source"].is_null()).collect()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap()
}

#[test]
fn the_packages_of_the_list_are_published_and_no_other() {
    let metadata = metadata();
    let mut published: Vec<&str> =
        own_packages(&metadata).into_iter().filter(|package| package["publish"].is_null()).map(name).collect();
    published.sort_unstable();
    assert_eq!(published, PUBLISHED);
    let step = read("qemu/src/packages.rs");
    assert!(PUBLISHED.iter().all(|name| step.contains(&format!("\"{name}\""))));
}

#[test]
fn what_is_published_has_all_that_belongs_to_a_package() {
    let metadata = metadata();
    for package in own_packages(&metadata).into_iter().filter(|package| PUBLISHED.contains(&name(package))) {
        let name = name(package);
        for key in ["description", "license", "readme", "rust_version", "documentation"] {
            assert!(package[key].as_str().is_some_and(|text| !text.is_empty()), "{name}: no {key}");
        }
        let keywords = package["keywords"].as_array().unwrap();
        assert!((1..=5).contains(&keywords.len()), "{name}: keywords");
        assert!(keywords.iter().all(|word| word.as_str().unwrap().len() <= 20), "{name}: a long keyword");
        assert!((1..=5).contains(&package["categories"].as_array().unwrap().len()), "{name}: categories");
        assert!(!package["metadata"]["docs"]["rs"].is_null(), "{name}: nothing for docs.rs");
        let folder = package["manifest_path"].as_str().unwrap().trim_end_matches("Cargo.toml");
        for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
            let text = std::fs::read_to_string(format!("{folder}{licence}")).unwrap_or_default();
            assert_eq!(text, read(licence), "{name}: {licence}");
        }
    }
}

/// A registry knows nothing of paths.
#[test]
fn what_is_published_depends_on_nothing_that_is_not() {
    let metadata = metadata();
    for package in own_packages(&metadata).into_iter().filter(|package| PUBLISHED.contains(&name(package))) {
        for dependency in package["dependencies"].as_array().unwrap() {
            let (of, on) = (name(package), name(dependency));
            assert_ne!(dependency["req"], "*", "{of}: {on} in any version");
            if !dependency["path"].is_null() && dependency["kind"] != "dev" {
                assert!(PUBLISHED.contains(&on), "{of}: {on} is not published");
            }
        }
    }
}
