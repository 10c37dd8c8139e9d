//! Licences as SPDX expressions.

use sha2::{Digest, Sha256};

/// A licence in a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum License {
    /// An expression of identifiers that SPDX lists.
    Listed(String),
    /// Other words, which the document has to bring along.
    Other {
        /// `LicenseRef-…`.
        id: String,
        /// The words.
        text: String,
    },
}

impl License {
    /// What a package manager wrote, in the words of SPDX where it is understood.
    pub(crate) fn of(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        if spdx::Expression::parse(text).is_ok() {
            return Some(Self::Listed(text.to_owned()));
        }
        match spdx::Expression::canonicalize(text) {
            Ok(Some(canonical)) if is_certain(text, &canonical) => Some(Self::Listed(canonical)),
            _ => Some(Self::Other { id: reference(text), text: text.to_owned() }),
        }
    }

    /// What stands in the package.
    pub(crate) fn expression(&self) -> &str {
        match self {
            Self::Listed(expression) => expression,
            Self::Other { id, .. } => id,
        }
    }
}

/// Whether an expression says what was written and no more: `BSD` and `GPL` are several licences, of which the library
/// takes one.
fn is_certain(text: &str, canonical: &str) -> bool {
    let has_version = text.contains(|c: char| c.is_ascii_digit());
    (has_version || text.starts_with(canonical)) && spdx::Expression::parse(canonical).is_ok()
}

/// A name for words that SPDX does not list: themselves where their characters are allowed, with a hash where not.
fn reference(text: &str) -> String {
    const LONGEST: usize = 40;
    let is_allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let name: String = text.chars().map(|c| if is_allowed(&c) { c } else { '-' }).take(LONGEST).collect();
    if name == text {
        return format!("LicenseRef-{name}");
    }
    let hash = hex::encode(Sha256::digest(text));
    format!("LicenseRef-{}-{}", name.trim_matches('-'), &hash[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_expressions_or_references() {
        let cases = [
            ("MIT", "MIT"),
            (" GPL-2.0-or-later AND (MIT OR Apache-2.0)", "GPL-2.0-or-later AND (MIT OR Apache-2.0)"),
            ("BSD", "LicenseRef-BSD"),
            ("Apache 2.0", "Apache-2.0"),
            ("GPLv2+ and Public Domain", "LicenseRef-GPLv2--and-Public-Domain-"),
        ];
        for (text, expression) in cases {
            let license = License::of(text).unwrap();
            assert!(license.expression().starts_with(expression), "{text}: {license:?}");
        }
        assert_eq!(License::of("  "), None);
    }
}
