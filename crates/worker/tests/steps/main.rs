//! Whole solves on this machine: a store, a base image, sandboxes. Needs root, overlay and user namespaces.
//!
//! `steps [NAME…]` runs the tests whose names contain one of the words.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "the lints make an exception for tests, which they do not see without the usual harness"
)]
#![allow(clippy::similar_names, reason = "names here are as near to each other as what they name")]

mod bench;
mod cases;
mod crashes;
mod debug;
mod git;
mod networks;
mod remote;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use cache::SnapshotterKind;

fn main() -> ExitCode {
    sandbox::run_init_if_requested();
    if std::env::args().nth(1).as_deref() == Some("inside-agent-client") {
        return cases::agent_client();
    }
    if std::env::args().nth(1).as_deref() == Some(crashes::INSIDE) {
        crashes::build_and_die();
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let mut failed = Vec::new();
    let all = [cases::ALL, crashes::ALL, debug::ALL, remote::ALL, git::ALL, networks::ALL];
    for (name, test) in all.into_iter().flatten() {
        for kind in [SnapshotterKind::Overlay, SnapshotterKind::Copy] {
            let name = format!("{name} ({kind:?})");
            if !words.is_empty() && !words.iter().any(|word| name.contains(word.as_str())) {
                continue;
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| test(kind)));
            println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
            if outcome.is_err() {
                failed.push(name);
            }
        }
    }
    println!("\nfailures: {failed:?}");
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
