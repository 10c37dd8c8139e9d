//! Everything that can be damaged in a store, damaged: it is found and repaired, and the next build is right.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use cache::{MountKey, MountSharing, Outcome, Part, SnapshotterKind, Store, StoreError};
use oci::Digest;

use crate::children::{hear, start};
use crate::crashes::{build, check_content};
use crate::support::{key, names, open, options};

/// A store with a finished build and what other commands of a Dockerfile leave in it.
struct Damaged {
    directory: tempfile::TempDir,
}

impl Damaged {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), SnapshotterKind::Overlay);
        build(&store).unwrap();
        let key = MountKey { id: "/cache".to_owned(), beginning: [0; 32] };
        let mount = store.try_mount::<StoreError>(&key, MountSharing::Shared, |_| Ok(())).unwrap();
        assert!(mount.is_some());
        Self { directory }
    }

    fn root(&self) -> &Path {
        self.directory.path()
    }

    fn store(&self) -> Store {
        open(self.root(), SnapshotterKind::Overlay)
    }

    fn blob(&self, content: &[u8]) -> PathBuf {
        self.root().join("blobs/sha256").join(Digest::sha256(content).hex())
    }

    /// The directory of the snapshot of the step of this number.
    fn step(&self, number: u64) -> PathBuf {
        let store = self.store();
        let snapshot = store.lookup(&key(number)).unwrap().unwrap();
        store.own_dir(&snapshot.id).parent().unwrap().to_owned()
    }

    fn mount(&self) -> PathBuf {
        let mounts = self.root().join("mounts");
        mounts.join(names(mounts.clone()).first().unwrap())
    }

    fn sql(&self, statement: &str) {
        let connection = rusqlite::Connection::open(self.root().join("meta.db")).unwrap();
        connection.execute_batch(statement).unwrap();
    }
}

fn flip_a_byte(path: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 1).unwrap();
}

/// What is damaged, how, and where and in which words that is told.
type Case = (&'static str, fn(&Damaged), Part, &'static str);

const REPAIRED: &[Case] = &[
    (
        "a byte of a blob",
        |it| flip_a_byte(&it.blob(b"base layer")),
        Part::Blobs,
        "its content has the digest",
    ),
    (
        "the end of a blob",
        |it| fs::write(it.blob(b"base layer"), "base").unwrap(),
        Part::Blobs,
        "it has 4 bytes instead of 10",
    ),
    ("a blob", |it| fs::remove_file(it.blob(b"base layer")).unwrap(), Part::Blobs, "its file is missing"),
    (
        "a snapshot",
        |it| fs::remove_dir_all(it.step(2)).unwrap(),
        Part::Snapshots,
        "its directory cannot be read",
    ),
    (
        "a file of a snapshot",
        |it| fs::write(it.step(1).join("fs/file-1"), "other").unwrap(),
        Part::Snapshots,
        "`/file-1` is not what was copied",
    ),
    (
        "a file that is gone",
        |it| fs::remove_file(it.step(1).join("fs/file-1")).unwrap(),
        Part::Snapshots,
        "`/file-1`: ",
    ),
    (
        "the mode of a file",
        |it| fs::set_permissions(it.step(3).join("fs/file-3"), Permissions::from_mode(0o600)).unwrap(),
        Part::Snapshots,
        "its layer is `sha256:",
    ),
    (
        "what is known of files",
        |it| flip_a_byte(&it.step(2).join("contents")),
        Part::Snapshots,
        "the digests of its files are damaged",
    ),
    (
        "the row of a snapshot",
        |it| it.sql("DELETE FROM snapshots WHERE depth = 2"),
        Part::Metadata,
        "their snapshots are not in the store",
    ),
    (
        "a depth",
        |it| it.sql("UPDATE snapshots SET depth = 7 WHERE depth = 3"),
        Part::Snapshots,
        "recorded as 7",
    ),
    (
        "origins",
        |it| it.sql("UPDATE snapshots SET origins = x'00' WHERE depth = 2"),
        Part::Snapshots,
        "its origins cannot be read",
    ),
    ("a record", |it| it.sql("UPDATE records SET parts = '[1'"), Part::Metadata, "invalid parts: `[1`"),
    ("a tag", |it| it.sql("UPDATE tags SET target = 'x'"), Part::Metadata, "invalid target: `x`"),
    (
        "a pin",
        |it| it.sql("INSERT INTO pins VALUES ('a', 'linux/amd64', 'b', 0)"),
        Part::Metadata,
        "invalid digest",
    ),
    (
        "a merged directory",
        |it| it.sql("INSERT INTO merged SELECT id, 'merged-1', 0 FROM snapshots WHERE depth = 1"),
        Part::Snapshots,
        "it is missing",
    ),
    (
        "a mode",
        |it| fs::set_permissions(it.root().join("snapshots"), Permissions::from_mode(0o755)).unwrap(),
        Part::Metadata,
        "its mode was 0755 instead of 0700",
    ),
    ("a directory", |it| fs::remove_dir(it.root().join("locks")).unwrap(), Part::Metadata, "it was missing"),
    (
        "a cache mount",
        |it| fs::remove_file(it.mount().join("lock")).unwrap(),
        Part::CacheMounts,
        "`lock` is missing in it",
    ),
    (
        "what is known of a context",
        |it| {
            fs::create_dir(it.root().join("contexts")).unwrap();
            fs::write(it.root().join("contexts/a.stat"), "rubbish").unwrap();
        },
        Part::Contexts,
        "they are damaged",
    ),
];

#[test]
fn what_is_damaged_is_found_and_made_anew() {
    for (name, damage, part, detail) in REPAIRED {
        let damaged = Damaged::new();
        damage(&damaged);
        let found = damaged.store().verify().unwrap().defects;
        let is_told = found.iter().any(|defect| defect.part == *part && defect.detail.contains(detail));
        assert!(is_told, "{name}: {found:?}");
        assert!(found.iter().all(|defect| defect.outcome == Outcome::Repaired), "{name}: {found:?}");
        assert_eq!(damaged.store().verify().unwrap().defects, [], "{name}, the second time");
        let store = damaged.store();
        check_content(&store);
        build(&store).unwrap();
        check_content(&store);
        assert!(store.lookup(&key(3)).unwrap().is_some(), "{name}");
        assert_eq!(store.images().unwrap().len(), 1, "{name}");
        assert_eq!(store.verify().unwrap().defects, [], "{name}, after a build");
    }
}

#[test]
fn an_image_that_lost_something_is_named_and_kept() {
    let damaged = Damaged::new();
    fs::remove_file(damaged.blob(b"{}")).unwrap();
    let found = damaged.store().verify().unwrap().defects;
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((found[0].part, found[0].outcome), (Part::Blobs, Outcome::Repaired));
    assert_eq!((found[1].part, found[1].outcome), (Part::Images, Outcome::Left));
    assert_eq!(found[1].name, "image `docker.io/library/app:v1`");
    assert_eq!(found[1].detail, format!("blob `{}` is missing", Digest::sha256(b"{}")));
    assert_eq!(damaged.store().verify().unwrap().defects.len(), 1, "it is still missing");
    build(&damaged.store()).unwrap();
    assert_eq!(damaged.store().verify().unwrap().defects, []);
}

#[test]
fn what_killed_processes_have_left_is_no_damage() {
    let damaged = Damaged::new();
    let root = damaged.root();
    fs::create_dir_all(root.join("snapshots/0123456789abcdef/fs")).unwrap();
    fs::create_dir(damaged.step(1).join("merged-1")).unwrap();
    fs::write(root.join("blobs/sha256/0123"), "x").unwrap();
    fs::create_dir(root.join("tmp/1-1")).unwrap();
    fs::write(root.join("tmp/1-1/uses"), "").unwrap();
    fs::create_dir(root.join("contexts")).unwrap();
    fs::write(root.join("contexts/a.1.tmp"), "").unwrap();
    damaged.sql("UPDATE snapshots SET doomed = 5; UPDATE blobs SET doomed = 5");
    let verified = damaged.store().verify().unwrap();
    assert_eq!((verified.leftovers, verified.defects), (5, Vec::new()));
    assert_eq!((verified.snapshots, verified.compared_snapshots), (4, 3));
    assert_eq!((verified.blobs, verified.records, verified.images, verified.cache_mounts), (4, 3, 1, 1));
    assert_eq!(names(root.join("contexts")), [""; 0]);
    assert_eq!(names(root.join("tmp")), [""; 0]);
    assert_eq!(names(damaged.step(1)), ["contents", "fs"]);
    let store = damaged.store();
    assert_eq!(store.verify().unwrap().leftovers, 0);
    check_content(&store);
}

#[test]
fn what_a_running_build_uses_is_not_taken_from_it() {
    let damaged = Damaged::new();
    let file = damaged.step(2).join("fs/file-2");
    let mut user = start("use", damaged.root(), 3);
    assert_eq!(hear(&mut user), "used");
    fs::write(&file, "other").unwrap();
    let found = damaged.store().verify().unwrap().defects;
    assert!(!found.is_empty() && found.iter().all(|defect| defect.outcome == Outcome::InUse), "{found:?}");
    assert!(file.exists());
    user.kill().unwrap();
    user.wait().unwrap();
    let found = damaged.store().verify().unwrap().defects;
    assert!(found.iter().all(|defect| defect.outcome == Outcome::Repaired), "{found:?}");
    assert!(!file.exists());
}

#[test]
fn damaged_metadata_is_told() {
    for bytes in [5000, 100] {
        let damaged = Damaged::new();
        let path = damaged.root().join("meta.db");
        // What is still in the log would be read instead.
        damaged.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes).unwrap();
        let result = Store::open(&options(damaged.root(), SnapshotterKind::Overlay));
        let error = result.and_then(|store| store.verify().map(drop)).unwrap_err();
        assert!(matches!(error, StoreError::DamagedMetadata { .. }), "{bytes}: {error:?}");
        assert!(error.to_string().starts_with(&format!("the metadata in `{}` is damaged", path.display())));
    }
}
