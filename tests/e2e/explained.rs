//! `rbuild explain`, `--explain`, `--plan` and `rbuild history`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::lab::{Lab, bases};

const DOCKERFILE: &str = "FROM busybox AS base
ARG V=1
RUN echo $V > /v
FROM busybox
COPY . /src
RUN cat /src/a > /out
COPY --from=base /v /vv
";

/// The objects of an answer that has one on each line.
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("each line is an object")).collect()
}

/// What `rbuild explain` says: outcome and name of each step, and the kinds of the reasons.
fn explained(lab: &Lab, arguments: &[&str]) -> Vec<(String, String, Vec<String>)> {
    let answer = lab.rbuild(&[&["explain", "--format=json"], arguments].concat()).succeeded().stdout;
    let text = |value: &Value| value.as_str().expect("it is a text").to_owned();
    lines(&answer)
        .iter()
        .map(|step| {
            let reasons = step["reasons"].as_array().expect("there is a list");
            let kinds = reasons.iter().map(|reason| text(&reason["kind"])).collect();
            (text(&step["name"]), text(&step["outcome"]), kinds)
        })
        .collect()
}

/// The kinds of the reasons of the step whose name ends so.
fn kinds(lab: &Lab, name: &str) -> Vec<String> {
    let steps = explained(lab, &[]);
    let found = steps.iter().find(|(known, ..)| known.ends_with(name));
    found.unwrap_or_else(|| panic!("no {name} in {steps:?}")).2.clone()
}

#[test]
fn each_step_says_why_it_was_executed() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("a", "a\n"), ("b", "b\n"), ("d", "d\n")]);
    let build = |arguments: &[&str]| lab.build(&context, arguments).succeeded();
    build(&[]);
    let first = explained(&lab, &[]);
    assert_eq!(first.len(), 4);
    for (name, outcome, kinds) in &first {
        assert_eq!((outcome.as_str(), kinds.as_slice()), ("executed", &["new".to_owned()][..]), "{name}");
    }
    build(&[]);
    for (name, outcome, kinds) in explained(&lab, &[]) {
        assert_eq!((outcome.as_str(), kinds), ("cached", Vec::new()), "{name}");
    }
    // Files: their content, their mode, those that are new and gone; and what is built on them.
    fs::write(context.join("a"), "other\n").expect("a file can be written");
    fs::set_permissions(context.join("b"), fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    fs::write(context.join("c"), "c\n").expect("a file can be written");
    fs::remove_file(context.join("d")).expect("a file can be removed");
    let shown = build(&["--explain"]).stderr;
    for text in [
        "why: what it takes from the build context has changed",
        "why: it is built on `[stage-1 2/4] COPY . /src`, which has another key",
        "\n  content  /src/a\n  mode     /src/b\n  added    /src/c\n  removed  /src/d\n",
    ] {
        assert!(shown.contains(text), "{text} in {shown}");
    }
    let told = lab.rbuild(&["explain"]).succeeded().stdout;
    assert!(
        told.contains("CACHED   [base 2/2] RUN echo 1 > /v\nEXECUTED [stage-1 2/4] COPY . /src\n"),
        "{told}"
    );
    assert!(told.contains("\n           removed  /src/d\n"), "{told}");
    // A build argument; the file that it makes is another one, too.
    build(&["--build-arg=V=2"]);
    assert_eq!(kinds(&lab, "RUN echo 2 > /v"), ["instruction"]);
    assert_eq!(kinds(&lab, "COPY --from=base /v /vv"), ["content"]);
    assert_eq!(kinds(&lab, "RUN cat /src/a > /out"), Vec::<String>::new());
    // The cache is not asked.
    build(&["--build-arg=V=2", "--no-cache-filter=base"]);
    assert_eq!(kinds(&lab, "RUN echo 2 > /v"), ["no_cache"]);
    // The words of an instruction, with a line before it.
    let changed = DOCKERFILE.replace("RUN cat /src/a", "WORKDIR /w\nRUN cat /src/a /src/b");
    fs::write(context.join("Dockerfile"), changed).expect("a file can be written");
    build(&["--build-arg=V=2"]);
    assert_eq!(kinds(&lab, "WORKDIR /w"), ["instruction"]);
    assert_eq!(kinds(&lab, "RUN cat /src/a /src/b > /out"), ["new"]);
    // What was built is pruned.
    lab.rbuild(&["prune"]).succeeded();
    build(&["--build-arg=V=2"]);
    assert_eq!(kinds(&lab, "WORKDIR /w"), ["removed"]);
    // An earlier build is still explained.
    assert_eq!(explained(&lab, &["^6"]).len(), 4);
}

#[test]
fn variables_bases_and_failures_are_told() {
    let lab = Lab::new();
    let dockerfile = "FROM base\nARG A\nENV B=$A\nRUN echo $UNSET > /out\nRUN [ ! -e /broken ] || exit 3\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    let base = |name: &str| format!("--build-context=base=oci-layout://{}:{name}", bases().display());
    let (busybox, rich) = (base("busybox"), base("rich-base"));
    lab.build(&context, &["--build-arg=A=1", &busybox]).succeeded();
    lab.build(&context, &["--build-arg=A=2", &busybox]).succeeded();
    let told = lab.rbuild(&["explain"]).succeeded().stdout;
    assert!(told.contains("the variable `A` was `1` and is `2`"), "{told}");
    assert!(told.contains("the variable `B` was `1` and is `2`"), "{told}");
    lab.build(&context, &["--build-arg=A=2", &rich]).succeeded();
    let told = lab.rbuild(&["explain"]).succeeded().stdout;
    assert!(told.contains("the image `base` was sha256:") && told.contains(" and is sha256:"), "{told}");
    let broken = dockerfile.replace("echo $UNSET > /out", "touch /broken");
    fs::write(context.join("Dockerfile"), broken).expect("a file can be written");
    for _ in 0..2 {
        lab.build(&context, &[&rich]).failed(1, &["exit code: 3"]);
    }
    let (name, outcome, kinds) = explained(&lab, &[]).pop().expect("there are steps");
    assert!(name.ends_with("exit 3"), "{name}");
    assert_eq!((outcome.as_str(), kinds), ("failed", vec!["failed".to_owned()]));
    lab.rbuild(&["explain", "0123"]).failed(2, &["there is no build `0123` in the history"]);
}

#[test]
fn a_plan_tells_what_would_be_done_and_does_none_of_it() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("a", "a\n")]);
    let plan =
        |arguments: &[&str]| lab.build(&context, &[&["--plan"], arguments].concat()).succeeded().stdout;
    let cold = plan(&[]);
    assert!(cold.starts_with("pull     busybox: 1 layer, "), "{cold}");
    for line in [
        "run      [base 2/2] RUN echo 1 > /v\n",
        "copy     [stage-1 2/4] COPY . /src\n",
        "run      [stage-1 3/4] RUN cat /src/a > /out\n",
        "run?     [stage-1 4/4] COPY --from=base /v /vv\n         it depends on what a step before it makes\n",
    ] {
        assert!(cold.contains(line), "{line} in {cold}");
    }
    assert_eq!(plan(&[]), cold, "nothing was done");
    assert_eq!(lab.rbuild(&["history", "--format=json"]).succeeded().stdout, "", "it is no build");
    lab.build(&context, &[]).succeeded();
    assert_eq!(plan(&[]), "cached   [stage-1 4/4] COPY --from=base /v /vv\n");
    fs::write(context.join("a"), "other\n").expect("a file can be written");
    let answer = lab.build(&context, &["--plan=json", "-t", "x"]).succeeded().stdout;
    let answer: Value = serde_json::from_str(&answer).expect("it is JSON");
    assert_eq!(answer["pulls"], serde_json::json!([]));
    let actions: Vec<&str> = answer["steps"]
        .as_array()
        .expect("there is a list")
        .iter()
        .map(|step| step["action"].as_str().expect("there is an action"))
        .collect();
    assert_eq!(actions, ["cached", "copy", "run", "copy"]);
    assert_eq!(answer["steps"][1]["lines"], serde_json::json!([5, 5]));
    assert_eq!(answer["steps"][1]["reasons"][0]["kind"], "content");
    assert_eq!(lab.rbuild(&["images", "--format=json"]).succeeded().stdout, "", "nothing was tagged");
    lab.build(&context, &["--plan", "--check"]).failed(2, &["ask for different things"]);
    fs::write(context.join("Dockerfile"), "FROM busybox\nCOPY nothing /\n").expect("a file can be written");
    lab.build(&context, &["--plan"]).failed(1, &["\"/nothing\": not found", "Dockerfile:2\n"]);
}

#[test]
fn builds_are_listed_shown_and_removed() {
    let lab = Lab::new();
    assert_eq!(lab.rbuild(&["history"]).succeeded().stdout.lines().count(), 1);
    lab.rbuild(&["history", "show"]).failed(2, &["there is no build", "no build was kept"]);
    let context = lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("a", "a\n")]);
    let digest = lab.build(&context, &["-t", "app:v1"]).succeeded().stdout;
    lab.build(&context, &["-q"]).succeeded();
    lab.build(&context, &["--target=nowhere"]).failed(1, &["nowhere"]);
    let listed = lines(&lab.rbuild(&["history", "ls", "--format=json"]).succeeded().stdout);
    let seen = |key: &str| listed.iter().map(|build| build[key].clone()).collect::<Vec<_>>();
    assert_eq!(seen("status"), ["failed", "succeeded", "succeeded"]);
    assert_eq!(seen("total_steps"), [0, 4, 4]);
    assert_eq!(seen("cached_steps"), [0, 4, 0]);
    let table = lab.rbuild(&["history"]).succeeded().stdout;
    assert!(table.starts_with("BUILD ID ") && table.contains("app:v1"), "{table}");
    let id = listed[2]["id"].as_str().expect("it has an ID");
    let shown: Value =
        serde_json::from_str(&lab.rbuild(&["history", "show", id, "--format=json"]).succeeded().stdout)
            .expect("it is JSON");
    assert_eq!(shown["image"]["digest"].as_str(), Some(digest.trim()));
    assert!(shown["image"]["size_bytes"].as_u64().is_some_and(|size| size > 1000), "{shown}");
    let steps = shown["steps"].as_array().expect("there are steps");
    for step in steps {
        assert_eq!(step["outcome"], "executed");
        assert!(step["size_bytes"].as_u64().is_some_and(|size| size > 0), "{step}");
        assert!(step["duration_ms"].is_u64() && step["key"].as_str().is_some_and(|key| key.len() == 64));
    }
    assert_eq!(shown["bases"].as_object().map(serde_json::Map::len), Some(1));
    let text = lab.rbuild(&["history", "show", "^2"]).succeeded().stdout;
    assert!(text.contains("app:v1") && text.contains("[base 2/2] RUN echo 1 > /v "), "{text}");
    // The log of a build is what was shown, also where nothing was.
    let log = lab.rbuild(&["history", "logs", "^2"]).succeeded().stdout;
    assert!(log.contains(" [stage-1 3/4] RUN cat /src/a > /out\n") && log.contains("naming to"), "{log}");
    let log = lab.rbuild(&["history", "logs", "^1"]).succeeded().stdout;
    assert!(log.contains(" CACHED\n"), "{log}");
    let failed = lab.rbuild(&["history", "show", "^0"]).succeeded().stdout;
    assert!(failed.contains("Error:") && failed.contains("nowhere"), "{failed}");
    // The beginning of an ID will do where it is clear.
    lab.rbuild(&["history", "rm", "0"]).failed(2, &["the beginning of several builds' names"]);
    lab.rbuild(&["history", "rm", id]).succeeded();
    lab.rbuild(&["history", "show", id]).failed(2, &["there is no build"]);
    lab.rbuild(&["history", "rm"]).failed(2, &["--all"]);
    lab.rbuild(&["history", "rm", "--all"]).succeeded();
    assert_eq!(lab.rbuild(&["history", "--format=json"]).succeeded().stdout, "");
    // The cache stays.
    assert_eq!(lab.build(&context, &["-t", "x"]).succeeded().executed(), Vec::<String>::new());
    // Bounded as the configuration says.
    fs::write(lab.path("config.toml"), "[history]\nmaxEntries = 2\n").expect("a file can be written");
    for _ in 0..3 {
        lab.build(&context, &["-q"]).succeeded();
    }
    assert_eq!(lab.rbuild(&["history", "--format=json"]).succeeded().stdout.lines().count(), 2);
}
