//! What the tests share.

use std::fs;
use std::path::{Path, PathBuf};

use cache::{
    IdMode, LinkPolicy, RecordDetails, RecordKey, Replace, Snapshot, SnapshotterKind, Store, StoreOptions,
};

/// Both kinds of snapshotter.
pub(crate) const KINDS: [SnapshotterKind; 2] = [SnapshotterKind::Overlay, SnapshotterKind::Copy];

/// Options for a store in `root`.
pub(crate) fn options(root: &Path, kind: SnapshotterKind) -> StoreOptions {
    StoreOptions {
        root: root.to_owned(),
        snapshotter: Some(kind),
        ids: IdMode::Root,
        boot_id: Some("boot-1".to_owned()),
        links: LinkPolicy::Allowed,
    }
}

/// Opens a store in `root`.
pub(crate) fn open(root: &Path, kind: SnapshotterKind) -> Store {
    Store::open(&options(root, kind)).unwrap()
}

/// Runs `test` with a fresh store of each kind.
pub(crate) fn with_each_kind(test: impl Fn(&Path, SnapshotterKind)) {
    for kind in KINDS {
        let directory = tempfile::tempdir().unwrap();
        test(directory.path(), kind);
    }
}

/// A key that is made of a number.
pub(crate) fn key(number: u64) -> RecordKey {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    RecordKey(bytes)
}

/// Commits a snapshot with one more file.
pub(crate) fn snapshot(store: &Store, parent: Option<&Snapshot>, name: &str, content: &str) -> Snapshot {
    let active = store.prepare(parent).unwrap();
    fs::write(active.upper().join(name), content).unwrap();
    active.commit().unwrap()
}

/// Saves under a key made of `number`, without details.
pub(crate) fn save(store: &Store, number: u64, snapshot: &Snapshot) -> Snapshot {
    store.save(&key(number), &RecordDetails::default(), snapshot, Replace::No).unwrap()
}

/// A file of a snapshot's tree, wherever in its chain it is.
pub(crate) fn read(store: &Store, snapshot: &Snapshot, name: &str) -> Option<String> {
    let directories = store.layer_dirs(snapshot).unwrap();
    directories.iter().find_map(|directory| fs::read_to_string(directory.join(name)).ok())
}

/// The names in a directory, sorted.
pub(crate) fn names(directory: PathBuf) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
