//! Every mistake is told with its kind, its line and its text; all mistakes of a file at once.

mod stub;

use frontend::LowerOptions;
use stub::{build, options};

fn mistakes(text: &str, options: &LowerOptions) -> Vec<String> {
    let Err(diagnostics) = build(text, options) else { return Vec::new() };
    let lines = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).map(|diagnostic| {
        let line = diagnostic.span.map_or(0, |span| span.first_line);
        format!("{line} {}: {}", diagnostic.code, diagnostic.message)
    });
    lines.collect()
}

#[track_caller]
fn check(rows: &[(&str, &str)]) {
    for (text, wanted) in rows {
        assert_eq!(mistakes(text, &options()), [*wanted], "{text}");
    }
}

#[test]
fn of_files_and_lines() {
    check(&[
        ("", "0 empty-file: the Dockerfile cannot be empty"),
        ("# a\n\n# b", "3 no-instructions: file with no instructions"),
        ("ARG A=1", "1 no-stages: dockerfile contains no stages to build"),
        (
            "# escape=!\nFROM busybox",
            "1 invalid-escape-directive: invalid escape token '!' does not match ` or \\",
        ),
        (
            "# escape=`\n# escape=`\nFROM busybox",
            "2 duplicate-directive: only one escape parser directive can be used",
        ),
        (
            "# syntax=a/b\nFROM busybox",
            "1 foreign-syntax: the frontend image `a/b` cannot be run: only `docker/dockerfile` is built in",
        ),
        ("FROM busybox\nRUN <<E\nx", "2 unterminated-heredoc: unterminated heredoc: no line `E` follows"),
        ("RUN x\nFROM busybox", "1 no-stage: no build stage in current context"),
        ("FROM busybox\nRUNN x", "2 unknown-instruction: unknown instruction: RUNN (did you mean RUN?)"),
        (
            "FROM busybox\nfntrypoint x",
            "2 unknown-instruction: unknown instruction: fntrypoint (did you mean entrypoint?)",
        ),
        ("FROM busybox\n\\\n\n", "2 unknown-instruction: unknown instruction: "),
        ("FROM busybox\nCopi a b", "2 unknown-instruction: unknown instruction: Copi (did you mean copy?)"),
    ]);
    let long = format!("FROM busybox\nRUN {}", "x".repeat(70_000));
    check(&[(&long, "2 line-too-long: dockerfile line greater than max allowed size of 65535")]);
}

#[test]
fn of_flags() {
    check(&[
        (
            "FROM busybox\nCOPY --exlude=x a b",
            "2 unknown-flag: unknown flag: --exlude (did you mean exclude?)",
        ),
        (
            "FROM busybox\nCOPY [\"a\", \"<<E\"]",
            "2 heredoc-destination: COPY cannot accept a heredoc as a destination",
        ),
        (
            "FROM busybox\nONBUILD HEALTHCHECK --retries=1 CMD [\"a\", 1]",
            "2 json-not-strings: when using JSON array syntax, arrays must be comprised of strings only",
        ),
        ("FROM busybox\nCOPY --FROM=x a b", "2 unknown-flag: unknown flag: --FROM"),
        ("FROM busybox\nENV --x A=1", "2 unknown-flag: unknown flag: --x"),
        ("FROM busybox\nADD --from=x a b", "2 unknown-flag: unknown flag: --from"),
        ("FROM busybox\nCOPY --chown a b", "2 missing-flag-value: missing a value on flag: --chown"),
        ("FROM busybox\nCOPY --link= a b", "2 missing-flag-value: missing a value on flag: --link"),
        ("FROM busybox\nCOPY --chmod=1 --chmod=2 a b", "2 duplicate-flag: duplicate flag specified: --chmod"),
        (
            "FROM busybox\nCOPY --link=maybe a b",
            "2 invalid-flag-value: expecting boolean value for flag --link, not: maybe",
        ),
        ("FROM busybox\nRUN --network=bridge x", "2 invalid-network: invalid network mode \"bridge\""),
        ("FROM busybox\nRUN --security=open x", "2 invalid-security: security \"open\" is not valid"),
    ]);
}

#[test]
fn of_arguments() {
    check(&[
        (
            "FROM busybox\nCOPY a",
            "2 missing-destination: COPY requires at least two arguments, but only one was provided. \
             Destination could not be determined",
        ),
        (
            "FROM busybox\nCOPY a <<E\nE",
            "2 heredoc-destination: COPY cannot accept a heredoc as a destination",
        ),
        ("FROM busybox\nCOPY <<a/b /\na/b", "2 heredoc-name: heredoc `a/b` cannot be the name of a file"),
        ("FROM busybox\nONBUILD ENV A", "2 pair-arguments: ENV must have two arguments"),
        ("FROM busybox\nENV A", "2 pair-arguments: ENV must have two arguments"),
        (
            "FROM busybox\nENV A=1 \\\n B 2",
            "2 missing-equals: Syntax error - can't find = in \"B\". Must be of the form: name=value",
        ),
        ("FROM busybox\nLABEL =x", "2 blank-name: LABEL names can not be blank"),
        ("FROM busybox\nARG =x", "2 blank-name: ARG names can not be blank"),
        ("FROM busybox\nLABEL", "2 missing-argument: LABEL requires at least one argument"),
        ("FROM busybox\nEXPOSE", "2 missing-argument: EXPOSE requires at least one argument"),
        ("FROM busybox\nWORKDIR", "2 missing-argument: WORKDIR requires exactly one argument"),
        ("FROM busybox\nVOLUME [\"\"]", "2 empty-volume: VOLUME specified can not be an empty string"),
        (
            "FROM busybox\nCMD [\"a\", 5]",
            "2 json-not-strings: when using JSON array syntax, arrays must be comprised of strings only",
        ),
        ("FROM busybox\nSHELL x", "2 shell-not-json: SHELL requires the arguments to be in JSON form"),
        ("FROM busybox\nRUN []", "2 no-command: RUN requires a command"),
        ("FROM busybox AS a b", "1 from-arguments: FROM requires either one or three arguments"),
        (
            "FROM busybox AS 1a",
            "1 invalid-stage-name: invalid name for build stage: \"1a\", name can't start with a number or contain \
             symbols",
        ),
        (
            "FROM busybox\nONBUILD ONBUILD RUN x",
            "2 invalid-trigger: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        ),
        ("FROM busybox\nONBUILD FROM x", "2 invalid-trigger: FROM isn't allowed as an ONBUILD trigger"),
        ("FROM busybox\nONBUILD --", "2 missing-argument: ONBUILD requires at least one argument"),
        ("FROM busybox AS a\nONBUILD -- RUN x\nFROM a", "3 unknown-instruction: unknown instruction: --"),
    ]);
}

#[test]
fn of_healthchecks() {
    check(&[
        ("FROM busybox\nHEALTHCHECK CMD []", "2 healthcheck-command: Missing command after HEALTHCHECK CMD"),
        ("FROM busybox\nHEALTHCHECK NONE x", "2 healthcheck-none: HEALTHCHECK NONE takes no arguments"),
        ("FROM busybox\nHEALTHCHECK x", "2 healthcheck-type: Unknown type \"X\" in HEALTHCHECK (try CMD)"),
        (
            "FROM busybox\nHEALTHCHECK --interval=9us CMD x",
            "2 healthcheck-interval: Interval \"interval\" cannot be less than 1ms",
        ),
        (
            "FROM busybox\nHEALTHCHECK --timeout=9 CMD x",
            "2 healthcheck-interval: --timeout: invalid duration \"9\"",
        ),
        (
            "FROM busybox\nHEALTHCHECK --retries=-1 CMD x",
            "2 healthcheck-retries: --retries cannot be negative (-1)",
        ),
    ]);
}

#[test]
fn of_stages_and_images() {
    check(&[
        ("ARG B\nFROM $B", "2 blank-base: base name ($B) should not be blank"),
        ("FROM --platform=$B busybox", "1 empty-platform: empty platform value from expression $B"),
        (
            "FROM --platform=a/b/c/d busybox",
            "1 invalid-platform: failed to parse platform a/b/c/d: `a/b/c/d` is not a platform: it should be \
             `os/architecture` or `os/architecture/variant`",
        ),
        (
            "FROM Bad",
            "1 invalid-reference: failed to parse stage name \"Bad\": invalid reference format: repository name \
             `library/Bad` must be lowercase",
        ),
        (
            "FROM scratch AS Build\nFROM scratch\nCOPY --from=Buil x /",
            "3 invalid-reference: failed to parse stage name \"Buil\": invalid reference format: repository name \
             `library/Buil` must be lowercase (did you mean build?)",
        ),
        ("FROM busybux", "1 base-image: busybux: not found (did you mean busybox?)"),
        ("FROM busybox\nCOPY --from=7 a b", "2 invalid-stage-index: invalid stage index 7"),
        (
            "FROM busybox AS me\nCOPY --from=me a b",
            "2 circular-stage: circular dependency detected on stage: me",
        ),
        (
            "FROM busybox AS one\nCOPY --from=two a b\nFROM one AS two",
            "2 later-stage: cannot copy from stage \"two\", it needs to be defined before current stage \"one\"",
        ),
        (
            "FROM busybox\nCOPY --from=$X a b",
            "2 from-variable: variable expansion is not supported for --from, define a new stage with FROM using ARG \
             from global scope as a workaround",
        ),
    ]);
    let wrong = LowerOptions { target: Some("biuld".to_owned()), ..options() };
    let wanted = "0 unknown-target: target stage \"biuld\" could not be found (did you mean build?)";
    assert_eq!(mistakes("FROM busybox AS build", &wrong), [wanted]);
}

#[test]
fn of_values() {
    check(&[
        ("FROM busybox\nENV A=${}", "2 expansion: failed to process \"${}\": syntax error: bad substitution"),
        ("ARG A=${B?no}\nFROM busybox", "1 expansion: failed to process \"${B?no}\": B: no"),
        ("FROM busybox\nEXPOSE http", "2 invalid-port: invalid containerPort: http"),
        ("FROM busybox\nSTOPSIGNAL X", "2 invalid-signal: invalid signal: X"),
        (
            "FROM busybox\nCOPY --chmod=64a a b",
            "2 invalid-chmod: invalid chmod parameter: '64a'. it should be octal string and between 0 and 07777",
        ),
        ("FROM busybox\nCOPY http://a/b /", "2 remote-copy: source can't be a URL for COPY"),
        ("FROM busybox\nCOPY git@h:r /", "2 remote-copy: source can't be a git ref for COPY"),
        ("FROM busybox\nADD --checksum=x a b", "2 checksum: checksum requires HTTP(S) or Git sources"),
        (
            "FROM busybox\nADD --checksum=x a b c",
            "2 checksum: checksum can't be specified for multiple sources",
        ),
        (
            "FROM busybox\nARG C=sha256:99\nADD --checksum=$C https://a/b /",
            "3 checksum: invalid checksum digest length",
        ),
        (
            "FROM busybox\nADD --checksum=xyz https://a/b.git /",
            "2 git-source: invalid checksum xyz for Git URL, expected hex commit hash",
        ),
        (
            "FROM busybox\nADD --keep-git-dir=false git@a:b?keep-git-dir=true /",
            "2 git-source: inconsistent keep-git-dir configuration",
        ),
        ("FROM busybox\nRUN --network=host x", "2 entitlement: entitlement network.host is not allowed"),
        (
            "FROM busybox\nRUN --security=insecure x",
            "2 entitlement: entitlement security.insecure is not allowed",
        ),
    ]);
}

#[test]
fn of_devices() {
    check(&[
        ("FROM busybox\nRUN --device=a/b=c,required=x x", "2 invalid-device: invalid value for required: x"),
        ("FROM busybox\nRUN --device=x x", "2 invalid-device: invalid device \"x\""),
        (
            "FROM busybox\nRUN --device=a/b=c,required x",
            "2 device-missing: required device \"a/b=c\" is not registered",
        ),
    ]);
}

#[test]
fn all_mistakes_are_told_at_once_in_order() {
    let text = "FROM busybox AS a\nCOPY x\nRUNN y\nENV A\nFROM b c\nEXPOSE\n";
    let lines: Vec<String> = mistakes(text, &options()).iter().map(|line| line[..1].to_owned()).collect();
    assert_eq!(lines, ["2", "3", "4", "5", "6"]);
    let text = "FROM busybox\nEXPOSE x\nSTOPSIGNAL y\nRUN --mount=x z";
    let lines: Vec<String> = mistakes(text, &options()).iter().map(|line| line[..1].to_owned()).collect();
    assert_eq!(lines, ["2", "3", "4"]);
}
