//! Carried caches: from a reference to the documents that lie there.

use std::collections::HashSet;

use oci::{
    CacheConfig, CacheLayer, CacheRecord, CarryingConfig, Descriptor, Digest, ImageConfig, Index,
    InlineCache, Manifest, MediaType, Platform,
};
use serde::Deserialize;
use solver::ImageLocation;

use super::resolve::{Lookup, MAX_INDEX_DEPTH, REFERENCE_TYPE};
use super::{ImageError, ImageStore};

/// A carried cache with the blobs that it names.
#[derive(Debug)]
pub(crate) struct CacheDocument {
    /// The digest of the manifest.
    pub(crate) manifest: Digest,
    /// The layers of the manifest.
    pub(crate) blobs: Vec<Descriptor>,
    /// What it holds; of an image, what the image carries.
    pub(crate) config: CacheConfig,
}

/// What is read of a config of any version.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl ImageStore {
    /// The caches at `location`: one that is nothing else, or those which the images there carry. Only manifests and
    /// configs are read, and kept in the store.
    pub(crate) async fn caches(
        &self,
        location: &ImageLocation,
        name: &str,
    ) -> Result<Vec<CacheDocument>, ImageError> {
        let lookup = Lookup { images: self, location, name };
        // Neither a lock file nor a pull policy speaks of caches: what is there now is read.
        let roots = match location {
            ImageLocation::Registry(reference) => lookup.asked(reference).await?,
            _ => lookup.roots(&Platform::host()).await?,
        };
        let mut open: Vec<(usize, Descriptor)> =
            roots.descriptors.into_iter().rev().map(|root| (0, root)).collect();
        let mut found = Vec::new();
        while let Some((depth, descriptor)) = open.pop() {
            if descriptor.annotations.contains_key(REFERENCE_TYPE) {
                continue;
            }
            if !lookup.is_index(&descriptor).await? {
                found.extend(lookup.cache(&descriptor.digest).await?);
                continue;
            }
            if depth == MAX_INDEX_DEPTH {
                return Err(lookup.not_a_cache("its indexes are nested too deeply"));
            }
            let index: Index = lookup.document(&descriptor.digest, "index").await?;
            open.extend(index.manifests.into_iter().rev().map(|entry| (depth + 1, entry)));
        }
        if found.is_empty() {
            return Err(lookup.not_a_cache("it is an image that carries no cache"));
        }
        Ok(found)
    }
}

impl Lookup<'_> {
    /// The cache of a manifest; `None` for an image that carries none.
    async fn cache(&self, digest: &Digest) -> Result<Option<CacheDocument>, ImageError> {
        let manifest: Manifest = self.document(digest, "manifest").await?;
        let media_type = manifest.config.media_type.as_str();
        let is_image = matches!(media_type, MediaType::OCI_CONFIG | MediaType::DOCKER_CONFIG | "");
        if !is_image && media_type != CacheConfig::MEDIA_TYPE {
            return Err(self.not_a_cache(&format!("its config's media type is `{media_type}`")));
        }
        let bytes = self.bytes(&manifest.config.digest, Some(&manifest.config)).await?;
        let config = if is_image {
            let image: CarryingConfig<serde_json::Value> = self.parse(&bytes, "config")?;
            let Some(cache) = image.cache else { return Ok(None) };
            self.check_version(&cache)?;
            let cache = InlineCache::deserialize(cache).map_err(|source| self.malformed(source))?;
            inline(cache, &image.config, &manifest)
        } else {
            let document: serde_json::Value = self.parse(&bytes, "config")?;
            self.check_version(&document)?;
            CacheConfig::deserialize(document).map_err(|source| self.malformed(source))?
        };
        let document = CacheDocument { manifest: digest.clone(), blobs: manifest.layers, config };
        match document.problem() {
            None => Ok(Some(document)),
            Some(problem) => Err(self.not_a_cache(&problem)),
        }
    }

    fn check_version(&self, document: &serde_json::Value) -> Result<(), ImageError> {
        let Versioned { version } =
            Versioned::deserialize(document).map_err(|source| self.malformed(source))?;
        if version == CacheConfig::VERSION {
            return Ok(());
        }
        let supported = CacheConfig::VERSION;
        Err(self.not_a_cache(&format!(
            "its format is version {version}, and this program reads version {supported}"
        )))
    }

    fn malformed(&self, source: serde_json::Error) -> ImageError {
        ImageError::Document { image: self.name.to_owned(), what: "cache config", source }
    }

    fn not_a_cache(&self, problem: &str) -> ImageError {
        ImageError::NotACache { image: self.name.to_owned(), problem: problem.to_owned() }
    }
}

/// What an image carries as a cache of its own.
fn inline(cache: InlineCache, image: &ImageConfig, manifest: &Manifest) -> CacheConfig {
    let mut times = image.history.iter().filter(|entry| !entry.empty_layer).map(|entry| &entry.created);
    let layers = manifest.layers.iter().zip(&image.rootfs.diff_ids).enumerate();
    let layers = layers.map(|(number, (layer, diff_id))| CacheLayer {
        blob: layer.digest.clone(),
        diff_id: diff_id.clone(),
        parent: number.checked_sub(1),
        created: times.next().cloned().flatten(),
    });
    CacheConfig {
        version: cache.version,
        layers: layers.collect(),
        records: cache.records,
        mounts: Vec::new(),
    }
}

impl CacheDocument {
    /// What is wrong with the numbers and digests in it, if something is.
    fn problem(&self) -> Option<String> {
        let blobs: HashSet<&Digest> = self.blobs.iter().map(|blob| &blob.digest).collect();
        let CacheConfig { layers, records, mounts, .. } = &self.config;
        for (number, CacheLayer { blob, parent, .. }) in layers.iter().enumerate() {
            if parent.is_some_and(|parent| parent >= number) {
                return Some(format!("its layer {number} does not come after its parent"));
            }
            if !blobs.contains(blob) {
                return Some(format!("`{blob}` is not among its layers"));
            }
        }
        if let Some(mount) = mounts.iter().find(|mount| !blobs.contains(&mount.blob)) {
            return Some(format!("`{}` is not among its layers", mount.blob));
        }
        let is_wrong = |record: &&CacheRecord| record.layer.is_some_and(|layer| layer >= layers.len());
        records.iter().find(is_wrong).map(|record| format!("the record `{}` has no such layer", record.key))
    }
}
