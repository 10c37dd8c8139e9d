//! Caches that are carried elsewhere: from results to a manifest whose config tells what they are.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use cache::layer::{FileTimes, write_trees};
use cache::tree::{TreeKind, TreeMode, TreeView};
use cache::{CacheMount, Store};
use oci::{
    CacheConfig, CacheHash, CacheLayer, CacheMountLayer, CacheRecord, ChainId, Descriptor, DiffId, Digest,
    Platform,
};

use crate::compression::{Compression, MediaTypes};
use crate::derived::{Source, derive};
use crate::error::ExportError;
use crate::form::LayerForm;
use crate::history;
use crate::image::{Assembled, LayerOrigin, LayerRequest, layers_of, times_of};
use crate::layer;

/// A cache to be made.
#[derive(Debug)]
pub struct CacheBuild {
    /// The layers of all results, each after its parent.
    pub layers: Vec<CacheBuildLayer>,
    /// What is known under each key; layers are numbers in [`CacheBuild::layers`].
    pub records: Vec<CacheRecord>,
    /// What cache mounts hold.
    pub mounts: Vec<CacheBuildMount>,
    /// No time in the cache is later than this: seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<i64>,
}

/// A layer on top of another.
#[derive(Debug)]
pub struct CacheBuildLayer {
    /// The number of the layer below.
    pub parent: Option<usize>,
    /// Where it comes from.
    pub origin: LayerOrigin,
}

/// A cache mount.
#[derive(Debug)]
pub struct CacheBuildMount {
    /// Its ID, with its namespace.
    pub id: String,
    /// A digest of what a new one begins with.
    pub beginning: CacheHash,
    /// What it holds.
    pub content: MountOrigin,
}

/// Where the content of a cache mount comes from.
#[derive(Debug)]
pub enum MountOrigin {
    /// A directory that nobody else uses.
    Directory(CacheMount),
    /// A layer of another cache. Its blob need not be in the store.
    Layer {
        /// The digest of the uncompressed layer.
        diff_id: DiffId,
        /// The compressed layer.
        descriptor: Box<Descriptor>,
    },
}

/// A layer in its final form.
struct Placed {
    depth: usize,
    chain: ChainId,
    parent: Option<usize>,
    blob: Digest,
    diff_id: DiffId,
    created: Option<String>,
}

/// Makes what is missing of a cache, as [`assemble`](crate::assemble) does for an image: equal results give equal bytes.
/// Blocks; not on a thread of rayon's.
pub fn assemble_cache(store: &Store, build: CacheBuild, form: LayerForm) -> Result<Assembled, ExportError> {
    let CacheBuild { layers, mut records, mounts, epoch } = build;
    let (parents, origins): (Vec<_>, Vec<_>) =
        layers.into_iter().map(|layer| (layer.parent, layer.origin)).unzip();
    let requests: Vec<_> = origins.iter().map(|origin| LayerRequest { origin, epoch: None }).collect();
    let found = layers_of(store, &requests, form, None)?;
    let mut blobs = BTreeMap::new();
    for (_, descriptor) in &found {
        keep(&mut blobs, descriptor, form.media_types);
    }
    let times = times_of(store, &origins);
    let mut placed: Vec<Placed> = Vec::with_capacity(found.len());
    for (((diff_id, descriptor), parent), time) in found.into_iter().zip(parents).zip(times) {
        let below: Option<&Placed> = parent.map(|parent| &placed[parent]);
        placed.push(Placed {
            depth: below.map_or(0, |below| below.depth + 1),
            chain: ChainId::extend(below.map(|below| &below.chain), &diff_id),
            parent,
            blob: descriptor.digest,
            diff_id,
            created: history::time_text(time, epoch),
        });
    }
    let (layers, numbers) = sorted(&placed);
    for record in &mut records {
        record.layer = record.layer.map(|layer| numbers[layer]);
    }
    records.sort_by_key(|record| record.key);
    let mut config = CacheConfig { version: CacheConfig::VERSION, layers, records, mounts: Vec::new() };
    for mount in mounts {
        let (diff_id, descriptor) = mount_layer(store, mount.content, form)?;
        keep(&mut blobs, &descriptor, form.media_types);
        let (id, beginning) = (mount.id, mount.beginning);
        config.mounts.push(CacheMountLayer { id, beginning, blob: descriptor.digest, diff_id });
    }
    config.mounts.sort_by(|a, b| (&a.id, a.beginning).cmp(&(&b.id, b.beginning)));
    let config = serde_json::to_vec(&config).map_err(ExportError::Json)?;
    let layers = blobs.into_values().collect();
    let document = (CacheConfig::MEDIA_TYPE, config);
    Assembled::new(document, layers, (form.media_types, BTreeMap::new()), Platform::host())
}

/// Layers in the order of depth and chain ID, each chain ID once; and the new number of each.
fn sorted(placed: &[Placed]) -> (Vec<CacheLayer>, Vec<usize>) {
    let mut order: Vec<usize> = (0..placed.len()).collect();
    order.sort_by(|a, b| {
        let key = |number: &usize| (placed[*number].depth, placed[*number].chain.0.as_str());
        key(a).cmp(&key(b))
    });
    let mut numbers = vec![0; placed.len()];
    let mut by_chain: HashMap<&ChainId, usize> = HashMap::new();
    let mut layers: Vec<CacheLayer> = Vec::new();
    for number in order {
        let layer = &placed[number];
        let next = layers.len();
        numbers[number] = *by_chain.entry(&layer.chain).or_insert(next);
        if numbers[number] == next {
            layers.push(CacheLayer {
                blob: layer.blob.clone(),
                diff_id: layer.diff_id.clone(),
                // What is below has been numbered, as it is less deep.
                parent: layer.parent.map(|parent| numbers[parent]),
                created: layer.created.clone(),
            });
        }
    }
    (layers, numbers)
}

fn keep(blobs: &mut BTreeMap<String, Descriptor>, descriptor: &Descriptor, media_types: MediaTypes) {
    let media_type = media_types.layer(&descriptor.media_type);
    let plain = || Descriptor::new(media_type, descriptor.digest.clone(), descriptor.size);
    blobs.entry(descriptor.digest.to_string()).or_insert_with(plain);
}

fn mount_layer(
    store: &Store,
    content: MountOrigin,
    form: LayerForm,
) -> Result<(DiffId, Descriptor), ExportError> {
    match content {
        MountOrigin::Layer { diff_id, descriptor } if form.changes(&descriptor) => {
            derive(store, Source::Blob(&diff_id, &descriptor), form.compression.into(), None)
        }
        MountOrigin::Layer { diff_id, descriptor } => Ok((diff_id, *descriptor)),
        MountOrigin::Directory(mount) => write_directory(store, &mount.directory(), form.compression),
    }
}

fn write_directory(
    store: &Store,
    directory: &Path,
    compression: Compression,
) -> Result<(DiffId, Descriptor), ExportError> {
    let failed = |source| ExportError::Mount { path: directory.to_owned(), source };
    let mode = TreeMode { kind: TreeKind::Plain, ..store.tree_mode() };
    let view = TreeView::open(&[directory.to_owned()], mode).map_err(|error| failed(error.into()))?;
    let mut whole = layer::buffered(layer::encoder(store, compression.into())?);
    write_trees(&[(None, &view)], FileTimes::Own, &mut whole).map_err(failed)?;
    Ok(layer::finish(store, layer::unbuffered(whole)?, compression)?.1)
}
