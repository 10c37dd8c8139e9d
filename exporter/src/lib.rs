//! From the result of a build to what people asked for: image assembly and outputs.
//!
//! [`assemble`] makes an image of a config and layers, compressing what was never compressed, and [`assemble_cache`] a
//! cache for builds elsewhere; an [`ImageSet`] is one image or an index of several; the rest writes it somewhere: [`push()`] to registries, [`write_archive`] and [`write_layout`] as an OCI layout or for `docker load`,
//! [`write_files`] and [`copy_files`] without the image around the files. [`load_archive`] reads what archives hold.
//!
//! What is deliberately absent: the graph and its steps (whoever built says which snapshots make up the image),
//! pulling (a [`LayerFetcher`] brings layers that were never needed here), and everything that is printed.
//! Only pushing and fetching are asynchronous; the rest blocks, and belongs on a thread that may.

mod annotations;
mod archive;
mod attest_flags;
mod attestation;
mod cache_flags;
mod cache_layout;
mod carried;
mod codec;
mod compression;
mod derived;
mod destination;
mod encoder;
mod error;
mod estargz;
mod fields;
mod files;
mod form;
mod history;
mod image;
mod layer;
mod load;
mod members;
mod ordered;
mod output;
mod pieces;
mod push;
mod scanned;
mod set;
mod squash;
mod stream;
mod timestamps;
mod toc;

pub use annotations::{AnnotationError, AnnotationLevel, Annotations, RootForm};
pub use archive::{ArchiveKind, NamedImages, stream_archives, write_archive, write_archives, write_layout};
pub use attest_flags::{
    AttestationError, AttestationSpec, ProvenanceMode, ProvenanceSpec, ProvenanceVersion, SbomSpec,
    parse_attestation,
};
pub use attestation::{Attestation, AttestationForm, AttestationManifestForm, Reach, Subject, image_url};
pub use cache_flags::{
    CacheExport, CacheFlagError, CacheImport, CacheMode, CacheMounts, ExportPlace, ImportPlace,
    parse_cache_export, parse_cache_import,
};
pub use cache_layout::write_cache_layout;
pub use carried::{CacheBuild, CacheBuildLayer, CacheBuildMount, MountOrigin, assemble_cache};
pub use compression::{Compression, CompressionKind, LevelError, MediaTypes};
pub use encoder::{EncodedLayer, LayerEncoder};
pub use error::ExportError;
pub use fields::FieldError;
pub use files::{FilesForm, PlatformFiles, PlatformSplit, copy_files, write_files};
pub use form::{ImageForm, LayerForm};
pub use image::{Assembled, ImageBuild, LayerOrigin, assemble, creation_time};
pub use load::{ArchiveSource, LoadError, LoadedImage, load_archive};
pub use output::{
    ArchiveOutput, Destination, FilesOutput, ImageOutput, LoadTarget, Naming, OtherFiles, OutputError,
    OutputSpec, Packaging, PushOutput, parse_output,
};
pub use push::{LayerFetcher, PushMeans, fetch_blobs, fetch_layers, push};
pub use scanned::{read_statements, scan_packages};
pub use set::{ImageSet, IndexBuild};
pub use stream::LayerStreams;
