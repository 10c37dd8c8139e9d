//! Broken lint rules, for people.

use std::fmt::Write as _;

use frontend::{Diagnostic, SourceFile};

use crate::report;

/// A warning with its lines, and what to write instead.
pub(crate) fn warning_text(file: &SourceFile, warning: &Diagnostic) -> String {
    let url = warning.rule.and_then(frontend::Rule::url);
    let url = url.map_or_else(String::new, |url| format!(" - {url}"));
    let mut text = format!("\nWARNING: {}{url}\n{}\n", warning.code, warning.message);
    if let Some(span) = warning.span {
        text += &report::excerpt(file, span.first_line, span.last_line);
    }
    let help = match (&warning.fix, warning.rule) {
        (Some(fix), _) => fix.title.as_str(),
        (None, Some(rule)) => rule.advice(),
        (None, None) => return text,
    };
    let _ = writeln!(text, "help: {help}");
    text
}

/// How much is told of each warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// A line.
    Line,
    /// What a check tells (`--debug`).
    Full,
}

/// What a build tells of its warnings, beside other things.
pub(crate) fn warnings_text(file: &SourceFile, warnings: &[Diagnostic], detail: Detail) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let count = counted(warnings.len());
    if detail == Detail::Full {
        let all: String = warnings.iter().map(|warning| warning_text(file, warning)).collect();
        return format!("\n {count} found:\n{all}");
    }
    let mut text = format!("\n {count} found (`--check` tells more):\n");
    for warning in warnings {
        let line = warning.span.map_or_else(String::new, |span| format!(" (line {})", span.first_line));
        let _ = writeln!(text, " - {}: {}{line}", warning.code, warning.message);
    }
    text
}

/// How many warnings.
pub(crate) fn counted(number: usize) -> String {
    if number == 1 { "1 warning".to_owned() } else { format!("{number} warnings") }
}
