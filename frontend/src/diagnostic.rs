//! What is wrong with a Dockerfile, each with its place.

use std::fmt;

use crate::Span;

/// A mistake, or something that deserves a second look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// A name for its kind that never changes (`unknown-instruction`).
    pub code: &'static str,
    /// What is wrong: one line, lower case.
    pub message: String,
    /// Where. `None` only for what is not in the file (`--target`).
    pub span: Option<Span>,
    /// What may help.
    pub help: Option<String>,
}

/// How bad a [`Diagnostic`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The build can go on.
    Warning,
    /// The build cannot go on.
    Error,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, code, message: message.into(), span: Some(span), help: None }
    }

    /// An error that has no place in the file.
    pub fn error_without_place(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, code, message: message.into(), span: None, help: None }
    }

    /// The same with a text that may help.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Whether it stops the build.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
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
