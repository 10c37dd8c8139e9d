//! Path patterns as moby matches them: `.dockerignore`, `--exclude`, the wildcards of COPY and ADD. And those of git:
//! `.gitignore`.
//!
//! [`PatternSet`] is an ordered list of patterns of which some bring back what earlier ones matched (`!`); a walker
//! asks it directory by directory and learns where it need not descend. [`GitDirectory`] is the same for `.gitignore`
//! files, of which any directory may have one. [`match_path`] is Go's `filepath.Match`.
//!
//! Paths are bytes, relative to the root of the tree, with `/` between their parts. A byte that is not part of valid
//! UTF-8 counts as one character.
//!
//! What is deliberately absent: files (callers walk and read), Windows separators. An escaped letter is
//! that letter (`\d` is `d`); in moby the regular expression behind a pattern shines through there.

mod clean;
mod git;
mod glob;
mod set;

pub use clean::clean;
pub use git::{GitDirectory, GitRules};
pub use glob::{has_wildcards, match_path};
pub use set::{Directory, PatternSet, Verdict};

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Brackets that do not close, an empty class, a range that runs backwards or a backslash at the end.
    #[error("syntax error in pattern `{pattern}`")]
    Syntax {
        /// The pattern.
        pattern: String,
        /// Its line in the ignore file, counted from 1; 0 where it does not come from a file.
        line: usize,
    },
    /// A `!` with nothing after it.
    #[error("illegal exclusion pattern: `!`")]
    LoneExclusion {
        /// Its line in the ignore file, counted from 1; 0 where it does not come from a file.
        line: usize,
    },
}

impl PatternError {
    /// The line of the ignore file, counted from 1, if the pattern comes from one.
    pub fn line(&self) -> Option<usize> {
        let (Self::Syntax { line, .. } | Self::LoneExclusion { line }) = self;
        Some(*line).filter(|line| *line > 0)
    }
}
