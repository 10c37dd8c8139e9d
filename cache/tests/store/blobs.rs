//! Blobs are verified when they are written and when they are used.

use std::fs;
use std::io::{Read, Write};

use cache::{SnapshotterKind, Store, StoreError};
use oci::Digest;

use crate::support::{names, open};

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    (directory, store)
}

#[test]
fn a_blob_is_there_once_it_is_finished() {
    let (directory, store) = store();
    let blobs = store.blobs();
    let expected = Digest::sha256(b"content");
    let mut writer = blobs.writer(Some(&expected)).unwrap();
    writer.write_all(b"con").unwrap();
    assert!(!blobs.contains(&expected).unwrap());
    writer.write_all(b"tent").unwrap();
    assert_eq!(writer.size_bytes(), 7);
    assert_eq!(writer.finish().unwrap(), expected);
    assert_eq!(blobs.size_bytes(&expected).unwrap(), Some(7));
    assert_eq!(blobs.path(&expected).unwrap(), directory.path().join("blobs/sha256").join(expected.hex()));
    assert_eq!(blobs.read(&expected).unwrap(), b"content");
    assert_eq!(blobs.write_bytes(b"content").unwrap(), expected, "again");
    let other = open(directory.path(), SnapshotterKind::Overlay);
    let mut text = String::new();
    other.blobs().open(&expected).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "content");
    text.clear();
    other.blobs().reader(&expected).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "content");
    assert_eq!(names(store.run_directory().to_owned()), ["uses"]);
}

#[test]
fn wrong_content_is_refused_and_discarded() {
    let (directory, store) = store();
    let expected = Digest::sha256(b"right");
    let mut writer = store.blobs().writer(Some(&expected)).unwrap();
    writer.write_all(b"wrong").unwrap();
    let error = writer.finish().unwrap_err();
    let found = Digest::sha256(b"wrong");
    assert_eq!(
        error.to_string(),
        format!("blob `{expected}` has the wrong content: its digest is `{found}`")
    );
    let mut dropped = store.blobs().writer(None).unwrap();
    dropped.write_all(b"dropped").unwrap();
    drop(dropped);
    assert_eq!(names(directory.path().join("blobs/sha256")), [""; 0]);
    assert_eq!(names(store.run_directory().to_owned()), ["uses"]);
}

#[test]
fn a_blob_that_is_damaged_is_never_handed_out() {
    let (directory, store) = store();
    let digest = store.blobs().write_bytes(b"content").unwrap();
    let damage = |with: &[u8]| fs::write(store.blobs().path(&digest).unwrap(), with).unwrap();
    damage(b"tampere");
    let other = open(directory.path(), SnapshotterKind::Overlay);
    assert!(matches!(other.blobs().open(&digest), Err(StoreError::WrongDigest { .. })));
    assert!(!other.blobs().contains(&digest).unwrap(), "it has to be had anew");
    other.blobs().write_bytes(b"content").unwrap();
    damage(b"tampere");
    let other = open(directory.path(), SnapshotterKind::Overlay);
    let mut bytes = Vec::new();
    let error = other.blobs().reader(&digest).unwrap().read_to_end(&mut bytes).unwrap_err();
    assert!(error.to_string().contains("wrong content"), "{error}");
    other.blobs().write_bytes(b"content").unwrap();
    damage(b"tampere");
    let other = open(directory.path(), SnapshotterKind::Overlay);
    assert!(matches!(other.blobs().read(&digest), Err(StoreError::WrongDigest { .. })));
    other.blobs().write_bytes(b"content").unwrap();
    damage(b"short");
    assert!(!other.blobs().contains(&digest).unwrap());
    fs::remove_file(other.blobs().path(&digest).unwrap()).unwrap();
    assert!(matches!(other.blobs().open(&digest), Err(StoreError::NoBlob(_))));
}

#[test]
fn what_cannot_be_a_blob_is_refused() {
    let (_directory, store) = store();
    let digest: Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
    assert!(matches!(store.blobs().writer(Some(&digest)), Err(StoreError::UnsupportedDigest(_))));
    assert!(matches!(store.blobs().contains(&digest), Err(StoreError::UnsupportedDigest(_))));
    let mut writer = store.blobs().writer(None).unwrap();
    let chunk = vec![0; 1 << 20];
    for _ in 0..=64 {
        writer.write_all(&chunk).unwrap();
    }
    let large = writer.finish().unwrap();
    assert!(matches!(store.blobs().read(&large), Err(StoreError::BlobTooLarge { .. })));
}
