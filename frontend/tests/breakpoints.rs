//! Where builds stop, and what a stage is before one of its instructions.

mod stub;

use frontend::{Breakpoint, LowerOptions, Lowered, NoCache, SourceFile, lower_before, parse};
use solver::Op;
use stub::{Stub, build, options};

const DOCKERFILE: &str = "\
FROM busybox AS base
ENV A=1
RUN one

# about the copy
COPY a \\
  b /
WORKDIR /
CMD x

FROM base AS test
WORKDIR /w
USER app
RUN two

FROM base
ARG B=2
LABEL l=1
COPY --link c /c
RUN three
ENV C=3
";

fn at(breakpoints: &[Breakpoint]) -> LowerOptions {
    LowerOptions { breakpoints: breakpoints.to_vec(), ..options() }
}

/// The names of the steps before which each breakpoint stops.
fn stops(lowered: &Lowered) -> Vec<Vec<&str>> {
    let name = |vertex: &solver::VertexId| lowered.graph.vertex(*vertex).meta.name.as_str();
    lowered.breakpoints.iter().map(|vertices| vertices.iter().map(name).collect()).collect()
}

#[test]
fn a_line_stands_for_the_step_in_it_or_the_next_one_in_its_stage() {
    let cases = [
        (1, "[base 2/4] RUN one"),
        (3, "[base 2/4] RUN one"),
        (4, "[base 3/4] COPY a   b /"),
        (7, "[base 3/4] COPY a   b /"),
        (15, "[stage-2 1/2] LINK COPY --link c /c"),
        (20, "[stage-2 2/2] RUN three"),
    ];
    for (line, wanted) in cases {
        let lowered = build(DOCKERFILE, &at(&[Breakpoint::Line(line)])).unwrap();
        assert_eq!(stops(&lowered), [[wanted]], "line {line}");
        let vertex = lowered.graph.vertex(lowered.breakpoints[0][0]);
        assert!(vertex.meta.no_cache, "line {line}");
        assert!(!matches!(lowered.graph.vertex(vertex.inputs[0].vertex).op, Op::Scratch), "line {line}");
        let plain = build(DOCKERFILE, &options()).unwrap();
        let digests = |lowered: &Lowered| {
            lowered.graph.vertices().iter().map(|vertex| vertex.digest).collect::<Vec<_>>()
        };
        assert_eq!(digests(&lowered), digests(&plain), "a breakpoint changes no key");
    }
}

#[test]
fn a_stage_stands_for_all_of_its_steps() {
    let both = at(&[Breakpoint::Stage("base".to_owned()), Breakpoint::Stage("stage-2".to_owned())]);
    let lowered = build(DOCKERFILE, &both).unwrap();
    assert_eq!(
        stops(&lowered),
        [
            ["[base 2/4] RUN one", "[base 3/4] COPY a   b /"],
            ["[stage-2 1/2] LINK COPY --link c /c", "[stage-2 2/2] RUN three"]
        ]
    );
    assert!(lowered.graph.vertices().iter().all(|vertex| !vertex.meta.no_cache));
}

#[test]
fn breakpoints_that_stop_nowhere_are_mistakes() {
    let line = |line| Breakpoint::Line(line);
    let stage = |name: &str| Breakpoint::Stage(name.to_owned());
    let cases = [
        (
            line(8),
            "cannot break at line 8: no step follows in stage \"base\"",
            Some("the next step is at line 12"),
        ),
        (
            line(9),
            "cannot break at line 9: no step follows in stage \"base\"",
            Some("the next step is at line 12"),
        ),
        (
            line(99),
            "cannot break at line 99: no step follows in stage \"stage-2\"",
            Some("the last step is at line 20"),
        ),
        (
            line(14),
            "cannot break at line 14: the target does not need stage \"test\"",
            Some("name another target with `--target`"),
        ),
        (
            stage("test"),
            "cannot break in stage \"test\": the target does not need stage \"test\"",
            Some("name another target with `--target`"),
        ),
        (
            stage("tset"),
            "cannot break in stage \"tset\": there is none of that name (did you mean test?)",
            None,
        ),
    ];
    for (breakpoint, message, help) in cases {
        let found = build(DOCKERFILE, &at(&[breakpoint])).unwrap_err();
        let errors: Vec<_> = found.iter().filter(|found| found.is_error()).collect();
        assert_eq!(errors.len(), 1, "{found:?}");
        assert_eq!((errors[0].message.as_str(), errors[0].help.as_deref()), (message, help));
    }
}

#[test]
fn a_stage_before_an_instruction_is_an_image() {
    let file = parse(&SourceFile { name: "Dockerfile".to_owned(), text: DOCKERFILE.to_owned() });
    let all = LowerOptions {
        no_cache: NoCache::All,
        labels: [("given".to_owned(), "1".to_owned())].into(),
        ..options()
    };
    let lowered = build(DOCKERFILE, &all).unwrap();
    let vertex = |name: &str| {
        let mut ids = lowered.graph.ids();
        ids.find(|id| lowered.graph.vertex(*id).meta.name.ends_with(name)).unwrap()
    };
    let before = |name| {
        let place = lowered.place_of(vertex(name)).unwrap();
        lower_before(&file, &all, &mut Stub::default(), place).unwrap()
    };
    let three = before("RUN three");
    let op = |before: &frontend::Before| {
        let target = before.lowered.graph.vertex(before.lowered.target);
        assert!(!target.meta.no_cache, "what was made is not made again");
        target.meta.name.clone()
    };
    assert_eq!(op(&three), "[stage-2 1/2] LINK COPY --link c /c");
    assert_eq!(three.run.args, ["/bin/sh", "-c"]);
    assert_eq!(three.run.env, ["PATH=/bin", "A=1", "B=2"]);
    let config = &three.lowered.config;
    assert_eq!(config.config.labels.len(), 2, "labels of the file and of the command line");
    assert_eq!(config.history.last().unwrap().created_by.as_deref(), Some("COPY c /c # buildkit"));
    // The first vertex of the instruction is a copy to nothing; the stage is what counts.
    let copy = before("COPY --link c /c");
    assert_eq!(op(&copy), "[base 3/4] COPY a   b /");
    let one = before("RUN one");
    assert!(op(&one).starts_with("[base 1/4] FROM docker.io/library/busybox"));
}
