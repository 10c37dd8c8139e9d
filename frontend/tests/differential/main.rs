//! Two parsers, one language: ours and `parse-dockerfile`, over all Dockerfiles of the repository. Where they differ,
//! [`gaps`] says why, and what BuildKit made of the file takes our side.

mod gaps;
mod ours;
mod seen;
mod theirs;

use std::path::{Path, PathBuf};

use crate::gaps::GAPS;

/// A file that the two see differently.
struct Difference {
    /// A case of the conformance tests, or a path.
    case: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All Dockerfiles, as paths beneath the root, in order.
fn dockerfiles() -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = ["testdata", "examples"].map(PathBuf::from).into();
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(root().join(&directory)).expect("a folder can be read") {
            let entry = entry.expect("a folder can be read");
            let path = directory.join(entry.file_name());
            // What a link leads to is found by its own name.
            let kind = entry.file_type().expect("a file has a type");
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                found.extend(path.to_str().filter(|path| is_dockerfile(path)).map(str::to_owned));
            }
        }
    }
    found.sort();
    found
}

fn is_dockerfile(path: &str) -> bool {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let is_called_so = name.contains("ockerfile") && !name.ends_with(".dockerignore");
    is_called_so || directory == "testdata/fuzz/dockerfile"
}

/// The name of the case that a file is of, or its path.
fn case_of(path: &str) -> &str {
    let case =
        path.strip_prefix("testdata/conformance/").and_then(|path| path.strip_suffix("/ctx/Dockerfile"));
    case.unwrap_or(path)
}

fn differences() -> Vec<Difference> {
    let files = dockerfiles();
    assert!(files.len() > 700, "only {} Dockerfiles", files.len());
    let differences = files.iter().flat_map(|path| {
        let data = std::fs::read(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let text = String::from_utf8_lossy(&data);
        let found = seen::differences(&ours::see(&text), &theirs::see(&text));
        found.into_iter().map(|text| Difference { case: case_of(path).to_owned(), text })
    });
    differences.collect()
}

#[test]
fn both_parsers_see_the_same_but_for_known_gaps() {
    let differences = differences();
    let is = |difference: &Difference, (case, part): (&str, &str)| {
        difference.case == case && difference.text.contains(part)
    };
    let known: Vec<(&str, &str)> = GAPS.iter().flat_map(|gap| gap.cases).copied().collect();
    let unknown = differences.iter().filter(|difference| !known.iter().any(|case| is(difference, *case)));
    let unknown: Vec<String> =
        unknown.map(|difference| format!("{}: {}", difference.case, difference.text)).collect();
    assert!(unknown.is_empty(), "differences that no gap explains:\n{}", unknown.join("\n"));
    let closed = known.iter().filter(|case| !differences.iter().any(|difference| is(difference, **case)));
    let closed: Vec<String> = closed.map(|(case, part)| format!("{case}: {part}")).collect();
    assert!(closed.is_empty(), "gaps that are closed and can go:\n{}", closed.join("\n"));
}

#[test]
fn what_buildkit_made_of_it_takes_our_side() {
    for gap in GAPS {
        for (case, part) in gap.cases {
            let path = root().join("testdata/conformance").join(case).join("expected.json");
            // Seeds of the fuzz target have no record.
            let Ok(text) = std::fs::read_to_string(path) else { continue };
            let expected: serde_json::Value = serde_json::from_str(&text).expect("a record is JSON");
            // A check is not ok if it warns, but it has read the file.
            let is_read = expected["ok"] == true || !expected["call"].is_null();
            let fails = part.starts_with("ours alone fails") || part.starts_with("ours fails");
            assert_eq!(is_read, !fails, "{case}: {part}\ntheirs {}\nBuildKit {}", gap.theirs, gap.buildkit);
        }
    }
}
