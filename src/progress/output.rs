//! What the process of a step writes: lines for people, the last of them for errors and for the live view.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use solver::LogStream;

use super::figures::moment;
use super::limits::{Clip, Clipping, LogLimits};
use super::lines;

/// How many lines of a step's output an error repeats.
const TAIL_LINES: usize = 10;
/// A line longer than this is shown in parts.
const LONGEST_LINE_BYTES: usize = 64 << 10;
/// How much of a line is repeated with the error, in characters.
const LONGEST_TAIL_LINE: usize = 2000;
/// How much of a line that has not ended is looked at for the live view.
const LONGEST_PARTIAL_BYTES: usize = 4096;

/// The output of a step so far.
pub(super) struct Output {
    /// Output that has no line end yet, by stream.
    partial: [Vec<u8>; 2],
    /// How much was shown, by stream.
    logs: [Clipping; 2],
    tail: VecDeque<String>,
    /// How many of the lines that came last were shown.
    unclipped: usize,
    /// The last lines without colours, as a terminal would show them.
    recent: VecDeque<String>,
    /// How many of them are kept.
    most_recent: usize,
    last_stream: usize,
}

/// What is being shown: the number of the step and the seconds since its start stand before each line.
struct Shown {
    text: String,
    number: usize,
    /// The seconds as text.
    time: String,
    elapsed: Duration,
    stream: usize,
}

impl Shown {
    fn line(&mut self, line: &str, clipping: &mut Clipping) -> bool {
        match clipping.take(line.len() + 1, self.elapsed) {
            Clip::Nothing => {
                self.push(line);
                return true;
            }
            Clip::Begins(limit) => self.push(&format!("[output clipped, log limit {limit} reached]")),
            Clip::GoesOn => {}
        }
        false
    }

    fn push(&mut self, line: &str) {
        let _ = write!(self.text, "#{} ", self.number);
        self.text.push_str(&self.time);
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// The index of a stream.
pub(super) fn index(stream: LogStream) -> usize {
    usize::from(stream == LogStream::Stderr)
}

impl Output {
    /// Nothing yet. `most_recent` lines are kept for the live view.
    pub(super) fn new(limits: LogLimits, most_recent: usize) -> Self {
        Self {
            partial: [Vec::new(), Vec::new()],
            logs: [Clipping::new(limits), Clipping::new(limits)],
            tail: VecDeque::new(),
            unclipped: 0,
            recent: VecDeque::new(),
            most_recent,
            last_stream: 0,
        }
    }

    /// The lines that `data` completes, each with the step's number (counted from 1) and the time.
    pub(super) fn take(
        &mut self,
        (number, elapsed): (usize, Duration),
        stream: LogStream,
        data: &[u8],
    ) -> String {
        let index = index(stream);
        self.last_stream = index;
        let mut shown = Self::shown(number, elapsed, index);
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

    /// What is left when the step ends.
    pub(super) fn take_partial(&mut self, number: usize, elapsed: Duration) -> String {
        let mut text = String::new();
        for index in 0..self.partial.len() {
            let line = std::mem::take(&mut self.partial[index]);
            if !line.is_empty() {
                let mut shown = Self::shown(number, elapsed, index);
                self.add_lines(&line, &mut shown);
                text += &shown.text;
            }
        }
        text
    }

    /// The last lines, each with its time.
    pub(super) fn tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }

    /// Whether all lines of the tail were shown.
    pub(super) fn shows_tail(&self) -> bool {
        self.unclipped >= self.tail.len()
    }

    /// How many lines [`Output::recent`] would give.
    pub(super) fn recent_count(&self) -> usize {
        (self.recent.len() + usize::from(self.current_line().is_some())).min(self.most_recent)
    }

    /// The last `count` lines without colours, with the one that is being written.
    pub(super) fn recent(&self, count: usize) -> Vec<String> {
        let current = self.current_line();
        let count = count.min(self.most_recent);
        let whole = count.saturating_sub(usize::from(current.is_some())).min(self.recent.len());
        let lines = self.recent.range(self.recent.len() - whole..).cloned();
        lines.chain(current).take(count).collect()
    }

    fn current_line(&self) -> Option<String> {
        let partial = &self.partial[self.last_stream];
        let end = &partial[partial.len().saturating_sub(LONGEST_PARTIAL_BYTES)..];
        visible(&String::from_utf8_lossy(end))
    }

    fn shown(number: usize, elapsed: Duration, stream: usize) -> Shown {
        Shown { text: String::new(), number, time: format!("{} ", moment(elapsed)), elapsed, stream }
    }

    /// Shows lines, and keeps the last ones.
    fn add_lines(&mut self, lines: &[u8], shown: &mut Shown) {
        let lines = String::from_utf8_lossy(lines);
        if self.most_recent > 0 {
            self.add_recent(&lines);
        }
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
            let is_shown = shown.line(&line, &mut self.logs[shown.stream]);
            self.unclipped = if is_shown { self.unclipped + 1 } else { 0 };
        }
    }

    fn add_recent(&mut self, lines: &str) {
        let skipped = lines.split('\n').count().saturating_sub(self.most_recent);
        for line in lines.split('\n').skip(skipped).filter_map(visible) {
            if self.recent.len() == self.most_recent {
                self.recent.pop_front();
            }
            self.recent.push_back(line);
        }
    }
}

/// What a terminal shows of a line: what was written last over it. `None` where that is nothing.
fn visible(line: &str) -> Option<String> {
    let last = line.rsplit('\r').find(|part| !part.is_empty())?;
    let bare = lines::bare(last);
    (!bare.trim().is_empty()).then(|| bare.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: (usize, Duration) = (1, Duration::ZERO);

    #[test]
    fn output_is_shown_by_whole_lines() {
        let mut output = Output::new(LogLimits::default(), 0);
        assert_eq!(output.take(START, LogStream::Stdout, b"ab"), "");
        let lines = output.take(START, LogStream::Stdout, b"c\r\nd\n\ne");
        assert_eq!(lines, "#1 0.000 abc\n#1 0.000 d\n#1 0.000 \n");
        assert_eq!(output.take_partial(1, Duration::from_millis(12_345)), "#1 12.35 e\n");
        assert_eq!(output.tail().collect::<Vec<_>>(), ["0.000 abc", "0.000 d", "0.000 ", "12.35 e"]);
        assert!(output.shows_tail());
        for _ in 0..20 {
            output.take(START, LogStream::Stderr, b"x\n");
        }
        assert_eq!(output.tail().count(), TAIL_LINES);
        assert_eq!(output.recent_count(), 0);
    }

    #[test]
    fn a_tail_that_was_clipped_was_not_shown() {
        let limits = LogLimits { size_bytes: Some(6), ..LogLimits::default() };
        let mut output = Output::new(limits, 0);
        output.take(START, LogStream::Stdout, b"1\n2\n");
        assert!(output.shows_tail());
        let text = output.take(START, LogStream::Stdout, b"3\n4\n");
        assert_eq!(text, "#1 0.000 3\n#1 0.000 [output clipped, log limit 6B reached]\n");
        assert!(!output.shows_tail());
    }

    #[test]
    fn recent_lines_are_what_a_terminal_would_show() {
        let mut output = Output::new(LogLimits::default(), 3);
        output.take(START, LogStream::Stdout, b"one\n\n\x1b[32m1%\r50%\x1b[0m\r100%\r\nthree");
        assert_eq!(output.recent(3), ["one", "100%", "three"]);
        assert_eq!(output.recent(2), ["100%", "three"]);
        output.take(START, LogStream::Stdout, b"\r3\n4\n5\n");
        assert_eq!(output.recent(9), ["3", "4", "5"]);
        assert_eq!(output.recent_count(), 3);
    }
}
