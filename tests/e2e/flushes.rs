//! What waits for the disk: nothing that a step does.

use std::process::{Command, Stdio};

use crate::lab::Lab;

const FLUSHES: [&str; 6] = ["fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "msync"];
const STEPS: usize = 8;

/// The calls of a build that flush or write, one a line, in their order.
fn calls(step: &str) -> String {
    let lab = Lab::new();
    let dockerfile = format!("FROM busybox\n{}", step.repeat(STEPS));
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile), ("file", "x")]);
    let build = lab.build_command(&context, &["-t", "flushes"]);
    let log = lab.path("calls");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-s", "100", "-e", "signal=none", "-e"]);
    command.arg(format!("trace=write,{}", FLUSHES.join(","))).arg("-o").arg(&log);
    command.arg(build.get_program()).args(build.get_args()).stdin(Stdio::null());
    command.env_clear().envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().expect("`strace` can be run (package `strace`)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read_to_string(&log).expect("the log can be read")
}

#[test]
fn steps_flush_nothing() {
    let is_flush = |line: &&str| FLUSHES.iter().any(|name| line.contains(&format!(" {name}(")));
    for step in ["RUN true\n", "RUN echo x >> /x\n", "COPY file /a/\n", "WORKDIR a\n"] {
        let log = calls(step);
        let lines: Vec<&str> = log.lines().collect();
        let number = |text: &str| {
            let shown = |line: &str| Some(line.split_once(text)?.0.rsplit_once('#')?.1.trim().to_owned());
            lines.iter().enumerate().find_map(|(at, line)| Some((at, shown(line)?)))
        };
        let (first, _) = number(&format!("[2/{}]", STEPS + 1)).expect("the first step is shown");
        let (_, last) = number(&format!("[{0}/{0}]", STEPS + 1)).expect("the last step is shown");
        let done = format!("\"#{last} DONE");
        let end = lines.iter().position(|line| line.contains(&done)).expect("the last step ends");
        let flushes: Vec<&str> = lines[first..end].iter().copied().filter(is_flush).collect();
        // The end is written by a thread of its own: the one flush of the build may have begun before.
        let is_of_build = |line: &&str| line.contains(" syncfs(");
        assert!(flushes.len() <= 1 && flushes.iter().all(is_of_build) && end > first, "{step}{flushes:#?}");
        // It is seen.
        assert!(lines[first..].iter().any(is_of_build), "{step}");
    }
}
