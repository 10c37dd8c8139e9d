//! `SOURCE_DATE_EPOCH`: the time of what a build makes, instead of the time at which it is made.

use crate::Diagnostic;

use super::arguments::global_arguments;
use super::{BUILD_CONTEXT, Lowering, Purpose};

const NAME: &str = "SOURCE_DATE_EPOCH";

impl Lowering<'_> {
    /// Finds the time: that of the build argument, which is none if it is empty, or else that of a global ARG. The names
    /// of stages have been found.
    pub(super) fn find_epoch(&mut self) {
        let given = self.build_args.get(NAME);
        let declared = self.declared.contains(NAME).then(|| self.globals.get(NAME)).flatten();
        let Some(text) = given.or(declared).filter(|text| !text.is_empty()) else { return };
        let message = match text.parse() {
            Ok(seconds) => {
                self.epoch = Some(seconds);
                return;
            }
            Err(_) if !self.is_source(text) => format!("invalid {NAME}: {text}"),
            Err(_) if self.purpose != Purpose::Build => return,
            Err(_) => format!(
                "{NAME}={text}: the time of a context or stage is not supported yet, it should be seconds since 1970"
            ),
        };
        let of_default = global_arguments(self.dockerfile).filter(|(_, argument)| argument.name.text == NAME);
        let diagnostic = match of_default.last() {
            Some((instruction, argument)) if given.is_none() => {
                let place = argument.default.as_ref().map_or(argument.name.span, |default| default.span);
                Diagnostic::error("invalid-epoch", instruction.span, message).at(place)
            }
            _ => Diagnostic::error_without_place("invalid-epoch", message),
        };
        self.findings.push(diagnostic);
    }

    /// Whether a name is one that BuildKit takes a time from: that of a context or of a stage.
    fn is_source(&self, name: &str) -> bool {
        name == BUILD_CONTEXT
            || self.options.named_contexts.contains_key(name)
            || self.names.contains_key(name.to_lowercase().as_str())
    }
}
