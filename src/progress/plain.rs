//! BuildKit's plain form: lines, each with the number of its step.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::figures::seconds;
use super::model::{Detail, DetailKind, Ending, Step};

/// How long the others wait for the step whose lines are being shown, while it goes on writing.
const TURN: Duration = Duration::from_secs(1);
/// How long they wait when it writes nothing.
const SILENCE: Duration = Duration::from_millis(200);
/// How much may wait.
const MOST_WAITING_BYTES: usize = 64 << 10;
/// A transfer that goes on is told of no more often than this.
const TRANSFER_INTERVAL: Duration = Duration::from_secs(2);
/// What is no more than so many lines above is still in sight.
const SIGHT_LINES: u64 = 12;

/// Puts the lines of all steps in an order:
///
/// ```text
/// #5 [2/3] RUN make
/// #5 0.123 cc -c x.c
/// #5 DONE 0.1s
/// ```
///
/// The lines of one step stay together: those of others wait for a moment while it writes. Where a step is left that has
/// not ended, it gets a line `#5 ...`, and its name again when it goes on.
#[derive(Default)]
pub(super) struct Plain {
    /// The step that the last line was about, if it has not ended.
    current: Option<Turn>,
    /// Whether anything was written yet: blocks are separated by empty lines.
    begun: bool,
    /// What has to wait, in the order in which it came.
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// How many lines there were.
    lines: u64,
    /// For steps that may fail: the block that ended last.
    last: Vec<(usize, Block)>,
}

struct Turn {
    number: usize,
    began: Instant,
    /// When it wrote last.
    wrote: Instant,
    block: Block,
}

/// Lines of a step that stand together.
#[derive(Clone, Copy, Default)]
struct Block {
    lines: u64,
    /// How many lines there were in all at its end.
    end: u64,
}

struct Waiting {
    number: usize,
    name: String,
    text: String,
}

/// Whether a step has ended with what it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goes {
    On,
    Ends,
}

impl Plain {
    /// Takes lines of a step, and gives what is to be shown now.
    pub(super) fn add(
        &mut self,
        (number, name): (usize, &str),
        lines: &str,
        goes: Goes,
        now: Instant,
    ) -> String {
        let mut shown = String::new();
        let is_current = self.current.as_ref().is_some_and(|turn| turn.number == number);
        if !is_current && goes == Goes::On && !self.may_leave(now) {
            self.wait((number, name), lines);
            if self.waiting_bytes > MOST_WAITING_BYTES {
                self.take_turns(&mut shown, now);
            }
            return shown;
        }
        let waited = self.waiting.iter().position(|waiting| waiting.number == number);
        let waited = waited.and_then(|at| self.waiting.remove(at)).map(|waiting| waiting.text);
        let waited = waited.unwrap_or_default();
        self.waiting_bytes -= waited.len();
        self.show((number, name), &format!("{waited}{lines}"), &mut shown, now);
        if goes == Goes::Ends {
            self.leave();
            self.next(&mut shown, now);
        }
        shown
    }

    /// What has waited long enough.
    pub(super) fn tick(&mut self, now: Instant) -> String {
        let mut shown = String::new();
        if self.may_leave(now) {
            self.next(&mut shown, now);
        }
        shown
    }

    /// Whether something waits.
    pub(super) fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// All that waits. What comes next begins with the name of its step.
    pub(super) fn flush(&mut self, now: Instant) -> String {
        let mut shown = String::new();
        self.take_turns(&mut shown, now);
        self.interrupt();
        shown
    }

    /// Something else was written.
    pub(super) fn interrupt(&mut self) {
        self.leave();
    }

    /// Whether the last `count` lines of a step are still in sight, in one piece.
    pub(super) fn shows_last(&self, number: usize, count: usize) -> bool {
        let block = self.last.iter().rev().find(|(known, _)| *known == number).map(|(_, block)| *block);
        block.is_some_and(|block| block.lines > count as u64 && self.lines - block.end <= SIGHT_LINES)
    }

    fn may_leave(&self, now: Instant) -> bool {
        self.current.as_ref().is_none_or(|turn| {
            now.saturating_duration_since(turn.began) >= TURN
                || now.saturating_duration_since(turn.wrote) >= SILENCE
        })
    }

    fn wait(&mut self, (number, name): (usize, &str), lines: &str) {
        self.waiting_bytes += lines.len();
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.number == number) {
            waiting.text.push_str(lines);
        } else {
            let (name, text) = (name.to_owned(), lines.to_owned());
            self.waiting.push_back(Waiting { number, name, text });
        }
    }

    /// Whoever has waited longest has its turn.
    fn next(&mut self, shown: &mut String, now: Instant) {
        if let Some(Waiting { number, name, text }) = self.waiting.pop_front() {
            self.waiting_bytes -= text.len();
            self.show((number, &name), &text, shown, now);
        }
    }

    fn take_turns(&mut self, shown: &mut String, now: Instant) {
        while self.is_behind() {
            self.next(shown, now);
        }
    }

    fn show(&mut self, (number, name): (usize, &str), lines: &str, shown: &mut String, now: Instant) {
        let before = shown.len();
        if self.current.as_ref().is_none_or(|turn| turn.number != number) {
            if let Some(left) = &self.current {
                let _ = writeln!(shown, "#{} ...", left.number + 1);
            }
            if self.begun {
                shown.push('\n');
            }
            let _ = writeln!(shown, "#{} {name}", number + 1);
            self.leave();
            self.current = Some(Turn { number, began: now, wrote: now, block: Block::default() });
        }
        self.begun = true;
        shown.push_str(lines);
        self.lines += line_count(&shown[before..]);
        if let Some(turn) = &mut self.current {
            turn.wrote = now;
            turn.block.lines += line_count(lines);
            turn.block.end = self.lines;
        }
    }

    fn leave(&mut self) {
        if let Some(Turn { number, block, .. }) = self.current.take() {
            // Others than the last ones are out of sight anyway.
            if self.last.len() > 8 {
                self.last.remove(0);
            }
            self.last.push((number, block));
        }
    }
}

fn line_count(text: &str) -> u64 {
    text.bytes().filter(|byte| *byte == b'\n').count() as u64
}

/// The line that tells of the end of a step.
pub(super) fn end_line(number: usize, how: &Ending, took: Duration) -> String {
    let number = number + 1;
    match how {
        Ending::Done => format!("#{number} DONE {}\n", seconds(took)),
        Ending::Cached => format!("#{number} CACHED\n"),
        Ending::Failed(message) => format!("#{number} ERROR: {message}\n"),
        Ending::Canceled => format!("#{number} CANCELED\n"),
    }
}

/// The line that tells of something that a step does, if it is due.
pub(super) fn detail_line(number: usize, detail: &mut Detail, now: Instant) -> Option<String> {
    let number = number + 1;
    let is_transfer = matches!(detail.kind, DetailKind::Transfer { .. });
    let is_due = match detail.told {
        None => true,
        Some(told) => detail.ended.is_some() || is_transfer && now.duration_since(told) >= TRANSFER_INTERVAL,
    };
    if !is_due {
        return None;
    }
    detail.told = Some(now);
    let mut line = match detail.kind {
        DetailKind::Warning => format!("#{number} WARNING: {}", detail.name),
        DetailKind::Activity | DetailKind::Transfer { .. } | DetailKind::Note => {
            format!("#{number} {}", detail.name)
        }
    };
    if let Some(amount) = detail.amount() {
        let _ = write!(line, " {amount}");
    }
    if matches!(detail.kind, DetailKind::Activity | DetailKind::Transfer { .. }) {
        let elapsed = detail.elapsed(now);
        if elapsed > Duration::from_millis(10) {
            let _ = write!(line, " {}", seconds(elapsed));
        }
        if detail.ended.is_some() {
            line += " done";
        }
    }
    line.push('\n');
    Some(line)
}

/// The block that repeats the last lines of a failed step.
pub(super) fn tail_block(step: &Step) -> String {
    let mut block = format!("------\n > {}:\n", step.name);
    for line in step.output.tail() {
        block += line;
        block.push('\n');
    }
    block += "------\n";
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    #[test]
    fn lines_of_a_step_stay_together() {
        let (mut plain, start) = (Plain::default(), Instant::now());
        let mut add = |number, lines: &str, goes, milliseconds| {
            plain.add((number, ["make", "test"][number]), lines, goes, at(start, milliseconds))
        };
        assert_eq!(add(0, "", Goes::On, 0), "#1 make\n");
        assert_eq!(add(1, "", Goes::On, 1), "");
        assert_eq!(add(1, "#2 0.1 b\n", Goes::On, 100), "");
        assert_eq!(add(0, "#1 0.1 a\n", Goes::On, 150), "#1 0.1 a\n");
        // Whoever ends need not wait, and the others go on.
        assert_eq!(add(0, "#1 DONE 0.2s\n", Goes::Ends, 200), "#1 DONE 0.2s\n\n#2 test\n#2 0.1 b\n");
        assert_eq!(add(1, "#2 DONE 0.3s\n", Goes::Ends, 300), "#2 DONE 0.3s\n");
        assert!(!plain.is_behind());
    }

    #[test]
    fn a_turn_ends() {
        let (mut plain, start) = (Plain::default(), Instant::now());
        plain.add((0, "a"), "", Goes::On, start);
        plain.add((1, "b"), "#2 x\n", Goes::On, start);
        // It says nothing.
        assert_eq!(plain.tick(at(start, 199)), "");
        assert_eq!(plain.tick(at(start, 200)), "#1 ...\n\n#2 b\n#2 x\n");
        // It never stops.
        for milliseconds in (300..1200).step_by(100) {
            plain.add((1, "b"), "#2 x\n", Goes::On, at(start, milliseconds));
            assert_eq!(plain.add((0, "a"), "#1 y\n", Goes::On, at(start, milliseconds)), "");
        }
        let text = plain.add((0, "a"), "#1 y\n", Goes::On, at(start, 1200));
        assert_eq!(text, format!("#2 ...\n\n#1 a\n{}", "#1 y\n".repeat(10)));
        // Too much waits.
        let much = "#2 z\n".repeat(MOST_WAITING_BYTES / 5 + 1);
        assert_eq!(plain.add((1, "b"), &much, Goes::On, at(start, 1201)), format!("#1 ...\n\n#2 b\n{much}"));
        plain.add((0, "a"), "#1 y\n", Goes::On, at(start, 1202));
        assert_eq!(plain.flush(at(start, 1203)), "#2 ...\n\n#1 a\n#1 y\n");
    }

    #[test]
    fn what_is_in_sight_is_known() {
        let (mut plain, now) = (Plain::default(), Instant::now());
        plain.add((0, "a"), "#1 1\n#1 2\n", Goes::On, now);
        plain.add((0, "a"), "#1 ERROR: x\n", Goes::Ends, now);
        assert!(plain.shows_last(0, 2));
        assert!(!plain.shows_last(0, 3) && !plain.shows_last(1, 0));
        plain.add((1, "b"), "#2 CANCELED\n", Goes::Ends, now);
        assert!(plain.shows_last(0, 2));
        plain.add((2, "c"), &"#3 x\n".repeat(20), Goes::On, now);
        assert!(!plain.shows_last(0, 2));
    }

    #[test]
    fn details_have_buildkits_form() {
        let now = Instant::now();
        let kind = DetailKind::Transfer { current: 1_050_000, total: Some(45_000_000) };
        let mut detail = Detail { name: "sha256:ab".to_owned(), kind, started: now, ended: None, told: None };
        let line = detail_line(4, &mut detail, at(now, 5100));
        assert_eq!(line.as_deref(), Some("#5 sha256:ab 1.05MB / 45.00MB 5.1s\n"));
        assert_eq!(detail_line(4, &mut detail, at(now, 5200)), None);
        detail.ended = Some(at(now, 6000));
        let line = detail_line(4, &mut detail, at(now, 6000));
        assert_eq!(line.as_deref(), Some("#5 sha256:ab 1.05MB / 45.00MB 6.0s done\n"));
        assert_eq!(end_line(4, &Ending::Canceled, Duration::ZERO), "#5 CANCELED\n");
    }
}
