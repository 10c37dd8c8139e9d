//! The config of a carried cache: what a cache that lies in a registry or a layout says of itself.
//!
//! A carried cache is an image manifest. Its config is a [`CacheConfig`], of type [`CacheConfig::MEDIA_TYPE`]; its layers
//! are those of all results, each blob once, by digest. An image may also carry the records of its own layers
//! ([`InlineCache`]) in its own config ([`CarryingConfig`]).
//!
//! Nothing here is trusted: keys say what a result is of, and digests what its bytes are, but whoever may write to the
//! repository of a cache decides what its results are.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{DiffId, Digest, ImageConfig};

/// A hash that only the build cache makes and reads; 64 hexadecimal digits in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheHash(pub [u8; 32]);

/// What a carried cache holds.
///
/// Lists are sorted, so that equal caches are equal bytes: layers by depth and chain ID, records by key, mounts by ID and
/// beginning. Whoever changes what a member means raises [`CacheConfig::VERSION`]; a cache of another version is not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheConfig {
    /// [`CacheConfig::VERSION`].
    pub version: u32,
    /// The layers of all results, as trees that grow from their base images: each comes after its parent.
    #[serde(default)]
    pub layers: Vec<CacheLayer>,
    /// What is known under each key.
    #[serde(default)]
    pub records: Vec<CacheRecord>,
    /// What `RUN --mount=type=cache` directories held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<CacheMountLayer>,
}

/// A layer on top of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheLayer {
    /// The compressed layer: one of the manifest's layers.
    pub blob: Digest,
    /// The digest of the uncompressed layer.
    #[serde(rename = "diffID")]
    pub diff_id: DiffId,
    /// The number of the layer below; absent for the lowest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<usize>,
    /// When a step made it, RFC 3339, not later than `SOURCE_DATE_EPOCH`. Absent for layers of base images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
}

/// What is known under a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheRecord {
    /// The cache key of a vertex.
    pub key: CacheHash,
    /// The number of the uppermost layer of its result. Absent where only digests are known, which is enough for steps
    /// that copy from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// The parts that the key was made of, name and value, for those who ask why another key differs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<(String, String)>,
    /// By the digest of a selector: the digest of what it selects of the result.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digests: BTreeMap<CacheHash, CacheHash>,
}

/// What a cache mount held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheMountLayer {
    /// Its ID, with its namespace.
    pub id: String,
    /// A digest of what a new directory of that ID begins with.
    pub beginning: CacheHash,
    /// All of its files as a compressed layer: one of the manifest's layers.
    pub blob: Digest,
    /// The digest of the uncompressed layer.
    #[serde(rename = "diffID")]
    pub diff_id: DiffId,
}

/// The records of an image's own layers, which lie on each other: the numbers of records count the image's layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InlineCache {
    /// [`CacheConfig::VERSION`].
    pub version: u32,
    /// What is known under each key.
    #[serde(default)]
    pub records: Vec<CacheRecord>,
}

/// An image config that may carry a cache. Members that are not named here are dropped, so that a cache is not handed
/// on to images that are built on this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarryingConfig<C> {
    /// The image config.
    #[serde(flatten)]
    pub config: ImageConfig,
    /// An [`InlineCache`], or the JSON of one.
    #[serde(rename = "rbuild.cache", skip_serializing_if = "Option::is_none")]
    pub cache: Option<C>,
}

impl CacheConfig {
    /// The version of this format.
    pub const VERSION: u32 = 1;
    /// The media type of the config, which makes a manifest a cache.
    pub const MEDIA_TYPE: &'static str = "application/vnd.rbuild.cache.config.v1+json";
}

impl fmt::Display for CacheHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for CacheHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for CacheHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CacheHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        match hex::decode_to_slice(&text, &mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(_) => Err(D::Error::custom(format!("`{text}` is not a hash of 64 hexadecimal digits"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_written_in_one_way_and_read_again() {
        let diff_id = DiffId(Digest::sha256(b"layer"));
        let config = CacheConfig {
            version: CacheConfig::VERSION,
            layers: vec![CacheLayer {
                blob: Digest::sha256(b"blob"),
                diff_id,
                parent: None,
                created: Some("1970-01-01T00:00:00Z".to_owned()),
            }],
            records: vec![CacheRecord {
                key: CacheHash([7; 32]),
                layer: Some(0),
                parts: vec![("op".to_owned(), "run".to_owned())],
                digests: BTreeMap::from([(CacheHash([1; 32]), CacheHash([2; 32]))]),
            }],
            mounts: Vec::new(),
        };
        let text = serde_json::to_string(&config).unwrap();
        let expected = format!(
            r#"{{"version":1,"layers":[{{"blob":"{}","diffID":"{}","created":"1970-01-01T00:00:00Z"}}],"records":[{{"key":"{}","layer":0,"parts":[["op","run"]],"digests":{{"{}":"{}"}}}}]}}"#,
            Digest::sha256(b"blob"),
            Digest::sha256(b"layer"),
            "07".repeat(32),
            "01".repeat(32),
            "02".repeat(32),
        );
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<CacheConfig>(&text).unwrap(), config);
    }

    #[test]
    fn an_image_config_without_a_cache_is_written_as_ever() {
        let config = ImageConfig { os: "linux".to_owned(), ..ImageConfig::default() };
        let mut carrying = CarryingConfig { config: config.clone(), cache: None };
        assert_eq!(serde_json::to_vec(&carrying).unwrap(), serde_json::to_vec(&config).unwrap());
        carrying.cache = Some(InlineCache { version: 1, records: Vec::new() });
        let text = serde_json::to_string(&carrying).unwrap();
        assert!(text.ends_with(r#","rbuild.cache":{"version":1,"records":[]}}"#), "{text}");
        assert_eq!(serde_json::from_str::<CarryingConfig<InlineCache>>(&text).unwrap(), carrying);
        assert_eq!(serde_json::from_str::<ImageConfig>(&text).unwrap(), config);
    }

    #[test]
    fn hashes_that_are_none_are_refused() {
        let error = serde_json::from_str::<CacheHash>("\"abc\"").unwrap_err().to_string();
        assert!(error.starts_with("`abc` is not a hash of 64 hexadecimal digits"), "{error}");
    }
}
