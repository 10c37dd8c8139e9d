//! Which stages there are, which are needed, and what they start from.

use std::collections::HashMap;

use oci::Platform;

use crate::expand::Expander;
use crate::lint::{self, Rule};
use crate::options::ImageResolver;
use crate::parse::parse_trigger;
use crate::quote::go_quote;
use crate::suggest::{self, Case};
use crate::tree::{Instruction, InstructionKind, RunMountOption, Stage, Token};
use crate::{Diagnostic, Span};

use super::images::Base;
use super::variables::Tracked;
use super::{Lowering, Purpose};

/// A word of FROM after its variables were expanded.
struct Global {
    value: String,
    /// The variables in it that are set.
    set: Vec<String>,
    /// The variables in it that are not.
    unset: Vec<String>,
}

/// A stage and what is known of it before it is lowered.
pub(super) struct Plan<'a> {
    pub(super) stage: &'a Stage,
    /// How messages and steps call it.
    pub(super) shown_name: String,
    pub(super) platform: Platform,
    /// The base's name, variables expanded.
    pub(super) base_name: String,
    /// The earlier stage that it starts from.
    parent: Option<usize>,
    /// What it starts from; known once it is needed.
    base: Option<Base>,
    /// Whether a named context stands for the whole stage.
    pub(super) is_replaced: bool,
    /// The stages that its instructions take files from.
    pub(super) dependencies: Vec<usize>,
    /// The instructions that its base's ONBUILD triggers add.
    pub(super) triggers: Vec<Instruction>,
}

impl Plan<'_> {
    pub(super) fn is_needed(&self) -> bool {
        self.base.is_some()
    }

    pub(super) fn base(&self) -> &Base {
        self.base.as_ref().unwrap_or(&Base::Scratch)
    }
}

/// Where an instruction takes files from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'t> {
    /// `COPY --from`: a stage's name or number, an image, a context.
    Copy(&'t Token),
    /// `RUN --mount=from=…`: the same without numbers.
    Mount(&'t RunMountOption, &'t Token),
}

/// Where an instruction takes files from, if not from the build context.
pub(super) fn sources_of(instruction: &Instruction) -> Vec<Source<'_>> {
    match &instruction.kind {
        InstructionKind::Copy(copy) => copy.from.iter().map(Source::Copy).collect(),
        InstructionKind::Run(run) => {
            let mounts = run.mounts.iter();
            mounts.filter_map(|mount| Some(Source::Mount(mount, mount.from.as_ref()?))).collect()
        }
        _ => Vec::new(),
    }
}

impl<'a> Lowering<'a> {
    /// Finds the stages that the target needs and resolves their images. Gives the target.
    pub(super) fn plan(&mut self, resolver: &mut dyn ImageResolver) -> Option<usize> {
        self.find_globals();
        for (index, stage) in self.dockerfile.stages.iter().enumerate() {
            self.add_plan(index, stage);
        }
        self.find_epoch(resolver);
        let target = self.find_target();
        self.check_sources();
        let target = target?;
        if !self.findings.has_errors() {
            self.find_needed(target, resolver);
            self.report_platforms();
        }
        Some(target)
    }

    fn add_plan(&mut self, index: usize, stage: &'a Stage) {
        let base_name = self.base_name(index, stage).unwrap_or_else(|diagnostic| {
            self.findings.push(diagnostic);
            "scratch".to_owned()
        });
        // Only stages before this one have names yet.
        let parent = self.names.get(base_name.as_str()).copied();
        let own_platform = self.stage_platform(index, stage).unwrap_or_else(|diagnostic| {
            self.findings.push(diagnostic);
            None
        });
        let platform = match (parent, own_platform) {
            (Some(parent), _) => self.plans[parent].platform.clone(),
            (None, Some(platform)) => platform,
            (None, None) => self.options.platform.clone(),
        };
        let shown_name = match (&stage.name, self.dockerfile.stages.len()) {
            (Some(name), _) => name.text.clone(),
            (None, 1) => String::new(),
            (None, _) => format!("stage-{index}"),
        };
        if let Some(name) = &stage.name {
            self.names.insert(&name.text, index);
        }
        self.plans.push(Plan {
            stage,
            shown_name,
            platform,
            base_name,
            parent,
            base: None,
            is_replaced: false,
            dependencies: Vec::new(),
            triggers: Vec::new(),
        });
    }

    /// A word of FROM with its variables, and whether it has any.
    fn expand_global(&mut self, index: usize, stage: &Stage, word: &Token) -> Result<Global, Diagnostic> {
        let tracked = Tracked::new(&self.globals);
        let value = Expander::new(self.dockerfile.directives.escape).text(&word.text, &tracked);
        let (set, unset) = tracked.into_names();
        self.report_undeclared(stage, word, &unset);
        let value = value.map_err(|message| Diagnostic::error("expansion", stage.span, message))?;
        self.spend(value.len(), stage.span)?;
        self.captures.use_arguments(index, &set);
        Ok(Global { value, set, unset })
    }

    fn report_undeclared(&mut self, stage: &Stage, word: &Token, unset: &[String]) {
        for name in unset.iter().filter(|name| !self.declared.contains(*name)) {
            // Arguments of the platforms are declared from the start.
            let known = self.declared.iter().chain(self.globals.keys()).map(String::as_str);
            let suggestion = suggest::closest(name, known, Case::Sensitive);
            let hint =
                suggestion.as_ref().map_or_else(String::new, |other| format!(" (did you mean {other}?)"));
            let message = format!("FROM argument '{name}' is not declared{hint}");
            let mut diagnostic = Diagnostic::lint(Rule::UndefinedArgInFrom, stage.span, message);
            if let Some(place) = lint::variable_place(word, name) {
                let fix = suggestion.map(|other| lint::rename_variable(place, &other));
                diagnostic = diagnostic.at(place).with_fix(fix);
            }
            self.findings.lint(diagnostic, &stage.comments);
        }
    }

    fn base_name(&mut self, index: usize, stage: &Stage) -> Result<String, Diagnostic> {
        let written = self.expand_global(index, stage, &stage.base)?.value;
        let name = match &self.options.first_base {
            Some(base) if index == 0 => base.clone(),
            _ => written,
        };
        if name.is_empty() {
            let message = format!("base name ({}) should not be blank", stage.base.text);
            return Err(Diagnostic::error("blank-base", stage.span, message).at(stage.base.span));
        }
        Ok(name)
    }

    fn stage_platform(&mut self, index: usize, stage: &Stage) -> Result<Option<Platform>, Diagnostic> {
        let Some(written) = &stage.platform else { return Ok(None) };
        let global = self.expand_global(index, stage, written)?;
        let text = &global.value;
        let parsed: Result<Platform, _> = text.parse();
        self.lint_platform(stage, written, &global, parsed.as_ref().ok());
        let known = || self.declared.iter().chain(self.globals.keys()).map(String::as_str);
        let hint = || {
            let hints = global.unset.iter().map(|name| suggest::did_you_mean(name, known(), Case::Sensitive));
            hints.into_iter().find(|hint| !hint.is_empty()).unwrap_or_default()
        };
        if text.is_empty() {
            let message = format!("empty platform value from expression {}{}", written.text, hint());
            return Err(Diagnostic::error("empty-platform", stage.span, message).at(written.span));
        }
        parsed.map(Some).map_err(|error| {
            let message = format!("failed to parse platform {text}: {error}{}", hint());
            Diagnostic::error("invalid-platform", stage.span, message).at(written.span)
        })
    }

    fn lint_platform(
        &mut self,
        stage: &Stage,
        written: &Token,
        global: &Global,
        platform: Option<&Platform>,
    ) {
        const TARGET: &str = "TARGETPLATFORM";
        let Global { value, set, unset } = global;
        let is_target = unset.is_empty()
            && matches!(set.as_slice(), [name] if name == TARGET)
            && self.globals.get(TARGET) == Some(value);
        if is_target {
            let message = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                written.text
            );
            let diagnostic = Diagnostic::lint(Rule::RedundantTargetPlatform, stage.span, message);
            let fix = lint::without_platform(written.span, stage.base.span);
            self.findings.lint(diagnostic.at(written.span).with_fix(fix), &stage.comments);
        }
        let name = stage.name.as_ref().map_or("", |name| name.text.as_str());
        let is_named =
            |platform: &Platform| name.contains(&platform.os) || name.contains(&platform.architecture);
        if set.is_empty() && unset.is_empty() && platform.is_some_and(|platform| !is_named(platform)) {
            let message = format!("FROM --platform flag should not use constant value {}", go_quote(value));
            let diagnostic = Diagnostic::lint(Rule::FromPlatformFlagConstDisallowed, stage.span, message);
            self.findings.lint(diagnostic.at(written.span), &stage.comments);
        }
    }

    /// Mistakes in `--from` that are told for all stages, needed or not.
    fn check_sources(&mut self) {
        let mut edges = vec![Vec::new(); self.plans.len()];
        for (index, stage) in self.dockerfile.stages.iter().enumerate() {
            for instruction in &stage.instructions {
                for source in sources_of(instruction) {
                    match self.stage_named(source, instruction.span) {
                        Ok(found) => edges[index].extend(found.map(|found| (found, instruction.span))),
                        Err(diagnostic) => self.findings.push(diagnostic),
                    }
                }
            }
        }
        if let Some((stage, span)) = find_circle(&edges) {
            let name = self.stage_label(stage);
            let message = format!("circular dependency detected on stage: {name}");
            self.findings.push(Diagnostic::error("circular-stage", span, message));
        }
    }

    /// The stage that a source names, by name or number; `None` if it is something else.
    fn stage_named(&self, source: Source<'_>, span: Span) -> Result<Option<usize>, Diagnostic> {
        let from = match source {
            Source::Mount(_, from) => return Ok(self.names.get(from.text.to_lowercase().as_str()).copied()),
            Source::Copy(from) => from,
        };
        let none: HashMap<String, String> = HashMap::new();
        let value = Expander::new(self.dockerfile.directives.escape)
            .text(&from.text, &none)
            .map_err(|message| Diagnostic::error("expansion", span, message).at(from.span))?;
        if value != from.text {
            let message = "variable expansion is not supported for --from, define a new stage with FROM using ARG \
                           from global scope as a workaround";
            return Err(Diagnostic::error("from-variable", span, message).at(from.span));
        }
        match from.text.parse::<i64>() {
            Ok(number) => {
                let index = usize::try_from(number).ok().filter(|index| *index < self.plans.len());
                let message = || format!("invalid stage index {number}");
                let mistake = || Diagnostic::error("invalid-stage-index", span, message()).at(from.span);
                index.map(Some).ok_or_else(mistake)
            }
            Err(_) => Ok(self.names.get(from.text.to_lowercase().as_str()).copied()),
        }
    }

    pub(super) fn stage_label(&self, index: usize) -> String {
        let name = self.plans.get(index).map(|plan| plan.shown_name.clone());
        name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("stage-{index}"))
    }

    /// What a source names.
    pub(super) fn source_base(
        &mut self,
        source: Source<'_>,
        current: usize,
        span: Span,
    ) -> Result<Base, Diagnostic> {
        let (Source::Copy(from) | Source::Mount(_, from)) = source;
        match self.stage_named(source, span)? {
            Some(stage) if stage >= current => {
                let from_name = go_quote(&from.text);
                let message = match source {
                    Source::Copy(_) => format!(
                        "cannot copy from stage {from_name}, it needs to be defined before current stage {}",
                        go_quote(&self.stage_label(current))
                    ),
                    Source::Mount(mount, _) => format!(
                        "cannot mount from stage {from_name} to {}, stage needs to be defined before current command",
                        go_quote(raw_target(&mount.text.text))
                    ),
                };
                Err(Diagnostic::error("later-stage", span, message).at(from.span))
            }
            Some(stage) => Ok(Base::Stage(stage)),
            None => {
                let platform = self.options.platform.clone();
                self.images.base(&from.text, &platform, span)
            }
        }
    }

    fn find_target(&mut self) -> Option<usize> {
        if let Some(place) = self.until {
            return Some(place.stage);
        }
        let last = self.plans.len().checked_sub(1);
        let Some(target) = &self.options.target else { return last };
        let found = self.names.get(target.to_lowercase().as_str()).copied();
        if found.is_none() {
            let names = self.dockerfile.stages.iter().filter_map(|stage| stage.name.as_ref());
            let hint = suggest::did_you_mean(target, names.map(|name| name.text.as_str()), Case::Sensitive);
            let message = format!("target stage {} could not be found{hint}", go_quote(target));
            self.findings.push(Diagnostic::error_without_place("unknown-target", message));
        }
        found
    }

    /// Marks what the target needs, directly or not. Triggers of images are known only once the images are, and may
    /// need further stages and images.
    fn find_needed(&mut self, target: usize, resolver: &mut dyn ImageResolver) {
        let mut open = vec![target];
        let mut without_triggers = Vec::new();
        loop {
            without_triggers.extend(self.mark_needed(&mut open));
            for stage in std::mem::take(&mut without_triggers) {
                match self.trigger_texts(stage) {
                    None => without_triggers.push(stage),
                    Some(texts) => self.add_triggers(stage, &texts, &mut open),
                }
            }
            if !open.is_empty() {
                continue;
            }
            if !self.resolve_images(resolver) {
                break;
            }
        }
        if self.purpose == Purpose::Check && self.options.target.is_none() {
            // Stages that nothing needs are looked at too; triggers do not fire in them.
            self.mark_needed(&mut (0..self.plans.len()).collect());
            while self.resolve_images(resolver) {}
        }
    }

    /// Marks stages and what they need. Gives those that were not marked before.
    fn mark_needed(&mut self, open: &mut Vec<usize>) -> Vec<usize> {
        let mut marked = Vec::new();
        while let Some(stage) = open.pop() {
            if self.plans[stage].is_needed() {
                continue;
            }
            let base = self.needed_base(stage);
            self.need(&base, open);
            self.plans[stage].base = Some(base);
            if !self.plans[stage].is_replaced {
                let tree = self.plans[stage].stage;
                self.need_sources(stage, &tree.instructions, open);
                marked.push(stage);
            }
        }
        marked
    }

    /// Resolves the images that are wanted; false where all are known.
    fn resolve_images(&mut self, resolver: &mut dyn ImageResolver) -> bool {
        let Some(diagnostics) = self.images.resolve(resolver) else { return false };
        self.findings.extend(diagnostics);
        true
    }

    /// Tells of images that are there for another platform only.
    fn report_platforms(&mut self) {
        let mut found = Vec::new();
        for plan in self.plans.iter().filter(|plan| plan.is_needed() && !plan.is_replaced) {
            if let Base::Image(image) = plan.base() {
                let mismatch = self.images.mismatch(*image, &plan.base_name, &plan.platform);
                found.extend(mismatch.map(|message| (plan.stage.span, message)));
            }
            let platform = &self.options.platform;
            for instruction in plan.triggers.iter().chain(&plan.stage.instructions) {
                for source in sources_of(instruction) {
                    let (Source::Copy(from) | Source::Mount(_, from)) = source;
                    if matches!(self.stage_named(source, instruction.span), Ok(None)) {
                        let mismatch = self.images.mismatch_of(&from.text, platform);
                        found.extend(mismatch.map(|message| (instruction.span, message)));
                    }
                }
            }
        }
        for (span, message) in found {
            // Comments above an instruction do not reach this rule.
            self.findings.lint(Diagnostic::lint(Rule::InvalidBaseImagePlatform, span, message), &[]);
        }
    }

    fn needed_base(&mut self, stage: usize) -> Base {
        let plan = &mut self.plans[stage];
        let span = plan.stage.span;
        let own_name = plan.stage.name.as_ref();
        if let Some(base) = own_name.and_then(|name| self.images.context(&name.text, &plan.platform, span)) {
            plan.is_replaced = true;
            return base;
        }
        if let Some(parent) = plan.parent {
            return Base::Stage(parent);
        }
        self.images.base(&plan.base_name, &plan.platform, span).unwrap_or_else(|diagnostic| {
            self.findings.push(diagnostic);
            Base::Scratch
        })
    }

    fn need(&mut self, base: &Base, open: &mut Vec<usize>) {
        match base {
            Base::Stage(stage) => open.push(*stage),
            Base::Image(image) => self.images.want(*image),
            Base::Scratch | Base::Context(_) => {}
        }
    }

    fn need_sources(&mut self, stage: usize, instructions: &[Instruction], open: &mut Vec<usize>) {
        for instruction in instructions {
            for source in sources_of(instruction) {
                match self.source_base(source, stage, instruction.span) {
                    Ok(base) => {
                        self.need(&base, open);
                        if let Base::Stage(other) = base {
                            self.plans[stage].dependencies.push(other);
                        }
                    }
                    Err(diagnostic) => self.findings.push(diagnostic),
                }
            }
        }
    }

    /// The ONBUILD triggers that fire in a stage; `None` while its base image is unknown.
    fn trigger_texts(&self, stage: usize) -> Option<Vec<String>> {
        let of_image = |image: usize| -> Option<Vec<String>> {
            if !self.images.is_resolved(image) {
                return None;
            }
            Some(
                self.images
                    .image(image)
                    .map(|image| image.config.config.on_build.clone())
                    .unwrap_or_default(),
            )
        };
        match self.plans[stage].base() {
            Base::Scratch | Base::Context(_) => Some(Vec::new()),
            Base::Image(image) => of_image(*image),
            Base::Stage(parent) => {
                let parent = &self.plans[*parent];
                match (parent.is_replaced, parent.base()) {
                    (true, Base::Image(image)) => of_image(*image),
                    (true, _) => Some(Vec::new()),
                    (false, _) => Some(own_triggers(parent.stage)),
                }
            }
        }
    }

    fn add_triggers(&mut self, stage: usize, texts: &[String], open: &mut Vec<usize>) {
        let span = self.plans[stage].stage.span;
        let mut instructions = Vec::new();
        for text in texts {
            match parse_trigger(text, span) {
                Ok(mut parsed) => instructions.append(&mut parsed),
                Err(diagnostics) => self.findings.extend(diagnostics),
            }
        }
        self.need_sources(stage, &instructions, open);
        self.plans[stage].triggers = instructions;
    }
}

fn own_triggers(stage: &Stage) -> Vec<String> {
    let texts = stage.instructions.iter().filter_map(|instruction| match &instruction.kind {
        InstructionKind::Onbuild(trigger) => Some(trigger.text.clone()),
        _ => None,
    });
    texts.collect()
}

/// A circle in a graph of stages: the first stage from which one is reached, and its instruction that leads there.
fn find_circle(edges: &[Vec<(usize, Span)>]) -> Option<(usize, Span)> {
    let mut visited = vec![false; edges.len()];
    let mut on_path = vec![false; edges.len()];
    for root in 0..edges.len() {
        // Each stage of the path with the number of its edge that is being followed.
        let mut path = vec![(root, 0)];
        while let Some((stage, edge)) = path.last_mut() {
            let stage = *stage;
            if *edge == 0 && std::mem::replace(&mut visited[stage], true) {
                path.pop();
                continue;
            }
            on_path[stage] = true;
            let Some((next, _)) = edges[stage].get(*edge) else {
                on_path[stage] = false;
                path.pop();
                continue;
            };
            *edge += 1;
            if on_path[*next] {
                let (root, edge) = path[0];
                return Some((root, edges[root][edge - 1].1));
            }
            path.push((*next, 0));
        }
    }
    None
}

/// The target of a mount as it was written.
fn raw_target(option: &str) -> &str {
    let pairs = option.split(',').filter_map(|field| field.split_once('='));
    let mut targets = pairs.filter(|(key, _)| matches!(*key, "target" | "dst" | "destination"));
    targets.next().map_or("", |(_, target)| target)
}
