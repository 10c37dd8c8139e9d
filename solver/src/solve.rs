//! The parallel solve.
//!
//! Two memoized functions solve a graph. `key(v)` hashes the op of `v` with what each input brings: its key, or the
//! digest of the selected part of it. `output(v)` is the result stored under `key(v)`, else that of executing `v` on
//! the outputs of its inputs. Nothing is asked that nobody needs: a hit at the target touches no input.
//!
//! The functions are not written as functions that call each other, since a chain of 20,000 steps would then need a
//! stack or a task for each. [`state`] holds what is known and who waits for it, as plain data; [`Solve`] asks the
//! worker for the rest, all at once, and hands the answers back. It is a single task: what a worker does off the
//! async threads runs in parallel, and a step that is done at once costs no wake-up.
//!
//! **Early starts.** The key of a step that copies from another stage may depend on the content of a result that is
//! still being made. Its chain inputs will most likely be needed too, so they are asked for in the meantime, and two
//! long stages run side by side. It costs a look-up where the guess was wrong.

mod admission;
mod make;
mod state;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::graph::{Graph, VertexId};
use crate::key::{CacheKey, ContentDigest};
use crate::op::RemoteIdentity;
use crate::worker::{Event, EventSink, ExecContext, Worker};
use admission::Admission;
use make::Made;
use state::{DigestId, Request, State};

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
    /// The key of each target; `None` for a context, which has none.
    pub keys: Vec<Option<CacheKey>>,
    /// How many vertices were executed.
    pub executed: usize,
    /// How many results came from the cache.
    pub cached: usize,
    /// The key of each vertex, by its index; `None` for what has none or was not needed. All that a target is made
    /// of has been needed for its key, whether or not it was made.
    pub vertex_keys: Vec<Option<CacheKey>>,
    /// What was found out about contents, in the order in which it was asked.
    pub contents: Vec<KnownContent>,
}

/// The digest of the selected part of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownContent {
    /// Whose result.
    pub vertex: VertexId,
    /// The digest of the selector.
    pub selector: [u8; 32],
    /// The digest of what is selected.
    pub digest: ContentDigest,
}

/// Why a solve ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum SolveError<E: std::error::Error + 'static> {
    /// A vertex failed.
    #[error("vertex {} failed", .vertex.index())]
    Vertex {
        /// Which. Where the content of an input could not be read, the vertex that takes the input.
        vertex: VertexId,
        /// Why.
        #[source]
        error: E,
    },
    /// A result that others were built on vanished while the build used it, and came out differently when it was
    /// made again. Building again helps.
    #[error("the result of vertex {} vanished during the build and came out differently when made again", .vertex.index())]
    Unstable {
        /// Whose result.
        vertex: VertexId,
    },
    /// The build was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
}

/// Solves `graph` for `targets`.
///
/// The first failure cancels what runs ([`ExecContext::cancel`]), waits for it to end, and is the one that is
/// returned. So does [`SolveOptions::cancel`]. A panic of the worker does the same and then goes on.
pub async fn solve<W: Worker>(
    graph: Arc<Graph>,
    targets: &[VertexId],
    worker: Arc<W>,
    options: SolveOptions,
) -> Result<Solved<W::Output>, SolveError<W::Error>> {
    let admission = Admission::new(options.parallelism);
    let shared = Shared {
        graph: &graph,
        worker: &*worker,
        admission: &admission,
        salt: &options.salt,
        events: &options.events,
        cancel: options.cancel.child_token(),
    };
    let mut solve = Solve { shared: &shared, running: FuturesUnordered::new() };
    let mut state = State::new(&graph, &options.salt);
    let outcome = solve.run(&mut state, targets, &options.cancel).await;
    // Early starts may still be running even where the targets are there.
    shared.cancel.cancel();
    let late_panic = solve.wait_for_running(&mut state).await;
    match (outcome, late_panic) {
        (Err(Stop::Panicked(panic)), _) | (_, Some(panic)) => std::panic::resume_unwind(panic),
        (Err(Stop::Failed(error)), None) => Err(error),
        (Ok(()), None) => Ok(state.into_solved(targets)),
    }
}

/// What all calls of the worker may use.
struct Shared<'g, W> {
    graph: &'g Graph,
    worker: &'g W,
    admission: &'g Admission,
    salt: &'g [u8],
    events: &'g EventSink,
    cancel: CancellationToken,
}

impl<W> Shared<'_, W> {
    fn context(&self, vertex: VertexId) -> ExecContext {
        ExecContext { vertex, cancel: self.cancel.clone(), events: self.events.clone() }
    }

    fn tell(&self, event: Event) {
        (self.events)(event);
    }
}

/// Why the loop ended early.
enum Stop<E: std::error::Error + 'static> {
    Failed(SolveError<E>),
    Panicked(Panic),
}

type Panic = Box<dyn Any + Send>;

/// An answer of the worker.
enum Answer<W: Worker> {
    Identified(VertexId, Result<RemoteIdentity, W::Error>),
    Lookup(VertexId, Result<Option<W::Output>, W::Error>),
    Known(DigestId, Result<Option<ContentDigest>, W::Error>),
    Digest(DigestId, Result<ContentDigest, W::Error>),
    Made(VertexId, Result<Made<W::Output>, W::Error>),
    /// The build stopped before the question was put.
    Unasked,
}

/// The part of a solve that talks to the worker.
struct Solve<'g, W: Worker> {
    shared: &'g Shared<'g, W>,
    running: FuturesUnordered<BoxFuture<'g, Result<Answer<W>, Panic>>>,
}

impl<'g, W: Worker> Solve<'g, W> {
    async fn run(
        &mut self,
        state: &mut State<'g, W::Output>,
        targets: &[VertexId],
        cancel: &CancellationToken,
    ) -> Result<(), Stop<W::Error>> {
        let mut cancelled = pin!(cancel.cancelled());
        state.ask_for(targets);
        loop {
            while let Some(request) = state.next_request() {
                let call = self.call(request);
                self.running.push(call);
            }
            for vertex in state.take_expected() {
                self.shared.worker.expect(self.shared.graph.vertex(vertex));
            }
            for vertex in state.take_adopted() {
                self.shared.tell(Event::Cached(vertex));
            }
            if state.has_all(targets) {
                return Ok(());
            }
            let answer = tokio::select! {
                biased;
                () = &mut cancelled => return Err(Stop::Failed(SolveError::Cancelled)),
                answer = self.running.next() => answer.expect("what is asked for and not there is being made"),
            };
            self.take(state, answer.map_err(Stop::Panicked)?).map_err(Stop::Failed)?;
        }
    }

    /// Waits for what still runs; the first panic among it. What it makes counts, though nobody needs it any more.
    async fn wait_for_running(&mut self, state: &mut State<'g, W::Output>) -> Option<Panic> {
        let mut first = None;
        while let Some(answer) = self.running.next().await {
            match answer {
                Err(panic) => drop(first.get_or_insert(panic)),
                Ok(Answer::Made(vertex, Ok(Made::Output(output, origin)))) => {
                    state.made(vertex, output, origin);
                }
                Ok(_) => {}
            }
        }
        first
    }

    fn call(&self, request: Request<'g, W::Output>) -> BoxFuture<'g, Result<Answer<W>, Panic>> {
        let shared = self.shared;
        let guarded = async move {
            if shared.cancel.is_cancelled() { Answer::Unasked } else { Self::put(shared, request).await }
        };
        AssertUnwindSafe(guarded).catch_unwind().boxed()
    }

    async fn put(shared: &'g Shared<'g, W>, request: Request<'g, W::Output>) -> Answer<W> {
        match request {
            Request::Identify { vertex } => {
                let context = shared.context(vertex);
                let identity = shared.worker.identify(shared.graph.vertex(vertex), &context).await;
                Answer::Identified(vertex, identity)
            }
            Request::Lookup { vertex, key } => {
                let found = shared.worker.lookup(&key, &shared.context(vertex)).await;
                Answer::Lookup(vertex, found)
            }
            Request::Known { id, key, selector } => {
                Answer::Known(id, shared.worker.known_digest(&key, selector).await)
            }
            Request::Digest { id, output, key, selector } => {
                Answer::Digest(id, shared.worker.digest(&output, key.as_ref(), selector).await)
            }
            Request::Name { vertex } => Answer::Made(vertex, make::name(shared, vertex).await),
            Request::Make(making) => {
                let vertex = making.vertex;
                Answer::Made(vertex, making.run(shared).await)
            }
        }
    }

    fn take(&self, state: &mut State<'g, W::Output>, answer: Answer<W>) -> Result<(), SolveError<W::Error>> {
        match answer {
            Answer::Identified(vertex, identity) => {
                let identity = identity.map_err(|error| self.failed(vertex, error))?;
                state.identified(vertex, identity);
            }
            Answer::Lookup(vertex, found) => {
                let found = found.map_err(|error| self.failed(vertex, error))?;
                if found.is_some() {
                    self.shared.tell(Event::Cached(vertex));
                }
                state.looked_up(vertex, found);
            }
            Answer::Known(id, known) => {
                let known = known.map_err(|error| self.failed(state.reader(id), error))?;
                state.digest_known(id, known);
            }
            Answer::Digest(id, digest) => {
                let digest = digest.map_err(|error| self.failed(state.reader(id), error))?;
                state.digested(id, digest);
            }
            Answer::Unasked => {}
            Answer::Made(vertex, made) => {
                match made.map_err(|error| SolveError::Vertex { vertex, error })? {
                    Made::Abandoned => {}
                    Made::Unstable(input) => return Err(SolveError::Unstable { vertex: input }),
                    Made::Output(output, origin) => state.made(vertex, output, origin),
                }
            }
        }
        Ok(())
    }

    /// The failure of a call that is not the execution of a vertex, and so has not been told.
    fn failed(&self, vertex: VertexId, error: W::Error) -> SolveError<W::Error> {
        let text = make::with_causes(&error);
        self.shared.tell(Event::Finished { vertex, duration: Duration::ZERO, error: Some(text) });
        SolveError::Vertex { vertex, error }
    }
}
