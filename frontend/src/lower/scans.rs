//! What is scanned for packages beside the result: stages and the build context, where arguments of BuildKit ask for it.

use solver::VertexId;

use crate::boolean::go_bool;
use crate::options::Scan;
use crate::{Diagnostic, Span};

use super::state::State;
use super::{BUILD_CONTEXT, Lowering};

/// Whether the build context is scanned.
pub(super) const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
/// Whether a stage is scanned, or the names of those that are.
pub(super) const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";

impl Lowering<'_> {
    /// What is to be scanned beside the target, whose state is `target`. Whether the context is, the target says; each
    /// other stage that is needed says so of itself.
    pub(super) fn scans(&mut self, target: &State) -> Result<Vec<Scan>, Diagnostic> {
        let mut scans = Vec::new();
        let Some(index) = self.target.filter(|_| self.options.finds_scans) else { return Ok(scans) };
        let span = self.dockerfile.stages.last().map_or(Span::default(), |stage| stage.span);
        if self.is_asked_for(SCAN_CONTEXT, index, target) {
            let vertex = self.context_layer(BUILD_CONTEXT, span)?;
            scans.push(Scan { name: BUILD_CONTEXT.to_owned(), vertex });
        }
        for other in (0..self.states.len()).filter(|other| *other != index) {
            // The states of stages that are not needed were never made.
            let Some(mut state) = self.states[other].take() else { continue };
            if self.is_asked_for(SCAN_STAGE, other, &state) {
                let vertex: VertexId = self.root_vertex(&mut state, span)?;
                scans.push(Scan { name: self.stage_name(other), vertex });
            }
            self.states[other] = Some(state);
        }
        scans.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(scans)
    }

    /// What the argument is in a stage: the stage's own, else a global one, else that of the command line alone.
    fn is_asked_for(&self, argument: &str, index: usize, state: &State) -> bool {
        let own = state.scan_arguments.get(argument);
        let value = own.or_else(|| self.globals.get(argument)).or_else(|| self.build_args.get(argument));
        value.is_some_and(|value| match go_bool(value) {
            Some(is_on) => is_on,
            None => value.split(',').any(|name| name == self.stage_name(index)),
        })
    }

    fn stage_name(&self, index: usize) -> String {
        let name = self.dockerfile.stages.get(index).and_then(|stage| stage.name.as_ref());
        name.map_or_else(|| index.to_string(), |name| name.text.clone())
    }
}
