//! What a build needs of carried caches after all: files of results, and blobs of layers.

use std::sync::Arc;

use cache::Snapshot;
use futures_util::stream::{self, StreamExt as _};
use oci::{Descriptor, Digest, ImageReference};

use super::CarriedOutput;
use crate::image::ImageError;
use crate::local::blocking;
use crate::output::Until;
use crate::{LocalWorker, WorkerError};

/// How many layers are fetched at once.
const LAYERS_AT_ONCE: usize = 4;

impl LocalWorker {
    /// The snapshot of a result of a cache that lies elsewhere. It gets a record, so that the next build has it here.
    pub(crate) async fn carried_snapshot(
        &self,
        carried: &Arc<CarriedOutput>,
        until: Until<'_>,
    ) -> Result<Snapshot, WorkerError> {
        let keep = || async {
            let CarriedOutput { import, layer, pending, .. } = &**carried;
            let pulled = self.pulls().pull(import.images(), pending, until).await;
            if let Err(WorkerError::Image(error)) = &pulled {
                self.imports().note_loss(import, error);
            }
            let snapshot = pulled?.expect("a result of a step has a layer");
            let (store, import, layer) = (self.store().clone(), Arc::clone(import), *layer);
            blocking(move || import.keep_records(&store, layer)).await?;
            Ok(snapshot)
        };
        carried.kept.get_or_try_init(keep).await.copied()
    }

    /// Brings a layer's compressed blob into the store, if it is not there, from wherever it is known to be: a cache,
    /// or an image that was resolved before. For exporters.
    pub async fn fetch_layer_blob(&self, layer: &Descriptor) -> Result<(), ImageError> {
        if self.store().blobs().contains(&layer.digest)? {
            return Ok(());
        }
        match self.imports().fetch_layer(layer).await {
            Ok(true) => Ok(()),
            Ok(false) => self.images().fetch_layer_blob(layer).await,
            Err(error) => self.images().fetch_layer_blob(layer).await.map_err(|_| error),
        }
    }

    /// Brings those of `layers` into the store that only caches have: an image of the store is to be whole, and
    /// only images' places are remembered.
    pub async fn fetch_carried_blobs(&self, layers: &[Descriptor]) -> Result<(), ImageError> {
        let is_missing = |layer: &&Descriptor| -> Result<bool, ImageError> {
            let digest = &layer.digest;
            Ok(!self.store().blobs().contains(digest)? && self.store().blob_locations(digest)?.is_empty())
        };
        let mut missing = Vec::new();
        for layer in layers {
            if is_missing(&layer)? && !missing.contains(&layer) {
                missing.push(layer);
            }
        }
        let mut fetches =
            stream::iter(missing).map(|layer| self.fetch_layer_blob(layer)).buffer_unordered(LAYERS_AT_ONCE);
        while let Some(fetched) = fetches.next().await {
            fetched?;
        }
        Ok(())
    }

    /// The repositories that are known to have a blob: a registry can mount it from there.
    pub async fn repositories(&self, blob: &Digest) -> Result<Vec<ImageReference>, ImageError> {
        let mut found = self.images().repositories(blob).await?;
        found.extend(self.imports().repositories(blob).await);
        Ok(found)
    }
}
