//! Pushing an image.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use cache::Store;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use oci::{Descriptor, Digest, ImageReference, MediaType};
use registry::{BlobSource, Client, PushBlob, RegistryError};

use crate::error::ExportError;
use crate::image::Assembled;

/// Brings layers of base images into the store, which were never needed there so far.
pub trait LayerFetcher: Send + Sync {
    /// Puts the blob of `layer` into the blob store.
    fn fetch<'a>(&'a self, layer: &'a Descriptor) -> BoxFuture<'a, Result<(), Box<dyn Error + Send + Sync>>>;

    /// The repositories that are known to hold the blob, so that it can be mounted instead of uploaded.
    fn repositories<'a>(&'a self, blob: &'a Digest) -> BoxFuture<'a, Vec<ImageReference>>;
}

/// How many blobs of one image are sent at once.
const BLOBS_AT_ONCE: usize = 4;

/// Makes sure that all layers of `image` are in the store, fetching those that are not, side by side.
pub async fn fetch_layers(
    store: &Store,
    image: &Assembled,
    fetcher: &Arc<dyn LayerFetcher>,
) -> Result<(), ExportError> {
    let mut missing: Vec<Descriptor> = Vec::new();
    for layer in image.blobs() {
        if !image.is_config(&layer.digest) && !store.blobs().contains(&layer.digest)? {
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

/// Pushes `image` under each of `names`: what the registry lacks is mounted from another of its repositories where
/// that can be, else uploaded; the manifest goes last.
pub async fn push(
    store: &Store,
    client: &Client,
    fetcher: &Arc<dyn LayerFetcher>,
    image: &Assembled,
    names: &[ImageReference],
) -> Result<(), ExportError> {
    if names.is_empty() {
        return Err(ExportError::NoName);
    }
    let mut done: Vec<&ImageReference> = Vec::new();
    for name in names {
        let pusher = Pusher { store, client, fetcher, image, name, pushed: done.clone() };
        let repository_is_done = done
            .iter()
            .any(|other| other.registry() == name.registry() && other.repository() == name.repository());
        if !repository_is_done {
            pusher.push_blobs().await?;
        }
        pusher.push_manifest().await?;
        done.push(name);
    }
    Ok(())
}

struct Pusher<'a> {
    store: &'a Store,
    client: &'a Client,
    fetcher: &'a Arc<dyn LayerFetcher>,
    image: &'a Assembled,
    name: &'a ImageReference,
    /// Names under which the image was pushed already.
    pushed: Vec<&'a ImageReference>,
}

impl Pusher<'_> {
    async fn push_blobs(&self) -> Result<(), ExportError> {
        let blobs: Vec<Descriptor> = self
            .image
            .blobs()
            .into_iter()
            .filter(|blob| !MediaType::is_foreign_layer(&blob.media_type))
            .cloned()
            .collect();
        stream::iter(blobs)
            .map(|blob| async move { self.push_blob(blob).await })
            .buffer_unordered(BLOBS_AT_ONCE)
            .try_collect::<()>()
            .await
    }

    async fn push_blob(&self, blob: Descriptor) -> Result<(), ExportError> {
        let (source, mount_from) = if self.image.is_config(&blob.digest) {
            (BlobSource::Bytes(Bytes::copy_from_slice(&self.image.config)), Vec::new())
        } else {
            let mount_from = self.mount_candidates(&blob.digest).await;
            // A layer that was never pulled is only fetched if the registry neither has nor can mount it.
            if !self.store.blobs().contains(&blob.digest)? {
                if self.is_there_or_mounted(&blob, &mount_from).await? {
                    return Ok(());
                }
                fetch(&**self.fetcher, &blob).await?;
            }
            (BlobSource::File(self.store.blobs().path(&blob.digest)?), mount_from)
        };
        let push = PushBlob { target: self.name.clone(), descriptor: blob, mount_from, source };
        self.client.push_blob(&push).await.map(drop).map_err(|source| self.refused(source))
    }

    async fn is_there_or_mounted(&self, blob: &Descriptor, from: &[String]) -> Result<bool, ExportError> {
        let there = self.client.blob_exists(self.name, &blob.digest).await;
        if there.map_err(|source| self.refused(source))? {
            return Ok(true);
        }
        for repository in from {
            let mounted = self.client.mount_blob(self.name, blob, repository).await;
            if mounted.map_err(|source| self.refused(source))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Repositories of the same registry that hold the blob.
    async fn mount_candidates(&self, blob: &Digest) -> Vec<String> {
        let known = self.fetcher.repositories(blob).await;
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

    async fn push_manifest(&self) -> Result<(), ExportError> {
        let manifest = Bytes::copy_from_slice(&self.image.manifest);
        let pushed = self.client.push_manifest(self.name, &self.image.descriptor.media_type, manifest).await;
        pushed.map(drop).map_err(|source| self.refused(source))
    }

    fn refused(&self, source: RegistryError) -> ExportError {
        ExportError::Push { reference: self.name.clone(), source: Box::new(source) }
    }
}
