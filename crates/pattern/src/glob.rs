//! One pattern as a small automaton. All its states are followed at once, so that no pattern and path can make
//! matching slow, and so that matching can stop at a directory and go on for each of its entries.

use std::iter;

/// A step of the automaton.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// This character.
    Char(char),
    /// Any character but `/`.
    One,
    /// Any number of characters but `/`.
    Some,
    /// Any number of characters.
    Rest,
    /// Nothing, or whatever ends in `/`. Always followed by [`Token::Directories`].
    Optional,
    /// The inside of [`Token::Optional`].
    Directories,
    /// A character of a class.
    Class {
        /// Whether the characters outside the ranges are meant.
        negated: bool,
        /// First and last character of each range.
        ranges: Vec<(char, char)>,
    },
    /// The beginning of the path.
    Start,
}

/// A pattern whose brackets or escapes are wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadPattern;

/// The live states of an automaton: indexes of tokens that come next. The number of tokens stands for a match.
pub(crate) type States = Vec<usize>;

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct Glob {
    tokens: Vec<Token>,
}

impl Glob {
    /// A pattern of Go's `filepath.Match`: `*`, `?`, `[…]`, `\x`.
    pub(crate) fn path(pattern: &str) -> Result<Self, BadPattern> {
        let mut tokens = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Some,
                '?' => Token::One,
                '[' => class(&mut chars)?,
                '\\' => Token::Char(chars.next().ok_or(BadPattern)?),
                c => Token::Char(c),
            });
        }
        Ok(Self { tokens })
    }

    /// A pattern of moby's matcher, which has `**` too. `pattern` is cleaned.
    ///
    /// moby compares patterns without other wildcards as text: there `^` is a character and a leading `**` that is
    /// not followed by a slash matches in the middle of a name. In all others `^` is the beginning of the path.
    pub(crate) fn moby(pattern: &str) -> Result<Self, BadPattern> {
        let is_text = is_text(pattern);
        let mut tokens = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '*' if chars.next_if_eq(&'*').is_some() => {
                    let whole_parts = chars.next_if_eq(&'/').is_some();
                    if chars.peek().is_none() || (is_text && !whole_parts) {
                        tokens.push(Token::Rest);
                    } else {
                        tokens.extend([Token::Optional, Token::Directories]);
                    }
                }
                '*' => tokens.push(Token::Some),
                '?' => tokens.push(Token::One),
                '[' => tokens.push(class(&mut chars)?),
                '\\' => tokens.push(Token::Char(chars.next().ok_or(BadPattern)?)),
                '^' if !is_text => tokens.push(Token::Start),
                c => tokens.push(Token::Char(c)),
            }
        }
        Ok(Self { tokens })
    }

    /// The states before the first character.
    pub(crate) fn start(&self) -> States {
        let mut states = States::new();
        self.add(0, true, &mut states);
        states
    }

    /// The states after `c`, put into `next`.
    fn step(&self, states: &[usize], c: char, next: &mut States) {
        next.clear();
        for &state in states {
            match self.tokens.get(state) {
                Some(Token::Char(wanted)) if *wanted == c => self.add(state + 1, false, next),
                Some(Token::One) if c != '/' => self.add(state + 1, false, next),
                Some(Token::Some) if c != '/' => self.add(state, false, next),
                Some(Token::Rest) => self.add(state, false, next),
                Some(Token::Directories) => {
                    self.add(state, false, next);
                    if c == '/' {
                        self.add(state + 1, false, next);
                    }
                }
                Some(Token::Class { negated, ranges }) => {
                    let inside = ranges.iter().any(|(first, last)| (*first..=*last).contains(&c));
                    if inside != *negated {
                        self.add(state + 1, false, next);
                    }
                }
                _ => {}
            }
        }
    }

    /// Adds a state and those that follow it without a character.
    fn add(&self, mut state: usize, at_start: bool, states: &mut States) {
        loop {
            if states.contains(&state) {
                return;
            }
            states.push(state);
            match self.tokens.get(state) {
                Some(Token::Some | Token::Rest) => {}
                Some(Token::Optional) => {
                    states.push(state + 1);
                    state += 1;
                }
                Some(Token::Start) if at_start => {}
                _ => return,
            }
            state += 1;
        }
    }

    /// Goes on from `states` over `bytes`. `scratch` is any vector; it saves allocations.
    pub(crate) fn advance(&self, states: &mut States, bytes: &[u8], scratch: &mut States) {
        for c in characters(bytes) {
            if states.is_empty() {
                return;
            }
            self.step(states, c, scratch);
            std::mem::swap(states, scratch);
        }
    }

    /// Whether `states` say that all of the pattern has been found.
    pub(crate) fn is_match(&self, states: &[usize]) -> bool {
        states.contains(&self.tokens.len())
    }

    /// Whether the whole of `path` matches.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        let mut states = self.start();
        self.advance(&mut states, path, &mut States::new());
        self.is_match(&states)
    }
}

/// Whether moby compares `pattern` as text: it has no wildcards but `**` at its beginning or its end, not both.
fn is_text(pattern: &str) -> bool {
    let inner = match pattern.strip_prefix("**") {
        Some(rest) => rest,
        None => pattern.strip_suffix("**").unwrap_or(pattern),
    };
    !inner.contains(['*', '?', '[', ']', '\\'])
}

/// The rest of a class, after its `[`.
fn class(chars: &mut iter::Peekable<std::str::Chars<'_>>) -> Result<Token, BadPattern> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    while ranges.is_empty() || chars.next_if_eq(&']').is_none() {
        let first = class_character(chars)?;
        let last = if chars.next_if_eq(&'-').is_some() { class_character(chars)? } else { first };
        if last < first {
            return Err(BadPattern);
        }
        ranges.push((first, last));
    }
    Ok(Token::Class { negated, ranges })
}

/// One end of a range.
fn class_character(chars: &mut iter::Peekable<std::str::Chars<'_>>) -> Result<char, BadPattern> {
    match chars.next() {
        None | Some('-' | ']') => Err(BadPattern),
        Some('\\') => chars.next().ok_or(BadPattern),
        Some(c) => Ok(c),
    }
}

/// The characters of `bytes`; each byte that is not part of valid UTF-8 is one replacement character.
fn characters(bytes: &[u8]) -> impl Iterator<Item = char> + '_ {
    bytes.utf8_chunks().flat_map(|chunk| {
        let invalid = iter::repeat_n(char::REPLACEMENT_CHARACTER, chunk.invalid().len());
        chunk.valid().chars().chain(invalid)
    })
}

/// Whether the whole of `name` matches `pattern`, as Go's `filepath.Match`: `*` and `?` stand for anything but `/`,
/// `[a-z]` and `[^a-z]` for a class, `\` takes the next character as it is.
///
/// # Errors
/// The pattern is malformed, wherever in it that is.
pub fn match_path(pattern: &str, name: &[u8]) -> Result<bool, crate::PatternError> {
    let glob = Glob::path(pattern)
        .map_err(|BadPattern| crate::PatternError::Syntax { pattern: pattern.to_owned(), line: 0 })?;
    Ok(glob.matches(name))
}

/// Whether `path` has a `*`, `?` or `[` that is not escaped.
pub fn has_wildcards(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn match_path_is_go_filepath_match() {
        let table: &[(&str, &str, Option<bool>)] = &[
            ("abc", "abc", Some(true)),
            ("*", "abc", Some(true)),
            ("*c", "abc", Some(true)),
            ("a*", "a", Some(true)),
            ("a*", "ab/c", Some(false)),
            ("a*/b", "abc/b", Some(true)),
            ("a*/b", "a/c/b", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", Some(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
            ("ab[c]", "abc", Some(true)),
            ("ab[^c]", "abc", Some(false)),
            ("ab[^b-d]", "abe", Some(true)),
            ("a\\*b", "a*b", Some(true)),
            ("a\\*b", "ab", Some(false)),
            ("a?b", "a☺b", Some(true)),
            ("a[^a]b", "a☺b", Some(true)),
            ("a???b", "a☺b", Some(false)),
            ("[a-ζ]*", "α", Some(true)),
            ("*[a-ζ]", "A", Some(false)),
            ("a?b", "a/b", Some(false)),
            ("a*b", "a/b", Some(false)),
            ("[\\]a]", "]", Some(true)),
            ("[\\-x]", "-", Some(true)),
            ("[]a]", "]", None),
            ("[-]", "-", None),
            ("[x-]", "x", None),
            ("[-x]", "x", None),
            ("[a-b-c]", "a", None),
            ("[", "a", None),
            ("[^", "a", None),
            ("[^bc", "a", None),
            ("a[", "ab", None),
            ("a[", "x", None),
            ("a/b[", "x", None),
            ("[z-a]", "b", None),
            ("\\", "a", None),
            ("*x", "xxx", Some(true)),
            ("", "", Some(true)),
            ("[!a]", "!", Some(true)),
            ("^a", "^a", Some(true)),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(match_path(pattern, name.as_bytes()).ok(), *expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn a_byte_that_is_no_utf8_is_one_character() {
        assert_eq!(match_path("a?b", b"a\xffb"), Ok(true));
        assert_eq!(match_path("a?b", b"a\xe2\x98b"), Ok(false));
        assert_eq!(match_path("a??b", b"a\xe2\x98b"), Ok(true));
    }

    #[test]
    fn wildcards_may_be_escaped() {
        for (path, expected) in
            [("a", false), ("a*", true), ("a?", true), ("[a]", true), ("a\\*", false), ("a\\\\*", true)]
        {
            assert_eq!(has_wildcards(path), expected, "{path}");
        }
    }

    #[test]
    fn many_stars_are_matched_in_no_time() {
        let pattern = "*a".repeat(50);
        let name = "a".repeat(3000) + "b";
        assert_eq!(match_path(&pattern, name.as_bytes()), Ok(false));
        let glob = Glob::moby(&"**/a*".repeat(40)).expect("valid");
        assert!(!glob.matches("a/".repeat(500).as_bytes()));
    }
}
