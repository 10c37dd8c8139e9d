//! The flags of an instruction: `--name`, `--name=value`.

use std::collections::BTreeMap;

use crate::diagnostic::Phase;
use crate::lines::LogicalLine;
use crate::suggest::{self, Case};
use crate::tree::Token;
use crate::words::RawWord;
use crate::{Diagnostic, Span};

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlagKind {
    /// Nothing, `true` or `false`.
    Bool,
    /// A value.
    Text,
    /// A value, any number of times.
    List,
}

/// The flags that were given.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    values: BTreeMap<&'static str, Vec<Token>>,
}

impl Flags {
    /// Checks flags against what an instruction knows.
    pub(crate) fn parse(
        line: &LogicalLine,
        words: &[RawWord],
        known: &[(&'static str, FlagKind)],
    ) -> Result<Self, Diagnostic> {
        let mut flags = Self::default();
        for word in words {
            let place = line.span_of(&word.range);
            flags.add(word, place, known).map_err(|(code, message)| {
                // The whole instruction is shown, as for every other mistake in it.
                Diagnostic::error(code, line.span, message).in_phase(Phase::Instructions).at(place)
            })?;
        }
        Ok(flags)
    }

    fn add(
        &mut self,
        word: &RawWord,
        span: Span,
        known: &[(&'static str, FlagKind)],
    ) -> Result<(), (&'static str, String)> {
        let text = word.text.strip_prefix("--").unwrap_or(&word.text);
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let Some(&(name, kind)) = known.iter().find(|(known, _)| *known == name) else {
            let hint = suggest::did_you_mean(name, known.iter().map(|(name, _)| *name), Case::Sensitive);
            return Err(("unknown-flag", format!("unknown flag: --{name}{hint}")));
        };
        if kind != FlagKind::List && self.values.contains_key(name) {
            return Err(("duplicate-flag", format!("duplicate flag specified: --{name}")));
        }
        let missing = || ("missing-flag-value", format!("missing a value on flag: --{name}"));
        let value = match (kind, value) {
            (FlagKind::Bool, None) => "true".to_owned(),
            (FlagKind::Bool, Some(value)) => match value.to_lowercase().as_str() {
                "" => return Err(missing()),
                value @ ("true" | "false") => value.to_owned(),
                _ => {
                    let message = format!("expecting boolean value for flag --{name}, not: {value}");
                    return Err(("invalid-flag-value", message));
                }
            },
            (_, None) => return Err(missing()),
            (_, Some(value)) => value.to_owned(),
        };
        self.values.entry(name).or_default().push(Token { text: value, span });
        Ok(())
    }

    /// The value of a flag; an empty one counts as none.
    pub(crate) fn text(&mut self, name: &str) -> Option<Token> {
        self.list(name).pop().filter(|token| !token.text.is_empty())
    }

    /// Whether a flag was set, and to what.
    pub(crate) fn bool(&mut self, name: &str) -> Option<bool> {
        self.list(name).pop().map(|token| token.text == "true")
    }

    /// All values of a flag.
    pub(crate) fn list(&mut self, name: &str) -> Vec<Token> {
        self.values.remove(name).unwrap_or_default()
    }
}
