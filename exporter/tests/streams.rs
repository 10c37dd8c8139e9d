//! Layers that are sent while they are compressed.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use cache::{IdMode, LinkPolicy, Snapshot, SnapshotterKind, Store, StoreOptions};
use exporter::{
    Assembled, ImageBuild, ImageForm, ImageSet, LayerFetcher, LayerOrigin, LayerStreams, PushMeans, assemble,
    push,
};
use futures_util::future::BoxFuture;
use oci::{Descriptor, Digest, History, ImageConfig, ImageReference};
use registry::{Client, ClientOptions};
use testkit::{FaultKind, ScriptedRegistry};

/// All layers are in the store here.
struct NoFetcher;

impl LayerFetcher for NoFetcher {
    fn fetch<'a>(&'a self, layer: &'a Descriptor) -> BoxFuture<'a, Result<(), Box<dyn Error + Send + Sync>>> {
        Box::pin(async move { Err(format!("{} should be in the store", layer.digest).into()) })
    }

    fn repositories<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Vec<ImageReference>> {
        Box::pin(async { Vec::new() })
    }
}

struct Place {
    store: Store,
    client: Client,
    registry: ScriptedRegistry,
    _scratch: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let registry = ScriptedRegistry::start();
        let client = Client::new(ClientOptions::default());
        Self { store: store(scratch.path()), client, registry, _scratch: scratch }
    }

    fn name(&self, name: &str) -> ImageReference {
        format!("{}/{name}", self.registry.address()).parse().unwrap()
    }

    /// Makes an image of the snapshots and pushes it under the names, with streams to the first.
    async fn push(&self, snapshots: &[Snapshot], names: &[&str]) -> Assembled {
        let names: Vec<ImageReference> = names.iter().map(|name| self.name(name)).collect();
        let streams = LayerStreams::new(&self.client, &names[0]);
        let history = snapshots.iter().map(|_| History::default()).collect();
        let config = ImageConfig {
            architecture: "amd64".into(),
            os: "linux".into(),
            history,
            ..ImageConfig::default()
        };
        let layers = snapshots.iter().copied().map(LayerOrigin::Snapshot).collect();
        let build = ImageBuild { config, layers, base_layers: 0, epoch: None, cache: None };
        let (store, following) = (self.store.clone(), Arc::clone(&streams));
        let image = tokio::task::spawn_blocking(move || {
            assemble(&store, build, &ImageForm::default(), Some(&following)).unwrap()
        });
        let image = image.await.unwrap();
        let fetcher: Arc<dyn LayerFetcher> = Arc::new(NoFetcher);
        let means = PushMeans {
            store: &self.store,
            client: &self.client,
            fetcher: &fetcher,
            streams: Some(&streams),
        };
        push(means, &ImageSet::from(image.clone()), &names).await.unwrap();
        image
    }

    /// Whether the registry has all layers as the store has them.
    fn assert_arrived(&self, image: &Assembled, repository: &str) {
        for layer in &image.layers {
            let stored = self.store.blobs().read(&layer.digest).unwrap();
            assert!(self.registry.blob(repository, &layer.digest).unwrap() == stored);
        }
    }
}

fn store(root: &Path) -> Store {
    Store::open(&StoreOptions {
        root: root.join("store"),
        snapshotter: Some(SnapshotterKind::Overlay),
        ids: IdMode::Root,
        boot_id: Some("test".to_owned()),
        links: LinkPolicy::Allowed,
    })
    .expect("the tests run as root on a file system that takes overlay")
}

/// A snapshot with a file of so many bytes that do not compress.
fn snapshot(store: &Store, parent: Option<&Snapshot>, bytes: u32) -> Snapshot {
    let active = store.prepare(parent).unwrap();
    let mut state = u64::from(bytes);
    let mut content = Vec::new();
    while content.len() < bytes as usize {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        content.extend_from_slice(&state.to_be_bytes()[..4]);
    }
    fs::write(active.upper().join(format!("f{bytes}")), content).unwrap();
    active.commit().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_layers_are_sent_while_they_are_compressed() {
    let place = Place::new();
    let large = snapshot(&place.store, None, 10_000_000);
    let small = snapshot(&place.store, Some(&large), 1000);
    let image = place.push(&[large, small], &["one", "two"]).await;
    let registry = &place.registry;
    assert!(registry.count("PATCH", "/v2/one/blobs/uploads/") > 0);
    let asked = |repository: &str, layer: usize| {
        registry.count("HEAD", &format!("/v2/{repository}/blobs/{}", image.layers[layer].digest))
    };
    assert_eq!((asked("one", 0), asked("one", 1)), (0, 1));
    place.assert_arrived(&image, "one");
    place.assert_arrived(&image, "two");
    assert_eq!(registry.count("PATCH", "/v2/two/"), 0, "it is mounted, or pushed as a whole");

    // What is known is neither compressed nor sent again.
    let uploads = registry.count("POST", "/uploads/");
    let again = place.push(&[large, small], &["one"]).await;
    assert_eq!(again.descriptor, image.descriptor);
    assert_eq!(registry.count("POST", "/uploads/"), uploads);

    // One more layer below the size of a stream.
    let more = snapshot(&place.store, Some(&small), 2000);
    let image = place.push(&[large, small, more], &["one"]).await;
    place.assert_arrived(&image, "one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_fails_does_not_fail_the_push() {
    for (method, path, fault) in [
        ("PATCH", "/uploads/", FaultKind::Status(405, None)),
        ("POST", "/uploads/", FaultKind::Status(400, None)),
    ] {
        let place = Place::new();
        let large = snapshot(&place.store, None, 9_000_000);
        place.registry.fault(method, path, 1, fault);
        let image = place.push(&[large], &["one"]).await;
        place.assert_arrived(&image, "one");
    }
    // A connection that breaks is no failure: what is missing is sent.
    let place = Place::new();
    let large = snapshot(&place.store, None, 9_000_000);
    place.registry.fault("PATCH", "/uploads/", 1, FaultKind::Reset { after_bytes: 0 });
    let image = place.push(&[large], &["one"]).await;
    place.assert_arrived(&image, "one");
    assert_eq!(place.registry.count("HEAD", "/v2/one/blobs/"), 1, "that of the config");
}
