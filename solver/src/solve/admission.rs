//! When a step may start: while fewer than the permitted number of vertices are executed, and, for a RUN, while the
//! worker has room for it or nothing else is executed.

use tokio::sync::{Mutex, Semaphore, SemaphorePermit, watch};

use crate::graph::Vertex;
use crate::op::Op;
use crate::worker::{ExecContext, Worker};

/// Lets steps start.
pub(super) struct Admission {
    permits: Semaphore,
    /// Held by the RUN that is next: the room that there is must not be given to several at once, and only one waits
    /// with a permit.
    next: Mutex<()>,
    /// How many vertices are executed.
    running: watch::Sender<usize>,
}

/// The place of a vertex that is executed, given up when this is dropped.
pub(super) struct Place<'a> {
    running: &'a watch::Sender<usize>,
    _permit: SemaphorePermit<'a>,
}

impl<'a> Place<'a> {
    fn take(running: &'a watch::Sender<usize>, permit: SemaphorePermit<'a>) -> Self {
        running.send_modify(|count| *count += 1);
        Self { running, _permit: permit }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.running.send_modify(|count| *count -= 1);
    }
}

impl Admission {
    /// For at most `parallelism` vertices at once.
    pub(super) fn new(parallelism: usize) -> Self {
        let permits = Semaphore::new(parallelism.clamp(1, Semaphore::MAX_PERMITS));
        Self { permits, next: Mutex::default(), running: watch::Sender::new(0) }
    }

    /// Waits for a place; `None` if the build stops first.
    pub(super) async fn place<W: Worker>(
        &self,
        worker: &W,
        vertex: &Vertex,
        context: &ExecContext,
    ) -> Result<Option<Place<'_>>, W::Error> {
        tokio::select! {
            biased;
            () = context.cancel.cancelled() => Ok(None),
            place = self.wait(worker, vertex, context) => place.map(Some),
        }
    }

    async fn wait<W: Worker>(
        &self,
        worker: &W,
        vertex: &Vertex,
        context: &ExecContext,
    ) -> Result<Place<'_>, W::Error> {
        if !matches!(vertex.op, Op::Run(_)) {
            return Ok(Place::take(&self.running, self.permit().await));
        }
        let _next = self.next.lock().await;
        let permit = self.permit().await;
        let mut running = self.running.subscribe();
        tokio::select! {
            biased;
            // There is always a step that goes on. The sender lives as long as this.
            _ = running.wait_for(|count| *count == 0) => {}
            room = worker.room(vertex, context) => room?,
        }
        Ok(Place::take(&self.running, permit))
    }

    async fn permit(&self) -> SemaphorePermit<'_> {
        self.permits.acquire().await.expect("the semaphore is never closed")
    }
}
