//! COPY and ADD.

use solver::{CopyOp, CopySource, Input, InputKey, Op, Selector, Unpack, VertexId, VertexMeta};

use crate::expand::{Expander, Quotes};
use crate::lint::Rule;
use crate::quote::go_quote;
use crate::tree::{Copy, Instruction, InstructionKind, Token};
use crate::{Diagnostic, Span};

use super::images::Base;
use super::mode;
use super::paths;
use super::remote::{is_git, is_remote};
use super::stages::Source;
use super::state::{Layer, Root, State};
use super::steps::Current;
use super::variables::Site;
use super::{BUILD_CONTEXT, Lowering};

/// A copy with its variables expanded.
struct Expanded {
    sources: Vec<String>,
    inline: Vec<(String, String)>,
    destination: String,
    chown: Option<String>,
    chmod: Option<String>,
    checksum: Option<String>,
    is_add: bool,
}

impl Expanded {
    /// The first source that is no path.
    fn remote(&self) -> Option<&String> {
        self.sources.iter().find(|source| is_remote(source))
    }
}

impl Lowering<'_> {
    pub(super) fn lower_copy(
        &mut self,
        current: &mut Current<'_>,
        instruction: &Instruction,
        copy: &Copy,
    ) -> Result<(), Diagnostic> {
        let span = instruction.span;
        let is_add = matches!(instruction.kind, InstructionKind::Add(_));
        let site = Site::of(instruction);
        let expanded = Expanded { is_add, ..self.expand_copy(current, copy, site)? };
        check_sources(&expanded).map_err(|(code, message)| Diagnostic::error(code, span, message))?;
        self.lint_ignored(copy, &expanded, site);
        let op = copy_op(&current.state.directory(), copy, &expanded, span)?;
        let (sources, inputs) = self.copy_sources(current, copy, &expanded, span)?;
        let op = CopyOp { sources, ..op };
        let history = history(copy, &expanded);
        self.spend(history.len(), span)?;
        // A mode is applied to what is there, which a copy on its own does not see.
        if copy.link && expanded.chmod.is_none() {
            self.add_linked(current, instruction, op, inputs)?;
        } else {
            let meta = current.step(instruction, "");
            self.add_on_root(&mut current.state, (Op::Copy(op), inputs), meta, span)?;
        }
        current.state.commit(history, Layer::Made);
        Ok(())
    }

    fn expand_copy(
        &mut self,
        current: &Current<'_>,
        copy: &Copy,
        site: Site<'_>,
    ) -> Result<Expanded, Diagnostic> {
        let state = &current.state;
        let chown = self.expand_optional(state, copy.chown.as_ref(), site)?;
        let chmod = self.expand_optional(state, copy.chmod.as_ref(), site)?;
        let checksum = self.expand_optional(state, copy.checksum.as_ref(), site)?;
        let sources: Result<Vec<String>, Diagnostic> =
            copy.sources.iter().map(|source| self.expand(state, source, site)).collect();
        let sources = sources?;
        let destination = self.expand(state, &copy.destination, site)?;
        let mut inline = Vec::new();
        for heredoc in &copy.heredocs {
            let body = Token { text: heredoc.body(), span: site.span };
            let content = if heredoc.expands {
                // The escape directive does not reach into bodies, and quotes mean nothing there.
                let expander = Expander { quotes: Quotes::Literal, ..Expander::new('\\') };
                self.expand_with(expander, state, &body, site)?
            } else {
                self.spend(body.text.len(), site.span)?;
                body.text
            };
            inline.push((heredoc.name.clone(), content));
        }
        Ok(Expanded { sources, inline, destination, chown, chmod, checksum, is_add: false })
    }

    /// A flag's value; an empty one counts as none.
    fn expand_optional(
        &mut self,
        state: &State,
        token: Option<&Token>,
        site: Site<'_>,
    ) -> Result<Option<String>, Diagnostic> {
        let value = token.map(|token| self.expand(state, token, site)).transpose()?;
        Ok(value.filter(|value| !value.is_empty()))
    }

    /// Tells of sources that the ignore file keeps out of the context. An exception in it may bring them back, which
    /// only a walk could tell.
    fn lint_ignored(&mut self, copy: &Copy, expanded: &Expanded, site: Site<'_>) {
        let Some(ignore) = &self.options.ignore else { return };
        if copy.from.is_some() || ignore.has_exceptions() {
            return;
        }
        for (source, token) in expanded.sources.iter().zip(&copy.sources) {
            if is_remote(source) {
                continue;
            }
            let path = paths::clean(source);
            // An absolute source matches no pattern, as in BuildKit.
            let is_ignored = match path.as_str() {
                "." | "/" => ignore.is_universal(),
                path => !path.starts_with('/') && ignore.matches(path.as_bytes()),
            };
            if is_ignored {
                let verb = if expanded.is_add { "Add" } else { "Copy" };
                let message = format!(
                    "Attempting to {verb} file {} that is excluded by .dockerignore",
                    go_quote(&path)
                );
                let diagnostic = Diagnostic::lint(Rule::CopyIgnoredFile, site.span, message).at(token.span);
                self.findings.lint(diagnostic, site.comments);
            }
        }
    }

    /// What is copied, and from which inputs beside the root file system.
    fn copy_sources(
        &mut self,
        current: &Current<'_>,
        copy: &Copy,
        expanded: &Expanded,
        span: Span,
    ) -> Result<(Vec<CopySource>, Vec<Input>), Diagnostic> {
        let mut inputs: Vec<Input> = self.path_input(current, copy, expanded, span)?.into_iter().collect();
        let mut sources = Vec::with_capacity(expanded.sources.len() + expanded.inline.len());
        for source in &expanded.sources {
            if !is_remote(source) {
                sources.push(CopySource::Path { input: 1, path: source.clone() });
                continue;
            }
            let (input, path) = self.remote_input(source, copy, expanded.checksum.as_deref(), span)?;
            inputs.push(input);
            sources.push(CopySource::Remote { input: inputs.len(), path });
        }
        sources.extend(expanded.inline.iter().map(|(name, content)| CopySource::Inline {
            name: name.clone(),
            content: content.clone().into_bytes(),
        }));
        Ok((sources, inputs))
    }

    /// What the paths are taken from, where there are any.
    fn path_input(
        &mut self,
        current: &Current<'_>,
        copy: &Copy,
        expanded: &Expanded,
        span: Span,
    ) -> Result<Option<Input>, Diagnostic> {
        let paths: Vec<_> = expanded.sources.iter().filter(|source| !is_remote(source)).cloned().collect();
        if paths.is_empty() {
            return Ok(None);
        }
        let vertex = match &copy.from {
            None => self.context_vertex(BUILD_CONTEXT, span)?,
            Some(from) => {
                let base = self.source_base(Source::Copy(from), current.index, span)?;
                self.source_vertex(&base, span)?
            }
        };
        let selector = Selector {
            paths,
            wildcards: true,
            exclude: copy.exclude.iter().map(|pattern| pattern.text.clone()).collect(),
            parents: copy.parents,
        };
        Ok(Some(Input { vertex, key: InputKey::Content(selector) }))
    }

    /// The vertex that something is taken from.
    pub(super) fn source_vertex(&mut self, base: &Base, span: Span) -> Result<VertexId, Diagnostic> {
        match base {
            Base::Scratch => self.add(Op::Scratch, Vec::new(), VertexMeta::default(), span),
            Base::Image(image) => self.image_vertex(*image, "", span),
            Base::Context(name) => self.context_vertex(name, span),
            Base::Stage(stage) => {
                match self.states.get(*stage).and_then(Option::as_ref).map(|s| s.root.clone()) {
                    Some(Root::Vertex(vertex)) => Ok(vertex),
                    Some(Root::Context(name)) => self.context_vertex(&name, span),
                    // Its own mistakes have been told.
                    None => self.add(Op::Scratch, Vec::new(), VertexMeta::default(), span),
                }
            }
        }
    }

    /// A copy on nothing, which is then put on top: it does not depend on what is below.
    fn add_linked(
        &mut self,
        current: &mut Current<'_>,
        instruction: &Instruction,
        op: CopyOp,
        inputs: Vec<Input>,
    ) -> Result<(), Diagnostic> {
        let span = instruction.span;
        let meta = current.step(instruction, "");
        let scratch = self.add(Op::Scratch, Vec::new(), VertexMeta::default(), span)?;
        let root = Input { vertex: scratch, key: InputKey::Chain };
        let inputs = std::iter::once(root).chain(inputs).collect();
        let copied = self.add(Op::Copy(op), inputs, meta.clone(), span)?;
        let name = match meta.name.split_once("] ") {
            Some((prefix, text)) => format!("{prefix}] LINK {text}"),
            None => format!("LINK {}", meta.name),
        };
        let copied = vec![Input { vertex: copied, key: InputKey::Chain }];
        self.add_on_root(&mut current.state, (Op::Merge, copied), VertexMeta { name, ..meta }, span)
    }
}

/// The operation without its sources.
fn copy_op(directory: &str, copy: &Copy, expanded: &Expanded, span: Span) -> Result<CopyOp, Diagnostic> {
    let chmod = expanded
        .chmod
        .as_deref()
        .map(mode::parse)
        .transpose()
        .map_err(|message| Diagnostic::error("invalid-chmod", span, message))?;
    let unpack = match copy.unpack {
        _ if !expanded.is_add => Unpack::Never,
        Some(false) => Unpack::Never,
        None => Unpack::Archives,
        Some(true) => Unpack::Everything,
    };
    Ok(CopyOp {
        sources: Vec::new(),
        destination: paths::destination(directory, &expanded.destination),
        chown: expanded.chown.clone(),
        chmod,
        // Where nothing is remote, the two are one.
        unpack: if expanded.remote().is_none() && unpack == Unpack::Everything {
            Unpack::Archives
        } else {
            unpack
        },
        parents: copy.parents,
        exclude: copy.exclude.iter().map(|pattern| pattern.text.clone()).collect(),
    })
}

/// What cannot be copied.
fn check_sources(expanded: &Expanded) -> Result<(), (&'static str, String)> {
    let remote = expanded.remote();
    if let (Some(source), false) = (remote, expanded.is_add) {
        let kind = if is_git(source) { "git ref" } else { "URL" };
        return Err(("remote-copy", format!("source can't be a {kind} for COPY")));
    }
    if expanded.checksum.is_some() {
        if expanded.sources.len() + expanded.inline.len() != 1 {
            return Err(("checksum", "checksum can't be specified for multiple sources".to_owned()));
        }
        if remote.is_none() {
            return Err(("checksum", "checksum requires HTTP(S) or Git sources".to_owned()));
        }
    }
    Ok(())
}

fn history(copy: &Copy, expanded: &Expanded) -> String {
    let mut text = if expanded.is_add { "ADD" } else { "COPY" }.to_owned();
    if copy.parents {
        text.push_str(" --parents");
    }
    for (flag, value) in [("chown", &expanded.chown), ("chmod", &expanded.chmod)] {
        if let Some(value) = value {
            text.extend([" --", flag, "=", value]);
        }
    }
    for source in &expanded.sources {
        text.push(' ');
        text.push_str(source);
    }
    for (name, _) in &expanded.inline {
        text.push_str(" <<");
        text.push_str(name);
    }
    text.push(' ');
    text.push_str(&expanded.destination);
    text.push_str(" # buildkit");
    text
}
