//! The values of flags that are made of `key=value` fields, as `docker buildx build` spells them.

use std::collections::BTreeMap;

use crate::annotations::{AnnotationError, Annotations};
use crate::compression::{Compression, CompressionKind, LevelError, MediaTypes};
use crate::form::LayerForm;

/// Why a text has not the form that its flag takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Not comma-separated `key=value` fields.
    #[error("invalid {option} `{text}`: `{field}` should have the form `key=value`")]
    Field {
        /// What the text is to be.
        option: &'static str,
        /// The whole text.
        text: String,
        /// The field.
        field: String,
    },
    /// A quote without its partner.
    #[error("invalid {option} `{text}`: a double quote is not closed")]
    Quote {
        /// What the text is to be.
        option: &'static str,
        /// The whole text.
        text: String,
    },
    /// There is no `type`.
    #[error("invalid {option} `{text}`: a `type` is required, as in `{example}`")]
    NoType {
        /// What the text is to be.
        option: &'static str,
        /// The whole text.
        text: String,
        /// A text that would do.
        example: &'static str,
    },
    /// An unknown type.
    #[error("unknown {option} type `{found}`{}", suggestion(.close.as_deref()))]
    Type {
        /// What the text is to be.
        option: &'static str,
        /// What was written.
        found: String,
        /// The type whose name is close.
        close: Option<&'static str>,
    },
    /// An unknown key.
    #[error("unknown key `{key}` for {option} type `{kind}`{}", suggestion(.close.as_deref()))]
    Key {
        /// What the text is to be.
        option: &'static str,
        /// The type.
        kind: &'static str,
        /// What was written.
        key: String,
        /// The key whose name is close.
        close: Option<&'static str>,
    },
    /// A key or value that BuildKit has and this program does not have yet.
    #[error("`{found}` in {} is not supported yet", with_article(option))]
    NotSupportedYet {
        /// What the text is to be.
        option: &'static str,
        /// What was written.
        found: String,
    },
    /// A value that the key does not take.
    #[error("invalid value `{value}` for `{key}` of {option} type `{kind}`: it should be {expected}")]
    Value {
        /// What the text is to be.
        option: &'static str,
        /// The type.
        kind: &'static str,
        /// The key.
        key: &'static str,
        /// What was written.
        value: String,
        /// What may be written.
        expected: &'static str,
    },
    /// A level that the algorithm does not have.
    #[error(transparent)]
    Level(#[from] LevelError),
}

fn suggestion(close: Option<&str>) -> String {
    close.map_or_else(String::new, |close| format!(" (did you mean {close}?)"))
}

fn with_article(option: &str) -> String {
    let article = if option.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {option}")
}

/// What a flag takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grammar {
    /// What a value is called.
    pub(crate) option: &'static str,
    /// The types.
    pub(crate) types: &'static [&'static str],
    /// A value that would do.
    pub(crate) example: &'static str,
    /// Keys that BuildKit takes and that come here later.
    pub(crate) later: &'static [&'static str],
}

/// The keys that say how layers are written.
pub(crate) const LAYER_KEYS: &[&str] =
    &["compression", "compression-level", "force-compression", "oci-mediatypes"];

/// The fields of one value; each reader takes out those it knows.
#[derive(Debug)]
pub(crate) struct Fields {
    grammar: Grammar,
    pub(crate) kind: &'static str,
    pairs: BTreeMap<String, String>,
}

impl Grammar {
    /// Reads `key=value` fields that have been split.
    pub(crate) fn read(self, text: &str, fields: &[String]) -> Result<Fields, FieldError> {
        let Self { option, types, example, .. } = self;
        let mut pairs = BTreeMap::new();
        for field in fields {
            let (key, value) = field.split_once('=').ok_or_else(|| FieldError::Field {
                option,
                text: text.to_owned(),
                field: field.clone(),
            })?;
            let key = key.trim();
            // The keys of annotations are people's own, and their case matters.
            let key = if key.starts_with("annotation") { key.to_owned() } else { key.to_ascii_lowercase() };
            pairs.insert(key, value.to_owned());
        }
        let no_type = || FieldError::NoType { option, text: text.to_owned(), example };
        let kind = pairs.remove("type").ok_or_else(no_type)?;
        let Some(kind) = types.iter().find(|known| **known == kind) else {
            return Err(FieldError::Type { option, close: closest(&kind, types), found: kind });
        };
        Ok(Fields { grammar: self, kind, pairs })
    }

    /// The fields of one CSV record (RFC 4180): a field that begins with a double quote ends at the next one that is
    /// not doubled.
    pub(crate) fn split(self, text: &str) -> Result<Vec<String>, FieldError> {
        let mut fields = Vec::new();
        let mut field = String::new();
        let mut quoted = false;
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '"' if quoted && characters.peek() == Some(&'"') => {
                    characters.next();
                    field.push('"');
                }
                '"' if quoted => quoted = false,
                '"' if field.is_empty() => quoted = true,
                ',' if !quoted => fields.push(std::mem::take(&mut field)),
                other => field.push(other),
            }
        }
        if quoted {
            return Err(FieldError::Quote { option: self.option, text: text.to_owned() });
        }
        fields.push(field);
        Ok(fields)
    }
}

impl Fields {
    /// Refuses keys that the type does not take.
    pub(crate) fn check_keys(&self, known: &[&'static str]) -> Result<(), FieldError> {
        let Grammar { option, later, .. } = self.grammar;
        for key in self.pairs.keys() {
            if known.contains(&key.as_str()) {
                continue;
            }
            if later.contains(&key.as_str()) {
                return Err(FieldError::NotSupportedYet { option, found: key.clone() });
            }
            return Err(FieldError::Key {
                option,
                kind: self.kind,
                close: closest(key, known),
                key: key.clone(),
            });
        }
        Ok(())
    }

    /// All fields that annotate something.
    pub(crate) fn annotations(&mut self) -> Result<Annotations, AnnotationError> {
        let mut annotations = Annotations::default();
        let mut others = BTreeMap::new();
        for (key, value) in std::mem::take(&mut self.pairs) {
            if !annotations.read_field(&key, &value)? {
                others.insert(key, value);
            }
        }
        self.pairs = others;
        Ok(annotations)
    }

    /// Whether a key was given.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.pairs.contains_key(key)
    }

    /// The value of a key.
    pub(crate) fn take(&mut self, key: &str) -> Option<String> {
        self.pairs.remove(key)
    }

    /// The error for a value that the key does not take.
    pub(crate) fn wrong(&self, key: &'static str, value: String, expected: &'static str) -> FieldError {
        FieldError::Value { option: self.grammar.option, kind: self.kind, key, value, expected }
    }

    /// A boolean in one of the forms that Go's `strconv.ParseBool` takes; a key without a value is true.
    pub(crate) fn boolean(&mut self, key: &'static str) -> Result<Option<bool>, FieldError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.as_str() {
            "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
            _ => Err(self.wrong(key, value, "`true` or `false`")),
        }
    }

    /// The keys of [`LAYER_KEYS`].
    pub(crate) fn layer_form(&mut self, default: MediaTypes) -> Result<LayerForm, FieldError> {
        Ok(LayerForm {
            compression: self.compression()?,
            force: self.boolean("force-compression")?.unwrap_or(false),
            media_types: self.media_types(default)?,
        })
    }

    /// `source-date-epoch`; an empty one is none.
    pub(crate) fn epoch(&mut self) -> Result<Option<i64>, FieldError> {
        let Some(text) = self.take("source-date-epoch").filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| self.wrong("source-date-epoch", text, "seconds since 1970"))
    }

    /// `oci-mediatypes`.
    fn media_types(&mut self, default: MediaTypes) -> Result<MediaTypes, FieldError> {
        Ok(match self.boolean("oci-mediatypes")? {
            Some(true) => MediaTypes::Oci,
            Some(false) => MediaTypes::Docker,
            None => default,
        })
    }

    /// `compression` and `compression-level`.
    fn compression(&mut self) -> Result<Compression, FieldError> {
        let level = match self.take("compression-level") {
            None => None,
            Some(text) => match text.parse::<i32>() {
                Ok(level) => Some(level),
                Err(_) => return Err(self.wrong("compression-level", text, "a whole number")),
            },
        };
        let kind = match self.take("compression").as_deref() {
            None | Some("gzip") => CompressionKind::Gzip,
            Some("uncompressed") => CompressionKind::Uncompressed,
            Some("zstd") => CompressionKind::Zstd,
            Some("estargz") => CompressionKind::Estargz,
            Some(other) => {
                let expected = "`uncompressed`, `gzip`, `zstd` or `estargz`";
                return Err(self.wrong("compression", other.to_owned(), expected));
            }
        };
        Ok(Compression::new(kind, level)?)
    }
}

/// The candidate that is at most two edits away, the nearest first.
fn closest(word: &str, candidates: &[&'static str]) -> Option<&'static str> {
    candidates
        .iter()
        .map(|candidate| (distance(word, candidate), *candidate))
        .filter(|(edits, candidate)| *edits <= 2.min(candidate.len() / 2))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
