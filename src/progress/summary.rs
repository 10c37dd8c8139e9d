//! What is said of a build when it is over.

use std::fmt::Write as _;
use std::time::Instant;

use super::figures::seconds;
use super::frame::Outcome;
use super::lines;
use super::model::{Ending, Model};

/// How much of the name of a step is told, in columns.
const NAME_COLUMNS: usize = 40;

/// How many steps there were, how long it took, and what came of it: `results`, a line each.
///
/// ```text
/// Built in 12.3s: 9 steps, 4 run, 5 cached; 8.1s for [build 2/4] RUN make
///  -> app:v1 in the local store, 54.20MB
/// ```
pub(super) fn text(model: &Model, results: &[String], outcome: Outcome, now: Instant) -> String {
    let elapsed = seconds(now.saturating_duration_since(model.begun));
    let (executed, wanted) = model.executed();
    let mut text = match outcome {
        Outcome::Success => {
            let steps = if wanted == 1 { "step" } else { "steps" };
            let cached = wanted.saturating_sub(executed);
            format!("\nBuilt in {elapsed}: {wanted} {steps}, {executed} run, {cached} cached")
        }
        // What the others would have been nobody knows.
        Outcome::Failure => format!("\nFailed after {elapsed}"),
    };
    let slowest = model
        .steps
        .iter()
        .filter(|step| model.is_step(step) && step.ending() == Some(&Ending::Done))
        .max_by_key(|step| step.elapsed(now));
    if let Some(step) = slowest
        && executed > 1
        && outcome == Outcome::Success
    {
        let (name, _) = lines::cut(&step.name, NAME_COLUMNS);
        let mark = if name.len() < step.name.len() { "…" } else { "" };
        let _ = write!(text, "; {} for {name}{mark}", seconds(step.elapsed(now)));
    }
    text.push('\n');
    for result in results {
        let _ = writeln!(text, " -> {result}");
    }
    text
}
