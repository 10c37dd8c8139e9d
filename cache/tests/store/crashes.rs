//! Whatever write fails, and wherever the process dies: the store is whole, and the next build is right.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use cache::layer::write_layer;
use cache::{
    Claim, Contents, FaultKind, Faults, Layer, PruneOptions, RecordDetails, Replace, Snapshot,
    SnapshotterKind, Store, StoreError, StoreOptions,
};
use oci::{ChainId, Descriptor, DiffId, Digest, Manifest, MediaType};

use crate::children::{start, without_starts};
use crate::support::{key, names, open, options, read, save, snapshot};

/// Where these tests keep their stores: each makes hundreds, and none must reach a disk.
const MEMORY: &str = "/dev/shm";

/// A build of three steps on an image of one layer, tagged in the end.
pub(crate) fn build(store: &Store) -> Result<(), StoreError> {
    let chain = ChainId(Digest::sha256(b"base layer"));
    let mut parent = if let Some(base) = store.snapshot_by_chain(&chain)? {
        base
    } else {
        store.blobs().write_bytes(b"base layer")?;
        let active = store.prepare(None)?;
        fs::write(active.upper().join("base"), "base").unwrap();
        active.commit_as(&chain)?
    };
    for number in 1..=3 {
        parent = step(store, &parent, number)?;
    }
    let mut archive = Vec::new();
    write_layer(&store.layer_source(&parent)?, &mut archive).unwrap();
    let layer = Layer { diff_id: DiffId(Digest::sha256(&archive)), size_bytes: archive.len() as u64 };
    store.set_layer(&parent.id, &layer)?;
    store.blobs().write_bytes(b"compressed")?;
    let compressed = Descriptor::of(MediaType::OCI_LAYER_GZIP, b"compressed");
    store.set_variant(&layer.diff_id, "gzip", &compressed)?;
    store.blobs().write_bytes(b"{}")?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: None,
        artifact_type: None,
        config: Descriptor::of(MediaType::OCI_CONFIG, b"{}"),
        layers: vec![compressed],
        subject: None,
        annotations: std::collections::BTreeMap::default(),
    };
    let bytes = serde_json::to_vec(&manifest).unwrap();
    store.blobs().write_bytes(&bytes)?;
    store.tag(&"app:v1".parse().unwrap(), &Descriptor::of(MediaType::OCI_MANIFEST, &bytes))?;
    store.finish()
}

fn step(store: &Store, parent: &Snapshot, number: u64) -> Result<Snapshot, StoreError> {
    if let Some(found) = store.lookup(&key(number))? {
        return Ok(found);
    }
    let _lock = match store.try_claim(&key(number))? {
        Claim::Acquired(lock) => lock,
        Claim::Held { .. } => store.wait_claim(&key(number))?,
    };
    let active = store.prepare(Some(parent))?;
    let _work = active.work_dir()?;
    fs::write(active.upper().join(format!("file-{number}")), number.to_string()).unwrap();
    let mut contents = Contents::default();
    let digest = *blake3::hash(number.to_string().as_bytes()).as_bytes();
    contents.insert(PathBuf::from(format!("/file-{number}")), digest);
    active.set_contents(contents);
    active.set_copy([number.to_le_bytes()[0]; 32]);
    let made = active.commit()?;
    store.set_content_digest(&made.id, &[1; 32], &[number.to_le_bytes()[0]; 32])?;
    store.save(&key(number), &RecordDetails::default(), &made, Replace::No)
}

/// Checks all that is in the store, builds, and throws everything away.
fn check(root: &Path, boot_id: &str) {
    let options =
        StoreOptions { boot_id: Some(boot_id.to_owned()), ..options(root, SnapshotterKind::Overlay) };
    let store = Store::open(&options).unwrap();
    check_content(&store);
    assert_eq!(store.verify().unwrap().defects, []);
    build(&store).unwrap();
    check_content(&store);
    let verified = store.verify().unwrap();
    assert_eq!((verified.defects, verified.leftovers), (Vec::new(), 0));
    assert!(store.lookup(&key(3)).unwrap().is_some());
    assert_eq!(store.images().unwrap().len(), 1);
    drop(store);
    let store = Store::open(&options).unwrap();
    store.untag(&"app:v1".parse().unwrap()).unwrap();
    drop(store);
    let store = Store::open(&options).unwrap();
    store.prune(&PruneOptions::default()).unwrap();
    for directory in ["snapshots", "blobs/sha256", "locks"] {
        assert_eq!(names(root.join(directory)), [""; 0], "{directory}");
    }
    assert_eq!(names(root.join("tmp")).len(), 1, "this run alone");
    drop(store);
    assert_eq!(names(root.join("tmp")), [""; 0]);
}

pub(crate) fn check_content(store: &Store) {
    for number in 1..=3 {
        let Some(found) = store.lookup(&key(number)).unwrap() else { continue };
        assert_eq!(u64::from(found.depth), number + 1);
        assert_eq!(store.chain(&found).unwrap().len() as u64, number + 1);
        assert_eq!(read(store, &found, "base").as_deref(), Some("base"));
        if let Some(last) = store.last_copy(&[number.to_le_bytes()[0]; 32]).unwrap() {
            assert!(store.own_dir(&last.id).is_dir());
        }
        for below in 1..=number {
            assert_eq!(read(store, &found, &format!("file-{below}")), Some(below.to_string()));
        }
        if let Some(digest) = store.content_digest(&found.id, &[1; 32]).unwrap() {
            assert_eq!(digest, [number.to_le_bytes()[0]; 32]);
        }
    }
    for tag in store.images().unwrap() {
        let bytes = store.blobs().read(&tag.target.digest).unwrap();
        let manifest: Manifest = serde_json::from_slice(&bytes).unwrap();
        store.blobs().read(&manifest.config.digest).unwrap();
        store.blobs().read(&manifest.layers[0].digest).unwrap();
    }
    for blob in [&b"base layer"[..], b"compressed", b"{}"] {
        let digest = Digest::sha256(blob);
        if store.blobs().contains(&digest).unwrap() {
            assert_eq!(store.blobs().read(&digest).unwrap(), blob);
        }
    }
}

/// The number of writes that a build in a new store makes.
fn count_writes() -> u64 {
    let directory = tempfile::tempdir_in(MEMORY).unwrap();
    let faults = Faults::new(u64::MAX, FaultKind::FailOnce);
    let options = options(directory.path(), SnapshotterKind::Overlay);
    let store = Store::open_with_faults(&options, faults.clone()).unwrap();
    build(&store).unwrap();
    drop(store);
    let writes = faults.steps();
    assert!(writes > 50, "{writes}");
    writes
}

#[test]
fn every_write_that_fails_is_told_and_does_no_harm() {
    for kind in [FaultKind::FailOnce, FaultKind::Full] {
        for at in 0..count_writes() {
            let _alone = without_starts();
            let directory = tempfile::tempdir_in(MEMORY).unwrap();
            let faults = Faults::new(at, kind);
            let result =
                Store::open_with_faults(&options(directory.path(), SnapshotterKind::Overlay), faults)
                    .and_then(|store| build(&store));
            match (kind, result) {
                (FaultKind::Full, Err(error)) => {
                    assert!(matches!(error, StoreError::DiskFull { .. }), "write {at}: {error}");
                    assert!(error.to_string().contains(MEMORY), "write {at}: {error}");
                }
                (_, Err(error)) => {
                    assert!(error.to_string().contains(MEMORY), "write {at}: {error}");
                }
                // Tidying up may fail without a word.
                (_, Ok(())) => {}
            }
            check(directory.path(), "boot-1");
        }
    }
}

#[test]
fn a_process_that_is_killed_at_any_write_leaves_a_whole_store() {
    for at in 0..count_writes() {
        let directory = tempfile::tempdir_in(MEMORY).unwrap();
        let output = start("crash", directory.path(), at).wait_with_output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "write {at}: {output:?}");
        let _alone = without_starts();
        // The same store after a crash of the program, and after one of the machine.
        check(directory.path(), if at % 2 == 0 { "boot-1" } else { "boot-2" });
    }
}

#[test]
fn nothing_of_an_abandoned_run_gets_into_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let store = open(root, SnapshotterKind::Overlay);
    let kept = snapshot(&store, None, "a", "1");
    save(&store, 1, &kept);
    let active = store.prepare(Some(&kept)).unwrap();
    fs::write(active.upper().join("b"), "2").unwrap();
    store.downgrade().abandon().unwrap();
    active.commit().unwrap_err();
    // The directories of those that are given up are taken away, their list of what they use is not.
    let abandoned = names(root.join("tmp"));
    assert_eq!(abandoned.len(), 1);
    assert_eq!(names(root.join("tmp").join(&abandoned[0])), ["uses"]);
    let other = open(root, SnapshotterKind::Overlay);
    other.prune(&PruneOptions::default()).unwrap();
    assert_eq!(read(&other, &kept, "a").as_deref(), Some("1"), "it is still in use");
    let handle = store.downgrade();
    drop(store);
    handle.abandon().unwrap();
    other.sweep().unwrap();
    assert_eq!(names(root.join("tmp")).len(), 1, "the other run alone");
}
