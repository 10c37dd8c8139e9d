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

/// A place in a [`SourceFile`], for people and editors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Bytes before it.
    pub offset: usize,
    /// Its line, counted from 1.
    pub line: usize,
    /// Its character in the line, counted from 1.
    pub column: usize,
}

impl SourceFile {
    /// Where a byte is. One beyond the text counts as its end, one within a character as that character.
    pub fn position(&self, offset: usize) -> Position {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
        Position { offset, line, column: 1 + before[line_start..].chars().count() }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters() {
        let file = SourceFile { name: "Dockerfile".to_owned(), text: "FROM é\r\nRUN x".to_owned() };
        let at = |offset| {
            let Position { offset, line, column } = file.position(offset);
            (offset, line, column)
        };
        assert_eq!(at(0), (0, 1, 1));
        assert_eq!(at(5), (5, 1, 6));
        assert_eq!(at(6), (5, 1, 6));
        assert_eq!(at(7), (7, 1, 7));
        assert_eq!(at(9), (9, 2, 1));
        assert_eq!(at(99), (14, 2, 6));
    }
}
