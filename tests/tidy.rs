//! Rules of the code base that the compiler does not check.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which of our crates each of them may depend on, as ARCHITECTURE.md says. `testkit` may be a dev-dependency of any.
const ALLOWED: &[(&str, &[&str])] = &[
    ("oci", &[]),
    ("pattern", &[]),
    ("sandbox", &[]),
    ("sbom", &[]),
    ("solver", &["oci"]),
    ("registry", &["oci"]),
    ("cache", &["oci", "pattern"]),
    ("frontend", &["solver", "oci", "pattern"]),
    ("exporter", &["cache", "registry", "oci", "sbom"]),
    ("worker", &["solver", "cache", "registry", "sandbox", "oci", "pattern"]),
    ("testkit", &["oci", "solver", "registry"]),
    (
        "rbuild",
        &[
            "oci", "pattern", "sandbox", "solver", "registry", "cache", "frontend", "exporter", "worker",
            "sbom",
        ],
    ),
];

/// Names that say nothing: a helper lives with its only user.
const NAMES_THAT_SAY_NOTHING: &[&str] = &["util", "utils", "common", "types", "helpers", "misc"];

const LONGEST_FILE: usize = 900;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn manifests() -> BTreeMap<String, (PathBuf, toml::Table)> {
    let members = ["", "frontend", "solver", "cache", "exporter"].map(PathBuf::from);
    let crates = std::fs::read_dir(root().join("crates")).expect("there is a folder crates");
    let crates = crates.map(|entry| Path::new("crates").join(entry.expect("it can be read").file_name()));
    members
        .into_iter()
        .chain(crates)
        .map(|directory| {
            let path = root().join(&directory).join("Cargo.toml");
            let text =
                std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let table: toml::Table =
                text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let name = table["package"]["name"].as_str().expect("a package has a name").to_owned();
            (name, (directory, table))
        })
        .collect()
}

fn dependencies(manifest: &toml::Table, section: &str) -> BTreeSet<String> {
    let table = manifest.get(section).and_then(toml::Value::as_table);
    table.into_iter().flat_map(|table| table.keys().cloned()).collect()
}

#[test]
fn crates_depend_only_on_those_they_may() {
    let manifests = manifests();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut wrong = Vec::new();
    for (name, (_, manifest)) in &manifests {
        let may = allowed.get(name.as_str()).unwrap_or_else(|| panic!("`{name}` is not in the table"));
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for dependency in dependencies(manifest, section) {
                let is_ours = manifests.contains_key(&dependency);
                let is_testkit = dependency == "testkit" && section == "dev-dependencies";
                if is_ours && !is_testkit && !may.contains(&dependency.as_str()) {
                    wrong.push(format!("{name} -> {dependency} ({section})"));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "edges that ARCHITECTURE.md does not have");
}

#[test]
fn architecture_has_the_same_table() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("there is an ARCHITECTURE.md");
    for (name, may) in ALLOWED {
        let row = text
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` |")))
            .unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for `{name}`"));
        let named: BTreeSet<&str> = row.split('`').skip(3).step_by(2).collect();
        if *name != "rbuild" {
            assert_eq!(named, may.iter().copied().collect(), "the row of `{name}`");
        }
    }
}

#[test]
fn crates_take_the_lints_of_the_workspace() {
    for (name, (_, manifest)) in manifests() {
        if name == "sandbox" {
            // Cargo inherits a lint table whole or not at all: the sandbox has a copy of its own that allows unsafe.
            assert!(manifest["lints"]["clippy"]["unwrap_used"].as_str() == Some("warn"), "{name}");
        } else {
            assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "{name}");
        }
    }
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> =
        ["src", "tests", "benches", "frontend", "solver", "cache", "exporter", "crates"]
            .map(|d| root().join(d))
            .into();
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("a source folder can be read") {
            let path = entry.expect("a source folder can be read").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn names_say_something() {
    for path in sources() {
        let stem = path.file_stem().expect("a source has a name").to_string_lossy().into_owned();
        assert!(!NAMES_THAT_SAY_NOTHING.contains(&stem.as_str()), "{}", path.display());
    }
    for name in manifests().keys() {
        assert!(!NAMES_THAT_SAY_NOTHING.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn files_are_not_too_long() {
    let lines = |path: &PathBuf| std::fs::read_to_string(path).expect("a source can be read").lines().count();
    let long: Vec<String> = sources()
        .iter()
        .filter(|path| lines(path) > LONGEST_FILE)
        .map(|path| format!("{}: {} lines", path.display(), lines(path)))
        .collect();
    assert_eq!(long, Vec::<String>::new());
}

#[test]
fn each_crate_says_what_is_absent() {
    for (name, (directory, _)) in manifests() {
        if matches!(name.as_str(), "rbuild" | "testkit") {
            continue;
        }
        let path = root().join(directory).join("src/lib.rs");
        let text = std::fs::read_to_string(&path).expect("a crate has a lib.rs");
        let head: String =
            text.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join(" ");
        let head = head.to_lowercase();
        let says_it = ["absent", "no i/o", "never", "nothing of"].iter().any(|words| head.contains(words));
        assert!(says_it, "the documentation of `{name}` does not say what it leaves out");
    }
}

#[test]
fn unsafe_code_is_in_the_sandbox_alone() {
    for path in sources() {
        let in_sandbox = path.starts_with(root().join("crates/sandbox"));
        let text = std::fs::read_to_string(&path).expect("a source can be read");
        let needle = concat!("allow(", "unsafe_code");
        assert!(in_sandbox || !text.contains(needle), "{} allows unsafe code", path.display());
    }
}
