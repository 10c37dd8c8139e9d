//! A build that is killed leaves nothing wrong behind.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::lab::Lab;

const DOCKERFILE: &str = "FROM busybox AS one
COPY input /input
RUN sha256sum < /input > /one && seq 1 20000 > /many
FROM busybox AS two
RUN seq 1 5000 | sha256sum > /two
FROM busybox
WORKDIR /work
COPY --from=one /one /many ./
COPY --from=two /two ./
RUN cat one two many | sha256sum > sum
RUN rm many && ln -s sum link
";

fn expected(lab: &Lab) -> Vec<(String, Vec<u8>)> {
    let context = lab.path("ctx");
    let tree = lab.build_tree(&context, &[]);
    tree.0.into_iter().map(|(name, _, _, content)| (name, content)).collect()
}

/// Kills a build after `delay`; tells whether it was still running.
fn kill_after(lab: &Lab, delay: Duration) -> bool {
    let mut command = lab.build_command(&lab.path("ctx"), &["-t", "killed"]);
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("rbuild can be started");
    let deadline = Instant::now() + delay;
    loop {
        if child.try_wait().expect("a child can be waited for").is_some() {
            return false;
        }
        if Instant::now() >= deadline {
            break;
        }
        std::thread::yield_now();
    }
    child.kill().expect("a child can be killed");
    child.wait().expect("a child can be waited for");
    true
}

fn killed_at_many_points(lab: &Lab) {
    lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("input", "some input")]);
    let reference = Lab::new();
    reference.context("ctx", &[("Dockerfile", DOCKERFILE), ("input", "some input")]);
    let right = expected(&reference);

    let (mut delay, mut kills) = (Duration::from_micros(500), 0);
    // Each kill leaves what it had made; every few of them the build is let run to its end and compared, then made
    // to begin anew by another input.
    while kill_after(lab, delay) {
        kills += 1;
        delay += Duration::from_millis(4);
        if kills % 8 == 0 {
            assert_eq!(expected(lab), right, "after {kills} kills");
            lab.rbuild(&["prune", "--all", "--force"]).succeeded();
        }
    }
    assert!(kills > 5, "the build is too short to be killed at many points: {kills}");
    assert_eq!(expected(lab), right, "after {kills} kills");
}

#[test]
fn a_build_after_kills_at_many_points_is_right() {
    killed_at_many_points(&Lab::with_snapshotter("overlay"));
}

#[test]
fn a_build_after_kills_at_many_points_is_right_with_copies() {
    killed_at_many_points(&Lab::with_snapshotter("copy"));
}

#[test]
fn nothing_is_left_of_a_killed_build() {
    let lab = Lab::new();
    let context = lab
        .context("ctx", &[("Dockerfile", "FROM busybox\nRUN echo begun; echo $$ > /dev/null; sleep 1000\n")]);
    let mut command = lab.build_command(&context, &[]);
    let mut child =
        command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("rbuild can be started");
    let lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
    let is_begun = |line: &String| line.ends_with(" begun");
    let begun = lines.map(|line| line.expect("stderr can be read")).find(is_begun);
    assert!(begun.is_some(), "the step never began");
    child.kill().expect("a child can be killed");
    child.wait().expect("a child can be waited for");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes_below(&lab).is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", processes_below(&lab));
        std::thread::yield_now();
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("the mounts can be read");
    let store = lab.root().to_string_lossy().into_owned();
    assert!(!mounts.contains(&store), "something is mounted below {store}:\n{mounts}");
}

/// Processes that run a program of a root file system in the lab's store.
fn processes_below(lab: &Lab) -> Vec<String> {
    let root = lab.root().to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").expect("/proc can be read").filter_map(Result::ok);
    processes
        .filter_map(|process| {
            let command = std::fs::read(process.path().join("cmdline")).ok()?;
            let mounts = std::fs::read_to_string(process.path().join("mounts")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            (command.starts_with("sleep 1000") && mounts.contains(&root)).then_some(command)
        })
        .collect()
}
