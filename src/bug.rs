//! A panic: a mistake of this program, which is told as one and ends it wherever it happens.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{PanicHookInfo, set_hook};
use std::time::Duration;

use crate::stderr;

/// The exit code, which is also that of a Rust program that nobody has told what to do.
const EXIT_CODE: i32 = 101;

/// How long it is waited for whoever reads standard error.
const READER_PATIENCE: Duration = Duration::from_secs(1);

/// Has panics told from now on.
pub(crate) fn watch() {
    set_hook(Box::new(|panic| {
        let text = text(panic, &Backtrace::capture());
        // The live view would draw over what stands elsewhere.
        stderr::write_last(text.as_bytes());
        stderr::flush_for(READER_PATIENCE);
        // In a thread that nobody waits for, the build would go on without it, or wait for it forever.
        crate::exit_at_once(EXIT_CODE)
    }));
}

fn text(panic: &PanicHookInfo<'_>, backtrace: &Backtrace) -> String {
    let payload = panic.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("a panic without a message");
    let place = panic.location().map_or_else(String::new, |place| format!(" ({place})"));
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!("ERROR: this is a bug in rbuild {version}: {message}{place}\n");
    if backtrace.status() == BacktraceStatus::Captured {
        text += &backtrace.to_string();
    } else {
        text += "hint: with `RUST_BACKTRACE=1` it is told how rbuild got there\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Set for the process that has the bug.
    const CHILD: &str = "RBUILD_TEST_BUG";

    #[test]
    fn a_bug_is_told_and_ends_the_program_from_any_thread() {
        if std::env::var_os(CHILD).is_some() {
            watch();
            let thread = std::thread::spawn(|| panic!("no {}", "luck"));
            let _ = thread.join();
            unreachable!("the program has ended");
        }
        let run = |backtrace: &str| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args([
                "--exact",
                "--nocapture",
                "bug::tests::a_bug_is_told_and_ends_the_program_from_any_thread",
            ]);
            let output = command.env(CHILD, "1").env("RUST_BACKTRACE", backtrace).output().unwrap();
            assert_eq!(output.status.code(), Some(101));
            String::from_utf8(output.stderr).unwrap()
        };
        let text = run("0");
        let lines: Vec<&str> = text.lines().collect();
        let beginning =
            format!("ERROR: this is a bug in rbuild {}: no luck (src/bug.rs:", env!("CARGO_PKG_VERSION"));
        assert!(lines.len() == 2 && lines[0].starts_with(&beginning), "{text}");
        assert_eq!(lines[1], "hint: with `RUST_BACKTRACE=1` it is told how rbuild got there");
        assert!(run("1").contains("bug::tests::"));
    }
}
