//! Images from registries, layouts and the store: which manifest is taken, and how layers come into the store.

#![allow(clippy::unwrap_used, reason = "all of it is test code, the functions between the tests too")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cache::tree::TreeView;
use cache::{IdMode, LinkPolicy, SnapshotterKind, Store, StoreOptions};
use oci::{Descriptor, DiffId, Digest, ImageConfig, ImageReference, Index, Manifest, MediaType, Platform};
use registry::{Client, ClientOptions, RetryPolicy};
use solver::{Event, ExecContext, GraphBuilder, ImageLocation, Op, VertexMeta};
use testkit::{FaultKind, RealRegistry, ScriptedRegistry};
use tokio_util::sync::CancellationToken;
use worker::{ImageError, ImageStore};

const KINDS: [SnapshotterKind; 2] = [SnapshotterKind::Overlay, SnapshotterKind::Copy];

fn bases() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/bases/oci")
}

fn store(root: &Path, kind: SnapshotterKind) -> Store {
    let options = StoreOptions {
        root: root.to_owned(),
        snapshotter: Some(kind),
        ids: IdMode::Root,
        boot_id: None,
        links: LinkPolicy::Allowed,
    };
    Store::open(&options).unwrap()
}

fn images(store: &Store) -> ImageStore {
    let retry = RetryPolicy {
        attempts: 2,
        first_delay: std::time::Duration::from_millis(1),
        ..RetryPolicy::default()
    };
    ImageStore::new(store.clone(), Client::new(ClientOptions { retry, ..ClientOptions::default() }))
}

fn context(events: &Arc<Mutex<Vec<Event>>>) -> ExecContext {
    let mut graph = GraphBuilder::new();
    let vertex = graph.add(Op::Scratch, Vec::new(), VertexMeta::default()).unwrap();
    let events = Arc::clone(events);
    ExecContext {
        vertex,
        cancel: CancellationToken::new(),
        events: Arc::new(move |event| events.lock().unwrap().push(event)),
    }
}

fn quiet() -> ExecContext {
    context(&Arc::default())
}

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn at(address: &str, rest: &str) -> ImageLocation {
    ImageLocation::Registry(format!("{address}/{rest}").parse().unwrap())
}

fn layout(tag: &str) -> ImageLocation {
    ImageLocation::OciLayout { path: bases(), tag_or_digest: tag.to_owned() }
}

/// An uncompressed layer with these files.
fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Puts an image of `layers` into a registry and returns the manifest's descriptor, with its platform.
fn put_image(registry: &ScriptedRegistry, name: &str, platform: &str, layers: &[Vec<u8>]) -> Descriptor {
    let platform: Platform = platform.parse().unwrap();
    let mut config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        ..ImageConfig::default()
    };
    config.rootfs.diff_ids = layers.iter().map(|layer| DiffId(Digest::sha256(layer))).collect();
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: registry.put_blob(name, MediaType::OCI_CONFIG, serde_json::to_vec(&config).unwrap()),
        layers: layers
            .iter()
            .map(|layer| registry.put_blob(name, MediaType::OCI_LAYER, layer.clone()))
            .collect(),
        subject: None,
        annotations: BTreeMap::new(),
    };
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let descriptor = registry.put_manifest(name, Some("latest"), MediaType::OCI_MANIFEST, bytes);
    Descriptor { platform: Some(platform), ..descriptor }
}

fn put_index(registry: &ScriptedRegistry, name: &str, manifests: Vec<Descriptor>) -> Descriptor {
    let index = Index { schema_version: 2, media_type: None, manifests, annotations: BTreeMap::new() };
    registry.put_manifest(name, Some("latest"), MediaType::OCI_INDEX, serde_json::to_vec(&index).unwrap())
}

/// The content of a file in the snapshot of an image.
async fn content(store: &Store, location: &ImageLocation, path: &str) -> Result<Option<String>, ImageError> {
    let images = images(store);
    let resolved = images.resolve(location, &amd64(), "base").await?;
    let image = images.lazy(&resolved.source).await?;
    let snapshot = images.materialize(&image, &quiet()).await?.unwrap();
    assert_eq!(images.materialized(&image)?, Some(snapshot));
    let view = TreeView::open(&store.layer_dirs(&snapshot)?, store.tree_mode()).unwrap();
    if view.entry(Path::new(path)).unwrap().is_none() {
        return Ok(None);
    }
    let mut text = String::new();
    std::io::Read::read_to_string(&mut view.open_file(Path::new(path)).unwrap(), &mut text).unwrap();
    Ok(Some(text))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    texts.join(": ")
}

#[tokio::test]
async fn layouts_are_read_by_tag_and_digest() {
    let directory = tempfile::tempdir().unwrap();
    let images = images(&store(directory.path(), SnapshotterKind::Overlay));
    let whole = images.resolve(&layout("rich-base:latest"), &amd64(), "x").await.unwrap();
    assert_eq!(whole.warning, None);
    assert_eq!(whole.index_or_manifest, whole.descriptor.digest);
    let digest = whole.descriptor.digest.to_string();
    for (tag, name) in
        [("rich-base", "x"), ("latest", "rich-base"), ("latest", "rich-base:1"), (&digest, "x")]
    {
        let found = images.resolve(&layout(tag), &amd64(), name).await.unwrap();
        assert_eq!(found.descriptor, whole.descriptor, "{tag} {name}");
    }
    let error = images.resolve(&layout("gone"), &amd64(), "x").await.unwrap_err();
    let expected = format!(
        "the OCI layout `{}` has no `gone`; it has `busybox:latest`, `rich-base:latest`, `onbuild-base:latest`, \
         `links-base:latest`, `nonroot-base:latest`, `busybox-platforms:latest`",
        bases().display()
    );
    assert_eq!(error.to_string(), expected);
    let platforms = layout("busybox-platforms");
    let arm64 = images.resolve(&platforms, &Platform::new("linux", "arm64", None), "x").await.unwrap();
    assert_eq!((arm64.config.architecture.as_str(), arm64.warning), ("arm64", None));
    assert_ne!(arm64.index_or_manifest, arm64.descriptor.digest);
    let error = images.resolve(&platforms, &Platform::new("linux", "s390x", None), "x").await.unwrap_err();
    assert_eq!(error.to_string(), "`x` has no image for linux/s390x; it has `linux/amd64`, `linux/arm64`");
    let missing = ImageLocation::OciLayout { path: "/nonexistent".into(), tag_or_digest: "a".into() };
    let error = images.resolve(&missing, &amd64(), "x").await.unwrap_err();
    assert_eq!(error.to_string(), "cannot read `/nonexistent/index.json` of the OCI layout for `x`");
}

#[tokio::test]
async fn images_of_layouts_are_unpacked() {
    for kind in KINDS {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path(), kind);
        for name in ["busybox", "rich-base", "links-base", "nonroot-base", "onbuild-base"] {
            let passwd = content(&store, &layout(name), "/etc/passwd").await;
            let passwd = passwd.unwrap_or_else(|error| panic!("{kind:?} {name}: {}", chain(&error)));
            assert!(passwd.unwrap().starts_with("root:"), "{kind:?} {name}");
        }
    }
}

#[tokio::test]
async fn images_of_a_real_registry_are_unpacked_once() {
    let registry = RealRegistry::start();
    registry.load_oci_layout(bases(), "library");
    for kind in KINDS {
        let before = registry.blob_requests();
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path(), kind);
        let location = at(registry.address(), "library/nonroot-base:latest");
        let resolved = images(&store).resolve(&location, &amd64(), "base").await.unwrap();
        // The config alone.
        assert_eq!(registry.blob_requests() - before, 1);
        for _ in 0..2 {
            assert!(content(&store, &location, "/etc/passwd").await.unwrap().is_some());
        }
        assert_eq!(registry.blob_requests() - before, 1 + resolved.manifest.layers.len());
        for layer in &resolved.manifest.layers {
            assert!(store.blobs().contains(&layer.digest).unwrap());
        }
    }
}

#[tokio::test]
async fn upper_layers_hide_lower_ones() {
    for kind in KINDS {
        let registry = ScriptedRegistry::start();
        let layers = [
            layer(&[("a", "lower"), ("b", "lower"), ("d/x", "lower")]),
            layer(&[("a", "upper"), (".wh.b", ""), ("d/.wh..wh..opq", ""), ("d/y", "upper")]),
        ];
        put_image(&registry, "image", "linux/amd64", &layers);
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path(), kind);
        let location = at(registry.address(), "image");
        for (path, expected) in [("/a", Some("upper")), ("/b", None), ("/d/x", None), ("/d/y", Some("upper"))]
        {
            let found = content(&store, &location, path).await;
            let found = found.unwrap_or_else(|error| panic!("{kind:?}: {}", chain(&error)));
            assert_eq!(found.as_deref(), expected, "{kind:?} {path}");
        }
    }
}

#[tokio::test]
async fn builds_at_once_pull_each_layer_once() {
    for kind in KINDS {
        let registry = ScriptedRegistry::start();
        let text = "x".repeat(100_000);
        let layers: Vec<_> = (0..6).map(|at| layer(&[(&format!("file{at}"), text.as_str())])).collect();
        put_image(&registry, "image", "linux/amd64", &layers);
        let directory = tempfile::tempdir().unwrap();
        let location = at(registry.address(), "image");
        let mut builds = tokio::task::JoinSet::new();
        for _ in 0..4 {
            // A store of its own stands for a process.
            let (store, location) = (store(directory.path(), kind), location.clone());
            builds.spawn(async move { content(&store, &location, "/file0").await });
        }
        while let Some(found) = builds.join_next().await {
            assert_eq!(found.unwrap().unwrap(), Some(text.clone()));
        }
        for layer in &layers {
            let digest = Digest::sha256(layer);
            assert_eq!(registry.count("GET", digest.as_str()), 1, "{kind:?}");
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_layer_is_told_and_leaves_nothing() {
    for kind in KINDS {
        let registry = ScriptedRegistry::start();
        let bytes = layer(&[("a", "content")]);
        put_image(&registry, "image", "linux/amd64", std::slice::from_ref(&bytes));
        let digest = Digest::sha256(&bytes);
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path(), kind);
        let location = at(registry.address(), "image");
        let start = format!("cannot get layer `{digest}` of `base`: ");
        let faults = [
            (1, FaultKind::WrongBytes, "sent content of digest"),
            (2, FaultKind::Short { bytes: 0 }, "sent 0 bytes for the 2048 bytes of"),
            (1, FaultKind::Status(404, None), "was not found in the registry"),
            (2, FaultKind::Status(500, None), "answered 500"),
        ];
        for (times, fault, expected) in faults {
            registry.fault("GET", digest.as_str(), times, fault.clone());
            let error = content(&store, &location, "/a").await.unwrap_err();
            let text = chain(&error);
            assert!(text.starts_with(&start) && text.contains(expected), "{kind:?} {fault:?}: {text}");
            assert!(!store.blobs().contains(&digest).unwrap());
        }
        assert_eq!(content(&store, &location, "/a").await.unwrap().as_deref(), Some("content"), "{kind:?}");
    }
}

#[tokio::test]
async fn a_layer_that_its_config_does_not_name_is_refused() {
    let registry = ScriptedRegistry::start();
    let descriptor = put_image(&registry, "image", "linux/amd64", &[layer(&[("a", "one")])]);
    let (_, bytes) = registry.manifest("image", "latest").unwrap();
    assert_eq!(Digest::sha256(&bytes), descriptor.digest);
    let mut manifest: Manifest = serde_json::from_slice(&bytes).unwrap();
    let other = layer(&[("a", "two")]);
    let expected = manifest.layers[0].digest.clone();
    manifest.layers[0] = registry.put_blob("image", MediaType::OCI_LAYER, other.clone());
    let bytes = serde_json::to_vec(&manifest).unwrap();
    registry.put_manifest("image", Some("latest"), MediaType::OCI_MANIFEST, bytes);
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), SnapshotterKind::Overlay);
    let error = content(&store, &at(registry.address(), "image"), "/a").await.unwrap_err();
    let digest = Digest::sha256(&other);
    let text =
        format!("layer `{digest}` of `base` unpacks to `{digest}`, but the image's config says `{expected}`");
    assert_eq!(chain(&error), text);

    manifest.layers.clear();
    let bytes = serde_json::to_vec(&manifest).unwrap();
    registry.put_manifest("image", Some("latest"), MediaType::OCI_MANIFEST, bytes);
    let error = content(&store, &at(registry.address(), "image"), "/a").await.unwrap_err();
    assert_eq!(chain(&error), "the manifest of `base` has 0 layers, but its config 1");
}

#[tokio::test]
async fn the_platform_is_chosen() {
    let registry = ScriptedRegistry::start();
    let manifests: Vec<_> = ["linux/arm64", "linux/amd64", "linux/arm/v6", "linux/amd64/v3"]
        .iter()
        .map(|platform| put_image(&registry, "image", platform, &[layer(&[("p", *platform)])]))
        .collect();
    let mut entries = manifests.clone();
    let mut attestation = manifests[0].clone();
    attestation.platform = Some(Platform::new("unknown", "unknown", None));
    entries.insert(0, attestation);
    let index = put_index(&registry, "image", entries);
    let directory = tempfile::tempdir().unwrap();
    let images = images(&store(directory.path(), SnapshotterKind::Overlay));
    let location = at(registry.address(), "image");
    let cases = [("linux/arm64", 0), ("linux/amd64", 1), ("linux/arm/v7", 2), ("linux/amd64/v4", 3)];
    for (wanted, expected) in cases {
        let found = images.resolve(&location, &wanted.parse().unwrap(), "base").await.unwrap();
        assert_eq!(found.descriptor.digest, manifests[expected].digest, "{wanted}");
        assert_eq!(found.index_or_manifest, index.digest);
        assert_eq!(found.warning, None);
    }
    let error = images.resolve(&location, &"linux/s390x".parse().unwrap(), "base").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "`base` has no image for linux/s390x; it has `linux/arm64`, `linux/amd64`, `linux/arm/v6`, `linux/amd64/v3`"
    );
}

#[tokio::test]
async fn a_single_other_platform_is_taken_with_a_warning() {
    let registry = ScriptedRegistry::start();
    let manifest = put_image(&registry, "alone", "linux/arm64", &[]);
    put_index(&registry, "indexed", vec![manifest]);
    put_image(&registry, "indexed", "linux/arm64", &[]);
    let directory = tempfile::tempdir().unwrap();
    let images = images(&store(directory.path(), SnapshotterKind::Overlay));
    for name in ["alone", "indexed"] {
        let found = images.resolve(&at(registry.address(), name), &amd64(), "base").await.unwrap();
        assert_eq!(
            found.warning.as_deref(),
            Some("`base` is for linux/arm64, not for linux/amd64; it is used all the same")
        );
        assert_eq!(found.source.platform.to_string(), "linux/arm64");
        let image = images.lazy(&found.source).await.unwrap();
        assert_eq!(images.materialize(&image, &quiet()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_digest_that_is_known_asks_nobody() {
    let registry = ScriptedRegistry::start();
    let manifest = put_image(&registry, "image", "linux/amd64", &[]);
    let directory = tempfile::tempdir().unwrap();
    let images = images(&store(directory.path(), SnapshotterKind::Overlay));
    let location = at(registry.address(), &format!("image@{}", manifest.digest));
    let first = images.resolve(&location, &amd64(), "base").await.unwrap();
    let asked = registry.requests().len();
    let second = images.resolve(&location, &amd64(), "base").await.unwrap();
    assert_eq!(registry.requests().len(), asked);
    assert_eq!(first.source, second.source);
    assert_eq!(second.index_or_manifest, manifest.digest);
}

#[tokio::test]
async fn layers_that_were_never_pulled_can_be_fetched() {
    let registry = ScriptedRegistry::start();
    let bytes = layer(&[("a", "content")]);
    put_image(&registry, "image", "linux/amd64", std::slice::from_ref(&bytes));
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), SnapshotterKind::Overlay);
    let images = images(&store);
    let location = at(registry.address(), "image:latest");
    let from_registry = images.resolve(&location, &amd64(), "base").await.unwrap();
    let from_layout = images.resolve(&layout("busybox"), &amd64(), "busybox").await.unwrap();
    for layer in from_registry.manifest.layers.iter().chain(&from_layout.manifest.layers) {
        assert!(!store.blobs().contains(&layer.digest).unwrap());
        images.fetch_layer_blob(layer).await.unwrap();
        assert!(store.blobs().contains(&layer.digest).unwrap());
    }
    let expected: ImageReference = format!("{}/image:latest", registry.address()).parse().unwrap();
    assert_eq!(images.repositories(&Digest::sha256(&bytes)).await.unwrap(), [expected]);
    let unknown = Descriptor::of(MediaType::OCI_LAYER, b"unknown");
    assert!(matches!(images.fetch_layer_blob(&unknown).await, Err(ImageError::Gone { .. })));
}

#[tokio::test]
async fn a_layer_that_is_elsewhere_is_fetched_from_there() {
    let (registry, other) = (ScriptedRegistry::start(), ScriptedRegistry::start());
    let bytes = layer(&[("a", "content")]);
    other.put_file("/layer", testkit::WebFile { content: bytes.clone().into(), ..Default::default() });
    let mut config =
        ImageConfig { architecture: "amd64".into(), os: "linux".into(), ..ImageConfig::default() };
    config.rootfs.diff_ids = vec![DiffId(Digest::sha256(&bytes))];
    let mut foreign = Descriptor::of("application/vnd.oci.image.layer.nondistributable.v1.tar", &bytes);
    foreign.urls = vec![other.url("/layer")];
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: registry.put_blob("image", MediaType::OCI_CONFIG, serde_json::to_vec(&config).unwrap()),
        layers: vec![foreign],
        subject: None,
        annotations: BTreeMap::new(),
    };
    let manifest = serde_json::to_vec(&manifest).unwrap();
    registry.put_manifest("image", Some("latest"), MediaType::OCI_MANIFEST, manifest);
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), SnapshotterKind::Overlay);
    let images = images(&store);
    images.resolve(&at(registry.address(), "image:latest"), &amd64(), "base").await.unwrap();
    // As an image has it whose layers are all to be in registries.
    let plain = Descriptor::of(MediaType::OCI_LAYER, &bytes);
    images.fetch_layer_blob(&plain).await.unwrap();
    assert_eq!(store.blobs().read(&plain.digest).unwrap(), bytes);
}

#[tokio::test]
async fn tags_of_the_store_are_images_too() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path(), SnapshotterKind::Overlay);
    let resolved = images(&store).resolve(&layout("busybox"), &amd64(), "busybox").await.unwrap();
    let tag: ImageReference = "docker.io/library/mine:v1".parse().unwrap();
    store.tag(&tag, &resolved.descriptor).unwrap();
    let location = ImageLocation::Store(tag);
    assert!(content(&store, &location, "/etc/passwd").await.unwrap().is_some());
    let gone = ImageLocation::Store("docker.io/library/gone:v1".parse().unwrap());
    let error = content(&store, &gone, "/etc/passwd").await.unwrap_err();
    assert_eq!(error.to_string(), "there is no image `base` in the local store");
}

#[tokio::test]
async fn progress_is_told_and_a_cancelled_pull_ends() {
    let registry = ScriptedRegistry::start();
    let bytes = layer(&[("a", "content")]);
    let digest = Digest::sha256(&bytes);
    put_image(&registry, "image", "linux/amd64", std::slice::from_ref(&bytes));
    let directory = tempfile::tempdir().unwrap();
    let images = images(&store(directory.path(), SnapshotterKind::Overlay));
    let resolved = images.resolve(&at(registry.address(), "image"), &amd64(), "base").await.unwrap();
    let image = images.lazy(&resolved.source).await.unwrap();

    registry.fault("GET", digest.as_str(), 1, FaultKind::Stall { after_bytes: 1000 });
    let events = Arc::new(Mutex::new(Vec::new()));
    let mut context = context(&events);
    let cancel = context.cancel.clone();
    let recorded = Arc::clone(&events);
    context.events = Arc::new(move |event| {
        recorded.lock().unwrap().push(event);
        // Some bytes are there, and no more will come.
        cancel.cancel();
    });
    let error = images.materialize(&image, &context).await.unwrap_err();
    assert!(matches!(error, ImageError::Cancelled), "{error}");
    let events = std::mem::take(&mut *events.lock().unwrap());
    let [Event::Progress { name, total, .. }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((name, *total), (&format!("{digest} pull"), Some(bytes.len() as u64)));

    assert!(images.materialize(&image, &quiet()).await.unwrap().is_some());
}
