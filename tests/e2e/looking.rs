//! What is told of a Dockerfile without building it, and what is written into it.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::lab::{Lab, Ran};

const BAD_STYLE: &str = "\
# comment
from busybox as Base
env a b c
RUN  echo  $FOO
MAINTAINER \"me\" <x@y>\r
CMD serve it
EXPOSE 80/TCP
LABEL l=$NOPE
";

fn look(lab: &Lab, text: &str, arguments: &[&str]) -> Ran {
    let context = lab.context("ctx", &[("Dockerfile", text)]);
    let mut all = vec!["--progress=auto"];
    all.extend(arguments);
    lab.build(&context, &all)
}

fn written(lab: &Lab) -> String {
    std::fs::read_to_string(lab.path("ctx/Dockerfile")).expect("the Dockerfile is there")
}

#[test]
fn a_check_tells_what_to_write_instead() {
    let lab = Lab::new();
    let found = look(&lab, "FROM busybox\nENV a b\nWORKDIR x\n", &["--check"]);
    assert_eq!((found.code, found.stderr.as_str()), (Some(1), ""));
    let wanted = "\
Check complete, 2 warnings have been found!

WARNING: LegacyKeyValueFormat - https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/
\"ENV key=value\" should be used instead of legacy \"ENV key value\" format
Dockerfile:2
--------------------
   1 |     FROM busybox
   2 | >>> ENV a b
   3 |     WORKDIR x
   4 |     \n--------------------
help: write `ENV a=b`

WARNING: WorkdirRelativePath - https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/
Relative workdir \"x\" can have unexpected results if the base image changes
Dockerfile:3
--------------------
   1 |     FROM busybox
   2 |     ENV a b
   3 | >>> WORKDIR x
   4 |     \n--------------------
help: write an absolute path
";
    assert_eq!(found.stdout, wanted);
    let found = look(&lab, "FROM busybox\nENV a=b\n", &["--check"]).succeeded();
    assert_eq!(found.stdout, "Check complete, no warnings found.\n");
    look(&lab, "FROM busybox\nENV a b\n", &["--call=check,ignorestatus=true"]).succeeded();
}

#[test]
fn a_check_with_a_mistake_tells_both() {
    let lab = Lab::new();
    let text = "FROM busybox\nENV a b\nEXPOSE http\nENV c d\nSTOPSIGNAL x\n";
    let found = look(&lab, text, &["--call=check,format=json"]);
    let texts = ["Dockerfile:3", "invalid containerPort: http", "invalid signal: x"];
    let found = found.failed(1, &texts);
    let answer: Value = serde_json::from_str(&found.stdout).expect("the answer is JSON");
    let rules: Vec<&Value> =
        answer["warnings"].as_array().into_iter().flatten().map(|warning| &warning["ruleName"]).collect();
    assert_eq!(rules, ["LegacyKeyValueFormat"]);
    assert_eq!(answer["buildError"]["message"], "invalid containerPort: http");
    // Beyond the first mistake there is more to say, but not in BuildKit's part of the answer.
    let codes: Vec<&Value> =
        answer["diagnostics"].as_array().into_iter().flatten().map(|found| &found["code"]).collect();
    let wanted = ["LegacyKeyValueFormat", "invalid-port", "LegacyKeyValueFormat", "invalid-signal"];
    assert_eq!(codes, wanted);
}

#[test]
fn json_has_places_and_fixes() {
    let lab = Lab::new();
    let found = look(&lab, "FROM busybox\nENV é\tb\n", &["--check", "--call=lint,format=json"]);
    let answer: Value = serde_json::from_str(&found.stdout).expect("the answer is JSON");
    let wanted = json!({
        "ruleName": "LegacyKeyValueFormat",
        "description": "Legacy key/value format with whitespace separator should not be used",
        "url": "https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/",
        "detail": "\"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
        "location": { "ranges": [{ "start": { "line": 2 }, "end": { "line": 2 } }] },
        "code": "LegacyKeyValueFormat",
        "span": {
            "start": { "offset": 17, "line": 2, "column": 5 },
            "end": { "offset": 21, "line": 2, "column": 8 },
        },
        "fix": {
            "title": "write `ENV é=b`",
            "certain": true,
            "edits": [{
                "span": {
                    "start": { "offset": 19, "line": 2, "column": 6 },
                    "end": { "offset": 20, "line": 2, "column": 7 },
                },
                "replacement": "=",
            }],
        },
    });
    assert_eq!(answer["warnings"], json!([wanted]));
    assert_eq!(answer["sources"][0]["filename"], "Dockerfile");
    assert_eq!(answer["sources"][0]["data"], "RlJPTSBidXN5Ym94CkVOViDDqQliCg==");
    let found = look(&lab, "FROM busybox\n", &["--call=check,format=json"]).succeeded();
    let answer: Value = serde_json::from_str(&found.stdout).expect("the answer is JSON");
    assert_eq!((&answer["warnings"], &answer["buildError"]), (&Value::Null, &Value::Null));
}

#[test]
fn fixes_leave_everything_else_as_it_is() {
    let lab = Lab::new();
    let found = look(&lab, BAD_STYLE, &["--check", "--fix"]);
    assert_eq!(found.code, Some(1), "what cannot be fixed is still there");
    assert!(found.stderr.starts_with("fixed 7 warnings in "), "{}", found.stderr);
    assert!(found.stdout.contains("UndefinedVar") && !found.stdout.contains("Casing"), "{}", found.stdout);
    let wanted = "\
# comment
FROM busybox AS base
ENV a=\"b c\"
RUN  echo  $FOO
LABEL org.opencontainers.image.authors=\"\\\"me\\\" <x@y>\"\r
CMD [\"serve\", \"it\"]
EXPOSE 80/tcp
LABEL l=$NOPE
";
    assert_eq!(written(&lab), wanted);
    let again = look(&lab, wanted, &["--check", "--fix"]);
    assert_eq!((again.stderr.as_str(), written(&lab).as_str()), ("", wanted));
    // Nor does it take the base image.
    let away = "FROM 127.0.0.1:1/away\nENV a b\nCMD serve it\n";
    look(&lab, away, &["--check", "--fix"]).failed(1, &["failed to resolve source metadata"]);
    assert_eq!(written(&lab), "FROM 127.0.0.1:1/away\nENV a=b\nCMD [\"serve\", \"it\"]\n");
    // A file with a mistake loses nothing either.
    let broken = "from busybox\nENV a b\nRUUN x\n";
    look(&lab, broken, &["--check", "--fix"]).failed(1, &["unknown instruction: RUUN (did you mean RUN?)"]);
    assert_eq!(written(&lab), broken);
    look(&lab, broken, &["--fix"]).failed(2, &["`--fix` goes with `--check`"]);
}

#[test]
fn a_build_tells_its_warnings_at_the_end() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox\nENV a b\nENTRYPOINT x\n")]);
    let built = lab.build(&context, &["-t", "a"]).succeeded();
    let wanted = "\n 2 warnings found (`--check` tells more):\n \
                  - LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format (line 2)\n \
                  - JSONArgsRecommended: JSON arguments recommended for ENTRYPOINT to prevent unintended behavior \
                  related to OS signals (line 3)\n";
    assert!(built.stderr.contains(wanted), "{}", built.stderr);
    let skipped = lab.build(&context, &["--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=all"]).succeeded();
    assert!(!skipped.stderr.contains("warning"), "{}", skipped.stderr);
    lab.build(&context, &["--build-arg=BUILDKIT_DOCKERFILE_CHECK=error=true;skip=JSONArgsRecommended"])
        .failed(1, &["lint violation found for rules: LegacyKeyValueFormat\n"]);
    lab.build(&context, &["--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip"])
        .failed(1, &["failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: invalid check option \"skip\""]);
}

#[test]
fn outlines_and_targets_are_tables() {
    let lab = Lab::new();
    let text = "# TAG is the version\nARG TAG=latest\n# base is what all share\nFROM busybox:$TAG AS base\nFROM base\n\
                ARG N=1\nRUN --mount=type=secret,id=s,required --mount=type=ssh x\n";
    let found = look(&lab, text, &["--call=outline"]).succeeded();
    let wanted = "\
BUILD ARG   VALUE    DESCRIPTION
TAG         latest   is the version
N           1

SECRET   REQUIRED
s        true

SSH       REQUIRED
default
";
    assert_eq!(found.stdout, wanted);
    let found = look(&lab, text, &["--call=outline", "--target=base"]).succeeded();
    assert!(
        found.stdout.starts_with("TARGET:      base\nDESCRIPTION: is what all share\n"),
        "{}",
        found.stdout
    );
    let found = look(&lab, text, &["--call=targets"]).succeeded();
    assert_eq!(found.stdout, "TARGET      DESCRIPTION\nbase        is what all share\n(default)\n");
    look(&lab, text, &["--call=outlines"]).failed(2, &["`--call` knows no `outlines`"]);
}

#[test]
fn files_are_formatted_in_place() {
    let lab = Lab::new();
    let before = "from  busybox as x\n\n\n\ncopy  a \\\n b\\\n   /c\nRUN  a   b\n";
    let after = "FROM busybox AS x\n\nCOPY a \\\n    b \\\n    /c\nRUN a   b\n";
    lab.context("ctx", &[("Dockerfile", before), ("other/web.Dockerfile", before)]);
    let listed = lab.rbuild(&["fmt", "--check", "ctx", "ctx/other/web.Dockerfile"]);
    assert_eq!(listed.code, Some(1));
    assert_eq!(listed.stdout, "ctx/Dockerfile\nctx/other/web.Dockerfile\n");
    assert_eq!(written(&lab), before);
    std::os::unix::fs::chown(lab.path("ctx/Dockerfile"), Some(1234), Some(56)).expect("root may do that");
    let ran = lab.rbuild(&["fmt", "ctx", "ctx/other/web.Dockerfile"]).succeeded();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    assert_eq!(written(&lab), after);
    let metadata = std::fs::metadata(lab.path("ctx/Dockerfile")).expect("it is there");
    assert_eq!((metadata.uid(), metadata.gid()), (1234, 56), "the owner stays");
    assert_eq!(std::fs::read_to_string(lab.path("ctx/other/web.Dockerfile")).expect("it is there"), after);
    lab.rbuild(&["fmt", "--check", "ctx"]).succeeded();

    let mut command = lab.command();
    let child = command.args(["fmt", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("rbuild can be run");
    child.stdin.take().expect("it is a pipe").write_all(before.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), after);
}

#[test]
fn a_file_with_mistakes_is_not_formatted_and_others_are() {
    let lab = Lab::new();
    lab.context("ctx", &[("Dockerfile", "from busybox\nruun x\n"), ("b/Dockerfile", "from busybox\n")]);
    let link = lab.path("link");
    std::os::unix::fs::symlink(Path::new("ctx/b/Dockerfile"), &link).expect("a link can be made");
    lab.rbuild(&["fmt", "ctx", "link"]).failed(1, &["ctx/Dockerfile:2", "unknown instruction: ruun"]);
    assert_eq!(written(&lab), "from busybox\nruun x\n");
    assert_eq!(std::fs::read_to_string(lab.path("ctx/b/Dockerfile")).expect("it is there"), "FROM busybox\n");
    assert!(link.is_symlink(), "a link goes on leading to the file");
    lab.rbuild(&["fmt", "nowhere"]).failed(1, &["nowhere"]);
}
