//! What a Dockerfile offers and takes, without building it.

use crate::tree::{Dockerfile, Token};
use crate::{Diagnostic, Span};

/// What a target takes from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// The target's name, if it has one.
    pub name: Option<String>,
    /// The comment above the target's FROM, behind its name.
    pub description: Option<String>,
    /// The arguments, in the order of the file.
    pub arguments: Vec<OutlineArgument>,
    /// The secrets that RUN mounts, in the order of the file.
    pub secrets: Vec<OutlineMount>,
    /// The agents that RUN mounts, in the order of the file.
    pub ssh: Vec<OutlineMount>,
}

/// An argument that can be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineArgument {
    /// Its name.
    pub name: String,
    /// Its value in this build; empty where it has none.
    pub value: String,
    /// The comment above its ARG, behind its name.
    pub description: Option<String>,
    /// The ARG.
    pub span: Span,
}

/// A secret or an agent that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineMount {
    /// Its ID.
    pub id: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// The RUN.
    pub span: Span,
}

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The comment above its FROM, behind its name.
    pub description: Option<String>,
    /// What it starts from, as it was written.
    pub base: String,
    /// Its `--platform`, as it was written.
    pub platform: Option<String>,
    /// Whether it is the one that is built where none is named.
    pub is_default: bool,
    /// Its FROM.
    pub span: Span,
}

/// All stages, in order.
///
/// # Errors
/// The parser's.
pub fn targets(dockerfile: &Dockerfile) -> Result<Vec<Target>, Vec<Diagnostic>> {
    if dockerfile.diagnostics.iter().any(Diagnostic::is_error) {
        return Err(dockerfile.diagnostics.clone());
    }
    let last = dockerfile.stages.len().saturating_sub(1);
    let stages = dockerfile.stages.iter().enumerate().map(|(index, stage)| {
        let name = stage.name.as_ref().map(|name| name.text.clone());
        Target {
            description: name.as_deref().and_then(|name| description(name, &stage.comments)),
            name,
            base: stage.base.text.clone(),
            platform: stage.platform.as_ref().map(|platform| platform.text.clone()),
            is_default: index == last,
            span: stage.span,
        }
    });
    Ok(stages.collect())
}

/// What the comments above a definition say of `name`: the rest of the first that begins with it.
pub(crate) fn description(name: &str, comments: &[Token]) -> Option<String> {
    comments.iter().find_map(|comment| Some(comment.text.strip_prefix(name)?.strip_prefix(' ')?.to_owned()))
}
