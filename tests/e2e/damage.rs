//! `rbuild doctor --store`, and the build after it.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::lab::{Lab, Ran};

const DOCKERFILE: &str = "FROM busybox AS one
COPY input /input
RUN sha256sum < /input > /one
FROM busybox
COPY --from=one /one /input /
RUN --mount=type=cache,target=/c cat /one > /two; cp /two /c
";

/// A lab with an image in its store.
fn built() -> (Lab, PathBuf) {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("input", "some input")]);
    lab.build(&context, &["-t", "app"]).succeeded();
    (lab, context)
}

fn findings(ran: &Ran) -> Vec<Value> {
    ran.stdout.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

/// The files of snapshots that are called so.
fn files(lab: &Lab, name: &str) -> Vec<PathBuf> {
    let snapshots = fs::read_dir(lab.root().join("snapshots")).expect("the snapshots can be listed");
    let files = snapshots.map(|entry| entry.expect("an entry can be read").path().join("fs").join(name));
    files.filter(|path| path.exists()).collect()
}

#[test]
fn a_store_that_is_right_is_told_to_be() {
    let lab = Lab::new();
    let ran = lab.rbuild(&["doctor", "--store"]).succeeded();
    assert!(ran.stdout.contains("is made by the first build"), "{}", ran.stdout);
    assert!(!lab.root().exists());
    for snapshotter in ["overlay", "copy"] {
        let lab = Lab::with_snapshotter(snapshotter);
        let context = lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("input", "some input")]);
        lab.build(&context, &["-t", "app"]).succeeded();
        let ran = lab.rbuild(&["doctor", "--store"]).succeeded();
        assert!(ran.stdout.ends_with("\nThe store is as it should be.\n"), "{}", ran.stdout);
        assert!(ran.stdout.contains("nothing is left of killed builds"), "{}", ran.stdout);
    }
}

#[test]
fn what_is_damaged_is_repaired_and_the_next_build_is_right() {
    let (lab, context) = built();
    let right = lab.build_tree(&context, &[]);
    // Several snapshots have this file, of which only those that were exported are known.
    let path = files(&lab, "one").pop().expect("a snapshot has the file");
    fs::write(path, "damaged").expect("a file can be written");
    let blob = fs::read_dir(lab.root().join("blobs/sha256")).expect("the blobs can be listed");
    let blob = blob.map(|entry| entry.expect("an entry can be read").path()).next().expect("there are blobs");
    let mut bytes = fs::read(&blob).expect("a blob can be read");
    bytes[0] ^= 1;
    fs::write(&blob, bytes).expect("a file can be written");

    let ran = lab.rbuild(&["doctor", "--store", "--format=json"]).failed(1, &[]);
    let repaired = |check: &str| {
        findings(&ran).iter().any(|finding| finding["check"] == check && finding["status"] == "repaired")
    };
    assert!(repaired("blobs") && repaired("snapshots"), "{}", ran.stdout);
    assert!(files(&lab, "one").is_empty(), "all that share the file are gone");
    let tree = lab.build_tree(&context, &[]);
    for name in ["one", "two", "input"] {
        assert_eq!(tree.text(name), right.text(name));
    }
    lab.build(&context, &["-t", "app"]).succeeded();
    lab.rbuild(&["doctor", "--store"]).succeeded();
}

#[test]
fn a_file_of_a_base_image_that_changed_is_found() {
    let (lab, context) = built();
    let right = lab.build_tree(&context, &[]);
    let path = files(&lab, "etc/passwd").pop().expect("a snapshot has the file");
    fs::write(path, "x::0:0::/:/bin/sh\n").expect("a file can be written");
    let ran = lab.rbuild(&["doctor", "--store"]).failed(1, &[]);
    assert!(ran.stdout.contains("it is not what its layer holds"), "{}", ran.stdout);
    let tree = lab.build_tree(&context, &[]);
    assert_eq!(tree.text("etc/passwd"), right.text("etc/passwd"));
    lab.build(&context, &["-t", "app"]).succeeded();
    lab.rbuild(&["doctor", "--store"]).succeeded();
}

#[test]
fn a_store_of_which_the_metadata_is_damaged_says_what_to_do() {
    let (lab, context) = built();
    let path = lab.root().join("meta.db");
    for name in ["meta.db-wal", "meta.db-shm"] {
        // They may be there or not.
        let _ = fs::remove_file(lab.root().join(name));
    }
    let file = fs::File::options().write(true).open(&path).expect("the metadata can be opened");
    file.set_len(100).expect("a file can be cut");
    let told = ["meta.db` is damaged", "hint: remove the store"];
    lab.rbuild(&["doctor", "--store"]).failed(3, &told);
    lab.build(&context, &[]).failed(3, &told);
}
