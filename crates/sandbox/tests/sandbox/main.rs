//! Sandboxes on this machine, as root and as ordinary users. Needs root, `busybox-static`, `uidmap`, `passwd`, `passt`,
//! `iproute2` and `qemu-user-static` (Debian packages).
//!
//! A program of its own instead of the standard harness: it is the init of its sandboxes, a program inside of them, and
//! runs itself again as an ordinary user.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, which clippy knows by the harness that is not used here"
)]

mod as_root;
mod as_user;
mod confinement;
mod emulated;
mod escapes;
mod fixture;
mod inside;
mod limits;
mod networks;
mod terminal;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A test and its name.
type Test = (&'static str, fn(&fixture::Fixture));

fn main() {
    sandbox::run_init_if_requested();
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("inside") => inside::run(&arguments[2..]),
        // The one argument that the line of an interpreter may have.
        Some("overwrite") => inside::overwrite(),
        Some("call") => inside::ask_server(&arguments[2], &arguments[3]),
        Some("bound") => inside::send_by_device(&arguments[2], &arguments[3]),
        Some("with-an-outside") => networks::with_an_outside(),
        Some("as-user") => as_user::run(&arguments[2..]),
        Some("doomed-limited-caller") => limits::doomed_caller(&arguments[2]),
        Some("doomed-caller") => as_root::doomed_caller(&arguments[2]),
        Some("raw-caller") => terminal::raw_caller(),
        // What `cargo nextest` and editors ask for.
        Some("--list") => println!("all: test"),
        filter => {
            let filter = filter.filter(|word| !word.starts_with('-')).unwrap_or_default();
            assert!(rustix::process::geteuid().is_root(), "these tests must run as root");
            let fixture = fixture::Fixture::new();
            let all = [
                as_root::TESTS,
                confinement::TESTS,
                emulated::TESTS,
                escapes::TESTS,
                limits::TESTS,
                networks::TESTS,
                as_user::TESTS,
                terminal::TESTS,
            ];
            let failed: usize = all.iter().map(|tests| run(tests, filter, &fixture)).sum();
            drop(fixture);
            assert_eq!(failed, 0, "tests failed");
        }
    }
}

/// Runs the tests whose name holds the filter and gives the number of failed ones.
fn run(tests: &[Test], filter: &str, fixture: &fixture::Fixture) -> usize {
    let mut failed = 0;
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(filter)) {
        let result = catch_unwind(AssertUnwindSafe(|| test(fixture)));
        println!("test {name} ... {}", if result.is_ok() { "ok" } else { "FAILED" });
        failed += usize::from(result.is_err());
    }
    failed
}
