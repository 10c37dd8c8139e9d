//! What builds leave behind for people: which steps they had, how each went, how long it took and what it wrote.

mod commands;
mod past;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cache::{BuildId, HistoryBounds, Store};
use jiff::Timestamp;
use oci::{CacheHash, Descriptor};
use serde::{Deserialize, Serialize};
use solver::{CacheKey, Event, Graph, KeyParts, Op, VertexId};

use crate::explain::{self, Reason};
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::report::Failure;
use crate::session::blocking;

pub(crate) use commands::{explain, run};
pub(crate) use past::Past;

/// Documents of other versions are not read.
const VERSION: u32 = 1;

/// A build, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Document {
    version: u32,
    #[serde(flatten)]
    pub(crate) subject: Subject,
    /// RFC 3339.
    started: String,
    duration_ms: u64,
    status: Status,
    /// Why it failed.
    error: Option<String>,
    image: Option<ImageRecord>,
    /// What the names of base images stood for: digests of manifests.
    bases: BTreeMap<String, String>,
    steps: Vec<StepRecord>,
}

/// What is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subject {
    /// The Dockerfile: a path, or the context where it comes with that.
    pub(crate) dockerfile: String,
    pub(crate) context: String,
    pub(crate) target: Option<String>,
    pub(crate) platforms: Vec<String>,
    pub(crate) tags: Vec<String>,
}

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Succeeded,
    Failed,
    Canceled,
}

/// The image that was made: in the first encoding, if outputs ask for several.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ImageRecord {
    digest: String,
    /// The compressed size of its layers.
    size_bytes: u64,
}

/// A step of a build.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StepRecord {
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
    duration_ms: u64,
    pub(crate) key: Option<CacheHash>,
    /// Whether the cache was not to be asked.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) no_cache: bool,
    /// Of one that was executed: what it was made of, in the order of the parts of its key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) inputs: Vec<InputRecord>,
    /// Likewise: the parts of its key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) parts: Vec<(String, String)>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// Its result was in the cache, or nobody needed more of it than its key.
    Cached,
    Executed,
    Failed,
    /// Something else ended the build first.
    Canceled,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Executed => "executed",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

/// What a step is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct InputRecord {
    pub(crate) kind: InputKind,
    /// The name of the image, the context or the step.
    pub(crate) name: String,
}

/// What kind of thing a step is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum InputKind {
    Image,
    Context,
    Step,
}

/// A build that goes on.
pub(crate) struct Recording {
    subject: Subject,
    id: BuildId,
    started: Timestamp,
    begun: Instant,
    steps: OnceLock<Steps>,
    /// For `--explain`.
    past: OnceLock<Past>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    steps: HashMap<VertexId, Seen>,
    image: Option<ImageRecord>,
}

#[derive(Default)]
struct Seen {
    outcome: Option<Outcome>,
    duration: Duration,
    key: Option<CacheKey>,
    parts: Option<Arc<KeyParts>>,
}

impl Recording {
    /// Begins with a build.
    pub(crate) fn begin(subject: Subject) -> Self {
        Self {
            subject,
            id: BuildId::new(),
            started: Timestamp::now(),
            begun: Instant::now(),
            steps: OnceLock::new(),
            past: OnceLock::new(),
            state: Mutex::default(),
        }
    }

    /// The ID of the build, and when it began, RFC 3339.
    pub(crate) fn identity(&self) -> (String, String) {
        (self.id.as_str().to_owned(), self.started.to_string())
    }

    /// Says what the vertices of the events to come are.
    pub(crate) fn attach(&self, graph: Arc<Graph>) {
        // A build has one graph, however often it is solved.
        let _ = self.steps.set(Steps::of(graph));
    }

    /// Has reasons told while the build goes on. Blocks.
    pub(crate) fn explain(&self, store: &Store) -> Result<(), cache::StoreError> {
        let past = Past::read(store, &self.subject, None)?;
        let _ = self.past.set(past);
        Ok(())
    }

    /// Takes an event of the solve, and tells what there is to tell of it.
    pub(crate) fn event(&self, event: &Event, store: &Store, progress: &Progress) {
        match event {
            Event::Cached(vertex) => {
                self.state().seen(*vertex).outcome.get_or_insert(Outcome::Cached);
            }
            Event::Missed { vertex, key, parts } => {
                let mut state = self.state();
                let seen = state.seen(*vertex);
                // Unless it ends, another one has ended the build.
                seen.outcome = Some(Outcome::Canceled);
                (seen.key, seen.parts) = (Some(*key), Some(Arc::clone(parts)));
                drop(state);
                if self.past.get().is_some() {
                    // What cannot be read explains nothing, and is no reason to fail.
                    for reason in self.reasons_of(store, *vertex).unwrap_or_default() {
                        progress.why(*vertex, &reason.text());
                    }
                }
            }
            Event::Finished { vertex, duration, error } => {
                let mut state = self.state();
                let seen = state.seen(*vertex);
                seen.duration = *duration;
                seen.outcome = Some(match error {
                    None => Outcome::Executed,
                    Some(_) => Outcome::Failed,
                });
            }
            _ => {}
        }
    }

    /// Takes the keys of all steps that have some.
    pub(crate) fn solved(&self, keys: &[Option<CacheKey>]) {
        let Some(Steps { graph, .. }) = self.steps.get() else { return };
        let mut state = self.state();
        for (vertex, key) in graph.ids().zip(keys) {
            if key.is_some() && graph.vertex(vertex).op.is_step() {
                let seen = state.seen(vertex);
                seen.key = *key;
                seen.outcome.get_or_insert(Outcome::Cached);
            }
        }
    }

    /// The files because of which steps were executed, now that their results are there; for `--explain`. Blocks.
    pub(crate) fn changed_files(&self, store: &Store) -> String {
        let (Some(Steps { graph, .. }), Some(_)) = (self.steps.get(), self.past.get()) else {
            return String::new();
        };
        let executed: Vec<VertexId> = {
            let state = self.state();
            graph
                .ids()
                .filter(|vertex| state.steps.get(vertex).is_some_and(|seen| seen.parts.is_some()))
                .collect()
        };
        let mut text = String::new();
        for vertex in executed {
            // As above.
            for reason in self.reasons_of(store, vertex).unwrap_or_default() {
                if let Reason::Content { files, .. } = &reason
                    && !files.is_empty()
                {
                    let _ = writeln!(text, "\n{}: {}", graph.vertex(vertex).meta.name, reason.text());
                }
            }
        }
        text
    }

    fn reasons_of(&self, store: &Store, vertex: VertexId) -> Result<Vec<Reason>, cache::StoreError> {
        let (Some(steps), Some(past)) = (self.steps.get(), self.past.get()) else { return Ok(Vec::new()) };
        let Some(step) = self.state().steps.get(&vertex).map(|seen| steps.record(vertex, seen)) else {
            return Ok(Vec::new());
        };
        let graph = &steps.graph;
        let names: Vec<&str> = graph.vertices().iter().map(|vertex| vertex.meta.name.as_str()).collect();
        let before = past.before(&names, vertex.index());
        explain::reasons(store, &step, &bases(graph), before.as_ref())
    }

    /// What `--metadata-file` calls the build; the last part is its ID in the history.
    pub(crate) fn reference(&self) -> String {
        format!("rbuild/local/{}", self.id)
    }

    /// Takes what was made.
    pub(crate) fn exported(&self, image: &Descriptor, size_bytes: u64) {
        let digest = image.digest.to_string();
        self.state().image = Some(ImageRecord { digest, size_bytes });
    }

    /// Puts the build into the history. That it cannot be is no failure of the build, and is told.
    pub(crate) async fn end(
        &self,
        store: &Store,
        progress: &Progress,
        (failure, interrupt): (Option<&Failure>, &Interrupt),
        bounds: HistoryBounds,
    ) {
        let status = match failure {
            None => Status::Succeeded,
            Some(_) if interrupt.token().is_cancelled() => Status::Canceled,
            Some(_) => Status::Failed,
        };
        let log = progress.end_log();
        let document = self.document(status, failure.map(|failure| failure.cause().to_owned()));
        let bytes = serde_json::to_vec(&document).expect("a document can be written");
        let (store, id) = (store.clone(), self.id.clone());
        let added = blocking(move || store.add_history(&id, &bytes, log, bounds)).await;
        if let Err(error) = added {
            progress.note(&format!("\nWARNING: the history lacks this build: {error}\n"));
        }
    }

    fn document(&self, status: Status, error: Option<String>) -> Document {
        let mut state = self.state();
        let steps = self.steps.get().map_or_else(Vec::new, |steps| {
            let seen = steps.graph.ids().filter_map(|vertex| Some((vertex, state.steps.get(&vertex)?)));
            seen.filter(|(vertex, _)| steps.graph.vertex(*vertex).op.is_step())
                .map(|(vertex, seen)| steps.record(vertex, seen))
                .collect()
        });
        Document {
            version: VERSION,
            subject: self.subject.clone(),
            started: self.started.round(jiff::Unit::Millisecond).unwrap_or(self.started).to_string(),
            duration_ms: milliseconds(self.begun.elapsed()),
            status,
            error,
            image: state.image.take(),
            bases: self.steps.get().map(|steps| bases(&steps.graph)).unwrap_or_default(),
            steps,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn seen(&mut self, vertex: VertexId) -> &mut Seen {
        self.steps.entry(vertex).or_default()
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The steps of a graph, as records tell of them.
pub(crate) struct Steps {
    graph: Arc<Graph>,
    /// [`Graph::without_cache`].
    without_cache: Vec<bool>,
}

impl Steps {
    pub(crate) fn of(graph: Arc<Graph>) -> Self {
        let without_cache = graph.without_cache();
        Self { graph, without_cache }
    }

    fn record(&self, vertex: VertexId, seen: &Seen) -> StepRecord {
        StepRecord {
            outcome: seen.outcome.unwrap_or(Outcome::Canceled),
            duration_ms: milliseconds(seen.duration),
            key: seen.key.map(|key| CacheHash(key.0)),
            ..self.planned(vertex, seen.parts.as_deref())
        }
    }

    /// The part of a record that says what a step is made of, if it is executed.
    pub(crate) fn planned(&self, vertex: VertexId, parts: Option<&KeyParts>) -> StepRecord {
        let step = self.graph.vertex(vertex);
        let inputs = step.inputs.iter().filter(|_| parts.is_some());
        let parts = parts.iter().flat_map(|parts| &parts.0);
        StepRecord {
            name: step.meta.name.clone(),
            outcome: Outcome::Canceled,
            duration_ms: 0,
            key: None,
            no_cache: self.without_cache[vertex.index()],
            inputs: inputs.map(|input| input_record(&self.graph, input.vertex)).collect(),
            parts: parts.map(|part| (part.name.clone(), part.value.clone())).collect(),
        }
    }
}

fn input_record(graph: &Graph, vertex: VertexId) -> InputRecord {
    let vertex = graph.vertex(vertex);
    let (kind, name) = match &vertex.op {
        Op::Image(image) => (InputKind::Image, &image.source.name),
        Op::Context(context) => (InputKind::Context, &context.name),
        _ => (InputKind::Step, &vertex.meta.name),
    };
    InputRecord { kind, name: name.clone() }
}

/// What the names of images stand for.
pub(crate) fn bases(graph: &Graph) -> BTreeMap<String, String> {
    let image = |op: &Op| match op {
        Op::Image(image) => Some((image.source.name.clone(), image.source.manifest.to_string())),
        _ => None,
    };
    graph.vertices().iter().filter_map(|vertex| image(&vertex.op)).collect()
}
