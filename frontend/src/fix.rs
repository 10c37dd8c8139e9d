//! What to write instead of what is wrong.

use crate::{Diagnostic, Span};

/// What to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fix {
    /// What it does, for people: "write `ENV a=b`".
    pub title: String,
    /// The changes, in the order of the file, none overlapping another.
    pub edits: Vec<Edit>,
    /// Whether it can be made without asking.
    pub certainty: Certainty,
}

/// One change of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// What is replaced; nothing where it is empty.
    pub span: Span,
    /// What stands there afterwards.
    pub replacement: String,
}

/// How sure a [`Fix`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// It says what is there in the way that is recommended.
    Certain,
    /// It is what was probably meant.
    Guess,
}

impl Fix {
    /// A fix that can be made without asking.
    pub(crate) fn certain(title: String, edits: Vec<Edit>) -> Self {
        Self { title, edits, certainty: Certainty::Certain }
    }

    /// A fix that somebody has to look at.
    pub(crate) fn guess(title: String, edits: Vec<Edit>) -> Self {
        Self { title, edits, certainty: Certainty::Guess }
    }
}

impl Edit {
    /// Replaces what is in a range.
    pub(crate) fn new(span: Span, replacement: impl Into<String>) -> Self {
        Self { span, replacement: replacement.into() }
    }
}

/// The text after all fixes that are certain, each made as a whole or not at all; where two would change the same
/// place, the first one is made. `None` if there is nothing to change.
pub fn apply_fixes(text: &str, diagnostics: &[Diagnostic]) -> Option<String> {
    let fixes = diagnostics.iter().filter_map(|diagnostic| diagnostic.fix.as_deref());
    let mut edits: Vec<&Edit> = Vec::new();
    for fix in fixes.filter(|fix| fix.certainty == Certainty::Certain) {
        if fix.edits.iter().all(|edit| edits.iter().all(|other| !overlap(edit, other))) {
            edits.extend(&fix.edits);
        }
    }
    edits.sort_by_key(|edit| edit.span.start);
    let mut result = String::with_capacity(text.len());
    let mut at = 0;
    for edit in &edits {
        result.push_str(text.get(at..edit.span.start)?);
        result.push_str(&edit.replacement);
        at = edit.span.end;
    }
    result.push_str(text.get(at..)?);
    (!edits.is_empty()).then_some(result)
}

fn overlap(one: &Edit, other: &Edit) -> bool {
    one.span.start <= other.span.end && other.span.start <= one.span.end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnostic(certainty: Certainty, edits: &[(usize, usize, &str)]) -> Diagnostic {
        let span = |start, end| Span { start, end, first_line: 1, last_line: 1 };
        let edits = edits.iter().map(|(start, end, text)| Edit::new(span(*start, *end), *text)).collect();
        Diagnostic::error("x", span(0, 1), "x").with_fix(Some(Fix { title: String::new(), edits, certainty }))
    }

    #[test]
    fn certain_fixes_are_made_as_a_whole() {
        let diagnostics = [
            diagnostic(Certainty::Certain, &[(4, 5, "E")]),
            diagnostic(Certainty::Guess, &[(0, 1, "?")]),
            diagnostic(Certainty::Certain, &[(0, 1, "A"), (4, 5, "not made")]),
            diagnostic(Certainty::Certain, &[(2, 2, "-"), (7, 9, "")]),
        ];
        assert_eq!(apply_fixes("abcdefghij", &diagnostics).as_deref(), Some("ab-cdEfgj"));
        assert_eq!(apply_fixes("abc", &diagnostics[1..2]), None);
        assert_eq!(apply_fixes("a", &diagnostics[..1]), None);
    }
}
