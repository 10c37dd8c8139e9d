//! What the solve asks of those who do the work, and what it tells those who watch.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::graph::{Selector, Vertex, VertexId};
use crate::key::{CacheKey, ContentDigest, KeyParts};
use crate::op::RemoteIdentity;

/// Does the work of vertices and remembers their results.
///
/// All methods may be called for many vertices at once. A method that blocks must move itself off the async threads.
pub trait Worker: Send + Sync + 'static {
    /// The result of a vertex; a handle that is cheap to clone.
    type Output: Clone + Send + Sync + 'static;
    /// Why something failed.
    type Error: std::error::Error + Send + Sync + 'static;
    /// Held while a step runs; see [`Worker::claim`].
    type Guard: Send + 'static;

    /// The result that is stored under `key`, if there is one and it is whole. `context` is that of the vertex whose
    /// key it is: what has to be done for the result later is told as being done for that.
    fn lookup(
        &self,
        key: &CacheKey,
        context: &ExecContext,
    ) -> impl Future<Output = Result<Option<Self::Output>, Self::Error>> + Send;

    /// The digest of the selected part of the result stored under `key`, if it is known without looking at the
    /// result itself. That result has to stay for as long as the build may ask for it.
    fn known_digest(
        &self,
        key: &CacheKey,
        selector: &Selector,
    ) -> impl Future<Output = Result<Option<ContentDigest>, Self::Error>> + Send;

    /// The digest of the selected part of `output`. `key` is that of the vertex that made `output`, so that the
    /// digest can be remembered for [`Worker::known_digest`]; `None` for what may not be remembered.
    fn digest(
        &self,
        output: &Self::Output,
        key: Option<&CacheKey>,
        selector: &Selector,
    ) -> impl Future<Output = Result<ContentDigest, Self::Error>> + Send;

    /// What the remote source that `vertex` names is at present. Asked at most once for each vertex of a build, and
    /// only where the operation does not say it itself ([`crate::Op::identity`]). What is fetched on the way should be
    /// kept for [`Worker::exec`].
    fn identify(
        &self,
        vertex: &Vertex,
        context: &ExecContext,
    ) -> impl Future<Output = Result<RemoteIdentity, Self::Error>> + Send;

    /// Says that `vertex` will be executed as soon as what it is made from is there, unless another process stores its
    /// result first: a chance to begin early with what that takes. Must not block.
    fn expect(&self, _vertex: &Vertex) {}

    /// Claims `key` before its vertex is executed, waiting for another process that is executing it.
    /// Without `lookup` the answer is never a [`Claim::Hit`]; the claim still keeps two builds from writing one
    /// result at once.
    fn claim(
        &self,
        vertex: &Vertex,
        key: &CacheKey,
        context: &ExecContext,
        lookup: bool,
    ) -> impl Future<Output = Result<Claim<Self::Output, Self::Guard>, Self::Error>> + Send;

    /// Makes inputs ready (pulls and applies layers) before a permit is taken.
    fn prepare(
        &self,
        vertex: &Vertex,
        inputs: &[Self::Output],
        context: &ExecContext,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Returns once the machine has room (memory) for another step, `vertex`. Asked for RUN alone, for one vertex at a
    /// time, and only while others are executed; the answer is not waited for once they have ended. Whoever waits
    /// [tells](Event::WaitingForMemory).
    fn room(
        &self,
        _vertex: &Vertex,
        _context: &ExecContext,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// Executes `vertex`. For an op that is no [step](crate::Op::is_step) it only names what its output stands for:
    /// nothing was claimed, and nothing will be saved. `inputs` are in the order of the vertex's inputs; `content` has, for each of them, the
    /// digest that went into the key (`None` for chain inputs).
    fn exec(
        &self,
        vertex: &Vertex,
        inputs: &[Self::Output],
        content: &[Option<ContentDigest>],
        context: &ExecContext,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;

    /// Stores `output` and gives up the claim. Returns the result that holds.
    fn save(
        &self,
        key: &CacheKey,
        output: Self::Output,
        saving: Saving,
        guard: Self::Guard,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;
}

/// How a result is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saving {
    /// The name of the step, for people.
    pub name: String,
    /// What its key is made of.
    pub parts: Arc<KeyParts>,
    /// Whether it takes the place of an earlier result of its key; else the earlier one stays and holds.
    pub replace: bool,
}

/// What a claim found.
#[derive(Debug)]
pub enum Claim<O, G> {
    /// Another process has stored a result in the meantime.
    Hit(O),
    /// The vertex is ours to execute.
    Execute(G),
}

/// What the execution of a vertex may use.
#[derive(Clone)]
pub struct ExecContext {
    /// The vertex.
    pub vertex: VertexId,
    /// Ends when the build is to stop.
    pub cancel: CancellationToken,
    /// Where events go.
    pub events: EventSink,
}

/// Takes events; called from any thread, must not block for long.
pub type EventSink = Arc<dyn Fn(Event) + Send + Sync>;

/// What happens during a solve.
#[derive(Debug, Clone)]
pub enum Event {
    /// A vertex's result was found in the cache.
    Cached(VertexId),
    /// A step has to be executed: there is no result under its key.
    Missed {
        /// The vertex.
        vertex: VertexId,
        /// The key.
        key: CacheKey,
        /// What the key is made of.
        parts: Arc<KeyParts>,
    },
    /// The execution of a vertex began.
    Started(VertexId),
    /// A vertex waits for another process that executes the same step.
    Waiting {
        /// The vertex.
        vertex: VertexId,
        /// The process, where it is known.
        process: Option<u32>,
    },
    /// A vertex waits for a cache that other steps use.
    WaitingForCache {
        /// The vertex.
        vertex: VertexId,
        /// Which cache: [`RunCache::id`](crate::RunCache::id).
        id: String,
    },
    /// A RUN waits for memory that other steps use.
    WaitingForMemory {
        /// The vertex.
        vertex: VertexId,
        /// The bytes that there are.
        available_bytes: u64,
        /// The bytes that there have to be.
        reserve_bytes: u64,
    },
    /// Output of a RUN.
    Log {
        /// The vertex.
        vertex: VertexId,
        /// Which stream.
        stream: LogStream,
        /// Bytes as they came; whole lines where the process writes lines.
        data: Vec<u8>,
    },
    /// A transfer or another countable activity of a vertex.
    Progress {
        /// The vertex.
        vertex: VertexId,
        /// What (`sha256:… pull`).
        name: String,
        /// How much is done, in bytes.
        current: u64,
        /// How much there is, in bytes, where known.
        total: Option<u64>,
    },
    /// Something that people should know.
    Warning {
        /// The vertex.
        vertex: VertexId,
        /// The text.
        message: String,
    },
    /// The execution of a vertex ended; also the failure of one that never [started](Event::Started).
    Finished {
        /// The vertex.
        vertex: VertexId,
        /// How long it took.
        duration: Duration,
        /// Why it failed, where it did: the error and its causes in one line.
        error: Option<String>,
    },
}

/// A stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}
