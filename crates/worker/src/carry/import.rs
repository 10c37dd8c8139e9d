//! One carried cache.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use cache::{MountKey, RecordDetails, RecordKey, Replace, Store};
use oci::{ChainId, Descriptor, DiffId, Digest, Manifest, Platform};
use solver::{CacheKey, ImageLocation, ImageSource};

use super::gather::MountFilter;
use crate::WorkerError;
use crate::image::{CacheDocument, ImageError, ImageStore, LazyImage, Loss};

/// When a layer was made, RFC 3339: an annotation of the OCI image specification.
pub(crate) const CREATED: &str = "org.opencontainers.image.created";

/// Where a cache is read from.
#[derive(Debug, Clone)]
pub struct ImportSource {
    /// The place.
    pub location: ImageLocation,
    /// The cache as people know it.
    pub name: String,
    /// Which cache mounts are restored from it.
    pub mounts: MountFilter,
}

/// A cache that lies elsewhere: what it holds, and where its layers are.
#[derive(Debug)]
pub struct Import {
    images: ImageStore,
    source: ImageSource,
    layers: Vec<ImportedLayer>,
    records: HashMap<CacheKey, ImportedRecord>,
    /// By the number of a layer: whose results end with it.
    ends: Vec<Vec<CacheKey>>,
    mounts: BTreeMap<MountKey, ImportedMount>,
    restored: MountFilter,
    lost: Mutex<Lost>,
}

#[derive(Debug)]
struct ImportedLayer {
    descriptor: Descriptor,
    diff_id: DiffId,
    parent: Option<usize>,
}

/// What is known under a key.
#[derive(Debug)]
pub(super) struct ImportedRecord {
    /// The number of the uppermost layer; `None` where only digests are known.
    pub(super) layer: Option<usize>,
    pub(super) parts: Vec<(String, String)>,
    pub(super) digests: BTreeMap<[u8; 32], [u8; 32]>,
}

/// What a cache mount held.
#[derive(Debug, Clone)]
pub(crate) struct ImportedMount {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: DiffId,
}

#[derive(Debug, Default)]
struct Lost {
    blobs: HashSet<Digest>,
    everything: bool,
}

impl Import {
    /// Reads what is at `source`, which `images` reaches. More than one where an index has several images that carry
    /// caches.
    pub async fn read(images: &ImageStore, source: &ImportSource) -> Result<Vec<Self>, ImageError> {
        let documents = images.caches(&source.location, &source.name).await?;
        Ok(documents.into_iter().map(|document| Self::of(images, source, document)).collect())
    }

    fn of(images: &ImageStore, source: &ImportSource, document: CacheDocument) -> Self {
        let CacheDocument { manifest, blobs, config } = document;
        let blobs: HashMap<Digest, Descriptor> =
            blobs.into_iter().map(|blob| (blob.digest.clone(), blob)).collect();
        // Only what says where a blob is and what it is: annotations are the manifest's own affair.
        let plain = |digest: &Digest| {
            let known = &blobs[digest];
            Descriptor::new(&known.media_type, known.digest.clone(), known.size)
        };
        let mut ends = vec![Vec::new(); config.layers.len()];
        let mut records = HashMap::new();
        for record in config.records {
            let key = CacheKey(record.key.0);
            ends.get_mut(record.layer.unwrap_or(usize::MAX)).into_iter().for_each(|end| end.push(key));
            let digests =
                record.digests.into_iter().map(|(selector, digest)| (selector.0, digest.0)).collect();
            records.insert(key, ImportedRecord { layer: record.layer, parts: record.parts, digests });
        }
        let layers = config.layers.into_iter().map(|layer| {
            let mut descriptor = plain(&layer.blob);
            descriptor.annotations.extend(layer.created.map(|created| (CREATED.to_owned(), created)));
            ImportedLayer { descriptor, diff_id: layer.diff_id, parent: layer.parent }
        });
        let mounts = config.mounts.into_iter().map(|mount| {
            let key = MountKey { id: mount.id, beginning: mount.beginning.0 };
            (key, ImportedMount { descriptor: plain(&mount.blob), diff_id: mount.diff_id })
        });
        Self {
            images: images.clone(),
            source: ImageSource {
                name: source.name.clone(),
                manifest,
                location: source.location.clone(),
                platform: Platform::host(),
            },
            layers: layers.collect(),
            records,
            ends,
            mounts: mounts.collect(),
            restored: source.mounts.clone(),
            lost: Mutex::default(),
        }
    }

    pub(crate) fn images(&self) -> &ImageStore {
        &self.images
    }

    /// The cache as people know it.
    pub(crate) fn name(&self) -> &str {
        &self.source.name
    }

    pub(super) fn location(&self) -> &ImageLocation {
        &self.source.location
    }

    pub(super) fn record(&self, key: &CacheKey) -> Option<&ImportedRecord> {
        self.records.get(key)
    }

    pub(super) fn has_hints(&self) -> bool {
        self.records.values().any(|record| record.layer.is_none())
    }

    pub(super) fn mount(&self, key: &MountKey) -> Option<ImportedMount> {
        let mount = self.mounts.get(key)?;
        (!self.lost().has(&mount.descriptor.digest)).then(|| mount.clone())
    }

    /// Whether a cache mount of that ID is restored from this.
    pub(super) fn restores(&self, id: &str) -> bool {
        self.restored.selects(id)
    }

    /// Whether nothing that `record` needs has been lost.
    pub(super) fn is_whole(&self, record: &ImportedRecord) -> bool {
        let lost = self.lost();
        let Some(layer) = record.layer else { return true };
        !self.chain(layer).any(|layer| lost.has(&layer.descriptor.digest))
    }

    pub(super) fn has_blob(&self, digest: &Digest) -> bool {
        let mut layers = self.layers.iter().map(|layer| &layer.descriptor);
        let mut mounts = self.mounts.values().map(|mount| &mount.descriptor);
        let is_it = |descriptor: &Descriptor| descriptor.digest == *digest;
        !self.lost().has(digest) && (layers.any(is_it) || mounts.any(is_it))
    }

    pub(super) fn lose(&self, loss: Loss) {
        match loss {
            Loss::Blob(digest) => drop(self.lost().blobs.insert(digest)),
            Loss::Everything => self.lost().everything = true,
        }
    }

    /// Brings a layer's blob into the store.
    pub(crate) async fn fetch(&self, layer: &Descriptor) -> Result<(), ImageError> {
        self.images.fetch_layer_from(&self.source.location, &self.source.name, layer).await
    }

    /// The layers that end with `layer`, as those of an image.
    pub(super) fn image(&self, layer: usize) -> LazyImage {
        let mut chain: Vec<&ImportedLayer> = self.chain(layer).collect();
        chain.reverse();
        let diff_ids: Vec<DiffId> = chain.iter().map(|layer| layer.diff_id.clone()).collect();
        let layers: Vec<Descriptor> = chain.iter().map(|layer| layer.descriptor.clone()).collect();
        LazyImage {
            source: self.source.clone(),
            manifest: Manifest {
                schema_version: 2,
                media_type: None,
                artifact_type: None,
                config: Descriptor::of(oci::CacheConfig::MEDIA_TYPE, b""),
                layers,
                subject: None,
                annotations: BTreeMap::new(),
            },
            chain_ids: ChainId::of_each(&diff_ids),
            diff_ids,
        }
    }

    /// Keeps what is known of the results that `layer` and those below it end, now that their snapshots are in the
    /// store. Blocks.
    pub(crate) fn keep_records(&self, store: &Store, layer: usize) -> Result<(), WorkerError> {
        let mut numbers: Vec<usize> = self.numbers(layer).collect();
        numbers.reverse();
        let mut base: Option<ChainId> = None;
        for number in numbers {
            let chain = ChainId::extend(base.as_ref(), &self.layers[number].diff_id);
            let snapshot =
                if self.ends[number].is_empty() { None } else { store.snapshot_by_chain(&chain)? };
            base = Some(chain);
            let Some(snapshot) = snapshot else { continue };
            for key in &self.ends[number] {
                let record = &self.records[key];
                let details = RecordDetails {
                    description: format!("from the cache {}", self.name()),
                    kind: crate::local::entry_kind(&record.parts),
                    parts: record.parts.clone(),
                };
                let holds = store.save(&RecordKey(key.0), &details, &snapshot, Replace::No)?;
                if holds.id != snapshot.id {
                    continue;
                }
                for (selector, digest) in &record.digests {
                    store.set_content_digest(&snapshot.id, selector, digest)?;
                }
            }
        }
        Ok(())
    }

    /// A layer and those below it, top first.
    fn chain(&self, layer: usize) -> impl Iterator<Item = &ImportedLayer> {
        self.numbers(layer).map(|number| &self.layers[number])
    }

    fn numbers(&self, layer: usize) -> impl Iterator<Item = usize> {
        // Each comes after its parent, so that this ends.
        std::iter::successors(Some(layer), |number| self.layers[*number].parent)
    }

    fn lost(&self) -> std::sync::MutexGuard<'_, Lost> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lost {
    fn has(&self, digest: &Digest) -> bool {
        self.everything || self.blobs.contains(digest)
    }
}
