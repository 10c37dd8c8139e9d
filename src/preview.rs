//! `--plan`: what a build would do.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use cache::Store;
use oci::CacheHash;
use serde::Serialize;
use serde_json::json;
use solver::{Fate, Graph, Op, VertexId};
use worker::LocalWorker;

use crate::arguments::PlanFormat;
use crate::explain::{self, Reason};
use crate::history::{self, Past, StepRecord, Steps, Subject};
use crate::images::store_failure;
use crate::progress::bytes;
use crate::report::{self, Failure};
use crate::session::blocking;

/// What is asked.
pub(crate) struct Preview<'a> {
    pub(crate) graph: &'a Arc<Graph>,
    pub(crate) subject: &'a Subject,
    pub(crate) store: &'a Store,
    pub(crate) worker: &'a LocalWorker,
}

/// What would become of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Cached,
    Run,
    Copy,
    /// A file or a repository.
    Fetch,
    /// WORKDIR.
    Mkdir,
    /// It depends on what another step will make.
    Undecided,
}

impl Action {
    fn of(op: &Op, fate: &Fate) -> Option<Self> {
        match fate {
            Fate::Cached => Some(Self::Cached),
            Fate::Undecided => Some(Self::Undecided),
            Fate::Executed { .. } => Some(match op {
                Op::Run(_) => Self::Run,
                Op::Http(_) | Op::Git(_) => Self::Fetch,
                Op::Mkdir(_) => Self::Mkdir,
                _ => Self::Copy,
            }),
            Fate::Unneeded | Fate::Named => None,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Run => "run",
            Self::Copy => "copy",
            Self::Fetch => "fetch",
            Self::Mkdir => "mkdir",
            Self::Undecided => "run?",
        }
    }
}

/// An image of which layers would be pulled.
#[derive(Debug, Serialize)]
struct Pull {
    image: String,
    layers: usize,
    bytes: u64,
}

/// A step and what would become of it.
struct Planned<'a> {
    name: &'a str,
    action: Action,
    lines: Option<(u32, u32)>,
    reasons: Vec<Reason>,
}

impl Preview<'_> {
    /// The plan as text; `fates` are those of [`solver::plan`].
    pub(crate) async fn text(&self, fates: &[Fate], format: PlanFormat) -> Result<String, Failure> {
        let pulls = self.pulls(fates).await?;
        let reasons = self.reasons(fates).await?;
        let mut steps = Vec::new();
        for ((id, fate), reasons) in self.graph.ids().zip(fates).zip(reasons) {
            let vertex = self.graph.vertex(id);
            let Some(action) = Action::of(&vertex.op, fate) else { continue };
            steps.push(Planned {
                name: &vertex.meta.name,
                action,
                lines: vertex.meta.lines.map(|lines| (lines.first, lines.last)),
                reasons,
            });
        }
        Ok(match format {
            PlanFormat::Text => text_of(&pulls, &steps),
            PlanFormat::Json => format!("{:#}\n", json_of(&pulls, &steps)),
        })
    }

    /// Why each vertex would be executed.
    async fn reasons(&self, fates: &[Fate]) -> Result<Vec<Vec<Reason>>, Failure> {
        let planned = Steps::of(Arc::clone(self.graph));
        let step = |(vertex, fate): (VertexId, &Fate)| match fate {
            Fate::Executed { key, parts } => {
                let mut step = planned.planned(vertex, Some(parts));
                step.key = Some(CacheHash(key.0));
                Some(step)
            }
            _ => None,
        };
        let steps: Vec<Option<StepRecord>> = self.graph.ids().zip(fates).map(step).collect();
        let names: Vec<String> =
            self.graph.vertices().iter().map(|vertex| vertex.meta.name.clone()).collect();
        let (store, subject, bases) = (self.store.clone(), self.subject.clone(), history::bases(self.graph));
        let found = blocking(move || {
            let past = Past::read(&store, &subject, None)?;
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let reasons = |(index, step): (usize, &Option<StepRecord>)| match step {
                Some(step) => explain::reasons(&store, step, &bases, past.before(&names, index).as_ref()),
                None => Ok(Vec::new()),
            };
            steps.iter().enumerate().map(reasons).collect::<Result<_, cache::StoreError>>()
        });
        found.await.map_err(|error| store_failure(&error))
    }

    /// The layers of images that are needed for what is executed, and not here.
    async fn pulls(&self, fates: &[Fate]) -> Result<Vec<Pull>, Failure> {
        let is_executed = |fate: &Fate| matches!(fate, Fate::Executed { .. } | Fate::Undecided);
        let executed = self.graph.vertices().iter().zip(fates).filter(|(_, fate)| is_executed(fate));
        let needed: BTreeSet<VertexId> =
            executed.flat_map(|(vertex, _)| vertex.inputs.iter().map(|input| input.vertex)).collect();
        let mut pulls = Vec::new();
        for vertex in needed {
            let Op::Image(image) = &self.graph.vertex(vertex).op else { continue };
            let missing = self.worker.images().missing_layers(&image.source).await;
            let missing = missing.map_err(|error| {
                Failure::solve(&report::chain(&error))
                    .of_kind(report::kind_of(&error))
                    .with_hints(error.hint())
            })?;
            if !missing.is_empty() {
                let name = image.source.name.clone();
                pulls.push(Pull {
                    image: name,
                    layers: missing.len(),
                    bytes: missing.iter().map(|layer| layer.size).sum(),
                });
            }
        }
        Ok(pulls)
    }
}

fn text_of(pulls: &[Pull], steps: &[Planned<'_>]) -> String {
    let mut text = String::new();
    for Pull { image, layers, bytes: size } in pulls {
        let layers = if *layers == 1 { "1 layer".to_owned() } else { format!("{layers} layers") };
        let _ = writeln!(text, "{:<8} {image}: {layers}, {}", "pull", bytes(*size));
    }
    for step in steps {
        let _ = writeln!(text, "{:<8} {}", step.action.words(), step.name);
        if step.action == Action::Undecided {
            let _ = writeln!(text, "{:9}it depends on what a step before it makes", "");
        }
        for reason in &step.reasons {
            for line in reason.text().lines() {
                let _ = writeln!(text, "{:9}{line}", "");
            }
        }
    }
    text
}

fn json_of(pulls: &[Pull], steps: &[Planned<'_>]) -> serde_json::Value {
    let steps: Vec<_> = steps
        .iter()
        .map(|step| {
            json!({
                "name": step.name,
                "action": step.action,
                "lines": step.lines.map(|(first, last)| [first, last]),
                "reasons": step.reasons,
            })
        })
        .collect();
    json!({ "pulls": pulls, "steps": steps })
}
