//! The output of steps, in whatever size and form.

use std::process::Command;

use crate::lab::{Lab, Ran, Running};

const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(120);

fn context(lab: &Lab, script: &str) -> std::path::PathBuf {
    lab.context("ctx", &[("Dockerfile", &format!("FROM busybox\nRUN {script}\n"))])
}

/// The lines that the step wrote, without its number and the time.
fn shown(ran: &Ran) -> Vec<&str> {
    let lines = ran.stderr.lines().filter_map(|line| line.strip_prefix('#'));
    let is_time = |text: &str| text.contains('.') && text.parse::<f64>().is_ok();
    lines
        .filter_map(|line| {
            let (_, rest) = line.split_once(' ')?;
            let (time, line) = rest.split_once(' ').unwrap_or((rest, ""));
            is_time(time).then_some(line)
        })
        .collect()
}

#[test]
fn nothing_is_left_out_of_much_output() {
    let lab = Lab::new();
    let ran = lab.build(&context(&lab, "seq 1 200000; echo end >&2"), &[]).succeeded();
    let shown = shown(&ran);
    let numbers: Vec<u32> = shown.iter().filter_map(|line| line.parse().ok()).collect();
    assert!(numbers.iter().copied().eq(1..=200_000), "{} lines", numbers.len());
    assert!(shown.contains(&"end"));
}

#[test]
fn output_is_harmless_to_a_terminal() {
    let lab = Lab::new();
    let script = r"printf '10%%\r20%%\r\n\033[31mred\033[2J\a\n\377\376 x\n\0\n'";
    let ran = lab.build(&context(&lab, script), &[]).succeeded();
    assert_eq!(shown(&ran), ["10%", "20%", "\u{1b}[31mred\u{1b}[0m", "\u{fffd}\u{fffd} x", ""]);
}

#[test]
fn whoever_stops_reading_does_not_end_the_build() {
    let lab = Lab::new();
    let mut command = lab.build_command(&context(&lab, "echo begun; seq 1 100000; echo x > /made"), &[]);
    command.arg("--output=type=tar,dest=t.tar");
    let mut build = Running::start(command);
    build.wait_for(" begun");
    assert_eq!(build.close(), Some(0));
    assert_eq!(crate::lab::Tree::read(&lab.path("t.tar")).text("made"), "x\n");
}

fn limited(mut command: Command, name: &str, value: &str) -> Ran {
    command.env(name, value);
    Ran::from(testkit::run_with_timeout(command, TIMEOUT))
}

#[test]
fn output_is_clipped_only_where_it_is_asked_for() {
    let lab = Lab::new();
    let context = context(&lab, "seq 1 20000; exit 3");
    let command = || lab.build_command(&context, &[]);
    let clipped = limited(command(), "BUILDKIT_STEP_LOG_MAX_SIZE", "1024").failed(1, &["exit code: 3"]);
    assert!(clipped.stderr.contains("[output clipped, log limit 1KiB reached]\n"), "{}", clipped.stderr);
    assert!(clipped.stderr.len() < 8192, "{}", clipped.stderr);
    // What is repeated with the error is the end nevertheless.
    assert!(clipped.stderr.contains(" 19999\n") && clipped.stderr.contains(" 20000\n------\n"));
    let whole = limited(command(), "BUILDKIT_STEP_LOG_MAX_SIZE", "-1").failed(1, &[" 10000\n"]);
    assert!(!whole.stderr.contains("clipped"));
    let slow = limited(command(), "BUILDKIT_STEP_LOG_MAX_SPEED", "1000").failed(1, &["log limit 1000B/s"]);
    assert!(!slow.stderr.contains(" 10000\n"));
    limited(command(), "BUILDKIT_STEP_LOG_MAX_SIZE", "2MB")
        .failed(2, &["invalid value `2MB` for BUILDKIT_STEP_LOG_MAX_SIZE"]);
}
