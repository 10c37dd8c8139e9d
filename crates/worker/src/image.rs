//! Images as inputs: resolving them, and pulling their layers when a step needs the files.
//!
//! An image has three lives here. [`ImageStore::resolve`] fetches manifest and config, a few kilobytes, before the
//! graph is made. A [`LazyImage`] is the output of an image's vertex: nothing but names, so that a build whose steps
//! are all cached pulls nothing. [`ImageStore::materialize`] pulls and applies the layers once somebody needs them.

mod carried;
mod error;
mod layout;
mod location;
mod pull;
mod resolve;

use std::sync::Arc;

use oci::{ChainId, Descriptor, DiffId, Digest, ImageConfig, Manifest};
use solver::ImageSource;
use tokio::sync::Semaphore;

use crate::sources::Sources;

pub(crate) use carried::CacheDocument;
pub use error::ImageError;
pub(crate) use error::{Loss, NOT_LOCKED_HINT};

/// Even a small machine overlaps the network of one layer with the disk of another.
const MIN_LAYERS_AT_ONCE: usize = 4;

/// Images of registries, OCI layouts and local tags, and their layers in the store. Clones share everything.
#[derive(Debug, Clone)]
pub struct ImageStore {
    store: cache::Store,
    registry: registry::Client,
    sources: Arc<Sources>,
    /// How many layers are unpacked at once. Each takes two threads, so an image of a hundred layers must not begin all.
    unpacking: Arc<Semaphore>,
}

/// What a reference was found to be.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// The image of the one platform, for [`solver::ImageOp`].
    pub source: ImageSource,
    /// Its config.
    pub config: ImageConfig,
    /// Its manifest.
    pub manifest: Manifest,
    /// The type, digest and size of the manifest.
    pub descriptor: Descriptor,
    /// What the reference leads to: the manifest, or an index that has it.
    pub index_or_manifest: Digest,
    /// What people should know: the image is of another platform than the one that was asked for.
    pub warning: Option<String>,
}

/// An image whose layers have not been pulled yet, or have: only names.
#[derive(Debug, Clone)]
pub struct LazyImage {
    /// Where it can be had.
    pub source: ImageSource,
    /// Its manifest.
    pub manifest: Manifest,
    /// The layers' diff IDs, bottom first; as many as the manifest has layers.
    pub diff_ids: Vec<DiffId>,
    /// The chain ID of each prefix of the layers.
    pub chain_ids: Vec<ChainId>,
}

impl ImageStore {
    /// Images whose blobs and snapshots are in `store`, pulled with `registry`.
    pub fn new(store: cache::Store, registry: registry::Client) -> Self {
        Self::with_sources(store, registry, Arc::default())
    }

    /// The same; which versions are taken and whether registries may be asked is up to `sources`.
    pub(crate) fn with_sources(
        store: cache::Store,
        registry: registry::Client,
        sources: Arc<Sources>,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let unpacking = Arc::new(Semaphore::new(cores.max(MIN_LAYERS_AT_ONCE)));
        Self { store, registry, sources, unpacking }
    }

    /// The client of registries, for what the store lacks of `image`.
    fn registry(&self, image: &str, what: &str) -> Result<&registry::Client, ImageError> {
        match self.sources.forbids_registries() {
            None => Ok(&self.registry),
            Some(option) => {
                Err(ImageError::NotHere { image: image.to_owned(), what: what.to_owned(), option })
            }
        }
    }
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down, and the build with it.
            Err(_) => Err(ImageError::Cancelled),
        },
    }
}
