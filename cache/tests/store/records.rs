//! Records, digests, and what is dropped after a restart of the machine.

use std::fs;

use cache::{IdMode, RecordDetails, Replace, SnapshotterKind, Store, StoreError, StoreOptions};

use crate::support::{key, open, options, save, snapshot, with_each_kind};

#[test]
fn the_first_record_stays_unless_it_is_replaced() {
    with_each_kind(|root, kind| {
        let store = open(root, kind);
        assert_eq!(store.lookup(&key(1)).unwrap(), None);
        let first = snapshot(&store, None, "a", "1");
        let second = snapshot(&store, None, "a", "2");
        let parts = vec![("run.args".to_owned(), "make".to_owned())];
        let details = RecordDetails { parts: parts.clone(), ..RecordDetails::default() };
        assert_eq!(store.save(&key(1), &details, &first, Replace::No).unwrap(), first);
        assert_eq!(store.save(&key(1), &RecordDetails::default(), &second, Replace::No).unwrap(), first);
        assert_eq!(store.lookup(&key(1)).unwrap(), Some(first));
        assert_eq!(store.record_parts(&key(1)).unwrap().as_deref(), Some(&parts[..]));
        assert_eq!(store.save(&key(1), &RecordDetails::default(), &second, Replace::Yes).unwrap(), second);
        assert_eq!(store.lookup(&key(1)).unwrap(), Some(second));
        assert_eq!(store.record_parts(&key(2)).unwrap(), None);
        let other = open(root, kind);
        assert_eq!(other.lookup(&key(1)).unwrap(), Some(second));
    });
}

#[test]
fn digests_go_with_their_snapshot() {
    with_each_kind(|root, kind| {
        let store = open(root, kind);
        let made = snapshot(&store, None, "a", "1");
        let (selector, digest) = ([1; 32], [2; 32]);
        assert_eq!(store.content_digest(&made.id, &selector).unwrap(), None);
        store.set_content_digest(&made.id, &selector, &digest).unwrap();
        assert_eq!(store.content_digest(&made.id, &selector).unwrap(), Some(digest));
        assert_eq!(store.record_content_digest(&key(1), &selector).unwrap(), None);
        save(&store, 1, &made);
        drop(store);
        let store = open(root, kind);
        assert_eq!(store.record_content_digest(&key(1), &selector).unwrap(), Some(digest));
        assert_eq!(store.content_digest(&made.id, &[3; 32]).unwrap(), None);
        store.prune(&cache::PruneOptions::default()).unwrap();
        assert_eq!(store.content_digest(&made.id, &selector).unwrap(), None);
    });
}

#[test]
fn what_was_not_sealed_is_dropped_after_a_restart() {
    with_each_kind(|root, kind| {
        let store = open(root, kind);
        let bottom = snapshot(&store, None, "a", "1");
        save(&store, 1, &bottom);
        let blob = store.blobs().write_bytes(b"sealed").unwrap();
        let seal = store.seal().unwrap().unwrap();
        let late = snapshot(&store, Some(&bottom), "b", "2");
        save(&store, 2, &late);
        let late_blob = store.blobs().write_bytes(b"late").unwrap();
        seal.complete().unwrap();
        drop(store);
        let store = open(root, kind);
        assert_eq!(store.lookup(&key(2)).unwrap(), Some(late), "the same boot");
        drop(store);
        let restarted = StoreOptions { boot_id: Some("boot-2".to_owned()), ..options(root, kind) };
        let store = Store::open(&restarted).unwrap();
        assert_eq!(store.lookup(&key(1)).unwrap(), Some(bottom));
        assert_eq!(store.lookup(&key(2)).unwrap(), None);
        assert!(store.blobs().contains(&blob).unwrap());
        assert!(!store.blobs().contains(&late_blob).unwrap());
        let again = snapshot(&store, Some(&bottom), "b", "3");
        assert_eq!(save(&store, 2, &again), again);
        store.finish().unwrap();
        assert!(store.seal().unwrap().is_none(), "nothing is left to seal");
    });
}

#[test]
fn a_seal_covers_what_others_have_saved() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) =
        (open(directory.path(), SnapshotterKind::Overlay), open(directory.path(), SnapshotterKind::Overlay));
    let bottom = snapshot(&one, None, "a", "1");
    save(&one, 1, &bottom);
    let below = two.lookup(&key(1)).unwrap().unwrap();
    let top = snapshot(&two, Some(&below), "b", "2");
    save(&two, 2, &top);
    two.finish().unwrap();
    drop((one, two));
    let restarted = StoreOptions {
        boot_id: Some("boot-2".to_owned()),
        ..options(directory.path(), SnapshotterKind::Overlay)
    };
    let store = Store::open(&restarted).unwrap();
    assert_eq!(store.lookup(&key(1)).unwrap(), Some(bottom));
    assert_eq!(store.lookup(&key(2)).unwrap(), Some(top));
}

#[test]
fn a_store_of_another_id_mapping_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let with = |ids| StoreOptions { ids, ..options(directory.path(), SnapshotterKind::Overlay) };
    let mapped = |map: &str| with(IdMode::Mapped { map: map.to_owned() });
    drop(Store::open(&mapped("         0       1000          1\n")).unwrap());
    drop(Store::open(&mapped("0 1000 1")).unwrap());
    let error = Store::open(&with(IdMode::Single)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the store `{}` was made under the ID mapping `0 1000 1`, and the mapping is `one id` now",
            directory.path().display()
        )
    );
}

#[test]
fn a_newer_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path(), SnapshotterKind::Overlay));
    let connection = rusqlite::Connection::open(directory.path().join("meta.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = Store::open(&options(directory.path(), SnapshotterKind::Overlay)).unwrap_err();
    assert!(matches!(error, StoreError::NewerFormat { found: 99, supported: 3, .. }), "{error}");
    assert!(error.to_string().starts_with(&format!("the store `{}`", directory.path().display())));
}

#[test]
fn a_store_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("file");
    fs::write(&root, "").unwrap();
    let error = Store::open(&options(&root, SnapshotterKind::Overlay)).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot create `{}", root.display())), "{error}");
}
