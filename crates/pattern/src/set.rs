//! An ordered list of patterns, matched directory by directory.

use crate::glob::{BadPattern, Glob, States};
use crate::{PatternError, clean};

/// An ordered list of patterns. A path is matched if the last pattern that matches it or one of the directories
/// above it is not a negated one (`!`).
#[derive(Debug, Clone, Default)]
pub struct PatternSet {
    patterns: Vec<Pattern>,
}

/// One pattern of a set.
#[derive(Debug, Clone)]
struct Pattern {
    /// Whether it begins with `!`.
    negated: bool,
    /// Whether it says that it matches all there is: `*`, `**` or `**/*`.
    is_universal: bool,
    glob: Glob,
}

/// How far the patterns of a set have come at a directory.
#[derive(Debug, Clone)]
pub struct Directory {
    /// For each pattern.
    progress: Vec<Progress>,
}

/// How far one pattern has come at a directory.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// Whether it matched the directory or one above it.
    matched: bool,
    /// The states after the directory's path and a slash; empty if nothing below can match.
    states: States,
}

/// What a set says of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the path is matched.
    pub matched: bool,
}

impl PatternSet {
    /// The patterns of an ignore file. A byte order mark is dropped; lines that begin with `#` and blank lines
    /// count for nothing; spaces around a pattern and its leading slash are dropped; paths are cleaned.
    ///
    /// # Errors
    /// A malformed pattern, with its line.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut patterns = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let line = line.trim();
            let (negated, body) = match line.strip_prefix('!') {
                Some(body) => ("!", body.trim()),
                None => ("", line),
            };
            let body = if body.is_empty() { String::new() } else { clean(body) };
            let body = if body.len() > 1 { body.trim_start_matches('/') } else { &body };
            patterns.extend(Pattern::new(&format!("{negated}{body}"), index + 1)?);
        }
        Ok(Self { patterns })
    }

    /// Patterns that stand alone, as those of `--exclude`: spaces around them are dropped and paths are cleaned; a
    /// leading slash stays, so that such a pattern matches nothing.
    ///
    /// # Errors
    /// A malformed pattern.
    pub fn new<P: AsRef<str>>(patterns: &[P]) -> Result<Self, PatternError> {
        let mut set = Self::default();
        for pattern in patterns {
            set.patterns.extend(Pattern::new(pattern.as_ref(), 0)?);
        }
        Ok(set)
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether one of the patterns brings something back (`!`).
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.negated)
    }

    /// Whether one of the patterns says that it matches all there is: `*`, `**` or `**/*`.
    pub fn is_universal(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.is_universal)
    }

    /// The root of a tree.
    pub fn root(&self) -> Directory {
        let progress =
            self.patterns.iter().map(|pattern| Progress { matched: false, states: pattern.glob.start() });
        Directory { progress: progress.collect() }
    }

    /// What the set says of the entry `name` of `directory`.
    pub fn check(&self, directory: &Directory, name: &[u8]) -> Verdict {
        self.walk(directory, name, &mut |_, _| {})
    }

    /// The same, with what is needed to go on below `name`, which is a directory.
    pub fn enter(&self, directory: &Directory, name: &[u8]) -> (Verdict, Directory) {
        let mut progress = vec![Progress::default(); self.patterns.len()];
        let verdict = self.walk(directory, name, &mut |index, matched| {
            progress[index].matched = matched;
        });
        let mut scratch = States::new();
        for ((pattern, before), after) in self.patterns.iter().zip(&directory.progress).zip(&mut progress) {
            if before.states.is_empty() {
                continue;
            }
            after.states.clone_from(&before.states);
            pattern.glob.advance(&mut after.states, name, &mut scratch);
            pattern.glob.advance(&mut after.states, b"/", &mut scratch);
        }
        (verdict, Directory { progress })
    }

    /// Asks each pattern in turn.
    ///
    /// A pattern that could not change the verdict is not asked, and then does not count as matched for what is
    /// below either: that is what the peers do when they walk, and it shows in sets such as `a`, `!a/b`, `a*`.
    fn walk(&self, directory: &Directory, name: &[u8], report: &mut dyn FnMut(usize, bool)) -> Verdict {
        let mut verdict = false;
        let mut states = States::new();
        let mut scratch = States::new();
        for (index, (pattern, before)) in self.patterns.iter().zip(&directory.progress).enumerate() {
            let mut matched = before.matched;
            if !matched && pattern.negated == verdict && !before.states.is_empty() {
                states.clone_from(&before.states);
                pattern.glob.advance(&mut states, name, &mut scratch);
                matched = pattern.glob.is_match(&states);
            }
            if matched {
                verdict = !pattern.negated;
            }
            report(index, matched);
        }
        Verdict { matched: verdict }
    }

    /// What the set says of `path`, relative to the root. The root itself (`.` or the empty path) is never matched.
    pub fn matches(&self, path: &[u8]) -> bool {
        let mut parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
        let Some(mut name) = parts.next() else { return false };
        let mut directory = self.root();
        for next in parts {
            directory = self.enter(&directory, name).1;
            name = next;
        }
        self.check(&directory, name).matched
    }

    /// Whether anything below `directory` may be matched.
    pub fn may_match_below(&self, directory: &Directory) -> bool {
        self.any(directory, false)
    }

    /// Whether a negated pattern may match anything below `directory`. If not, all that is below a matched directory
    /// is matched.
    pub fn may_be_negated_below(&self, directory: &Directory) -> bool {
        self.any(directory, true)
    }

    /// Whether a pattern of one kind has matched `directory` or may match below it.
    fn any(&self, directory: &Directory, negated: bool) -> bool {
        let mut both = self.patterns.iter().zip(&directory.progress);
        both.any(|(pattern, progress)| {
            pattern.negated == negated && (progress.matched || !progress.states.is_empty())
        })
    }
}

impl Pattern {
    /// Compiles a pattern; `None` for a blank one.
    fn new(text: &str, line: usize) -> Result<Option<Self>, PatternError> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let cleaned = clean(text);
        let (negated, body) = match cleaned.strip_prefix('!') {
            Some("") => return Err(PatternError::LoneExclusion { line }),
            Some(body) => (true, body),
            None => (false, cleaned.as_str()),
        };
        let glob =
            Glob::moby(body).map_err(|BadPattern| PatternError::Syntax { pattern: text.to_owned(), line })?;
        let is_universal = !negated && matches!(body, "*" | "**" | "**/*");
        Ok(Some(Self { negated, is_universal, glob }))
    }
}
