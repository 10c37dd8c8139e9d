//! What `RUN --mount` shows, and what stays of it.

use std::io::{BufRead as _, BufReader, Lines};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Stdio};

use crate::lab::{Lab, Tree};

/// Tells that a step was executed again by another number in the image.
const ID: &str = "cat /proc/sys/kernel/random/uuid";

#[test]
fn a_bind_mount_depends_on_what_it_shows() {
    for snapshotter in ["overlay", "copy"] {
        let lab = Lab::with_snapshotter(snapshotter);
        let dockerfile = format!(
            "FROM busybox AS make\nCOPY input /input\nRUN mkdir /out; wc -c < /input > /out/size\n\
             FROM busybox\nRUN --mount=source=src,target=/src cat /src/* > /all; {ID} > /context\n\
             RUN --mount=from=make,source=out,target=/out cp /out/size /; {ID} > /stage\n"
        );
        let files = [("Dockerfile", dockerfile.as_str()), ("src/a", "a"), ("src/b", "b"), ("input", "one")];
        let context = lab.context("ctx", &files);
        let first = lab.build_tree(&context, &[]);
        assert_eq!((first.text("all"), first.text("size")), ("ab".to_owned(), "3\n".to_owned()));
        std::fs::write(context.join("beside"), "x").expect("a file can be written");
        std::fs::write(context.join("input"), "two").expect("a file can be written");
        let second = lab.build_tree(&context, &[]);
        for id in ["context", "stage"] {
            assert_eq!(first.text(id), second.text(id), "{id}: what is mounted is the same");
        }
        std::fs::write(context.join("src/b"), "B").expect("a file can be written");
        let third = lab.build_tree(&context, &[]);
        assert_ne!(second.text("context"), third.text("context"));
        assert_eq!(third.text("all"), "aB");
        std::fs::write(context.join("input"), "longer").expect("a file can be written");
        let fourth = lab.build_tree(&context, &[]);
        assert_eq!(third.text("context"), fourth.text("context"));
        assert_eq!(fourth.text("size"), "6\n");
        for name in ["src", "out"] {
            assert!(!fourth.has(name), "{name} stays of a mount: {:?}", fourth.names());
        }
    }
}

#[test]
fn writes_to_a_bind_mount_are_lost() {
    for snapshotter in ["overlay", "copy"] {
        let lab = Lab::with_snapshotter(snapshotter);
        let dockerfile = "FROM busybox AS stage
RUN mkdir /d; echo stage > /d/f
FROM busybox
RUN --mount=target=/c,rw --mount=from=stage,source=d,target=/d,rw echo x > /c/f; rm -r /c/sub; echo x > /d/f; cat /c/f /d/f > /one
RUN --mount=target=/c,rw --mount=from=stage,source=d,target=/d,rw cat /c/f /c/sub/g /d/f > /two
COPY --from=stage /d/f /stage
";
        let context =
            lab.context("ctx", &[("Dockerfile", dockerfile), ("f", "context\n"), ("sub/g", "sub\n")]);
        let tree = lab.build_tree(&context, &[]);
        assert_eq!(tree.text("one"), "x\nx\n");
        assert_eq!(tree.text("two"), "context\nsub\nstage\n");
        assert_eq!(tree.text("stage"), "stage\n");
        let text = |name: &str| std::fs::read_to_string(context.join(name)).expect("a file can be read");
        assert_eq!((text("f"), text("sub/g")), ("context\n".to_owned(), "sub\n".to_owned()));
    }
}

#[test]
fn a_mount_of_a_stage_may_be_replaced_by_a_context() {
    let lab = Lab::new();
    let dockerfile = "FROM no.such.registry.invalid/x AS made
RUN false
FROM busybox
RUN --mount=from=made,target=/m cat /m/file > /copied; ls /m > /names
";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    let files = [("file", "replaced"), ("hidden", "x"), (".dockerignore", "hidden\n.dockerignore\n")];
    let other = lab.context("other", &files);
    let tree = lab.build_tree(&context, &[&format!("--build-context=made={}", other.display())]);
    assert_eq!((tree.text("copied"), tree.text("names")), ("replaced".to_owned(), "file\n".to_owned()));
}

#[test]
fn a_missing_source_is_told_with_its_line() {
    let lab = Lab::new();
    let dockerfile =
        "FROM busybox AS made\nRUN true\nFROM busybox\n\nRUN --mount=from=made,source=gone,target=/m ls /m\n";
    let context =
        lab.context("ctx", &[("Dockerfile", dockerfile), (".dockerignore", "ignored\n"), ("ignored", "")]);
    lab.build(&context, &[])
        .failed(1, &["Dockerfile:5", ">>> RUN --mount=from=made", "\"/gone\": not found"]);
    let dockerfile = "FROM busybox\nRUN --mount=source=ignored,target=/m cat /m\n";
    std::fs::write(context.join("Dockerfile"), dockerfile).expect("a file can be written");
    lab.build(&context, &[]).failed(1, &["Dockerfile:2", "\"/ignored\": not found", "hint: ", "ignore file"]);
}

#[test]
fn the_source_of_a_mount_stays_beneath_its_root() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox\nRUN --mount=source=link,target=/m cat /m > /out\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile), ("etc/hostname", "inside\n")]);
    std::os::unix::fs::symlink("../../../../etc/hostname", context.join("link")).expect("a link can be made");
    assert_eq!(lab.build_tree(&context, &[]).text("out"), "inside\n");
    std::fs::remove_file(context.join("link")).expect("a link can be removed");
    std::os::unix::fs::symlink("/etc/passwd", context.join("link")).expect("a link can be made");
    lab.build(&context, &[]).failed(1, &["not found"]);
}

/// The cache directories of a lab's store.
fn caches(lab: &Lab) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(lab.root().join("mounts")).expect("the store has caches");
    entries.map(|entry| entry.expect("the store can be read").path().join("fs")).collect()
}

#[test]
fn a_cache_outlives_builds_and_their_failure() {
    for snapshotter in ["overlay", "copy"] {
        let lab = Lab::with_snapshotter(snapshotter);
        let run = |script: &str| format!("FROM busybox\nRUN --mount=type=cache,target=/c {script}\n");
        let context = lab.context("ctx", &[("Dockerfile", &run("echo one >> /c/log; false"))]);
        lab.build(&context, &[]).failed(1, &["exit code: 1"]);
        for (script, expected) in [
            ("echo two >> /c/log; cat /c/log > /log", "one\ntwo\n"),
            ("cat /c/log > /log; true", "one\ntwo\n"),
        ] {
            std::fs::write(context.join("Dockerfile"), run(script)).expect("a file can be written");
            let tree = lab.build_tree(&context, &["--no-cache"]);
            assert_eq!(tree.text("log"), expected);
            assert!(!tree.has("c"), "{:?}", tree.names());
        }
        // Whatever is in it, the step is known.
        std::fs::write(caches(&lab)[0].join("log"), "changed").expect("a file can be written");
        let again = lab.build(&context, &[]).succeeded();
        assert_eq!(again.executed(), Vec::<String>::new(), "{}", again.stderr);
        let other = lab.build_tree(&context, &["--no-cache", "--build-arg=BUILDKIT_CACHE_MOUNT_NS=other"]);
        assert_eq!(other.text("log"), "", "another namespace has another cache");
        lab.rbuild(&["prune", "--all", "--force"]).succeeded();
        assert_eq!(caches(&lab), Vec::<PathBuf>::new());
    }
}

/// Starts a build that tells when it has the cache, and has it until there is a file `go` in it.
fn hold_cache(lab: &Lab, sharing: &str) -> (Child, Lines<BufReader<ChildStderr>>) {
    let dockerfile = format!(
        "FROM busybox\nRUN --mount=type=cache,id=c,target=/c,sharing={sharing} \
         echo begun; until [ -e /c/go ]; do sleep 0.05; done; echo first >> /c/log\n"
    );
    let context = lab.context("first", &[("Dockerfile", &dockerfile)]);
    let mut command = lab.build_command(&context, &[]);
    command.stderr(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().expect("rbuild can be started");
    let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
    assert!(lines.by_ref().any(|line| line.expect("stderr can be read").ends_with(" begun")));
    (child, lines)
}

/// The Dockerfile of a build that wants the same cache.
fn wanting(sharing: &str) -> String {
    format!(
        "FROM busybox\nRUN --mount=type=cache,id=c,target=/c,sharing={sharing} \
         echo second >> /c/log; cat /c/log > /log; touch /c/go\n"
    )
}

fn end(mut child: Child, lines: Lines<BufReader<ChildStderr>>) {
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(child.wait().expect("a child can be waited for").success(), "{}", rest.join("\n"));
}

#[test]
fn who_locks_a_cache_has_it_alone() {
    let lab = Lab::new();
    let (first, first_lines) = hold_cache(&lab, "locked");
    let context = lab.context("second", &[("Dockerfile", &wanting("locked"))]);
    let mut command = lab.build_command(&context, &["-o", "type=tar,dest=second.tar"]);
    command.stderr(Stdio::piped()).stdout(Stdio::null());
    let mut second = command.spawn().expect("rbuild can be started");
    let mut lines = BufReader::new(second.stderr.take().expect("stderr is piped")).lines();
    let waits = "waiting for another step that uses the cache `c`";
    assert!(lines.by_ref().any(|line| line.expect("stderr can be read").ends_with(waits)));
    std::fs::write(caches(&lab)[0].join("go"), "").expect("a file can be written");
    end(first, first_lines);
    end(second, lines);
    assert_eq!(Tree::read(&lab.path("second.tar")).text("log"), "first\nsecond\n");
}

#[test]
fn who_shares_a_cache_has_it_with_others() {
    let lab = Lab::new();
    let (first, lines) = hold_cache(&lab, "shared");
    let context = lab.context("second", &[("Dockerfile", &wanting("shared"))]);
    // The first one ends by what the second one does.
    assert_eq!(lab.build_tree(&context, &[]).text("log"), "second\n");
    end(first, lines);
    assert_eq!(std::fs::read_to_string(caches(&lab)[0].join("log")).expect("a log"), "second\nfirst\n");
}

#[test]
fn a_private_cache_that_is_in_use_is_another_one() {
    let lab = Lab::new();
    let (first, lines) = hold_cache(&lab, "private");
    let held = caches(&lab).remove(0);
    let context = lab.context("second", &[("Dockerfile", &wanting("private"))]);
    assert_eq!(lab.build_tree(&context, &[]).text("log"), "second\n");
    assert!(!held.join("log").exists());
    std::fs::write(held.join("go"), "").expect("a file can be written");
    end(first, lines);
    assert_eq!(caches(&lab).len(), 2);
}

#[test]
fn one_build_has_caches_within_caches_and_waits_for_its_own() {
    let lab = Lab::new();
    // Each stage has both caches, in an order of its own.
    let stage = |name: &str, first: &str, second: &str| {
        format!(
            "FROM busybox AS {name}\nRUN --mount=type=cache,id={first},target=/{first},sharing=locked \
             --mount=type=cache,id={second},target=/{second},sharing=locked \
             [ ! -e /x/busy ] && touch /x/busy /y/{name} && ls /y > /seen && rm /x/busy\n"
        )
    };
    let dockerfile = format!(
        "{}{}FROM busybox\nCOPY --from=a /seen /a\nCOPY --from=b /seen /b\n\
         RUN --mount=type=cache,id=y,target=/c/y --mount=type=cache,id=out,target=/c ls /c/y > /both\n",
        stage("a", "x", "y"),
        stage("b", "y", "x")
    );
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    let tree = lab.build_tree(&context, &[]);
    assert_eq!(tree.text("both"), "a\nb\n");
}
