//! Pushing images.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use cache::Store;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use oci::{Descriptor, Digest, ImageReference, MediaType};
use registry::{BlobSource, Client, PushBlob, RegistryError, Watcher};

use crate::error::ExportError;
use crate::set::ImageSet;
use crate::stream::LayerStreams;

/// Brings layers of base images into the store, which were never needed there so far.
pub trait LayerFetcher: Send + Sync {
    /// Puts the blob of `layer` into the blob store.
    fn fetch<'a>(&'a self, layer: &'a Descriptor) -> BoxFuture<'a, Result<(), Box<dyn Error + Send + Sync>>>;

    /// The repositories that are known to hold the blob, so that it can be mounted instead of uploaded.
    fn repositories<'a>(&'a self, blob: &'a Digest) -> BoxFuture<'a, Vec<ImageReference>>;

    /// Is told how many bytes of a layer are on their way to a registry, often.
    fn sent(&self, _layer: &Descriptor, _current: u64) {}
}

/// How many blobs of one image are sent at once.
const BLOBS_AT_ONCE: usize = 4;

/// Makes sure that all layers of `images` are in the store, fetching those that are not, side by side.
pub async fn fetch_layers(
    store: &Store,
    images: &ImageSet,
    fetcher: &Arc<dyn LayerFetcher>,
) -> Result<(), ExportError> {
    fetch_blobs(store, images.layers(), fetcher).await
}

/// Makes sure that all `layers` are in the store, fetching those that are not, side by side.
pub async fn fetch_blobs(
    store: &Store,
    layers: impl IntoIterator<Item = &Descriptor>,
    fetcher: &Arc<dyn LayerFetcher>,
) -> Result<(), ExportError> {
    let mut missing: Vec<Descriptor> = Vec::new();
    for layer in layers {
        if !missing.contains(layer) && !store.blobs().contains(&layer.digest)? {
            missing.push(layer.clone());
        }
    }
    stream::iter(missing.into_iter().map(Ok))
        .try_for_each_concurrent(BLOBS_AT_ONCE, |layer| async move { fetch(&**fetcher, &layer).await })
        .await
}

async fn fetch(fetcher: &dyn LayerFetcher, layer: &Descriptor) -> Result<(), ExportError> {
    fetcher.fetch(layer).await.map_err(|source| ExportError::Fetch { digest: layer.digest.clone(), source })
}

/// What a push is made with.
#[derive(Clone, Copy)]
pub struct PushMeans<'a> {
    /// Has the layers, save those that were never pulled.
    pub store: &'a Store,
    /// Speaks to the registry.
    pub client: &'a Client,
    /// Has the others.
    pub fetcher: &'a Arc<dyn LayerFetcher>,
    /// What was sent while it was compressed.
    pub streams: Option<&'a LayerStreams>,
}

/// Pushes `images` under each of `names`: what the registry lacks is mounted from another of its repositories where
/// that can be, else uploaded; manifests go after what they name, and what gets the tag goes last. Registries get it side
/// by side, and what fails with one does not keep the others from it.
pub async fn push(
    means: PushMeans<'_>,
    images: &ImageSet,
    names: &[ImageReference],
) -> Result<(), ExportError> {
    if names.is_empty() {
        return Err(ExportError::NoName);
    }
    let mut registries: BTreeMap<&str, Vec<&ImageReference>> = BTreeMap::new();
    for name in names {
        registries.entry(name.registry()).or_default().push(name);
    }
    let pushes = registries.values().map(|names| push_to_registry(means, images, names));
    let mut errors: Vec<ExportError> = join_all(pushes).await.into_iter().filter_map(Result::err).collect();
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(ExportError::Pushes(errors)),
    }
}

/// Pushes under names of one registry, one after the other: what one repository has is mounted in the next.
async fn push_to_registry(
    means: PushMeans<'_>,
    images: &ImageSet,
    names: &[&ImageReference],
) -> Result<(), ExportError> {
    let mut done: Vec<&ImageReference> = Vec::new();
    for &name in names {
        let pusher = Pusher { means, images, name, pushed: done.clone() };
        let repository_is_done = done.iter().any(|other| other.repository() == name.repository());
        if !repository_is_done {
            pusher.push_blobs().await?;
            pusher.push_indexed_manifests().await?;
        }
        pusher.push_root().await?;
        done.push(name);
    }
    Ok(())
}

struct Pusher<'a> {
    means: PushMeans<'a>,
    images: &'a ImageSet,
    name: &'a ImageReference,
    /// Names under which the image was pushed already.
    pushed: Vec<&'a ImageReference>,
}

impl Pusher<'_> {
    async fn push_blobs(&self) -> Result<(), ExportError> {
        let layers = self.images.layers().into_iter();
        let layers = layers.filter(|layer| !MediaType::is_foreign_layer(&layer.media_type));
        let layers = layers.map(|layer| (layer.clone(), None));
        let configs = self.images.configs().into_iter();
        let configs = configs.map(|(config, bytes)| (config.clone(), Some(Bytes::copy_from_slice(bytes))));
        let blobs: Vec<(Descriptor, Option<Bytes>)> = configs.chain(layers).collect();
        stream::iter(blobs)
            .map(|(blob, bytes)| async move {
                match bytes {
                    Some(bytes) => self.send(blob, BlobSource::Bytes(bytes), Vec::new()).await,
                    None => self.push_layer(blob).await,
                }
            })
            .buffer_unordered(BLOBS_AT_ONCE)
            .try_collect::<()>()
            .await
    }

    async fn push_layer(&self, layer: Descriptor) -> Result<(), ExportError> {
        if let Some(streams) = self.means.streams
            && streams.has_sent(self.name, &layer.digest).await
        {
            self.means.fetcher.sent(&layer, layer.size);
            return Ok(());
        }
        let mount_from = self.mount_candidates(&layer.digest).await;
        // A layer that was never pulled is only fetched if the registry neither has nor can mount it.
        if !self.means.store.blobs().contains(&layer.digest)? {
            if self.is_there_or_mounted(&layer, &mount_from).await? {
                return Ok(());
            }
            fetch(&**self.means.fetcher, &layer).await?;
        }
        let source = BlobSource::File(self.means.store.blobs().path(&layer.digest)?);
        self.send(layer, source, mount_from).await
    }

    async fn send(
        &self,
        descriptor: Descriptor,
        source: BlobSource,
        mount_from: Vec<String>,
    ) -> Result<(), ExportError> {
        let watcher = match &source {
            // A config.
            BlobSource::Bytes(_) => Watcher::default(),
            BlobSource::File(_) | BlobSource::Open(_) | BlobSource::Reader(_) => {
                let (fetcher, layer) = (Arc::clone(self.means.fetcher), descriptor.clone());
                Watcher::new(move |current| fetcher.sent(&layer, current))
            }
        };
        let push = PushBlob { target: self.name.clone(), descriptor, mount_from, source, watcher };
        self.means.client.push_blob(&push).await.map(drop).map_err(|source| self.refused(source))
    }

    async fn is_there_or_mounted(&self, blob: &Descriptor, from: &[String]) -> Result<bool, ExportError> {
        let there = self.means.client.blob_exists(self.name, &blob.digest).await;
        if there.map_err(|source| self.refused(source))? {
            return Ok(true);
        }
        for repository in from {
            let mounted = self.means.client.mount_blob(self.name, blob, repository).await;
            if mounted.map_err(|source| self.refused(source))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Repositories of the same registry that hold the blob.
    async fn mount_candidates(&self, blob: &Digest) -> Vec<String> {
        let known = self.means.fetcher.repositories(blob).await;
        let mut repositories = Vec::new();
        for other in self.pushed.iter().copied().chain(&known) {
            let is_candidate = other.registry() == self.name.registry()
                && other.repository() != self.name.repository()
                && !repositories.iter().any(|repository| repository == other.repository());
            if is_candidate {
                repositories.push(other.repository().to_owned());
            }
        }
        repositories
    }

    /// The manifests of an index are known by their digests alone.
    async fn push_indexed_manifests(&self) -> Result<(), ExportError> {
        for (descriptor, bytes) in self.images.indexed_manifests() {
            let target = self.name.by_digest(descriptor.digest.clone());
            self.push_manifest(&target, descriptor, bytes).await?;
        }
        Ok(())
    }

    async fn push_root(&self) -> Result<(), ExportError> {
        self.push_manifest(self.name, self.images.descriptor(), self.images.root()).await
    }

    async fn push_manifest(
        &self,
        target: &ImageReference,
        descriptor: &Descriptor,
        bytes: &[u8],
    ) -> Result<(), ExportError> {
        let bytes = Bytes::copy_from_slice(bytes);
        let pushed = self.means.client.push_manifest(target, &descriptor.media_type, bytes).await;
        pushed.map(drop).map_err(|source| self.refused(source))
    }

    fn refused(&self, source: RegistryError) -> ExportError {
        ExportError::Push { reference: self.name.clone(), source: Box::new(source) }
    }
}
