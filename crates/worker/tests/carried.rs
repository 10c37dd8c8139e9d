//! Results of caches that lie elsewhere: what is asked of the registry, and who answers.

#![allow(clippy::unwrap_used, reason = "all of it is test code, the functions between the tests too")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cache::{IdMode, LinkPolicy, RecordDetails, RecordKey, Replace, SnapshotterKind, Store, StoreOptions};
use oci::{CacheConfig, CacheHash, CacheLayer, CacheRecord, DiffId, Digest, Manifest, MediaType};
use registry::{Client, ClientOptions};
use solver::{
    CacheKey, Claim, ContentDigest, ExecContext, GraphBuilder, ImageLocation, Op, Selector, VertexMeta,
    Worker as _,
};
use testkit::{FaultKind, ScriptedRegistry};
use tokio_util::sync::CancellationToken;
use worker::{
    ImageStore, Import, ImportSource, Imports, LocalWorker, MountFilter, Output, OutputLayer, WorkerOptions,
};

fn store(root: &Path, kind: SnapshotterKind) -> Store {
    let options = StoreOptions {
        root: root.join("store"),
        snapshotter: Some(kind),
        ids: IdMode::Root,
        boot_id: None,
        links: LinkPolicy::Allowed,
    };
    Store::open(&options).unwrap()
}

fn context() -> ExecContext {
    let mut graph = GraphBuilder::new();
    let vertex = graph.add(Op::Scratch, Vec::new(), VertexMeta::default()).unwrap();
    ExecContext { vertex, cancel: CancellationToken::new(), events: Arc::new(|_| ()) }
}

/// An uncompressed layer with one file.
fn layer(name: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(name.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, name.as_bytes()).unwrap();
    archive.into_inner().unwrap()
}

fn key(number: u8) -> CacheKey {
    CacheKey([number; 32])
}

fn selector() -> Selector {
    Selector { paths: vec!["/below".to_owned()], wildcards: false, exclude: Vec::new(), parents: false }
}

const BELOW: CacheKey = CacheKey([1; 32]);
const TOP: CacheKey = CacheKey([2; 32]);
const HINT: CacheKey = CacheKey([3; 32]);
const DIGEST: [u8; 32] = [7; 32];

/// A cache with a result, another on top of it, and one of which only the content is known.
fn put_cache(registry: &ScriptedRegistry) -> Vec<Digest> {
    let layers = [layer("below"), layer("top")];
    let descriptors: Vec<_> =
        layers.iter().map(|layer| registry.put_blob("cache", MediaType::OCI_LAYER, layer.clone())).collect();
    let record = |key: CacheKey, layer: Option<usize>| CacheRecord {
        key: CacheHash(key.0),
        layer,
        parts: vec![("name".to_owned(), "value".to_owned())],
        digests: BTreeMap::from([(CacheHash(selector().digest()), CacheHash(DIGEST))]),
    };
    let config = CacheConfig {
        version: CacheConfig::VERSION,
        layers: (0..2)
            .map(|number: usize| CacheLayer {
                blob: descriptors[number].digest.clone(),
                diff_id: DiffId(Digest::sha256(&layers[number])),
                parent: number.checked_sub(1),
                created: None,
            })
            .collect(),
        records: vec![record(BELOW, Some(0)), record(TOP, Some(1)), record(HINT, None)],
        mounts: Vec::new(),
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: registry.put_blob("cache", CacheConfig::MEDIA_TYPE, serde_json::to_vec(&config).unwrap()),
        layers: descriptors.clone(),
        subject: None,
        annotations: BTreeMap::new(),
    };
    let bytes = serde_json::to_vec(&manifest).unwrap();
    registry.put_manifest("cache", Some("latest"), MediaType::OCI_MANIFEST, bytes);
    descriptors.into_iter().map(|descriptor| descriptor.digest).collect()
}

/// A worker that reads the cache of `registry`, if there is one.
fn worker(store: &Store, registry: Option<&ScriptedRegistry>) -> LocalWorker {
    let client = Client::new(ClientOptions::default());
    let tasks = registry.map(|registry| {
        let images = ImageStore::new(store.clone(), client.clone());
        let source = ImportSource {
            location: ImageLocation::Registry(format!("{}/cache", registry.address()).parse().unwrap()),
            name: "cache".to_owned(),
            mounts: MountFilter::None,
        };
        tokio::spawn(async move { Import::read(&images, &source).await.unwrap() })
    });
    let imports = Arc::new(Imports::new(tasks.into_iter().collect()));
    LocalWorker::new(WorkerOptions { imports, ..WorkerOptions::new(store.clone(), client) })
}

fn blobs(registry: &ScriptedRegistry) -> usize {
    registry.count("GET", "/blobs/")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_pulled_when_its_files_are_needed_and_is_here_then() {
    for kind in [SnapshotterKind::Overlay, SnapshotterKind::Copy] {
        let (scratch, registry) = (tempfile::tempdir().unwrap(), ScriptedRegistry::start());
        put_cache(&registry);
        let store = store(scratch.path(), kind);
        let first = worker(&store, Some(&registry));
        let found = first.lookup(&TOP, &context()).await.unwrap().unwrap();
        assert!(matches!(found, Output::Carried(_)));
        assert_eq!(first.known_digest(&TOP, &selector()).await.unwrap(), Some(ContentDigest(DIGEST)));
        assert!(first.lookup(&key(9), &context()).await.unwrap().is_none());
        let layers = first.layers_of(&found).unwrap();
        assert!(layers.iter().all(|layer| matches!(layer, OutputLayer::Image { .. })) && layers.len() == 2);
        assert_eq!(blobs(&registry), 1, "the config");

        let snapshot = first.snapshot_of(&found).await.unwrap().unwrap();
        assert_eq!((blobs(&registry), snapshot.depth), (3, 2));
        // All that it lies on has records, digests and layers as they came.
        drop(registry);
        let second = worker(&store, None);
        for key in [BELOW, TOP] {
            let found = second.lookup(&key, &context()).await.unwrap().unwrap();
            assert!(matches!(found, Output::Snapshot(_)), "{found:?}");
            assert_eq!(second.known_digest(&key, &selector()).await.unwrap(), Some(ContentDigest(DIGEST)));
            assert_eq!(second.layers_of(&found).unwrap(), layers[..if key == TOP { 2 } else { 1 }]);
            let parts = store.record_parts(&RecordKey(key.0)).unwrap().unwrap();
            assert_eq!(parts, [("name".to_owned(), "value".to_owned())]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_answers_first_and_whoever_answered_answers_again() {
    let (scratch, registry) = (tempfile::tempdir().unwrap(), ScriptedRegistry::start());
    put_cache(&registry);
    let store = store(scratch.path(), SnapshotterKind::Overlay);
    let own = store.prepare(None).unwrap().commit().unwrap();
    let save =
        |key: &CacheKey| store.save(&RecordKey(key.0), &RecordDetails::default(), &own, Replace::No).unwrap();
    save(&BELOW);
    let worker = worker(&store, Some(&registry));
    let found = worker.lookup(&BELOW, &context()).await.unwrap().unwrap();
    assert!(matches!(found, Output::Snapshot(snapshot) if snapshot == own));
    assert_eq!(worker.known_digest(&BELOW, &selector()).await.unwrap(), None, "not that of the other result");
    // Another build saves a result of a key after the cache has told something of it.
    for key in [TOP, HINT] {
        assert_eq!(worker.known_digest(&key, &selector()).await.unwrap(), Some(ContentDigest(DIGEST)));
        save(&key);
    }
    let found = worker.lookup(&TOP, &context()).await.unwrap().unwrap();
    assert!(matches!(found, Output::Carried(_)));
    assert!(worker.lookup(&HINT, &context()).await.unwrap().is_none(), "its result may be another one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_lost_layer_is_forgotten() {
    let (scratch, registry) = (tempfile::tempdir().unwrap(), ScriptedRegistry::start());
    let layers = put_cache(&registry);
    registry.fault("GET", &format!("/blobs/{}", layers[1]), usize::MAX, FaultKind::Status(404, None));
    let store = store(scratch.path(), SnapshotterKind::Overlay);
    let worker = worker(&store, Some(&registry));
    let found = worker.lookup(&TOP, &context()).await.unwrap().unwrap();
    assert!(worker.imports().take_losses().is_empty());
    worker.snapshot_of(&found).await.unwrap_err();
    let losses = worker.imports().take_losses();
    assert!(losses.len() == 1 && losses[0].contains(layers[1].as_str()), "{losses:?}");
    assert!(worker.lookup(&TOP, &context()).await.unwrap().is_none());
    assert_eq!(worker.known_digest(&TOP, &selector()).await.unwrap(), None);
    let below = worker.lookup(&BELOW, &context()).await.unwrap().unwrap();
    assert_eq!(worker.snapshot_of(&below).await.unwrap().unwrap().depth, 1);
    let vertex = {
        let mut graph = GraphBuilder::new();
        let vertex = graph.add(Op::Scratch, Vec::new(), VertexMeta::default()).unwrap();
        graph.finish().vertex(vertex).clone()
    };
    let claim = worker.claim(&vertex, &TOP, &context(), true).await.unwrap();
    assert!(matches!(claim, Claim::Execute(_)));
    // What is only known of contents goes with one word.
    assert!(worker.known_digest(&HINT, &selector()).await.unwrap().is_some());
    assert!(worker.imports().forget_hints().await);
    assert!(worker.known_digest(&HINT, &selector()).await.unwrap().is_none());
    assert!(!worker.imports().forget_hints().await, "there is no more to forget");
}
