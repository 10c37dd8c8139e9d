//! The tests.

use std::error::Error as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use cache::SnapshotterKind;
use solver::{
    CacheSharing, Event, ExtraHost, NetworkMode, Op, RunAgent, RunCache, RunMount, RunMountKind, RunOp,
    RunSecret, SecretVariable, SolveError,
};
use worker::{Output, OutputLayer, ProcessFailure, WorkerError};

use crate::bench::{Access, Bench, Draft, cache, chain, run_op};

pub(crate) type Test = fn(SnapshotterKind);

pub(crate) const ALL: &[(&str, Test)] = &[
    ("a_second_build_runs_and_pulls_nothing", a_second_build_runs_and_pulls_nothing),
    ("the_surroundings_of_a_run", the_surroundings_of_a_run),
    ("an_inline_script_is_a_program", an_inline_script_is_a_program),
    ("a_run_keeps_what_it_wrote_and_no_mount_points", a_run_keeps_what_it_wrote_and_no_mount_points),
    ("a_failing_run_is_told_with_its_exit_code", a_failing_run_is_told_with_its_exit_code),
    ("an_unknown_user_is_told", an_unknown_user_is_told),
    ("a_cancelled_build_kills_what_runs", a_cancelled_build_kills_what_runs),
    ("workdir_makes_what_is_missing", workdir_makes_what_is_missing),
    ("workdir_over_a_file_is_an_error", workdir_over_a_file_is_an_error),
    ("a_linked_copy_resets_directories", a_linked_copy_resets_directories),
    ("copies_of_equal_content_hit", copies_of_equal_content_hit),
    ("a_copy_from_an_image_is_known_without_it", a_copy_from_an_image_is_known_without_it),
    ("two_workers_run_a_step_once", two_workers_run_a_step_once),
    ("a_mount_of_the_context_is_a_copy_that_is_kept", a_mount_of_the_context_is_a_copy_that_is_kept),
    ("a_mount_of_a_stage_shows_its_part", a_mount_of_a_stage_shows_its_part),
    ("what_is_written_to_a_mount_is_lost", what_is_written_to_a_mount_is_lost),
    ("a_mount_of_nothing_is_an_empty_directory", a_mount_of_nothing_is_an_empty_directory),
    ("a_cache_outlives_builds_that_fail", a_cache_outlives_builds_that_fail),
    ("a_cache_begins_with_files", a_cache_begins_with_files),
    ("caches_of_other_owners_are_others", caches_of_other_owners_are_others),
    ("a_secret_is_a_file_and_a_variable", a_secret_is_a_file_and_a_variable),
    ("a_secret_that_is_missing", a_secret_that_is_missing),
    ("an_agent_is_forwarded_for_reading", an_agent_is_forwarded_for_reading),
    ("an_agent_that_is_missing", an_agent_that_is_missing),
];

fn snapshot_lines(bench: &Bench, draft: Draft, target: solver::VertexId, of: &[&str]) -> Vec<String> {
    let built = bench.solve(draft.graph(), target);
    let solved = built.result.unwrap_or_else(|error| panic!("{error:?}\n{}", built.log));
    bench.listing(&solved.outputs[0], of)
}

fn a_second_build_runs_and_pulls_nothing(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let build = || {
        let mut draft = Draft::default();
        let base = draft.add(bench.busybox(), Vec::new());
        let first = draft.run(base, "echo one | tee /one; echo err >&2");
        let second = draft.run(first, "cat /one > /two");
        bench.solve(draft.graph(), second)
    };
    let first = build();
    let solved = first.result.unwrap();
    assert_eq!((solved.executed, solved.cached), (2, 0));
    assert!(first.log == "one\nerr\n" || first.log == "err\none\n", "{}", first.log);
    let layers = first.worker.layers_of(&solved.outputs[0]).unwrap();
    let second = build();
    let again = second.result.unwrap();
    assert_eq!((again.executed, again.cached), (0, 1));
    assert!(matches!(second.events[..], [Event::Cached(_)]), "{:?}", second.events);
    assert_eq!(second.worker.layers_of(&again.outputs[0]).unwrap(), layers);
    assert!(
        matches!(layers[..], [OutputLayer::Image { .. }, OutputLayer::Snapshot(_), OutputLayer::Snapshot(_)]),
        "{layers:?}"
    );
}

fn the_surroundings_of_a_run(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let mut draft = Draft::default();
    let base = draft.add(bench.busybox(), Vec::new());
    let script = "cat /etc/hosts; hostname; pwd; id -u; id -g; id -G; echo $HOME $A; \
        test -s /etc/resolv.conf || test ! -s /etc/resolv.conf";
    let op = RunOp {
        user: "app".to_owned(),
        cwd: "/work/dir".to_owned(),
        env: vec!["A=b".to_owned()],
        proxy_env: vec!["A=proxy".to_owned()],
        network: NetworkMode::None,
        extra_hosts: vec![ExtraHost { name: "db.test".to_owned(), address: "10.1.2.3".to_owned() }],
        ..run_op(script)
    };
    let run = draft.run_op(base, op);
    let built = bench.solve(draft.graph(), run);
    let solved = built.result.unwrap_or_else(|error| panic!("{error:?}\n{}", built.log));
    let expected = "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n\
        10.1.2.3\tdb.test\nbuildkitsandbox\n/work/dir\n1000\n1001\n1001 50\n/home/app b\n";
    assert_eq!(built.log, expected);
    let made = bench.listing(&solved.outputs[0], &["/work", "/etc/hosts", "/etc/resolv.conf"]);
    assert_eq!(made, ["/work 755 0:0", "/work/dir 755 0:0", "/etc/hosts -", "/etc/resolv.conf -"]);
}

fn an_inline_script_is_a_program(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let mut draft = Draft::default();
    let base = draft.add(bench.busybox(), Vec::new());
    let content = b"#!/bin/sh\necho inline\n".to_vec();
    let mount =
        RunMount { target: "/dev/pipes/EOF".to_owned(), kind: RunMountKind::Inline { content, mode: 0o755 } };
    let op = RunOp { user: "app".to_owned(), mounts: vec![mount], ..run_op("/dev/pipes/EOF") };
    let run = draft.run_op(base, op);
    let built = bench.solve(draft.graph(), run);
    assert_eq!((built.log.as_str(), built.result.is_ok()), ("inline\n", true));
}

fn a_run_keeps_what_it_wrote_and_no_mount_points(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let mut draft = Draft::default();
    let busybox = draft.add(bench.busybox(), Vec::new());
    let scratch = draft.add(Op::Scratch, Vec::new());
    let shell = draft.copy(scratch, busybox, "/bin/busybox", "/bin/sh");
    let run = draft.run(shell, "echo x > /x; echo y > /dev/y; umask 0; echo z > /z");
    let lines = snapshot_lines(&bench, draft, run, &["/dev", "/proc", "/sys", "/etc", "/x", "/z"]);
    let expected = [
        "/dev 755 0:0",
        "/proc 755 0:0",
        "/sys 755 0:0",
        "/etc -",
        "/x 644 0:0 \"x\\n\"",
        "/z 666 0:0 \"z\\n\"",
    ];
    assert_eq!(lines, expected);
}

fn a_failing_run_is_told_with_its_exit_code(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let table = [
        ("exit 42", ProcessFailure::Code(42)),
        ("sh -c 'kill -9 $$'; exit $?", ProcessFailure::Code(137)),
        ("kill -9 $$; exit 3", ProcessFailure::Code(3)),
    ];
    for (script, expected) in table {
        let mut draft = Draft::default();
        let base = draft.add(bench.busybox(), Vec::new());
        let run = draft.run(base, script);
        let built = bench.solve(draft.graph(), run);
        let Err(SolveError::Vertex { vertex, error: WorkerError::Process { command, failure } }) =
            built.result
        else {
            panic!("`{script}` fails");
        };
        assert_eq!((vertex, failure), (run, expected));
        assert_eq!(command, format!("/bin/sh -c {script}"));
    }
}

fn an_unknown_user_is_told(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let mut draft = Draft::default();
    let base = draft.add(bench.busybox(), Vec::new());
    let run = draft.run_op(base, RunOp { user: "ghost".to_owned(), ..run_op("true") });
    let built = bench.solve(draft.graph(), run);
    let told = built.events.iter().find_map(|event| match event {
        Event::Finished { vertex, error, .. } if *vertex == run => error.clone(),
        _ => None,
    });
    let expected = "process \"/bin/sh -c true\" did not complete successfully: \
        unable to find user ghost: no matching entries in passwd file";
    assert_eq!(told.as_deref(), Some(expected));
}

fn a_cancelled_build_kills_what_runs(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let mut draft = Draft::default();
    let base = draft.add(bench.busybox(), Vec::new());
    let run = draft.run(base, "echo begun; sleep 1000");
    let built = bench.solve_until(draft.graph(), run, |event, cancel| {
        if matches!(event, Event::Log { .. }) {
            cancel.cancel();
        }
    });
    assert!(matches!(built.result, Err(SolveError::Cancelled)), "{:?}", built.result);
}

fn workdir_makes_what_is_missing(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let mut draft = Draft::default();
    let base = draft.add(bench.busybox(), Vec::new());
    let links = draft.run(base, "mkdir -m 700 /real; ln -s /real /link");
    let first = draft.workdir(links, "/link/a/b", Some("app"));
    let second = draft.workdir(first, "/link/a/b", None);
    let third = draft.workdir(second, "/num", Some("12:34"));
    let lines = snapshot_lines(&bench, draft, third, &["/link", "/real", "/num"]);
    let expected = [
        "/link 777 0:0 -> /real",
        "/real 700 0:0",
        "/real/a 755 1000:1001",
        "/real/a/b 755 1000:1001",
        "/num 755 12:34",
    ];
    assert_eq!(lines, expected);
}

fn workdir_over_a_file_is_an_error(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let mut draft = Draft::default();
    let base = draft.add(bench.busybox(), Vec::new());
    let workdir = draft.workdir(base, "/etc/passwd", None);
    let Err(SolveError::Vertex { vertex, error }) = bench.solve(draft.graph(), workdir).result else {
        panic!("it fails");
    };
    assert_eq!((vertex, error.to_string().as_str()), (workdir, "mkdir /etc/passwd: not a directory"));
}

fn a_linked_copy_resets_directories(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    fs::create_dir_all(bench.context().join("tree/q/r")).unwrap();
    for (path, text) in [("tree/q/r/a", "a"), ("tree/f", "file"), ("tree/l", "not a link")] {
        let path = bench.context().join(path);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::hard_link(bench.context().join("tree/f"), bench.context().join("tree/g")).unwrap();
    let build = |draft: &mut Draft| {
        let context = draft.context();
        let base = draft.add(bench.busybox(), Vec::new());
        let script = "mkdir -p /p/q/r /p/f/x; chmod 700 /p/q; chown -R app /p; echo s > /p/q/s; ln -s q /p/l";
        let base = draft.run(base, script);
        let scratch = draft.add(Op::Scratch, Vec::new());
        let copy = draft.copy(scratch, context, "tree", "/p");
        let merge = draft.add(Op::Merge, vec![chain(base), chain(copy)]);
        // Twice the same: no tree may come to hold an inode under two names.
        let again = draft.add(Op::Merge, vec![chain(merge), chain(copy)]);
        draft
            .run(again, "cp /p/f /p/q/r/a && cat /p/q/r/a && ls -i /p/f /p/g | cut -d/ -f1 | sort -u | wc -l")
    };
    let mut draft = Draft::default();
    let target = build(&mut draft);
    let built = bench.solve(draft.graph(), target);
    let solved = built.result.unwrap_or_else(|error| panic!("{error:?}\n{}", built.log));
    assert_eq!(built.log.replace(' ', ""), "file1\n");
    let expected = [
        "/p 755 0:0",
        "/p/f 644 0:0 \"file\"",
        "/p/g 644 0:0 \"file\"",
        "/p/l 644 0:0 \"not a link\"",
        "/p/q 755 0:0",
        "/p/q/r 755 0:0",
        "/p/q/r/a 644 0:0 \"file\"",
        "/p/q/s 644 0:0 \"s\\n\"",
    ];
    assert_eq!(bench.listing(&solved.outputs[0], &["/p"]), expected);
}

fn copies_of_equal_content_hit(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    fs::write(bench.context().join("a"), "1").unwrap();
    let build = |script: &str| {
        let mut draft = Draft::default();
        let context = draft.context();
        let base = draft.add(bench.busybox(), Vec::new());
        let copied = draft.copy(base, context, "a", "/a");
        let made = draft.run(copied, script);
        let taken = draft.copy(base, made, "/made", "/taken");
        let solved = bench.solve(draft.graph(), taken).result.unwrap();
        (solved.executed, solved.cached)
    };
    assert_eq!(build("cut -c1 /a > /made"), (3, 0));
    assert_eq!(build("cut -c1 /a > /made"), (0, 1));
    // The step differs and makes the same: what was copied from it still holds.
    assert_eq!(build("true; cut -c1 /a > /made"), (1, 2));
    fs::write(bench.context().join("a"), "12").unwrap();
    assert_eq!(build("cut -c1 /a > /made"), (2, 1));
    fs::write(bench.context().join("a"), "2").unwrap();
    assert_eq!(build("cut -c1 /a > /made"), (3, 0));
}

fn a_copy_from_an_image_is_known_without_it(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let build = || {
        let mut draft = Draft::default();
        let base = draft.add(bench.busybox(), Vec::new());
        let scratch = draft.add(Op::Scratch, Vec::new());
        let copy = draft.copy(scratch, base, "/etc/passwd", "/passwd");
        bench.solve(draft.graph(), copy)
    };
    let first = build();
    assert_eq!(first.result.unwrap().executed, 1);
    let pulls = |events: &[Event]| events.iter().filter(|event| matches!(event, Event::Started(_))).count();
    assert_eq!(pulls(&first.events), 2);
    let second = build();
    assert_eq!((pulls(&second.events), second.result.unwrap().cached), (0, 1));
}

fn two_workers_run_a_step_once(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let executed = Arc::new(Mutex::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (bench, executed) = (&bench, Arc::clone(&executed));
            scope.spawn(move || {
                let mut draft = Draft::default();
                let base = draft.add(bench.busybox(), Vec::new());
                let run = draft.run(base, "echo $RANDOM > /random; sleep 0.2");
                let solved = bench.solve(draft.graph(), run).result.unwrap();
                assert!(matches!(solved.outputs[0], Output::Snapshot(_)));
                *executed.lock().unwrap() += solved.executed;
            });
        }
    });
    assert_eq!(*executed.lock().unwrap(), 1);
}

fn a_mount_of_the_context_is_a_copy_that_is_kept(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    fs::create_dir(bench.context().join("d")).unwrap();
    fs::set_permissions(bench.context(), fs::Permissions::from_mode(0o700)).unwrap();
    for (file, content) in [("d/file", "one\n"), ("other", "x")] {
        fs::write(bench.context().join(file), content).unwrap();
        std::os::unix::fs::chown(bench.context().join(file), Some(7), Some(8)).unwrap();
    }
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let build = |path: &str, script: &str| {
        let mut draft = Draft::default();
        let base = draft.add(bench.busybox(), Vec::new());
        let context = draft.context();
        let run = draft.run_with(base, (context, path), Access::Read, script);
        let built = bench.solve(draft.graph(), run);
        let solved = built.result.unwrap_or_else(|error| panic!("{error:?}\n{}", built.log));
        (solved.executed, built.log)
    };
    let show = "cat /m/file; stat -c '%u:%g %a' /m /m/file; echo x 2>/dev/null > /m/file || echo ro";
    assert_eq!(build("d", show), (1, "one\n0:0 755\n0:0 644\nro\n".to_owned()));
    assert_eq!(build("/d/", show), (0, String::new()));
    fs::write(bench.context().join("other"), "changed").unwrap();
    assert_eq!(build("d", show).0, 0, "what is not mounted does not count");
    assert_eq!(build("d/file", "cat /m"), (1, "one\n".to_owned()));
    assert_eq!(build("/", "stat -c %a /m; cat /m/d/file"), (1, "755\none\n".to_owned()));
    // Times are in no key, but what is shown has those that the context has by now.
    testkit::set_times(&bench.context().join("d/file"), long_ago);
    assert_eq!(build("d", show).0, 0);
    assert_eq!(build("d", "stat -c %Y /m/file"), (1, "1000000000\n".to_owned()));
    fs::write(bench.context().join("d/file"), "two\n").unwrap();
    assert_eq!(build("d", "cat /m/file"), (1, "two\n".to_owned()));
}

fn a_mount_of_a_stage_shows_its_part(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let build = |make: &str, path: &str, script: &str| {
        let mut draft = Draft::default();
        let base = draft.add(bench.busybox(), Vec::new());
        let stage = draft.run(base, make);
        let run = draft.run_with(base, (stage, path), Access::Read, script);
        let built = bench.solve(draft.graph(), run);
        (built.result.map(|solved| solved.executed), built.log)
    };
    let make = "mkdir -p /d/e; echo one > /d/f; chown 5:6 /d/f; rm /etc/group; ln -s /d /link; ln -s ../../d/f /d/up";
    let run = |path: &str, script: &str| {
        let (executed, log) = build(make, path, script);
        (executed.unwrap(), log)
    };
    assert_eq!(run("/d", "cat /m/f; stat -c %u:%g /m/f; ls /m"), (2, "one\n5:6\ne\nf\nup\n".to_owned()));
    assert_eq!(run("link/up", "cat /m; echo x 2>/dev/null > /m || echo ro"), (1, "one\nro\n".to_owned()));
    assert_eq!(
        run("/", "ls -d /m/etc/*; ls /m/bin | wc -l"),
        (1, {
            let (_, log) = run("/bin", "ls /m | wc -l");
            format!("/m/etc/passwd\n{log}")
        })
    );
    // The stage is made anew, what is mounted of it is the same.
    assert_eq!(
        build(&format!("{make}; echo more > /x"), "/d", "cat /m/f; stat -c %u:%g /m/f; ls /m").0.unwrap(),
        1
    );
    let (error, _) = build(make, "/none", "true");
    let Err(SolveError::Vertex { error: WorkerError::Copy(error), .. }) = error else { panic!("{error:?}") };
    assert!(error.to_string().ends_with("\"/none\": not found"), "{error}");
}

fn what_is_written_to_a_mount_is_lost(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    fs::write(bench.context().join("file"), "context\n").unwrap();
    let mut draft = Draft::default();
    let base = draft.add(bench.busybox(), Vec::new());
    let context = draft.context();
    let stage = draft.run(base, "mkdir /d; echo stage > /d/file");
    let write = "echo changed > /m/file; rm -f /m/gone; mkdir /m/new; cat /m/file";
    let first = draft.run_with(base, (stage, "/d"), Access::Write, write);
    let second = draft.run_with(first, (context, "/"), Access::Write, write);
    let third = draft.run_with(second, (stage, "/d/file"), Access::Write, "cat /m; echo single > /m; cat /m");
    let fourth = draft.run_with(third, (context, "/"), Access::Read, "cat /m/file; ls /m; ls -d /m");
    let built = bench.solve(draft.graph(), fourth);
    let solved = built.result.unwrap_or_else(|error| panic!("{error:?}\n{}", built.log));
    assert_eq!(built.log, "changed\nchanged\nstage\nsingle\ncontext\nfile\n/m\n");
    assert_eq!(fs::read_to_string(bench.context().join("file")).unwrap(), "context\n");
    assert_eq!(bench.listing(&solved.outputs[0], &["/m"]), ["/m -"]);
    let left: Vec<_> =
        fs::read_dir(bench.store.run_directory()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["uses"], "what was written to mounts is thrown away");
}

fn a_mount_of_nothing_is_an_empty_directory(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let mut draft = Draft::default();
    let base = draft.add(bench.busybox(), Vec::new());
    let scratch = draft.add(Op::Scratch, Vec::new());
    let read =
        draft.run_with(base, (scratch, "/"), Access::Read, "ls -A /m; touch /m/x 2>/dev/null || echo ro");
    let write = draft.run_with(read, (scratch, "/"), Access::Write, "touch /m/x; ls /m; stat -c %a /m");
    let built = bench.solve(draft.graph(), write);
    assert_eq!((built.log.as_str(), built.result.is_ok()), ("ro\nx\n755\n", true));
}

/// Runs a script with a cache on the base image; whether it ended well, how many steps were executed, its output.
fn run_caching(bench: &Bench, cache: RunCache, script: &str) -> (bool, usize, String) {
    let mut draft = Draft::default();
    let base = draft.add(bench.busybox(), Vec::new());
    let run = draft.run_caching(base, None, cache, script);
    let built = bench.solve(draft.graph(), run);
    (built.result.is_ok(), built.result.map_or(0, |solved| solved.executed), built.log)
}

fn a_cache_outlives_builds_that_fail(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let log = |text: &str| text.to_owned();
    assert_eq!(run_caching(&bench, cache("a"), "ls /m; echo 1 > /m/f; exit 1"), (false, 0, log("")));
    assert_eq!(run_caching(&bench, cache("a"), "cat /m/f; echo 2 >> /m/f"), (true, 1, log("1\n")));
    // What is in a cache, and which it is, changes no key.
    let other = RunCache { sharing: CacheSharing::Locked, ..cache("b") };
    assert_eq!(run_caching(&bench, other, "cat /m/f; echo 2 >> /m/f"), (true, 0, log("")));
    let reading = RunCache { read_only: true, sharing: CacheSharing::Private, ..cache("a") };
    let script = "cat /m/f; touch /m/x 2>/dev/null || echo ro";
    assert_eq!(run_caching(&bench, reading, script), (true, 1, log("1\n2\nro\n")));
    assert_eq!(
        run_caching(&bench, cache("c"), "ls -A /m; stat -c '%a %u:%g' /m"),
        (true, 1, log("755 0:0\n"))
    );
}

fn a_cache_begins_with_files(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    fs::write(bench.context().join("file"), "context\n").unwrap();
    let build = |make: &str, path: &str, script: &str| {
        let mut draft = Draft::default();
        let base = draft.add(bench.busybox(), Vec::new());
        let stage = draft.run(base, make);
        let run = draft.run_caching(base, Some((stage, path)), cache("c"), script);
        let built = bench.solve(draft.graph(), run);
        (built.result.map(|_| ()).map_err(|error| format!("{error:?}")), built.log)
    };
    let make = "mkdir -p /d/e; echo one > /d/f; chown 5:6 /d /d/f; chmod 700 /d";
    let show = "stat -c '%a %u:%g' /m /m/f; cat /m/f";
    assert_eq!(build(make, "d", show), (Ok(()), "700 5:6\n644 5:6\none\n".to_owned()));
    assert_eq!(build(make, "d", "echo two >> /m/f; cat /m/f").1, "one\ntwo\n");
    assert_eq!(build(make, "/d", "cat /m/f; true").1, "one\ntwo\n");
    // Another beginning is another cache, and no cache reaches back.
    assert_eq!(build(&format!("{make}; echo 0 > /d/f"), "d", "cat /m/f").1, "0\n");
    let (error, _) = build(make, "d/f", "true");
    let error = error.unwrap_err();
    assert!(error.contains("CacheFromFile { id: \"c\", path: \"/d/f\" }"), "{error}");
    let mut draft = Draft::default();
    let base = draft.add(bench.busybox(), Vec::new());
    let context = draft.context();
    let run = draft.run_caching(base, Some((context, "/")), cache("c"), "cat /m/file; rm /m/file");
    assert_eq!(bench.solve(draft.graph(), run).log, "context\n");
    assert!(bench.context().join("file").exists());
}

fn caches_of_other_owners_are_others(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let owned = RunCache { uid: Some(1000), gid: Some(50), mode: Some(0o750), ..cache("a") };
    let said = RunCache { uid: Some(0), mode: Some(0o755), ..cache("a") };
    let run = |cache: &RunCache, script: &str| run_caching(&bench, cache.clone(), script).2;
    assert_eq!(run(&cache("a"), "touch /m/root"), "");
    assert_eq!(run(&owned, "stat -c '%a %u:%g' /m; ls /m; touch /m/app"), "750 1000:50\n");
    assert_eq!(run(&owned, "ls /m"), "app\n");
    // To say what holds anyway makes no other.
    assert_eq!(run(&said, "ls /m"), "root\n");
}

/// A RUN with a secret as the file `/run/secrets/x` and as the variable `X`.
fn with_secret(id: &str, required: bool, script: &str) -> RunOp {
    let secret = RunSecret { id: id.to_owned(), required, mode: 0o440, uid: 1000, gid: 50 };
    let mount = RunMount { target: "/run/secrets/x".to_owned(), kind: RunMountKind::Secret(secret) };
    let variable = SecretVariable { name: "X".to_owned(), id: id.to_owned(), required };
    RunOp { mounts: vec![mount], secret_env: vec![variable], ..run_op(script) }
}

fn a_secret_is_a_file_and_a_variable(kind: SnapshotterKind) {
    let mut bench = Bench::new(kind);
    let build = |bench: &Bench, script: &str| {
        let mut draft = Draft::default();
        let base = draft.add(bench.busybox(), Vec::new());
        let run = draft.run_op(base, with_secret("token", true, script));
        let built = bench.solve(draft.graph(), run);
        let solved = built.result.unwrap_or_else(|error| panic!("{error:?}\n{}", built.log));
        (solved.executed, built.log, bench.listing(&solved.outputs[0], &["/run"]))
    };
    let script = "stat -c '%a %u:%g %s' /run/secrets/x; cat /run/secrets/x; echo \"value: $X\" | tr 3 e; echo \"value: $X\"; \
                  awk '$2 == \"/run/secrets/x\" {print $3}' /proc/mounts; (echo y > /run/secrets/x) 2>/dev/null || echo ro";
    let (executed, log, left) = build(&bench, script);
    assert_eq!(executed, 1);
    // A changed text is none that could be known.
    assert_eq!(log, "440 1000:50 7\n****\nvalue: secret\n\nvalue: ****\n\nramfs\nro\n");
    assert_eq!(left, ["/run -"]);
    bench.secrets = [("token".to_owned(), b"another".to_vec())].into();
    assert_eq!(build(&bench, script).0, 0, "what a secret is, is in no key");
    assert_eq!(build(&bench, "wc -c < /run/secrets/x").1, "7\n");
}

fn a_secret_that_is_missing(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let build = |required: bool| {
        let mut draft = Draft::default();
        let base = draft.add(bench.busybox(), Vec::new());
        let script = "ls /run/secrets/x 2>/dev/null || echo \"none, ${X-unset}\"";
        let run = draft.run_op(base, with_secret("gone", required, script));
        let built = bench.solve(draft.graph(), run);
        (built.result.map(|_| ()).map_err(|error| error.source().unwrap().to_string()), built.log)
    };
    assert_eq!(build(false), (Ok(()), "none, \n".to_owned()));
    assert_eq!(build(true), (Err("secret gone: not found".to_owned()), String::new()));
}

/// The part that runs in a step: asks the agent what is given as numbers, one request of one byte each, and prints the
/// first byte of each answer.
pub(crate) fn agent_client() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let mut agent = UnixStream::connect(&arguments[0]).unwrap();
    for request in &arguments[1..] {
        agent.write_all(&[0, 0, 0, 1, request.parse().unwrap()]).unwrap();
        let mut answer = [0; 5];
        agent.read_exact(&mut answer).unwrap();
        println!("{}", answer[4]);
    }
    std::process::ExitCode::SUCCESS
}

fn with_agent(id: &str, required: bool, script: &str) -> RunOp {
    let agent = RunAgent { id: id.to_owned(), required, mode: 0o660, uid: 0, gid: 50 };
    let mount = RunMount { target: "/run/agent".to_owned(), kind: RunMountKind::Ssh(agent) };
    RunOp { mounts: vec![mount], ..run_op(script) }
}

fn an_agent_is_forwarded_for_reading(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let listener = UnixListener::bind(bench.agent()).unwrap();
    let serving = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let (mut seen, mut request) = (Vec::new(), [0; 5]);
        while client.read_exact(&mut request).is_ok() {
            seen.push(request[4]);
            client.write_all(&[0, 0, 0, 1, request[4] + 100]).unwrap();
        }
        seen
    });
    fs::copy(std::env::current_exe().unwrap(), bench.context().join("client")).unwrap();
    let mut draft = Draft::default();
    let base = draft.add(bench.busybox(), Vec::new());
    let context = draft.context();
    let copied = draft.copy(base, context, "client", "/client");
    // Asked by a user who may, through the group.
    let script = "stat -c '%F %a %u:%g' /run/agent; /client inside-agent-client /run/agent 11 17 13 19; \
                  chmod 777 /run/agent 2>/dev/null || echo denied";
    let op = RunOp { user: "app".to_owned(), ..with_agent("default", true, script) };
    let run = draft.run_op(copied, op);
    let built = bench.solve(draft.graph(), run);
    let solved = built.result.unwrap_or_else(|error| panic!("{error:?}\n{}", built.log));
    assert_eq!(built.log, "socket 660 0:50\n111\n5\n113\n5\ndenied\n");
    assert_eq!(serving.join().unwrap(), [11, 13]);
    assert_eq!(bench.listing(&solved.outputs[0], &["/run"]), ["/run -"]);
    let left = fs::read_dir(bench.store.run_directory()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["uses"], "the socket is gone");
}

fn an_agent_that_is_missing(kind: SnapshotterKind) {
    let bench = Bench::new(kind);
    let build = |required: bool| {
        let mut draft = Draft::default();
        let base = draft.add(bench.busybox(), Vec::new());
        let run = draft.run_op(base, with_agent("other", required, "ls /run/agent 2>/dev/null || echo none"));
        let built = bench.solve(draft.graph(), run);
        (built.result.map(|_| ()).map_err(|error| error.source().unwrap().to_string()), built.log)
    };
    assert_eq!(build(false), (Ok(()), "none\n".to_owned()));
    assert_eq!(build(true), (Err("unset ssh forward key other".to_owned()), String::new()));
}
