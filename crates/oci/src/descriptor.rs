//! Descriptors, manifests and indexes (OCI image spec; Docker's schema 2 has the same shape).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Platform};

/// The media types that images are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaType;

impl MediaType {
    /// An OCI image manifest.
    pub const OCI_MANIFEST: &'static str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI index.
    pub const OCI_INDEX: &'static str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image config.
    pub const OCI_CONFIG: &'static str = "application/vnd.oci.image.config.v1+json";
    /// An uncompressed OCI layer.
    pub const OCI_LAYER: &'static str = "application/vnd.oci.image.layer.v1.tar";
    /// A gzip OCI layer.
    pub const OCI_LAYER_GZIP: &'static str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A zstd OCI layer.
    pub const OCI_LAYER_ZSTD: &'static str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// A Docker image manifest.
    pub const DOCKER_MANIFEST: &'static str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker manifest list.
    pub const DOCKER_INDEX: &'static str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// A Docker image config.
    pub const DOCKER_CONFIG: &'static str = "application/vnd.docker.container.image.v1+json";
    /// A gzip Docker layer.
    pub const DOCKER_LAYER_GZIP: &'static str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// An uncompressed Docker layer.
    pub const DOCKER_LAYER: &'static str = "application/vnd.docker.image.rootfs.diff.tar";

    /// Whether `media_type` names an index of manifests.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, Self::OCI_INDEX | Self::DOCKER_INDEX)
    }

    /// Whether `media_type` names an image manifest.
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, Self::OCI_MANIFEST | Self::DOCKER_MANIFEST)
    }

    /// Whether `media_type` names a layer that registries do not have to hold ("foreign").
    pub fn is_foreign_layer(media_type: &str) -> bool {
        media_type.contains(".foreign.") || media_type.contains(".nondistributable.")
    }

    /// What a foreign layer is called where registries hold it like any other.
    pub fn distributable(media_type: &str) -> String {
        media_type.replace(".foreign.", ".").replace(".nondistributable.", ".")
    }
}

/// What names a blob: type, digest and size (OCI image spec, "Content Descriptors").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The type of the content.
    #[serde(default)]
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// The size of the content in bytes.
    pub size: u64,
    /// Other places that hold the content.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free texts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The platform that a manifest is for, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The content itself, in base64, where it is that small.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The type of an artifact that is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor of `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::sha256(bytes), bytes.len() as u64)
    }

    /// A descriptor without annotations, platform or URLs.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            data: None,
            artifact_type: None,
        }
    }
}

/// An image manifest, of OCI's or Docker's type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// The type of this document; absent in some old OCI manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The type of an artifact that is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<Descriptor>,
    /// What this manifest is about, for attached artifacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free texts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An index of manifests, of OCI's or Docker's type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// The type of this document; absent in many OCI layouts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests, in order of preference.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// Free texts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}
