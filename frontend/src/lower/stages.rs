//! Which stages there are, which are needed, and what they start from.

use oci::Platform;

use crate::expand::Expander;
use crate::options::ImageResolver;
use crate::parse::parse_trigger;
use crate::quote::go_quote;
use crate::suggest::{self, Case};
use crate::tree::{Instruction, InstructionKind, Stage, Token};
use crate::{Diagnostic, Span};

use super::Lowering;
use super::images::Base;

/// A stage and what is known of it before it is lowered.
pub(super) struct Plan<'a> {
    pub(super) stage: &'a Stage,
    /// How messages and steps call it.
    pub(super) shown_name: String,
    pub(super) platform: Platform,
    /// The base's name, variables expanded.
    base_name: String,
    /// The earlier stage that it starts from.
    parent: Option<usize>,
    /// What it starts from; known once it is needed.
    base: Option<Base>,
    /// Whether a named context stands for the whole stage.
    pub(super) is_replaced: bool,
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

/// The `--from` of an instruction.
pub(super) fn source_of(instruction: &Instruction) -> Option<&Token> {
    match &instruction.kind {
        InstructionKind::Copy(copy) | InstructionKind::Add(copy) => copy.from.as_ref(),
        _ => None,
    }
}

impl<'a> Lowering<'a> {
    /// Finds the stages that the target needs and resolves their images. Gives the target.
    pub(super) fn plan(&mut self, resolver: &mut dyn ImageResolver) -> Option<usize> {
        self.find_globals();
        for (index, stage) in self.dockerfile.stages.iter().enumerate() {
            self.add_plan(index, stage);
        }
        self.check_sources();
        let target = self.find_target()?;
        if self.diagnostics.is_empty() {
            self.find_needed(target, resolver);
        }
        Some(target)
    }

    fn add_plan(&mut self, index: usize, stage: &'a Stage) {
        let base_name = self.base_name(stage).unwrap_or_else(|diagnostic| {
            self.diagnostics.push(diagnostic);
            "scratch".to_owned()
        });
        // Only stages before this one have names yet.
        let parent = self.names.get(base_name.as_str()).copied();
        let own_platform = self.stage_platform(stage).unwrap_or_else(|diagnostic| {
            self.diagnostics.push(diagnostic);
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
        let (is_replaced, triggers) = (false, Vec::new());
        let plan = Plan { stage, shown_name, platform, base_name, parent, base: None, is_replaced, triggers };
        self.plans.push(plan);
    }

    fn expand_global(&mut self, text: &str, span: Span) -> Result<String, Diagnostic> {
        let value = Expander::new(self.dockerfile.directives.escape)
            .text(text, &self.globals)
            .map_err(|message| Diagnostic::error("expansion", span, message))?;
        self.spend(value.len(), span)?;
        Ok(value)
    }

    fn base_name(&mut self, stage: &Stage) -> Result<String, Diagnostic> {
        let name = self.expand_global(&stage.base.text, stage.span)?;
        if name.is_empty() {
            let message = format!("base name ({}) should not be blank", stage.base.text);
            return Err(Diagnostic::error("blank-base", stage.span, message));
        }
        Ok(name)
    }

    fn stage_platform(&mut self, stage: &Stage) -> Result<Option<Platform>, Diagnostic> {
        let Some(written) = &stage.platform else { return Ok(None) };
        let text = self.expand_global(&written.text, stage.span)?;
        if text.is_empty() {
            let message = format!("empty platform value from expression {}", written.text);
            return Err(Diagnostic::error("empty-platform", stage.span, message));
        }
        text.parse().map(Some).map_err(|error| {
            let message = format!("failed to parse platform {text}: {error}");
            Diagnostic::error("invalid-platform", stage.span, message)
        })
    }

    /// Mistakes in `--from` that are told for all stages, needed or not.
    fn check_sources(&mut self) {
        for (index, stage) in self.dockerfile.stages.iter().enumerate() {
            for instruction in &stage.instructions {
                let Some(from) = source_of(instruction) else { continue };
                if let Err(diagnostic) = self.stage_named(from, index, instruction.span) {
                    self.diagnostics.push(diagnostic);
                }
            }
        }
    }

    /// The stage that a `--from` names, by name or number; `None` if it is something else.
    fn stage_named(&self, from: &Token, current: usize, span: Span) -> Result<Option<usize>, Diagnostic> {
        if from.text.contains('$') {
            let message = "variable expansion is not supported for --from, define a new stage with FROM using ARG \
                           from global scope as a workaround";
            return Err(Diagnostic::error("from-variable", span, message));
        }
        let found = match from.text.parse::<i64>() {
            Ok(number) => {
                let index = usize::try_from(number).ok().filter(|index| *index < self.plans.len());
                let message = || format!("invalid stage index {number}");
                Some(index.ok_or_else(|| Diagnostic::error("invalid-stage-index", span, message()))?)
            }
            Err(_) => self.names.get(from.text.to_lowercase().as_str()).copied(),
        };
        if found == Some(current) {
            let name = self.stage_label(current);
            let message = format!("circular dependency detected on stage: {name}");
            return Err(Diagnostic::error("circular-stage", span, message));
        }
        Ok(found)
    }

    fn stage_label(&self, index: usize) -> String {
        let name = self.plans.get(index).map(|plan| plan.shown_name.clone());
        name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("stage-{index}"))
    }

    /// What a `--from` names.
    pub(super) fn copy_source(
        &mut self,
        from: &Token,
        current: usize,
        span: Span,
    ) -> Result<Base, Diagnostic> {
        match self.stage_named(from, current, span)? {
            Some(stage) if stage > current => {
                let message = format!(
                    "cannot copy from stage {}, it needs to be defined before current stage {}",
                    go_quote(&from.text),
                    go_quote(&self.stage_label(current))
                );
                Err(Diagnostic::error("later-stage", span, message))
            }
            Some(stage) => Ok(Base::Stage(stage)),
            None => {
                let platform = self.options.platform.clone();
                self.images.base(&from.text, &platform, span)
            }
        }
    }

    fn find_target(&mut self) -> Option<usize> {
        let last = self.plans.len().checked_sub(1);
        let Some(target) = &self.options.target else { return last };
        let found = self.names.get(target.to_lowercase().as_str()).copied();
        if found.is_none() {
            let names = self.dockerfile.stages.iter().filter_map(|stage| stage.name.as_ref());
            let hint = suggest::did_you_mean(target, names.map(|name| name.text.as_str()), Case::Sensitive);
            let message = format!("target stage {} could not be found{hint}", go_quote(target));
            self.diagnostics.push(Diagnostic::error_without_place("unknown-target", message));
        }
        found
    }

    /// Marks what the target needs, directly or not. Triggers of images are known only once the images are, and may
    /// need further stages and images.
    fn find_needed(&mut self, target: usize, resolver: &mut dyn ImageResolver) {
        let mut open = vec![target];
        let mut without_triggers = Vec::new();
        loop {
            while let Some(stage) = open.pop() {
                if self.plans[stage].is_needed() {
                    continue;
                }
                let base = self.needed_base(stage);
                self.need(&base, &mut open);
                self.plans[stage].base = Some(base);
                if !self.plans[stage].is_replaced {
                    let tree = self.plans[stage].stage;
                    self.need_sources(stage, &tree.instructions, &mut open);
                    without_triggers.push(stage);
                }
            }
            for stage in std::mem::take(&mut without_triggers) {
                match self.trigger_texts(stage) {
                    None => without_triggers.push(stage),
                    Some(texts) => self.add_triggers(stage, &texts, &mut open),
                }
            }
            if !open.is_empty() {
                continue;
            }
            let names = self.dockerfile.stages.iter().filter_map(|stage| stage.name.as_ref());
            let names: Vec<&str> = names.map(|name| name.text.as_str()).collect();
            match self.images.resolve(resolver, &names) {
                None => return,
                Some(mut diagnostics) => self.diagnostics.append(&mut diagnostics),
            }
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
            self.diagnostics.push(diagnostic);
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
            let Some(from) = source_of(instruction) else { continue };
            match self.copy_source(from, stage, instruction.span) {
                Ok(base) => self.need(&base, open),
                Err(diagnostic) => self.diagnostics.push(diagnostic),
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
                Err(mut diagnostics) => self.diagnostics.append(&mut diagnostics),
            }
        }
        self.need_sources(stage, &instructions, open);
        self.plans[stage].triggers = instructions;
    }
}

fn own_triggers(stage: &Stage) -> Vec<String> {
    let texts = stage.instructions.iter().filter_map(|instruction| match &instruction.kind {
        InstructionKind::Onbuild(text) => Some(text.clone()),
        _ => None,
    });
    texts.collect()
}
