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

/// The config of what `command`, a build without outputs, makes in the directory `out`.
fn config(lab: &Lab, mut command: std::process::Command) -> serde_json::Value {
    let (out, iid) = (lab.path("out"), lab.path("iid"));
    command.arg(format!("--output=type=oci,tar=false,dest={}", out.display()));
    command.arg(format!("--iidfile={}", iid.display()));
    Ran::from(run_with_timeout(command, TIMEOUT)).succeeded();
    let digest = std::fs::read_to_string(iid).expect("the ID was written");
    let blob = out.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    serde_json::from_slice(&std::fs::read(blob).expect("the config was written")).expect("it is JSON")
}

#[test]
fn a_build_is_changed_from_without() {
    let lab = Lab::new();
    let dockerfile = "ARG BASE\nFROM $BASE\nARG A\nARG B\nRUN echo $A $B > /out\nENV KEPT=1 GONE=2\nLABEL gone=1 kept=2 both=3\n";
    let context =
        lab.context("ctx", &[("Dockerfile", dockerfile), ("arguments", "# of this project\nA=one\nB=two\n")]);
    let file = format!("--build-arg-file={}", context.join("arguments").display());
    let flags = ["--from=busybox", &file, "--build-arg=B=2"];
    assert_eq!(lab.build_tree(&context, &flags).text("out"), "one 2\n");
    let more = ["--unsetenv=GONE", "--unsetlabel=gone", "--unsetlabel=both", "--label=both=4"];
    let flags = [&flags[..], &more, &["--source-date-epoch=1700000000"]].concat();
    let config = config(&lab, lab.build_command(&context, &flags));
    let env = config["config"]["Env"].as_array().expect("there are variables");
    let names: Vec<&str> = env.iter().filter_map(|entry| entry.as_str()?.split('=').next()).collect();
    assert_eq!(names, ["PATH", "KEPT"]);
    assert_eq!(config["config"]["Labels"], serde_json::json!({ "both": "4", "kept": "2" }));
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    std::fs::write(context.join("arguments"), "A\n\nB=2\n=3\n").expect("a file can be written");
    let line = |number: u32| format!("arguments:{number}: `");
    lab.build(&context, &[&file]).failed(2, &[&line(1), &line(4)]);
    lab.build(&context, &["--from=no such image"]).failed(1, &["Dockerfile:2", ">>> FROM $BASE"]);
}

#[test]
fn git_labels_an_image_where_that_is_asked_for() {
    let lab = Lab::new();
    let repository = testkit::GitRepository::new(lab.path("repository"));
    repository.commit(&[("sub/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    repository.git(&["remote", "add", "origin", "https://host/a.git"]);
    let commit = repository.git(&["rev-parse", "HEAD"]);
    let labels = |value: &str| {
        let mut command = lab.build_command(&lab.path("repository/sub"), &["--label=own=1"]);
        command.env("BUILDX_GIT_LABELS", value).env("BUILDX_GIT_CHECK_DIRTY", "1");
        config(&lab, command)["config"]["Labels"].clone()
    };
    assert_eq!(labels("0"), serde_json::json!({ "own": "1" }));
    let expected = serde_json::json!({
        "com.docker.image.source.entrypoint": "sub/Dockerfile",
        "org.opencontainers.image.revision": commit,
        "org.opencontainers.image.source": "https://host/a.git",
        "own": "1",
    });
    assert_eq!(labels("1"), expected);
    let vcs = |value: &str| {
        let mut command = lab.build_command(&lab.path("repository/sub"), &["--output=type=cacheonly"]);
        command
            .arg(format!("--metadata-file={}", lab.path("metadata").display()))
            .env("BUILDX_GIT_INFO", value);
        Ran::from(run_with_timeout(command, TIMEOUT)).succeeded();
        let text = std::fs::read(lab.path("metadata")).expect("the file was written");
        let metadata: serde_json::Value = serde_json::from_slice(&text).expect("it is JSON");
        metadata["buildx.build.provenance"]["runDetails"]["metadata"]["buildkit_metadata"]["vcs"].clone()
    };
    let expected = serde_json::json!({
        "localdir:context": "sub",
        "localdir:dockerfile": "sub",
        "revision": commit,
        "source": "https://host/a.git",
    });
    assert_eq!((vcs("1"), vcs("0")), (expected, serde_json::Value::Null));
}

#[test]
fn proxies_of_dockers_configuration_are_in_steps_and_in_no_key() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox\nRUN echo $HTTP_PROXY $http_proxy $NO_PROXY > /out\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    let proxies = r#"{"proxies":{"default":{"httpProxy":"http://a"},"tcp://x":{"httpProxy":"http://b","noProxy":"c"}}}"#;
    lab.context("docker", &[("config.json", proxies)]);
    let build = |daemon: &str, flags: &[&str]| {
        let mut command = lab.build_command(&context, flags);
        command.args(["--output", "out"]).env("DOCKER_CONFIG", lab.path("docker")).env("DOCKER_HOST", daemon);
        let executed = Ran::from(run_with_timeout(command, TIMEOUT)).succeeded().executed().len();
        (executed, std::fs::read_to_string(lab.path("out/out")).expect("the file was written"))
    };
    assert_eq!(build("", &[]), (1, "http://a http://a\n".to_owned()));
    assert_eq!(build("tcp://x", &[]).0, 0);
    assert_eq!(build("tcp://x", &["--no-cache"]), (1, "http://b http://b c\n".to_owned()));
    let own = ["--no-cache", "--build-arg=HTTP_PROXY=http://d"];
    assert_eq!(build("tcp://x", &own), (1, "http://d http://d c\n".to_owned()));
}

#[test]
fn what_was_renamed_is_told_beside_an_answer() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox AS only\n")]);
    let mut command = lab.command();
    command.args(["build", "--print=targets"]).arg(&context);
    let ran = Ran::from(run_with_timeout(command, TIMEOUT)).succeeded();
    assert_eq!(ran.stderr, "WARNING: `--print` is deprecated: write `--call`\n");
    assert!(ran.stdout.contains("only"), "{}", ran.stdout);
}
