//! Splitting of a logical line: the keyword, flags, words.

use std::ops::Range;

/// A word with its place in the text it was taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawWord {
    pub(crate) text: String,
    pub(crate) range: Range<usize>,
}

/// What separates the keyword from the rest, and words where no quotes count.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// Moves the ends of a range inwards over white space.
pub(crate) fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let start = range.start + (part.len() - part.trim_start().len());
    let end = start + part.trim().len();
    start..end
}

/// The keyword, and everything behind it.
pub(crate) fn split_keyword(text: &str) -> (Range<usize>, Range<usize>) {
    let all = trimmed(text, 0..text.len());
    let part = &text[all.clone()];
    let end = all.start + part.find(is_blank).unwrap_or(part.len());
    (all.start..end, trimmed(text, end..all.end))
}

/// The flags at the beginning of `range` with their quotes and escapes resolved, and the rest. A `--` alone ends the
/// flags. The escape character of flags is always a backslash.
pub(crate) fn take_flags(text: &str, range: Range<usize>) -> (Vec<RawWord>, Range<usize>) {
    let mut flags = Vec::new();
    let mut at = range.start;
    loop {
        at = trimmed(text, at..range.end).start;
        if !text[at..range.end].starts_with("--") {
            return (flags, trimmed(text, at..range.end));
        }
        let word = flag_word(text, at..range.end);
        at = word.range.end;
        if word.text == "--" {
            return (flags, trimmed(text, at..range.end));
        }
        flags.push(word);
    }
}

fn flag_word(text: &str, range: Range<usize>) -> RawWord {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text[range.clone()].char_indices();
    while let Some((offset, c)) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => {
                return RawWord { text: word, range: range.start..range.start + offset };
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (_, '\\') => word.extend(chars.next().map(|(_, escaped)| escaped)),
            (_, c) => word.push(c),
        }
    }
    RawWord { text: word, range }
}

/// The words between blanks; quotes mean nothing.
pub(crate) fn blank_words(text: &str, range: Range<usize>) -> Vec<RawWord> {
    let mut words = Vec::new();
    let mut start = None;
    for (offset, c) in text[range.clone()].char_indices() {
        let at = range.start + offset;
        match (is_blank(c), start) {
            (true, Some(from)) => {
                words.push(RawWord { text: text[from..at].to_owned(), range: from..at });
                start = None;
            }
            (false, None) => start = Some(at),
            _ => {}
        }
    }
    if let Some(from) = start {
        words.push(RawWord { text: text[from..range.end].to_owned(), range: from..range.end });
    }
    words
}

/// The words of ENV, LABEL and ARG: white space in quotes and after an escape does not separate. Quotes and escapes
/// stay in the words.
pub(crate) fn quoted_words(text: &str, range: Range<usize>, escape: char) -> Vec<RawWord> {
    let mut words = Vec::new();
    let mut word: Option<RawWord> = None;
    let mut quote = None;
    let mut chars = text[range.clone()].char_indices().peekable();
    while let Some((offset, c)) = chars.next() {
        let at = range.start + offset;
        if quote.is_none() && c.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let current = word.get_or_insert_with(|| RawWord { text: String::new(), range: at..at });
        current.range.end = at + c.len_utf8();
        if c == escape && quote != Some('\'') {
            // An escape at the very end escapes nothing and is dropped.
            if let Some((offset, next)) = chars.next() {
                current.text.push(c);
                current.text.push(next);
                current.range.end = range.start + offset + next.len_utf8();
            }
            continue;
        }
        match quote {
            Some(open) if c == open => quote = None,
            None if matches!(c, '\'' | '"') => quote = Some(c),
            _ => {}
        }
        current.text.push(c);
    }
    words.extend(word.filter(|word| !word.text.is_empty()));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: Vec<RawWord>) -> Vec<String> {
        words.into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn flags_are_taken_until_something_else_comes() {
        let rows: &[(&str, &[&str], &str)] = &[
            ("--a --b=c x --d", &["--a", "--b=c"], "x --d"),
            (r#"--chown="1 2":'3'  y"#, &["--chown=1 2:3"], "y"),
            (r"--a=b\ c z", &["--a=b c"], "z"),
            ("--a -- --b c", &["--a"], "--b c"),
            ("-x y", &[], "-x y"),
            (r"--a=b\", &["--a=b"], ""),
            ("--", &[], ""),
            ("--'' --b", &[], "--b"),
        ];
        for (text, flags, rest) in rows {
            let (found, range) = take_flags(text, 0..text.len());
            assert_eq!(
                (texts(found), &text[range]),
                (flags.iter().map(|f| (*f).to_owned()).collect(), *rest)
            );
        }
    }

    #[test]
    fn quoted_words_keep_quotes_and_escapes() {
        let rows: &[(&str, &[&str])] = &[
            ("a=1 b=2", &["a=1", "b=2"]),
            (r#"a="x y" b='p q' c=d\ e"#, &[r#"a="x y""#, "b='p q'", r"c=d\ e"]),
            (r#"a="x\" y" b"#, &[r#"a="x\" y""#, "b"]),
            (r"a='x\' b", &[r"a='x\'", "b"]),
            (r"a=b\", &["a=b"]),
            (r#"l="abc d"#, &[r#"l="abc d"#]),
            ("  ", &[]),
        ];
        for (text, words) in rows {
            assert_eq!(texts(quoted_words(text, 0..text.len(), '\\')), *words, "{text}");
        }
    }
}
