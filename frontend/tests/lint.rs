//! Each lint rule: its message, the words that it is about, and what is written instead.

mod stub;

use frontend::{Certainty, Diagnostic, LowerOptions, Rule, SourceFile, apply_fixes, check, parse};
use pattern::PatternSet;
use stub::{Stub, options};

fn source(text: &str) -> SourceFile {
    SourceFile { name: "Dockerfile".to_owned(), text: text.to_owned() }
}

fn look(text: &str, options: &LowerOptions) -> Vec<Diagnostic> {
    check(&parse(&source(text)), options, &mut Stub::default())
}

/// `line rule: message [words] => what is written instead`, with `?` for a guess.
fn describe(text: &str, found: &Diagnostic) -> String {
    let line = found.span.map_or(0, |span| span.first_line);
    let words = found
        .focus
        .as_ref()
        .map_or_else(String::new, |focus| format!(" [{}]", text[focus.start..focus.end].escape_debug()));
    let fix = found.fix.as_ref().map_or_else(String::new, |fix| {
        let arrow = if fix.certainty == Certainty::Certain { "=>" } else { "=>?" };
        format!(" {arrow} {}", fix.title)
    });
    format!("{line} {}: {}{words}{fix}", found.code, found.message)
}

#[track_caller]
fn expect(text: &str, options: &LowerOptions, wanted: &[&str]) {
    let found: Vec<String> = look(text, options).iter().map(|found| describe(text, found)).collect();
    assert_eq!(found, wanted, "{text}");
}

#[test]
fn of_stages() {
    expect(
        "FROM busybox AS Base\nFROM base as two\nfrom busybox as BASE\nFROM base AS context\n",
        &options(),
        &[
            "1 StageNameCasing: Stage name 'Base' should be lowercase [Base] => write `base`",
            "2 FromAsCasing: 'as' and 'FROM' keywords' casing do not match [as] => write `AS`",
            "3 StageNameCasing: Stage name 'BASE' should be lowercase [BASE] => write `base`",
            "3 DuplicateStageName: Duplicate stage name \"base\", stage names should be unique [BASE]",
            "4 ReservedStageName: Stage name should not use the same name as reserved stage \"context\" [context]",
            "3 ConsistentInstructionCasing: Command 'from' should match the case of the command majority (uppercase) \
             [from] => write `FROM`",
        ],
    );
}

#[test]
fn of_bases() {
    expect(
        "ARG TAG\nARG NAME=busybox\nFROM $NAM:$TAG AS a\nFROM --platform=$TARGETPLATFORM $NAME AS b\n\
         FROM --platform=linux/x86_64 $NAME\n",
        &options(),
        &[
            "3 InvalidDefaultArgInFrom: Default value for ARG $NAM:$TAG results in empty or invalid base image name \
             [$NAM:$TAG]",
            "3 UndefinedArgInFrom: FROM argument 'NAM' is not declared (did you mean NAME?) [NAM] =>? write `NAME`",
            "4 RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is \
             the default behavior [--platform=$TARGETPLATFORM] =>? remove `--platform`",
            "5 FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value \"linux/x86_64\" \
             [--platform=linux/x86_64]",
            "3 invalid-reference: failed to parse stage name \":\": invalid reference format: `:`",
        ],
    );
    expect(
        "ARG P=linux/arm64\nFROM --platform=$P busybox\nCOPY --from=rich / /\n",
        &options(),
        &[
            "2 InvalidBaseImagePlatform: Base image busybox was pulled with platform \"linux/amd64\", expected \
           \"linux/arm64\" for current build",
        ],
    );
}

#[test]
fn of_instructions() {
    expect(
        "FROM busybox\nENV TOKEN=$PTH \\\n\n  B=2\nWORKDIR a\nMAINTAINER me\nCMD a $B\nCMD a b\nEXPOSE 1:80/TCP\n\
         LABEL a b\n",
        &options(),
        &[
            "4 NoEmptyContinuation: Empty continuation line [\\n] => remove the blank lines",
            "6 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label [MAINTAINER] => write \
             `LABEL org.opencontainers.image.authors=\"me\"`",
            "2 UndefinedVar: Usage of undefined variable '$PTH' (did you mean $PATH?) [PTH] =>? write `PATH`",
            "2 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV \"TOKEN\") [TOKEN]",
            "5 WorkdirRelativePath: Relative workdir \"a\" can have unexpected results if the base image changes [a]",
            "7 JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS \
             signals [a $B]",
            "7 MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because \
             only the last one will be used",
            "8 JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS \
             signals [a b] => write `CMD [\"a\", \"b\"]`",
            "9 ExposeProtoCasing: Defined protocol '1:80/TCP' in EXPOSE instruction should be lowercase [1:80/TCP] => \
             write `1:80/tcp`",
            "9 ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found \
             '1:80/TCP' [1:80/TCP] =>? write `80/TCP`",
            "10 LegacyKeyValueFormat: \"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format \
             [a b] => write `LABEL a=b`",
        ],
    );
}

#[test]
fn of_descriptions_and_ignored_files() {
    let build_args = [("BUILDKIT_DOCKERFILE_CHECK".to_owned(), "experimental=all".to_owned())].into();
    let ignore = Some(PatternSet::parse("*.log\nx").expect("the patterns are right"));
    let options = LowerOptions { build_args, ignore, ..options() };
    expect(
        "# about\nARG A B\n# A first\nARG A\nFROM busybox\nCOPY a.log x/y z /d/\nADD http://h/a.log . /d/\n",
        &options,
        &[
            "2 InvalidDefinitionDescription: Comment for ARG should follow the format: `# <arg_key> <description>` \
             [about]",
            "6 CopyIgnoredFile: Attempting to Copy file \"a.log\" that is excluded by .dockerignore [a.log]",
            "6 CopyIgnoredFile: Attempting to Copy file \"x/y\" that is excluded by .dockerignore [x/y]",
        ],
    );
}

#[test]
fn an_entrypoint_for_a_shell_stays_where_there_is_a_command() {
    let text = "FROM busybox\nENTRYPOINT a\nCMD b\n";
    let fixed = apply_fixes(text, &look(text, &options()));
    assert_eq!(fixed.as_deref(), Some("FROM busybox\nENTRYPOINT a\nCMD [\"b\"]\n"));
    assert_eq!(look("FROM rich\nENTRYPOINT a\n", &options()), [], "the image has a shell of its own");
}

#[test]
fn triggers_have_no_places_of_their_own() {
    let text = "FROM busybox AS a\nONBUILD ENV a b\nONBUILD COPY $NOWHERE /x\nFROM a\n";
    expect(
        text,
        &options(),
        &[
            "4 LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
            "4 UndefinedVar: Usage of undefined variable '$NOWHERE'",
        ],
    );
}

#[test]
fn fixes_build_the_same_or_what_they_say() {
    let text = "from busybox as A\nENV a b  c\nLABEL l \"x y\"\nRUN a \\\n\n b\nexpose 80/UDP\n";
    let fixed = apply_fixes(text, &look(text, &options())).expect("there is something to fix");
    let wanted = "from busybox as a\nENV a=\"b  c\"\nLABEL l=\"x y\"\nRUN a \\\n b\nexpose 80/udp\n";
    // The majority has capitals; what that changes is fixed in the same round.
    assert_eq!(fixed, wanted.replace("from", "FROM").replace("expose", "EXPOSE"));
    let before = stub::build(text, &options()).expect("it is right");
    let after = stub::build(&fixed, &options()).expect("it is right");
    assert_eq!(before.config, after.config);
    assert_eq!(look(&fixed, &options()).len(), 1, "`as` is left for the next round");
}

#[test]
fn rules_are_known_by_name() {
    let mut names: Vec<&str> = Rule::all().map(Rule::name).collect();
    assert_eq!(names.len(), 22);
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 22);
    assert!(Rule::all().all(|rule| !rule.description().is_empty() && !rule.advice().is_empty()));
}
