//! Lines of programs that know nothing of the terminal they end up on.

use std::borrow::Cow;

use unicode_width::UnicodeWidthChar as _;

/// What ends colours.
const RESET: &str = "\u{1b}[0m";

/// A line that does nothing to the terminal but show itself. Colours stay and end with the line; all else that would
/// move the cursor, clear the screen or ring the bell is left out.
pub(super) fn harmless(line: &str) -> Cow<'_, str> {
    clean(line, Colours::Kept)
}

/// The same without colours, and with spaces instead of tabs: each character takes the columns that it has.
pub(super) fn bare(line: &str) -> Cow<'_, str> {
    let line = clean(line, Colours::Dropped);
    if line.contains('\t') { Cow::Owned(line.replace('\t', "    ")) } else { line }
}

/// What becomes of colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colours {
    Kept,
    Dropped,
}

fn clean(line: &str, colours: Colours) -> Cow<'_, str> {
    if !line.bytes().any(|byte| byte < 0x20 && byte != b'\t' || byte == 0x7f || byte == 0xc2) {
        return Cow::Borrowed(line);
    }
    let mut shown = String::with_capacity(line.len());
    let mut is_coloured = false;
    let mut rest = line;
    while let Some(at) = rest.find(|c: char| c.is_control() && c != '\t') {
        shown.push_str(&rest[..at]);
        rest = rest[at..].trim_start_matches(|c: char| c.is_control() && c != '\t' && c != '\u{1b}');
        if !rest.starts_with('\u{1b}') {
            continue;
        }
        let length = escape_length(rest);
        if colours == Colours::Kept && is_colour(&rest[..length]) {
            shown.push_str(&rest[..length]);
            is_coloured = true;
        }
        rest = &rest[length..];
    }
    shown.push_str(rest);
    if is_coloured {
        shown.push_str(RESET);
    }
    Cow::Owned(shown)
}

/// As much of a line's beginning as fits into some columns, and how many it takes. Characters are counted one by one:
/// what a terminal joins then takes fewer columns than told, and never more.
pub(super) fn cut(line: &str, columns: usize) -> (&str, usize) {
    let mut taken = 0;
    for (at, character) in line.char_indices() {
        let width = character.width().unwrap_or(0);
        if taken + width > columns {
            return (&line[..at], taken);
        }
        taken += width;
    }
    (line, taken)
}

/// How long the escape sequence is that `text` begins with (ECMA-48).
fn escape_length(text: &str) -> usize {
    let after = &text[1..];
    match after.chars().next() {
        // A control sequence: parameters, and the letter that ends it.
        Some('[') => {
            let end = after[1..].find(|c: char| !matches!(c, '\u{20}'..='\u{3f}'));
            let letter = end.and_then(|end| after[1 + end..].chars().next());
            let is_whole = letter.is_some_and(|letter| matches!(letter, '\u{40}'..='\u{7e}'));
            end.map_or(text.len(), |end| 2 + end + usize::from(is_whole))
        }
        // A string for the terminal, up to a bell or `ESC \`.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            let end = after.find(['\u{7}', '\u{1b}']);
            end.map_or(text.len(), |end| {
                let is_bell = after[end..].starts_with('\u{7}');
                let is_closed = is_bell || after[end..].starts_with("\u{1b}\\");
                1 + end + usize::from(is_closed) + usize::from(is_closed && !is_bell)
            })
        }
        Some(letter) if letter.is_ascii() && !letter.is_ascii_control() => 2,
        _ => 1,
    }
}

/// Select Graphic Rendition.
fn is_colour(escape: &str) -> bool {
    let parameters = escape.strip_prefix("\u{1b}[").and_then(|rest| rest.strip_suffix('m'));
    parameters
        .is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b';' | b':')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_do_nothing_but_show_themselves() {
        let rows = [
            ("plain ü\ttext", "plain ü\ttext"),
            ("\u{1b}[1;31mred", "\u{1b}[1;31mred\u{1b}[0m"),
            ("a\u{1b}[2Jb\u{1b}[10;1Hc\u{1b}[?25ld", "abcd"),
            ("a\u{1b}]0;title\u{7}b\u{1b}]8;;x\u{1b}\\c\u{1b}Pq", "abc"),
            ("\u{7}a\u{8}\u{0}b\u{7f}c\u{1b}", "abc"),
            ("a\u{1b}cb\u{9b}2Jc", "ab2Jc"),
            ("a\u{1b}[3", "a"),
            ("a\u{1b}[3üb", "aüb"),
            ("a\u{1b}üb", "aüb"),
            ("é = \u{c3}", "é = \u{c3}"),
        ];
        for (line, shown) in rows {
            assert_eq!(harmless(line), shown, "{line:?}");
        }
    }
    #[test]
    fn bare_lines_have_no_colours() {
        assert_eq!(bare("\u{1b}[1;31mred\u{1b}[0m\tand\u{1b}[K"), "red    and");
    }

    #[test]
    fn columns_are_those_of_a_terminal() {
        assert_eq!(cut("abc", 5), ("abc", 3));
        assert_eq!(cut("abc", 2), ("ab", 2));
        assert_eq!(cut("日本語", 5), ("日本", 4));
        assert_eq!(cut("e\u{301}x", 1), ("e\u{301}", 1));
        assert_eq!(cut("x", 0), ("", 0));
    }
}
