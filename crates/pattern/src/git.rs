//! The rules of `.gitignore` files, followed directory by directory. They are matched by the crate `ignore`; which files
//! there are is the walker's affair, since it must not follow what is swapped under it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// The rules of one `.gitignore` file.
#[derive(Debug, Clone)]
pub struct GitRules(Gitignore);

/// What the files in and above a directory say of its entries.
#[derive(Debug, Clone, Default)]
pub struct GitDirectory {
    /// The files, the outermost first, each with the way from it to the directory.
    files: Vec<(GitRules, PathBuf)>,
}

impl GitRules {
    /// Reads a file as git does (gitignore(5)). A malformed pattern matches nothing and is no error.
    pub fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let mut builder = GitignoreBuilder::new("");
        for line in text.lines() {
            // What cannot be read is no rule.
            let _ = builder.add_line(None, line.trim_end_matches('\r'));
        }
        Self(builder.build().unwrap_or_else(|_| Gitignore::empty()))
    }
}

impl GitDirectory {
    /// The root of a tree, with the rules of the file that is in it, if there is one.
    pub fn root(rules: Option<GitRules>) -> Self {
        Self::default().with(rules)
    }

    /// Whether the entry `name` is left out. What is below a directory that is left out is not to be asked for: no rule
    /// brings it back. `.git` is always left out.
    pub fn ignores(&self, name: &[u8], is_directory: bool) -> bool {
        // The innermost file counts, and in it the last rule.
        let said = || {
            self.files.iter().rev().find_map(|(GitRules(rules), way)| {
                match rules.matched(way.join(OsStr::from_bytes(name)), is_directory) {
                    Match::None => None,
                    Match::Ignore(_) => Some(true),
                    Match::Whitelist(_) => Some(false),
                }
            })
        };
        name == b".git" || said() == Some(true)
    }

    /// The directory `name` in this one, with the rules of the file that is in it, if there is one.
    #[must_use]
    pub fn enter(&self, name: &[u8], rules: Option<GitRules>) -> Self {
        let mut files = self.files.clone();
        for (_, way) in &mut files {
            way.push(OsStr::from_bytes(name));
        }
        Self { files }.with(rules)
    }

    fn with(mut self, rules: Option<GitRules>) -> Self {
        self.files.extend(rules.filter(|rules| !rules.0.is_empty()).map(|rules| (rules, PathBuf::new())));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ignored(files: &[(&str, &str)], path: &str) -> bool {
        let rules = |directory: &str| {
            let found = files.iter().find(|(place, _)| *place == directory);
            found.map(|(_, text)| GitRules::parse(text.as_bytes()))
        };
        let (path, is_directory) = path.strip_suffix('/').map_or((path, false), |path| (path, true));
        let mut at = GitDirectory::root(rules(""));
        let mut above = String::new();
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            let ignored = at.ignores(part.as_bytes(), is_directory || parts.peek().is_some());
            if ignored || parts.peek().is_none() {
                return ignored;
            }
            above = if above.is_empty() { part.to_owned() } else { format!("{above}/{part}") };
            at = at.enter(part.as_bytes(), rules(&above));
        }
        false
    }

    #[test]
    fn one_file() {
        let table: &[(&str, &str, &str)] = &[
            ("a", "a a/x d/a d/a/x", "b ab"),
            ("/a", "a a/x", "d/a"),
            ("a/", "a/ d/a/ a/x", "a d/a"),
            ("d/a", "d/a", "a e/d/a"),
            ("d/a/", "d/a/ d/a/x", "d/a"),
            ("*.o", "x.o d/x.o .o", "x.oo"),
            ("d/*.o", "d/x.o", "d/e/x.o x.o"),
            ("**/a/b", "a/b d/a/b d/e/a/b", "b"),
            ("a/**", "a/x a/d/x", "a a/ d/a/x"),
            ("a/**/b", "a/b a/d/b a/d/e/b", "b ab"),
            ("a**b", "ab axb d/axb", "a/b"),
            ("**", "a d/a", ""),
            ("a?c", "abc", "ac a/c"),
            ("a[^b]c", "axc", "abc a/c"),
            ("a[!b]c", "axc", "abc"),
            ("[]a-c-]", "] a b c -", "d"),
            ("d/[+-9]", "d/+ d/5", "d//"),
            ("\\#a", "#a", "a"),
            ("\\!a", "!a", "a"),
            ("a\\*", "a*", "ab"),
            ("# a", "", "a"),
            ("a  ", "a", "b"),
            ("[a", "", "a ["),
            ("a\\", "", "a"),
            ("/", "", "a"),
            ("", "", "a"),
            ("*\n!keep", "a d/a d/keep", "keep keep/"),
            ("d/\n!d/keep", "d/keep", ""),
            ("d/*\n!d/keep", "d/a", "d/keep d/"),
            ("!a\na", "a", ""),
            ("\u{feff}a\r\nb\r", "a b", "c"),
            ("", ".git .git/config d/.git", ".github .gitignore"),
            ("!.git", ".git/", ""),
        ];
        for (text, ignored, kept) in table {
            for (paths, wanted) in [(ignored, true), (kept, false)] {
                for path in paths.split(' ').filter(|path| !path.is_empty()) {
                    assert_eq!(is_ignored(&[("", text)], path), wanted, "{text:?} on {path:?}");
                }
            }
        }
        assert!(is_ignored(&[("", "a\\ ")], "a ") && !is_ignored(&[("", "a\\ ")], "a"));
    }

    #[test]
    fn files_further_in_count_more() {
        let files = [("", "*.log\nout\n/d/e/top\n"), ("d", "!keep.log\n/own\nout/x\n"), ("d/e", "!top\n")];
        for (path, wanted) in [
            ("keep.log", true),
            ("d/keep.log", false),
            ("d/e/keep.log", false),
            ("d/other.log", true),
            ("own", false),
            ("d/own", true),
            ("d/e/own", false),
            ("d/e/top", false),
            ("d/out/x", true),
        ] {
            assert_eq!(is_ignored(&files, path), wanted, "{path}");
        }
    }
}
