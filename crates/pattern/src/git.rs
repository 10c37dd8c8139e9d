//! The rules of `.gitignore` files, followed directory by directory.

use std::sync::Arc;

use crate::glob::{Glob, States};

/// The rules of one `.gitignore` file.
#[derive(Debug, Default)]
pub struct GitRules {
    rules: Vec<Rule>,
}

/// One line of a file.
#[derive(Debug)]
struct Rule {
    /// Whether it begins with `!`.
    negated: bool,
    /// Whether it ends with a slash.
    directories_only: bool,
    glob: Glob,
}

/// What the files in and above a directory say of its entries.
#[derive(Debug, Clone, Default)]
pub struct GitDirectory {
    /// The outermost first.
    files: Vec<Progress>,
}

/// How far the rules of a file have come at a directory.
#[derive(Debug, Clone)]
struct Progress {
    rules: Arc<GitRules>,
    /// For each rule; empty if nothing below can match.
    states: Vec<States>,
}

impl GitRules {
    /// Reads a file as git does: the last rule that matches counts; a rule without a slash (but at its end) is for
    /// entries at any depth, others are for paths from the directory of the file on; a slash at the end is for
    /// directories alone; `**` stands for any number of directories; `!` takes back; `\` makes the next character an
    /// ordinary one. White space at the end of a line counts only behind a backslash. A malformed pattern matches
    /// nothing and is no error. Named classes (`[[:alpha:]]`) are not known.
    pub fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        Self { rules: text.lines().filter_map(Rule::parse).collect() }
    }
}

impl Rule {
    fn parse(line: &str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let line = if line.ends_with("\\ ") { line } else { line.trim_end() };
        let (negated, line) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest));
        let (rooted, line) = line.strip_prefix('/').map_or((false, line), |rest| (true, rest));
        let (directories_only, line) = line.strip_suffix('/').map_or((false, line), |rest| (true, rest));
        if line.is_empty() {
            return None;
        }
        let anywhere = if rooted || line.contains('/') { "" } else { "**/" };
        // What ends so is for all that is in the directory, not for the directory.
        let inside = if line == "**" || line.ends_with("/**") { "/*" } else { "" };
        let glob = Glob::git(&format!("{anywhere}{line}{inside}")).ok()?;
        Some(Self { negated, directories_only, glob })
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
        let mut scratch = States::new();
        let mut matches = |rule: &Rule, states: &States| {
            let mut states = states.clone();
            rule.glob.advance(&mut states, name, &mut scratch);
            rule.glob.is_match(&states)
        };
        if name == b".git" {
            return true;
        }
        // The innermost file counts, and in it the last rule.
        for Progress { rules, states } in self.files.iter().rev() {
            for (rule, states) in rules.rules.iter().zip(states).rev() {
                let may_match = !states.is_empty() && (is_directory || !rule.directories_only);
                if may_match && matches(rule, states) {
                    return !rule.negated;
                }
            }
        }
        false
    }

    /// The directory `name` in this one, with the rules of the file that is in it, if there is one.
    #[must_use]
    pub fn enter(&self, name: &[u8], rules: Option<GitRules>) -> Self {
        let mut scratch = States::new();
        let mut files = self.files.clone();
        for Progress { rules, states } in &mut files {
            for (rule, states) in rules.rules.iter().zip(states) {
                rule.glob.advance(states, name, &mut scratch);
                rule.glob.advance(states, b"/", &mut scratch);
            }
        }
        files.retain(|file| file.states.iter().any(|states| !states.is_empty()));
        Self { files }.with(rules)
    }

    fn with(mut self, rules: Option<GitRules>) -> Self {
        if let Some(rules) = rules.filter(|rules| !rules.rules.is_empty()) {
            let states = rules.rules.iter().map(|rule| rule.glob.start()).collect();
            self.files.push(Progress { rules: Arc::new(rules), states });
        }
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
