//! Where the two parsers are known to differ, and why ours is right. The list only shrinks.

/// One thing that `parse-dockerfile` takes otherwise than BuildKit.
pub(crate) struct Gap {
    /// What it does.
    pub(crate) theirs: &'static str,
    /// What BuildKit does, and we.
    pub(crate) buildkit: &'static str,
    /// Where it shows: a case of the conformance tests or a path, and a part of the difference.
    pub(crate) cases: &'static [(&'static str, &'static str)],
}

/// All of them.
pub(crate) const GAPS: &[Gap] = &[
    Gap {
        theirs: "refuses a second stage of the same name",
        buildkit: "builds, and only warns (`DuplicateStageName`)",
        cases: &[
            ("check/duplicate-stage-name", "theirs alone fails: duplicate stage name 'one'"),
            ("check/skip-instruction-not-all", "theirs alone fails: duplicate stage name 'one'"),
            ("stages/duplicate-stage-name", "theirs alone fails: duplicate stage name 'x'"),
            ("stages/stage-same-name-as-its-base", "theirs alone fails: duplicate stage name 'busybox'"),
        ],
    },
    Gap {
        theirs: "refuses `ENTRYPOINT []`",
        buildkit: "takes the entrypoint of the base image away",
        cases: &[
            ("config/cmd-empty", "theirs alone fails: ENTRYPOINT instruction requires"),
            ("testdata/fuzz/dockerfile/json", "theirs alone fails: ENTRYPOINT instruction requires"),
        ],
    },
    Gap {
        theirs: "knows one here-document in a RUN, as its first word, and takes the lines of others for instructions",
        buildkit: "reads as many as the line announces, wherever they stand, with file descriptors or without",
        cases: &[
            ("parse/heredoc-chomp-stdin", "theirs alone fails: unknown instruction 'one'"),
            ("parse/heredoc-run-quoted-stdin", "theirs alone fails: unknown instruction '$V'"),
            ("parse/heredoc-run-several", "theirs alone fails: unknown instruction 'three'"),
            ("parse/heredoc-run-stdin", "theirs alone fails: unknown instruction 'Hello'"),
            ("run/heredoc-other-fd", "theirs alone fails: unknown instruction 'three'"),
            ("run/heredoc-to-command", "theirs alone fails: unknown instruction 'one'"),
            ("testdata/fuzz/dockerfile/heredocs", "theirs alone fails: unknown instruction 'b'"),
            ("testdata/fuzz/dockerfile/layout", "theirs alone fails: unknown instruction 'z'"),
        ],
    },
    Gap {
        theirs: "takes a here-document as the destination of COPY for a name, and its lines for instructions",
        buildkit: "refuses the COPY",
        cases: &[
            ("copy/heredoc-dest", "ours fails on line 2 (COPY cannot accept a heredoc"),
            ("parse/heredoc-as-destination", "ours fails on line 2 (COPY cannot accept a heredoc"),
        ],
    },
    Gap {
        theirs: "misses the end of a here-document where the file ends",
        buildkit: "names the line of the instruction that announces it",
        cases: &[
            ("copy/heredoc-unterminated", "ours fails on line 2 (unterminated heredoc"),
            ("parse/heredoc-unterminated", "ours fails on line 2 (unterminated heredoc"),
            ("run/heredoc-unterminated", "ours fails on line 2 (unterminated heredoc"),
        ],
    },
    Gap {
        theirs: "takes the second of two escapes at the end of a line for a continuation",
        buildkit: "takes both for text, and ends the instruction",
        cases: &[
            ("parse/double-escape-at-end", "ours ENV on line 3, theirs nothing"),
            ("vars/quotes-env", "ENV on line 3: ours ends on line 3, theirs on 4"),
            ("testdata/fuzz/dockerfile/directives", "ours RUN on line 6, theirs nothing"),
        ],
    },
    Gap {
        theirs: "has an instruction end with its last word",
        buildkit: "has it end with the last line that a continuation takes: its warning of an empty one names line 11",
        cases: &[("check/no-empty-continuation", "RUN on line 10: ours ends on line 11, theirs on 10")],
    },
    Gap {
        theirs: "counts the escape that ends the file in the place of the value before it",
        buildkit: "drops the escape (it has no places of values)",
        cases: &[(
            "parse/continuation-at-eof",
            r#"ours pairs "A=1" at 17..20, theirs pairs "A=1" at 17..22"#,
        )],
    },
    Gap {
        theirs: "has a flag end at the first blank, even in quotes",
        buildkit: "has it end at the first blank that is not quoted",
        cases: &[("mounts/quoted-csv-fields", r#"theirs shell form "d.txt,target=/n n' cat"#)],
    },
    Gap {
        theirs: "takes `--` for a flag without a name, and what follows for more flags",
        buildkit: "ends the flags there",
        cases: &[
            ("parse/flag-forms", "theirs alone fails: COPY instruction requires at least two arguments"),
            ("testdata/fuzz/dockerfile/flags", "RUN on line 5: ours shell form \"--x\" at"),
        ],
    },
    Gap {
        theirs: "ignores all directives if one is there twice",
        buildkit: "refuses the file",
        cases: &[("parse/directive-escape-twice", "ours alone fails: only one escape parser directive")],
    },
    Gap {
        theirs: "does not know which flags there are, how often they may be given and with which values",
        buildkit: "refuses the instruction",
        cases: &[
            ("add/copy-checksum", "ours alone fails: unknown flag: --checksum"),
            ("add/from-flag", "ours alone fails: unknown flag: --from"),
            (
                "config/healthcheck-bad-interval",
                "ours alone fails: Interval \"interval\" cannot be less than 1ms",
            ),
            ("copy/bool-flag-bad-value", "ours alone fails: expecting boolean value for flag --link"),
            ("copy/unknown-flag", "ours alone fails: unknown flag: --form"),
            ("parse/flag-bool", "ours alone fails: expecting boolean value for flag --link"),
            ("parse/flag-duplicate", "ours alone fails: duplicate flag specified: --chmod"),
            ("parse/flag-missing-value", "ours alone fails: missing a value on flag: --chown"),
            ("parse/flag-unknown", "ours alone fails: unknown flag: --exlude"),
            ("run/flag-twice", "ours alone fails: duplicate flag specified: --network"),
            ("run/network-unknown", "ours alone fails: invalid network mode"),
            ("run/security-unknown", "ours alone fails: security \"open\" is not valid"),
            ("run/unknown-flag-suggestion", "ours alone fails: unknown flag: --mont"),
            (
                "testdata/fuzz/dockerfile/flags-wrong",
                "ours fails on line 2 (missing a value on flag: --from)",
            ),
        ],
    },
    Gap {
        theirs: "does not split ENV into names and values",
        buildkit: "refuses words without `=`, and a name without a value",
        cases: &[
            ("parse/env-missing-equals", "ours alone fails: Syntax error - can't find = in \"B\""),
            ("parse/env-one-word", "ours alone fails: ENV must have two arguments"),
        ],
    },
    Gap {
        theirs: "takes a list in JSON that holds a number for a command of the shell",
        buildkit: "refuses lists of anything but strings",
        cases: &[
            ("parse/json-non-string", "ours alone fails: when using JSON array syntax"),
            ("run/json-with-a-number", "ours alone fails: when using JSON array syntax"),
            ("testdata/fuzz/dockerfile/json-wrong", "ours fails on line 2 (when using JSON array syntax"),
        ],
    },
    Gap {
        theirs: "takes any word for the name of a stage",
        buildkit: "wants a letter first, and letters, digits, `-`, `_` and `.` after it",
        cases: &[
            ("parse/stage-name-invalid", "ours alone fails: invalid name for build stage: \"1st\""),
            ("stages/stage-name-invalid", "ours alone fails: invalid name for build stage: \"1st\""),
            ("stages/stage-name-symbols", "ours alone fails: invalid name for build stage: \"a/b\""),
            (
                "testdata/fuzz/dockerfile/images-wrong",
                "ours alone fails: invalid name for build stage: \"1st\"",
            ),
        ],
    },
    Gap {
        theirs: "lets the command of HEALTHCHECK and the names of VOLUME be empty",
        buildkit: "refuses them",
        cases: &[
            ("config/healthcheck-no-command", "ours alone fails: Missing command after HEALTHCHECK CMD"),
            ("config/volume-empty", "ours alone fails: VOLUME specified can not be an empty string"),
        ],
    },
    Gap {
        theirs: "does not read the options of `--mount`",
        buildkit: "refuses a variable in `from`, since it names a stage",
        cases: &[
            ("mounts/bind-from-variable", "ours alone fails: 'from' doesn't support variable expansion"),
            (
                "testdata/fuzz/dockerfile/mounts-wrong",
                "ours alone fails: 'from' doesn't support variable expansion",
            ),
        ],
    },
];
