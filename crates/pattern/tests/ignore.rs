//! Ignore files and lists of patterns, one row per behaviour.

use pattern::{PatternError, PatternSet};

/// Which of `paths` the ignore file `text` leaves out.
fn matched<'a>(text: &str, paths: &[&'a str]) -> Vec<&'a str> {
    let set = PatternSet::parse(text).expect("a valid ignore file");
    paths.iter().copied().filter(|path| set.matches(path.as_bytes())).collect()
}

#[test]
fn ignore_files_leave_out_what_moby_leaves_out() {
    let tree =
        &["a.txt", "b.md", "sub", "sub/a.txt", "sub/deep", "sub/deep/a.txt", "sub/deep/c", "tmp", "tmp/x"];
    let table: &[(&str, &[&str])] = &[
        ("", &[]),
        ("a.txt\ntmp\n", &["a.txt", "tmp", "tmp/x"]),
        ("/a.txt\n/sub/deep/\n", &["a.txt", "sub/deep", "sub/deep/a.txt", "sub/deep/c"]),
        ("*.txt\n*/a.txt\n", &["a.txt", "sub/a.txt"]),
        ("**/a.txt\n", &["a.txt", "sub/a.txt", "sub/deep/a.txt"]),
        (
            "**\n!sub/deep/c\n",
            &["a.txt", "b.md", "sub", "sub/a.txt", "sub/deep", "sub/deep/a.txt", "tmp", "tmp/x"],
        ),
        ("*\n!a.txt\n!sub/deep\n", &["b.md", "sub", "sub/a.txt", "tmp", "tmp/x"]),
        ("sub/**\n", &["sub/a.txt", "sub/deep", "sub/deep/a.txt", "sub/deep/c"]),
        ("s**c\n", &["sub/deep/c"]),
        ("**deep\n", &["sub/deep", "sub/deep/a.txt", "sub/deep/c"]),
        ("**eep\n", &["sub/deep", "sub/deep/a.txt", "sub/deep/c"]),
        ("**ee?\n", &[]),
        ("sub/**/a.txt\n", &["sub/a.txt", "sub/deep/a.txt"]),
        ("?.md\n", &["b.md"]),
        ("[a-c].*\n", &["a.txt", "b.md"]),
        ("[^a].*\n", &["b.md"]),
        ("  tmp  \n", &["tmp", "tmp/x"]),
        ("# a\n\n   \n  # b\ntmp\n", &["tmp", "tmp/x"]),
        ("\u{feff}a.txt\r\nb.md\r\n", &["a.txt", "b.md"]),
        ("./tmp/../b.md\n", &["b.md"]),
        ("! tmp\nt*\n! /tmp/x", &["tmp"]),
        ("A.TXT\n", &[]),
        (".\n", &[]),
        ("/\n", &[]),
        ("..\n", &[]),
        ("a\\.txt\n", &["a.txt"]),
    ];
    for (text, expected) in table {
        assert_eq!(matched(text, tree), *expected, "{text:?}");
    }
}

#[test]
fn the_last_pattern_that_matches_decides() {
    let names = &["README-secret.md", "README.md", "a.md", "b.txt"];
    assert_eq!(matched("*.md\n!README*.md\nREADME-secret.md\n", names), ["README-secret.md", "a.md"]);
    assert_eq!(matched("*.md\nREADME-secret.md\n!README*.md\n", names), ["a.md"]);
}

#[test]
fn a_comment_begins_in_the_first_column() {
    assert_eq!(matched("#b\n #c\nd#\n", &["#b", "#c", "d#"]), ["#c", "d#"]);
}

#[test]
fn a_pattern_that_was_skipped_at_a_directory_does_not_count_below_it() {
    assert_eq!(matched("a\n!a/b\na*\n", &["a", "a/b", "a/c"]), ["a", "a/c"]);
}

#[test]
fn a_caret_is_the_beginning_beside_wildcards_and_a_character_elsewhere() {
    assert_eq!(matched("a^b\n", &["a^b"]), ["a^b"]);
    assert_eq!(matched("a^*\n^c*\n", &["a^b", "cd", "^cd"]), ["cd"]);
}

#[test]
fn malformed_patterns_are_told_with_their_line() {
    let syntax = |pattern: &str, line| PatternError::Syntax { pattern: pattern.to_owned(), line };
    let table = [
        ("a\n[a\n", syntax("[a", 2)),
        ("[]a]", syntax("[]a]", 1)),
        ("a\n\n!x[\n", syntax("!x[", 3)),
        ("[z-a]", syntax("[z-a]", 1)),
        ("# c\na\\\n", syntax("a\\", 2)),
        ("a\n!\n", PatternError::LoneExclusion { line: 2 }),
        ("! \n", PatternError::LoneExclusion { line: 1 }),
        ("!/", PatternError::LoneExclusion { line: 1 }),
    ];
    for (text, expected) in table {
        let error = PatternSet::parse(text).expect_err(text);
        assert_eq!(error, expected);
        assert!(error.line().is_some());
    }
    let error = PatternSet::new(&["ok", "[a"]).expect_err("malformed");
    assert_eq!(error, syntax("[a", 0));
    assert_eq!(error.to_string(), "syntax error in pattern `[a`");
    assert_eq!(error.line(), None);
}

#[test]
fn patterns_of_exclude_keep_their_leading_slash() {
    let set = PatternSet::new(&["/a", " b/ ", "", "!b/c"]).expect("valid");
    let matched = |path: &str| set.matches(path.as_bytes());
    assert_eq!(["a", "b", "b/c", "b/d"].map(matched), [false, true, false, true]);
}

#[test]
fn directories_are_pruned_unless_a_negation_may_match_below() {
    let set = PatternSet::parse("vendor\n!vendor/keep/*.c\nnode_modules\n").expect("valid");
    let below = |name: &str| {
        let (verdict, directory) = set.enter(&set.root(), name.as_bytes());
        (verdict.matched, set.may_be_negated_below(&directory), set.may_match_below(&directory))
    };
    assert_eq!(below("vendor"), (true, true, true));
    assert_eq!(below("node_modules"), (true, false, true));
    assert_eq!(below("src"), (false, false, false));
    let vendor = set.enter(&set.root(), b"vendor").1;
    assert!(!set.may_be_negated_below(&set.enter(&vendor, b"other").1));
    assert!(set.may_be_negated_below(&set.enter(&vendor, b"keep").1));
}

#[test]
fn sets_tell_what_they_hold() {
    let set = |text| PatternSet::parse(text).expect("the patterns are right");
    assert!(!set("a\nb*").has_exceptions() && set("a\n!b").has_exceptions());
    for text in ["*", "a\n**", "/**/*"] {
        assert!(set(text).is_universal(), "{text}");
    }
    assert!(!set("a*\n*/b\n!**").is_universal());
}
