use std::collections::BTreeSet;

use worker::PullPolicy;

use super::*;

pub(super) fn build(arguments: &[&str]) -> BuildArguments {
    match parse(arguments.iter().map(Into::into).collect()).unwrap().action {
        Action::Build(build) => *build,
        other => panic!("{other:?} is no build"),
    }
}

#[test]
fn the_declaration_is_consistent() {
    command().debug_assert();
}

#[test]
fn each_command_is_known_by_name() {
    let command = command();
    let declared: BTreeSet<&str> = command.get_subcommands().map(Command::get_name).collect();
    assert_eq!(declared, SUBCOMMANDS.iter().copied().collect());
}

#[test]
fn the_build_is_the_default_command() {
    assert_eq!(build(&["rbuild", "-t", "a", "."]).image.tags, ["a"]);
    assert_eq!(build(&["rbuild", "build", "-t", "a", "."]).image.tags, ["a"]);
    assert_eq!(build(&["rbuild", "--root", "x", "."]).context, ".");
    assert_eq!(build(&["rbuild", "--root=x", "build", "./images"]).context, "./images");
    let line = parse(vec!["rbuild".into(), "--root".into(), "x".into(), "images".into()]).unwrap();
    assert!(matches!(line.action, Action::Image(crate::images::ImageAction::Images(_))));
    assert_eq!((line.root, line.ids), (Some("x".into()), Ids::All));
    let line = parse(["rbuild", "--ids", "one", "--root=x", "du"].map(Into::into).into()).unwrap();
    assert!(matches!(line.action, Action::Du { .. }) && line.ids == Ids::One);
}

#[test]
fn the_last_of_several_counts() {
    let arguments =
        build(&["rbuild", "--target=a", "-t", "x", "--check", "--target=b", "-t", "y", "--check=false", "."]);
    assert_eq!((arguments.input.target.as_deref(), arguments.switches.check), (Some("b"), false));
    assert_eq!(arguments.image.tags, ["x", "y"]);
}

#[test]
fn switches_take_a_value_after_an_equals_sign_only() {
    let arguments = build(&["rbuild", "--no-cache", "--pull=true", "--push=false", "-q", "."]);
    assert!(arguments.switches.no_cache && arguments.switches.quiet);
    assert_eq!(arguments.sources.pull, Some(PullPolicy::Always));
    assert!(!arguments.switches.push);
}

#[test]
fn switches_take_what_go_takes_for_a_bool() {
    for value in ["1", "t", "T", "TRUE", "true", "True"] {
        assert!(build(&["rbuild", &format!("--check={value}"), "."]).switches.check, "{value}");
    }
    for value in ["0", "f", "F", "FALSE", "false", "False"] {
        let arguments = build(&["rbuild", "-q", &format!("-q={value}"), "--load", "--load=0", "."]);
        assert!(!arguments.switches.quiet && arguments.later.given.is_empty(), "{value}");
    }
    let error = |flag: &str| parse(["rbuild", flag, "."].map(Into::into).into()).unwrap_err().to_string();
    let wanted =
        "invalid argument \"yes\" for \"--check\" flag: strconv.ParseBool: parsing \"yes\": invalid syntax";
    assert!(error("--check=yes").contains(wanted), "{}", error("--check=yes"));
    let wanted =
        "invalid argument \"tRUE\" for \"-q, --quiet\" flag: strconv.ParseBool: parsing \"tRUE\": invalid";
    assert!(error("-q=tRUE").contains(wanted), "{}", error("-q=tRUE"));
}

#[test]
fn later_flags_are_told_and_unknown_ones_get_a_suggestion() {
    let arguments = build(&["rbuild", "--squash", "--load", "."]);
    assert_eq!(arguments.later.given, ["load", "squash"]);
    let error = parse(["rbuild", "--targte", "x", "."].map(Into::into).into()).unwrap_err().to_string();
    assert!(error.contains("--target"), "{error}");
}

#[test]
fn a_command_may_have_been_meant() {
    assert_eq!(command_hint("imagse").as_deref(), Some("there is a command `images`"));
    assert!(command_hint("compose").unwrap().starts_with("if a command was meant: there are `build`, "));
    assert_eq!((command_hint("./imagse"), command_hint("x")), (None, None));
}
