//! What `RUN --mount` shows, and what stays of it.

use crate::lab::Lab;

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
