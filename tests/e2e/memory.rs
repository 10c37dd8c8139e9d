//! How much memory a build takes at most.

use std::path::Path;
use std::process::Stdio;

use crate::lab::{Lab, run};

const FILES: u64 = 12_000;
const BASE_KIB: u64 = 64 << 10;

/// The most memory that a build of `context` ever took, in KiB, as far as looking again and again tells.
fn peak(lab: &Lab, context: &Path) -> u64 {
    let mut command = lab.build_command(context, &["--output=type=cacheonly"]);
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("rbuild can be started");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let size = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(size.unwrap_or(0));
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            assert!(status.success(), "{status}");
            assert!(peak > 0, "nothing was seen of {}", context.display());
            return peak;
        }
        std::thread::yield_now();
    }
}

#[test]
fn many_files_take_little_more_than_one_kib_each() {
    let lab = Lab::new();
    let dockerfile = "FROM scratch AS one\nCOPY files /files\nFROM scratch\nCOPY --from=one /files /files\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile), ("files/changed", "1")]);
    let directory = context.join("files").display().to_string();
    let count = FILES / 300;
    let script = format!(
        "cd {directory}; for i in $(seq 1 {count}); do mkdir d$i; (cd d$i; touch $(seq 1 300)); done"
    );
    run("sh", &["-euc", &script]);
    for content in ["1", "2"] {
        std::fs::write(context.join("files/changed"), content).expect("a file can be written");
        let peak = peak(&lab, &context);
        assert!(peak < BASE_KIB + FILES, "{peak} KiB");
    }
}

#[test]
fn a_large_file_takes_no_memory() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY large /large\n"), ("large", "")]);
    run("truncate", &["-s", "2G", &context.join("large").to_string_lossy()]);
    let peak = peak(&lab, &context);
    assert!(peak < BASE_KIB, "{peak} KiB");
}
