//! COPY and ADD.

use solver::{CopyOp, CopySource, Input, InputKey, Op, Selector, Unpack, VertexId, VertexMeta};

use crate::expand::{Expander, Quotes};
use crate::tree::{Copy, Instruction, InstructionKind};
use crate::{Diagnostic, Span};

use super::images::Base;
use super::mode;
use super::paths;
use super::state::{Layer, Root};
use super::steps::Current;
use super::{BUILD_CONTEXT, Lowering};

/// A copy with its variables expanded.
struct Expanded {
    sources: Vec<String>,
    inline: Vec<(String, String)>,
    destination: String,
    chown: Option<String>,
    chmod: Option<String>,
    is_add: bool,
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
        let expanded = Expanded { is_add, ..self.expand_copy(current, copy, span)? };
        check_sources(copy, &expanded).map_err(|(code, message)| Diagnostic::error(code, span, message))?;
        let op = copy_op(&current.state.directory(), copy, &expanded, span)?;
        let inputs = self.copy_inputs(current, copy, &expanded, span)?;
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
        span: Span,
    ) -> Result<Expanded, Diagnostic> {
        let state = &current.state;
        let mut expand = |text: &str| self.expand(state, text, span);
        let sources: Result<Vec<String>, Diagnostic> =
            copy.sources.iter().map(|source| expand(&source.text)).collect();
        let mut optional = |token: &Option<crate::tree::Token>| -> Result<Option<String>, Diagnostic> {
            let value = token.as_ref().map(|token| expand(&token.text)).transpose()?;
            Ok(value.filter(|value| !value.is_empty()))
        };
        let (chown, chmod) = (optional(&copy.chown)?, optional(&copy.chmod)?);
        let destination = expand(&copy.destination.text)?;
        let mut inline = Vec::new();
        for heredoc in &copy.heredocs {
            let body = heredoc.body();
            let content = if heredoc.expands {
                // The escape directive does not reach into bodies, and quotes mean nothing there.
                let expander = Expander { quotes: Quotes::Literal, ..Expander::new('\\') };
                expander
                    .text(&body, &state.run_environment)
                    .map_err(|message| Diagnostic::error("expansion", span, message))?
            } else {
                body
            };
            self.spend(content.len(), span)?;
            inline.push((heredoc.name.clone(), content));
        }
        Ok(Expanded { sources: sources?, inline, destination, chown, chmod, is_add: false })
    }

    /// What the paths are taken from.
    fn copy_inputs(
        &mut self,
        current: &Current<'_>,
        copy: &Copy,
        expanded: &Expanded,
        span: Span,
    ) -> Result<Vec<Input>, Diagnostic> {
        if expanded.sources.is_empty() {
            return Ok(Vec::new());
        }
        let vertex = match &copy.from {
            None => self.context_vertex(BUILD_CONTEXT, span)?,
            Some(from) => {
                let base = self.copy_source(from, current.index, span)?;
                self.source_vertex(&base, span)?
            }
        };
        let selector = Selector {
            paths: expanded.sources.clone(),
            wildcards: true,
            exclude: copy.exclude.iter().map(|pattern| pattern.text.clone()).collect(),
            parents: copy.parents,
        };
        Ok(vec![Input { vertex, key: InputKey::Content(selector) }])
    }

    /// The vertex that something is copied from.
    fn source_vertex(&mut self, base: &Base, span: Span) -> Result<VertexId, Diagnostic> {
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

fn copy_op(directory: &str, copy: &Copy, expanded: &Expanded, span: Span) -> Result<CopyOp, Diagnostic> {
    let chmod = expanded
        .chmod
        .as_deref()
        .map(mode::parse)
        .transpose()
        .map_err(|message| Diagnostic::error("invalid-chmod", span, message))?;
    let paths = expanded.sources.iter().map(|path| CopySource::Path { input: 1, path: path.clone() });
    let files = expanded.inline.iter().map(|(name, content)| CopySource::Inline {
        name: name.clone(),
        content: content.clone().into_bytes(),
    });
    let unpacks = expanded.is_add && copy.unpack.unwrap_or(true);
    Ok(CopyOp {
        sources: paths.chain(files).collect(),
        destination: paths::destination(directory, &expanded.destination),
        chown: expanded.chown.clone(),
        chmod,
        unpack: if unpacks { Unpack::Archives } else { Unpack::Never },
        parents: copy.parents,
        exclude: copy.exclude.iter().map(|pattern| pattern.text.clone()).collect(),
    })
}

/// What cannot be copied.
fn check_sources(copy: &Copy, expanded: &Expanded) -> Result<(), (&'static str, String)> {
    let remote = expanded.sources.iter().find(|source| is_git(source) || is_url(source));
    if let (Some(source), false) = (remote, expanded.is_add) {
        let kind = if is_git(source) { "git ref" } else { "URL" };
        return Err(("remote-copy", format!("source can't be a {kind} for COPY")));
    }
    if copy.checksum.is_some() {
        if expanded.sources.len() + expanded.inline.len() != 1 {
            return Err(("checksum", "checksum can't be specified for multiple sources".to_owned()));
        }
        if remote.is_none() {
            return Err(("checksum", "checksum requires HTTP(S) or Git sources".to_owned()));
        }
    }
    if let Some(source) = remote {
        let kind = if is_git(source) { "a git repository" } else { "a URL" };
        return Err(("not-supported", format!("ADD of {kind} is not supported yet: `{source}`")));
    }
    Ok(())
}

fn is_url(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

fn is_git(source: &str) -> bool {
    let bare = source.split(['#', '?']).next().unwrap_or(source);
    if is_url(source) {
        return bare.strip_suffix(".git").is_some();
    }
    source.starts_with("git://")
        || source.starts_with("ssh://")
        || source.split_once(':').is_some_and(|(host, _)| {
            host.starts_with("git@") && host.len() > "git@".len() && !host.contains('/')
        })
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
