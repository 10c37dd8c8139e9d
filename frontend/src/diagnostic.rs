//! What is wrong with a Dockerfile, each with its place.

use std::fmt;

use crate::lint::Rule;
use crate::{Fix, Span};

/// A mistake, or something that deserves a second look. What few have is in boxes, since most results carry room for
/// one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// A name for its kind that never changes: `unknown-instruction`, or the name of a lint rule.
    pub code: &'static str,
    /// The lint rule that it breaks, if it breaks one.
    pub rule: Option<Rule>,
    /// What is wrong: one line.
    pub message: String,
    /// The lines that it is about, as BuildKit tells them: mostly the whole instruction. `None` only for what is not
    /// in the file (`--target`).
    pub span: Option<Span>,
    /// The words that it is about, where they are known more closely.
    pub focus: Option<Box<Span>>,
    /// What may help.
    pub help: Option<String>,
    /// What to write instead, if that can be told.
    pub fix: Option<Box<Fix>>,
    /// Where in the work it was found.
    pub(crate) phase: Phase,
}

/// How bad a [`Diagnostic`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The build can go on.
    Warning,
    /// The build cannot go on.
    Error,
}

/// The steps in which a file is understood. BuildKit ends at the first error, and what it says then depends on the
/// step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Phase {
    /// Lines, and how they are split.
    Lines,
    /// Each instruction on its own.
    Instructions,
    /// Everything that needs to know of other instructions.
    #[default]
    Meaning,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self { span: Some(span), ..Self::error_without_place(code, message) }
    }

    /// An error that has no place in the file.
    pub fn error_without_place(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            rule: None,
            message: message.into(),
            span: None,
            focus: None,
            help: None,
            fix: None,
            phase: Phase::Meaning,
        }
    }

    /// A broken lint rule.
    pub(crate) fn lint(rule: Rule, span: Span, message: String) -> Self {
        let error = Self::error(rule.name(), span, message);
        Self { severity: Severity::Warning, rule: Some(rule), ..error }
    }

    /// The same with a text that may help.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same with the words that it is about.
    #[must_use]
    pub(crate) fn at(mut self, focus: Span) -> Self {
        self.focus = Some(Box::new(focus));
        self
    }

    /// The same with what to write instead.
    #[must_use]
    pub(crate) fn with_fix(mut self, fix: Option<Fix>) -> Self {
        self.fix = fix.map(Box::new);
        self
    }

    /// The same, found in another step.
    #[must_use]
    pub(crate) fn in_phase(mut self, phase: Phase) -> Self {
        self.phase = phase;
        self
    }

    /// Whether it stops the build.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The message as BuildKit words it where it stands alone.
    pub fn summary(&self) -> String {
        match (self.phase, self.span) {
            (Phase::Instructions, Some(span)) => {
                format!("dockerfile parse error on line {}: {}", span.first_line, self.message)
            }
            _ => self.message.clone(),
        }
    }

    /// The closest place that is known.
    pub fn place(&self) -> Option<Span> {
        self.focus.as_deref().copied().or(self.span)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(span) = self.span {
            write!(f, "line {}: ", span.first_line)?;
        }
        f.write_str(&self.message)
    }
}
