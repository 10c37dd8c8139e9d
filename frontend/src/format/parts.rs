//! What an instruction is made of, as far as a formatter can tell it from the blanks between.

use std::ops::Range;

use crate::heredoc::{self, Heredoc};
use crate::parse::{json_list, may_have_heredocs};
use crate::words::{self, RawWord};

/// What a formatter may do to a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartKind {
    /// A word of the language. Its case means nothing.
    Keyword,
    /// A flag or an argument.
    Word,
    /// A JSON list of strings. Blanks around its strings mean nothing.
    Json,
    /// The rest of an instruction that is not split. Blanks in it mean something, blanks behind it do not.
    Text,
    /// What ONBUILD records: nothing in it or behind it is touched.
    Trigger,
}

/// A part of the text of a logical line. It is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) kind: PartKind,
    pub(super) range: Range<usize>,
}

/// An instruction that was taken apart.
#[derive(Debug)]
pub(super) struct Parts {
    /// All parts in order, the keyword first. Between them there are only blanks.
    pub(super) list: Vec<Part>,
    /// The here-documents that are announced, without their bodies.
    pub(super) heredocs: Vec<Heredoc>,
}

impl Parts {
    /// Takes the text of a logical line apart, which has no mistakes.
    pub(super) fn of(text: &str, escape: char) -> Self {
        let (keyword_range, behind) = words::split_keyword(text);
        let keyword = text[keyword_range.clone()].to_ascii_uppercase();
        let (flags, rest) = words::take_flags(text, behind.clone());
        let mut parts = Self { list: Vec::new(), heredocs: Vec::new() };
        parts.push(PartKind::Keyword, keyword_range);
        if may_have_heredocs(&keyword, &text[rest.clone()]) {
            parts.heredocs = heredoc::of_line(text);
        }
        if keyword == "ONBUILD" {
            parts.push(PartKind::Trigger, behind);
            return parts;
        }
        let flags_end = flags.last().map_or(behind.start, |flag| flag.range.end);
        parts.push_words(flags);
        // Where flags are ended by `--`, that is neither one of them nor in the rest.
        parts.push(PartKind::Word, words::trimmed(text, flags_end..rest.start));
        parts.push_arguments(&keyword, text, rest, escape);
        parts
    }

    /// The keyword in capitals.
    pub(super) fn keyword(&self, text: &str) -> String {
        self.list.first().map_or_else(String::new, |part| text[part.range.clone()].to_ascii_uppercase())
    }

    /// What the parts say, whatever their layout.
    pub(super) fn meaning(&self, text: &str) -> Vec<(PartKind, String)> {
        let mut found = Vec::new();
        for Part { kind, range } in &self.list {
            let part = &text[range.clone()];
            match kind {
                PartKind::Keyword => found.push((*kind, part.to_ascii_uppercase())),
                PartKind::Json => {
                    let strings = json_list(part).ok().flatten().unwrap_or_default();
                    found.extend(strings.into_iter().map(|string| (*kind, string)));
                }
                PartKind::Word | PartKind::Text | PartKind::Trigger => found.push((*kind, part.to_owned())),
            }
        }
        found
    }

    fn push(&mut self, kind: PartKind, range: Range<usize>) {
        if !range.is_empty() {
            self.list.push(Part { kind, range });
        }
    }

    fn push_words(&mut self, words: Vec<RawWord>) {
        for word in words {
            self.push(PartKind::Word, word.range);
        }
    }

    fn push_arguments(&mut self, keyword: &str, text: &str, rest: Range<usize>, escape: char) {
        match keyword {
            "ADD" | "COPY" | "VOLUME" | "RUN" | "CMD" | "ENTRYPOINT" | "SHELL"
                if is_json(&text[rest.clone()]) =>
            {
                self.push(PartKind::Json, rest);
            }
            "ADD" | "COPY" | "VOLUME" | "EXPOSE" => self.push_words(words::blank_words(text, rest)),
            "FROM" => {
                let first = self.list.len();
                self.push_words(words::blank_words(text, rest));
                if let [_, keyword, _] = &mut self.list[first..] {
                    keyword.kind = PartKind::Keyword;
                }
            }
            "ARG" => self.push_words(words::quoted_words(text, rest, escape)),
            "ENV" | "LABEL" => {
                let words = words::quoted_words(text, rest.clone(), escape);
                if words.first().is_some_and(|word| word.text.contains('=')) {
                    self.push_words(words);
                } else {
                    self.push(PartKind::Text, rest);
                }
            }
            "HEALTHCHECK" => {
                let kind_end =
                    rest.start + text[rest.clone()].find(char::is_whitespace).unwrap_or(rest.len());
                let command = words::trimmed(text, kind_end..rest.end);
                let kind = if is_json(&text[command.clone()]) { PartKind::Json } else { PartKind::Text };
                self.push(PartKind::Keyword, rest.start..kind_end);
                self.push(kind, command);
            }
            // To the others a list is a text like any other: `WORKDIR ["/a"]` is a path.
            _ => self.push(PartKind::Text, rest),
        }
    }
}

fn is_json(text: &str) -> bool {
    matches!(json_list(text), Ok(Some(_)))
}
