//! What changes in the lines of an instruction.

use std::ops::Range;

use super::LINE_END;
use super::parts::{PartKind, Parts};
use crate::Span;
use crate::lines::LogicalLine;

/// What continuation lines begin with.
const INDENTATION: &str = "    ";

/// A range of the file, and what stands there instead.
pub(super) struct Edit {
    range: Range<usize>,
    text: String,
}

/// The lines of an instruction as they are after `edits`, which come in order and do not overlap.
pub(super) fn apply(source: &str, line: &LogicalLine, edits: &[Edit]) -> String {
    let mut text = String::with_capacity(line.span.end - line.span.start);
    let mut at = line.span.start;
    for edit in edits {
        text.push_str(&source[at..edit.range.start]);
        text.push_str(&edit.text);
        at = edit.range.end;
    }
    text.push_str(&source[at..line.span.end]);
    text
}

/// The edits of an instruction, whose here-documents `line` does not have yet. There are none where a keyword is
/// broken over lines, or does not begin on the first: nobody can say what that should become.
pub(super) fn of_instruction(source: &str, line: &LogicalLine, parts: &Parts, escape: char) -> Vec<Edit> {
    let places = Places(parts.list.iter().map(|part| (part.kind, line.span_of(&part.range))).collect());
    let mut editor = Editor { source, escape, indentation: places.indentation(), edits: Vec::new() };
    let mut before: Option<Span> = None;
    for (kind, place) in &places.0 {
        match before {
            Some(before) => editor.edit_gap(before, *place),
            None if place.first_line == line.span.first_line => {
                editor.replace(line.span.start..place.start, "");
            }
            None => return Vec::new(),
        }
        editor.edit_part(*kind, *place);
        before = Some(*place);
    }
    editor.cut_end(&places, line.span.end);
    if places.any_broken(PartKind::Keyword) {
        return Vec::new();
    }
    if places.any_broken(PartKind::Word) {
        editor.keep_lines_below(line.span.start);
    }
    editor.edits
}

/// Where the parts of an instruction are in the file, in order.
struct Places(Vec<(PartKind, Span)>);

impl Places {
    /// Whether a part of a kind has a line break in it.
    fn any_broken(&self, kind: PartKind) -> bool {
        self.0.iter().any(|(of, place)| *of == kind && place.first_line != place.last_line)
    }

    fn indentation(&self) -> Indentation {
        let has_text = self.0.iter().any(|(kind, _)| matches!(kind, PartKind::Text | PartKind::Trigger));
        if has_text || self.any_broken(PartKind::Json) { Indentation::Kept } else { Indentation::Made }
    }
}

/// What becomes of the blanks that continuation lines begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Indentation {
    /// They stay: a part may have several lines of its own, and those above it are indented in step with them.
    Kept,
    /// They become [`INDENTATION`].
    Made,
}

struct Editor<'a> {
    source: &'a str,
    escape: char,
    indentation: Indentation,
    edits: Vec<Edit>,
}

impl Editor<'_> {
    fn replace(&mut self, range: Range<usize>, text: impl Into<String>) {
        let text = text.into();
        if self.source[range.clone()] != text {
            self.edits.push(Edit { range, text });
        }
    }

    /// Between two parts there is a space, or the line breaks that were there.
    fn edit_gap(&mut self, before: Span, after: Span) {
        if before.last_line == after.first_line {
            return self.replace(before.end..after.start, " ");
        }
        for line in lines_from(self.source, before.end) {
            if line.start == before.end {
                self.replace(line, format!(" {}", self.escape));
            } else if line.end >= after.start {
                return self.indent(line.start..after.start, "");
            } else if !is_passed_over(&self.source[line.clone()]) {
                // A line that only goes on.
                self.indent(line, &self.escape.to_string());
            }
        }
    }

    fn indent(&mut self, range: Range<usize>, text: &str) {
        if self.indentation == Indentation::Made {
            self.replace(range, format!("{INDENTATION}{text}"));
        }
    }

    fn edit_part(&mut self, kind: PartKind, place: Span) {
        let range = place.start..place.end;
        match kind {
            PartKind::Keyword => self.replace(range.clone(), self.source[range].to_ascii_uppercase()),
            PartKind::Json if place.first_line == place.last_line => {
                self.replace(range.clone(), spaced(&self.source[range]));
            }
            PartKind::Json | PartKind::Text => self.cut_behind_escapes(&range),
            PartKind::Word | PartKind::Trigger => {}
        }
    }

    /// Blanks between the escape that ends a line and the line's end are not even read.
    fn cut_behind_escapes(&mut self, part: &Range<usize>) {
        for line in lines_from(self.source, part.start).take_while(|line| line.end < part.end) {
            let text = &self.source[line.clone()];
            if line.start == part.start || !is_passed_over(text) {
                self.replace(line.start + text.trim_end_matches([' ', '\t']).len()..line.end, "");
            }
        }
    }

    /// Blanks at the end of an instruction belong to none of its parts. Where lines follow the last part they have
    /// nothing to say, and stay: the last of them ends with the file, and with an escape that continues nothing.
    fn cut_end(&mut self, places: &Places, end: usize) {
        let Some((kind, last)) = places.0.last() else { return };
        let line = lines_from(self.source, last.end).next();
        let line = line.filter(|line| *kind != PartKind::Trigger && line.end == end);
        // An escape that escapes nothing may be left over.
        if let Some(line) = line.filter(|line| self.source[line.clone()].trim().is_empty()) {
            self.replace(line, "");
        }
    }

    /// Drops all edits but those of the line that begins at `start`.
    fn keep_lines_below(&mut self, start: usize) {
        let first = lines_from(self.source, start).next();
        self.edits.retain(|edit| first.as_ref().is_some_and(|line| edit.range.end <= line.end));
    }
}

/// The rest of the line at `at` and all lines below it, each without its end.
fn lines_from(source: &str, at: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = at;
    source[at..].split_inclusive('\n').map(move |line| {
        let range = start..start + line.trim_end_matches(LINE_END).len();
        start += line.len();
        range
    })
}

/// Whether a continuation line is a comment or blank, so that it is not part of its instruction.
fn is_passed_over(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

/// A JSON list of strings with a space behind each comma and no other blanks. The strings stay as they are written.
fn spaced(list: &str) -> String {
    let mut text = String::with_capacity(list.len());
    let mut is_string = false;
    let mut is_escaped = false;
    for c in list.chars() {
        match c {
            '"' if !is_escaped => is_string = !is_string,
            ',' if !is_string => {
                text.push_str(", ");
                continue;
            }
            c if !is_string && c.is_whitespace() => continue,
            _ => {}
        }
        is_escaped = is_string && c == '\\' && !is_escaped;
        text.push(c);
    }
    text
}
