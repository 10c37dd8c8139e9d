//! What is shown while a build runs: at a terminal, in a file, for programs.

use std::collections::BTreeMap;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::lab::{Lab, Ran};
use crate::typist::Typist;

const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(120);

const PARALLEL: &str = "\
FROM busybox AS a
RUN echo from a; sleep 0.3
FROM busybox AS b
RUN printf '10%%\\r\\033[31m90%%\\033[2J'; sleep 0.3
FROM busybox
COPY --from=a /etc /a
COPY --from=b /etc /b
";

fn command(lab: &Lab, dockerfile: &str, arguments: &[&str]) -> Command {
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    let in_plain = lab.build_command(&context, &[]);
    // The flag of the lab would decide.
    let words = in_plain.get_args().filter(|word| *word != "--progress=plain");
    let mut command = lab.command();
    command.args(words).args(arguments).env("TERM", "xterm");
    command
}

fn run(command: Command) -> Ran {
    Ran::from(testkit::run_with_timeout(command, TIMEOUT))
}

/// A screen without what differs from run to run: times, and digests.
fn normal(screen: &str) -> String {
    let word = |word: &str| {
        let seconds = word.strip_suffix('s').or_else(|| word.strip_suffix("s:"));
        let is_time = seconds.is_some_and(|number| number.contains('.') && number.parse::<f64>().is_ok());
        match word.split_once("sha256:") {
            Some((before, _)) => format!("{before}sha256:D"),
            None if is_time => "T".to_owned(),
            None => word.to_owned(),
        }
    };
    let line =
        |line: &str| line.split(' ').filter(|part| !part.is_empty()).map(word).collect::<Vec<_>>().join(" ");
    screen.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_terminal_has_a_live_view() {
    let lab = Lab::new();
    let (code, screen) = Typist::new(&command(&lab, PARALLEL, &["-t", "app:v1"])).end_with_screen();
    assert_eq!(code, Some(0), "{screen}");
    let screen = normal(&screen);
    let (steps, rest) = screen.split_once("\n=> exporting to image T\n").expect("it is exported");
    let mut steps: Vec<&str> = steps.lines().collect();
    assert_eq!(steps.remove(0), "[+] Building T (8/8) FINISHED", "{screen}");
    steps.sort_unstable();
    let expected = [
        "=> => sha256:D 1.07MB / 1.07MB T",
        "=> => transferring dockerfile: 170B T",
        "=> [a 1/2] FROM busybox@sha256:D T",
        "=> [a 2/2] RUN echo from a; sleep 0.3 T",
        "=> [b 2/2] RUN printf '10%%\\r\\033[31m90%%\\033[2J'; sleep 0.3 T",
        "=> [internal] load build definition from Dockerfile T",
        "=> [internal] load metadata for busybox T",
        "=> [stage-2 2/3] COPY --from=a /etc /a T",
        "=> [stage-2 3/3] COPY --from=b /etc /b T",
    ];
    assert_eq!(steps, expected, "{screen}");
    let expected = "\
=> => exporting layers T
=> => exporting manifest sha256:D T
=> => exporting config sha256:D T
=> => naming to docker.io/library/app:v1 T

Built in T 4 steps, 4 run, 0 cached; T for [";
    assert!(rest.starts_with(expected), "{screen}");
    assert!(rest.contains("\n-> docker.io/library/app:v1 in the local store, 1.07MB in "), "{screen}");
    assert!(rest.ends_with("\nsha256:D"), "{screen}");
}

#[test]
fn a_failure_stands_beneath_the_live_view() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox\nRUN echo last words; exit 3\n";
    let (code, screen) = Typist::new(&command(&lab, dockerfile, &[])).end_with_screen();
    assert_eq!(code, Some(1), "{screen}");
    assert!(screen.contains(" => ERROR [2/2] RUN echo last words; exit 3 "), "{screen}");
    assert_eq!(screen.matches(" last words\n").count(), 1, "{screen}");
    assert!(screen.contains("\n > [2/2] RUN echo last words; exit 3:\n0."), "{screen}");
    assert!(!screen.contains("# last words") && screen.contains("exit code: 3"), "{screen}");
}

#[test]
fn an_interrupt_leaves_the_terminal_in_order() {
    let lab = Lab::new();
    let mut typist = Typist::new(&command(&lab, "FROM busybox\nRUN echo begun; sleep 471109\n", &[]));
    typist.until("# begun");
    typist.type_in("\x03");
    let (code, last) = typist.end();
    assert_eq!(code, Some(130), "{last}");
    assert!(last.contains("CANCELED [2/2] RUN echo begun; sleep 471109"), "{last}");
    assert!(
        last.ends_with("ERROR: failed to build: failed to solve: canceled: SIGINT was received\n"),
        "{last}"
    );
}

#[test]
fn a_shell_has_the_terminal_for_itself() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox AS a\nRUN until false; do echo noise; sleep 0.01; done\nFROM busybox\nRUN exit 7\n\
                      COPY --from=a / /a\n";
    let mut typist = Typist::new(&command(&lab, dockerfile, &["--on-failure=shell"]));
    typist.greet();
    assert_eq!(typist.says("sleep 0.3; echo quiet"), "quiet\n");
    typist.type_in("exit\n");
    let (code, last) = typist.end();
    assert_eq!(code, Some(1), "{last}");
    assert!(last.contains("[+] Building") && last.contains("CANCELED [a 2/2] RUN until"), "{last}");
}

#[test]
fn a_file_has_lines() {
    let lab = Lab::new();
    let ran = run(command(&lab, PARALLEL, &["-t", "app:v1"])).succeeded();
    assert!(
        ran.stderr.starts_with("#1 [internal] load build definition from Dockerfile\n#1 "),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.replace("\u{1b}[31m90%\u{1b}[0m", "").contains('\u{1b}'), "{}", ran.stderr);
    let (_, summary) = ran.stderr.rsplit_once("\n\n").expect("a summary follows");
    assert!(summary.starts_with("Built in ") && summary.contains(": 4 steps, 4 run, 0 cached"), "{summary}");
    // Whatever is needed of the chain is counted, also what nobody had to look at.
    let ran = run(command(&lab, PARALLEL, &["-t", "app:v1"])).succeeded();
    assert!(
        ran.stderr.contains(": 4 steps, 0 run, 4 cached\n -> docker.io/library/app:v1 in"),
        "{}",
        ran.stderr
    );
    let mut dumb = command(&lab, PARALLEL, &[]);
    dumb.env("TERM", "dumb");
    let (code, shown) = Typist::new(&dumb).end();
    assert_eq!((code, shown.contains('\u{1b}')), (Some(0), false), "{shown}");
    for quiet in ["--progress=quiet", "--progress=none", "-q"] {
        let ran = run(command(&lab, PARALLEL, &["-t", "app:v1", quiet])).succeeded();
        assert!(ran.stdout.starts_with("sha256:") && ran.stdout.len() == 72, "{}", ran.stdout);
        assert_eq!(ran.stderr, "", "{quiet}");
    }
    let mut quiet = command(&lab, "FROM busybox\nRUN echo last words; exit 3\n", &[]);
    quiet.env("BUILDKIT_PROGRESS", "quiet");
    let ran = run(quiet).failed(1, &["exit code: 3"]);
    assert!(ran.stderr.starts_with("------\n > [2/2] RUN"), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches(" last words\n").count(), 1, "{}", ran.stderr);
    run(command(&lab, PARALLEL, &["--progress=tty"]))
        .failed(2, &["failed to get console: standard error is not a terminal"]);
}

/// What a viewer knows of a vertex when the stream is over.
#[derive(Default, Debug)]
struct Vertex {
    name: String,
    is_completed: bool,
    is_cached: bool,
    error: String,
    log: [Vec<u8>; 2],
    statuses: BTreeMap<String, bool>,
}

/// Reads a stream as viewers do.
fn replay(stream: &str) -> BTreeMap<String, Vertex> {
    let mut vertices: BTreeMap<String, Vertex> = BTreeMap::new();
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    for line in stream.lines().filter(|line| line.starts_with('{')) {
        let status: Value = serde_json::from_str(line).expect("each line is JSON");
        for value in list(&status, "vertexes") {
            assert!(value["started"].is_string(), "{value}");
            let vertex = vertices.entry(text(&value, "digest")).or_default();
            vertex.name = text(&value, "name");
            vertex.is_completed = value["completed"].is_string();
            vertex.is_cached = value["cached"].as_bool().unwrap_or(false);
            vertex.error = text(&value, "error");
        }
        for value in list(&status, "statuses") {
            let vertex =
                vertices.get_mut(&text(&value, "vertex")).expect("a vertex comes before what it does");
            vertex.statuses.insert(text(&value, "id"), value["completed"].is_string());
        }
        for value in list(&status, "logs") {
            let vertex = vertices.get_mut(&text(&value, "vertex")).expect("a vertex comes before its output");
            let stream = usize::from(value["stream"] == 2);
            vertex.log[stream].extend(STANDARD.decode(text(&value, "data")).expect("it is base64"));
        }
    }
    vertices
}

#[test]
fn programs_read_a_stream() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox AS a\nRUN seq 1 5000; printf end >&2\nFROM busybox\nMAINTAINER me\nCOPY --from=a /etc /a\n";
    let first = run(command(&lab, dockerfile, &["--progress=rawjson", "-t", "app:v1"])).succeeded();
    let vertices = replay(&first.stderr);
    let named = |vertices: &BTreeMap<String, Vertex>, text: &str| {
        let found = vertices.iter().find(|(_, vertex)| vertex.name.contains(text));
        found.map_or_else(|| panic!("{text} is not in {vertices:?}"), |(digest, _)| digest.clone())
    };
    for vertex in vertices.values() {
        assert!(vertex.is_completed && vertex.error.is_empty(), "{vertex:?}");
        assert!(vertex.statuses.values().all(|is_completed| *is_completed), "{vertex:?}");
    }
    let numbers = (1..=5000).flat_map(|number: u32| format!("{number}\n").into_bytes());
    let run_step = named(&vertices, "RUN seq");
    assert_eq!(vertices[&run_step].log, [numbers.collect(), b"end".to_vec()]);
    assert!(vertices[&named(&vertices, "exporting to image")].statuses.contains_key("exporting layers"));
    assert!(!vertices[&named(&vertices, "FROM busybox@")].statuses.is_empty());
    let warnings: Vec<Value> =
        first.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let warning =
        warnings.iter().find_map(|status: &Value| status["warnings"].get(0)).expect("there is a warning");
    assert_eq!(warning["vertex"], named(&vertices, "load build definition").as_str());
    assert_eq!(warning["range"][0]["start"]["line"], 4, "{warning}");
    assert!(first.stderr.lines().all(|line| line.starts_with('{')), "{}", first.stderr);
    // The same steps have the same digests.
    let again = run(command(&lab, dockerfile, &["--progress=rawjson"])).succeeded();
    let again = replay(&again.stderr);
    let copy = named(&again, "COPY --from=a");
    assert!(again[&copy].is_cached && vertices.contains_key(&copy));
    let failed = run(command(&lab, "FROM busybox\nRUN echo x; exit 3\n", &["--progress=rawjson"]));
    let failed = replay(&failed.failed(1, &["ERROR: failed to build", "Dockerfile:2\n"]).stderr);
    let vertex = &failed[&named(&failed, "RUN echo x")];
    assert!(vertex.is_completed && vertex.error.ends_with("exit code: 3"), "{vertex:?}");
    assert_eq!(vertex.log[0], b"x\n");
}
