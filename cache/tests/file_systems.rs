//! What real file systems do: as many names of an inode as ext4 allows, and shared extents of xfs. Alone in its program,
//! as it starts others: between fork and exec they would hold the locks of stores that other tests open.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::panic::UnwindSafe;
use std::path::Path;
use std::process::Command;

use cache::tree::{Attributes, FileContent, Hashing, TreeMode, TreeWriter};

/// The most names that ext4 gives one inode.
const MAXIMUM: usize = 65_000;

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    let needed = "e2fsprogs, xfsprogs, mount";
    let status = status.unwrap_or_else(|error| panic!("{program} is needed ({needed}): {error}"));
    assert!(status.success(), "{program} {arguments:?}");
}

/// Does something in a new file system. Needs the right to mount (root).
fn with_disk(size: &str, mkfs: &str, work: impl FnOnce(&Path) + UnwindSafe) {
    let directory = tempfile::tempdir().unwrap();
    let (image, mount) = (directory.path().join("disk"), directory.path().join("mount"));
    fs::create_dir(&mount).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    run("truncate", &["-s", size, &text(&image)]);
    run(mkfs, &["-q", &text(&image)]);
    run("mount", &["-o", "loop", &text(&image), &text(&mount)]);
    let outcome = std::panic::catch_unwind(|| work(&mount));
    run("umount", &[&text(&mount)]);
    outcome.unwrap();
}

#[test]
fn an_inode_with_too_many_names_is_linked_no_more() {
    with_disk("64M", "mkfs.ext4", |mount| {
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
}

#[test]
fn copies_share_their_extents_where_the_file_system_can() {
    const BYTES: u64 = 16 << 20;
    with_disk("400M", "mkfs.xfs", |mount| {
        let upper = mount.join("upper");
        fs::create_dir(&upper).unwrap();
        let source = mount.join("source");
        fs::write(&source, vec![7; 16 << 20]).unwrap();
        let free = || {
            let all = rustix::fs::statvfs(mount).unwrap();
            all.f_bfree * all.f_frsize
        };
        let source = File::open(source).unwrap();
        source.sync_all().unwrap();
        let before = free();
        let writer = TreeWriter::new(&upper, &[], TreeMode::PLAIN).unwrap();
        for (name, hashing) in [("/a", Hashing::Skip), ("/b", Hashing::Blake3)] {
            let attributes = Attributes { mode: 0o644, ..Attributes::default() };
            writer.file(Path::new(name), FileContent::Fd(&source), &attributes, hashing).unwrap();
        }
        writer.finish().unwrap();
        rustix::fs::syncfs(&source).unwrap();
        let taken = before.saturating_sub(free());
        assert!(taken < BYTES / 4, "{taken} bytes");
        // What shares extents is a file of its own nevertheless.
        fs::write(upper.join("a"), "other").unwrap();
        assert_eq!(fs::metadata(upper.join("b")).unwrap().len(), BYTES);
    });
}
