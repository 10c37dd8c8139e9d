//! Shells in steps that have failed or are about to run, and tags of what there was before a failure.

use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use testkit::TestUser;

use crate::lab::{Lab, Ran, left_nothing, run};
use crate::typist::Typist;

/// A build whose shells get their commands from a pipe.
fn scripted(mut command: Command, script: &str) -> Ran {
    let (input, mut to) = std::io::pipe().expect("a pipe can be made");
    to.write_all(script.as_bytes()).expect("a pipe takes this much");
    drop(to);
    command.stdin(input);
    Ran::from(testkit::run_with_timeout(command, std::time::Duration::from_secs(120)))
}

/// The process that has this word among its arguments.
#[track_caller]
fn process_with(word: &str) -> OwnedFd {
    let processes = fs::read_dir("/proc").expect("it can be read").filter_map(Result::ok);
    let mut found = processes.filter(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.first() == Some(&b"sleep".as_slice()) && words.contains(&word.as_bytes())
    });
    let entry = found.next().unwrap_or_else(|| panic!("no process has `{word}` among its arguments"));
    let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
    pidfd_open(pid.expect("a number"), PidfdFlags::empty()).expect("a process can be watched")
}

const FAILING: &str = "FROM busybox AS stage
RUN mkdir /made && echo made > /made/f
FROM busybox
RUN mkdir /w && chown 1000:1001 /w
ENV A=one
WORKDIR /w
USER app
RUN --mount=target=/ctx --mount=from=stage,source=made,target=/rw,rw --mount=type=cache,target=/c,uid=1000,sharing=locked \\
    --mount=type=secret,id=s,target=/s,mode=0444 --mount=type=secret,id=s,env=S \\
    echo half > half; echo x > /rw/x 2>/dev/null; echo kept > /c/kept; exit 7
";

const LOOK: &str =
    "cat half /ctx/file /rw/f /c/kept /s; echo $A $S; id -u; pwd; echo changed > half; touch /c/later\n";

#[test]
fn a_failed_step_is_seen_as_it_was_left() {
    for snapshotter in ["overlay", "copy"] {
        let lab = Lab::with_snapshotter(snapshotter);
        let context = lab.context("ctx", &[("Dockerfile", FAILING), ("file", "context\n")]);
        fs::write(lab.path("secret"), "hush\n").expect("a file can be written");
        for (number, script) in [LOOK, "cat half; ls /c\n"].into_iter().enumerate() {
            let arguments = ["--on-failure=shell", "--secret=id=s,src=secret"];
            let ran = scripted(lab.build_command(&context, &arguments), script);
            let ran = ran.failed(1, &["Dockerfile:8", "did not complete successfully: exit code: 7"]);
            let wanted = ["half\ncontext\nmade\nkept\nhush\none hush\n1000\n/w\n", "half\nkept\nlater\n"];
            assert!(ran.stderr.contains(wanted[number]), "{}", ran.stderr);
            assert_eq!(ran.stdout, "");
            left_nothing(&lab);
        }
    }
}

#[test]
fn users_see_what_root_sees() {
    let users = [("rbuild-debug", 23961, Some(2_003_100_000)), ("rbuild-debug1", 23962, None)];
    for (name, id, first) in users {
        let user = TestUser::new(name, id, first);
        // With one id there is nobody else to be.
        let dockerfile = match first {
            Some(_) => FAILING.to_owned(),
            None => FAILING
                .replace("&& chown 1000:1001 /w", "")
                .replace("USER app\n", "")
                .replace(",uid=1000", ""),
        };
        let lab = Lab::new();
        let context = lab.context("ctx", &[("Dockerfile", &dockerfile), ("file", "context\n")]);
        fs::write(lab.path("secret"), "hush\n").expect("a file can be written");
        run("cp", &["-a", &crate::lab::bases().to_string_lossy(), &lab.path("bases").to_string_lossy()]);
        run("cp", &[env!("CARGO_BIN_EXE_rbuild"), &lab.path("rbuild").to_string_lossy()]);
        run("chmod", &["755", &lab.directory.path().to_string_lossy()]);
        user.give(lab.directory.path());
        let command = |terminal: bool| {
            let mut command = user.command(&lab.path("rbuild"));
            command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
            command.env("HOME", lab.path("home")).env("RBUILD_ROOT", lab.root());
            command.current_dir(lab.directory.path());
            command.args(["debug", "--secret=id=s,src=secret"]);
            command
                .arg(format!("--build-context=busybox=oci-layout://{}:busybox", lab.path("bases").display()));
            command.args(terminal.then_some("--no-cache")).arg(&context);
            command
        };
        let ran = scripted(command(false), LOOK).failed(1, &["exit code: 7"]);
        let uid = first.map_or("0", |_| "1000");
        let wanted = format!("half\ncontext\nmade\nkept\nhush\none hush\n{uid}\n/w\n");
        assert!(ran.stderr.contains(&wanted), "{name}: {}", ran.stderr);
        let mut typist = Typist::new(&command(true));
        typist.greet();
        assert_eq!(typist.says("tty; cat half; echo x > /dev/tty"), "/dev/pts/0\nhalf\nx\n", "{name}");
        typist.type_in("exit\n");
        assert_eq!(typist.end().0, Some(1));
        left_nothing(&lab);
    }
}

#[test]
fn a_shell_has_a_terminal() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN echo out > /out; exit 7\n")]);
    let mut command = lab.build_command(&context, &["--on-failure=shell"]);
    command.env("TERM", "dumb");
    let mut typist = Typist::new(&command);
    let banner = typist.greet();
    assert!(banner.contains("Dockerfile:2") && banner.contains("exit code: 7"), "{banner}");
    assert!(typist.is_raw());
    assert_eq!(typist.says("tty; stty size; cat /out; echo $TERM"), "/dev/pts/0\n33 101\nout\ndumb\n");
    typist.resize(40, 120);
    assert_eq!(typist.says("until [ \"$(stty size)\" = '40 120' ]; do :; done"), "");
    typist.type_in("sh -c 'echo begun; sleep 1000'\n");
    typist.until("begun\r\n");
    typist.type_in("\x03");
    assert_eq!(typist.says("echo $?").trim(), "130", "Ctrl-C is for the program in the shell");
    typist.type_in("exit\n");
    let (code, last) = typist.end();
    assert_eq!(code, Some(1));
    assert!(last.contains("ERROR: failed to build") && !last.contains("hint: `--on-failure"), "{last}");
    left_nothing(&lab);
}

#[test]
fn a_failure_at_a_terminal_offers_a_shell() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN exit 7\n")]);
    let (code, shown) = Typist::new(&lab.build_command(&context, &[])).end();
    assert_eq!(code, Some(1));
    assert!(shown.contains("hint: `--on-failure=shell` opens a shell"), "{shown}");
    let ran = lab.build(&context, &[]).failed(1, &["exit code: 7"]);
    assert!(!ran.stderr.contains("--on-failure"), "{}", ran.stderr);
}

#[test]
fn whatever_ends_the_build_ends_its_shell() {
    for (signal, code) in [(Signal::TERM, Some(143)), (Signal::KILL, None)] {
        let lab = Lab::new();
        let context = lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN exit 7\n")]);
        let mut typist = Typist::new(&lab.build_command(&context, &["--on-failure=shell"]));
        typist.greet();
        let word = format!("1000.{}", typist.id());
        typist.type_in(&format!(
            "sleep {word} & while ! tr '\\0' ' ' < /proc/$!/cmdline | grep -q ^sleep; do :; done\n"
        ));
        typist.says("true");
        let process = process_with(&word);
        typist.signal(signal);
        let (ended, last) = typist.end();
        assert_eq!(ended, code, "{last}");
        let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
        let gone = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience));
        assert_eq!(gone.expect("a process can be watched"), 1, "{signal:?}");
        // What is left of a run that was killed, the next one takes away.
        lab.rbuild(&["prune"]).succeeded();
        left_nothing(&lab);
    }
}

const STEPS: &str = "FROM busybox AS base
COPY file /file
RUN cat /file > /copied; cat /proc/sys/kernel/random/uuid > /id
FROM base AS test
ENV A=two
RUN echo tested > /tested
COPY file /again
";

#[test]
fn a_build_stops_before_a_step_and_goes_on_with_its_files() {
    for snapshotter in ["overlay", "copy"] {
        let lab = Lab::with_snapshotter(snapshotter);
        let context = lab.context("ctx", &[("Dockerfile", STEPS), ("file", "x\n")]);
        let first = lab.build_tree(&context, &[]);
        let output = format!("--output=type=tar,dest={}", lab.path("broken.tar").display());
        for place in ["3", "Dockerfile:3", "ctx/Dockerfile:3"] {
            let command = lab.build_command(&context, &[&format!("--break={place}"), &output]);
            let script = "cat /file; ls /copied; echo changed > /file; touch /new; exit 0\n";
            let ran = scripted(command, script).succeeded();
            assert!(ran.stderr.contains("Dockerfile:3\n"), "it was in the cache: {}", ran.stderr);
            assert!(ran.stderr.contains("x\nls: /copied: No such file"), "{}", ran.stderr);
            let tree = crate::lab::Tree::read(&lab.path("broken.tar"));
            assert_eq!((tree.text("copied"), tree.has("new")), ("x\n".to_owned(), false));
            assert_ne!(tree.text("id"), first.text("id"), "the step was executed");
        }
        let command = lab.build_command(&context, &["--break=7"]);
        let ran = scripted(command, "cat /tested; echo $A; pwd\n").succeeded();
        assert!(ran.stderr.contains("tested\ntwo\n/\n"), "a COPY: {}", ran.stderr);
        let ran = scripted(lab.build_command(&context, &["--break=3"]), "exit 4\n");
        ran.failed(1, &["Dockerfile:3", "the build was ended at a breakpoint (exit code: 4)"]);
        left_nothing(&lab);
    }
}

#[test]
fn a_build_stops_in_a_stage_at_what_is_executed() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", STEPS), ("file", "x\n")]);
    let stop = ["--break=test", "--break=base"];
    let ran = scripted(lab.build_command(&context, &stop), "ls /file || echo first\n").succeeded();
    assert!(ran.stderr.contains(">>> COPY file /file") && ran.stderr.contains("first\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains(">>> RUN echo tested"), "{}", ran.stderr);
    let ran = scripted(lab.build_command(&context, &stop), "").succeeded();
    for stage in ["base", "test"] {
        let note = format!("breakpoint `{stage}` was not reached");
        assert!(ran.stderr.contains(&note) && !ran.stderr.contains(">>>"), "{}", ran.stderr);
    }
}

#[test]
fn a_build_stops_in_a_stage_that_is_copied_from() {
    let lab = Lab::new();
    let dockerfile =
        "FROM busybox AS made\nRUN echo x > /x\nFROM busybox\nRUN echo y > /y\nCOPY --from=made /x /x\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    lab.build(&context, &[]).succeeded();
    let ran = scripted(lab.build_command(&context, &["--break=2"]), "ls /x || echo not yet\n").succeeded();
    assert!(ran.stderr.contains("not yet"), "{}", ran.stderr);
    let copy = ran.steps().into_iter().find(|(name, _)| name.starts_with("COPY"));
    assert!(copy.is_some_and(|(_, cached)| cached), "it finds the same file again: {}", ran.stderr);
}

#[test]
fn what_there_was_before_a_failure_is_an_image() {
    let registry = testkit::RealRegistry::start();
    let lab = Lab::new();
    let dockerfile =
        "FROM busybox\nENV A=1\nRUN echo first > /f\nUSER app\nRUN echo second > /tmp/f; exit 1\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    let name = format!("{}/dbg:v1", registry.address());
    let tags = ["--no-cache", "--on-failure=tag=dbg:v1", &format!("--on-failure=tag={name}")];
    let told = format!("tagged the stage before this step as `docker.io/library/dbg:v1`, `{name}`");
    lab.build(&context, &tags).failed(1, &["Dockerfile:5", "exit code: 1", &told]);
    lab.rbuild(&["push", &name]).succeeded();
    let dockerfile =
        format!("FROM {name}\nRUN cat /f > /tmp/out; id -un >> /tmp/out; echo $A >> /tmp/out; ! ls /tmp/f\n");
    let tree = lab.build_tree(&lab.context("from", &[("Dockerfile", &dockerfile)]), &[]);
    assert_eq!(tree.text("tmp/out"), "first\napp\n1\n");
    // Where the first step is what fails, it is the base image itself.
    let context = lab.context("first", &[("Dockerfile", "FROM busybox\nRUN exit 1\n")]);
    lab.build(&context, &["--on-failure=tag=base:v1"]).failed(1, &["tagged the stage before this step"]);
    let context = lab.context("base", &[("Dockerfile", "FROM busybox\n")]);
    let base = lab.build(&context, &["-t", "same:v1"]).succeeded().stdout;
    let listed = lab.rbuild(&["images", "--format=json"]).succeeded().stdout;
    assert_eq!(listed.matches(base.trim()).count(), 2, "{listed}");
}

#[test]
fn a_copy_that_fails_is_looked_at_and_tagged_too() {
    for (copy, flag) in [("COPY gone /x", "shell"), ("COPY --link gone /x", "shell=cat /etc/passwd")] {
        let lab = Lab::new();
        let dockerfile = format!("FROM busybox\nENV A=1\nWORKDIR /tmp\n{copy}\n");
        let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
        let flag = format!("--on-failure={flag}");
        let command = lab.build_command(&context, &[&flag, "--on-failure=tag=dbg:v1"]);
        let ran = scripted(command, "pwd; cat /etc/passwd; echo $A\n").failed(
            1,
            &[
                "Dockerfile:4",
                "\"/gone\": not found",
                "of the stage before this step",
                "tagged the stage",
                "root:x:0:0:",
            ],
        );
        assert_eq!(ran.stderr.contains("/tmp\nroot"), copy == "COPY gone /x", "{}", ran.stderr);
        left_nothing(&lab);
    }
}

#[test]
fn an_image_without_a_shell_gets_one() {
    let lab = Lab::new();
    let dockerfile = "FROM scratch\nCOPY file /file\nRUN [\"/no-such\"]\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile), ("file", "x\n")]);
    let command = lab.build_command(&context, &["--on-failure=shell"]);
    let ran = scripted(command, "/dev/busybox cat /file; echo $0\n").failed(1, &["the image has no shell"]);
    assert!(ran.stderr.contains("x\nsh\n"), "{}", ran.stderr);
}

#[test]
fn nothing_is_shown_while_a_shell_is_open() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox AS other
RUN --mount=type=cache,target=/c until [ -e /c/go ]; do :; done; echo from the other; touch /c/done
FROM busybox
RUN --mount=type=cache,target=/c exit 7
COPY --from=other /etc/passwd /
";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    let command = lab.build_command(&context, &["--on-failure=shell"]);
    let script = "touch /c/go; until [ -e /c/done ]; do :; done; echo end of the shell\n";
    let ran = scripted(command, script).failed(1, &["exit code: 7"]);
    let at = |text: &str| ran.stderr.find(text).unwrap_or_else(|| panic!("no `{text}`:\n{}", ran.stderr));
    assert!(at("end of the shell") < at(" from the other\n"), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_is_told_at_once() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", STEPS), ("file", "x\n")]);
    let cases: [(&[&str], i32, &str); 7] = [
        (&["--on-failure=stop"], 2, "`--on-failure` knows no `stop`"),
        (&["--on-failure=tag=a@b"], 2, "invalid tag `a@b`"),
        (&["--break=Dockerfile:"], 2, "invalid value `Dockerfile:` for `--break`"),
        (&["--break=other:3"], 2, "the Dockerfile is `Dockerfile`"),
        (&["--break=9"], 1, "the last step is at line 7"),
        (&["--break=tset"], 1, "did you mean test?"),
        (&["--break=3", "--check"], 2, "go with builds"),
    ];
    for (arguments, code, text) in cases {
        lab.build(&context, arguments).failed(code, &[text]);
    }
    let mut command = lab.command();
    command.args(["debug", "-"]);
    scripted(command, "FROM busybox\n").failed(2, &["a shell needs standard input", "hint: "]);
}

#[test]
fn debug_is_a_build_with_a_shell() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", "x\n")]);
    let mut command = lab.command();
    command.args(["debug", "-t", "app:v1"]).arg(&context);
    let ran = Ran::from(testkit::run_with_timeout(command, std::time::Duration::from_secs(60))).succeeded();
    assert!(ran.stdout.starts_with("sha256:"), "{}", ran.stdout);
}
