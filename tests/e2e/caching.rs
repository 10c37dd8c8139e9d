//! What is executed again, and what is not.

use crate::lab::Lab;

const CHAIN: &str = "FROM busybox
COPY a.txt /a
RUN cat /proc/sys/kernel/random/uuid > /one
COPY b.txt /b
RUN cat /proc/sys/kernel/random/uuid > /two
";

#[test]
fn second_build_executes_nothing() {
    for snapshotter in ["overlay", "copy"] {
        let lab = Lab::with_snapshotter(snapshotter);
        let context = lab.context("ctx", &[("Dockerfile", CHAIN), ("a.txt", "a"), ("b.txt", "b")]);
        let first = lab.build(&context, &["-t", "app:v1"]).succeeded();
        assert_eq!(first.executed().len(), 4, "{}", first.stderr);
        let second = lab.build(&context, &["-t", "app:v1"]).succeeded();
        assert_eq!(second.executed(), Vec::<String>::new(), "{}", second.stderr);
        assert_eq!(first.stdout, second.stdout, "both builds give one image");
    }
}

#[test]
fn change_rebuilds_exactly_what_depends_on_it() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", CHAIN), ("a.txt", "a"), ("b.txt", "b")]);
    let before = lab.build_tree(&context, &[]);
    std::fs::write(context.join("b.txt"), "changed").expect("a file can be written");
    let after = lab.build_tree(&context, &[]);
    assert_eq!(before.text("one"), after.text("one"));
    assert_ne!(before.text("two"), after.text("two"));
    assert_eq!(after.text("b"), "changed");
}

#[test]
fn a_touched_file_is_not_a_change() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", CHAIN), ("a.txt", "a"), ("b.txt", "b")]);
    lab.build(&context, &["-t", "x"]).succeeded();
    testkit::set_times(&context.join("a.txt"), std::time::UNIX_EPOCH);
    let second = lab.build(&context, &["-t", "x"]).succeeded();
    assert_eq!(second.executed(), Vec::<String>::new(), "{}", second.stderr);
}

#[test]
fn a_rebuilt_stage_with_the_same_content_stops_there() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox AS make
COPY input /input
RUN wc -c < /input > /size
FROM busybox
COPY --from=make /size /size
RUN cat /proc/sys/kernel/random/uuid > /id
";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile), ("input", "one")]);
    let before = lab.build_tree(&context, &[]);
    std::fs::write(context.join("input"), "two").expect("a file can be written");
    let after = lab.build_tree(&context, &[]);
    assert_eq!(before.text("id"), after.text("id"));
}

#[test]
fn no_cache_executes_again_and_replaces_the_results() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", CHAIN), ("a.txt", "a"), ("b.txt", "b")]);
    let first = lab.build_tree(&context, &[]);
    let fresh = lab.build_tree(&context, &["--no-cache"]);
    assert_ne!(first.text("one"), fresh.text("one"));
    let third = lab.build_tree(&context, &[]);
    assert_eq!(fresh.text("one"), third.text("one"));
    assert_eq!(fresh.text("two"), third.text("two"));
}

#[test]
fn no_cache_filter_is_for_the_named_stages() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox AS one
RUN cat /proc/sys/kernel/random/uuid > /id
FROM busybox AS two
RUN cat /proc/sys/kernel/random/uuid > /id2
FROM scratch
COPY --from=one /id /one
COPY --from=two /id2 /two
";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    let first = lab.build_tree(&context, &[]);
    let second = lab.build_tree(&context, &["--no-cache-filter=two"]);
    assert_eq!(first.text("one"), second.text("one"));
    assert_ne!(first.text("two"), second.text("two"));
}

#[test]
fn stages_that_are_not_needed_are_not_touched() {
    let lab = Lab::new();
    let dockerfile = "FROM no.such.registry.invalid/base AS unused
RUN false
FROM busybox AS final
RUN true
";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    lab.build(&context, &["-t", "x"]).succeeded();
}

#[test]
fn build_arguments_are_part_of_what_a_step_depends_on() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox
RUN cat /proc/sys/kernel/random/uuid > /before
ARG VALUE
RUN cat /proc/sys/kernel/random/uuid > /after
";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    let one = lab.build_tree(&context, &["--build-arg=VALUE=1"]);
    let two = lab.build_tree(&context, &["--build-arg=VALUE=2"]);
    assert_eq!(one.text("before"), two.text("before"));
    assert_ne!(one.text("after"), two.text("after"));
    let proxy = lab.build_tree(&context, &["--build-arg=VALUE=2", "--build-arg=http_proxy=http://proxy:1"]);
    assert_eq!(two.text("after"), proxy.text("after"), "proxies are in no key");
}

#[test]
fn ignored_files_are_not_a_change() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox\nCOPY . /all\nRUN cat /proc/sys/kernel/random/uuid > /id\n";
    let files = [("Dockerfile", dockerfile), (".dockerignore", "*.log\n"), ("x.log", "1"), ("kept", "1")];
    let context = lab.context("ctx", &files);
    let one = lab.build_tree(&context, &[]);
    std::fs::write(context.join("x.log"), "2").expect("a file can be written");
    let two = lab.build_tree(&context, &[]);
    assert_eq!(one.text("id"), two.text("id"));
    assert!(one.has("all/kept") && !one.has("all/x.log"), "{:?}", one.names());
}

#[test]
fn a_log_of_the_build_may_be_in_the_context() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox\nCOPY . /all\nRUN ls /all\n")]);
    for number in 0..200 {
        std::fs::write(context.join(format!("f{number}")), "x").expect("a file can be written");
    }
    let log = std::fs::File::create(context.join("build.log")).expect("a file can be made");
    let mut command = lab.build_command(&context, &[]);
    let status = command.stderr(log).status().expect("rbuild can be started");
    let text = std::fs::read_to_string(context.join("build.log")).expect("the log can be read");
    assert!(status.success(), "{text}");
}
