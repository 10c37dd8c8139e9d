//! What a RUN meets.

use crate::lab::Lab;

#[test]
fn output_is_shown_and_exit_codes_are_told() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN echo out; echo err >&2; exit 3\n")]);
    let failed = lab.build(&context, &[]).failed(1, &["exit code: 3"]);
    assert!(failed.stderr.lines().any(|line| line.ends_with(" out")), "{}", failed.stderr);
    assert!(failed.stderr.lines().any(|line| line.ends_with(" err")), "{}", failed.stderr);
}

#[test]
fn a_step_that_takes_too_much_memory_is_told_so() {
    let lab = Lab::new();
    let group = "rbuild-test-memory";
    let memory = std::path::Path::new("/sys/fs/cgroup/memory").join(group);
    assert!(
        std::path::Path::new("/sys/fs/cgroup/memory").is_dir(),
        "this test needs the memory controller of cgroup v1 at /sys/fs/cgroup/memory"
    );
    std::fs::create_dir_all(&memory).expect("a cgroup can be made");
    std::fs::write(memory.join("memory.limit_in_bytes"), "33554432").expect("a limit can be set");
    let context =
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN head -c 200000000 /dev/zero | tail\n")]);
    let ran = lab.build(&context, &[&format!("--cgroup-parent=/{group}")]);
    // The directory goes with its last process; a group that stays for a moment harms no one.
    let _ = std::fs::remove_dir(&memory);
    ran.failed(1, &["Dockerfile:2", "memory"]);
}

#[test]
fn network_none_has_a_loopback_device_alone() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox\nRUN --network=none ls /sys/class/net > /devices\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    assert_eq!(lab.build_tree(&context, &[]).text("devices"), "lo\n");
    let context = lab.context("all", &[("Dockerfile", "FROM busybox\nRUN ls /sys/class/net > /devices\n")]);
    assert_eq!(lab.build_tree(&context, &["--network=none"]).text("devices"), "lo\n");
}

#[test]
fn independent_steps_run_at_once() {
    let lab = Lab::new();
    // Each stage listens on the host's loopback until the other has called, and calls until the other listens.
    let stage = |own: u16, other: u16| {
        format!(
            "RUN nc -l -p {own} < /dev/null & for i in $(seq 300); do nc -w 1 127.0.0.1 {other} < /dev/null && break; sleep 0.1; done; wait\n"
        )
    };
    let dockerfile = format!(
        "FROM busybox AS a\n{}FROM busybox AS b\n{}FROM busybox\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n",
        stage(34501, 34502),
        stage(34502, 34501)
    );
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    lab.build(&context, &["--jobs=2", "--network=host"]).succeeded();
}

#[test]
fn resources_of_steps_are_limited_and_in_no_key() {
    let lab = Lab::new();
    let context = lab.context("cpus", &[("Dockerfile", "FROM busybox\nRUN nproc > /count\n")]);
    let tree = lab.build_tree(&context, &["--resource=cpuset-cpus=0,memory=512m", "--cpu-shares=512"]);
    assert_eq!(tree.text("count"), "1\n");
    assert_eq!(lab.build(&context, &[]).succeeded().executed(), Vec::<String>::new());
    let context =
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN head -c 200000000 /dev/zero | tail\n")]);
    lab.build(&context, &["-m", "32m"]).failed(1, &["Dockerfile:2", "killed: cannot allocate memory"]);
    let refused = ["cannot limit `cpuset-cpus`", "controller `cpuset`", "does not take `4000`"];
    lab.build(&context, &["--resource=cpuset-cpus=4000"]).failed(1, &refused);
    lab.build(&context, &["--resource=cpus=1"]).failed(2, &["unknown key `cpus`"]);
}

#[test]
fn steps_run_one_after_the_other_with_one_job_or_without_memory() {
    let lab = Lab::new();
    // Each fails if it meets another one.
    let stage = |name: &str| {
        format!(
            "FROM busybox AS {name}\nRUN --mount=type=cache,target=/c mkdir /c/in && sleep 0.1 && rmdir /c/in && \
             echo {name} > /name\n"
        )
    };
    let mut dockerfile: String = ["a", "b", "c"].into_iter().map(stage).collect();
    dockerfile += "FROM busybox\nCOPY --from=a /name /a\nCOPY --from=b /name /b\nCOPY --from=c /name /c\n";
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    for flags in [["--jobs=8", "--memory-reserve=100%"], ["--jobs=1", "--memory-reserve=0"]] {
        let tree = lab.build_tree(&context, &[flags[0], flags[1], "--no-cache"]);
        assert_eq!(tree.text("a") + &tree.text("c"), "a\nc\n", "{flags:?}");
    }
}
