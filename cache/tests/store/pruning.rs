//! Prune takes what nobody needs, whatever else goes on.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cache::{
    EntryId, EntryKind, MountKey, MountSharing, PruneOptions, Pruned, RecordDetails, Replace, Snapshot,
    SnapshotterKind, SpaceBounds, Store, StoreError, Usage,
};
use oci::{ChainId, Digest};

use crate::images::write_image;
use crate::support::{key, names, open, read, save, snapshot, with_each_kind};

fn everything() -> PruneOptions {
    PruneOptions::default()
}

fn at_most(bytes: u64) -> PruneOptions {
    let bounds = SpaceBounds { max_used: Some(bytes), ..SpaceBounds::default() };
    PruneOptions { bounds, ..PruneOptions::default() }
}

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
        let taken = pruner.prune(&everything()).unwrap();
        assert_eq!((taken.snapshots, taken.records), (1, 1));
        assert_eq!(read(&user, &middle, "a").as_deref(), Some("1"));
        assert_eq!(user.lookup(&key(3)).unwrap(), None);
        assert_eq!(user.lookup(&key(2)).unwrap(), Some(middle));
        // The run goes on building on it while prune goes on.
        let next = snapshot(&user, Some(&middle), "d", "4");
        pruner.prune(&everything()).unwrap();
        assert_eq!(save(&user, 4, &next), next);
        pruner.prune(&everything()).unwrap();
        assert_eq!(read(&user, &next, "a").as_deref(), Some("1"));
        assert_eq!(read(&user, &next, "d").as_deref(), Some("4"));
        drop(user);
        let taken = pruner.prune(&everything()).unwrap();
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
    store.prune(&everything()).unwrap();
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
    let prune = || open(directory.path(), SnapshotterKind::Overlay).prune(&everything()).unwrap();
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
    let day = PruneOptions { unused_for: Some(Duration::from_secs(86400)), ..PruneOptions::default() };
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
    let bound = at_most(before.total_bytes - 1_000_000);
    let pruned = store.prune(&bound).unwrap();
    assert_eq!(pruned.records, 10, "no more than has to");
    assert!(store.usage().unwrap().total_bytes <= before.total_bytes - 1_000_000);
    assert_eq!(store.lookup(&key(9)).unwrap(), None);
    assert!(store.lookup(&key(10)).unwrap().is_some());
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
    assert!(store.prune(&everything()).unwrap().freed_bytes >= 1_000_000);
}

/// Makes a snapshot of a file of `bytes`, recorded under `number`.
fn sized(store: &Store, number: u64, bytes: usize, kind: EntryKind) -> Snapshot {
    let made = snapshot(store, None, "a", &"x".repeat(bytes));
    let details = RecordDetails { description: format!("step {number}"), kind, parts: Vec::new() };
    store.save(&key(number), &details, &made, Replace::No).unwrap()
}

fn set_used(root: &Path, number: u64, seconds_ago: i64) {
    let connection = rusqlite::Connection::open(root.join("meta.db")).unwrap();
    let used = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed() - seconds_ago;
    connection.execute("UPDATE records SET used = ?1 WHERE key = ?2", (used, key(number).0)).unwrap();
}

fn filter(text: &str) -> PruneOptions {
    PruneOptions { filters: vec![text.parse().unwrap()], ..PruneOptions::default() }
}

#[test]
fn times_that_are_still_to_come_are_the_clocks_mistake() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let maker = open(root, SnapshotterKind::Overlay);
    for number in 1..=3 {
        sized(&maker, number, 10, EntryKind::Regular);
    }
    let mount_key = MountKey { id: "c".to_owned(), beginning: [0; 32] };
    drop(maker.try_mount::<StoreError>(&mount_key, MountSharing::Shared, |_| Ok(())).unwrap());
    drop(maker);
    let year = 365 * 86400;
    for number in 1..=2 {
        set_used(root, number, -year);
    }
    set_used(root, 3, 7200);
    let mounts = root.join("mounts");
    let lock = fs::File::open(mounts.join(&names(mounts.clone())[0]).join("lock")).unwrap();
    lock.set_modified(SystemTime::now() + Duration::from_secs(year.unsigned_abs())).unwrap();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let used = |store: &Store| store.entries().unwrap().iter().map(|entry| entry.used).collect::<Vec<_>>();

    // Whoever uses something sets its time right.
    let store = open(root, SnapshotterKind::Overlay);
    store.lookup(&key(1)).unwrap().unwrap();
    drop(store);
    let store = open(root, SnapshotterKind::Overlay);
    assert_eq!(used(&store).iter().filter(|used| **used > now()).count(), 2, "{:?}", used(&store));
    // And prune does it for what nobody uses, which has to grow old too.
    let hour = PruneOptions { unused_for: Some(Duration::from_secs(3600)), ..PruneOptions::default() };
    assert_eq!(store.prune(&hour).unwrap().records, 1);
    assert_eq!((used(&store).len(), used(&store).iter().filter(|used| **used > now()).count()), (3, 0));
    assert_eq!(store.prune(&everything()).unwrap().records, 2);
}

#[test]
fn filters_say_what_goes() {
    let directory = tempfile::tempdir().unwrap();
    let maker = open(directory.path(), SnapshotterKind::Overlay);
    let git = sized(&maker, 1, 10, EntryKind::GitCheckout);
    sized(&maker, 2, 10, EntryKind::Regular);
    sized(&maker, 3, 10, EntryKind::Regular);
    drop(maker);
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let there = |number| store.record_parts(&key(number)).unwrap().is_some();
    store.prune(&filter("type==exec.cachemount")).unwrap();
    assert!(there(1) && there(2) && there(3));
    store.prune(&filter("type==regular,description~=3$")).unwrap();
    assert!(there(1) && there(2) && !there(3));
    store.prune(&filter(&format!("id=={}", git.id))).unwrap();
    assert!(!there(1) && there(2));
    // Several mean what any of them means.
    let either = ["type==source.local", "type==regular"].map(|text| text.parse().unwrap());
    store.prune(&PruneOptions { filters: either.into(), ..PruneOptions::default() }).unwrap();
    assert!(!there(2));
}

#[test]
fn entries_are_described_and_add_up() {
    let directory = tempfile::tempdir().unwrap();
    let maker = open(directory.path(), SnapshotterKind::Overlay);
    let image = write_image(&maker, &[b"layer"]);
    maker.tag(&"app:v1".parse().unwrap(), &image).unwrap();
    let below = sized(&maker, 1, 100_000, EntryKind::Regular);
    let above = snapshot(&maker, Some(&below), "b", "2");
    save(&maker, 2, &above);
    drop(maker);
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let usage = store.usage().unwrap();
    let find = |id: EntryId| usage.entries.iter().find(|(entry, _)| entry.id == id).unwrap();
    let (entry, size) = find(EntryId::Snapshot(below.id));
    assert_eq!((entry.description.as_str(), entry.kind, entry.parent), ("step 1", EntryKind::Regular, None));
    assert!(entry.is_reclaimable() && *size > 100_000);
    assert_eq!(find(EntryId::Snapshot(above.id)).0.parent, Some(below.id));
    let (blob, _) = find(EntryId::Blob(image.digest.clone()));
    assert!(blob.shared && !blob.in_use && !blob.is_reclaimable());
    let sum: u64 = usage.entries.iter().map(|(_, size)| size).sum();
    assert!(sum < usage.total_bytes && usage.reclaimable_bytes <= sum);
    // What is said to be reclaimable is what goes.
    assert_eq!(store.prune(&everything()).unwrap().freed_bytes, usage.reclaimable_bytes);
    // In use, with all below it.
    let user = open(directory.path(), SnapshotterKind::Overlay);
    let below = sized(&user, 3, 10, EntryKind::Regular);
    let above = snapshot(&user, Some(&below), "b", "2");
    save(&user, 4, &above);
    let entries = store.entries().unwrap();
    let in_use = entries.iter().filter(|entry| entry.in_use && matches!(entry.id, EntryId::Snapshot(_)));
    assert_eq!(in_use.count(), 2);
}

#[test]
fn rules_are_gone_by_in_their_order() {
    const DAY: i64 = 86400;
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let maker = open(root, SnapshotterKind::Overlay);
    for (number, kind) in [
        (1, EntryKind::LocalSource),
        (2, EntryKind::LocalSource),
        (3, EntryKind::Regular),
        (4, EntryKind::Regular),
        (5, EntryKind::Regular),
    ] {
        sized(&maker, number, 1 << 20, kind);
    }
    drop(maker);
    for (number, days) in [(1, 3), (2, 1), (3, 61), (4, 5), (5, 1)] {
        set_used(root, number, days * DAY);
    }
    let store = open(root, SnapshotterKind::Overlay);
    let left =
        || (1..=5).filter(|number| store.record_parts(&key(*number)).unwrap().is_some()).collect::<Vec<_>>();
    // There is space enough: nothing goes, not even what is old.
    let roomy = SpaceBounds { max_used: Some(1 << 40), ..SpaceBounds::default() };
    store.collect(&cache::default_rules(roomy)).unwrap().unwrap();
    assert_eq!(left(), [1, 2, 3, 4, 5]);
    // Too little of it: what is unused for two months, and then what was used least recently.
    let bytes = |millions: u64| SpaceBounds { max_used: Some(millions << 20), ..SpaceBounds::default() };
    store
        .collect(&cache::default_rules(SpaceBounds { reserved: Some(1 << 40), ..bytes(1) }))
        .unwrap()
        .unwrap();
    assert_eq!(left(), [1, 2, 3, 4, 5], "what is reserved stays");
    let mut rules = cache::default_rules(bytes(3));
    rules[0].bounds = bytes(1);
    rules.truncate(1);
    store.collect(&rules).unwrap().unwrap();
    assert_eq!(left(), [2, 3, 4, 5], "only what is easily had again, and old");
    store.collect(&cache::default_rules(bytes(4))).unwrap().unwrap();
    assert_eq!(left(), [2, 4, 5]);
    store.collect(&cache::default_rules(bytes(2))).unwrap().unwrap();
    assert_eq!(left().len(), 1);
}

#[test]
fn one_collection_at_a_time_and_not_too_often() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    assert!(!store.collection_is_due(), "a new store");
    assert!(!store.collection_is_due());
    let stamp = fs::File::options().write(true).open(directory.path().join("gc")).unwrap();
    let age = |seconds| stamp.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    age(590);
    assert!(!store.collection_is_due());
    age(610);
    assert!(store.collection_is_due());
    rustix::fs::flock(&stamp, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert_eq!(store.collect(&[everything()]).unwrap(), None);
    rustix::fs::flock(&stamp, rustix::fs::FlockOperation::Unlock).unwrap();
    assert!(store.collect(&[everything()]).unwrap().is_some());
    assert!(!store.collection_is_due());
    // The clock was wrong.
    stamp.set_modified(SystemTime::now() + Duration::from_secs(86400)).unwrap();
    assert!(store.collection_is_due());
}
