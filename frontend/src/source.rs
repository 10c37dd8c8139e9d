//! Where the text comes from, and places in it.

use solver::SourceLines;

/// A Dockerfile as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceFile {
    /// Its name as people are shown it (`Dockerfile`).
    pub name: String,
    /// Its text. A byte order mark and carriage returns may be there.
    pub text: String,
}

/// A range of a [`SourceFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
    /// The line of the first byte, counted from 1.
    pub first_line: u32,
    /// The line of the last byte.
    pub last_line: u32,
}

impl Span {
    /// The lines, as the graph keeps them.
    pub fn lines(self) -> SourceLines {
        SourceLines { first: self.first_line, last: self.last_line }
    }

    /// The range from the beginning of `self` to the end of `other`.
    #[must_use]
    pub fn to(self, other: Self) -> Self {
        Self {
            start: self.start,
            end: other.end.max(self.end),
            first_line: self.first_line,
            last_line: other.last_line.max(self.last_line),
        }
    }
}
