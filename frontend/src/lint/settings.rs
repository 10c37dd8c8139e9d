//! Which lint rules count: the `check` directive, `BUILDKIT_DOCKERFILE_CHECK`, comments above instructions.

use std::collections::BTreeSet;

use crate::boolean::go_bool;
use crate::quote::go_quote;
use crate::tree::Token;

use super::Rule;

/// Which rules count, and what a broken one means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    skips: Names,
    experimental: Names,
    /// Whether a broken rule makes the build fail.
    pub(crate) is_error: bool,
}

/// Names of rules. Names that no rule has do no harm: files are read by several versions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    names: BTreeSet<String>,
}

impl Names {
    fn read(text: &str) -> Self {
        match text.trim() {
            "all" => Self { all: true, names: BTreeSet::new() },
            list => Self { all: false, names: list.split(',').map(|name| name.trim().to_owned()).collect() },
        }
    }

    fn have(&self, rule: Rule) -> bool {
        self.all || self.names.contains(rule.name())
    }
}

impl Settings {
    /// Reads `skip=A,B;error=true;experimental=C`.
    ///
    /// # Errors
    /// The text of a diagnostic.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let mut settings = Self::default();
        if text.trim().is_empty() {
            return Ok(settings);
        }
        for part in text.trim().splitn(3, ';') {
            let (key, value) =
                part.split_once('=').ok_or_else(|| format!("invalid check option {}", go_quote(part)))?;
            match key.trim() {
                "skip" => settings.skips = Names::read(value),
                "experimental" => settings.experimental = Names::read(value),
                "error" => {
                    let value = value.trim();
                    settings.is_error = go_bool(value).ok_or_else(|| {
                        let (part, value) = (go_quote(part), go_quote(value));
                        format!("failed to parse check option {part}: {value} is neither true nor false")
                    })?;
                }
                other => return Err(format!("invalid check option {}", go_quote(other))),
            }
        }
        Ok(settings)
    }

    /// Whether a rule counts.
    pub(crate) fn has(&self, rule: Rule) -> bool {
        if rule.is_experimental() { self.experimental.have(rule) } else { !self.skips.have(rule) }
    }
}

/// Whether comments above an instruction skip a rule for it: `# check=skip=A,B`. What such a comment says beyond that
/// does not count, nor does one that is malformed.
pub(crate) fn is_skipped(rule: Rule, comments: &[Token]) -> bool {
    let settings = comments.iter().filter_map(|comment| {
        let (key, value) = comment.text.split_once('=')?;
        key.trim().eq_ignore_ascii_case("check").then(|| Settings::read(value).ok())?
    });
    !rule.is_experimental() && settings.into_iter().any(|settings| settings.skips.have(rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read() {
        let settings = Settings::read(" skip = MaintainerDeprecated , UndefinedVar;error=T").unwrap();
        assert!(settings.is_error);
        assert!(!settings.has(Rule::MaintainerDeprecated) && !settings.has(Rule::UndefinedVar));
        assert!(settings.has(Rule::FromAsCasing));
        assert!(!settings.has(Rule::InvalidDefinitionDescription));
        let settings = Settings::read("experimental=all;skip=all").unwrap();
        assert!(!settings.has(Rule::FromAsCasing) && settings.has(Rule::InvalidDefinitionDescription));
        let settings = Settings::read("experimental=InvalidDefinitionDescription").unwrap();
        assert!(settings.has(Rule::InvalidDefinitionDescription) && !settings.is_error);
        assert_eq!(Settings::read("  "), Ok(Settings::default()));
    }

    #[test]
    fn malformed_settings_are_told() {
        let rows = [
            ("ignore=all", "invalid check option \"ignore\""),
            ("skip", "invalid check option \"skip\""),
            ("skip=A;", "invalid check option \"\""),
            (
                "error=maybe",
                "failed to parse check option \"error=maybe\": \"maybe\" is neither true nor false",
            ),
        ];
        for (text, wanted) in rows {
            assert_eq!(Settings::read(text).unwrap_err(), wanted, "{text}");
        }
    }

    #[test]
    fn comments_skip_rules_for_one_instruction() {
        let comments = |texts: &[&str]| -> Vec<Token> {
            texts.iter().map(|text| Token { text: (*text).to_owned(), ..Token::default() }).collect()
        };
        let several =
            comments(&["remark", "check=skip=UndefinedVar, FromAsCasing", "check=error=true", "check=x"]);
        assert!(is_skipped(Rule::FromAsCasing, &several));
        assert!(is_skipped(Rule::UndefinedVar, &several));
        assert!(!is_skipped(Rule::StageNameCasing, &several));
        assert!(is_skipped(Rule::StageNameCasing, &comments(&["check = skip=all"])));
        let described = comments(&["check=skip=InvalidDefinitionDescription"]);
        assert!(!is_skipped(Rule::InvalidDefinitionDescription, &described));
    }
}
