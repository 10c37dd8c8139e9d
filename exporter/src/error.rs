//! What can go wrong with an export.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use cache::layer::LayerError;
use cache::tree::TreeError;
use cache::{SnapshotId, StoreError};
use oci::{DiffId, Digest, ImageReference};
use registry::RegistryError;

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer could not be written as an archive.
    #[error("cannot write the layer of snapshot `{snapshot}`")]
    Layer {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// What a cache mount holds could not be written as an archive.
    #[error("cannot write the files of the cache mount `{}`", path.display())]
    Mount {
        /// Its directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// A layer is not what was said of it.
    #[error("layer `{digest}` unpacks to `{found}`, and should to `{expected}`")]
    WrongLayer {
        /// The compressed layer.
        digest: Digest,
        /// What its diff ID should be.
        expected: DiffId,
        /// What it is.
        found: DiffId,
    },
    /// A layer could not be compressed or stored.
    #[error("cannot compress a layer")]
    Encode(#[source] io::Error),
    /// A config or manifest could not be written as JSON.
    #[error("cannot write JSON")]
    Json(#[source] serde_json::Error),
    /// A manifest or config in the store is not what it should be.
    #[error("blob `{digest}` is no image manifest or config")]
    Document {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// An existing OCI layout that cannot be added to.
    #[error("`{}` is not the index of an OCI layout", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A layer is neither in the store nor to be had.
    #[error("cannot fetch layer `{digest}`")]
    Fetch {
        /// The layer.
        digest: Digest,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Images of several platforms were to be written for `docker load`, in the words of the peers.
    #[error("docker exporter does not currently support exporting manifest lists")]
    IndexForDocker,
    /// A registry refused something.
    #[error("failed to push `{reference}`")]
    Push {
        /// The name of the image.
        reference: ImageReference,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// Several registries refused something.
    #[error("{}", all(.0))]
    Pushes(Vec<ExportError>),
    /// There is no name to push to.
    #[error("an image needs a name to be pushed")]
    NoName,
    /// A file or directory could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Standard output could not be written.
    #[error("cannot write to standard output")]
    Stdout(#[source] io::Error),
    /// Whoever was to take an archive did not take all of it.
    #[error("cannot hand over the image")]
    Stream(#[source] io::Error),
    /// The files of the result could not be written.
    #[error("cannot export files to `{}`", path.display())]
    Files {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// Two platforms have a file of one name, and no directories of their own.
    #[error("cannot overwrite {} from {owner} with {platform} when split option is disabled", path.display())]
    NameTaken {
        /// The file.
        path: PathBuf,
        /// The platform whose file came first.
        owner: String,
        /// The other.
        platform: String,
    },
    /// The files of the result could not be read.
    #[error("cannot read the files of the result")]
    Tree(#[source] TreeError),
    /// A file of the result could not be read.
    #[error("cannot read `{}` of the result", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What a scanner has written is no statement.
    #[error("`{}`, which the scanner has written, is no in-toto statement: {problem}", path.display())]
    Statement {
        /// The file, in the scanner's root.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// A file of the result has the name of an attestation.
    #[error("the result has a file `{}`, which is the name of an attestation", .0.display())]
    AttestationName(PathBuf),
    /// The files of the result could not be scanned for packages.
    #[error("cannot scan the files of the result for packages")]
    Scan(#[source] io::Error),
}

impl ExportError {
    /// What a person can do about it, where that is known: sentences without capital and period.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Push { source, .. } => source.hint().into_iter().collect(),
            Self::Pushes(errors) => {
                let mut hints: Vec<String> = errors.iter().flat_map(Self::hints).collect();
                hints.dedup();
                hints
            }
            _ => Vec::new(),
        }
    }
}

/// Several errors, each with its causes.
fn all(errors: &[ExportError]) -> String {
    let text = |error: &ExportError| {
        let causes = std::iter::successors(error.source(), |error| (*error).source());
        causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
    };
    errors.iter().map(text).collect::<Vec<_>>().join("; ")
}
