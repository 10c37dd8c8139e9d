use std::collections::BTreeSet;

use worker::PullPolicy;

use exporter::LoadTarget;

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
        assert!(!arguments.switches.quiet && arguments.output.load == Some(LoadWish::Nowhere), "{value}");
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
fn images_are_loaded_where_that_is_wanted() {
    let load = |flag| build(&["rbuild", flag, "."]).output.load;
    assert_eq!(load("--load"), Some(LoadWish::In(LoadTarget::First)));
    assert_eq!(load("--load=docker"), Some(LoadWish::In(LoadTarget::Docker { context: None })));
    assert_eq!(load("--load=podman"), Some(LoadWish::In(LoadTarget::Podman)));
    assert!(parse(["rbuild", "--load=x", "."].map(Into::into).into()).is_err());
}

#[test]
fn unknown_flags_get_a_suggestion() {
    let error = parse(["rbuild", "--targte", "x", "."].map(Into::into).into()).unwrap_err().to_string();
    assert!(error.contains("--target"), "{error}");
}

#[test]
fn a_command_may_have_been_meant() {
    assert_eq!(command_hint("imagse").as_deref(), Some("there is a command `images`"));
    assert!(command_hint("compose").unwrap().starts_with("if a command was meant: there are `build`, "));
    assert_eq!((command_hint("./imagse"), command_hint("x")), (None, None));
    let error = parse(["rbuild", "buidl", "."].map(Into::into).into()).unwrap_err().to_string();
    assert!(error.contains("tip: there is a command `build`"), "{error}");
}

/// All flags of `docker buildx build` and of `docker build`, hidden ones and those of old included, with a value.
const FLAGS_OF_DOCKER: &[&str] = &[
    "--add-host=h:1.2.3.4",
    "--allow=network.host",
    "--annotation=k=v",
    "--attest=type=sbom",
    "--build-arg=K=V",
    "--build-context=n=.",
    "--builder=default",
    "--cache-from=user/app:cache",
    "--cache-to=type=inline",
    "--call=check",
    "--cgroup-parent=c",
    "--check",
    "--compress",
    "--cpu-period=100000",
    "--cpu-quota=50000",
    "--cpu-shares=512",
    "-c512",
    "--cpuset-cpus=0",
    "--cpuset-mems=0",
    "--debug",
    "-D",
    "--disable-content-trust",
    "--file=f",
    "-ff",
    "--force-rm",
    "--iidfile=f",
    "--isolation=default",
    "--label=k=v",
    "--load",
    "--memory=1g",
    "-m1g",
    "--memory-swap=-1",
    "--metadata-file=f",
    "--network=none",
    "--no-cache",
    "--no-cache-filter=a,b",
    "--output=out",
    "-oout",
    "--platform=linux/amd64",
    "--policy=disabled",
    "--print=outline",
    "--progress=plain",
    "--provenance=false",
    "--pull",
    "--push",
    "--quiet",
    "-q",
    "--resource=memory=1g",
    "--rm",
    "--sbom=false",
    "--secret=id=x",
    "--security-opt=label=disable",
    "--shm-size=64m",
    "--squash",
    "--ssh=default",
    "--tag=t",
    "-tt",
    "--target=s",
    "--ulimit=nofile=1024",
];

#[test]
fn every_flag_of_docker_is_taken() {
    let wrong: Vec<String> = FLAGS_OF_DOCKER
        .iter()
        .filter_map(|flag| parse(["rbuild", flag, "."].map(Into::into).into()).err())
        .map(|error| error.to_string())
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
    let together: Vec<_> = ["rbuild"].iter().chain(FLAGS_OF_DOCKER).chain(&["."]).map(Into::into).collect();
    assert!(parse(together).is_ok());
}
