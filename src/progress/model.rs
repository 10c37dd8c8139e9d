//! What is known of the steps of a build: the one state that everything that is shown is made of.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use solver::{Graph, SourceLines, VertexId};

use super::lines;
use super::output::Output;
use super::{LogLimits, figures};

/// All steps, in the order in which they were first seen.
pub(super) struct Model {
    pub(super) steps: Vec<Step>,
    pub(super) begun: Instant,
    graph: Option<Arc<Graph>>,
    /// How many steps the targets are made of.
    wanted: usize,
    /// How many of them were seen.
    seen: usize,
    by_vertex: HashMap<VertexId, usize>,
    running: BTreeSet<usize>,
    limits: LogLimits,
    recent_lines: usize,
}

/// A step: a vertex, or something else that takes time.
pub(super) struct Step {
    pub(super) name: String,
    pub(super) vertex: Option<VertexId>,
    /// When it began; when it was first seen, if it has not.
    pub(super) started: Instant,
    pub(super) phase: Phase,
    pub(super) output: Output,
    pub(super) details: Vec<Detail>,
}

/// How far a step is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has not begun.
    Known,
    Running,
    Ended {
        took: Duration,
        how: Ending,
    },
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    Done,
    Cached,
    Failed(String),
    Canceled,
}

impl Ending {
    /// The one that the error of a vertex tells.
    pub(super) fn of(error: Option<String>) -> Self {
        match error {
            None => Self::Done,
            Some(text) if text.ends_with("cancelled") || text.ends_with("canceled") => Self::Canceled,
            Some(text) => Self::Failed(text),
        }
    }
}

/// When a step began and ended, for others than those who look on.
#[derive(Debug, Clone)]
pub(crate) struct Timed {
    pub(crate) name: String,
    /// The lines of the Dockerfile that it comes from.
    pub(crate) lines: Option<SourceLines>,
    pub(crate) started: Instant,
    /// `None` if it has not.
    pub(crate) ended: Option<Instant>,
    pub(crate) ending: Option<Ending>,
    /// What it did.
    pub(crate) parts: Vec<TimedPart>,
}

/// When something that a step did began and ended.
#[derive(Debug, Clone)]
pub(crate) struct TimedPart {
    pub(crate) name: String,
    pub(crate) started: Instant,
    /// `None` if it has not.
    pub(crate) ended: Option<Instant>,
}

/// Something that a step does, or that there is to say of it.
#[derive(Debug)]
pub(super) struct Detail {
    pub(super) name: String,
    pub(super) kind: DetailKind,
    pub(super) started: Instant,
    /// `None` while it goes on.
    pub(super) ended: Option<Instant>,
    /// When it was last told of.
    pub(super) told: Option<Instant>,
}

/// What a detail is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DetailKind {
    /// It takes time.
    Activity,
    /// Bytes move.
    Transfer { current: u64, total: Option<u64> },
    /// A fact.
    Note,
    /// A fact that should not be.
    Warning,
}

impl Detail {
    /// How much was moved, where something is.
    pub(super) fn amount(&self) -> Option<String> {
        match self.kind {
            DetailKind::Transfer { current, total: Some(total) } => {
                Some(format!("{} / {}", figures::bytes(current), figures::bytes(total)))
            }
            DetailKind::Transfer { current, total: None } => Some(figures::bytes(current)),
            DetailKind::Activity | DetailKind::Note | DetailKind::Warning => None,
        }
    }

    /// How long it has taken.
    pub(super) fn elapsed(&self, now: Instant) -> Duration {
        self.ended.unwrap_or(now).saturating_duration_since(self.started)
    }
}

impl Step {
    /// How long it has taken.
    pub(super) fn elapsed(&self, now: Instant) -> Duration {
        match self.phase {
            Phase::Known | Phase::Running => now.saturating_duration_since(self.started),
            Phase::Ended { took, .. } => took,
        }
    }

    /// Whether it has begun and not ended.
    pub(super) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// How it ended, if it has.
    pub(super) fn ending(&self) -> Option<&Ending> {
        match &self.phase {
            Phase::Ended { how, .. } => Some(how),
            Phase::Known | Phase::Running => None,
        }
    }
}

impl Model {
    /// No steps. `recent_lines` of the output of each are kept for a live view.
    pub(super) fn new(limits: LogLimits, recent_lines: usize) -> Self {
        Self {
            steps: Vec::new(),
            begun: Instant::now(),
            graph: None,
            wanted: 0,
            seen: 0,
            by_vertex: HashMap::new(),
            running: BTreeSet::new(),
            limits,
            recent_lines,
        }
    }

    /// Says what the vertices are, and which are wanted.
    pub(super) fn attach(&mut self, graph: Arc<Graph>, targets: &[VertexId]) {
        let reached = graph.reached(targets);
        let steps = graph
            .vertices()
            .iter()
            .zip(reached)
            .filter(|(vertex, is_reached)| *is_reached && vertex.op.is_step());
        self.wanted = steps.count();
        self.graph = Some(graph);
    }

    pub(super) fn graph(&self) -> Option<&Arc<Graph>> {
        self.graph.as_ref()
    }

    /// The steps that run, by their numbers.
    pub(super) fn running(&self) -> &BTreeSet<usize> {
        &self.running
    }

    /// How many steps there are and are yet to be seen, as far as is known.
    pub(super) fn expected(&self) -> usize {
        self.steps.len() + self.wanted.saturating_sub(self.seen)
    }

    /// How many steps of the Dockerfile were executed, and how many there are.
    pub(super) fn executed(&self) -> (usize, usize) {
        let executed = self
            .steps
            .iter()
            .filter(|step| self.is_step(step) && step.ending().is_some_and(|how| *how == Ending::Done));
        (executed.count(), self.wanted)
    }

    /// Whether it is an instruction of the Dockerfile that makes something.
    pub(super) fn is_step(&self, step: &Step) -> bool {
        let vertex = step.vertex.zip(self.graph.as_ref());
        vertex.is_some_and(|(vertex, graph)| graph.vertex(vertex).op.is_step())
    }

    /// When all steps that have begun did so, and when they ended.
    pub(super) fn timed(&self) -> Vec<Timed> {
        let begun = self.steps.iter().filter(|step| step.phase != Phase::Known);
        begun
            .map(|step| {
                let is_part =
                    |detail: &&Detail| !matches!(detail.kind, DetailKind::Note | DetailKind::Warning);
                let part = |detail: &Detail| TimedPart {
                    name: detail.name.clone(),
                    started: detail.started,
                    ended: detail.ended,
                };
                let took = match step.phase {
                    Phase::Ended { took, .. } => Some(took),
                    Phase::Known | Phase::Running => None,
                };
                Timed {
                    name: step.name.clone(),
                    lines: self.source_lines(step),
                    started: step.started,
                    ended: took.map(|took| step.started + took),
                    ending: step.ending().cloned(),
                    parts: step.details.iter().filter(is_part).map(part).collect(),
                }
            })
            .collect()
    }

    /// The lines of the Dockerfile that a step comes from.
    pub(super) fn source_lines(&self, step: &Step) -> Option<SourceLines> {
        let (vertex, graph) = step.vertex.zip(self.graph.as_ref())?;
        graph.vertex(vertex).meta.lines
    }

    /// Adds a step that is no vertex.
    pub(super) fn add(&mut self, name: &str) -> usize {
        self.push(name, None)
    }

    /// The number of a vertex, which is seen from now on.
    pub(super) fn vertex(&mut self, vertex: VertexId) -> usize {
        if let Some(number) = self.by_vertex.get(&vertex) {
            return *number;
        }
        let graph = self.graph.clone();
        let name = graph.as_ref().map_or("", |graph| graph.vertex(vertex).meta.name.as_str());
        let number = self.push(name, Some(vertex));
        self.by_vertex.insert(vertex, number);
        self.seen += usize::from(graph.is_some_and(|graph| graph.vertex(vertex).op.is_step()));
        number
    }

    /// The number of a vertex that was seen.
    pub(super) fn known(&self, vertex: VertexId) -> Option<usize> {
        self.by_vertex.get(&vertex).copied()
    }

    fn push(&mut self, name: &str, vertex: Option<VertexId>) -> usize {
        self.steps.push(Step {
            name: lines::bare(name).into_owned(),
            vertex,
            started: Instant::now(),
            phase: Phase::Known,
            output: Output::new(self.limits, self.recent_lines),
            details: Vec::new(),
        });
        self.steps.len() - 1
    }

    /// The step begins now.
    pub(super) fn start(&mut self, number: usize, now: Instant) {
        let step = &mut self.steps[number];
        step.started = now;
        step.phase = Phase::Running;
        self.running.insert(number);
    }

    /// The step has ended. What it did has, too.
    pub(super) fn end(&mut self, number: usize, how: Ending, took: Option<Duration>, now: Instant) {
        self.running.remove(&number);
        let step = &mut self.steps[number];
        if step.phase == Phase::Known {
            step.started = now;
        }
        let took = took.unwrap_or_else(|| now.saturating_duration_since(step.started));
        step.phase = Phase::Ended { took, how };
        for detail in &mut step.details {
            detail.ended.get_or_insert(now);
        }
    }

    /// Something that a step does; the same name is the same thing while it goes on. Gives its index.
    pub(super) fn detail(&mut self, number: usize, name: &str, kind: DetailKind, now: Instant) -> usize {
        let details = &mut self.steps[number].details;
        let is_open = |detail: &Detail| detail.ended.is_none() && detail.name == name;
        let index = details.iter().rposition(is_open).unwrap_or_else(|| {
            let name = lines::bare(name).into_owned();
            details.push(Detail { name, kind, started: now, ended: None, told: None });
            details.len() - 1
        });
        let detail = &mut details[index];
        detail.kind = kind;
        let is_over = match kind {
            DetailKind::Activity => false,
            DetailKind::Transfer { current, total } => total == Some(current),
            DetailKind::Note | DetailKind::Warning => true,
        };
        if is_over {
            detail.ended = Some(now);
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_does_ends_with_it() {
        let mut model = Model::new(LogLimits::default(), 0);
        let now = model.begun;
        let later = now + Duration::from_secs(2);
        let number = model.add("step");
        model.start(number, now);
        let half = DetailKind::Transfer { current: 1000, total: Some(2000) };
        let whole = DetailKind::Transfer { current: 2000, total: Some(2000) };
        assert_eq!(model.detail(number, "layer", half, now), 0);
        assert_eq!(model.detail(number, "wait", DetailKind::Activity, now), 1);
        assert_eq!(model.detail(number, "layer", whole, now), 0);
        assert_eq!(model.steps[number].details[0].amount().as_deref(), Some("2.00kB / 2.00kB"));
        assert!(model.steps[number].details[0].ended.is_some());
        // What was over begins anew.
        assert_eq!(model.detail(number, "layer", half, now), 2);
        assert_eq!(model.running().len(), 1);
        model.end(number, Ending::of(None), None, later);
        assert_eq!(model.steps[number].elapsed(later), Duration::from_secs(2));
        assert!(model.steps[number].details.iter().all(|detail| detail.ended.is_some()));
        assert!(model.running().is_empty());
    }

    #[test]
    fn whoever_is_cancelled_has_not_failed() {
        assert_eq!(Ending::of(Some("cancelled".to_owned())), Ending::Canceled);
        assert_eq!(Ending::of(Some("exit code: 1".to_owned())), Ending::Failed("exit code: 1".to_owned()));
    }
}
