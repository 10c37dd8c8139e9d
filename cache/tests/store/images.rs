//! Tags, pins, layers and where blobs come from.

use std::path::Path;

use cache::{Layer, SnapshotterKind, Store, StoreError, StoreOptions};
use oci::{Descriptor, DiffId, Digest, ImageReference, Manifest, MediaType, Platform};

use crate::support::{open, options, save, snapshot};

/// Writes an image whose layers are the given bytes, and returns the descriptor of its manifest.
pub(crate) fn write_image(store: &Store, layers: &[&[u8]]) -> Descriptor {
    let write = |media_type: &str, bytes: &[u8]| {
        store.blobs().write_bytes(bytes).unwrap();
        Descriptor::of(media_type, bytes)
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: write(MediaType::OCI_CONFIG, b"{}"),
        layers: layers.iter().map(|layer| write(MediaType::OCI_LAYER_GZIP, layer)).collect(),
        subject: None,
        annotations: std::collections::BTreeMap::default(),
    };
    write(MediaType::OCI_MANIFEST, &serde_json::to_vec(&manifest).unwrap())
}

fn reference(text: &str) -> ImageReference {
    text.parse().unwrap()
}

fn restarted(root: &Path) -> Store {
    let boot_id = Some("boot-2".to_owned());
    Store::open(&StoreOptions { boot_id, ..options(root, SnapshotterKind::Overlay) }).unwrap()
}

#[test]
fn tags_are_listed_moved_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let (one, two) = (write_image(&store, &[b"1"]), write_image(&store, &[b"2"]));
    store.tag(&reference("b:1"), &one).unwrap();
    store.tag(&reference("a:1"), &one).unwrap();
    store.tag(&reference("b:1"), &two).unwrap();
    let listed: Vec<_> =
        store.images().unwrap().into_iter().map(|tag| (tag.reference.familiar(), tag.target)).collect();
    assert_eq!(listed, [("a:1".to_owned(), one.clone()), ("b:1".to_owned(), two)]);
    assert_eq!(store.image(&reference("a:1")).unwrap().unwrap().target, one);
    assert!(store.untag(&reference("a:1")).unwrap());
    assert!(!store.untag(&reference("a:1")).unwrap());
    assert_eq!(store.image(&reference("a:1")).unwrap(), None);
}

#[test]
fn a_tag_outlives_a_restart_with_what_cannot_be_fetched_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let image = write_image(&store, &[b"base", b"own"]);
    let base = Descriptor::of(MediaType::OCI_LAYER_GZIP, b"base");
    store.set_image(&Digest::sha256(b"base image"), std::slice::from_ref(&base), "docker.io/base").unwrap();
    store.tag(&reference("app"), &image).unwrap();
    drop(store);
    let store = restarted(directory.path());
    assert_eq!(store.image(&reference("app")).unwrap().unwrap().target, image);
    assert!(store.blobs().contains(&Digest::sha256(b"own")).unwrap());
    assert!(!store.blobs().contains(&base.digest).unwrap());
    assert_eq!(store.blob_locations(&base.digest).unwrap(), ["docker.io/base"]);
}

#[test]
fn a_tag_needs_its_manifest_whole() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let image = write_image(&store, &[]);
    std::fs::write(
        store.blobs().path(&image.digest).unwrap(),
        vec![b'x'; usize::try_from(image.size).unwrap()],
    )
    .unwrap();
    assert!(matches!(store.tag(&reference("app"), &image), Err(StoreError::WrongDigest { .. })));
    let missing = Descriptor::of(MediaType::OCI_MANIFEST, b"missing");
    assert!(matches!(store.tag(&reference("app"), &missing), Err(StoreError::NoBlob(_))));
    assert_eq!(store.images().unwrap(), []);
}

#[test]
fn locations_pins_layers_and_variants_are_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let (manifest, layer) = (Digest::sha256(b"manifest"), Descriptor::of("layer", b"layer"));
    assert_eq!(store.image_location(&manifest).unwrap(), None);
    store.set_image(&manifest, std::slice::from_ref(&layer), "old").unwrap();
    store.set_image(&manifest, std::slice::from_ref(&layer), "new").unwrap();
    let platform = Platform::new("linux", "amd64", None);
    assert_eq!(store.pin("busybox", &platform).unwrap(), None);
    store.set_pin("busybox", &platform, &manifest).unwrap();
    let made = snapshot(&store, None, "a", "1");
    let known = Layer { diff_id: DiffId(Digest::sha256(b"tar")), size_bytes: 3 };
    assert_eq!(store.layer(&made.id).unwrap(), None);
    store.set_layer(&made.id, &known).unwrap();
    store.set_variant(&known.diff_id, "gzip-6", &layer).unwrap();
    save(&store, 1, &made);
    drop(store);
    let store = open(directory.path(), SnapshotterKind::Overlay);
    assert_eq!(store.image_location(&manifest).unwrap().as_deref(), Some("new"));
    assert_eq!(store.blob_locations(&layer.digest).unwrap(), ["new"]);
    assert_eq!(store.pin("busybox", &platform).unwrap().unwrap().digest, manifest);
    assert_eq!(store.pin("busybox", &Platform::new("linux", "arm64", None)).unwrap(), None);
    assert_eq!(store.layer(&made.id).unwrap(), Some(known.clone()));
    assert_eq!(store.variant(&known.diff_id, "gzip-6").unwrap(), Some(layer));
    assert_eq!(store.variant(&known.diff_id, "zstd-3").unwrap(), None);
}
