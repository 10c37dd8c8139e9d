//! The matcher against a slow one that makes a regular expression of each pattern, by the rules of moby's, and asks
//! every pattern about every directory on the way.

use pattern::PatternSet;
use proptest::prelude::*;
use regex::Regex;

/// A pattern as moby sees it.
enum Oracle {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Regex(Regex),
}

impl Oracle {
    fn new(pattern: &str) -> Self {
        let mut text = String::from("^");
        let mut kind = 'e';
        let mut chars = pattern.chars().peekable();
        let mut first = true;
        while let Some(c) = chars.next() {
            match c {
                '*' if chars.next_if_eq(&'*').is_some() => {
                    chars.next_if_eq(&'/');
                    if chars.peek().is_some() {
                        text.push_str("(.*/)?");
                        kind = 'r';
                    } else if kind == 'e' {
                        kind = 'p';
                    } else {
                        text.push_str(".*");
                        kind = 'r';
                    }
                    if first {
                        kind = 's';
                    }
                }
                '*' | '?' => {
                    text.push_str(if c == '*' { "[^/]*" } else { "[^/]" });
                    kind = 'r';
                }
                '\\' => {
                    text.push_str(&regex::escape(&chars.next().expect("valid").to_string()));
                    kind = 'r';
                }
                '[' | ']' => {
                    text.push(c);
                    kind = 'r';
                }
                '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => text.extend(['\\', c]),
                c => text.push(c),
            }
            first = false;
        }
        match kind {
            'e' => Self::Exact(pattern.to_owned()),
            'p' => Self::Prefix(pattern[..pattern.len() - 2].to_owned()),
            's' => Self::Suffix(pattern[2..].to_owned()),
            _ => Self::Regex(Regex::new(&format!("{text}$")).expect("a valid expression")),
        }
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(text) => path == text,
            Self::Prefix(prefix) => path.starts_with(prefix),
            Self::Suffix(suffix) => {
                path.ends_with(suffix) || suffix.strip_prefix('/').is_some_and(|name| name == path)
            }
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

/// Whether `patterns` match `path`, walking down to it.
fn oracle(patterns: &[String], path: &str) -> bool {
    let patterns: Vec<(bool, Oracle)> = patterns
        .iter()
        .map(|pattern| match pattern.strip_prefix('!') {
            Some(body) => (true, Oracle::new(body)),
            None => (false, Oracle::new(pattern)),
        })
        .collect();
    let mut above = vec![false; patterns.len()];
    let mut verdict = false;
    let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
    for end in ends {
        verdict = false;
        for ((negated, pattern), matched) in patterns.iter().zip(&mut above) {
            if !*matched && *negated == verdict {
                *matched = pattern.matches(&path[..end]);
            }
            if *matched {
                verdict = !negated;
            }
        }
    }
    verdict
}

fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "a", "b", "c", ".", "é", "^", "*", "**", "?", "[ab]", "[^b]", "[a-c]", "\\a", "\\*", "]", "+", "(",
        "$", "-",
    ])
}

/// Patterns that are clean and valid.
fn pattern() -> impl Strategy<Value = String> {
    let part = prop::collection::vec(piece(), 1..4)
        .prop_map(|pieces| pieces.concat())
        .prop_filter("cleaning would change it", |part| part != "." && part != "..");
    (any::<bool>(), prop::collection::vec(part, 1..4))
        .prop_map(|(negated, parts)| format!("{}{}", if negated { "!" } else { "" }, parts.join("/")))
}

fn path() -> impl Strategy<Value = String> {
    let part =
        prop::collection::vec(prop::sample::select(vec!["a", "b", "c", ".", "é", "^", "*", "]", "+"]), 1..4)
            .prop_map(|pieces| pieces.concat())
            .prop_filter("not a name", |part| part != "." && part != "..");
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_matcher_agrees_with_the_oracle(
        patterns in prop::collection::vec(pattern(), 1..5),
        paths in prop::collection::vec(path(), 1..8),
    ) {
        let set = PatternSet::new(&patterns).expect("valid");
        for path in &paths {
            prop_assert_eq!(set.matches(path.as_bytes()), oracle(&patterns, path), "{:?} on {}", patterns, path);
        }
    }

    #[test]
    fn nothing_is_pruned_that_may_change_below(
        patterns in prop::collection::vec(pattern(), 1..5),
        above in path(),
        below in path(),
    ) {
        let set = PatternSet::new(&patterns).expect("valid");
        let mut directory = set.root();
        let mut verdict = false;
        for name in above.split('/') {
            let (next, entered) = set.enter(&directory, name.as_bytes());
            (verdict, directory) = (next.matched, entered);
        }
        let inside = set.matches(format!("{above}/{below}").as_bytes());
        if verdict && !set.may_be_negated_below(&directory) {
            prop_assert!(inside);
        }
        if !verdict && !set.may_match_below(&directory) {
            prop_assert!(!inside);
        }
    }
}
