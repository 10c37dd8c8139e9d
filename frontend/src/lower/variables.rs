//! Expansion that notices which variables a text asks for.

use std::cell::RefCell;

use crate::expand::Variables;
use crate::lint::{self, Rule};
use crate::suggest::{self, Case};
use crate::tree::{Instruction, Token};
use crate::{Diagnostic, Span};

use super::Lowering;
use super::config::ARGUMENTS_OUT_OF_RUN;
use super::state::State;

/// Variables that remember what they were asked for.
pub(super) struct Tracked<'a> {
    inner: &'a dyn Variables,
    set: RefCell<Vec<String>>,
    unset: RefCell<Vec<String>>,
}

impl<'a> Tracked<'a> {
    /// Nothing asked for yet.
    pub(super) fn new(inner: &'a dyn Variables) -> Self {
        Self { inner, set: RefCell::default(), unset: RefCell::default() }
    }

    /// The names that were asked for, each once, in order: those that are set, and those that are not.
    pub(super) fn into_names(self) -> (Vec<String>, Vec<String>) {
        (self.set.into_inner(), self.unset.into_inner())
    }
}

impl Variables for Tracked<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        let value = self.inner.value(name);
        let mut names = if value.is_some() { self.set.borrow_mut() } else { self.unset.borrow_mut() };
        if !name.is_empty() && !names.iter().any(|other| other == name) {
            names.push(name.to_owned());
        }
        value
    }
}

/// What a text belongs to: where its mistakes are, and which comments stand above.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site<'t> {
    /// The instruction.
    pub(super) span: Span,
    /// The comments above it.
    pub(super) comments: &'t [Token],
}

impl<'t> Site<'t> {
    /// The site of an instruction.
    pub(super) fn of(instruction: &'t Instruction) -> Self {
        Self { span: instruction.span, comments: &instruction.comments }
    }
}

impl Lowering<'_> {
    /// Tells of variables of a stage that nothing defines.
    pub(super) fn report_undefined(
        &mut self,
        state: &State,
        token: &Token,
        site: Site<'_>,
        unset: &[String],
    ) {
        for name in unset {
            if state.arguments.is_declared(name) || ARGUMENTS_OUT_OF_RUN.contains(&name.as_str()) {
                continue;
            }
            let known = state.run_environment.iter().map(|(name, _)| name);
            let suggestion = suggest::closest(name, known, Case::Sensitive);
            let hint =
                suggestion.as_ref().map_or_else(String::new, |other| format!(" (did you mean ${other}?)"));
            let message = format!("Usage of undefined variable '${name}'{hint}");
            let mut diagnostic = Diagnostic::lint(Rule::UndefinedVar, site.span, message);
            if let Some(place) = lint::variable_place(token, name) {
                let fix = suggestion.map(|other| lint::rename_variable(place, &other));
                diagnostic = diagnostic.at(place).with_fix(fix);
            }
            self.findings.lint(diagnostic, site.comments);
        }
    }
}
