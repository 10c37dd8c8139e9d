//! The rules of good style: which there are, which count, and those that need the file alone.
//!
//! Rules about what instructions come down to are looked at where they are lowered.

mod file;
mod fixes;
mod rule;
mod settings;

pub(crate) use file::{lint_continuations, lint_instructions, lint_stages};
pub(crate) use fixes::{
    json_form, legacy_pair, lower_protocol, rename_variable, variable_place, without_host_port,
    without_platform,
};
pub use rule::Rule;
pub(crate) use settings::Settings;

use crate::Diagnostic;
use crate::tree::Token;

/// What was found, in the order in which BuildKit comes upon it.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    settings: Settings,
    list: Vec<Diagnostic>,
    has_errors: bool,
}

impl Findings {
    /// Nothing yet.
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Adds an error, or a warning that no rule is behind.
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        self.has_errors |= diagnostic.is_error();
        self.list.push(diagnostic);
    }

    /// Adds errors.
    pub(crate) fn extend(&mut self, diagnostics: impl IntoIterator<Item = Diagnostic>) {
        diagnostics.into_iter().for_each(|diagnostic| self.push(diagnostic));
    }

    /// Adds a broken rule, unless the file or the comments above the instruction skip it.
    pub(crate) fn lint(&mut self, diagnostic: Diagnostic, comments: &[Token]) {
        let counts = diagnostic
            .rule
            .is_none_or(|rule| self.settings.has(rule) && !settings::is_skipped(rule, comments));
        if counts {
            self.push(diagnostic);
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Takes places within instructions, and what to write there, off all but the first `start`: what was found in
    /// a trigger stands elsewhere.
    pub(crate) fn drop_places(&mut self, start: usize) {
        for diagnostic in self.list.iter_mut().skip(start) {
            diagnostic.focus = None;
            diagnostic.fix = None;
        }
    }

    /// Whether the build cannot go on.
    pub(crate) fn has_errors(&self) -> bool {
        self.has_errors
    }

    /// The error that broken rules are, if the file says that they are one and there is no other.
    pub(crate) fn violation(&self) -> Option<Diagnostic> {
        if !self.settings.is_error || self.has_errors {
            return None;
        }
        let mut names: Vec<&str> = Vec::new();
        for rule in self.list.iter().filter_map(|diagnostic| diagnostic.rule) {
            if !names.contains(&rule.name()) {
                names.push(rule.name());
            }
        }
        let message = format!("lint violation found for rules: {}", names.join(", "));
        (!names.is_empty()).then(|| Diagnostic::error_without_place("lint-violation", message))
    }

    /// Everything.
    pub(crate) fn into_list(self) -> Vec<Diagnostic> {
        self.list
    }
}
