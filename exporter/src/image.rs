//! Images: from a config and layers to blobs, a config and a manifest.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cache::{Layer, Snapshot, Store};
use oci::{CarryingConfig, Descriptor, DiffId, ImageConfig, InlineCache, Manifest, Platform};

use crate::annotations::AnnotationLevel;
use crate::archive::CREATED;
use crate::compression::{Compression, MediaTypes};
use crate::derived::{Source, derive};
use crate::error::ExportError;
use crate::form::{ImageForm, LayerForm};
use crate::history::{self, LayerTime};
use crate::layer::{self, Found, Writing};
use crate::stream::LayerStreams;

/// An image to be made.
#[derive(Debug, Clone)]
pub struct ImageBuild {
    /// The whole config, save diff IDs and times.
    pub config: ImageConfig,
    /// The layers, bottom first.
    pub layers: Vec<LayerOrigin>,
    /// How many of them are the base image's.
    pub base_layers: usize,
    /// No time of the image, save those of the base image's history, is later than this: seconds since 1970
    /// (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<i64>,
    /// What the image carries as a cache of its own layers.
    pub cache: Option<InlineCache>,
}

/// Where a layer of an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there are few of them, and they are short-lived")]
pub enum LayerOrigin {
    /// A snapshot that a build made; its layer is what differs from its parent.
    Snapshot(Snapshot),
    /// A base image or a carried cache, whose compressed layer is taken over as it is. Its blob need not be in the store.
    /// The annotation `org.opencontainers.image.created` tells when a step made it, if one did.
    Image {
        /// The digest of the uncompressed layer.
        diff_id: DiffId,
        /// The compressed layer.
        descriptor: Descriptor,
    },
    /// Several layers in one: all that `top` has on top of `below`, or of nothing.
    Merged {
        /// The snapshot below.
        below: Option<Snapshot>,
        /// The uppermost.
        top: Snapshot,
        /// The uppermost of the layers, which tells when it was made.
        last: Box<Self>,
    },
}

/// An image with everything that it consists of known. The blobs of layers which builds made are in the store.
#[derive(Debug, Clone)]
pub struct Assembled {
    /// The bytes of the manifest.
    pub manifest: Vec<u8>,
    /// The descriptor of the manifest.
    pub descriptor: Descriptor,
    /// The bytes of the config.
    pub config: Vec<u8>,
    /// The descriptor of the config.
    pub config_descriptor: Descriptor,
    /// The layers, bottom first, as in the manifest.
    pub layers: Vec<Descriptor>,
    /// The platform.
    pub platform: Platform,
    /// When the image was made, RFC 3339.
    pub created: Option<String>,
}

impl ImageBuild {
    /// The compressed layers that have to be in the store before the image is made in this form.
    pub fn needed_blobs(&self, form: &ImageForm) -> Vec<&Descriptor> {
        let requests = self.requests(form);
        let needed = requests.filter_map(|LayerRequest { origin, epoch }| match origin {
            LayerOrigin::Image { descriptor, .. } => {
                (epoch.is_some() || form.layers.changes(descriptor)).then_some(descriptor)
            }
            LayerOrigin::Snapshot(_) | LayerOrigin::Merged { .. } => None,
        });
        needed.collect()
    }

    /// The layers, with what is to become of their times: those of the base image stay as they are.
    fn requests(&self, form: &ImageForm) -> impl Iterator<Item = LayerRequest<'_>> {
        let epoch = form.epoch.or(self.epoch).filter(|_| form.rewrite_timestamp);
        let layers = self.layers.iter().enumerate();
        layers.map(move |(number, origin)| LayerRequest {
            origin,
            epoch: epoch.filter(|_| number >= self.base_layers),
        })
    }
}

/// A layer that is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerRequest<'a> {
    pub(crate) origin: &'a LayerOrigin,
    /// No time in it is to be later than this.
    pub(crate) epoch: Option<i64>,
}

/// Makes what is missing of an image: layers that are not compressed yet are, side by side; config and manifest are
/// written into memory only ([`crate::ImageSet::save`] puts them into the store). With `streams`, new layers are sent to a
/// registry meanwhile. Blocks; not on a thread of rayon's.
pub fn assemble(
    store: &Store,
    build: ImageBuild,
    form: &ImageForm,
    streams: Option<&Arc<LayerStreams>>,
) -> Result<Assembled, ExportError> {
    let epoch = form.epoch.or(build.epoch);
    let requests: Vec<_> = build.requests(form).collect();
    let mut layers = layers_of(store, &requests, form.layers, streams)?;
    let media_types = form.media_types();
    for ((_, descriptor), request) in layers.iter_mut().zip(&requests) {
        *descriptor = form.written(descriptor, request.epoch);
    }
    drop(requests);
    let mut config = build.config;
    config.rootfs.diff_ids = layers.iter().map(|(diff_id, _)| diff_id.clone()).collect();
    history::complete(&mut config, &times_of(store, &build.layers), epoch);
    if form.omit_history {
        config.history.clear();
    }
    let layers: Vec<Descriptor> = layers.into_iter().map(|(_, descriptor)| descriptor).collect();
    let carrying = CarryingConfig { config, cache: build.cache };
    let config_bytes = serde_json::to_vec(&carrying).map_err(ExportError::Json)?;
    let config = carrying.config;
    let platform = Platform::new(&config.os, &config.architecture, config.variant.as_deref());
    let document = (media_types.config(), config_bytes);
    let annotations = &form.annotations;
    let manifest = annotations.of(AnnotationLevel::Manifest, &platform);
    let image = Assembled::new(document, layers, (media_types, manifest), platform)?;
    let on_descriptor = annotations.of(AnnotationLevel::ManifestDescriptor, &image.platform);
    let descriptor = Descriptor { annotations: on_descriptor, ..image.descriptor };
    Ok(Assembled { descriptor, created: config.created, ..image })
}

/// When the image of `build` was made, RFC 3339, if anything tells: what its config will say.
pub fn creation_time(store: &Store, build: &ImageBuild) -> Option<String> {
    let mut config = build.config.clone();
    history::complete(&mut config, &times_of(store, &build.layers), build.epoch);
    config.created
}

impl Assembled {
    /// A manifest of a config, with its media type, and layers; it has annotations.
    pub(crate) fn new(
        (config_type, config): (&str, Vec<u8>),
        layers: Vec<Descriptor>,
        (media_types, annotations): (MediaTypes, BTreeMap<String, String>),
        platform: Platform,
    ) -> Result<Self, ExportError> {
        let config_descriptor = Descriptor::of(config_type, &config);
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_types.manifest().to_owned()),
            artifact_type: None,
            config: config_descriptor.clone(),
            layers: layers.clone(),
            subject: None,
            annotations,
        };
        // BuildKit indents manifests by two spaces, and people read them.
        let manifest = serde_json::to_vec_pretty(&manifest).map_err(ExportError::Json)?;
        let descriptor = Descriptor::of(media_types.manifest(), &manifest);
        Ok(Self { descriptor, manifest, config, config_descriptor, layers, platform, created: None })
    }

    /// The image that a manifest in the store describes.
    pub(crate) fn load(store: &Store, descriptor: &Descriptor) -> Result<Self, ExportError> {
        let manifest = store.blobs().read(&descriptor.digest)?;
        let malformed = |source| ExportError::Document { digest: descriptor.digest.clone(), source };
        let parsed: Manifest = serde_json::from_slice(&manifest).map_err(malformed)?;
        let config = store.blobs().read(&parsed.config.digest)?;
        let read: ImageConfig = serde_json::from_slice(&config)
            .map_err(|source| ExportError::Document { digest: parsed.config.digest.clone(), source })?;
        Ok(Self {
            manifest,
            descriptor: descriptor.clone(),
            config,
            config_descriptor: parsed.config,
            layers: parsed.layers,
            platform: Platform::new(&read.os, &read.architecture, read.variant.as_deref()),
            created: read.created,
        })
    }

    /// The manifest's descriptor as it stands in an index: with the platform.
    pub(crate) fn index_entry(&self) -> Descriptor {
        Descriptor { platform: Some(self.platform.clone()), ..self.descriptor.clone() }
    }
}

/// When each layer was made.
pub(crate) fn times_of(store: &Store, layers: &[LayerOrigin]) -> Vec<LayerTime> {
    layers.iter().map(|layer| time_of(store, layer)).collect()
}

fn time_of(store: &Store, layer: &LayerOrigin) -> LayerTime {
    match layer {
        LayerOrigin::Snapshot(snapshot) => {
            made_at(store, snapshot).map_or(LayerTime::Unknown, LayerTime::Made)
        }
        LayerOrigin::Image { descriptor, .. } => {
            let created = descriptor.annotations.get(CREATED);
            created.map_or(LayerTime::Unknown, |text| LayerTime::of_text(text))
        }
        LayerOrigin::Merged { last, .. } => time_of(store, last),
    }
}

/// When a snapshot was committed, in nanoseconds since 1970. Nothing is put into its directory or taken out from then
/// on, so the directory's own time tells, and tells every later build the same.
fn made_at(store: &Store, snapshot: &Snapshot) -> Option<i64> {
    let own = store.own_dir(&snapshot.id);
    let modified = std::fs::metadata(own.parent()?).and_then(|directory| directory.modified()).ok()?;
    i64::try_from(modified.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos()).ok()
}

/// Diff IDs and descriptors of all layers. Those that are known cost a look-up each; the rest are written by as many
/// threads as there are processors.
pub(crate) fn layers_of(
    store: &Store,
    requests: &[LayerRequest<'_>],
    form: LayerForm,
    streams: Option<&Arc<LayerStreams>>,
) -> Result<Vec<Found>, ExportError> {
    let mut found: Vec<Option<Found>> = Vec::with_capacity(requests.len());
    let mut missing = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        let known = match request {
            LayerRequest { origin: LayerOrigin::Image { diff_id, descriptor }, epoch: None }
                if !form.changes(descriptor) =>
            {
                Some((diff_id.clone(), descriptor.clone()))
            }
            LayerRequest { origin: LayerOrigin::Snapshot(snapshot), epoch: None } => {
                known_layer(store, snapshot, form.compression)?
            }
            _ => None,
        };
        if known.is_none() {
            missing.push((index, *request));
        }
        found.push(known);
    }
    for (index, layer) in write_layers(store, &missing, Writing { compression: form.compression, streams })? {
        found[index] = Some(layer);
    }
    Ok(found.into_iter().map(|layer| layer.expect("every missing layer was written")).collect())
}

fn write_layer(store: &Store, request: LayerRequest<'_>, writing: Writing<'_>) -> Result<Found, ExportError> {
    let source = match (request.origin, request.epoch) {
        (LayerOrigin::Snapshot(snapshot), None) => return layer::write(store, snapshot, writing),
        (LayerOrigin::Snapshot(snapshot), Some(_)) => Source::Snapshot(snapshot),
        (LayerOrigin::Image { diff_id, descriptor }, _) => Source::Blob(diff_id, descriptor),
        (LayerOrigin::Merged { below, top, .. }, _) => Source::Merged { below: below.as_ref(), top },
    };
    derive(store, source, writing, request.epoch)
}

fn known_layer(
    store: &Store,
    snapshot: &Snapshot,
    compression: Compression,
) -> Result<Option<Found>, ExportError> {
    let Some(Layer { diff_id, .. }) = store.layer(&snapshot.id)? else { return Ok(None) };
    layer::known(store, &diff_id, compression)
}

fn write_layers(
    store: &Store,
    missing: &[(usize, LayerRequest<'_>)],
    writing: Writing<'_>,
) -> Result<Vec<(usize, Found)>, ExportError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len());
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Ok(Vec::with_capacity(missing.len())));
    let work = || {
        while let Some((index, request)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = write_layer(store, *request, writing);
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            match (&mut *done, result) {
                (Ok(list), Ok(found)) => list.push((*index, found)),
                (Ok(_), Err(error)) => *done = Err(error),
                (Err(_), _) => return,
            }
        }
    };
    // A layer or two of a few bytes are the usual case; they are not worth a thread.
    if threads <= 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
    }
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}
