//! Prune takes what nobody needs, whatever else goes on.

use std::fs;
use std::time::Duration;

use cache::{PruneOptions, Pruned, SnapshotterKind, Usage};
use oci::{ChainId, Digest};

use crate::images::write_image;
use crate::support::{key, names, open, read, save, snapshot, with_each_kind};

const EVERYTHING: PruneOptions = PruneOptions { unused_for: None, keep_bytes: None };

#[test]
fn what_a_living_run_uses_stays_with_all_below_it() {
    with_each_kind(|root, kind| {
        let maker = open(root, kind);
        let bottom = snapshot(&maker, None, "a", "1");
        save(&maker, 1, &bottom);
        let middle = snapshot(&maker, Some(&bottom), "b", "2");
        save(&maker, 2, &middle);
        let top = snapshot(&maker, Some(&middle), "c", "3");
        save(&maker, 3, &top);
        drop(maker);
        let user = open(root, kind);
        assert_eq!(user.lookup(&key(2)).unwrap(), Some(middle));
        let pruner = open(root, kind);
        let taken = pruner.prune(&EVERYTHING).unwrap();
        assert_eq!((taken.snapshots, taken.records), (1, 1));
        assert_eq!(read(&user, &middle, "a").as_deref(), Some("1"));
        assert_eq!(user.lookup(&key(3)).unwrap(), None);
        assert_eq!(user.lookup(&key(2)).unwrap(), Some(middle));
        // The run goes on building on it while prune goes on.
        let next = snapshot(&user, Some(&middle), "d", "4");
        pruner.prune(&EVERYTHING).unwrap();
        assert_eq!(save(&user, 4, &next), next);
        pruner.prune(&EVERYTHING).unwrap();
        assert_eq!(read(&user, &next, "a").as_deref(), Some("1"));
        assert_eq!(read(&user, &next, "d").as_deref(), Some("4"));
        drop(user);
        let taken = pruner.prune(&EVERYTHING).unwrap();
        assert_eq!((taken.snapshots, taken.records), (3, 3));
        assert!(taken.freed_bytes > 0);
        assert_eq!(names(root.join("snapshots")), [""; 0]);
        let Usage { snapshots, records, .. } = pruner.usage().unwrap();
        assert_eq!((snapshots, records), (0, 0));
    });
}

#[test]
fn what_killed_processes_have_left_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let store = open(root, SnapshotterKind::Overlay);
    fs::create_dir_all(root.join("snapshots/0123456789abcdef/fs")).unwrap();
    fs::create_dir_all(root.join("tmp/1-dead/0/fs")).unwrap();
    fs::write(root.join("tmp/1-dead/uses"), "").unwrap();
    fs::create_dir(root.join("tmp/2-begun")).unwrap();
    let blob = root.join("blobs/sha256").join(Digest::sha256(b"x").hex());
    fs::write(&blob, "x").unwrap();
    fs::write(root.join("locks").join(key(1).to_string()), "1\n").unwrap();
    // Committed by a run that lives, and not recorded yet.
    let living = open(root, SnapshotterKind::Overlay);
    let made = snapshot(&living, None, "a", "1");
    store.prune(&EVERYTHING).unwrap();
    assert_eq!(names(root.join("snapshots")), [made.id.to_string()]);
    assert_eq!(names(root.join("tmp")).len(), 2, "the two runs that live");
    assert!(!blob.exists());
    assert_eq!(names(root.join("locks")), [""; 0]);
    save(&living, 1, &made);
    assert_eq!(store.lookup(&key(1)).unwrap(), Some(made));
}

#[test]
fn tags_keep_their_blobs() {
    let directory = tempfile::tempdir().unwrap();
    let maker = open(directory.path(), SnapshotterKind::Overlay);
    let image = write_image(&maker, &[b"layer"]);
    maker.tag(&"app:v1".parse().unwrap(), &image).unwrap();
    maker.blobs().write_bytes(b"other").unwrap();
    drop(maker);
    let prune = || open(directory.path(), SnapshotterKind::Overlay).prune(&EVERYTHING).unwrap();
    assert_eq!(prune().blobs, 1);
    assert_eq!(names(directory.path().join("blobs/sha256")).len(), 3);
    open(directory.path(), SnapshotterKind::Overlay).untag(&"app:v1".parse().unwrap()).unwrap();
    assert_eq!(prune().blobs, 3);
    assert_eq!(names(directory.path().join("blobs/sha256")), [""; 0]);
}

#[test]
fn what_was_used_lately_stays_if_asked_to() {
    let directory = tempfile::tempdir().unwrap();
    let maker = open(directory.path(), SnapshotterKind::Overlay);
    for number in 1..=3 {
        let made = snapshot(&maker, None, "a", &number.to_string());
        save(&maker, number, &made);
    }
    let chain = ChainId(Digest::sha256(b"chain"));
    maker.prepare(None).unwrap().commit_as(&chain).unwrap();
    drop(maker);
    let connection = rusqlite::Connection::open(directory.path().join("meta.db")).unwrap();
    connection.execute("UPDATE records SET used = 1000 WHERE key <> ?1", [key(3).0]).unwrap();
    drop(connection);
    // A look-up counts as use, and is written no later than at the end of the run.
    open(directory.path(), SnapshotterKind::Overlay).lookup(&key(2)).unwrap().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let day = PruneOptions { unused_for: Some(Duration::from_secs(86400)), keep_bytes: None };
    let Pruned { records, snapshots, .. } = store.prune(&day).unwrap();
    assert_eq!((records, snapshots), (1, 1));
    assert_eq!(store.lookup(&key(1)).unwrap(), None);
    assert!(store.lookup(&key(2)).unwrap().is_some());
    assert!(store.lookup(&key(3)).unwrap().is_some());
    assert!(store.snapshot_by_chain(&chain).unwrap().is_some());
}

#[test]
fn the_least_recently_used_goes_first_until_the_bound_holds() {
    let directory = tempfile::tempdir().unwrap();
    let maker = open(directory.path(), SnapshotterKind::Overlay);
    for number in 0..40 {
        let made = snapshot(&maker, None, "a", &"x".repeat(100_000));
        save(&maker, number, &made);
    }
    drop(maker);
    let connection = rusqlite::Connection::open(directory.path().join("meta.db")).unwrap();
    for number in 0..40 {
        let used = i64::try_from(number).unwrap() + 1000;
        connection
            .execute("UPDATE records SET used = ?1 WHERE key = ?2", rusqlite::params![used, key(number).0])
            .unwrap();
    }
    drop(connection);
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let before = store.usage().unwrap();
    assert!(before.reclaimable_bytes >= 4_000_000 && before.total_bytes > before.reclaimable_bytes);
    let bound = PruneOptions { unused_for: None, keep_bytes: Some(before.total_bytes - 1_000_000) };
    let pruned = store.prune(&bound).unwrap();
    assert_eq!(pruned.records, 16, "in steps of 16");
    assert!(store.usage().unwrap().total_bytes <= before.total_bytes - 1_000_000);
    assert_eq!(store.lookup(&key(15)).unwrap(), None);
    assert!(store.lookup(&key(16)).unwrap().is_some());
}

#[test]
fn usage_counts_a_file_once_and_frees_it_with_its_last_link() {
    let directory = tempfile::tempdir().unwrap();
    let maker = open(directory.path(), SnapshotterKind::Overlay);
    let one = snapshot(&maker, None, "file", &"x".repeat(1_000_000));
    save(&maker, 1, &one);
    let active = maker.prepare(None).unwrap();
    fs::hard_link(maker.own_dir(&one.id).join("file"), active.upper().join("file")).unwrap();
    let two = active.commit().unwrap();
    save(&maker, 2, &two);
    drop(maker);
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let usage = store.usage().unwrap();
    assert!((1_000_000..2_000_000).contains(&usage.total_bytes), "{usage:?}");
    assert!((1_000_000..2_000_000).contains(&usage.reclaimable_bytes), "{usage:?}");
    assert_eq!((usage.snapshots, usage.records, usage.blobs), (2, 2, 0));
    store.lookup(&key(1)).unwrap().unwrap();
    let usage = store.usage().unwrap();
    assert!(usage.reclaimable_bytes < 1_000_000, "{usage:?}");
    drop(store);
    let store = open(directory.path(), SnapshotterKind::Overlay);
    assert!(store.prune(&EVERYTHING).unwrap().freed_bytes >= 1_000_000);
}
