//! What is done once a build has failed.

use std::io::IsTerminal as _;
use std::sync::Arc;

use exporter::RootForm;
use frontend::{Diagnostic, Lowered};
use oci::Platform;
use solver::{ExecContext, RunOp, SolveError, VertexId};
use tokio_util::sync::CancellationToken;
use worker::{Output, WorkerError};

use crate::build::{Shown, Work};
use crate::export::{BuiltImage, Outputs};
use crate::interrupt::Interrupt;
use crate::report;
use crate::session::blocking;

impl Work<'_> {
    /// Does what is asked for after a failure: a shell, where the process of a RUN was not what failed, and tags. Gives
    /// what to tell of it.
    pub(crate) async fn after_failure(
        &self,
        error: &SolveError<WorkerError>,
        salt: Vec<u8>,
        interrupt: &Interrupt,
    ) -> Vec<String> {
        let cancel = interrupt.token();
        let SolveError::Vertex { vertex, error } = error else { return Vec::new() };
        let is_known = matches!(error, WorkerError::Cancelled | WorkerError::Stopped(_));
        if is_known || cancel.is_cancelled() {
            return Vec::new();
        }
        // A process that failed has been looked at where it ran.
        let was_run = matches!(error, WorkerError::Process { .. });
        let shells = self.plan.shells.as_ref().filter(|shells| shells.opens_after_failure() && !was_run);
        if shells.is_none() && self.plan.wanted.tags.is_empty() {
            let offers = was_run && self.plan.shells.is_none() && std::io::stderr().is_terminal();
            let hint = "`--on-failure=shell` opens a shell in the sandbox of the step that fails";
            return offers.then(|| hint.to_owned()).into_iter().collect();
        }
        let mut hints = Vec::new();
        let made = self.make_stage_before(*vertex, salt, cancel).await;
        let (before, output) = match made {
            Ok(made) => made,
            Err(reason) => {
                let asked = if shells.is_some() { "open a shell" } else { "tag the stage" };
                return vec![format!("cannot {asked}: {reason}")];
            }
        };
        if let Some(shells) = shells {
            // A user whom the image does not know may be what is wrong.
            let is_unknown = matches!(error, WorkerError::ProcessUser { .. });
            let run = if is_unknown { RunOp { user: String::new(), ..before.run } } else { before.run };
            let context = ExecContext { vertex: *vertex, cancel: cancel.clone(), events: Arc::new(|_| {}) };
            match self.worker.scene(&output, &run, &context).await {
                Ok(scene) => shells.after_failure_in(scene, (*vertex, error), &run, cancel).await,
                Err(error) => hints.push(format!("cannot open a shell: {}", report::chain(&error))),
            }
        }
        if !self.plan.wanted.tags.is_empty() {
            hints.push(self.tag(before.lowered, output, interrupt).await);
        }
        hints
    }

    /// The stage before the instruction that `vertex` belongs to: all of it has been made already, as a rule.
    async fn make_stage_before(
        &self,
        vertex: VertexId,
        salt: Vec<u8>,
        cancel: &CancellationToken,
    ) -> Result<(frontend::Before, Output), String> {
        let build = Arc::clone(self.build);
        let before = blocking(move || build.before(vertex)).await;
        let before =
            before.map_err(|diagnostics| diagnostics.iter().map(Diagnostic::summary).collect::<String>())?;
        let mut before = before.ok_or("the base image is what failed")?;
        let graph = Arc::new(std::mem::take(&mut before.lowered.graph));
        let solved = self.solve((&graph, &[before.lowered.target]), Shown::No, salt, cancel).await;
        let solved = solved.map_err(|error| report::chain(&error))?;
        let output = solved.outputs.into_iter().next().expect("there is one for each target");
        Ok((before, output))
    }

    async fn tag(&self, lowered: Lowered, output: Output, interrupt: &Interrupt) -> String {
        let names = self.plan.wanted.tags.iter().map(|tag| format!("`{tag}`")).collect::<Vec<_>>().join(", ");
        let outputs = Outputs::tagging(self.plan.wanted.tags.clone());
        let export = self.export(&outputs, lowered.epoch, RootForm::Manifest);
        let (config, base_layers) = (lowered.config, lowered.base_layers);
        let platform = Platform::new(&config.os, &config.architecture, config.variant.as_deref());
        let built = BuiltImage { platform, config, base_layers, lines: Vec::new(), output, cache: None };
        let result = interrupt.unless(export.run(vec![built])).await;
        match result {
            Ok(_) => format!("tagged the stage before this step as {names}"),
            Err(failure) => format!("cannot tag the stage before this step as {names}: {}", failure.cause()),
        }
    }
}
