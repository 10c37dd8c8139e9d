//! Builds that end before their time: by signals, and because they take too long.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{Lab, Running};
use crate::rootless::User;

/// Whatever happens, a build has ended after this. (That it takes less than a second is for the benchmark to tell.)
const PATIENCE: Duration = Duration::from_secs(10);

/// A step that no signal ends, with an orphan that is in another session, both waiting for `marker` seconds.
fn stubborn(name: &str, marker: &str) -> String {
    format!("RUN trap '' INT TERM HUP; (setsid sleep {marker} &); echo begun {name}; sleep {marker}\n")
}

/// A step that goes on until it is [let go](let_go), with a cache that nobody else may have meanwhile.
const HOLDING: &str = "FROM busybox
RUN --mount=type=cache,id=c,target=/c,sharing=locked echo begun; until [ -e /c/go ]; do sleep 0.05; done
";

fn let_go(lab: &Lab) {
    let cache = std::fs::read_dir(lab.root().join("mounts")).expect("the store has caches").next();
    let cache = cache.expect("there is one").expect("it can be read").path();
    std::fs::write(cache.join("fs/go"), "").expect("a file can be written");
}

/// A lab with a context `empty`, of which a build does nothing.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.context("empty", &[("Dockerfile", "FROM scratch\n")]);
    lab
}

/// Processes with `text` among their arguments.
fn processes(text: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("/proc can be read").filter_map(Result::ok);
    let command = |process: std::fs::DirEntry| std::fs::read(process.path().join("cmdline")).ok();
    let commands = processes.filter_map(command);
    let commands = commands.map(|command| String::from_utf8_lossy(&command).replace('\0', " "));
    commands.filter(|command| command.split(' ').any(|argument| argument.contains(text))).collect()
}

#[track_caller]
fn no_process(text: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !processes(text).is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", processes(text));
        std::thread::yield_now();
    }
}

/// Nothing is mounted from the store, and neither runs nor locks are left in it when it has been used once more: on a
/// machine that is very busy a second does not suffice to take everything away, and the next build does it.
#[track_caller]
fn nothing_left(lab: &Lab, next: impl FnOnce(&Path) -> Command) {
    let context = lab.path("empty");
    Running::start(next(&context)).end().succeeded();
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("the mounts can be read");
    let store = lab.root().to_string_lossy().into_owned();
    assert!(!mounts.contains(&store), "something is mounted below {store}:\n{mounts}");
    for directory in ["tmp", "locks"] {
        let entries = std::fs::read_dir(lab.root().join(directory)).expect("the store can be read");
        let names: Vec<_> = entries.map(|entry| entry.expect("it can be read").file_name()).collect();
        assert!(names.is_empty(), "{directory} holds {names:?}");
    }
}

#[test]
fn every_signal_ends_all_steps_whatever_they_think_of_it() {
    const STEPS: usize = 20;
    for (signal, code, marker) in [("INT", 130, "471101"), ("TERM", 143, "471102"), ("HUP", 129, "471103")] {
        let lab = lab();
        let stage = |step| format!("FROM busybox AS s{step}\n{}", stubborn(&format!("s{step}."), marker));
        let copy = |step| format!("COPY --from=s{step} /x /\n");
        let (stages, copies): (String, String) = (0..STEPS).map(|step| (stage(step), copy(step))).unzip();
        let dockerfile = format!("{stages}FROM scratch\n{copies}");
        let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
        let mut build = Running::start(lab.build_command(&context, &["--jobs=20"]));
        for _ in 0..STEPS {
            build.wait_for("begun s");
        }
        assert!(processes(marker).len() >= 2 * STEPS, "{:?}", processes(marker));
        build.signal(signal);
        let ended = build.end().failed(code, &["canceled: SIG", signal]);
        no_process(marker);
        nothing_left(&lab, |context| lab.build_command(context, &[]));
        assert!(!ended.stderr.contains("Dockerfile:"), "no step is to blame: {}", ended.stderr);
    }
}

#[test]
fn an_ordinary_user_leaves_nothing_either() {
    let user = User::new("rbuild-interrupt", 23431, Some(2_090_000_000));
    let (lab, context) = user.lab(&[("Dockerfile", &format!("FROM busybox\n{}", stubborn("s", "471104")))]);
    lab.context("empty", &[("Dockerfile", "FROM scratch\n")]);
    let mut build = Running::start(user.command(&lab, &context, &[]));
    build.wait_for("begun s");
    build.signal("INT");
    build.end().failed(130, &["canceled: SIGINT"]);
    no_process("471104");
    nothing_left(&lab, |context| user.command(&lab, context, &[]));
}

#[test]
fn what_was_started_to_ignore_a_signal_ignores_it() {
    let lab = lab();
    let context = lab.context("ctx", &[("Dockerfile", HOLDING)]);
    let inner = lab.build_command(&context, &[]);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(inner.get_program()).args(inner.get_args());
    command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(lab.directory.path()).stdin(Stdio::null());
    let mut build = Running::start(command);
    build.wait_for(" begun");
    build.signal("HUP");
    let_go(&lab);
    build.end().succeeded();
}

/// A server that takes a connection and never says anything.
fn silent_server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("the listener is bound").to_string();
    (listener, address)
}

#[test]
fn whoever_waits_for_a_server_ends_too() {
    let dockerfiles = [
        |address: &str| format!("FROM {address}/image\n"),
        |address: &str| format!("FROM scratch\nADD http://{address}/file /\n"),
        |address: &str| format!("FROM scratch\nADD http://{address}/repository.git /\n"),
    ];
    for dockerfile in dockerfiles {
        let lab = lab();
        let (listener, address) = silent_server();
        lab.configure(&format!("[registry.\"{address}\"]\nhttp = true\n"));
        let context = lab.context("ctx", &[("Dockerfile", &dockerfile(&address))]);
        let build = Running::start(lab.build_command(&context, &[]));
        let _connection = listener.accept().expect("somebody calls");
        build.signal("INT");
        build.end().failed(130, &["canceled: SIGINT"]);
        no_process(&address);
        nothing_left(&lab, |context| lab.build_command(context, &[]));
        let build =
            Running::start(lab.build_command(Path::new(&format!("http://{address}/context.tar")), &[]));
        let _connection = listener.accept().expect("somebody calls");
        build.signal("TERM");
        build.end().failed(143, &["canceled: SIGTERM"]);
        nothing_left(&lab, |context| lab.build_command(context, &[]));
    }
}

#[test]
fn git_ends_with_a_build_that_is_killed() {
    let lab = lab();
    let (listener, address) = silent_server();
    let dockerfile = format!("FROM scratch\nADD http://{address}/repository.git /\n");
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    let build = Running::start(lab.build_command(&context, &[]));
    let _connection = listener.accept().expect("somebody calls");
    assert!(!processes(&address).is_empty());
    build.signal("KILL");
    build.end();
    no_process(&address);
}

#[test]
fn whoever_waits_for_another_build_ends_and_the_other_goes_on() {
    let lab = lab();
    let context = lab.context("ctx", &[("Dockerfile", HOLDING)]);
    let mut first = Running::start(lab.build_command(&context, &[]));
    first.wait_for(" begun");
    let mut second = Running::start(lab.build_command(&context, &[]));
    second.wait_for(&format!("waiting for another build that runs this step (process {})", first.id()));
    second.signal("INT");
    second.end().failed(130, &[]);
    let other = lab.context("other", &[("Dockerfile", &HOLDING.replace("echo begun", "echo other"))]);
    let mut third = Running::start(lab.build_command(&other, &[]));
    third.wait_for("waiting for another step that uses the cache `c`");
    third.signal("INT");
    third.end().failed(130, &[]);
    let_go(&lab);
    first.end().succeeded();
}

#[test]
fn a_reader_that_is_stuck_keeps_no_build_alive() {
    let lab = lab();
    let dockerfile = "FROM busybox\nRUN echo begun; yes 471105\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    let mut build = Running::start(lab.build_command(&context, &[]));
    build.wait_for(" begun");
    // Nothing more is read.
    build.signal("INT");
    assert_eq!(build.end_unread(PATIENCE), Some(130));
    no_process("471105");
}

#[test]
fn orphans_end_with_their_step() {
    let lab = lab();
    let dockerfile = "FROM busybox\nRUN (setsid sleep 471106 &); echo over\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    lab.build(&context, &[]).succeeded();
    no_process("471106");
}

#[test]
fn a_step_that_takes_too_long_fails_with_its_line() {
    let lab = lab();
    let dockerfile = "FROM busybox\nRUN true\nRUN trap '' TERM; echo last words; sleep 471107\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    let told = lab.build(&context, &["--step-timeout=2s"]);
    let told = told.failed(
        1,
        &[
            "process \"/bin/sh -c trap '' TERM; echo last words; sleep 471107\" did not complete within 2s",
            "Dockerfile:3\n",
            "   3 | >>> RUN trap",
            "hint: `--step-timeout`",
        ],
    );
    assert_eq!(told.stderr.matches(" last words\n").count(), 1, "{}", told.stderr);
    no_process("471107");
    lab.build(&context, &["--step-timeout=2"]).failed(2, &["invalid value `2` for `--step-timeout`"]);
    // The limit is in no key.
    let fine = lab.context("fine", &[("Dockerfile", "FROM busybox\nRUN true\n")]);
    let again = lab.build(&fine, &["--step-timeout=1h30m"]).succeeded();
    assert_eq!(again.executed(), Vec::<String>::new(), "{}", again.stderr);
}

#[test]
fn waiting_for_others_does_not_count() {
    let lab = lab();
    let context = lab.context("first", &[("Dockerfile", HOLDING)]);
    let mut first = Running::start(lab.build_command(&context, &[]));
    first.wait_for(" begun");
    let wanting = "FROM busybox\nRUN --mount=type=cache,id=c,target=/c,sharing=locked true\n";
    let context = lab.context("second", &[("Dockerfile", wanting)]);
    let mut second = Running::start(lab.build_command(&context, &["--step-timeout=3s"]));
    second.wait_for("waiting for another step that uses the cache `c`");
    let waits_since = Instant::now();
    while waits_since.elapsed() < Duration::from_millis(3200) {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let_go(&lab);
    first.end().succeeded();
    second.end().succeeded();
}

#[test]
fn a_build_that_takes_too_long_says_what_it_was_at() {
    let lab = lab();
    let dockerfile =
        "FROM busybox AS a\nRUN sleep 471108\nFROM busybox\nRUN sleep 471109\nCOPY --from=a / /a\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    let told = lab
        .build(&context, &["--timeout=3s"])
        .failed(1, &["the build did not complete within 3s", "still running: ", "hint: `--timeout`"]);
    for step in ["`[a 2/2] RUN sleep 471108` (line 2)", "RUN sleep 471109` (line 4)"] {
        assert!(told.stderr.contains(step), "{}", told.stderr);
    }
    no_process("47110");
    nothing_left(&lab, |context| lab.build_command(context, &[]));
}
