//! What is shown while a build runs, in BuildKit's plain form.

mod limits;
mod lines;

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use solver::{Event, Graph, LogStream, VertexId};

use crate::stderr;
use limits::{Clip, Clipping};

pub(crate) use limits::LogLimits;

/// How much is kept of what comes while nothing may be shown.
const MOST_HELD_BYTES: usize = 8 << 20;
/// How many lines of a step's output an error repeats.
const TAIL_LINES: usize = 10;
/// A line longer than this is shown in parts.
const LONGEST_LINE_BYTES: usize = 64 << 10;
/// How much of a line is repeated with the error, in characters.
const LONGEST_TAIL_LINE: usize = 2000;

/// How much of what is shown goes into the log of a build.
const MOST_LOGGED_BYTES: u64 = 16 << 20;

/// A transfer that goes on is told of no more often than this.
const TRANSFER_INTERVAL: Duration = Duration::from_secs(2);

/// Whether steps are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// Line by line.
    Plain,
    /// Not at all.
    Nothing,
}

/// Shows steps on standard error:
///
/// ```text
/// #5 [2/3] RUN make
/// #5 0.123 cc -c x.c
/// #5 DONE 0.1s
/// ```
///
/// Steps are numbered as they are first seen. Where the output of two steps interleaves, the one that is left gets a
/// line `#5 ...` and its name again when it goes on.
pub(crate) struct Progress {
    show: Show,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    graph: Option<Arc<Graph>>,
    limits: LogLimits,
    by_vertex: HashMap<VertexId, usize>,
    steps: Vec<Step>,
    /// The step that the last line was about, if it has not ended.
    current: Option<usize>,
    /// Whether anything was written yet: blocks are separated by empty lines.
    begun: bool,
    /// What is to be shown once the terminal is free again; `None` while it is.
    held: Option<String>,
    log: Log,
}

/// Where what is shown is kept, whether or not anybody looks.
#[derive(Default)]
enum Log {
    /// There is no place yet.
    Early(String),
    /// A file.
    File { path: PathBuf, file: BufWriter<File>, bytes: u64 },
    #[default]
    Nowhere,
}

impl Log {
    fn add(&mut self, text: &str) {
        match self {
            Self::Nowhere => {}
            Self::Early(early) => early.push_str(text),
            Self::File { bytes, .. } if *bytes > MOST_LOGGED_BYTES => {}
            Self::File { file, bytes, .. } => {
                *bytes += text.len() as u64;
                let is_full = *bytes > MOST_LOGGED_BYTES;
                let text = if is_full { "[the rest is not kept]\n" } else { text };
                // A log that cannot be written is no reason to fail.
                if file.write_all(text.as_bytes()).is_err() {
                    *self = Self::Nowhere;
                }
            }
        }
    }
}

struct Step {
    name: String,
    started: Instant,
    is_running: bool,
    /// Output that has no line end yet, by stream.
    partial: [Vec<u8>; 2],
    /// How much was shown, by stream.
    logs: [Clipping; 2],
    tail: VecDeque<String>,
    /// When each transfer was last told of.
    transfers: HashMap<String, Instant>,
}

/// What is being shown of the output of a step: the number of the step and the seconds since its start stand before
/// each line.
struct Shown {
    text: String,
    number: usize,
    /// The seconds as text.
    time: String,
    elapsed: Duration,
    stream: usize,
}

impl Shown {
    fn new(step: &Step, number: usize, stream: usize) -> Self {
        let elapsed = step.started.elapsed();
        let time = format!("{:.3} ", elapsed.as_secs_f64());
        Self { text: String::new(), number: number + 1, time, elapsed, stream }
    }

    fn line(&mut self, line: &str, clipping: &mut Clipping) {
        match clipping.take(line.len() + 1, self.elapsed) {
            Clip::Nothing => self.push(line),
            Clip::Begins(limit) => self.push(&format!("[output clipped, log limit {limit} reached]")),
            Clip::GoesOn => {}
        }
    }

    fn push(&mut self, line: &str) {
        let _ = write!(self.text, "#{} ", self.number);
        self.text.push_str(&self.time);
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// A step that is no vertex: loading a Dockerfile, exporting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepNumber(usize);

impl Progress {
    /// Shows nothing yet.
    pub(crate) fn new(show: Show, limits: LogLimits) -> Self {
        Self { show, state: Mutex::new(State { limits, ..State::default() }) }
    }

    /// Says what the vertices of the events to come are.
    pub(crate) fn attach(&self, graph: Arc<Graph>) {
        self.lock().graph = Some(graph);
    }

    /// Keeps what is shown from now on, for [`Progress::log_to`].
    pub(crate) fn begin_log(&self) {
        self.lock().log = Log::Early(String::new());
    }

    /// Writes what was and will be shown to a new file.
    pub(crate) fn log_to(&self, path: PathBuf) {
        let mut state = self.lock();
        let log = match File::create_new(&path) {
            Ok(file) => Log::File { path, file: BufWriter::new(file), bytes: 0 },
            Err(_) => Log::Nowhere,
        };
        if let Log::Early(early) = std::mem::replace(&mut state.log, log) {
            state.log.add(&early);
        }
    }

    /// The complete log, if there is one.
    pub(crate) fn end_log(&self) -> Option<PathBuf> {
        match std::mem::take(&mut self.lock().log) {
            Log::File { path, mut file, .. } => file.flush().is_ok().then_some(path),
            Log::Early(_) | Log::Nowhere => None,
        }
    }

    /// A reason why a step is executed.
    pub(crate) fn why(&self, vertex: VertexId, reason: &str) {
        let mut state = self.lock();
        let number = state.vertex(vertex);
        let mut lines = String::new();
        for line in reason.lines() {
            let _ = writeln!(lines, "#{} why: {line}", number + 1);
        }
        self.write(&mut state, number, &lines);
    }

    /// Begins a step that is no vertex.
    pub(crate) fn begin(&self, name: impl Into<String>) -> StepNumber {
        let mut state = self.lock();
        let number = state.add(name.into());
        state.steps[number].is_running = true;
        self.write(&mut state, number, "");
        StepNumber(number)
    }

    /// A line about a step.
    pub(crate) fn line(&self, step: StepNumber, text: &str) {
        let mut state = self.lock();
        let line = format!("#{} {text}\n", step.0 + 1);
        self.write(&mut state, step.0, &line);
    }

    /// The end of a step.
    pub(crate) fn done(&self, step: StepNumber) {
        let mut state = self.lock();
        let line = format!("#{} DONE {}\n", step.0 + 1, seconds(state.steps[step.0].started.elapsed()));
        self.end(&mut state, step.0, &line);
    }

    /// The bad end of a step.
    pub(crate) fn failed(&self, step: StepNumber, message: &str) {
        let mut state = self.lock();
        let line = format!("#{} ERROR: {message}\n", step.0 + 1);
        self.end(&mut state, step.0, &line);
    }

    /// Shows an event of the solve. Output of processes waits for whoever reads standard error, everything else does
    /// not.
    pub(crate) fn event(&self, event: Event) {
        let mut state = self.lock();
        match event {
            Event::Missed { .. } => {}
            Event::Cached(vertex) => {
                let number = state.vertex(vertex);
                self.end(&mut state, number, &format!("#{} CACHED\n", number + 1));
            }
            Event::Started(vertex) => {
                let number = state.vertex(vertex);
                state.steps[number].started = Instant::now();
                state.steps[number].is_running = true;
                self.write(&mut state, number, "");
            }
            Event::Waiting { vertex, process } => {
                let number = state.vertex(vertex);
                let who = process.map_or_else(String::new, |process| format!(" (process {process})"));
                let line = format!("#{} waiting for another build that runs this step{who}\n", number + 1);
                self.write(&mut state, number, &line);
            }
            Event::WaitingForCache { vertex, id } => {
                let number = state.vertex(vertex);
                // An ID without a namespace begins with the slash that ends one.
                let id = id.strip_prefix('/').unwrap_or(&id);
                let line = format!("#{} waiting for another step that uses the cache `{id}`\n", number + 1);
                self.write(&mut state, number, &line);
            }
            Event::WaitingForMemory { vertex, available_bytes, reserve_bytes } => {
                let number = state.vertex(vertex);
                let (available, reserve) = (bytes(available_bytes), bytes(reserve_bytes));
                let line = format!(
                    "#{} waiting for memory: {available} left, {reserve} are to stay free\n",
                    number + 1
                );
                self.write(&mut state, number, &line);
            }
            Event::Log { vertex, stream, data } => {
                let number = state.vertex(vertex);
                let lines = state.steps[number].take_lines(number, stream, &data);
                if !lines.is_empty() {
                    self.write(&mut state, number, &lines);
                }
                drop(state);
                stderr::wait_for_room();
            }
            Event::Progress { vertex, name, current, total } => {
                let number = state.vertex(vertex);
                if let Some(line) = state.steps[number].transfer(number, name, current, total) {
                    self.write(&mut state, number, &line);
                }
            }
            Event::Warning { vertex, message } => {
                let number = state.vertex(vertex);
                self.write(&mut state, number, &format!("#{} WARNING: {message}\n", number + 1));
            }
            Event::Finished { vertex, duration, error } => {
                let number = state.vertex(vertex);
                let mut lines = state.steps[number].take_partial(number);
                let _ = match error {
                    Some(error) => writeln!(lines, "#{} ERROR: {error}", number + 1),
                    None => writeln!(lines, "#{} DONE {}", number + 1, seconds(duration)),
                };
                self.end(&mut state, number, &lines);
            }
        }
    }

    /// The last lines that a step wrote.
    pub(crate) fn tail(&self, vertex: VertexId) -> Vec<String> {
        let state = self.lock();
        state
            .by_vertex
            .get(&vertex)
            .map_or_else(Vec::new, |number| state.steps[*number].tail.iter().cloned().collect())
    }

    /// The names of the steps that have begun and not ended, and where they stand.
    pub(crate) fn running(&self) -> Vec<String> {
        let state = self.lock();
        let line = |number: usize| {
            let vertex = state.by_vertex.iter().find(|(_, known)| **known == number)?.0;
            state.graph.as_ref()?.vertex(*vertex).meta.lines
        };
        let running = state.steps.iter().enumerate().filter(|(_, step)| step.is_running);
        running
            .map(|(number, step)| match line(number) {
                Some(lines) => format!("`{}` (line {})", step.name, lines.first),
                None => format!("`{}`", step.name),
            })
            .collect()
    }

    /// A text that belongs to no step.
    pub(crate) fn note(&self, text: &str) {
        let mut state = self.lock();
        state.current = None;
        state.log.add(text);
        if self.show == Show::Plain {
            state.print(text);
        }
    }

    /// A text that is shown whatever else is.
    pub(crate) fn tell(&self, text: &str) {
        let mut state = self.lock();
        // Lines that follow begin with the name of their step again.
        state.current = None;
        state.log.add(text);
        state.print(text);
    }

    /// Keeps back what comes until the answer is dropped, and shows it then: something else has the terminal. What came
    /// before has been written when this returns.
    pub(crate) fn hold(&self) -> Hold<'_> {
        self.lock().held.get_or_insert_default();
        stderr::flush();
        Hold(self)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes lines about a step, beneath its name.
    fn write(&self, state: &mut State, number: usize, lines: &str) {
        if self.show == Show::Nothing && matches!(state.log, Log::Nowhere) {
            return;
        }
        let mut text = String::new();
        if state.current != Some(number) {
            if let Some(left) = state.current {
                let _ = writeln!(text, "#{} ...", left + 1);
            }
            if state.begun {
                text.push('\n');
            }
            let _ = writeln!(text, "#{} {}", number + 1, state.steps[number].name);
        }
        state.current = Some(number);
        state.begun = true;
        text.push_str(lines);
        state.log.add(&text);
        if self.show == Show::Plain {
            state.print(&text);
        }
    }

    fn end(&self, state: &mut State, number: usize, lines: &str) {
        self.write(state, number, lines);
        state.steps[number].is_running = false;
        state.current = None;
    }
}

/// While this lives, nothing is shown.
pub(crate) struct Hold<'a>(&'a Progress);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        stderr::write(state.held.take().unwrap_or_default().as_bytes());
    }
}

impl State {
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

    fn add(&mut self, name: String) -> usize {
        self.steps.push(Step {
            name,
            started: Instant::now(),
            is_running: false,
            partial: [Vec::new(), Vec::new()],
            logs: [Clipping::new(self.limits), Clipping::new(self.limits)],
            tail: VecDeque::new(),
            transfers: HashMap::new(),
        });
        self.steps.len() - 1
    }

    fn vertex(&mut self, vertex: VertexId) -> usize {
        if let Some(number) = self.by_vertex.get(&vertex) {
            return *number;
        }
        let name = match &self.graph {
            Some(graph) => graph.vertex(vertex).meta.name.clone(),
            None => String::new(),
        };
        let number = self.add(name);
        self.by_vertex.insert(vertex, number);
        number
    }
}

impl Step {
    /// The lines that `data` completes, each with the step's number and the seconds since its start.
    fn take_lines(&mut self, number: usize, stream: LogStream, data: &[u8]) -> String {
        let index = usize::from(stream == LogStream::Stderr);
        let mut shown = Shown::new(self, number, index);
        let Some(end) = data.iter().rposition(|byte| *byte == b'\n') else {
            self.partial[index].extend_from_slice(data);
            // A line that never ends is shown in parts instead of filling memory.
            if self.partial[index].len() > LONGEST_LINE_BYTES {
                let line = std::mem::take(&mut self.partial[index]);
                self.add_lines(&line, &mut shown);
            }
            return shown.text;
        };
        let mut lines = std::mem::take(&mut self.partial[index]);
        lines.extend_from_slice(&data[..end]);
        self.partial[index].extend_from_slice(&data[end + 1..]);
        self.add_lines(&lines, &mut shown);
        shown.text
    }

    fn take_partial(&mut self, number: usize) -> String {
        let mut text = String::new();
        for index in 0..self.partial.len() {
            let line = std::mem::take(&mut self.partial[index]);
            if !line.is_empty() {
                let mut shown = Shown::new(self, number, index);
                self.add_lines(&line, &mut shown);
                text += &shown.text;
            }
        }
        text
    }

    /// Shows lines, and keeps the last ones for an error.
    fn add_lines(&mut self, lines: &[u8], shown: &mut Shown) {
        let lines = String::from_utf8_lossy(lines);
        let lines =
            lines.split('\n').map(|line| line.trim_end_matches('\r')).flat_map(|line| line.split('\r'));
        let kept = lines.clone().count().saturating_sub(TAIL_LINES);
        for (number, line) in lines.enumerate() {
            let line = lines::harmless(line);
            if number >= kept {
                if self.tail.len() == TAIL_LINES {
                    self.tail.pop_front();
                }
                let cut: String = line.chars().take(LONGEST_TAIL_LINE).collect();
                self.tail.push_back(format!("{}{cut}", shown.time));
            }
            shown.line(&line, &mut self.logs[shown.stream]);
        }
    }

    fn transfer(&mut self, number: usize, name: String, current: u64, total: Option<u64>) -> Option<String> {
        let is_done = total == Some(current);
        let is_due = match self.transfers.get(&name) {
            None => true,
            Some(last) => is_done || last.elapsed() >= TRANSFER_INTERVAL,
        };
        if !is_due {
            return None;
        }
        let of = total.map_or_else(String::new, |total| format!(" / {}", bytes(total)));
        let end = if is_done { " done" } else { "" };
        let line = format!("#{} {name} {}{of}{end}\n", number + 1, bytes(current));
        self.transfers.insert(name, Instant::now());
        Some(line)
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

/// A size for people, in powers of 1000 as docker writes it.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: &[&str] = &["kB", "MB", "GB", "TB", "PB", "EB"];
    if number < 1000 {
        return format!("{number}B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = number as f64 / 1000.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_meanwhile_is_kept() {
        let progress = Progress::new(Show::Plain, LogLimits::default());
        let hold = progress.hold();
        progress.note("one\n");
        progress.note("two\n");
        assert_eq!(progress.lock().held.as_deref(), Some("one\ntwo\n"));
        progress.note(&"x".repeat(MOST_HELD_BYTES));
        assert!(progress.lock().held.as_ref().is_some_and(|held| held.starts_with("(what came before")));
        progress.lock().held = Some(String::new());
        drop(hold);
        assert!(progress.lock().held.is_none());
    }

    #[test]
    fn output_is_shown_by_whole_lines() {
        let mut state = State::default();
        let number = state.add("step".to_owned());
        let step = &mut state.steps[number];
        assert_eq!(step.take_lines(number, LogStream::Stdout, b"ab"), "");
        let lines = step.take_lines(number, LogStream::Stdout, b"c\r\nd\n\ne");
        let texts: Vec<&str> = lines.lines().map(|line| line.splitn(3, ' ').nth(2).unwrap_or("?")).collect();
        assert_eq!(texts, ["abc", "d", ""]);
        assert!(lines.starts_with("#1 0.0"), "{lines}");
        assert!(step.take_partial(number).ends_with(" e\n"));
        assert_eq!(step.tail.len(), 4);
        for _ in 0..20 {
            step.take_lines(number, LogStream::Stderr, b"x\n");
        }
        assert_eq!(step.tail.len(), TAIL_LINES);
    }

    #[test]
    fn sizes_are_short() {
        let cases = [(0, "0B"), (999, "999B"), (1500, "1.50kB"), (2_000_000, "2.00MB")];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
    }
}
