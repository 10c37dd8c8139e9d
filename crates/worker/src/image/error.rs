//! Why an image cannot be used.

use std::io;
use std::path::PathBuf;

use cache::StoreError;
use cache::layer::LayerError;
use oci::{DiffId, Digest, Platform};
use registry::RegistryError;

/// Why an image cannot be used. `image` is always the image as the user wrote it.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The registry did not give the manifest or the config.
    #[error("cannot get the image `{image}`")]
    Registry {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// The registry did not give a layer.
    #[error("cannot get layer `{layer}` of `{image}`")]
    LayerTransfer {
        /// The image.
        image: String,
        /// The layer's digest.
        layer: Digest,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// A layer is damaged, or it cannot be written.
    #[error("cannot unpack layer `{layer}` of `{image}`")]
    LayerUnpack {
        /// The image.
        image: String,
        /// The layer's digest.
        layer: Digest,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// A layer's blob cannot be written to the store.
    #[error("cannot store layer `{layer}` of `{image}`")]
    LayerWrite {
        /// The image.
        image: String,
        /// The layer's digest.
        layer: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A layer is not what the image's config says.
    #[error("layer `{layer}` of `{image}` unpacks to `{actual}`, but the image's config says `{expected}`")]
    LayerContent {
        /// The image.
        image: String,
        /// The layer's digest.
        layer: Digest,
        /// The diff ID in the config.
        expected: DiffId,
        /// The diff ID of what came.
        actual: DiffId,
    },
    /// Manifest and config do not belong together.
    #[error("the manifest of `{image}` has {layers} layers, but its config {diff_ids}")]
    LayerCount {
        /// The image.
        image: String,
        /// How many layers the manifest has.
        layers: usize,
        /// How many diff IDs the config has.
        diff_ids: usize,
    },
    /// No manifest for the platform.
    #[error("`{image}` has no image for {wanted}; it has {}", list(available))]
    Platform {
        /// The image.
        image: String,
        /// What was asked for.
        wanted: Box<Platform>,
        /// What there is.
        available: Vec<String>,
    },
    /// Something that is no container image.
    #[error("`{image}` is not a container image: {problem}")]
    NotAnImage {
        /// The image.
        image: String,
        /// What it is instead.
        problem: String,
    },
    /// Something that is no cache, or none that can be read.
    #[error("`{image}` is not a cache that can be read: {problem}")]
    NotACache {
        /// The cache.
        image: String,
        /// What it is instead.
        problem: String,
    },
    /// A manifest, index or config is malformed.
    #[error("the {what} of `{image}` is malformed")]
    Document {
        /// The image.
        image: String,
        /// Which document.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A file of an OCI layout cannot be read.
    #[error("cannot read `{}` of the OCI layout for `{image}`", path.display())]
    LayoutRead {
        /// The image.
        image: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A blob of an OCI layout is not what its name says.
    #[error("`{}` of the OCI layout for `{image}` does not have its digest", path.display())]
    LayoutDigest {
        /// The image.
        image: String,
        /// The file.
        path: PathBuf,
    },
    /// No such tag in an OCI layout.
    #[error("the OCI layout `{}` has no `{tag}`; it has {}", path.display(), list(available))]
    LayoutTag {
        /// The layout.
        path: PathBuf,
        /// What was asked for.
        tag: String,
        /// What there is.
        available: Vec<String>,
    },
    /// No such tag in the local store.
    #[error("there is no image `{image}` in the local store")]
    NotInStore {
        /// The image.
        image: String,
    },
    /// A blob that is in no place that is known.
    #[error("`{digest}` of `{image}` is not in the local store, and no place that has it is known")]
    Gone {
        /// The image.
        image: String,
        /// The blob.
        digest: Digest,
    },
    /// Something that the store lacks and no registry may be asked for.
    #[error("the store lacks {what} of `{image}`, and `{option}` keeps it from being fetched")]
    NotHere {
        /// The image.
        image: String,
        /// What is missing.
        what: String,
        /// The option that was given.
        option: &'static str,
    },
    /// An image that a lock file should name.
    #[error("`{image}` is not in the lock file")]
    NotLocked {
        /// The image, with its tag.
        image: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// What to do about a lock file that does not name a source.
pub(crate) const NOT_LOCKED_HINT: &str = "bring the lock file up to date with `--lock`";

/// How much of an image, or of a cache, an error says to be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Loss {
    /// One blob: it is not there, or it is not what it should be.
    Blob(Digest),
    /// All of it: the place where it is cannot be reached.
    Everything,
}

impl ImageError {
    /// What cannot be had of the place that was asked, where that is why something failed.
    pub(crate) fn loss(&self) -> Option<Loss> {
        match self {
            Self::LayerTransfer { layer, source, .. } => Some(match **source {
                RegistryError::NotFound { .. }
                | RegistryError::DigestMismatch { .. }
                | RegistryError::WrongSize { .. } => Loss::Blob(layer.clone()),
                _ => Loss::Everything,
            }),
            Self::LayerUnpack { layer, .. } | Self::LayerContent { layer, .. } => {
                Some(Loss::Blob(layer.clone()))
            }
            Self::LayoutRead { path, .. } | Self::LayoutDigest { path, .. } => {
                let name = path.file_name()?.to_str()?;
                Some(Loss::Blob(format!("sha256:{name}").parse().ok()?))
            }
            Self::Gone { digest, .. } => Some(Loss::Blob(digest.clone())),
            _ => None,
        }
    }

    /// What a person can do about it, where that is known: a sentence without capital and period.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry { source, .. } | Self::LayerTransfer { source, .. } => source.hint(),
            Self::LayoutTag { path, available, .. } => {
                let first = available.first()?;
                Some(format!("name one of them: `oci-layout://{}:{first}`", path.display()))
            }
            Self::Platform { available, .. } => {
                let first = available.first()?;
                Some(format!("choose one of them: `--platform={first}`"))
            }
            Self::NotHere { .. } => Some("build once without the option".to_owned()),
            Self::NotLocked { .. } => Some(NOT_LOCKED_HINT.to_owned()),
            Self::Gone { .. } => Some("pull or build the image again".to_owned()),
            _ => None,
        }
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    let quoted: Vec<_> = items.iter().map(|item| format!("`{item}`")).collect();
    quoted.join(", ")
}
