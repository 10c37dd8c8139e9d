//! The rules of `.gitignore` files against the crate `ignore`, which ripgrep uses.

use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use pattern::{GitDirectory, GitRules};
use proptest::prelude::*;

/// A file of the crate's; what it cannot read is no rule there either.
fn theirs(text: &str) -> Gitignore {
    let mut builder = GitignoreBuilder::new("");
    for line in text.lines() {
        // A malformed pattern is an error of the line alone.
        let _ = builder.add_line(None, line);
    }
    builder.build().expect("each line has been read")
}

/// Whether the path is left out by the files, of which there is one for each of its directories.
fn expected(files: &[String], parts: &[String], is_directory: bool) -> bool {
    for depth in 1..=parts.len() {
        let is_directory = is_directory || depth < parts.len();
        let verdict = (0..depth).rev().find_map(|file| {
            let text = files.get(file)?;
            let below = parts[file..depth].join("/");
            match theirs(text).matched(Path::new(&below), is_directory) {
                Match::None => None,
                Match::Ignore(_) => Some(true),
                Match::Whitelist(_) => Some(false),
            }
        });
        if verdict == Some(true) {
            return true;
        }
    }
    false
}

fn actual(files: &[String], parts: &[String], is_directory: bool) -> bool {
    let rules = |depth: usize| files.get(depth).map(|text| GitRules::parse(text.as_bytes()));
    let mut at = GitDirectory::root(rules(0));
    for (index, part) in parts.iter().enumerate() {
        let is_last = index + 1 == parts.len();
        if at.ignores(part.as_bytes(), is_directory || !is_last) {
            return true;
        }
        at = at.enter(part.as_bytes(), rules(index + 1));
    }
    false
}

fn line() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "a", "b", "ab", "*", "?", "**", "[ab]", "[!a]", "[^b]", "[a-c]", "[]b]", "[-a]", "[a", "\\a", "\\*",
        "*a", "a*", " ", "a b",
    ]);
    let parts = prop::collection::vec((part, prop::sample::select(vec!["", "/", "/", "/"])), 1..5);
    (prop::sample::select(vec!["", "", "", "!", "/", "!/", "#"]), parts).prop_map(|(start, parts)| {
        let body: String = parts.into_iter().flat_map(|(part, slash)| [part, slash]).collect();
        format!("{start}{body}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn the_same_is_left_out(
        files in prop::collection::vec(prop::collection::vec(line(), 0..4), 1..4),
        parts in prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "ba", "*", "c", "a b"]), 1..5),
        is_directory: bool,
    ) {
        let files: Vec<String> = files.into_iter().map(|lines| lines.join("\n")).collect();
        let parts: Vec<String> = parts.into_iter().map(str::to_owned).collect();
        prop_assert_eq!(actual(&files, &parts, is_directory), expected(&files, &parts, is_directory));
    }
}
