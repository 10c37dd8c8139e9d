//! The parallel solve.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::graph::{Graph, VertexId};
use crate::key::CacheKey;
use crate::worker::{EventSink, Worker};

/// How to solve.
#[derive(Clone)]
pub struct SolveOptions {
    /// How many vertices may be executed at once.
    pub parallelism: usize,
    /// What enters every key beside the graph: the mode of ids of the store.
    pub salt: Vec<u8>,
    /// Ends when the build is to stop.
    pub cancel: CancellationToken,
    /// Where events go.
    pub events: EventSink,
}

/// What a solve found.
#[derive(Debug, Clone)]
pub struct Solved<O> {
    /// The result of each target, in the order they were asked for.
    pub outputs: Vec<O>,
    /// The key of each target.
    pub keys: Vec<CacheKey>,
    /// How many vertices were executed.
    pub executed: usize,
    /// How many results came from the cache.
    pub cached: usize,
}

/// Why a solve ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum SolveError<E: std::error::Error + 'static> {
    /// A vertex failed.
    #[error("vertex {} failed", .vertex.index())]
    Vertex {
        /// Which.
        vertex: VertexId,
        /// Why.
        #[source]
        error: E,
    },
    /// The build was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
}

/// Solves `graph` for `targets`.
pub async fn solve<W: Worker>(
    graph: Arc<Graph>,
    targets: &[VertexId],
    worker: Arc<W>,
    options: SolveOptions,
) -> Result<Solved<W::Output>, SolveError<W::Error>> {
    let _ = (graph, targets, worker, options);
    Err(SolveError::Cancelled)
}
