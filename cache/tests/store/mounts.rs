//! Directories that outlive builds: who has which at what time, and when they go.

use std::fs;
use std::path::Path;
use std::time::Duration;

use cache::{
    CacheMount, FaultKind, Faults, MountKey, MountSharing, PruneOptions, SnapshotterKind, SpaceBounds, Store,
    StoreError,
};

use oci::Digest;

use crate::support::{names, open, options};

fn key(id: &str) -> MountKey {
    MountKey { id: id.to_owned(), beginning: [0; 32] }
}

/// Takes a directory, which begins with a file.
fn take(store: &Store, key: &MountKey, sharing: MountSharing) -> Result<Option<CacheMount>, StoreError> {
    store.try_mount(key, sharing, |directory| -> Result<(), StoreError> {
        fs::write(directory.join("begun"), "").unwrap();
        Ok(())
    })
}

fn files(mount: &CacheMount) -> Vec<String> {
    names(mount.directory())
}

#[test]
fn what_is_left_in_one_is_there_for_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let first = take(&store, &key("a"), MountSharing::Shared).unwrap().unwrap();
    assert_eq!(files(&first), ["begun"]);
    fs::rename(first.directory().join("begun"), first.directory().join("used")).unwrap();
    drop((first, store));
    let store = open(directory.path(), SnapshotterKind::Overlay);
    for sharing in [MountSharing::Locked, MountSharing::Private, MountSharing::Shared] {
        let again = take(&store, &key("a"), sharing).unwrap().unwrap();
        assert_eq!(files(&again), ["used"], "{sharing:?}");
    }
    let other = MountKey { beginning: [1; 32], ..key("a") };
    assert_eq!(files(&take(&store, &other, MountSharing::Shared).unwrap().unwrap()), ["begun"]);
    assert_eq!(store.usage().unwrap().cache_mounts, 2);
}

#[test]
fn who_may_have_one_at_the_same_time() {
    use MountSharing::{Locked, Private, Shared};
    let directory = tempfile::tempdir().unwrap();
    // The rules hold within a process as between processes.
    for stores in [1, 2] {
        let stores: Vec<_> = (0..stores).map(|_| open(directory.path(), SnapshotterKind::Overlay)).collect();
        let (one, other) = (&stores[0], stores.last().unwrap());
        for (first, second, wanted) in [
            (Shared, Shared, Some(true)),
            (Shared, Locked, None),
            (Shared, Private, Some(false)),
            (Locked, Shared, None),
            (Locked, Locked, None),
            (Locked, Private, Some(false)),
            (Private, Shared, None),
            (Private, Locked, None),
            (Private, Private, Some(false)),
        ] {
            let held = take(one, &key("k"), first).unwrap().unwrap();
            let found = take(other, &key("k"), second).unwrap();
            let same = found.as_ref().map(|found| found.directory() == held.directory());
            assert_eq!(same, wanted, "{second:?} while {first:?}");
            drop(held);
            drop(found);
            assert!(take(other, &key("k"), second).unwrap().is_some());
        }
    }
    // The second private one is kept, too, and no third was made.
    assert_eq!(names(directory.path().join("mounts")).len(), 2);
}

#[test]
fn one_that_cannot_be_filled_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let failed = store.try_mount(&key("a"), MountSharing::Locked, |directory| {
        fs::write(directory.join("half"), "").unwrap();
        Err(StoreError::NoBlob(Digest::sha256(b"missing")))
    });
    assert!(matches!(failed, Err(StoreError::NoBlob(_))));
    assert_eq!(files(&take(&store, &key("a"), MountSharing::Locked).unwrap().unwrap()), ["begun"]);
    drop(store);
    assert_eq!(names(directory.path().join("tmp")), [""; 0]);
}

#[test]
fn prune_takes_those_that_nobody_uses() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let used = take(&store, &key("used"), MountSharing::Shared).unwrap().unwrap();
    let free = take(&store, &key("free"), MountSharing::Shared).unwrap().unwrap();
    fs::write(free.directory().join("big"), vec![1; 1 << 20]).unwrap();
    drop(free);
    let usage = store.usage().unwrap();
    assert_eq!(usage.cache_mounts, 2);
    assert!(usage.reclaimable_bytes >= 1 << 20 && usage.reclaimable_bytes < 2 << 20, "{usage:?}");
    let recent = PruneOptions { unused_for: Some(Duration::from_secs(3600)), ..PruneOptions::default() };
    assert_eq!(store.prune(&recent).unwrap().cache_mounts, 0);
    let pruned = open(directory.path(), SnapshotterKind::Overlay).prune(&PruneOptions::default()).unwrap();
    assert_eq!(pruned.cache_mounts, 1);
    assert!(pruned.freed_bytes >= 1 << 20);
    assert_eq!(files(&used), ["begun"]);
    drop(used);
    assert_eq!(store.prune(&PruneOptions::default()).unwrap().cache_mounts, 1);
    assert_eq!(names(directory.path().join("mounts")), [""; 0]);
    assert_eq!(files(&take(&store, &key("used"), MountSharing::Shared).unwrap().unwrap()), ["begun"]);
}

#[test]
fn the_least_recently_used_ones_go_first() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    for id in ["old", "new"] {
        let mount = take(&store, &key(id), MountSharing::Shared).unwrap().unwrap();
        fs::write(mount.directory().join("big"), vec![1; 1 << 20]).unwrap();
        let age = Duration::from_secs(if id == "old" { 7200 } else { 60 });
        let lock = mount.directory().with_file_name("lock");
        let lock = fs::File::options().write(true).open(lock).unwrap();
        lock.set_modified(std::time::SystemTime::now() - age).unwrap();
    }
    // More than a batch, so that it stops after the first.
    for number in 0..20 {
        let mount = take(&store, &key(&number.to_string()), MountSharing::Shared).unwrap().unwrap();
        fs::write(mount.directory().join("big"), vec![1; 1 << 20]).unwrap();
    }
    let total_bytes = store.usage().unwrap().total_bytes;
    let bounds = SpaceBounds { max_used: Some(total_bytes - (1 << 19)), ..SpaceBounds::default() };
    let options = PruneOptions { bounds, ..PruneOptions::default() };
    assert!(store.prune(&options).unwrap().cache_mounts < 22);
    assert_eq!(files(&take(&store, &key("old"), MountSharing::Shared).unwrap().unwrap()), ["begun"]);
}

/// Takes a directory in a store that fails at the write number `at`, and leaves something in it.
fn use_one(root: &Path, faults: std::sync::Arc<Faults>) -> Result<(), StoreError> {
    let store = Store::open_with_faults(&options(root, SnapshotterKind::Overlay), faults)?;
    let mount = take(&store, &key("a"), MountSharing::Locked)?.unwrap();
    fs::write(mount.directory().join("left"), "").unwrap();
    Ok(())
}

#[test]
fn every_write_that_fails_leaves_a_whole_one_or_none() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let faults = Faults::new(u64::MAX, FaultKind::FailOnce);
    use_one(directory.path(), faults.clone()).unwrap();
    for at in 0..faults.steps() {
        for kind in [FaultKind::FailOnce, FaultKind::Full] {
            let directory = tempfile::tempdir_in("/dev/shm").unwrap();
            let result = use_one(directory.path(), Faults::new(at, kind));
            let store = open(directory.path(), SnapshotterKind::Overlay);
            let mount = take(&store, &key("a"), MountSharing::Locked).unwrap().unwrap();
            let wanted: &[&str] = if result.is_ok() { &["begun", "left"] } else { &["begun"] };
            assert_eq!(files(&mount), wanted, "write {at}");
        }
    }
}

#[test]
fn one_that_is_used_stays_whatever_prune_does() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let pruner = open(directory.path(), SnapshotterKind::Overlay);
            // A bound, so that a failure of the other thread is told.
            for _ in 0..10_000 {
                if done.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                pruner.prune(&PruneOptions::default()).unwrap();
            }
        });
        for round in 0..300 {
            // Prune may hold it for a moment.
            let mount = loop {
                if let Some(mount) = take(&store, &key("a"), MountSharing::Locked).unwrap() {
                    break mount;
                }
                std::thread::yield_now();
            };
            let file = mount.directory().join(round.to_string());
            fs::write(&file, "").unwrap();
            std::thread::yield_now();
            assert!(file.exists(), "round {round}");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
