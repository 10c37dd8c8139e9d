//! Results of vertices, and the images among them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cache::{Snapshot, Store};
use oci::{ChainId, Descriptor, DiffId};
use solver::{Event, ExecContext, ImageSource};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::carry::CarriedOutput;
use crate::image::{ImageStore, LazyImage};
use crate::local::blocking;
use crate::{LocalWorker, WorkerError};

/// The name under which the store keeps which compressed layer a layer of a base image came as.
const PULLED: &str = "pulled";

/// The result of a vertex. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Output {
    /// The empty root file system.
    Scratch,
    /// A directory of this machine, by the name the worker knows it under.
    Context(String),
    /// An image that need not have been pulled.
    Image(Arc<PendingImage>),
    /// A result of a cache that lies elsewhere, which need not have been pulled.
    Carried(Arc<CarriedOutput>),
    /// A snapshot of the store.
    Snapshot(Snapshot),
}

/// An image that is pulled once a step needs its files.
#[derive(Debug)]
pub struct PendingImage {
    image: LazyImage,
    /// The vertex that named it, which is shown pulling.
    context: PullContext,
}

struct PullContext(ExecContext);

impl std::fmt::Debug for PullContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PullContext").field(&self.0.vertex).finish()
    }
}

impl PendingImage {
    /// An image that the vertex of `context` stands for.
    pub(crate) fn new(image: LazyImage, context: &ExecContext) -> Self {
        Self { image, context: PullContext(context.clone()) }
    }

    /// What the image consists of.
    pub fn image(&self) -> &LazyImage {
        &self.image
    }
}

/// A layer of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a build has a handful of them")]
pub enum OutputLayer {
    /// What the snapshot has on top of its parent.
    Snapshot(Snapshot),
    /// A layer of a base image as it came. Its blob need not be in the store.
    Image {
        /// The digest of the uncompressed layer.
        diff_id: DiffId,
        /// The compressed layer.
        descriptor: Descriptor,
    },
}

impl LocalWorker {
    /// The layers that make up `output`, bottom first; none for a context. Blocks.
    pub fn layers_of(&self, output: &Output) -> Result<Vec<OutputLayer>, WorkerError> {
        match output {
            Output::Scratch | Output::Context(_) => Ok(Vec::new()),
            Output::Image(pending) => Ok(image_layers(&pending.image)),
            Output::Carried(carried) => Ok(image_layers(&carried.pending.image)),
            Output::Snapshot(snapshot) => snapshot_layers(self.store(), snapshot),
        }
    }
}

fn image_layers(image: &LazyImage) -> Vec<OutputLayer> {
    let layers = image.diff_ids.iter().zip(&image.manifest.layers);
    let layer = |(diff_id, descriptor): (&DiffId, &Descriptor)| OutputLayer::Image {
        diff_id: diff_id.clone(),
        descriptor: descriptor.clone(),
    };
    layers.map(layer).collect()
}

/// The layers of a base image lie below all others. A snapshot is one of them if it is the one that the store keeps
/// under the chain ID that it and those below it have: what a step made has no chain ID, even where its layer (an empty
/// one, say) is the same as some base's.
fn snapshot_layers(store: &Store, snapshot: &Snapshot) -> Result<Vec<OutputLayer>, WorkerError> {
    let mut layers = Vec::new();
    let mut base: Option<ChainId> = None;
    let mut is_base = true;
    for snapshot in store.chain(snapshot)? {
        let pulled = if is_base { pulled_layer(store, &snapshot, &mut base)? } else { None };
        is_base = pulled.is_some();
        layers.push(pulled.unwrap_or(OutputLayer::Snapshot(snapshot)));
    }
    Ok(layers)
}

/// The layer of `snapshot` as it was pulled, if it is that of an image on top of `base`, which becomes its chain ID.
fn pulled_layer(
    store: &Store,
    snapshot: &Snapshot,
    base: &mut Option<ChainId>,
) -> Result<Option<OutputLayer>, WorkerError> {
    let Some(layer) = store.layer(&snapshot.id)? else { return Ok(None) };
    let chain = ChainId::extend(base.as_ref(), &layer.diff_id);
    if store.snapshot_by_chain(&chain)?.is_none_or(|of_chain| of_chain.id != snapshot.id) {
        return Ok(None);
    }
    *base = Some(chain);
    let descriptor = store.variant(&layer.diff_id, PULLED)?;
    Ok(descriptor.map(|descriptor| OutputLayer::Image { diff_id: layer.diff_id, descriptor }))
}

/// How long a pull may go on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until<'a> {
    /// To the end of the solve that named the image.
    SolveEnds,
    /// Until this is cancelled.
    Cancelled(&'a CancellationToken),
}

/// The images of a build, each pulled once.
#[derive(Debug)]
pub(crate) struct Images {
    store: Store,
    source: ImageStore,
    /// By chain ID: who pulls an image, and what came of it.
    pulls: Mutex<HashMap<ChainId, Arc<OnceCell<Snapshot>>>>,
}

impl Images {
    pub(crate) fn new(store: Store, source: ImageStore) -> Self {
        Self { store, source, pulls: Mutex::default() }
    }

    pub(crate) fn store(&self) -> &ImageStore {
        &self.source
    }

    /// The output of the vertex of an image. Only manifest and config are read.
    pub(crate) async fn name(
        &self,
        image: &ImageSource,
        context: &ExecContext,
    ) -> Result<Arc<PendingImage>, WorkerError> {
        let image = self.source.lazy(image).await?;
        Ok(Arc::new(PendingImage::new(image, context)))
    }

    /// The snapshot of an image; `None` for one without layers. Whoever comes while it is being pulled waits for it.
    /// `source` reaches it.
    pub(crate) async fn pull(
        &self,
        source: &ImageStore,
        pending: &PendingImage,
        until: Until<'_>,
    ) -> Result<Option<Snapshot>, WorkerError> {
        let Some(chain) = pending.image.chain_ids.last() else { return Ok(None) };
        let cell = {
            let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(pulls.entry(chain.clone()).or_default())
        };
        Ok(Some(*cell.get_or_try_init(|| self.pull_now(source, pending, until)).await?))
    }

    async fn pull_now(
        &self,
        source: &ImageStore,
        pending: &PendingImage,
        until: Until<'_>,
    ) -> Result<Snapshot, WorkerError> {
        let (store, layers) = (self.store.clone(), image_layers(&pending.image));
        if let Some(snapshot) = source.materialized(&pending.image)? {
            // Another build may have pulled it, and died before it remembered them.
            blocking(move || remember_layers(&store, &layers)).await?;
            return Ok(snapshot);
        }
        let mut context = pending.context.0.clone();
        if let Until::Cancelled(token) = until {
            context.cancel = token.clone();
        }
        let began = Instant::now();
        (context.events)(Event::Started(context.vertex));
        let pulled = source.materialize(&pending.image, &context).await;
        let error = pulled.as_ref().err().map(ToString::to_string);
        (context.events)(Event::Finished { vertex: context.vertex, duration: began.elapsed(), error });
        let snapshot = pulled?.expect("an image with a chain ID has a snapshot");
        blocking(move || remember_layers(&store, &layers)).await?;
        Ok(snapshot)
    }
}

/// Keeps how the layers came, for builds that find them in the store and never see the manifest.
fn remember_layers(store: &Store, layers: &[OutputLayer]) -> Result<(), WorkerError> {
    for layer in layers {
        if let OutputLayer::Image { diff_id, descriptor } = layer
            && store.variant(diff_id, PULLED)?.as_ref() != Some(descriptor)
        {
            store.set_variant(diff_id, PULLED, descriptor)?;
        }
    }
    Ok(())
}
