//! One picture of the live view: lines that fit a terminal, without any escape sequences yet.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::figures::seconds;
use super::lines;
use super::model::{Detail, DetailKind, Ending, Model, Phase, Step};

/// Narrower terminals get names alone.
const NARROW_COLUMNS: usize = 20;

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// How much of the steps is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// What fits the terminal.
    Screen,
    /// All steps, for what stays when the build is over.
    Whole(Outcome),
}

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has what was asked for.
    Success,
    /// It has not.
    Failure,
}

/// A line of the picture.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    /// How many columns it takes.
    pub(super) columns: usize,
    pub(super) style: Style,
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// The header, and what goes on.
    Normal,
    /// A step that has ended well.
    Done,
    Failed,
    Canceled,
    Warning,
    Output,
}

/// Draws the steps. `log_lines` is how many lines of output a running step may have.
pub(super) fn frame(model: &Model, now: Instant, size: Size, log_lines: usize, extent: Extent) -> Vec<Line> {
    // The last column stays free: some terminals wrap when it is written to.
    let pen = Pen { columns: size.columns.saturating_sub(1), now };
    let mut drawn = vec![pen.header(model, extent)];
    match extent {
        Extent::Whole(_) => {
            for step in model.steps.iter().filter(|step| is_shown(step)) {
                drawn.push(pen.step(step));
                drawn.extend(step.details.iter().map(|detail| pen.detail(detail)));
            }
        }
        Extent::Screen => {
            // One row is for the header, and one for the cursor.
            let layout = Layout::of(model, size.rows.saturating_sub(2), log_lines);
            layout.draw(model, pen, &mut drawn);
        }
    }
    drawn
}

fn is_shown(step: &Step) -> bool {
    step.phase != Phase::Known || !step.details.is_empty()
}

/// What is shown where there is not room for everything.
#[derive(Default)]
struct Layout {
    /// The steps that are shown, in order.
    shown: Vec<usize>,
    /// How many lines of output each has.
    output: HashMap<usize, usize>,
    /// How many of the details that came last each has.
    details: HashMap<usize, usize>,
    /// How many steps that have ended are left out.
    ended: usize,
    /// How many that run are left out.
    running: usize,
}

impl Layout {
    fn of(model: &Model, rows: usize, log_lines: usize) -> Self {
        let running: Vec<usize> = model.running().iter().copied().collect();
        let mut layout = Self::default();
        if running.len() > rows {
            // A row tells how many there are beside.
            let count = rows.saturating_sub(1);
            layout.running = running.len() - count;
            layout.shown = running[..count].to_vec();
            return layout;
        }
        let mut free = rows - running.len();
        layout.shown.clone_from(&running);
        layout.share(&mut free, &running, |number| {
            let steps = &model.steps[number];
            let open = steps.details.iter().filter(|detail| detail.ended.is_none()).count();
            (open, Part::Details)
        });
        layout.share(&mut free, &running, |number| {
            (model.steps[number].output.recent_count().min(log_lines), Part::Output)
        });
        layout.add_others(model, free);
        layout.shown.sort_unstable();
        layout
    }

    /// Gives each step a line in turn until all have what they want, or none is left.
    fn share(&mut self, free: &mut usize, steps: &[usize], wanted: impl Fn(usize) -> (usize, Part)) {
        let mut got_one = true;
        let mut round = 0;
        while got_one && *free > 0 {
            got_one = false;
            for number in steps {
                let (wanted, part) = wanted(*number);
                if wanted > round && *free > 0 {
                    let parts = match part {
                        Part::Details => &mut self.details,
                        Part::Output => &mut self.output,
                    };
                    *parts.entry(*number).or_default() += 1;
                    *free -= 1;
                    got_one = true;
                }
            }
            round += 1;
        }
    }

    /// Uses the rows that running steps leave: for those that have ended, the last ones first, and for all that there is
    /// to say if there is room for it.
    fn add_others(&mut self, model: &Model, free: usize) {
        let others =
            || model.steps.iter().enumerate().filter(|(_, step)| !step.is_running() && is_shown(step));
        let count = others().count();
        if free == 0 {
            return;
        }
        if count > free {
            // A row tells how many there are beside.
            let shown = free.saturating_sub(1);
            self.ended = count - shown;
            self.shown.extend(others().skip(count - shown).map(|(number, _)| number));
            return;
        }
        self.shown.extend(others().map(|(number, _)| number));
        let hidden = |number: usize, layout: &Self| {
            let known = layout.details.get(&number).copied().unwrap_or_default();
            model.steps[number].details.len() - known
        };
        let more: usize = self.shown.iter().map(|number| hidden(*number, self)).sum();
        if more <= free - count {
            self.details =
                self.shown.iter().map(|number| (*number, model.steps[*number].details.len())).collect();
        }
    }

    fn draw(&self, model: &Model, pen: Pen, drawn: &mut Vec<Line>) {
        if self.ended > 0 {
            let text = format!("{} more steps have ended", self.ended);
            drawn.push(pen.line(&text, None, None, Style::Done));
        }
        for number in &self.shown {
            let step = &model.steps[*number];
            drawn.push(pen.step(step));
            let wanted = self.details.get(number).copied().unwrap_or_default();
            drawn.extend(chosen(&step.details, wanted).map(|detail| pen.detail(detail)));
            let wanted = self.output.get(number).copied().unwrap_or_default();
            drawn.extend(step.output.recent(wanted).iter().map(|line| pen.output(line)));
        }
        if self.running > 0 {
            let text = format!("{} more steps are running", self.running);
            drawn.push(pen.line(&text, None, None, Style::Normal));
        }
    }
}

#[derive(Clone, Copy)]
enum Part {
    Details,
    Output,
}

/// The details that are shown where there is room for `count`: those that go on before those that are over, the last
/// ones, in their order.
fn chosen(details: &[Detail], count: usize) -> impl Iterator<Item = &Detail> {
    let open = details.iter().filter(|detail| detail.ended.is_none()).count();
    let mut skipped_open = open.saturating_sub(count);
    let mut skipped_over = (details.len() - open).saturating_sub(count.saturating_sub(open));
    details.iter().filter(move |detail| {
        let skipped = if detail.ended.is_none() { &mut skipped_open } else { &mut skipped_over };
        let is_chosen = *skipped == 0;
        *skipped = skipped.saturating_sub(1);
        is_chosen
    })
}

#[derive(Clone, Copy)]
struct Pen {
    columns: usize,
    now: Instant,
}

impl Pen {
    fn header(self, model: &Model, extent: Extent) -> Line {
        let ended = model.steps.iter().filter(|step| step.ending().is_some()).count();
        let (total, word) = match extent {
            Extent::Whole(Outcome::Success) => (ended, " FINISHED"),
            Extent::Whole(Outcome::Failure) | Extent::Screen => (model.expected(), ""),
        };
        let elapsed = seconds(self.now.saturating_duration_since(model.begun));
        let text = format!("[+] Building {elapsed} ({ended}/{total}){word}");
        let (text, columns) = lines::cut(&text, self.columns);
        Line { text: text.to_owned(), columns, style: Style::Normal }
    }

    fn step(self, step: &Step) -> Line {
        let (word, style) = match step.ending() {
            None => ("", Style::Normal),
            Some(Ending::Done) => ("", Style::Done),
            Some(Ending::Cached) => ("CACHED ", Style::Done),
            Some(Ending::Failed(_)) => ("ERROR ", Style::Failed),
            Some(Ending::Canceled) => ("CANCELED ", Style::Canceled),
        };
        // Continued lines of a Dockerfile are indented, and room is scarce.
        let name = step.name.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        self.line(&format!("{word}{name}"), None, Some(step.elapsed(self.now)), style)
    }

    fn detail(self, detail: &Detail) -> Line {
        let (word, style) = match (detail.kind, detail.ended) {
            (DetailKind::Warning, _) => ("WARN: ", Style::Warning),
            (_, Some(_)) => ("", Style::Done),
            (_, None) => ("", Style::Normal),
        };
        let elapsed = match detail.kind {
            DetailKind::Activity | DetailKind::Transfer { .. } => Some(detail.elapsed(self.now)),
            DetailKind::Note | DetailKind::Warning => None,
        };
        self.line(&format!("=> {word}{}", detail.name), detail.amount().as_deref(), elapsed, style)
    }

    fn output(self, line: &str) -> Line {
        let mark = if self.columns < NARROW_COLUMNS { "# " } else { " => => # " };
        let text = format!("{mark}{line}");
        let (text, columns) = lines::cut(&text, self.columns);
        Line { text: text.to_owned(), columns, style: Style::Output }
    }

    /// A name at the left, an amount after it, and a time at the right edge, as far as there is room: an amount matters
    /// more than the end of a name, and a name that can be told from others more than either.
    fn line(self, name: &str, amount: Option<&str>, elapsed: Option<Duration>, style: Style) -> Line {
        if self.columns < NARROW_COLUMNS {
            let (text, columns) = lines::cut(name, self.columns);
            return Line { text: text.to_owned(), columns, style };
        }
        // What takes no time to speak of is shown as taking none.
        let shown =
            elapsed.map(|elapsed| if elapsed < Duration::from_millis(50) { Duration::ZERO } else { elapsed });
        let time = shown.map_or_else(String::new, |elapsed| format!(" {}", seconds(elapsed)));
        let mut room = self.columns - " => ".len() - time.len();
        let amount = amount.map_or_else(String::new, |amount| format!(" {amount}"));
        let amount = if room >= NARROW_COLUMNS + amount.len() { amount.as_str() } else { "" };
        room -= amount.len();
        let (name, taken) = lines::cut(name, room);
        let spaces = if time.is_empty() { 0 } else { room - taken };
        let columns = " => ".len() + taken + amount.len() + spaces + time.len();
        Line { text: format!(" => {name}{amount}{}{time}", " ".repeat(spaces)), columns, style }
    }
}
