//! How layers are compressed.

use std::fmt;

use oci::MediaType;

/// The version of the encoder. It is in the name under which compressed layers are remembered, so that what an
/// older version made is not taken for what this one would make.
pub(crate) const ENCODER_VERSION: u32 = 2;

const DEFAULT_GZIP_LEVEL: i32 = 6;
const DEFAULT_ZSTD_LEVEL: i32 = 3;

/// An algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompressionKind {
    /// The tar as it is.
    Uncompressed,
    /// gzip (RFC 1952), as a series of members.
    Gzip,
    /// Zstandard (RFC 8878), as a series of frames.
    Zstd,
    /// eStargz: gzip with a member for each part of a file and a table of contents, which may be fetched in parts.
    Estargz,
}

/// An algorithm and its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Compression {
    kind: CompressionKind,
    level: i32,
}

/// A level that the algorithm does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("compression level {level} is out of range for {kind}: it should be between 0 and {max}")]
pub struct LevelError {
    kind: CompressionKind,
    level: i32,
    max: i32,
}

impl Default for Compression {
    fn default() -> Self {
        Self { kind: CompressionKind::Gzip, level: DEFAULT_GZIP_LEVEL }
    }
}

impl Compression {
    /// An algorithm with a level, or with its default level (gzip and eStargz 6, zstd 3).
    pub fn new(kind: CompressionKind, level: Option<i32>) -> Result<Self, LevelError> {
        let (default, max) = match kind {
            CompressionKind::Uncompressed => return Ok(Self { kind, level: 0 }),
            CompressionKind::Gzip | CompressionKind::Estargz => (DEFAULT_GZIP_LEVEL, 9),
            CompressionKind::Zstd => (DEFAULT_ZSTD_LEVEL, 22),
        };
        let level = level.unwrap_or(default);
        if !(0..=max).contains(&level) {
            return Err(LevelError { kind, level, max });
        }
        Ok(Self { kind, level })
    }

    /// The algorithm.
    pub fn kind(&self) -> CompressionKind {
        self.kind
    }

    /// The level; 0 where there is none.
    pub(crate) fn level(self) -> i32 {
        self.level
    }

    /// The name under which compressed forms of a layer are remembered: algorithm, level, version of the encoder.
    pub fn variant(&self) -> String {
        match self.kind {
            CompressionKind::Uncompressed => "uncompressed".to_owned(),
            kind => format!("{kind}-{}-v{ENCODER_VERSION}", self.level),
        }
    }

    /// Whether images whose layers are so compressed have OCI's media types whatever was asked for: Docker has no word
    /// for zstd, and no place for what eStargz says of a layer.
    pub(crate) fn needs_oci_types(self) -> bool {
        matches!(self.kind, CompressionKind::Zstd | CompressionKind::Estargz)
    }

    /// The media type of a layer so compressed, in OCI's words or Docker's.
    pub fn media_type(&self, types: MediaTypes) -> &'static str {
        match (self.kind, types) {
            (CompressionKind::Uncompressed, MediaTypes::Oci) => MediaType::OCI_LAYER,
            (CompressionKind::Uncompressed, MediaTypes::Docker) => MediaType::DOCKER_LAYER,
            (CompressionKind::Estargz, _) | (CompressionKind::Gzip, MediaTypes::Oci) => {
                MediaType::OCI_LAYER_GZIP
            }
            (CompressionKind::Gzip, MediaTypes::Docker) => MediaType::DOCKER_LAYER_GZIP,
            (CompressionKind::Zstd, _) => MediaType::OCI_LAYER_ZSTD,
        }
    }
}

impl fmt::Display for CompressionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uncompressed => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Estargz => "estargz",
        })
    }
}

/// Whose media types a manifest speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MediaTypes {
    /// OCI's.
    #[default]
    Oci,
    /// Docker's schema 2.
    Docker,
}

impl MediaTypes {
    /// The media type of a manifest.
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Oci => MediaType::OCI_MANIFEST,
            Self::Docker => MediaType::DOCKER_MANIFEST,
        }
    }

    /// The media type of an index.
    pub fn index(self) -> &'static str {
        match self {
            Self::Oci => MediaType::OCI_INDEX,
            Self::Docker => MediaType::DOCKER_INDEX,
        }
    }

    /// The media type of an image config.
    pub fn config(self) -> &'static str {
        match self {
            Self::Oci => MediaType::OCI_CONFIG,
            Self::Docker => MediaType::DOCKER_CONFIG,
        }
    }

    /// The word for a layer of type `media_type`, where there is one; other types are passed on as they are.
    pub fn layer(self, media_type: &str) -> &str {
        match (self, media_type) {
            (Self::Oci, MediaType::DOCKER_LAYER) => MediaType::OCI_LAYER,
            (Self::Oci, MediaType::DOCKER_LAYER_GZIP) => MediaType::OCI_LAYER_GZIP,
            (Self::Docker, MediaType::OCI_LAYER) => MediaType::DOCKER_LAYER,
            (Self::Docker, MediaType::OCI_LAYER_GZIP) => MediaType::DOCKER_LAYER_GZIP,
            (_, other) => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_bounds() {
        assert_eq!(
            Compression::new(CompressionKind::Gzip, Some(10)).unwrap_err().to_string(),
            "compression level 10 is out of range for gzip: it should be between 0 and 9"
        );
        assert!(Compression::new(CompressionKind::Zstd, Some(22)).is_ok());
        assert_eq!(Compression::default().variant(), "gzip-6-v2");
        assert_eq!(
            Compression::new(CompressionKind::Uncompressed, Some(3)).unwrap().variant(),
            "uncompressed"
        );
    }
}
