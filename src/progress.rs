//! What is shown while a build runs. Events of the solve, and what is told of everything else, change one state
//! (`model`); what is shown is made of it: lines (`plain`), a picture (`frame`, `painter`) or a stream (`raw_json`). The
//! log of the history has the lines, whatever is shown.

mod colors;
mod display;
mod figures;
mod frame;
mod limits;
mod lines;
mod log;
mod model;
mod output;
mod painter;
mod plain;
mod raw_json;
#[cfg(test)]
mod screens;
mod state;
mod summary;

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use frontend::{Diagnostic, SourceFile};
use solver::{Event, Graph, VertexId};

use crate::stderr;
use model::DetailKind;
use state::{State, Ticker};

pub(crate) use colors::Palette;
pub(crate) use display::{Asked, Display, Look};
pub(crate) use figures::bytes;
pub(crate) use frame::Outcome;
pub(crate) use limits::LogLimits;
pub(crate) use model::{Ending, Timed, TimedPart};
pub(crate) use raw_json::warnings;

/// How often the live view is drawn, and what waits is looked at.
const TICK: Duration = Duration::from_millis(100);

/// Shows steps on standard error. Clones are the same.
#[derive(Clone)]
pub(crate) struct Progress {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// There is something to do for the thread that draws.
    wake: Condvar,
}

/// A step that is no vertex: loading a Dockerfile, exporting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepNumber(usize);

impl Progress {
    /// Shows nothing yet.
    pub(crate) fn new(display: Display, limits: LogLimits) -> Self {
        let state = Mutex::new(State::new(display, limits));
        Self { shared: Arc::new(Shared { state, wake: Condvar::new() }) }
    }

    /// Says what the vertices of the events to come are, and which are wanted.
    pub(crate) fn attach(&self, graph: Arc<Graph>, targets: &[VertexId]) {
        self.lock().model.attach(graph, targets);
    }

    /// Keeps what is shown from now on, for [`Progress::log_to`].
    pub(crate) fn begin_log(&self) {
        self.lock().log = log::Log::Early(String::new());
    }

    /// Writes what was and will be shown to a new file.
    pub(crate) fn log_to(&self, path: PathBuf) {
        self.lock().log.move_to(path);
    }

    /// The complete log, if there is one. No step runs any more.
    pub(crate) fn end_log(&self) -> Option<PathBuf> {
        let mut state = self.lock();
        state.settle();
        state.log.end()
    }

    /// A reason why a step is executed.
    pub(crate) fn why(&self, vertex: VertexId, reason: &str) {
        self.change(|state| {
            let number = state.model.vertex(vertex);
            for line in reason.lines() {
                state.detail(number, &format!("why: {line}"), DetailKind::Note);
            }
        });
    }

    /// Begins a step that is no vertex.
    pub(crate) fn begin(&self, name: impl AsRef<str>) -> StepNumber {
        self.change(|state| {
            let number = state.model.add(name.as_ref());
            state.start(number);
            StepNumber(number)
        })
    }

    /// What a step does from now on; with ` done` at its end, what it has done.
    pub(crate) fn line(&self, step: StepNumber, text: &str) {
        self.change(|state| match text.strip_suffix(" done") {
            Some(name) => state.detail_done(step.0, name),
            None => state.detail(step.0, text, DetailKind::Activity),
        });
    }

    /// How many bytes a step has moved, and of how many.
    pub(crate) fn transfer(&self, step: StepNumber, name: &str, current: u64, total: Option<u64>) {
        self.change(|state| state.detail(step.0, name, DetailKind::Transfer { current, total }));
    }

    /// Something about a step that people should know.
    pub(crate) fn warning(&self, step: StepNumber, text: &str) {
        self.change(|state| state.detail(step.0, text, DetailKind::Warning));
    }

    /// The end of a step.
    pub(crate) fn done(&self, step: StepNumber) {
        self.change(|state| state.end(step.0, Ending::Done, None));
    }

    /// The bad end of a step.
    pub(crate) fn failed(&self, step: StepNumber, message: &str) {
        self.change(|state| state.end(step.0, Ending::Failed(message.to_owned()), None));
    }

    /// Shows an event of the solve. Output of processes waits for whoever reads standard error, everything else does
    /// not.
    pub(crate) fn event(&self, event: Event) {
        let is_output = matches!(event, Event::Log { .. });
        self.change(|state| state.event(event));
        if is_output {
            stderr::wait_for_room();
        }
    }

    /// What an error repeats of the last lines that a step wrote: a block with its name, or nothing where they are still
    /// in sight.
    pub(crate) fn unseen_tail(&self, vertex: VertexId) -> String {
        self.lock().unseen_tail(vertex)
    }

    /// The last lines that a step wrote.
    pub(crate) fn tail(&self, vertex: VertexId) -> Vec<String> {
        let state = self.lock();
        let step = state.model.known(vertex).map(|number| &state.model.steps[number]);
        step.map_or_else(Vec::new, |step| step.output.tail().map(str::to_owned).collect())
    }

    /// The names of the steps that have begun and not ended, and where they stand.
    pub(crate) fn running(&self) -> Vec<String> {
        let state = self.lock();
        let running = state.model.running().iter().map(|number| &state.model.steps[*number]);
        running
            .map(|step| match state.model.source_lines(step) {
                Some(lines) => format!("`{}` (line {})", step.name, lines.first),
                None => format!("`{}`", step.name),
            })
            .collect()
    }

    /// When the steps that have begun did so, and when they ended.
    pub(crate) fn timed(&self) -> Vec<Timed> {
        self.lock().model.timed()
    }

    /// A text that belongs to no step.
    pub(crate) fn note(&self, text: &str) {
        self.change(|state| state.note(text));
    }

    /// What is to be said of the Dockerfile, and the same as text.
    pub(crate) fn findings(&self, file: &SourceFile, found: &[Diagnostic], text: &str) {
        self.change(|state| state.findings(file, found, text));
    }

    /// A text that is shown whatever else is.
    pub(crate) fn tell(&self, text: &str) {
        self.change(|state| state.print_apart(text));
    }

    /// A line about something that has been made, for the end.
    pub(crate) fn made(&self, result: impl Into<String>) {
        self.lock().results.push(result.into());
    }

    /// The end of everything: no step runs any more, and what comes now is shown as it comes.
    pub(crate) fn finish(&self, outcome: Outcome) {
        self.change(|state| state.finish(outcome));
    }

    /// Keeps back what comes until the answer is dropped, and shows it then: something else has the terminal. What came
    /// before has been written when this returns.
    pub(crate) fn hold(&self) -> Hold<'_> {
        self.lock().hold();
        stderr::flush();
        Hold(self)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let answer = change(&mut state);
        self.shared.attend(&mut state);
        answer
    }
}

/// While this lives, nothing is shown.
pub(crate) struct Hold<'a>(&'a Progress);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.change(State::release);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that somebody does what is to be done later. Where nothing ever is, there is no thread.
    fn attend(self: &Arc<Self>, state: &mut State) {
        if state.ticker == Ticker::Busy || !state.needs_ticks() {
            return;
        }
        if state.ticker == Ticker::None {
            let shared = Arc::clone(self);
            let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(move || shared.tick());
            if thread.is_err() {
                return;
            }
        }
        state.ticker = Ticker::Busy;
        self.wake.notify_all();
    }

    fn tick(&self) {
        let mut state = self.lock();
        while !state.is_finished {
            state = if state.needs_ticks() {
                let waited = self.wake.wait_timeout(state, TICK);
                let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
                if !state.is_finished {
                    state.tick(Instant::now());
                }
                state
            } else {
                state.ticker = Ticker::Idle;
                self.wake.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }
}
