//! Stores on each file system that they are likely to be on. Needs the right to mount (root).

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::lab::{Lab, run};

const DOCKERFILE: &str = "FROM busybox AS one
COPY tree /tree
RUN rm /tree/a && mv /tree/b /tree/c && ln /tree/c /tree/d && chown -R 7:8 /tree && mkfifo /pipe
FROM busybox
COPY --from=one /tree /tree
COPY --link --from=one /tree /linked
COPY tree /copied
RUN --mount=type=cache,target=/cache cp /tree/c /cache/c && cat /cache/c /linked/d /copied/a > /all
RUN rm -r /copied && mkdir /copied && echo new > /copied/new
";

/// Something mounted in the lab's directory for as long as this lives.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    pub(crate) fn new(lab: &Lab, arguments: &[&str]) -> Self {
        let point = lab.path("mount");
        std::fs::create_dir(&point).expect("a directory can be made");
        run("mount", &[arguments, &[&*point.to_string_lossy()]].concat());
        Self(point)
    }

    /// A new file system in a file.
    fn disk(lab: &Lab, mkfs: &[&str]) -> Self {
        let image = lab.path("disk").to_string_lossy().into_owned();
        run("truncate", &["-s", "512M", &image]);
        run(mkfs[0], &[&mkfs[1..], &[&image]].concat());
        Self::new(lab, &["-o", "loop", &image])
    }

    fn overlay(lab: &Lab) -> Self {
        let part = |name: &str| {
            std::fs::create_dir(lab.path(name)).expect("a directory can be made");
            lab.path(name).display().to_string()
        };
        let (lower, upper, work) = (part("lower"), part("upper"), part("work"));
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        Self::new(lab, &["-t", "overlay", "-o", &options, "overlay"])
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &["--lazy", &self.0.to_string_lossy()]);
    }
}

/// Builds, builds again, prunes and verifies with the store on what is mounted.
fn works_on(lab: &Lab, mounted: &Mounted, snapshotter: &str) {
    let root = mounted.0.join("store").display().to_string();
    let context =
        lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("tree/a", "file a\n"), ("tree/b", "file b\n")]);
    let told = |name: &str| format!("--root={root} {name}");
    let rbuild = |arguments: &[&str]| lab.rbuild(&[&["--root", &root], arguments].concat());
    let build = |arguments: &[&str]| lab.build(&context, &[&["--root", &root], arguments].concat());

    let first = build(&["-t", "app"]).succeeded();
    let found = rbuild(&["doctor", "--format=json"]).succeeded().stdout;
    let findings: Vec<Value> =
        found.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    let snapshots = findings.iter().find(|finding| finding["check"] == "snapshots");
    let detail = snapshots.and_then(|finding| finding["detail"].as_str()).expect("doctor tells it");
    assert!(detail.starts_with(snapshotter), "{}", told(detail));

    let second = build(&["-t", "app"]).succeeded();
    assert_eq!(second.executed(), Vec::<String>::new(), "{}", told(&second.stderr));
    assert_eq!(first.stdout, second.stdout);
    rbuild(&["doctor", "--store"]).succeeded();

    std::fs::write(context.join("tree/a"), "another\n").expect("a file can be written");
    let tree = lab.build_tree(&context, &["--root", &root]);
    assert_eq!(tree.text("all"), "file b\nfile b\nanother\n");
    assert_eq!((tree.text("copied/new").as_str(), tree.has("copied/a")), ("new\n", false));
    assert_eq!((tree.uid("tree/c"), tree.uid("linked/d")), (Some(7), Some(7)));

    rbuild(&["prune", "--all", "--force"]).succeeded();
    rbuild(&["doctor", "--store"]).succeeded();
    rbuild(&["rmi", "app"]).succeeded();
    rbuild(&["prune", "--all", "--force"]).succeeded();
    let is_empty = |name: &str| {
        let entries = std::fs::read_dir(Path::new(&root).join(name)).expect("the store can be read");
        entries.count() == 0
    };
    for name in ["snapshots", "blobs/sha256", "tmp", "locks", "mounts"] {
        assert!(is_empty(name), "{}", told(name));
    }
    let tree = lab.build_tree(&context, &["--root", &root]);
    assert_eq!(tree.text("all"), "file b\nfile b\nanother\n");
}

#[test]
fn a_store_on_ext4() {
    let lab = Lab::new();
    let mounted = Mounted::disk(&lab, &["mkfs.ext4", "-q"]);
    works_on(&lab, &mounted, "overlay; no reflinks");
}

#[test]
fn a_store_on_xfs() {
    let lab = Lab::new();
    let mounted = Mounted::disk(&lab, &["mkfs.xfs", "-q"]);
    works_on(&lab, &mounted, "overlay; files share their bytes");
}

#[test]
fn a_store_on_btrfs() {
    let lab = Lab::new();
    let mounted = Mounted::disk(&lab, &["mkfs.btrfs", "-q"]);
    works_on(&lab, &mounted, "overlay; files share their bytes");
}

#[test]
fn a_store_on_tmpfs() {
    let lab = Lab::new();
    let mounted = Mounted::new(&lab, &["-t", "tmpfs", "tmpfs"]);
    works_on(&lab, &mounted, "overlay; no reflinks");
}

#[test]
fn a_store_on_overlay() {
    let lab = Lab::new();
    let mounted = Mounted::overlay(&lab);
    works_on(&lab, &mounted, "whole trees");
}

#[test]
fn whole_trees_on_btrfs_share_their_bytes() {
    let lab = Lab::with_snapshotter("copy");
    let mounted = Mounted::disk(&lab, &["mkfs.btrfs", "-q"]);
    works_on(&lab, &mounted, "whole trees");
}
