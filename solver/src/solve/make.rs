//! Making a result that is not in the cache.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use crate::graph::{Selector, VertexId};
use crate::key::{self, CacheKey, ContentDigest, InputPart, Keyed};
use crate::op::RemoteIdentity;
use crate::worker::{Claim, Event, Saving, Worker};

/// Everything that making the result of one step needs.
pub(super) struct Making<'g, O> {
    pub(super) vertex: VertexId,
    pub(super) key: CacheKey,
    /// Whether the cache is only written to.
    pub(super) no_cache: bool,
    /// The outputs of the inputs.
    pub(super) inputs: Vec<O>,
    /// What a remote source was found to be.
    pub(super) remote: Option<RemoteIdentity>,
    /// What each input brought into the key.
    pub(super) parts: Vec<InputPart>,
    /// The inputs whose content was known before they were made again.
    pub(super) doubtful: Vec<Doubtful<'g>>,
}

/// An input whose digest was told by [`Worker::known_digest`] and which had to be executed nevertheless.
pub(super) struct Doubtful<'g> {
    pub(super) index: usize,
    pub(super) vertex: VertexId,
    pub(super) key: CacheKey,
    pub(super) selector: &'g Selector,
    pub(super) expected: ContentDigest,
}

/// What became of it.
pub(super) enum Made<O> {
    Output(O, Origin),
    /// The build stopped first.
    Abandoned,
    /// The input was made again and differs from what the key says of it.
    Unstable(VertexId),
}

/// Where an output is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Cached,
    Executed,
    /// Another vertex of the build has the same key.
    Adopted,
    /// It is no step: its output only names something.
    Named,
}

/// The output of a vertex that is no step. It takes no place: nothing is done yet.
pub(super) async fn name<W: Worker>(
    shared: &Shared<'_, W>,
    vertex: VertexId,
) -> Result<Made<W::Output>, W::Error> {
    let context = shared.context(vertex);
    let output = shared.worker.exec(shared.graph.vertex(vertex), &[], &[], &context).await?;
    Ok(Made::Output(output, Origin::Named))
}

impl<O: Clone + Send + Sync + 'static> Making<'_, O> {
    pub(super) async fn run<W: Worker<Output = O>>(
        self,
        shared: &Shared<'_, W>,
    ) -> Result<Made<O>, W::Error> {
        let mut started = None;
        let made = self.make(shared, &mut started).await;
        let duration = started.map_or(Duration::ZERO, |at: Instant| at.elapsed());
        let error = made.as_ref().err().map(|error| with_causes(error));
        if error.is_some() || started.is_some() {
            shared.tell(Event::Finished { vertex: self.vertex, duration, error });
        }
        made
    }

    async fn make<W: Worker<Output = O>>(
        &self,
        shared: &Shared<'_, W>,
        started: &mut Option<Instant>,
    ) -> Result<Made<O>, W::Error> {
        let worker = shared.worker;
        let vertex = shared.graph.vertex(self.vertex);
        let context = shared.context(self.vertex);
        if let Some(changed) = self.changed_input(worker).await? {
            return Ok(Made::Unstable(changed));
        }
        let guard = match worker.claim(vertex, &self.key, &context, !self.no_cache).await? {
            Claim::Hit(output) => {
                shared.tell(Event::Cached(self.vertex));
                return Ok(Made::Output(output, Origin::Cached));
            }
            Claim::Execute(guard) => guard,
        };
        if context.cancel.is_cancelled() {
            return Ok(Made::Abandoned);
        }
        let keyed = Keyed { op: &vertex.op, remote: self.remote.as_ref() };
        let parts = Arc::new(key::key_parts(keyed, &self.parts, shared.salt));
        shared.tell(Event::Missed { vertex: self.vertex, key: self.key, parts: Arc::clone(&parts) });
        worker.prepare(vertex, &self.inputs, &context).await?;
        let output = {
            let Some(place) = shared.admission.place(worker, vertex, &context).await? else {
                return Ok(Made::Abandoned);
            };
            *started = Some(Instant::now());
            shared.tell(Event::Started(self.vertex));
            let output = worker.exec(vertex, &self.inputs, &self.content(), &context).await?;
            drop(place);
            output
        };
        let saving = Saving { name: vertex.meta.name.clone(), parts, replace: self.no_cache };
        let output = worker.save(&self.key, output, saving, guard).await?;
        Ok(Made::Output(output, Origin::Executed))
    }

    /// The first input whose content is not what the key says.
    async fn changed_input<W: Worker<Output = O>>(&self, worker: &W) -> Result<Option<VertexId>, W::Error> {
        for input in &self.doubtful {
            let output = &self.inputs[input.index];
            if worker.digest(output, Some(&input.key), input.selector).await? != input.expected {
                return Ok(Some(input.vertex));
            }
        }
        Ok(None)
    }

    fn content(&self) -> Vec<Option<ContentDigest>> {
        let digest = |part: &InputPart| match part {
            InputPart::Chain(_) => None,
            InputPart::Content(digest) => Some(*digest),
        };
        self.parts.iter().map(digest).collect()
    }
}

/// The text of an error and of what caused it, in one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
