//! The first layer of the parser: lines of a file become logical lines, one per instruction.

use std::collections::HashMap;
use std::ops::Range;

use crate::diagnostic::Phase;
use crate::directive::{DirectiveReader, Directives};
use crate::heredoc::Heredoc;
use crate::tree::{EmptyContinuation, Token};
use crate::{Diagnostic, Span};

/// The longest physical line, in bytes without its end.
const MAX_LINE_BYTES: usize = 65535;

/// One instruction with its continuation lines joined.
#[derive(Debug, Default)]
pub(crate) struct LogicalLine {
    /// The joined text, without comments, leading blanks and escapes at line ends.
    pub(crate) text: String,
    /// Everything from the first to the last physical line, here-documents included.
    pub(crate) span: Span,
    /// The comments above it, nearest last; blank lines between do not matter, an empty comment ends them.
    pub(crate) comments: Vec<Token>,
    pieces: Vec<Piece>,
    fixed: bool,
}

/// Where a part of a logical line's text comes from.
#[derive(Debug)]
struct Piece {
    at: usize,
    source: usize,
    line: u32,
}

impl LogicalLine {
    /// The place of a range of [`LogicalLine::text`] in the file.
    pub(crate) fn span_of(&self, range: &Range<usize>) -> Span {
        if self.fixed {
            return self.span;
        }
        let (start, first_line) = self.locate(range.start);
        let (end, last_line) = if range.end > range.start {
            let (last, line) = self.locate(range.end - 1);
            (last + 1, line)
        } else {
            (start, first_line)
        };
        Span { start, end, first_line, last_line }
    }

    fn locate(&self, at: usize) -> (usize, u32) {
        let next = self.pieces.partition_point(|piece| piece.at <= at);
        match next.checked_sub(1).and_then(|index| self.pieces.get(index)) {
            Some(piece) => (piece.source + (at - piece.at), piece.line),
            None => (self.span.start, self.span.first_line),
        }
    }
}

/// A physical line without its end.
#[derive(Clone, Copy)]
struct PhysicalLine<'a> {
    text: &'a str,
    start: usize,
    number: u32,
}

/// Reads logical lines.
pub(crate) struct LineReader<'a> {
    text: &'a str,
    at: usize,
    number: u32,
    fixed: Option<Span>,
    directives: DirectiveReader,
    comments: Vec<Token>,
    /// Where each line begins, by its text, of several the last; made when it is first asked for.
    index: Option<HashMap<&'a str, usize>>,
    /// What is wrong with the lines.
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// The instructions that are continued over blank lines.
    pub(crate) empty_continuations: Vec<EmptyContinuation>,
}

impl<'a> LineReader<'a> {
    /// Reads a file.
    pub(crate) fn new(text: &'a str) -> Self {
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self {
            text,
            at,
            number: 0,
            fixed: None,
            directives: DirectiveReader::default(),
            comments: Vec::new(),
            index: None,
            diagnostics: Vec::new(),
            empty_continuations: Vec::new(),
        }
    }

    /// Reads a text that stands for something else: everything in it is said to be at `place`.
    pub(crate) fn at_place(text: &'a str, place: Span) -> Self {
        Self { fixed: Some(place), directives: DirectiveReader::finished(), ..Self::new(text) }
    }

    /// The escape character; known once the first logical line has been read.
    pub(crate) fn escape(&self) -> char {
        self.directives.directives.escape
    }

    /// The directives, at the end.
    pub(crate) fn into_directives(self) -> Directives {
        self.directives.directives
    }

    /// The place of the end of the file: its last line.
    pub(crate) fn last_line(&self) -> Span {
        let start = self.text.trim_end_matches(['\r', '\n']).rfind('\n').map_or(0, |at| at + 1);
        let number = self.number.max(1);
        Span { start, end: self.text.len(), first_line: number, last_line: number }
    }

    fn next_physical(&mut self) -> Option<PhysicalLine<'a>> {
        let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        let length = rest.find('\n').map_or(rest.len(), |end| end + 1);
        let raw = &rest[..length];
        let start = self.at;
        self.at += length;
        self.number = self.number.saturating_add(1);
        let text = raw.trim_end_matches(['\r', '\n']);
        let line = PhysicalLine { text, start, number: self.number };
        if line.text.len() > MAX_LINE_BYTES {
            let span = self.span_of_line(line);
            let message = format!("dockerfile line greater than max allowed size of {MAX_LINE_BYTES}");
            self.diagnostics.push(Diagnostic::error("line-too-long", span, message).in_phase(Phase::Lines));
        }
        Some(line)
    }

    fn span_of_line(&self, line: PhysicalLine<'_>) -> Span {
        self.fixed.unwrap_or(Span {
            start: line.start,
            end: line.start + line.text.len(),
            first_line: line.number,
            last_line: line.number,
        })
    }

    /// The next instruction.
    pub(crate) fn next_logical(&mut self) -> Option<LogicalLine> {
        loop {
            let line = self.next_physical()?;
            let trimmed = line.text.trim_start();
            let span = self.span_of_line(line);
            let is_directive = self.directives.read(line.text, span).unwrap_or_else(|diagnostic| {
                self.diagnostics.push(diagnostic.in_phase(Phase::Lines));
                true
            });
            let skipped = line.text.len() - trimmed.len();
            if let Some(comment) = trimmed.strip_prefix('#') {
                if !is_directive {
                    self.add_comment(comment, line.start + skipped + 1, span);
                }
                continue;
            }
            if trimmed.is_empty() {
                continue;
            }
            // One that says that it goes on is an instruction even if nothing follows.
            let mut logical = self.join(line, skipped, span);
            logical.comments = std::mem::take(&mut self.comments);
            return Some(logical);
        }
    }

    fn add_comment(&mut self, text: &str, start: usize, line: Span) {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            self.comments.clear();
            return;
        }
        let start = start + (text.len() - text.trim_start().len());
        let span = self.fixed.unwrap_or(Span { start, end: start + trimmed.len(), ..line });
        self.comments.push(Token { text: trimmed.to_owned(), span });
    }

    fn join(&mut self, first: PhysicalLine<'a>, skipped: usize, span: Span) -> LogicalLine {
        let escape = self.escape();
        let mut logical = LogicalLine { span, fixed: self.fixed.is_some(), ..LogicalLine::default() };
        let (text, mut goes_on) = without_continuation(&first.text[skipped..], escape);
        logical.pieces.push(Piece { at: 0, source: first.start + skipped, line: first.number });
        logical.text.push_str(text);
        let mut blank_lines = Vec::new();
        let mut last_line = span;
        while goes_on {
            let Some(next) = self.next_physical() else { break };
            last_line = self.span_of_line(next);
            logical.span = logical.span.to(last_line);
            let trimmed = next.text.trim_start();
            if trimmed.is_empty() {
                blank_lines.push(Span { end: self.at, ..last_line });
            }
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let (text, more) = without_continuation(next.text, escape);
            let at = logical.text.len();
            logical.pieces.push(Piece { at, source: next.start, line: next.number });
            logical.text.push_str(text);
            goes_on = more;
        }
        if !blank_lines.is_empty() {
            self.empty_continuations.push(EmptyContinuation { last_line, blank_lines });
        }
        logical
    }

    /// Drops here-documents that an instruction only seems to announce: `$((1 << n))` looks like one, which shows in
    /// that its last line never comes; and COPY splits its words at the blanks.
    pub(crate) fn retain_announced(&mut self, keyword: &str, heredocs: &mut Vec<Heredoc>) {
        let is_line = matches!(keyword, "RUN" | "ONBUILD");
        heredocs.retain(|heredoc| !heredoc.is_spaced || (is_line && self.has_line(&heredoc.name)));
    }

    /// Whether a line of that text is still to come.
    fn has_line(&mut self, text: &str) -> bool {
        let all = self.text;
        let index = self.index.get_or_insert_with(|| {
            let mut at = 0;
            let lines = all.split_inclusive('\n').map(|line| {
                let start = at;
                at += line.len();
                (line.trim_end_matches(['\r', '\n']), start)
            });
            lines.collect()
        });
        index.get(text).is_some_and(|start| *start >= self.at)
    }

    /// Reads the bodies of the here-documents that a line announces, in order.
    pub(crate) fn read_bodies(&mut self, line: &mut LogicalLine, heredocs: &mut [Heredoc]) {
        for heredoc in heredocs {
            let start = self.at;
            let end = loop {
                let before = self.at;
                let Some(next) = self.next_physical() else {
                    let message = format!("unterminated heredoc: no line `{}` follows", heredoc.name);
                    let diagnostic = Diagnostic::error("unterminated-heredoc", line.span, message);
                    self.diagnostics.push(diagnostic.in_phase(Phase::Lines));
                    break self.at;
                };
                line.span = line.span.to(self.span_of_line(next));
                let tabs_cut = next.text.trim_start_matches('\t');
                let candidate = if heredoc.strip_tabs { tabs_cut } else { next.text };
                if candidate == heredoc.name {
                    break before;
                }
            };
            self.text[start..end].clone_into(&mut heredoc.content);
        }
    }
}

/// The line without the escape character that ends it, and whether there was one. Two escape characters at the end
/// are content.
fn without_continuation(line: &str, escape: char) -> (&str, bool) {
    let blanks_cut = line.trim_end_matches([' ', '\t']);
    match blanks_cut.strip_suffix(escape) {
        Some(before) if !before.ends_with(escape) => (before, true),
        _ => (line, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text, first and last line of each.
    type Lines = &'static [(&'static str, u32, u32)];

    fn lines(text: &str) -> Vec<(String, u32, u32)> {
        let mut reader = LineReader::new(text);
        let mut found = Vec::new();
        while let Some(line) = reader.next_logical() {
            found.push((line.text, line.span.first_line, line.span.last_line));
        }
        assert_eq!(reader.diagnostics, []);
        found
    }

    #[test]
    fn continuations_are_joined_without_comments_and_blank_lines() {
        let rows: [(&str, Lines); 8] = [
            ("A b\nC d", &[("A b", 1, 1), ("C d", 2, 2)]),
            ("\u{feff}  A b\r\n\r\nC d\r\n", &[("A b", 1, 1), ("C d", 3, 3)]),
            ("A b \\\n# x\n\n  c \\  \n d\nE", &[("A b   c  d", 1, 5), ("E", 6, 6)]),
            ("A b\\\\\nC", &[("A b\\\\", 1, 1), ("C", 2, 2)]),
            ("A b \\", &[("A b ", 1, 1)]),
            ("# escape=`\nA b `\nc \\\nD", &[("A b c \\", 2, 3), ("D", 4, 4)]),
            ("\\\n\nA", &[("A", 1, 3)]),
            ("A\n\\\n\n", &[("A", 1, 1), ("", 2, 3)]),
        ];
        for (text, wanted) in rows {
            let wanted: Vec<_> = wanted.iter().map(|(t, a, b)| ((*t).to_owned(), *a, *b)).collect();
            assert_eq!(lines(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn places_lead_back_into_the_file() {
        let text = "  RUN one \\\n  # remark\n  two";
        let line = LineReader::new(text).next_logical().unwrap();
        let at = line.text.find("two").unwrap();
        let span = line.span_of(&(at..at + 3));
        assert_eq!((&text[span.start..span.end], span.first_line, span.last_line), ("two", 3, 3));
        let across = line.span_of(&(0..at + 3));
        assert_eq!((across.first_line, across.last_line), (1, 3));
    }

    #[test]
    fn a_line_that_is_too_long_is_told() {
        let text = format!("RUN {}\nRUN b", "x".repeat(MAX_LINE_BYTES));
        let mut reader = LineReader::new(&text);
        assert_eq!(std::iter::from_fn(|| reader.next_logical()).count(), 2);
        assert_eq!(reader.diagnostics[0].code, "line-too-long");
    }
}
