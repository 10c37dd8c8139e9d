//! The state behind [`Progress`](super::Progress), and how each change of it is shown.

use std::io;
use std::time::{Duration, Instant};

use frontend::{Diagnostic, SourceFile};
use sandbox::TerminalSize;
use solver::{Event, LogStream, VertexId};

use super::display::{Display, Look};
use super::figures;
use super::frame::{self, Extent, Outcome, Size};
use super::limits::LogLimits;
use super::log::Log;
use super::model::{DetailKind, Ending, Model, Phase};
use super::painter::Painter;
use super::plain::{self, Goes, Plain};
use super::raw_json::{self, RawJson};
use super::summary;
use crate::stderr;

/// How much is kept of what comes while nothing may be shown.
const MOST_HELD_BYTES: usize = 8 << 20;

/// The size of a terminal that does not tell it.
const USUAL_SIZE: Size = Size { rows: 24, columns: 80 };

pub(super) struct State {
    pub(super) model: Model,
    pub(super) log: Log,
    pub(super) results: Vec<String>,
    pub(super) ticker: Ticker,
    pub(super) is_finished: bool,
    plain: Plain,
    view: View,
    /// What is to be shown once the terminal is free again; `None` while it is.
    held: Option<String>,
}

/// The thread that draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ticker {
    /// There is none.
    None,
    /// It waits to be woken.
    Idle,
    /// It looks after a while.
    Busy,
}

enum View {
    Plain,
    Live(Live),
    RawJson(RawJson),
    Nothing,
}

struct Live {
    painter: Painter,
    log_lines: usize,
    /// Whether something has changed since the last picture.
    is_stale: bool,
    /// What is to be told beneath the last picture.
    notes: String,
}

impl State {
    pub(super) fn new(display: Display, limits: LogLimits) -> Self {
        let recent_lines = match &display {
            Display::Live(look) => look.log_lines,
            Display::Plain | Display::RawJson | Display::Nothing => 0,
        };
        let view = match display {
            Display::Plain => View::Plain,
            Display::Live(Look { palette, log_lines }) => View::Live(Live {
                painter: Painter::new(palette),
                log_lines,
                is_stale: false,
                notes: String::new(),
            }),
            Display::RawJson => View::RawJson(RawJson::new(limits)),
            Display::Nothing => View::Nothing,
        };
        Self {
            model: Model::new(limits, recent_lines),
            log: Log::default(),
            results: Vec::new(),
            ticker: Ticker::None,
            is_finished: false,
            plain: Plain::default(),
            view,
            held: None,
        }
    }

    pub(super) fn start(&mut self, number: usize) {
        let now = Instant::now();
        self.model.start(number, now);
        if let View::RawJson(json) = &self.view {
            let line = json.vertex(&self.model, number);
            self.print(&line);
        }
        self.show(number, "", Goes::On, now);
    }

    /// Something that a step does, or that is to be said of it.
    pub(super) fn detail(&mut self, number: usize, name: &str, kind: DetailKind) {
        let now = Instant::now();
        let index = self.model.detail(number, name, kind, now);
        self.tell_detail(number, index, now);
    }

    /// Something that a step has done.
    pub(super) fn detail_done(&mut self, number: usize, name: &str) {
        let now = Instant::now();
        let index = self.model.detail(number, name, DetailKind::Activity, now);
        self.model.steps[number].details[index].ended = Some(now);
        self.tell_detail(number, index, now);
    }

    fn tell_detail(&mut self, number: usize, index: usize, now: Instant) {
        if let View::RawJson(json) = &mut self.view {
            let line = json.detail(&self.model, number, index, now);
            self.print(&line);
        }
        let detail = &mut self.model.steps[number].details[index];
        if let Some(line) = plain::detail_line(number, detail, now) {
            self.show(number, &line, Goes::On, now);
        } else if let View::Live(live) = &mut self.view {
            live.is_stale = true;
        }
    }

    pub(super) fn end(&mut self, number: usize, how: Ending, took: Option<Duration>) {
        let now = Instant::now();
        let step = &mut self.model.steps[number];
        let mut lines = step.output.take_partial(number + 1, step.elapsed(now));
        let details = step.details.iter().enumerate();
        let open: Vec<usize> =
            details.filter(|(_, detail)| detail.ended.is_none()).map(|(index, _)| index).collect();
        self.model.end(number, how, took, now);
        let step = &self.model.steps[number];
        if let Some(how) = step.ending() {
            lines += &plain::end_line(number, how, step.elapsed(now));
        }
        if let View::RawJson(json) = &mut self.view {
            let line = json.end(&self.model, number, &open, now);
            self.print(&line);
        }
        self.show(number, &lines, Goes::Ends, now);
    }

    fn output(&mut self, number: usize, stream: LogStream, data: &[u8]) {
        let now = Instant::now();
        let step = &mut self.model.steps[number];
        let moment = (number + 1, step.elapsed(now));
        let lines = step.output.take(moment, stream, data);
        if let View::RawJson(json) = &mut self.view {
            let line = json.log(&self.model, number, (stream, data), now);
            self.print(&line);
        }
        if !lines.is_empty() {
            self.show(number, &lines, Goes::On, now);
        } else if let View::Live(live) = &mut self.view {
            live.is_stale = true;
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Missed { .. } => {}
            Event::Cached(vertex) => {
                let number = self.model.vertex(vertex);
                self.end(number, Ending::Cached, Some(Duration::ZERO));
            }
            Event::Started(vertex) => {
                let number = self.model.vertex(vertex);
                self.start(number);
            }
            Event::Waiting { vertex, process } => {
                let who = process.map_or_else(String::new, |process| format!(" (process {process})"));
                self.wait(vertex, &format!("waiting for another build that runs this step{who}"));
            }
            Event::WaitingForCache { vertex, id } => {
                // An ID without a namespace begins with the slash that ends one.
                let id = id.strip_prefix('/').unwrap_or(&id);
                self.wait(vertex, &format!("waiting for another step that uses the cache `{id}`"));
            }
            Event::WaitingForMemory { vertex, available_bytes, reserve_bytes } => {
                let (available, reserve) = (figures::bytes(available_bytes), figures::bytes(reserve_bytes));
                self.wait(
                    vertex,
                    &format!("waiting for memory: {available} left, {reserve} are to stay free"),
                );
            }
            Event::Log { vertex, stream, data } => {
                let number = self.model.vertex(vertex);
                self.output(number, stream, &data);
            }
            Event::Progress { vertex, name, current, total } => {
                let number = self.model.vertex(vertex);
                self.detail(number, &name, DetailKind::Transfer { current, total });
            }
            Event::Warning { vertex, message } => {
                let number = self.model.vertex(vertex);
                self.detail(number, &message, DetailKind::Warning);
            }
            Event::Finished { vertex, duration, error } => {
                let number = self.model.vertex(vertex);
                self.end(number, Ending::of(error), Some(duration));
            }
        }
    }

    fn wait(&mut self, vertex: VertexId, reason: &str) {
        let number = self.model.vertex(vertex);
        if self.model.steps[number].phase == Phase::Known {
            self.start(number);
        }
        self.detail(number, reason, DetailKind::Note);
    }

    /// Shows lines of a step in the plain form, where somebody looks at that.
    fn show(&mut self, number: usize, lines: &str, goes: Goes, now: Instant) {
        if let View::Live(live) = &mut self.view {
            live.is_stale = true;
        }
        if matches!(self.view, View::Plain) || self.log.is_somewhere() {
            let name = &self.model.steps[number].name;
            let text = self.plain.add((number, name), lines, goes, now);
            self.show_text(&text);
        }
    }

    fn show_text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.log.add(text);
        if matches!(self.view, View::Plain) {
            self.print(text);
        }
    }

    /// See [`Progress::unseen_tail`](super::Progress::unseen_tail).
    pub(super) fn unseen_tail(&mut self, vertex: VertexId) -> String {
        let Some(number) = self.model.known(vertex) else { return String::new() };
        let step = &self.model.steps[number];
        let count = step.output.tail().count();
        let is_in_sight = match self.view {
            View::Plain => {
                self.held.is_none() && step.output.shows_tail() && self.plain.shows_last(number, count)
            }
            // The stream has all of it.
            View::RawJson(_) => true,
            View::Live(_) | View::Nothing => false,
        };
        if is_in_sight || count == 0 { String::new() } else { plain::tail_block(step) }
    }

    /// See [`Progress::note`](super::Progress::note).
    pub(super) fn note(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let waited = self.plain.flush(Instant::now());
        self.show_text(&waited);
        self.log.add(text);
        let is_finished = self.is_finished;
        match &mut self.view {
            View::Live(live) if !is_finished => live.notes += text,
            View::Plain | View::Live(_) => self.print(text),
            View::RawJson(_) => self.print(&raw_json::note(text)),
            View::Nothing => {}
        }
    }

    /// See [`Progress::findings`](super::Progress::findings).
    pub(super) fn findings(&mut self, file: &SourceFile, found: &[Diagnostic], text: &str) {
        if !matches!(self.view, View::RawJson(_)) {
            return self.note(text);
        }
        self.log.add(text);
        // The step that has loaded it is a vertex like others for viewers.
        let loading = self.model.steps.iter().position(|step| step.name.contains("load build definition"));
        let vertex = loading.map(|number| raw_json::digest(&self.model, number));
        self.print(&raw_json::findings(vertex.as_ref(), file, found));
    }

    /// Prints a text that is to stand by itself.
    pub(super) fn print_apart(&mut self, text: &str) {
        let waited = self.plain.flush(Instant::now());
        self.show_text(&waited);
        self.log.add(text);
        if let View::Live(live) = &mut self.view
            && self.held.is_none()
            && !self.is_finished
        {
            live.is_stale = true;
            let cleared = live.painter.clear(size());
            self.print(&cleared);
        }
        self.print(text);
    }

    /// Keeps back what comes.
    pub(super) fn hold(&mut self) {
        let waited = self.plain.flush(Instant::now());
        self.show_text(&waited);
        if let View::Live(live) = &mut self.view
            && self.held.is_none()
        {
            let cleared = live.painter.clear(size());
            self.print(&cleared);
        }
        self.held.get_or_insert_default();
    }

    /// Shows what was kept back.
    pub(super) fn release(&mut self) {
        if let View::Live(live) = &mut self.view {
            live.is_stale = true;
        }
        stderr::write(self.held.take().unwrap_or_default().as_bytes());
    }

    fn print(&mut self, text: &str) {
        match &mut self.held {
            None => stderr::write(text.as_bytes()),
            Some(held) if held.len() + text.len() > MOST_HELD_BYTES => {
                // What came last tells most of how things stand.
                held.clear();
                held.push_str("(what came before is left out)\n");
                held.push_str(text);
            }
            Some(held) => held.push_str(text),
        }
    }

    /// Whether something is to be done as time goes by.
    pub(super) fn needs_ticks(&self) -> bool {
        if self.held.is_some() || self.is_finished {
            return false;
        }
        match &self.view {
            View::Plain => self.plain.is_behind(),
            View::Live(live) => live.is_stale || !self.model.running().is_empty(),
            View::RawJson(_) | View::Nothing => false,
        }
    }

    pub(super) fn tick(&mut self, now: Instant) {
        if self.held.is_some() {
            return;
        }
        let waited = self.plain.tick(now);
        self.show_text(&waited);
        // Whoever cannot keep up gets fewer pictures.
        if let View::Live(live) = &mut self.view
            && !stderr::is_behind()
        {
            let picture = live.paint(&self.model, now, Extent::Screen);
            self.print(&picture);
        }
    }

    /// Ends what still runs: whoever did it is gone.
    pub(super) fn settle(&mut self) {
        let running: Vec<usize> = self.model.running().iter().copied().collect();
        for number in running {
            self.end(number, Ending::Canceled, None);
        }
        let waited = self.plain.flush(Instant::now());
        self.show_text(&waited);
    }

    pub(super) fn finish(&mut self, outcome: Outcome) {
        if self.is_finished {
            return;
        }
        self.settle();
        self.is_finished = true;
        let now = Instant::now();
        // Without a graph nothing was built.
        let summary = match self.model.graph() {
            Some(_) => summary::text(&self.model, &self.results, outcome, now),
            None => String::new(),
        };
        match &mut self.view {
            View::Live(live) => {
                let mut text = String::new();
                if !self.model.steps.is_empty() {
                    text = live.paint(&self.model, now, Extent::Whole(outcome));
                }
                text += &std::mem::take(&mut live.notes);
                // The picture tells how long it took.
                if outcome == Outcome::Success {
                    text += &summary;
                }
                self.print(&text);
            }
            View::Plain => self.print(&summary),
            View::RawJson(_) | View::Nothing => {}
        }
    }
}

impl Live {
    fn paint(&mut self, model: &Model, now: Instant, extent: Extent) -> String {
        let size = size();
        self.is_stale = false;
        let lines = frame::frame(model, now, size, self.log_lines, extent);
        self.painter.paint(&lines, size)
    }
}

/// The size of the terminal. It may be another one each time.
fn size() -> Size {
    match TerminalSize::of(io::stderr()) {
        Ok(size) if size.rows > 0 && size.columns > 0 => {
            Size { rows: usize::from(size.rows), columns: usize::from(size.columns) }
        }
        _ => USUAL_SIZE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_meanwhile_is_kept() {
        let mut state = State::new(Display::Plain, LogLimits::default());
        state.hold();
        state.note("one\n");
        state.note("two\n");
        assert_eq!(state.held.as_deref(), Some("one\ntwo\n"));
        state.note(&"x".repeat(MOST_HELD_BYTES));
        assert!(state.held.as_ref().is_some_and(|held| held.starts_with("(what came before")));
        state.held = Some(String::new());
        state.release();
        assert!(state.held.is_none());
    }

    /// What a display shows of a step that writes something and does not end.
    fn shown(display: Display) -> String {
        let mut state = State::new(display, LogLimits::default());
        state.hold();
        let number = state.model.add("RUN make");
        state.start(number);
        state.output(number, LogStream::Stdout, b"last words\n");
        state.finish(Outcome::Failure);
        state.finish(Outcome::Failure);
        assert!(!state.needs_ticks());
        state.held.take().unwrap_or_default()
    }

    #[test]
    fn whatever_has_begun_ends() {
        let plain = shown(Display::Plain);
        assert!(
            plain.starts_with("#1 RUN make\n#1 0.0") && plain.ends_with(" last words\n#1 CANCELED\n"),
            "{plain}"
        );
        let json = shown(Display::RawJson);
        assert!(json.ends_with("\"error\":\"context canceled\"}]}\n"), "{json}");
        assert_eq!(json.lines().count(), 3, "{json}");
        assert_eq!(shown(Display::Nothing), "");
        let look = Look { palette: super::super::Palette::none(), log_lines: 6 };
        let live = shown(Display::Live(look));
        assert_eq!(live.matches("[+] Building").count(), 1, "{live}");
        assert!(live.contains(" => CANCELED RUN make "), "{live}");
    }

    #[test]
    fn a_tail_is_repeated_where_it_is_not_in_sight() {
        for (display, is_repeated) in
            [(Display::Plain, false), (Display::Nothing, true), (Display::RawJson, false)]
        {
            let mut state = State::new(display, LogLimits::default());
            state.held = Some(String::new());
            let vertex = vertex();
            state.event(Event::Started(vertex));
            let data = b"last words\n".to_vec();
            state.event(Event::Log { vertex, stream: LogStream::Stdout, data });
            let error = Some("exit code: 1".to_owned());
            state.event(Event::Finished { vertex, duration: Duration::ZERO, error });
            state.held = None;
            let tail = state.unseen_tail(vertex);
            assert_eq!(tail.ends_with(" last words\n------\n"), is_repeated, "{tail}");
            assert_eq!(tail.is_empty(), !is_repeated);
        }
    }

    fn vertex() -> VertexId {
        let mut builder = solver::GraphBuilder::new();
        let meta = solver::VertexMeta::default();
        builder.add(solver::Op::Scratch, Vec::new(), meta).expect("a vertex without inputs")
    }
}
