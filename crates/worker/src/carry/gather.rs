//! What a build leaves for others: which results, and of which layers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cache::{CacheMount, MountAttempt, MountKey, MountSharing, RecordKey, SnapshotId};
use oci::{CacheHash, CacheRecord, Descriptor, DiffId};
use solver::{CacheKey, ExecContext, Graph, InputKey, KnownContent, Op, RunCache, RunMountKind, VertexId};

use crate::local::{Pauses, blocking};
use crate::output::{Output, OutputLayer};
use crate::remote::validators_key;
use crate::run::mount_key;
use crate::{LocalWorker, WorkerError};

/// How much is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CarryMode {
    /// The results that the target lies on, and what is known of the contents of others.
    Min,
    /// All results that the target is made of.
    Max,
}

/// Which cache mounts are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MountFilter {
    /// None.
    #[default]
    None,
    /// All.
    All,
    /// Those with these IDs, as a Dockerfile has them: without a namespace.
    Ids(BTreeSet<String>),
}

/// A build that has ended, and what of it is to be carried.
#[derive(Clone)]
pub struct CarryRequest<'a> {
    /// What was solved.
    pub graph: &'a Graph,
    /// The targets: one for each platform.
    pub targets: &'a [VertexId],
    /// The result of each target.
    pub outputs: &'a [Output],
    /// [`solver::Solved::vertex_keys`].
    pub keys: &'a [Option<CacheKey>],
    /// [`solver::Solved::contents`].
    pub contents: &'a [KnownContent],
    /// How much of it.
    pub mode: CarryMode,
    /// Which of the cache mounts of its steps.
    pub mounts: MountFilter,
    /// Where events go, and what ends the work. Its vertex does not matter.
    pub context: ExecContext,
}

/// What is to be carried.
#[derive(Debug, Default)]
pub struct CarriedResults {
    /// The layers of all results, each after its parent. In [`CarryMode::Min`] they are those of the targets.
    pub layers: Vec<CarriedLayer>,
    /// What is known under each key; layers are numbers in [`CarriedResults::layers`].
    pub records: Vec<CacheRecord>,
    /// What cache mounts hold, in the order of their keys.
    pub mounts: Vec<CarriedMount>,
}

/// A layer on top of another.
#[derive(Debug)]
pub struct CarriedLayer {
    /// The number of the layer below.
    pub parent: Option<usize>,
    /// What it is.
    pub layer: OutputLayer,
}

/// A cache mount.
#[derive(Debug)]
pub struct CarriedMount {
    /// Which.
    pub key: MountKey,
    /// What it holds.
    pub content: MountContent,
}

/// What a cache mount holds.
#[derive(Debug)]
pub enum MountContent {
    /// The files of a directory, which nobody else uses for as long as this lives.
    Directory(CacheMount),
    /// A layer of a cache that this build was given.
    Layer {
        /// The compressed layer.
        descriptor: Box<Descriptor>,
        /// The digest of the uncompressed layer.
        diff_id: DiffId,
    },
}

impl MountFilter {
    /// Whether a cache of that ID (with its namespace) is among them.
    pub fn selects(&self, id: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Ids(ids) => id.split_once('/').is_some_and(|(_, own)| ids.contains(own)),
        }
    }
}

impl LocalWorker {
    /// What is to be carried of a build. Cache mounts are waited for while other builds use them.
    pub async fn gather(&self, request: &CarryRequest<'_>) -> Result<CarriedResults, WorkerError> {
        let mut forest = Forest::default();
        let mut records = Vec::new();
        let is_reached = request.graph.reached(request.targets);
        let reached = request.graph.ids().filter(|vertex| is_reached[vertex.index()]);
        let reached: Vec<VertexId> = reached.collect();
        for (target, output) in request.targets.iter().zip(request.outputs) {
            // Nothing else needs the layers of an image that is the target as it is.
            if request.mode == CarryMode::Min && request.graph.vertex(*target).op.is_step() {
                forest.add(self.layers(output).await?);
            }
        }
        for vertex in reached.iter().copied() {
            let Some(key) = request.keys[vertex.index()] else { continue };
            let mut record = CacheRecord {
                key: CacheHash(key.0),
                layer: None,
                parts: Vec::new(),
                digests: digests_of(request.contents, vertex),
            };
            if request.graph.vertex(vertex).op.is_step()
                && let Some(output) = self.result_of(request, vertex, &key).await?
            {
                let layers = self.layers(&output).await?;
                record.layer = match request.mode {
                    CarryMode::Min => forest.find(&layers),
                    CarryMode::Max => forest.add(layers),
                };
                if record.layer.is_some() {
                    record.parts = self.parts(&key).await?;
                }
            }
            records.extend(self.identity(request, vertex).await?);
            // One that nobody copies from, and whose files are not carried, says nothing.
            if record.layer.is_some() || !record.digests.is_empty() {
                records.push(record);
            }
        }
        records.sort_by_key(|record| record.key);
        records.dedup_by_key(|record| record.key);
        let mounts = self.mounts(request, &reached).await?;
        Ok(CarriedResults { layers: forest.layers, records, mounts })
    }

    /// What was found out about a remote source whose operation does not say what it is.
    async fn identity(
        &self,
        request: &CarryRequest<'_>,
        vertex: VertexId,
    ) -> Result<Option<CacheRecord>, WorkerError> {
        let Op::Http(op) = &request.graph.vertex(vertex).op else { return Ok(None) };
        let key = validators_key(op);
        let parts = self.parts(&CacheKey(key.0)).await?;
        let record = CacheRecord { key: CacheHash(key.0), layer: None, parts, digests: BTreeMap::new() };
        Ok(Some(record).filter(|record| !record.parts.is_empty()))
    }

    async fn result_of(
        &self,
        request: &CarryRequest<'_>,
        vertex: VertexId,
        key: &CacheKey,
    ) -> Result<Option<Output>, WorkerError> {
        if let Some(number) = request.targets.iter().position(|target| *target == vertex) {
            return Ok(Some(request.outputs[number].clone()));
        }
        self.stored(key, &ExecContext { vertex, ..request.context.clone() }).await
    }

    async fn layers(&self, output: &Output) -> Result<Vec<OutputLayer>, WorkerError> {
        let (worker, output) = (self.clone(), output.clone());
        blocking(move || worker.layers_of(&output)).await
    }

    async fn parts(&self, key: &CacheKey) -> Result<Vec<(String, String)>, WorkerError> {
        let stored = self.store().record_parts(&RecordKey(key.0))?;
        match stored {
            Some(parts) => Ok(parts),
            None => Ok(self.imports().parts(key).await.unwrap_or_default()),
        }
    }

    async fn mounts(
        &self,
        request: &CarryRequest<'_>,
        reached: &[VertexId],
    ) -> Result<Vec<CarriedMount>, WorkerError> {
        let mut wanted = BTreeMap::new();
        for vertex in reached.iter().copied() {
            let Op::Run(op) = &request.graph.vertex(vertex).op else { continue };
            for mount in &op.mounts {
                if let RunMountKind::Cache(cache) = &mount.kind
                    && request.mounts.selects(&cache.id)
                    && let Some(key) = key_of(request, vertex, cache)
                {
                    wanted.entry(key).or_insert(vertex);
                }
            }
        }
        let mut found = Vec::new();
        // In the order of the keys, as builds take them.
        for (key, vertex) in wanted {
            let context = ExecContext { vertex, ..request.context.clone() };
            let held = match self.take_mount(&key, &context).await? {
                Some(mount) => Some(MountContent::Directory(mount)),
                None => self.imports().carried_mount(&key).await.map(|(_, mount)| MountContent::Layer {
                    descriptor: Box::new(mount.descriptor),
                    diff_id: mount.diff_id,
                }),
            };
            found.extend(held.map(|content| CarriedMount { key, content }));
        }
        Ok(found)
    }

    /// The directory of a cache mount, which nobody else uses then; `None` if there is nothing in it.
    async fn take_mount(
        &self,
        key: &MountKey,
        context: &ExecContext,
    ) -> Result<Option<CacheMount>, WorkerError> {
        let mut pauses = Pauses::default();
        loop {
            let (store, wanted) = (self.store().clone(), key.clone());
            let attempt = blocking(move || Ok(store.try_existing_mount(&wanted, MountSharing::Locked)?));
            match attempt.await? {
                MountAttempt::Taken(mount) => return Ok(Some(mount).filter(|mount| !mount.is_empty())),
                MountAttempt::Missing => return Ok(None),
                MountAttempt::Busy => {}
            }
            if pauses.is_first() {
                let (vertex, id) = (context.vertex, key.id.clone());
                (context.events)(solver::Event::WaitingForCache { vertex, id });
            }
            pauses.next(context).await?;
        }
    }
}

fn digests_of(contents: &[KnownContent], vertex: VertexId) -> BTreeMap<CacheHash, CacheHash> {
    let of_vertex = contents.iter().filter(|content| content.vertex == vertex);
    of_vertex.map(|content| (CacheHash(content.selector), CacheHash(content.digest.0))).collect()
}

/// Which directory a cache of a step is.
fn key_of(request: &CarryRequest<'_>, vertex: VertexId, cache: &RunCache) -> Option<MountKey> {
    let Some(number) = cache.input else { return Some(mount_key(cache, None)) };
    let input = &request.graph.vertex(vertex).inputs[number];
    let InputKey::Content(selector) = &input.key else { return None };
    let selector = selector.digest();
    let is_it = |content: &&KnownContent| content.vertex == input.vertex && content.selector == selector;
    Some(mount_key(cache, Some(&request.contents.iter().find(is_it)?.digest)))
}

/// Layers that lie on each other.
#[derive(Default)]
struct Forest {
    layers: Vec<CarriedLayer>,
    numbers: HashMap<(Option<usize>, LayerName), usize>,
}

/// What tells a layer from others on the same parent.
#[derive(PartialEq, Eq, Hash)]
enum LayerName {
    Snapshot(SnapshotId),
    Layer(DiffId),
}

impl Forest {
    /// The number of the last of `layers`, which are bottom first; those that are not there yet are added.
    fn add(&mut self, layers: Vec<OutputLayer>) -> Option<usize> {
        let mut parent = None;
        for layer in layers {
            let name = (parent, name_of(&layer));
            let next = self.layers.len();
            let number = *self.numbers.entry(name).or_insert(next);
            if number == next {
                self.layers.push(CarriedLayer { parent, layer });
            }
            parent = Some(number);
        }
        parent
    }

    /// The number of the last of `layers`, if all of them are there.
    fn find(&self, layers: &[OutputLayer]) -> Option<usize> {
        let mut parent = None;
        for layer in layers {
            parent = Some(*self.numbers.get(&(parent, name_of(layer)))?);
        }
        parent
    }
}

fn name_of(layer: &OutputLayer) -> LayerName {
    match layer {
        OutputLayer::Snapshot(snapshot) => LayerName::Snapshot(snapshot.id),
        OutputLayer::Image { diff_id, .. } => LayerName::Layer(diff_id.clone()),
    }
}

#[cfg(test)]
mod tests {
    use oci::Digest;

    use super::*;

    fn layer(name: &str) -> OutputLayer {
        OutputLayer::Image {
            diff_id: DiffId(Digest::sha256(name.as_bytes())),
            descriptor: Descriptor::of("layer", name.as_bytes()),
        }
    }

    fn layers(names: &[&str]) -> Vec<OutputLayer> {
        names.iter().map(|name| layer(name)).collect()
    }

    #[test]
    fn chains_share_what_they_have_in_common() {
        let mut forest = Forest::default();
        assert_eq!(forest.add(layers(&["base", "a"])), Some(1));
        assert_eq!(
            forest.add(layers(&["base", "a", "a"])),
            Some(2),
            "the same layer on itself is another one"
        );
        assert_eq!(forest.add(layers(&["base", "b"])), Some(3));
        assert_eq!(forest.add(layers(&["base"])), Some(0));
        assert_eq!(forest.add(Vec::new()), None);
        let parents: Vec<_> = forest.layers.iter().map(|layer| layer.parent).collect();
        assert_eq!(parents, [None, Some(0), Some(1), Some(0)]);
        assert_eq!(forest.find(&layers(&["base", "b"])), Some(3));
        assert_eq!(forest.find(&layers(&["a"])), None);
        assert_eq!(forest.layers.len(), 4);
    }

    #[test]
    fn caches_are_chosen_by_their_ids_without_namespaces() {
        let ids = MountFilter::Ids(["npm".to_owned(), "/root/.cache".to_owned()].into());
        let cases = [
            ("/npm", true),
            ("team/npm", true),
            ("//root/.cache", true),
            ("/root/.cache", false),
            ("npm", false),
        ];
        for (id, expected) in cases {
            assert_eq!(ids.selects(id), expected, "{id}");
            assert!(MountFilter::All.selects(id) && !MountFilter::None.selects(id));
        }
    }
}
