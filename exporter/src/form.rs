//! The form that images and caches take: what their outputs have in common.

use oci::{Descriptor, MediaType};

use crate::annotations::Annotations;
use crate::attestation::{AttestationForm, AttestationManifestForm};
use crate::compression::{Compression, CompressionKind, MediaTypes};
use crate::derived::REWRITTEN;
use crate::estargz::TOC_DIGEST;
use crate::layer;

/// How layers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerForm {
    /// How layers are compressed that never were.
    pub compression: Compression,
    /// Whether others are compressed anew if they are of another kind (`force-compression`). Their blobs have to be in
    /// the store.
    pub force: bool,
    /// Whose media types.
    pub media_types: MediaTypes,
}

impl LayerForm {
    /// Whether a layer is compressed anew.
    pub fn changes(&self, layer: &Descriptor) -> bool {
        let found = kind_of(layer);
        // An eStargz layer is a gzip layer, too.
        let is_enough = found == CompressionKind::Estargz && self.compression.kind() == CompressionKind::Gzip;
        self.force && found != self.compression.kind() && !is_enough
    }
}

/// The form of an image: what `type=image`, `type=registry`, `type=oci` and `type=docker` have in common. Two outputs of
/// one form hold the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageForm {
    /// How its layers are written.
    pub layers: LayerForm,
    /// Whether no time in new layers is later than the epoch, if there is one (`rewrite-timestamp`).
    pub rewrite_timestamp: bool,
    /// Whether the config has no history (`--omit-history`).
    pub omit_history: bool,
    /// The epoch that takes precedence over the build's (`source-date-epoch`), in seconds since 1970.
    pub epoch: Option<i64>,
    /// Whether layers that registries do not have stay so (`prefer-nondist-layers`); else they are taken for layers like
    /// all others, and pushed.
    pub keep_foreign: bool,
    /// How what is said of it stands beside it.
    pub attestations: AttestationForm,
    /// What its manifests and descriptors are annotated with.
    pub annotations: Annotations,
}

impl ImageForm {
    /// Layers so compressed, and nothing else that is out of the ordinary.
    pub fn compressed(compression: Compression) -> Self {
        Self { layers: LayerForm { compression, ..LayerForm::default() }, ..Self::default() }
    }

    /// Nothing out of the ordinary, with these media types.
    pub fn of_types(media_types: MediaTypes) -> Self {
        Self { layers: LayerForm { media_types, ..LayerForm::default() }, ..Self::default() }
    }

    /// Adds annotations. Where Docker's media types have no place for them the image gets OCI's, as with BuildKit.
    pub fn annotate(&mut self, annotations: &Annotations) {
        self.annotations.extend(annotations);
        if self.layers.compression.needs_oci_types() || self.annotations.need_oci_types() {
            self.layers.media_types = MediaTypes::Oci;
        }
    }

    /// The descriptor of a layer as it stands in a manifest; its times were rewritten if there is an epoch.
    pub(crate) fn written(&self, layer: &Descriptor, epoch: Option<i64>) -> Descriptor {
        let mut written = layer::in_manifest(layer, self.media_types());
        if MediaType::is_foreign_layer(&written.media_type) && !self.keep_foreign {
            let media_type = MediaType::distributable(&written.media_type);
            self.media_types().layer(&media_type).clone_into(&mut written.media_type);
            written.urls.clear();
        }
        // Docker's descriptors have no annotations.
        if let Some(epoch) = epoch.filter(|_| self.media_types() == MediaTypes::Oci) {
            written.annotations.insert(REWRITTEN.to_owned(), epoch.to_string());
        }
        written
    }

    /// Makes it one beside which attestations may stand, whose media types are OCI's, as with BuildKit. Where nothing was
    /// said of their manifests they get the form `default`.
    pub fn attest(&mut self, default: AttestationManifestForm) {
        self.attestations.manifest.get_or_insert(default);
        self.layers.media_types = MediaTypes::Oci;
    }

    /// Whose media types the image has.
    pub fn media_types(&self) -> MediaTypes {
        self.layers.media_types
    }
}

fn kind_of(layer: &Descriptor) -> CompressionKind {
    match layer.media_type.as_str() {
        _ if layer.annotations.contains_key(TOC_DIGEST) => CompressionKind::Estargz,
        gzip if gzip.ends_with("gzip") => CompressionKind::Gzip,
        zstd if zstd.ends_with("zstd") => CompressionKind::Zstd,
        _ => CompressionKind::Uncompressed,
    }
}
