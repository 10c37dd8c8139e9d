//! An inode that has as many names as ext4 allows. Alone in its program, as it starts others: between fork and exec
//! they would hold the locks of stores that other tests open.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;

use cache::tree::{TreeMode, TreeWriter};

/// The most names that ext4 gives one inode.
const MAXIMUM: usize = 65_000;

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| panic!("{program} is needed (e2fsprogs, mount): {error}"));
    assert!(status.success(), "{program} {arguments:?}");
}

/// Needs the right to mount (root).
#[test]
fn an_inode_with_too_many_names_is_linked_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let (image, mount) = (directory.path().join("disk"), directory.path().join("mount"));
    fs::create_dir(&mount).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    run("truncate", &["-s", "64M", &text(&image)]);
    run("mkfs.ext4", &["-q", &text(&image)]);
    run("mount", &["-o", "loop", &text(&image), &text(&mount)]);
    let outcome = std::panic::catch_unwind(|| {
        let (names, upper) = (mount.join("names"), mount.join("upper"));
        for directory in [&names, &upper] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(names.join("0"), "content").unwrap();
        for name in 1..MAXIMUM - 1 {
            fs::hard_link(names.join("0"), names.join(name.to_string())).unwrap();
        }
        let writer = TreeWriter::new(&upper, &[], TreeMode::PLAIN).unwrap();
        let held = File::open(&names).unwrap();
        let link = |new: &str| writer.link_from(held.as_fd(), "0".as_ref(), Path::new(new)).unwrap();
        fs::write(upper.join("b"), "in the way").unwrap();
        assert!(link("/a"));
        assert!(!link("/b"));
        assert!(!link("/c"));
        writer.finish().unwrap();
        assert_eq!(fs::read_to_string(upper.join("a")).unwrap(), "content");
        assert!(!upper.join("c").exists());
    });
    run("umount", &[&text(&mount)]);
    outcome.unwrap();
}
