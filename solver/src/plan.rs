//! What a solve would do, without doing any of it.
//!
//! Keys are made as in a solve, with what is known without executing anything: the content of contexts, which are read,
//! and what the cache knows of earlier results. Where the key of a step depends on the content of a result that is not
//! there, the step may or may not be cached: it is told apart.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::graph::{Graph, InputKey, Selector, VertexId};
use crate::key::{self, CacheKey, ContentDigest, InputPart, KeyParts, Keyed};
use crate::op::{Identity, Op, RemoteIdentity};
use crate::solve::SolveError;
use crate::worker::{ExecContext, Worker};

/// What becomes of a vertex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Nobody needs it: what is made of it is cached, or it is no part of the target.
    Unneeded,
    /// Its result is in the cache.
    Cached,
    /// It is executed.
    Executed {
        /// Its key.
        key: CacheKey,
        /// What the key is made of.
        parts: KeyParts,
    },
    /// It is executed unless the content of what it takes turns out to be that of an earlier build.
    Undecided,
    /// It is no step: an image whose files are needed, or a context that is read.
    Named,
}

/// What [`solve`](crate::solve()) would do for `targets`: the fate of each vertex, in their order. No step is executed;
/// contexts are read, and remote sources are asked what they are.
pub async fn plan<W: Worker>(
    graph: &Graph,
    targets: &[VertexId],
    worker: &W,
    salt: &[u8],
    cancel: &CancellationToken,
) -> Result<Vec<Fate>, SolveError<W::Error>> {
    let (reached, without_cache) = (graph.reached(targets), graph.without_cache());
    let planning = Planning { graph, reached, without_cache, worker, salt, cancel };
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(SolveError::Cancelled),
        fates = planning.run(targets) => fates,
    }
}

struct Planning<'a, W> {
    graph: &'a Graph,
    /// [`Graph::reached`].
    reached: Vec<bool>,
    /// [`Graph::without_cache`].
    without_cache: Vec<bool>,
    worker: &'a W,
    salt: &'a [u8],
    cancel: &'a CancellationToken,
}

/// What is known of a vertex.
#[derive(Default)]
struct Known {
    remote: Option<RemoteIdentity>,
    /// There with the key.
    parts: Vec<InputPart>,
    key: Option<CacheKey>,
}

type Digests<'a> = HashMap<(VertexId, &'a Selector), Option<ContentDigest>>;

impl<'a, W: Worker> Planning<'a, W> {
    async fn run(&self, targets: &[VertexId]) -> Result<Vec<Fate>, SolveError<W::Error>> {
        let mut known: Vec<Known> = self.graph.vertices().iter().map(|_| Known::default()).collect();
        let mut digests = Digests::new();
        for id in self.graph.ids() {
            self.find_key(id, &mut known, &mut digests).await?;
        }
        self.decide(targets, &known).await
    }

    /// The key of a vertex, those of its inputs being known or not.
    async fn find_key(
        &self,
        id: VertexId,
        known: &mut [Known],
        digests: &mut Digests<'a>,
    ) -> Result<(), SolveError<W::Error>> {
        let vertex = self.graph.vertex(id);
        if !self.reached[id.index()] || matches!(vertex.op, Op::Context(_)) {
            return Ok(());
        }
        let mut parts = Vec::with_capacity(vertex.inputs.len());
        for input in &vertex.inputs {
            let part = match &input.key {
                InputKey::Chain => known[input.vertex.index()].key.map(InputPart::Chain),
                InputKey::Content(selector) => {
                    let digest = self.digest((id, input.vertex), selector, known, digests).await?;
                    digest.map(InputPart::Content)
                }
            };
            match part {
                Some(part) => parts.push(part),
                None => return Ok(()),
            }
        }
        let remote = match vertex.op.identity() {
            Identity::Pinned(identity) => Some(identity),
            Identity::Written => None,
            Identity::Asked => {
                let identity = self.worker.identify(vertex, &self.context(id)).await;
                Some(identity.map_err(|error| SolveError::Vertex { vertex: id, error })?)
            }
        };
        let key = key::cache_key(Keyed { op: &vertex.op, remote: remote.as_ref() }, &parts, self.salt);
        let known = &mut known[id.index()];
        (known.remote, known.parts, known.key) = (remote, parts, Some(key));
        Ok(())
    }

    /// The digest of a part of `of` for `reader`, where it can be known.
    async fn digest(
        &self,
        (reader, of): (VertexId, VertexId),
        selector: &'a Selector,
        known: &[Known],
        digests: &mut Digests<'a>,
    ) -> Result<Option<ContentDigest>, SolveError<W::Error>> {
        if let Some(digest) = digests.get(&(of, selector)) {
            return Ok(*digest);
        }
        let failed = |error| SolveError::Vertex { vertex: reader, error };
        let vertex = self.graph.vertex(of);
        let digest = match (&vertex.op, known[of.index()].key) {
            (Op::Context(_) | Op::Scratch, key) => {
                let output = self.worker.exec(vertex, &[], &[], &self.context(of)).await.map_err(failed)?;
                Some(self.worker.digest(&output, key.as_ref(), selector).await.map_err(failed)?)
            }
            (_, Some(key)) if !self.without_cache[of.index()] => {
                self.worker.known_digest(&key, selector).await.map_err(failed)?
            }
            _ => None,
        };
        digests.insert((of, selector), digest);
        Ok(digest)
    }

    /// What is needed, and what becomes of it: from the targets down.
    async fn decide(&self, targets: &[VertexId], known: &[Known]) -> Result<Vec<Fate>, SolveError<W::Error>> {
        let mut needed = vec![false; known.len()];
        for target in targets {
            needed[target.index()] = true;
        }
        let mut fates = vec![Fate::Unneeded; known.len()];
        for id in self.graph.ids().rev() {
            if !needed[id.index()] {
                continue;
            }
            let vertex = self.graph.vertex(id);
            let Known { remote, parts, key } = &known[id.index()];
            let fate = match key {
                _ if !vertex.op.is_step() => Fate::Named,
                None => Fate::Undecided,
                Some(key) => {
                    let found =
                        if self.without_cache[id.index()] { None } else { self.lookup(id, key).await? };
                    if found.is_some() {
                        Fate::Cached
                    } else {
                        let keyed = Keyed { op: &vertex.op, remote: remote.as_ref() };
                        Fate::Executed { key: *key, parts: key::key_parts(keyed, parts, self.salt) }
                    }
                }
            };
            if matches!(fate, Fate::Executed { .. } | Fate::Undecided) {
                for input in &vertex.inputs {
                    needed[input.vertex.index()] = true;
                }
            }
            fates[id.index()] = fate;
        }
        Ok(fates)
    }

    async fn lookup(
        &self,
        vertex: VertexId,
        key: &CacheKey,
    ) -> Result<Option<W::Output>, SolveError<W::Error>> {
        self.worker
            .lookup(key, &self.context(vertex))
            .await
            .map_err(|error| SolveError::Vertex { vertex, error })
    }

    fn context(&self, vertex: VertexId) -> ExecContext {
        ExecContext { vertex, cancel: self.cancel.clone(), events: Arc::new(|_| {}) }
    }
}
