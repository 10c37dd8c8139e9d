//! Brings pictures to a terminal, each over the one before.

use std::fmt::Write as _;

use super::colors::Palette;
use super::frame::{Line, Size, Style};

/// Terminals that know it (DEC private mode 2026) show what comes as one; lines that turn out to be wider than was
/// thought do not wrap.
const BEGIN: &str = "\u{1b}[?2026h\u{1b}[?7l";
const END: &str = "\u{1b}[?7h\u{1b}[?2026l";

/// What is on the terminal.
pub(super) struct Painter {
    palette: Palette,
    /// How many columns each line of the last picture takes.
    drawn: Vec<usize>,
    /// How wide the terminal was then.
    columns: usize,
}

impl Painter {
    /// Nothing was drawn yet.
    pub(super) fn new(palette: Palette) -> Self {
        Self { palette, drawn: Vec::new(), columns: 0 }
    }

    /// What draws a picture in the place of the last one. The cursor is at the beginning of the line below it then, and
    /// is never hidden, so that nothing has to be put right whenever the program ends.
    pub(super) fn paint(&mut self, lines: &[Line], size: Size) -> String {
        let mut bytes = BEGIN.to_owned();
        self.go_back(size, &mut bytes);
        for line in lines {
            let color = match line.style {
                Style::Normal => "",
                Style::Done => &self.palette.run,
                Style::Failed => &self.palette.error,
                Style::Canceled => &self.palette.cancel,
                Style::Warning => &self.palette.warning,
                Style::Output => &self.palette.output,
            };
            if color.is_empty() {
                bytes += &line.text;
            } else {
                let _ = write!(bytes, "\u{1b}[{color}m{}\u{1b}[0m", line.text);
            }
            bytes += "\u{1b}[K\r\n";
        }
        bytes += "\u{1b}[J";
        bytes += END;
        self.drawn = lines.iter().map(|line| line.columns).collect();
        self.columns = size.columns;
        bytes
    }

    /// What clears the last picture away.
    pub(super) fn clear(&mut self, size: Size) -> String {
        if self.drawn.is_empty() {
            return String::new();
        }
        let mut bytes = String::new();
        self.go_back(size, &mut bytes);
        bytes += "\u{1b}[J";
        self.drawn.clear();
        bytes
    }

    /// Moves to where the last picture begins. A terminal that has become narrower has wrapped its lines.
    fn go_back(&self, size: Size, bytes: &mut String) {
        let rows: usize = if size.columns < self.columns && size.columns > 0 {
            self.drawn.iter().map(|columns| columns.div_ceil(size.columns).max(1)).sum()
        } else {
            self.drawn.len()
        };
        bytes.push('\r');
        if rows > 0 {
            let _ = write!(bytes, "\u{1b}[{rows}A");
        }
    }
}
