//! From the tree to the graph and the image config.
//!
//! The stages that the target needs are found first, together with the images that they start or copy from
//! (`stages`), which are resolved in one batch; then each stage is lowered in the order of the file, so that what it
//! takes from others is there. The state of a stage is cloned only where another starts from it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use solver::{
    ContextOp, CopyOp, CopySource, Graph, GraphBuilder, GraphError, Input, InputKey, Op, Selector, Unpack,
    VertexId, VertexMeta,
};

use crate::directive;
use crate::options::{ImageResolver, LowerOptions, Lowered};
use crate::tree::Dockerfile;
use crate::{Diagnostic, Span};

mod arguments;
mod config;
mod copy;
mod environment;
mod images;
mod mode;
mod paths;
mod ports;
mod run;
mod signal;
mod stages;
mod state;
mod steps;

use images::Images;
use stages::Plan;
use state::{Root, State};

/// Bytes of text that a build may make of its variables. Values can refer to each other, so that a short file could
/// ask for any amount.
const TEXT_BUDGET_BYTES: usize = 1 << 30;

/// The name of the build context.
const BUILD_CONTEXT: &str = "context";

/// Makes a graph of a tree.
///
/// # Errors
/// All mistakes that were found: the parser's, or else those of the stages that the target needs.
pub fn lower(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
    resolver: &mut dyn ImageResolver,
) -> Result<Lowered, Vec<Diagnostic>> {
    let (mut diagnostics, warnings): (Vec<_>, Vec<_>) =
        dockerfile.diagnostics.iter().cloned().partition(Diagnostic::is_error);
    if let Some(Err(message)) =
        options.build_args.get("BUILDKIT_SYNTAX").map(|image| directive::check_syntax(image))
    {
        diagnostics.push(Diagnostic::error_without_place("foreign-syntax", message));
    }
    if !diagnostics.is_empty() {
        return Err(diagnostics);
    }
    let mut lowering = Lowering::new(dockerfile, options);
    let target = lowering.plan(resolver).filter(|_| lowering.diagnostics.is_empty());
    let state = target.and_then(|target| lowering.lower_stages(target));
    match state {
        Some(state) if lowering.diagnostics.is_empty() => lowering.finish(state, warnings),
        _ => Err(in_order(lowering.diagnostics)),
    }
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
    plans: Vec<Plan<'a>>,
    /// Stages by their names; of several with one name the last.
    names: HashMap<&'a str, usize>,
    images: Images<'a>,
    states: Vec<Option<State>>,
    builder: GraphBuilder,
    contexts: BTreeSet<String>,
    /// What [`TEXT_BUDGET_BYTES`] leaves.
    budget: usize,
    diagnostics: Vec<Diagnostic>,
}

impl<'a> Lowering<'a> {
    fn new(dockerfile: &'a Dockerfile, options: &'a LowerOptions) -> Self {
        let mut build_args = options.build_args.clone();
        for (name, value) in &options.proxy_args {
            build_args.entry(name.clone()).or_insert_with(|| value.clone());
        }
        Self {
            dockerfile,
            options,
            build_args,
            globals: HashMap::new(),
            plans: Vec::new(),
            names: HashMap::new(),
            images: Images::new(&options.named_contexts),
            states: Vec::new(),
            builder: GraphBuilder::new(),
            contexts: BTreeSet::new(),
            budget: TEXT_BUDGET_BYTES,
            diagnostics: Vec::new(),
        }
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

    fn finish(mut self, mut state: State, warnings: Vec<Diagnostic>) -> Result<Lowered, Vec<Diagnostic>> {
        let span = self.dockerfile.stages.last().map_or(Span::default(), |stage| stage.span);
        let target = match self.root_vertex(&mut state, span) {
            Ok(target) => target,
            Err(diagnostic) => return Err(vec![diagnostic]),
        };
        let mut config = state.into_config();
        config.config.labels.extend(self.options.labels.clone());
        let graph = self.take_graph();
        Ok(Lowered { graph, target, config, warnings, contexts: self.contexts })
    }

    fn take_graph(&mut self) -> Graph {
        std::mem::take(&mut self.builder).finish()
    }

    /// Takes `bytes` of text from the budget.
    fn spend(&mut self, bytes: usize, span: Span) -> Result<(), Diagnostic> {
        let Some(left) = self.budget.checked_sub(bytes) else {
            let message = "variables make more text than a build can hold";
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
        let context = self.context_vertex(&name, span)?;
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
        let vertex = self.add(Op::Copy(copy), inputs, meta, span)?;
        state.root = Root::Vertex(vertex);
        state.add_context_layer(&name);
        Ok(vertex)
    }
}
