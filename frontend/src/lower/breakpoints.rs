//! Where a build is to stop.

use solver::VertexId;

use crate::options::Breakpoint;
use crate::quote::go_quote;
use crate::suggest::{self, Case};
use crate::tree::{Instruction, Stage};
use crate::{Diagnostic, Span};

use super::Lowering;
use super::steps::{Current, is_step};

/// A breakpoint.
pub(super) struct Stop {
    /// Whose steps it is about.
    stage: usize,
    /// The line that it names; all of the stage's for none.
    line: Option<u32>,
    vertices: Vec<VertexId>,
}

impl Stop {
    /// The vertices before which it stops.
    pub(super) fn into_vertices(self) -> Vec<VertexId> {
        self.vertices
    }
}

impl Lowering<'_> {
    /// Finds the stages of all breakpoints.
    pub(super) fn find_stops(&mut self) {
        for breakpoint in &self.options.breakpoints {
            let (found, line) = match breakpoint {
                Breakpoint::Line(line) => (Ok(self.stage_of_line(*line)), Some(*line)),
                Breakpoint::Stage(name) => (self.stage_to_stop_in(name), None),
            };
            match found {
                Ok(stage) => self.stops.push(Stop { stage, line, vertices: Vec::new() }),
                Err(diagnostic) => self.findings.push(diagnostic),
            }
        }
    }

    /// The stage that a line belongs to. What stands between two stages belongs to the second.
    fn stage_of_line(&self, line: u32) -> usize {
        let ends_before = |stage: &Stage| {
            let last = stage.instructions.last().map_or(stage.span, |instruction| instruction.span);
            last.last_line < line
        };
        let stages = &self.dockerfile.stages;
        stages.iter().position(|stage| !ends_before(stage)).unwrap_or(stages.len().saturating_sub(1))
    }

    fn stage_to_stop_in(&self, name: &str) -> Result<usize, Diagnostic> {
        let shown = || self.plans.iter().map(|plan| plan.shown_name.as_str());
        let named = self.names.get(name.to_lowercase().as_str()).copied();
        named.or_else(|| shown().position(|shown| shown == name)).ok_or_else(|| {
            let hint = suggest::did_you_mean(name, shown(), Case::Sensitive);
            let message =
                format!("cannot break in stage {}: there is none of that name{hint}", go_quote(name));
            Diagnostic::error_without_place("unknown-breakpoint", message)
        })
    }

    /// Notes the breakpoints that stop before `vertex`, which an instruction has put on top of its stage.
    pub(super) fn stop_before(&mut self, current: &Current<'_>, instruction: &Instruction, vertex: VertexId) {
        for stop in self.stops.iter_mut().filter(|stop| stop.stage == current.index) {
            match stop.line {
                None => stop.vertices.push(vertex),
                Some(line) => {
                    let is_next = !current.is_trigger && instruction.span.last_line >= line;
                    if is_next && stop.vertices.is_empty() {
                        stop.vertices.push(vertex);
                        self.builder.skip_lookups(vertex);
                    }
                }
            }
        }
    }

    /// Tells of the breakpoints that no step was found for.
    pub(super) fn check_stops(&mut self) {
        let missed: Vec<(usize, Option<u32>)> = self
            .stops
            .iter()
            .filter(|stop| stop.vertices.is_empty())
            .map(|stop| (stop.stage, stop.line))
            .collect();
        // Where a stage could not be lowered, that has been told.
        if self.findings.has_errors() {
            return;
        }
        for (stage, line) in missed {
            let diagnostic = self.missed(stage, line);
            self.findings.push(diagnostic);
        }
    }

    fn missed(&self, stage: usize, line: Option<u32>) -> Diagnostic {
        let label = go_quote(&self.stage_label(stage));
        let place = line.map_or_else(|| format!("in stage {label}"), |line| format!("at line {line}"));
        let error = |reason: &str| {
            Diagnostic::error_without_place("unknown-breakpoint", format!("cannot break {place}: {reason}"))
        };
        if !self.plans[stage].is_needed() {
            return error(&format!("the target does not need stage {label}"))
                .with_help("name another target with `--target`");
        }
        let Some(line) = line else { return error("the stage has no step") };
        let instructions = self.dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
        let steps: Vec<Span> = instructions.filter(|one| is_step(one)).map(|step| step.span).collect();
        let next = steps.iter().find(|step| step.first_line > line);
        let missed = error(&format!("no step follows in stage {label}"));
        match (next, steps.last()) {
            (Some(next), _) => missed.with_help(format!("the next step is at line {}", next.first_line)),
            (None, Some(last)) => missed.with_help(format!("the last step is at line {}", last.first_line)),
            (None, None) => missed,
        }
    }
}
