//! From the tree to the graph and the image config.
//!
//! The stages that the target needs are found first, together with the images that they start or copy from
//! (`stages`), which are resolved in one batch; then each stage is lowered in the order of the file, so that what it
//! takes from others is there. The state of a stage is cloned only where another starts from it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use oci::Platform;
use solver::{
    ContextOp, CopyOp, CopySource, Graph, GraphBuilder, GraphError, Input, InputKey, Op, Selector, Unpack,
    VertexId, VertexMeta,
};

use crate::diagnostic::Phase;
use crate::directive;
use crate::lint::{self, Findings, Settings};
use crate::options::{
    Before, ImageResolver, LowerOptions, Lowered, LoweredImage, LoweredPlatforms, NoCache, Place,
};
use crate::outline::Outline;
use crate::tree::Dockerfile;
use crate::{Diagnostic, Span};

mod arguments;
mod breakpoints;
mod config;
mod copy;
mod devices;
mod environment;
mod epoch;
mod images;
mod mode;
mod mounts;
mod outline;
mod paths;
mod ports;
mod remote;
mod run;
mod scans;
mod signal;
mod stages;
mod state;
mod steps;
mod variables;

use breakpoints::Stop;
use images::Images;
use outline::Captures;
use stages::Plan;
use state::{Root, State};

/// Bytes of text that a build may make of its variables. Values can refer to each other, so that a short file could
/// ask for any amount.
const TEXT_BUDGET_BYTES: usize = 1 << 30;

/// The name of the build context.
const BUILD_CONTEXT: &str = "context";

/// What a file is lowered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A graph that can be solved.
    Build,
    /// What breaks a rule. What rbuild cannot do yet is no mistake then.
    Check,
    /// What a build takes from outside.
    Outline,
}

/// Makes a graph of a tree.
///
/// # Errors
/// All mistakes that were found, and the warnings, in the order of the file: the parser's, or else those of the stages
/// that the target needs.
pub fn lower(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
    resolver: &mut dyn ImageResolver,
) -> Result<Lowered, Vec<Diagnostic>> {
    lower_onto(GraphBuilder::new(), dockerfile, options, resolver)
}

/// Makes one graph of a tree for several platforms, of which there is at least one: what is the same for several, such
/// as a stage for the platform of the machine that builds, is in it once. [`LowerOptions::platform`] means nothing here.
///
/// # Errors
/// As [`lower()`], for the first platform that something is wrong for.
pub fn lower_platforms(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
    platforms: &[Platform],
    resolver: &mut dyn ImageResolver,
) -> Result<LoweredPlatforms, Vec<Diagnostic>> {
    let mut all =
        LoweredPlatforms { graph: Graph::default(), images: Vec::new(), warnings: Vec::new(), epoch: None };
    for platform in platforms {
        let options = LowerOptions { platform: platform.clone(), ..options.clone() };
        let builder = GraphBuilder::from(std::mem::take(&mut all.graph));
        let lowered = lower_onto(builder, dockerfile, &options, resolver)?;
        let Lowered {
            graph, target, config, base_layers, epoch, breakpoints, scans, steps, warnings, ..
        } = lowered;
        (all.graph, all.epoch) = (graph, epoch);
        let platform = platform.clone();
        all.images.push(LoweredImage { platform, target, config, base_layers, breakpoints, scans, steps });
        for warning in warnings {
            if !all.warnings.contains(&warning) {
                all.warnings.push(warning);
            }
        }
    }
    Ok(all)
}

/// The same as [`lower()`] with the vertices of a graph that there is already.
fn lower_onto(
    builder: GraphBuilder,
    dockerfile: &Dockerfile,
    options: &LowerOptions,
    resolver: &mut dyn ImageResolver,
) -> Result<Lowered, Vec<Diagnostic>> {
    let findings = match begin(dockerfile, options) {
        Ok(findings) => findings,
        Err(findings) => return Err(in_order(findings.into_list())),
    };
    let mut lowering = Lowering { builder, ..Lowering::new(dockerfile, options, findings, Purpose::Build) };
    let lowered = lowering.run(resolver).and_then(|state| lowering.finish(state));
    lowering.findings.extend(lowering.findings.violation());
    match lowered {
        Some(lowered) if !lowering.findings.has_errors() => {
            Ok(Lowered { warnings: lowering.findings.into_list(), ..lowered })
        }
        _ => Err(in_order(lowering.findings.into_list())),
    }
}

/// Makes a graph of what is above one instruction in its stage. `place` comes from the same tree, which was lowered with
/// the same options and images; rules that are broken are not told again. What has been made is looked up: neither
/// `no_cache` nor the breakpoints of the options count.
///
/// # Errors
/// As [`lower()`].
pub fn lower_before(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
    resolver: &mut dyn ImageResolver,
    place: Place,
) -> Result<Before, Vec<Diagnostic>> {
    let options = LowerOptions { no_cache: NoCache::None, breakpoints: Vec::new(), ..options.clone() };
    let findings = begin(dockerfile, &options).map_err(Findings::into_list)?;
    let mut lowering = Lowering::new(dockerfile, &options, findings, Purpose::Build);
    lowering.until = Some(place);
    let before = lowering.run(resolver).and_then(|state| {
        let run = lowering.shell(&state);
        Some(Before { lowered: lowering.finish(state)?, run })
    });
    before.ok_or_else(|| in_order(lowering.findings.into_list()))
}

/// Looks for what breaks a lint rule, and for mistakes, in the order in which BuildKit comes upon them (it ends at the
/// first mistake). Without a target all stages are looked at.
pub fn check(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
    resolver: &mut dyn ImageResolver,
) -> Vec<Diagnostic> {
    let findings = match begin(dockerfile, options) {
        Ok(findings) => findings,
        Err(findings) => return findings.into_list(),
    };
    let mut lowering = Lowering::new(dockerfile, options, findings, Purpose::Check);
    lowering.run(resolver);
    lowering.findings.extend(lowering.findings.violation());
    lowering.findings.into_list()
}

/// Tells what the target takes from outside: arguments, secrets, agents.
///
/// # Errors
/// As [`lower()`].
pub fn outline(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
    resolver: &mut dyn ImageResolver,
) -> Result<Outline, Vec<Diagnostic>> {
    let findings = match begin(dockerfile, options) {
        Ok(findings) => findings,
        Err(findings) => return Err(in_order(findings.into_list())),
    };
    let mut lowering = Lowering::new(dockerfile, options, findings, Purpose::Outline);
    match lowering.run(resolver).and(lowering.target) {
        Some(target) if !lowering.findings.has_errors() => Ok(lowering.outline_of(target)),
        _ => Err(in_order(lowering.findings.into_list())),
    }
}

/// All that can be found out without lowering. The error side is the same, with mistakes.
fn begin(dockerfile: &Dockerfile, options: &LowerOptions) -> Result<Findings, Findings> {
    let mut findings = match lint_settings(dockerfile, options) {
        Ok(settings) => Findings::new(settings),
        Err(diagnostic) => {
            let mut findings = Findings::default();
            findings.push(diagnostic);
            findings
        }
    };
    let syntax = options.build_args.get("BUILDKIT_SYNTAX");
    if let Some(Err(message)) = syntax.map(|image| directive::check_syntax(image)) {
        findings.push(Diagnostic::error_without_place("foreign-syntax", message));
    }
    let mistakes = &dockerfile.diagnostics;
    if mistakes.iter().any(|diagnostic| diagnostic.phase == Phase::Lines) {
        findings.extend(mistakes.iter().cloned());
        return Err(findings);
    }
    lint::lint_continuations(dockerfile, &mut findings);
    let first_mistake = mistakes.first().and_then(|diagnostic| diagnostic.span);
    let end = if mistakes.is_empty() { usize::MAX } else { first_mistake.map_or(0, |span| span.start) };
    lint::lint_instructions(dockerfile, end, &mut findings);
    findings.extend(mistakes.iter().cloned());
    if findings.has_errors() {
        return Err(findings);
    }
    lint::lint_stages(dockerfile, &mut findings);
    Ok(findings)
}

fn lint_settings(dockerfile: &Dockerfile, options: &LowerOptions) -> Result<Settings, Diagnostic> {
    const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";
    if let Some(text) = options.build_args.get(ARGUMENT) {
        return Settings::read(text).map_err(|message| {
            let message = format!("failed to parse build-arg:{ARGUMENT}: {message}");
            Diagnostic::error_without_place("invalid-check", message)
        });
    }
    let Some((text, span)) = &dockerfile.directives.check else { return Ok(Settings::default()) };
    // The value of the directive ends at its first blank.
    let text = text.split(' ').next().unwrap_or_default();
    Settings::read(text).map_err(|message| {
        Diagnostic::error("invalid-check", *span, format!("failed to parse check options: {message}"))
    })
}

fn in_order(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.sort_by_key(|diagnostic| diagnostic.span.map_or(0, |span| span.start));
    diagnostics.dedup();
    diagnostics
}

/// Everything that is known while lowering.
struct Lowering<'a> {
    dockerfile: &'a Dockerfile,
    options: &'a LowerOptions,
    /// `--build-arg`, and proxies.
    build_args: BTreeMap<String, String>,
    /// The variables of FROM, and what ARG without a default finds.
    globals: HashMap<String, String>,
    /// The names of the global arguments of the file, with a value or without.
    declared: BTreeSet<String>,
    /// The time of what is made, in seconds since 1970.
    epoch: Option<i64>,
    plans: Vec<Plan<'a>>,
    /// Stages by their names; of several with one name the last.
    names: HashMap<&'a str, usize>,
    images: Images<'a>,
    states: Vec<Option<State>>,
    builder: GraphBuilder,
    contexts: BTreeSet<String>,
    /// What [`TEXT_BUDGET_BYTES`] leaves.
    budget: usize,
    findings: Findings,
    purpose: Purpose,
    target: Option<usize>,
    /// Where lowering ends, if not with the target.
    until: Option<Place>,
    /// The breakpoints, in the order of the options.
    stops: Vec<Stop>,
    /// The instructions that vertices were made for.
    steps: Vec<(Place, Range<usize>)>,
    /// What each stage takes from outside; empty unless that is what is asked for.
    captures: Captures,
}

impl<'a> Lowering<'a> {
    fn new(
        dockerfile: &'a Dockerfile,
        options: &'a LowerOptions,
        findings: Findings,
        purpose: Purpose,
    ) -> Self {
        let mut build_args = options.build_args.clone();
        for (name, value) in &options.proxy_args {
            build_args.entry(name.clone()).or_insert_with(|| value.clone());
        }
        let stages = dockerfile.stages.iter();
        let stage_names = stages.filter_map(|stage| stage.name.as_ref()).map(|name| name.text.as_str());
        Self {
            dockerfile,
            options,
            build_args,
            globals: HashMap::new(),
            declared: BTreeSet::new(),
            epoch: None,
            plans: Vec::new(),
            names: HashMap::new(),
            images: Images::new(&options.named_contexts, stage_names.collect()),
            states: Vec::new(),
            builder: GraphBuilder::new(),
            contexts: BTreeSet::new(),
            budget: TEXT_BUDGET_BYTES,
            findings,
            purpose,
            target: None,
            until: None,
            stops: Vec::new(),
            steps: Vec::new(),
            captures: if purpose == Purpose::Outline { Captures::switched_on() } else { Captures::default() },
        }
    }

    /// Lowers what the target needs, and gives the target's state where nothing is wrong.
    fn run(&mut self, resolver: &mut dyn ImageResolver) -> Option<State> {
        self.target = self.plan(resolver);
        if self.purpose == Purpose::Build {
            self.find_stops();
        }
        let target = self.target.filter(|_| !self.findings.has_errors())?;
        let state = self.lower_stages(target);
        self.check_stops();
        state
    }

    /// Lowers all stages that are needed, and gives the state of the target.
    fn lower_stages(&mut self, target: usize) -> Option<State> {
        self.states.resize_with(self.plans.len(), || None);
        for index in 0..self.plans.len() {
            if self.plans[index].is_needed() {
                let state = self.lower_stage(index);
                self.states[index] = state;
            }
        }
        self.states.get_mut(target).and_then(Option::take)
    }

    fn finish(&mut self, mut state: State) -> Option<Lowered> {
        let span = self.dockerfile.stages.last().map_or(Span::default(), |stage| stage.span);
        let found = self.root_vertex(&mut state, span).and_then(|target| Ok((target, self.scans(&state)?)));
        let (target, scans) = match found {
            Ok(found) => found,
            Err(diagnostic) => {
                self.findings.push(diagnostic);
                return None;
            }
        };
        let base_layers = state.base_layers;
        let mut config = state.into_config();
        config.config.env.retain(|entry| {
            let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
            !self.options.unset_env.contains(name)
        });
        config.config.labels.retain(|name, _| !self.options.unset_labels.contains(name));
        config.config.labels.extend(self.options.labels.clone());
        let graph = self.take_graph();
        let contexts = std::mem::take(&mut self.contexts);
        let breakpoints = std::mem::take(&mut self.stops).into_iter().map(Stop::into_vertices).collect();
        let steps = std::mem::take(&mut self.steps);
        let (warnings, epoch) = (Vec::new(), self.epoch);
        Some(Lowered {
            graph,
            target,
            config,
            base_layers,
            warnings,
            contexts,
            epoch,
            breakpoints,
            scans,
            steps,
        })
    }

    fn take_graph(&mut self) -> Graph {
        std::mem::take(&mut self.builder).finish()
    }

    /// Takes `bytes` of text from the budget.
    fn spend(&mut self, bytes: usize, span: Span) -> Result<(), Diagnostic> {
        let Some(left) = self.budget.checked_sub(bytes) else {
            let message = format!("variables make more than {TEXT_BUDGET_BYTES} bytes of text");
            return Err(Diagnostic::error("too-much-text", span, message));
        };
        self.budget = left;
        Ok(())
    }

    fn add(
        &mut self,
        op: Op,
        inputs: Vec<Input>,
        meta: VertexMeta,
        span: Span,
    ) -> Result<VertexId, Diagnostic> {
        self.builder
            .add(op, inputs, meta)
            .map_err(|error: GraphError| Diagnostic::error("graph", span, error.to_string()))
    }

    /// The vertex of a local context.
    fn context_vertex(&mut self, name: &str, span: Span) -> Result<VertexId, Diagnostic> {
        self.contexts.insert(name.to_owned());
        let label = match name {
            BUILD_CONTEXT => "[internal] load build context".to_owned(),
            name => format!("[context {name}] load from client"),
        };
        let meta = VertexMeta { name: label, ..VertexMeta::default() };
        self.add(Op::Context(ContextOp { name: name.to_owned() }), Vec::new(), meta, span)
    }

    /// The vertex that a state's next step is built on. A local context becomes a layer of its own.
    fn root_vertex(&mut self, state: &mut State, span: Span) -> Result<VertexId, Diagnostic> {
        let name = match &state.root {
            Root::Vertex(vertex) => return Ok(*vertex),
            Root::Context(name) => name.clone(),
        };
        let vertex = self.context_layer(&name, span)?;
        state.root = Root::Vertex(vertex);
        state.add_context_layer(&name);
        Ok(vertex)
    }

    /// The vertex of a root file system with all of a local context.
    fn context_layer(&mut self, name: &str, span: Span) -> Result<VertexId, Diagnostic> {
        let context = self.context_vertex(name, span)?;
        let scratch = self.add(Op::Scratch, Vec::new(), VertexMeta::default(), span)?;
        let selector =
            Selector { paths: vec!["/".to_owned()], wildcards: false, exclude: Vec::new(), parents: false };
        let copy = CopyOp {
            sources: vec![CopySource::Path { input: 1, path: "/".to_owned() }],
            destination: "/".to_owned(),
            chown: None,
            chmod: None,
            unpack: Unpack::Never,
            parents: false,
            exclude: Vec::new(),
        };
        let inputs = vec![
            Input { vertex: scratch, key: InputKey::Chain },
            Input { vertex: context, key: InputKey::Content(selector) },
        ];
        let meta =
            VertexMeta { name: format!("[context {name}] copy"), lines: Some(span.lines()), no_cache: false };
        self.add(Op::Copy(copy), inputs, meta, span)
    }
}
