//! Command lines and environments that were written for docker, and mistakes in them.

use testkit::run_with_timeout;

use crate::lab::{Lab, Ran, TIMEOUT};

#[test]
fn what_has_no_effect_is_told_and_the_build_goes_on() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN true\n")]);
    let flags =
        ["--builder=ci", "--compress", "--rm=false", "--force-rm", "--security-opt=seccomp=unconfined"];
    let mut command = lab.build_command(&context, &flags);
    command.env("BUILDKIT_HOST", "tcp://x").env("DOCKER_BUILDKIT", "0").env("BUILDX_CONFIG", "x");
    let ran = Ran::from(run_with_timeout(command, TIMEOUT)).succeeded();
    let told: Vec<&str> = ran.stderr.lines().take_while(|line| line.starts_with("WARNING: ")).collect();
    let expected = [
        "WARNING: `--builder ci` has no effect: this machine builds",
        "WARNING: `--compress` has no effect: the context is read in place",
        "WARNING: `--rm=false` has no effect: there are no containers that could be kept",
        "WARNING: `--security-opt seccomp=unconfined` has no effect: `RUN --security=insecure` with `--allow \
         security.insecure` lets a step do everything",
        "WARNING: `BUILDKIT_HOST` has no effect: this machine builds",
        "WARNING: `DOCKER_BUILDKIT=0` has no effect: there is no other builder",
    ];
    assert_eq!(told, expected);
}

#[test]
fn all_mistakes_of_a_command_line_are_told_at_once() {
    let lab = Lab::new();
    let flags = [
        "--platform=linux/none/of/these",
        "--ulimit=nofil=3",
        "--ulimit=nofile=x",
        "--add-host=a",
        "--network=bridge",
        "--shm-size=much",
        "--timeout=soon",
        "--memory=lots",
        "--isolation=hyperv",
        "--call=guess",
        "--secret=id=x,src=missing",
        "--cache-from=type=gha",
        "--source-policy-file=p.json",
    ];
    let ran = lab.build(&lab.path("nowhere"), &flags).failed(2, &[]);
    let errors: Vec<&str> = ran.stderr.lines().filter_map(|line| line.strip_prefix("ERROR: ")).collect();
    let beginnings = [
        "`--call` knows no `guess`",
        "the cache type `gha` is not supported",
        "invalid value `soon` for `--timeout`",
        "invalid value `lots` for `--memory`",
        "`linux/none/of/these` is not a platform",
        "invalid value `a` for `--add-host`",
        "invalid value `nofil=3` for `--ulimit`: there is no limit `nofil`",
        "invalid value `nofile=x` for `--ulimit`",
        "invalid value `bridge` for `--network`",
        "invalid value `much` for `--shm-size`",
        "cannot read the secret `x` from `missing`",
        "unable to prepare context: path `",
        "`--isolation hyperv`",
        "`--source-policy-file`: source policies are not supported",
    ];
    for (error, beginning) in errors.iter().zip(beginnings) {
        assert!(error.starts_with(beginning), "`{beginning}` was expected:\n{}", ran.stderr);
    }
    assert_eq!(errors.len(), beginnings.len(), "{}", ran.stderr);
}

#[test]
fn a_source_policy_is_never_passed_over() {
    let lab = Lab::new();
    let files = [
        ("Dockerfile", "FROM busybox\n"),
        ("Dockerfile.rego", "package docker\n"),
        ("other", "FROM busybox\n"),
    ];
    let context = lab.context("ctx", &files);
    let told =
        ["`Dockerfile.rego` beside the Dockerfile: source policies are not supported", "--policy disabled"];
    lab.build(&context, &[]).failed(2, &told);
    lab.build(&context, &["--policy=disabled"]).succeeded();
    lab.build(&context, &["--check"]).succeeded();
    lab.build(&context, &[&format!("-f{}", context.join("other").display())]).succeeded();
    let archive = lab.path("ctx.tar");
    crate::lab::run("tar", &["-C", &context.to_string_lossy(), "-cf", &archive.to_string_lossy(), "."]);
    let from_archive = |flags: &[&str]| {
        let mut command = lab.build_command(std::path::Path::new("-"), flags);
        command.stdin(std::fs::File::open(&archive).expect("the archive is there"));
        Ran::from(run_with_timeout(command, TIMEOUT))
    };
    from_archive(&[]).failed(2, &told);
    from_archive(&["--policy=disabled"]).succeeded();
}

#[test]
fn warnings_are_told_in_full_where_that_is_asked_for() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox as x\nRUN true\n")]);
    let brief = lab.build(&context, &[]).succeeded();
    assert!(
        brief.stderr.contains(" 1 warning found (`--check` tells more):\n - FromAsCasing: "),
        "{}",
        brief.stderr
    );
    let full = lab.build(&context, &["-D"]).succeeded();
    let expected = " 1 warning found:\n\nWARNING: FromAsCasing - https://docs.docker.com/go/dockerfile/rule/from-as-casing/\n";
    assert!(
        full.stderr.contains(expected) && full.stderr.contains(">>> FROM busybox as x"),
        "{}",
        full.stderr
    );
}

#[test]
fn a_command_that_is_not_there_is_no_context() {
    let lab = Lab::new();
    lab.rbuild(&["imagse"]).failed(2, &["path `imagse` not found", "hint: there is a command `images`"]);
    lab.rbuild(&["--dockerfile", "x", "."])
        .failed(2, &["unexpected argument '--dockerfile'", "write `-f FILE`"]);
    lab.rbuild(&["prune", "--filtr", "x"]).failed(2, &["unexpected argument '--filtr'", "'--filter'"]);
}
