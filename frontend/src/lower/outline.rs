//! What stages take from outside, noted while they are lowered.

use std::collections::{BTreeSet, HashMap};

use crate::Span;
use crate::mount::{Mount, MountKind};
use crate::outline::{Outline, OutlineArgument, OutlineMount, description};

use super::Lowering;
use super::images::Base;
use super::mounts::secret_id;

/// What each stage takes. Nothing is noted unless it was switched on.
#[derive(Debug, Default)]
pub(super) struct Captures {
    is_on: bool,
    /// The global arguments with what their defaults refer to.
    globals: HashMap<String, (OutlineArgument, Vec<String>)>,
    stages: HashMap<usize, Capture>,
}

/// What one stage takes.
#[derive(Debug, Default)]
struct Capture {
    /// The arguments that it declares with a value of its own.
    own: HashMap<String, OutlineArgument>,
    /// The names of the arguments that it uses.
    used: BTreeSet<String>,
    secrets: Vec<OutlineMount>,
    ssh: Vec<OutlineMount>,
}

impl Captures {
    /// Takes notes from now on.
    pub(super) fn switched_on() -> Self {
        Self { is_on: true, ..Self::default() }
    }

    /// A global argument and the names in its default.
    pub(super) fn add_global(&mut self, argument: OutlineArgument, mut names: Vec<String>) {
        if !self.is_on {
            return;
        }
        // One that refers to its former self needs what that needed.
        if let Some(at) = names.iter().position(|name| *name == argument.name) {
            names.remove(at);
            let former = self.globals.get(&argument.name).map(|(_, names)| names.clone());
            names.extend(former.unwrap_or_default());
        }
        self.globals.insert(argument.name.clone(), (argument, names));
    }

    /// FROM uses arguments.
    pub(super) fn use_arguments(&mut self, stage: usize, names: &[String]) {
        if self.is_on {
            self.stages.entry(stage).or_default().used.extend(names.iter().cloned());
        }
    }

    /// A stage declares an argument; with `None` the global one of that name is meant.
    pub(super) fn declare(&mut self, stage: usize, name: &str, own: Option<OutlineArgument>) {
        if self.is_on {
            let capture = self.stages.entry(stage).or_default();
            capture.used.insert(name.to_owned());
            capture.own.extend(own.map(|own| (name.to_owned(), own)));
        }
    }

    /// A RUN mounts a secret or an agent.
    pub(super) fn mount(&mut self, stage: usize, mount: &Mount, span: Span) {
        if !self.is_on {
            return;
        }
        let capture = self.stages.entry(stage).or_default();
        let (list, id) = match mount.kind {
            MountKind::Secret => (&mut capture.secrets, secret_id(mount)),
            MountKind::Ssh => (&mut capture.ssh, mount.id.clone().unwrap_or_else(|| "default".to_owned())),
            MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => return,
        };
        if list.iter().all(|other| other.id != id) {
            list.push(OutlineMount { id, required: mount.required, span });
        }
    }

    /// The arguments that a stage uses, and those that the defaults of others need.
    fn arguments(&self, capture: &Capture) -> Vec<OutlineArgument> {
        let mut open: Vec<&String> = capture.used.iter().collect();
        let mut seen: BTreeSet<&String> = open.iter().copied().collect();
        let mut found = Vec::new();
        while let Some(name) = open.pop() {
            if let Some(own) = capture.own.get(name) {
                found.push(own.clone());
            } else if let Some((global, needs)) = self.globals.get(name) {
                found.push(global.clone());
                open.extend(needs.iter().filter(|need| seen.insert(need)));
            }
        }
        found
    }
}

impl Lowering<'_> {
    /// What the target takes: what it and the stages that it needs use, each name once, the nearest stage's first.
    pub(super) fn outline_of(&self, target: usize) -> Outline {
        let mut outline = Outline::default();
        if let Some(name) = &self.plans[target].stage.name {
            outline.description = description(&name.text, &self.plans[target].stage.comments);
            outline.name = Some(name.text.clone());
        }
        let mut open = vec![target];
        let mut seen = BTreeSet::from([target]);
        while let Some(stage) = open.pop() {
            if let Some(capture) = self.captures.stages.get(&stage) {
                for argument in self.captures.arguments(capture) {
                    if outline.arguments.iter().all(|other| other.name != argument.name) {
                        outline.arguments.push(argument);
                    }
                }
                add_mounts(&mut outline.secrets, &capture.secrets);
                add_mounts(&mut outline.ssh, &capture.ssh);
            }
            let plan = &self.plans[stage];
            let next = plan.dependencies.iter().rev().copied();
            let parent = match plan.base() {
                Base::Stage(parent) => Some(*parent),
                _ => None,
            };
            open.extend(next.chain(parent).filter(|stage| seen.insert(*stage)));
        }
        outline.arguments.sort_by_key(|argument| argument.span.first_line);
        outline.secrets.sort_by_key(|secret| secret.span.first_line);
        outline.ssh.sort_by_key(|agent| agent.span.first_line);
        outline
    }
}

fn add_mounts(list: &mut Vec<OutlineMount>, mounts: &[OutlineMount]) {
    for mount in mounts {
        if list.iter().all(|other| other.id != mount.id) {
            list.push(mount.clone());
        }
    }
}
