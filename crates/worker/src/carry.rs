//! Carried caches: results of builds elsewhere, which lie in registries and layouts.
//!
//! Of a cache only its manifest and its config are read. What a key stands for is answered from that; layers are pulled
//! once a step needs the files of a result, or an export its blobs. A layer that cannot be had then is *lost*: the
//! records that need it are forgotten, so that whoever solves the graph again has their steps executed.
//!
//! The store always answers first. But what was once answered from a cache is answered from it for the whole build: a
//! key's result and the digests of its contents have to belong together.

mod fetch;
mod gather;
mod import;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cache::MountKey;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, join_all};
use oci::{Descriptor, Digest, ImageReference};
use solver::{CacheKey, ContentDigest, ExecContext, ImageLocation, Selector};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use crate::image::ImageError;
use crate::output::PendingImage;

pub use gather::{
    CarriedLayer, CarriedMount, CarriedResults, CarryMode, CarryRequest, MountContent, MountFilter,
};
pub(crate) use import::ImportedMount;
use import::ImportedRecord;
pub use import::{Import, ImportSource};

/// The caches of one build, in the order in which they are asked.
pub struct Imports {
    reading: Shared<BoxFuture<'static, Arc<[Arc<Import>]>>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The keys that were answered from a cache.
    answered: HashSet<CacheKey>,
    /// Whether records without a result count for nothing, since one was wrong.
    without_hints: bool,
    /// What was lost, for people.
    losses: Vec<String>,
}

/// A result of a carried cache that need not have been pulled.
#[derive(Debug)]
pub struct CarriedOutput {
    pub(crate) import: Arc<Import>,
    /// The number of its uppermost layer.
    pub(crate) layer: usize,
    pub(crate) pending: PendingImage,
    /// There once it has been pulled.
    pub(crate) kept: OnceCell<cache::Snapshot>,
}

/// What is known under a key.
struct Found<'a> {
    import: &'a Arc<Import>,
    record: &'a ImportedRecord,
}

impl std::fmt::Debug for Imports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Imports").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Default for Imports {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Imports {
    /// The caches that `tasks` read; one that cannot be read is none.
    pub fn new(tasks: Vec<JoinHandle<Vec<Import>>>) -> Self {
        let reading = join_all(tasks).map(|read| {
            let caches = read.into_iter().flat_map(|caches| match caches {
                Ok(caches) => caches,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is going down, and the build with it.
                    Err(_) => Vec::new(),
                },
            });
            caches.map(Arc::new).collect()
        });
        Self { reading: reading.boxed().shared(), state: Mutex::default() }
    }

    /// All of them, once they have been read.
    async fn all(&self) -> Arc<[Arc<Import>]> {
        self.reading.clone().await
    }

    /// What was lost since this was last asked: why, for people. Where there is anything, solving again may succeed.
    pub fn take_losses(&self) -> Vec<String> {
        let mut state = self.state();
        // The next solve may find other results here.
        state.answered.clear();
        std::mem::take(&mut state.losses)
    }

    /// Forgets what is only known of the contents of results that no cache has, since it was wrong for one. Returns
    /// whether there was anything to forget.
    pub async fn forget_hints(&self) -> bool {
        let had = self.all().await.iter().any(|import| import.has_hints());
        let mut state = self.state();
        state.answered.clear();
        !std::mem::replace(&mut state.without_hints, true) && had
    }

    /// Notes that what is only known of a result was wrong, and forgets all that is.
    pub(crate) fn distrust_hints(&self, reason: &dyn std::error::Error) {
        let mut state = self.state();
        // Building again helps once.
        if !std::mem::replace(&mut state.without_hints, true) {
            state.losses.push(with_causes(reason));
        }
    }

    /// Whether answers for `key` have come from a cache.
    pub(crate) fn has_answered(&self, key: &CacheKey) -> bool {
        self.state().answered.contains(key)
    }

    /// The result under `key`.
    pub(crate) async fn output(&self, key: &CacheKey, context: &ExecContext) -> Option<CarriedOutput> {
        let all = self.all().await;
        let Found { import, record } = self.find(&all, key)?;
        let layer = record.layer?;
        self.state().answered.insert(*key);
        let pending = PendingImage::new(import.image(layer), context);
        Some(CarriedOutput { import: Arc::clone(import), layer, pending, kept: OnceCell::new() })
    }

    /// The digest of what `selector` selects of the result under `key`.
    pub(crate) async fn known_digest(&self, key: &CacheKey, selector: &Selector) -> Option<ContentDigest> {
        let all = self.all().await;
        let digest = self.find(&all, key)?.record.digests.get(&selector.digest()).copied()?;
        self.state().answered.insert(*key);
        Some(ContentDigest(digest))
    }

    /// The parts of `key`.
    pub(crate) async fn parts(&self, key: &CacheKey) -> Option<Vec<(String, String)>> {
        let all = self.all().await;
        Some(self.find(&all, key)?.record.parts.clone())
    }

    /// What a cache mount held, in the first cache that has it.
    async fn carried_mount(&self, key: &MountKey) -> Option<(Arc<Import>, ImportedMount)> {
        self.mount(key, |_| true).await
    }

    /// The same, of those caches that it is to be restored from.
    pub(crate) async fn restorable_mount(&self, key: &MountKey) -> Option<(Arc<Import>, ImportedMount)> {
        self.mount(key, |import| import.restores(&key.id)).await
    }

    async fn mount(
        &self,
        key: &MountKey,
        counts: impl Fn(&Import) -> bool,
    ) -> Option<(Arc<Import>, ImportedMount)> {
        let all = self.all().await;
        let found = |import: &Arc<Import>| Some((Arc::clone(import), import.mount(key)?));
        all.iter().filter(|import| counts(import)).find_map(found)
    }

    /// The first cache that has the result of `key`; else the first that knows something of its contents.
    fn find<'a>(&self, all: &'a [Arc<Import>], key: &CacheKey) -> Option<Found<'a>> {
        let records = all.iter().filter_map(|import| Some(Found { import, record: import.record(key)? }));
        let (whole, hints): (Vec<_>, Vec<_>) = records
            .filter(|found| found.import.is_whole(found.record))
            .partition(|found| found.record.layer.is_some());
        let hint = hints.into_iter().next().filter(|_| !self.state().without_hints);
        whole.into_iter().next().or(hint)
    }

    /// Notes that something of `import` could not be had.
    pub(crate) fn note_loss(&self, import: &Import, error: &ImageError) {
        let Some(loss) = error.loss() else { return };
        import.lose(loss);
        self.state().losses.push(with_causes(error));
    }

    /// Brings a layer that a cache has into the store. `Ok(false)` if none has it.
    pub(crate) async fn fetch_layer(&self, layer: &Descriptor) -> Result<bool, ImageError> {
        let mut last = None;
        for import in self.all().await.iter().filter(|import| import.has_blob(&layer.digest)) {
            match import.fetch(layer).await {
                Ok(()) => return Ok(true),
                Err(error) => {
                    self.note_loss(import, &error);
                    last = Some(error);
                }
            }
        }
        last.map_or(Ok(false), Err)
    }

    /// The repositories of caches that have a blob.
    pub(crate) async fn repositories(&self, blob: &Digest) -> Vec<ImageReference> {
        let all = self.all().await;
        let having = all.iter().filter(|import| import.has_blob(blob));
        let location = having.filter_map(|import| match import.location() {
            ImageLocation::Registry(reference) => Some(reference.clone()),
            ImageLocation::OciLayout { .. } | ImageLocation::Store(_) => None,
        });
        location.collect()
    }

    /// What a thread that panicked leaves is whole, as every change is one operation.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
