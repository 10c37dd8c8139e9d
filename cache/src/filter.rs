//! Which entries are meant: the filters of `docker buildx prune` and of buildkitd.toml.
//!
//! ```text
//! filter   = selector *( "," selector )            all of them must hold
//! selector = field [ operator value ]              without an operator: the field is true or not empty
//! operator = "==" | "=" | "!=" | "~="              `~=` matches a regular expression somewhere in the field
//! field    = "id" | "parents" | "description" | "type" | "inuse" | "mutable" | "immutable" | "shared" | "private"
//! ```

use std::str::FromStr;

use regex::Regex;

use crate::{Entry, EntryKind};

/// Which entries are meant.
#[derive(Debug, Clone)]
pub struct Filter(Vec<Selector>);

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// There is nothing to compare.
    #[error("a selector is empty")]
    Empty,
    /// No entry has such a field.
    #[error("there is no field `{name}`; the fields are {}", FIELDS.map(|(name, _)| name).join(", "))]
    UnknownField {
        /// What was asked for.
        name: String,
    },
    /// What is to be matched is no regular expression.
    #[error("`{value}` is no regular expression: {reason}")]
    Expression {
        /// It.
        value: String,
        /// Why.
        reason: String,
    },
}

#[derive(Debug, Clone)]
struct Selector {
    field: Field,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    IsTrue,
    Equals(String),
    Differs(String),
    Matches(Regex),
}

/// How a field of an entry is read.
type Field = fn(&Entry) -> String;

const FIELDS: [(&str, Field); 9] = [
    ("id", |entry| entry.id.to_string()),
    ("parents", |entry| entry.parent.map_or_else(String::new, |parent| parent.to_string())),
    ("description", |entry| entry.description.clone()),
    ("type", kind_of),
    ("inuse", |entry| entry.in_use.to_string()),
    ("mutable", |entry| entry.mutable.to_string()),
    ("immutable", |entry| (!entry.mutable).to_string()),
    ("shared", |entry| entry.shared.to_string()),
    ("private", |entry| (!entry.shared).to_string()),
];

fn kind_of(entry: &Entry) -> String {
    entry.kind.as_str().to_owned()
}

impl Filter {
    /// Whatever is of that kind.
    pub fn of_kind(kind: EntryKind) -> Self {
        Self(vec![Selector { field: kind_of, test: Test::Equals(kind.as_str().to_owned()) }])
    }

    /// Whether all selectors hold for `entry`.
    pub fn matches(&self, entry: &Entry) -> bool {
        self.0.iter().all(|selector| selector.matches(entry))
    }
}

impl Selector {
    fn matches(&self, entry: &Entry) -> bool {
        let value = (self.field)(entry);
        match &self.test {
            Test::IsTrue => !matches!(value.as_str(), "" | "false"),
            Test::Equals(wanted) => value == *wanted,
            Test::Differs(unwanted) => value != *unwanted,
            Test::Matches(expression) => expression.is_match(&value),
        }
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        split(text).into_iter().map(|part| selector(&part)).collect::<Result<_, _>>().map(Self)
    }
}

/// The selectors of a filter. A comma within double quotes belongs to the value; the quotes do not.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut is_quoted = false;
    for character in text.chars() {
        let last = parts.last_mut().expect("there is always one");
        match character {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => parts.push(String::new()),
            other => last.push(other),
        }
    }
    parts
}

fn selector(text: &str) -> Result<Selector, FilterError> {
    let whole = text.trim();
    let end = whole.find(['=', '!', '~']).unwrap_or(whole.len());
    let (name, rest) = whole.split_at(end);
    let name = name.trim();
    if name.is_empty() {
        return Err(FilterError::Empty);
    }
    let field = FIELDS.iter().find(|(known, _)| *known == name).map(|(_, field)| *field);
    let field = field.ok_or_else(|| FilterError::UnknownField { name: name.to_owned() })?;
    let value = |operator: &str| rest.strip_prefix(operator).map(|value| value.trim().to_owned());
    let comparison = if rest.is_empty() {
        Test::IsTrue
    } else if let Some(value) = value("~=") {
        match Regex::new(&value) {
            Ok(expression) => Test::Matches(expression),
            Err(error) => return Err(FilterError::Expression { value, reason: error.to_string() }),
        }
    } else if let Some(value) = value("!=") {
        Test::Differs(value)
    } else if let Some(value) = value("==").or_else(|| value("=")) {
        Test::Equals(value)
    } else {
        return Err(FilterError::UnknownField { name: whole.to_owned() });
    };
    Ok(Selector { field, test: comparison })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EntryId, SnapshotId};

    fn entry() -> Entry {
        Entry {
            id: EntryId::Snapshot(SnapshotId(1)),
            kind: EntryKind::GitCheckout,
            parent: Some(SnapshotId(2)),
            description: "[2/3] RUN make, and more".to_owned(),
            in_use: true,
            shared: false,
            mutable: false,
            used: 0,
        }
    }

    #[test]
    fn selectors() {
        for (text, expected) in [
            ("type==source.git.checkout", true),
            ("type=regular", false),
            ("type!=regular,inuse", true),
            ("inuse=true", true),
            ("inuse,mutable", false),
            ("immutable, private", true),
            ("shared", false),
            ("id=0000000000000001", true),
            ("parents==0000000000000002", true),
            ("description~=RUN\\s+make", true),
            ("description~=^RUN", false),
            ("description==\"[2/3] RUN make, and more\"", true),
        ] {
            assert_eq!(text.parse::<Filter>().unwrap().matches(&entry()), expected, "{text}");
        }
    }

    #[test]
    fn mistakes() {
        let error = |text: &str| text.parse::<Filter>().unwrap_err();
        assert_eq!(error(""), FilterError::Empty);
        assert_eq!(error("type=regular,"), FilterError::Empty);
        assert_eq!(error("age=1"), FilterError::UnknownField { name: "age".to_owned() });
        assert!(error("type~").to_string().contains("`type~`"));
        assert!(matches!(error("id~=("), FilterError::Expression { .. }));
    }
}
