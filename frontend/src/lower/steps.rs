//! One stage, instruction by instruction.

use oci::{ChainId, Platform};
use solver::{ImageOp, Input, InputKey, MkdirOp, NetworkMode, Op, VertexId, VertexMeta};

use crate::expand::{Expander, Quotes, Variables};
use crate::lint::Rule;
use crate::options::{NoCache, Place, ResolvedImage};
use crate::quote::go_quote;
use crate::tree::{Instruction, InstructionKind, Token};
use crate::{Diagnostic, Span};

use super::Lowering;
use super::environment::Environment;
use super::images::Base;
use super::paths;
use super::state::{Layer, Root, State};
use super::variables::{Site, Tracked};

/// What belongs to the stage that is being lowered.
pub(super) struct Current<'n> {
    /// Its index.
    pub(super) index: usize,
    pub(super) state: State,
    /// How steps call it.
    name: &'n str,
    steps: usize,
    steps_done: usize,
    /// How many instructions came before, triggers included.
    pub(super) instruction: usize,
    pub(super) is_trigger: bool,
    /// Whether steps tell their platform.
    tells_platform: bool,
    pub(super) no_cache: bool,
    pub(super) proxies: Vec<(String, String)>,
}

/// Variables, some of which have values that nobody may see.
struct Hiding<'a> {
    hidden: &'a [&'a str],
    others: &'a Environment,
}

impl Variables for Hiding<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        if self.hidden.contains(&name) { Some("****") } else { self.others.value(name) }
    }
}

impl Current<'_> {
    fn prefix(&mut self) -> String {
        self.steps_done += 1;
        let width = self.steps.max(1).ilog10() as usize + 1;
        let space = if self.name.is_empty() { "" } else { " " };
        let onbuild = if self.is_trigger { "ONBUILD " } else { "" };
        let platform = if self.tells_platform { self.platforms() } else { String::new() };
        format!("[{platform}{}{space}{:>width$}/{}] {onbuild}", self.name, self.steps_done, self.steps)
    }

    /// The platform of the stage, and the one that it is known to build for, with a blank: `linux/amd64->arm64 `.
    fn platforms(&self) -> String {
        let own = &self.state.platform;
        match platform_built_for(&self.state.run_environment, own) {
            Some(other) if other.os != own.os => format!("{own}->{other} "),
            Some(Platform { architecture, variant, .. }) if architecture != own.architecture => {
                let variant = variant.map_or_else(String::new, |variant| format!("/{variant}"));
                format!("{own}->{architecture}{variant} ")
            }
            _ => format!("{own} "),
        }
    }

    /// What people see of an instruction that is a step: `[build 2/5] RUN make`.
    pub(super) fn step(&mut self, instruction: &Instruction, note: &str) -> VertexMeta {
        self.step_hiding(instruction, note, &[])
    }

    /// The same with stars in the place of some variables' values.
    pub(super) fn step_hiding(
        &mut self,
        instruction: &Instruction,
        note: &str,
        hidden: &[&str],
    ) -> VertexMeta {
        let variables = Hiding { hidden, others: &self.state.run_environment };
        let expander = Expander { quotes: Quotes::Keep, keep_unset: true, ..Expander::new('\\') };
        let written = &instruction.text;
        let shown = written.contains('$').then(|| expander.text(written, &variables).ok()).flatten();
        let text = shown.as_ref().unwrap_or(written);
        let rest = text.get(instruction.keyword.text.len()..).unwrap_or_default();
        let keyword = instruction.keyword.text.to_ascii_uppercase();
        let name = format!("{}{keyword}{}{note}", self.prefix(), rest.trim_end());
        VertexMeta { name, lines: Some(instruction.span.lines()), no_cache: self.no_cache }
    }
}

impl Lowering<'_> {
    /// Lowers a stage. `None` where nothing could be made of it.
    pub(super) fn lower_stage(&mut self, index: usize) -> Option<State> {
        let triggers = std::mem::take(&mut self.plans[index].triggers);
        let tree = self.plans[index].stage;
        let name = self.plans[index].shown_name.clone();
        let is_replaced = self.plans[index].is_replaced;
        let own: &[Instruction] = if is_replaced { &[] } else { &tree.instructions };
        let starts_here = !is_replaced && matches!(self.plans[index].base(), Base::Image(_));
        let steps = triggers.iter().chain(own).filter(|instruction| is_step(instruction)).count();
        let no_cache = self.is_without_cache(index);
        let proxies = self.proxy_environment();
        let state = State::scratch(Root::Context(String::new()), &self.plans[index].platform);
        let steps = steps + usize::from(starts_here);
        let wanted = match self.until {
            Some(place) if place.stage == index => place.instruction,
            _ => usize::MAX,
        };
        let mut current = Current {
            index,
            state,
            name: &name,
            steps,
            steps_done: 0,
            instruction: 0,
            is_trigger: false,
            tells_platform: self.options.is_one_of_several,
            no_cache,
            proxies,
        };
        match self.start(&mut current, tree.span) {
            Ok(state) => current.state = state,
            Err(diagnostic) => {
                self.findings.push(diagnostic);
                return None;
            }
        }
        let found = self.findings.len();
        current.is_trigger = true;
        self.lower_instructions(&mut current, &triggers[..triggers.len().min(wanted)]);
        current.is_trigger = false;
        self.findings.drop_places(found);
        self.lower_instructions(&mut current, &own[..own.len().min(wanted.saturating_sub(triggers.len()))]);
        Some(current.state)
    }

    fn lower_instructions(&mut self, current: &mut Current<'_>, instructions: &[Instruction]) {
        for instruction in instructions {
            let (first, root) = (self.builder.graph().vertices().len(), current.state.root.vertex());
            if let Err(diagnostic) = self.lower_instruction(current, instruction) {
                self.findings.push(diagnostic);
            }
            let place = Place { stage: current.index, instruction: current.instruction };
            self.steps.push((place, first..self.builder.graph().vertices().len()));
            if let Some(made) = current.state.root.vertex().filter(|made| Some(*made) != root) {
                self.stop_before(current, instruction, made);
            }
            current.instruction += 1;
        }
    }

    /// The state that a stage starts with.
    fn start(&mut self, current: &mut Current<'_>, span: Span) -> Result<State, Diagnostic> {
        let plan = &self.plans[current.index];
        let (base, platform, is_replaced) = (plan.base().clone(), plan.platform.clone(), plan.is_replaced);
        match base {
            Base::Stage(parent) => {
                let size = self.states[parent].as_ref().map_or(0, State::size_bytes);
                self.spend(size, span)?;
                let state = self.states[parent].as_ref().map(State::child);
                // The parent's own mistakes have been told.
                let fallback = || State::scratch(Root::Context(String::new()), &platform);
                Ok(state.unwrap_or_else(fallback))
            }
            Base::Context(name) => Ok(State::scratch(Root::Context(name), &platform)),
            Base::Scratch => {
                let vertex = self.add(Op::Scratch, Vec::new(), VertexMeta::default(), span)?;
                Ok(State::scratch(Root::Vertex(vertex), &platform))
            }
            Base::Image(image) => {
                let prefix = if is_replaced { String::new() } else { current.prefix() };
                let vertex = self.image_vertex(image, &prefix, span)?;
                let Some(image) = self.images.image(image) else {
                    return Ok(State::scratch(Root::Vertex(vertex), &platform));
                };
                let mut state = State::image(Root::Vertex(vertex), image, &platform);
                if !is_replaced {
                    state.config.config.on_build.clear();
                }
                Ok(state)
            }
        }
    }

    /// The vertex of an image; one without layers is nothing.
    pub(super) fn image_vertex(
        &mut self,
        image: usize,
        prefix: &str,
        span: Span,
    ) -> Result<VertexId, Diagnostic> {
        let Some(ResolvedImage { source, config, index_or_manifest }) = self.images.image(image) else {
            return self.add(Op::Scratch, Vec::new(), VertexMeta::default(), span);
        };
        let Some(chain_id) = ChainId::of_each(&config.rootfs.diff_ids).pop() else {
            return self.add(Op::Scratch, Vec::new(), VertexMeta::default(), span);
        };
        let digest = if source.name.contains('@') { String::new() } else { format!("@{index_or_manifest}") };
        let name = format!("{prefix}FROM {}{digest}", source.name);
        let meta = VertexMeta { name, lines: Some(span.lines()), no_cache: false };
        let op = Op::Image(ImageOp { chain_id, source: source.clone() });
        self.add(op, Vec::new(), meta, span)
    }

    fn is_without_cache(&self, index: usize) -> bool {
        let plan = &self.plans[index];
        match &self.options.no_cache {
            NoCache::None => false,
            NoCache::All => true,
            NoCache::Stages(stages) => stages.iter().any(|stage| {
                stage.eq_ignore_ascii_case(&plan.shown_name) || stage.parse::<usize>() == Ok(index)
            }),
        }
    }

    fn lower_instruction(
        &mut self,
        current: &mut Current<'_>,
        instruction: &Instruction,
    ) -> Result<(), Diagnostic> {
        let site = Site::of(instruction);
        match &instruction.kind {
            InstructionKind::Add(copy) | InstructionKind::Copy(copy) => {
                self.lower_copy(current, instruction, copy)
            }
            InstructionKind::Arg(arguments) => self.lower_arg(current, arguments, site),
            InstructionKind::Env(pairs) => self.lower_env(current, pairs, instruction),
            InstructionKind::Label(pairs) => self.lower_label(current, pairs, instruction),
            InstructionKind::Run(run) => self.lower_run(current, instruction, run),
            InstructionKind::Workdir(path) => {
                let value = self.expand(&current.state, path, site)?;
                if !current.state.has_own_directory && !value.starts_with('/') {
                    let message = format!(
                        "Relative workdir {} can have unexpected results if the base image changes",
                        go_quote(&value)
                    );
                    let diagnostic = Diagnostic::lint(Rule::WorkdirRelativePath, site.span, message);
                    self.findings.lint(diagnostic.at(path.span), site.comments);
                }
                current.state.has_own_directory = true;
                self.lower_workdir(current, instruction, &value)
            }
            _ => self.lower_config(current, instruction),
        }
    }

    fn lower_workdir(
        &mut self,
        current: &mut Current<'_>,
        instruction: &Instruction,
        path: &str,
    ) -> Result<(), Diagnostic> {
        let state = &mut current.state;
        let before = &state.config.config.working_dir;
        // An absolute path is recorded as it was written.
        let directory = if path.is_empty() { paths::join("/", before) } else { paths::join(before, path) };
        state.config.config.working_dir.clone_from(&directory);
        if directory == "/" {
            state.commit(format!("WORKDIR {directory}"), Layer::Empty);
            return Ok(());
        }
        let user = Some(state.config.config.user.clone()).filter(|user| !user.is_empty());
        let op = Op::Mkdir(MkdirOp { path: paths::clean(&directory), owner: user, mtime: self.epoch });
        let meta = current.step(instruction, "");
        self.add_on_root(&mut current.state, (op, Vec::new()), meta, instruction.span)?;
        current.state.commit(format!("WORKDIR {directory}"), Layer::Made);
        Ok(())
    }

    /// Adds a step on top of a state; `inputs` follow the root.
    pub(super) fn add_on_root(
        &mut self,
        state: &mut State,
        (op, inputs): (Op, Vec<Input>),
        meta: VertexMeta,
        span: Span,
    ) -> Result<(), Diagnostic> {
        let root = Input { vertex: self.root_vertex(state, span)?, key: InputKey::Chain };
        let inputs = std::iter::once(root).chain(inputs).collect();
        state.root = Root::Vertex(self.add(op, inputs, meta, span)?);
        Ok(())
    }

    /// The text with the stage's variables.
    pub(super) fn expand(
        &mut self,
        state: &State,
        token: &Token,
        site: Site<'_>,
    ) -> Result<String, Diagnostic> {
        let expander = Expander::new(self.dockerfile.directives.escape);
        self.expand_with(expander, state, token, site)
    }

    /// The same by rules of its own.
    pub(super) fn expand_with(
        &mut self,
        expander: Expander,
        state: &State,
        token: &Token,
        site: Site<'_>,
    ) -> Result<String, Diagnostic> {
        let tracked = Tracked::new(&state.run_environment);
        let value = expander.text(&token.text, &tracked);
        let (_, unset) = tracked.into_names();
        self.report_undefined(state, token, site, &unset);
        let value = value.map_err(|message| Diagnostic::error("expansion", site.span, message))?;
        self.spend(value.len(), site.span)?;
        Ok(value)
    }

    /// The network of a RUN.
    pub(super) fn default_network(&self) -> NetworkMode {
        self.options.network
    }
}

/// Whether an instruction counts as a step.
pub(super) fn is_step(instruction: &Instruction) -> bool {
    matches!(
        instruction.kind,
        InstructionKind::Add(_)
            | InstructionKind::Copy(_)
            | InstructionKind::Run(_)
            | InstructionKind::Workdir(_)
    )
}

/// The platform that the arguments in scope tell of; what they do not tell is that of `own`.
fn platform_built_for(variables: &Environment, own: &Platform) -> Option<Platform> {
    let value = |name: &str| variables.value(name);
    if let Some(platform) = value("TARGETPLATFORM").and_then(|text| text.parse().ok()) {
        return Some(platform);
    }
    let (os, architecture, variant) = (value("TARGETOS"), value("TARGETARCH"), value("TARGETVARIANT"));
    let is_told = os.is_some() || architecture.is_some() || variant.is_some();
    is_told.then(|| Platform::new(os.unwrap_or(&own.os), architecture.unwrap_or(&own.architecture), variant))
}
