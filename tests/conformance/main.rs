//! Runs every case of `testdata/conformance` through the binary and compares the images with what was recorded.
//!
//! `RBUILD_CONFORMANCE` chooses topics or cases: `RBUILD_CONFORMANCE=copy,fs/umask`. The cases in
//! `testdata/conformance-failing.txt` are expected not to hold; the run fails when another one breaks, and when one
//! of these holds, so that the list only shrinks.
//!
//! `RBUILD_CONFORMANCE_USER=1` has an ordinary user with subordinate ids build, who is made for that. What the kernel
//! forbids such a user is in `testdata/conformance-forbidden.txt`; these cases are expected not to hold then.

#![expect(clippy::print_stdout, reason = "this is a program that reports to a person")]

mod case;
mod compare;
mod image;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use case::{Builder, Case, Environment};

fn main() -> ExitCode {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let chosen = std::env::var("RBUILD_CONFORMANCE").unwrap_or_default();
    let chosen: Vec<&str> = chosen.split(',').filter(|word| !word.is_empty()).collect();
    let cases: Vec<Case> = find_cases(&data.join("conformance"))
        .into_iter()
        .filter(|case| {
            chosen.is_empty() || chosen.iter().any(|word| *word == case.topic || *word == case.name())
        })
        .collect();
    assert!(!cases.is_empty(), "no case is chosen by RBUILD_CONFORMANCE");
    let mut expected_to_fail = read_failing(&data, "conformance-failing.txt");
    let builder = match std::env::var("RBUILD_CONFORMANCE_USER").as_deref() {
        Ok("1") => Builder::user(),
        _ => Builder::Root,
    };
    if matches!(builder, Builder::User(_)) {
        expected_to_fail.extend(read_failing(&data, "conformance-forbidden.txt"));
    }
    let environment = Environment::start(&data.join("bases/oci"), builder);

    let results = run_all(&cases, &environment);
    report(&cases, &results, &expected_to_fail)
}

fn find_cases(root: &Path) -> Vec<Case> {
    let mut cases: Vec<Case> = directories(root)
        .iter()
        .flat_map(|topic| directories(topic))
        .map(|directory| Case::read(&directory))
        .collect();
    cases.sort_by_key(Case::name);
    cases
}

fn directories(root: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(root)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", root.display()))
        .map(|entry| entry.expect("the directory can be read").path())
        .filter(|path| path.is_dir())
        .collect()
}

/// The cases of a list, each with the name of the list: one case a line, `topic/name: reason`.
fn read_failing(data: &Path, list: &'static str) -> BTreeMap<String, &'static str> {
    let text = std::fs::read_to_string(data.join(list))
        .unwrap_or_else(|error| panic!("cannot read {list}: {error}"));
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (name, reason) = line.split_once(": ").unwrap_or((line, ""));
            assert!(!reason.is_empty(), "`{name}` is listed as failing without a reason");
            (name.to_owned(), list)
        })
        .collect()
}

/// The differences found in each case; empty where it holds.
fn run_all(cases: &[Case], environment: &Environment) -> BTreeMap<String, Vec<String>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from) + 1;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let differences = case.run(environment);
                    results.lock().expect("no thread panics").insert(case.name(), differences);
                }
            });
        }
    });
    results.into_inner().expect("no thread panics")
}

fn report(
    cases: &[Case],
    results: &BTreeMap<String, Vec<String>>,
    expected_to_fail: &BTreeMap<String, &str>,
) -> ExitCode {
    let mut topics: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut wrong = 0;
    for case in cases {
        let name = case.name();
        let differences = &results[&name];
        let (holding, all) = topics.entry(&case.topic).or_default();
        *all += 1;
        *holding += usize::from(differences.is_empty());
        match (differences.is_empty(), expected_to_fail.get(&name)) {
            (true, Some(list)) => {
                wrong += 1;
                println!("{name} holds: take it off {list}");
            }
            (false, None) => {
                wrong += 1;
                println!("{name} does not hold ({}):", case.about);
                for difference in differences {
                    println!("    {}", difference.replace('\n', "\n    "));
                }
            }
            _ => {}
        }
    }
    for (topic, (holding, all)) in &topics {
        println!("{topic:10} {holding} of {all} hold");
    }
    let holding: usize = topics.values().map(|(holding, _)| holding).sum();
    println!("{holding} of {} cases hold; {wrong} are not as listed", cases.len());
    println!("conformance: {} passed, {wrong} failed", cases.len() - wrong);
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
