//! The patterns of `${name#pattern}` and its like: `*`, `?` and escapes, no classes.

/// A pattern.
#[derive(Debug)]
pub(crate) struct Glob {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Any,
    One,
    Char(char),
}

impl Part {
    fn takes(self, c: char) -> bool {
        match self {
            Self::Any | Self::One => c != '\n',
            Self::Char(own) => c == own,
        }
    }
}

impl Glob {
    /// Reads a pattern. `\}` and `\/` are the characters themselves, which could not stand in `${…}` else.
    ///
    /// # Errors
    /// The escape that means nothing.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' => Part::Any,
                '?' => Part::One,
                '\\' => match chars.next() {
                    Some(c @ ('}' | '/' | '*' | '?' | '\\')) => Part::Char(c),
                    other => {
                        return Err(format!(
                            "invalid escape '\\{}'",
                            other.map_or(String::new(), String::from)
                        ));
                    }
                },
                c => Part::Char(c),
            });
        }
        Ok(Self { parts })
    }

    /// The steps that finding one match at an end of a value takes at most, by the length of the value.
    pub(crate) fn steps(&self, length: usize) -> usize {
        length.saturating_add(1).saturating_mul(self.parts.len() + 1)
    }

    /// The steps that [`Glob::replace`] takes at most. Without a `*` a match ends
    /// where the pattern does; with one it may end anywhere.
    pub(crate) fn replace_steps(&self, length: usize) -> usize {
        let ends = if self.parts.contains(&Part::Any) { length.saturating_add(1) } else { 1 };
        self.steps(length).saturating_mul(ends)
    }

    /// `value` without the shortest or longest beginning that matches.
    pub(crate) fn without_prefix<'a>(&self, value: &'a str, longest: bool) -> &'a str {
        let chars: Vec<char> = value.chars().collect();
        let Some(length) = match_length(&self.parts, &chars, longest) else { return value };
        let skipped: usize = chars[..length].iter().map(|c| c.len_utf8()).sum();
        &value[skipped..]
    }

    /// `value` without the shortest or longest end that matches.
    pub(crate) fn without_suffix<'a>(&self, value: &'a str, longest: bool) -> &'a str {
        let chars: Vec<char> = value.chars().rev().collect();
        let parts: Vec<Part> = self.parts.iter().rev().copied().collect();
        let Some(length) = match_length(&parts, &chars, longest) else { return value };
        let skipped: usize = chars[..length].iter().map(|c| c.len_utf8()).sum();
        &value[..value.len() - skipped]
    }

    /// `value` with the first match, or all, replaced; each match is as long as can be. What replaces all is a
    /// template as Go's `regexp` has them: `$0` is the match, `$$` a `$`, and other names are those of groups, of
    /// which there are none, and so mean nothing. What replaces one stands for itself.
    ///
    /// `None` if the result would be longer than `limit` bytes.
    pub(crate) fn replace(&self, value: &str, replacement: &str, all: bool, limit: usize) -> Option<String> {
        let chars: Vec<char> = value.chars().collect();
        let template = if all { Template::new(replacement) } else { Template::plain(replacement) };
        let mut result = String::new();
        let mut at = 0;
        let mut last_end = None;
        while at <= chars.len() {
            let end = match_length(&self.parts, &chars[at..], true).map(|length| at + length);
            match end {
                // An empty match right behind another match is none.
                Some(end) if end > at || last_end != Some(at) => {
                    let matched: String = chars[at..end].iter().collect();
                    if result.len().saturating_add(template.size_bytes(&matched)) > limit {
                        return None;
                    }
                    template.write(&matched, &mut result);
                    last_end = Some(end);
                    if end == at {
                        result.extend(chars.get(at));
                    }
                    at = end.max(at + 1);
                    if !all {
                        result.extend(chars.get(at..).unwrap_or_default());
                        return Some(result);
                    }
                }
                _ => {
                    result.extend(chars.get(at));
                    at += 1;
                }
            }
            if result.len() > limit {
                return None;
            }
        }
        Some(result)
    }
}

/// What comes in place of a match: texts, each with how many times the match follows it. Only the first text may be
/// empty, and only the last may have no match behind it. So the work of writing is in proportion to what is written,
/// however many references mean nothing or stand for an empty match.
#[derive(Debug, Default, PartialEq, Eq)]
struct Template {
    parts: Vec<(String, usize)>,
}

impl Template {
    /// A text that stands for itself.
    fn plain(text: &str) -> Self {
        Self { parts: vec![(text.to_owned(), 0)] }
    }

    /// A text with references. A `$` that begins none is itself.
    fn new(text: &str) -> Self {
        let mut template = Self::plain("");
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('$') {
            template.push_text(before);
            rest = match (behind.strip_prefix('$'), reference(behind)) {
                (Some(behind), _) => {
                    template.push_text("$");
                    behind
                }
                (None, Some((name, behind))) => {
                    template.push_matches(usize::from(name == "0"));
                    behind
                }
                (None, None) => {
                    template.push_text("$");
                    behind
                }
            };
        }
        template.push_text(rest);
        template
    }

    fn push_text(&mut self, text: &str) {
        match self.parts.last_mut() {
            _ if text.is_empty() => {}
            Some((last, 0)) => last.push_str(text),
            _ => self.parts.push((text.to_owned(), 0)),
        }
    }

    fn push_matches(&mut self, number: usize) {
        if let Some((_, matches)) = self.parts.last_mut() {
            *matches += number;
        }
    }

    /// How much [`Template::write`] adds.
    fn size_bytes(&self, matched: &str) -> usize {
        self.parts.iter().fold(0_usize, |size, (text, number)| {
            size.saturating_add(text.len()).saturating_add(matched.len().saturating_mul(*number))
        })
    }

    fn write(&self, matched: &str, result: &mut String) {
        for (text, number) in &self.parts {
            result.push_str(text);
            if !matched.is_empty() {
                result.extend(std::iter::repeat_n(matched, *number));
            }
        }
    }
}

/// The name at the beginning of what follows a `$`, perhaps in braces, and what stands behind it.
fn reference(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('{');
    let named = inner.unwrap_or(text);
    let end = named.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(named.len());
    let (name, behind) = named.split_at(end);
    let behind = if inner.is_some() { behind.strip_prefix('}')? } else { behind };
    (!name.is_empty()).then_some((name, behind))
}

/// How many characters at the beginning of `chars` the parts match: as few or as many as possible.
fn match_length(parts: &[Part], chars: &[char], longest: bool) -> Option<usize> {
    if !parts.contains(&Part::Any) {
        let fits = chars.len() >= parts.len() && parts.iter().zip(chars).all(|(part, c)| part.takes(*c));
        return fits.then_some(parts.len());
    }
    // The positions that the parts so far can reach.
    let mut reached = vec![false; chars.len() + 1];
    reached[0] = true;
    for &part in parts {
        let mut next = vec![false; chars.len() + 1];
        for at in 0..=chars.len() {
            match part {
                Part::Any => {
                    let from_before = at > 0 && next[at - 1] && part.takes(chars[at - 1]);
                    next[at] = reached[at] || from_before;
                }
                _ => next[at] = at > 0 && reached[at - 1] && part.takes(chars[at - 1]),
            }
        }
        reached = next;
    }
    if longest {
        reached.iter().rposition(|is_reached| *is_reached)
    } else {
        reached.iter().position(|is_reached| *is_reached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_matches_are_replaced_between_all_characters() {
        let glob = Glob::new("").unwrap();
        assert_eq!(glob.replace("ab", "-", true, 100).unwrap(), "-a-b-");
        assert_eq!(glob.replace("ab", "-", false, 100).unwrap(), "-ab");
        assert_eq!(Glob::new("*").unwrap().replace("ab", "-", true, 100).unwrap(), "-");
        assert_eq!(Glob::new("*").unwrap().replace("ab", "-", false, 100).unwrap(), "-");
    }

    #[test]
    fn what_replaces_all_is_a_template() {
        let rows = [
            ("<$0>", "<ab>-<ac>"),
            ("${0}$0", "abab-acac"),
            ("$$0$", "$0$-$0$"),
            ("$$$0", "$ab-$ac"),
            ("[$1$name${x_ø}]", "[]-[]"),
            ("$00$0x", "-"),
            ("$0-$", "ab-$-ac-$"),
            ("$-${}${0${-}", "$-${}${0${-}-$-${}${0${-}"),
            ("$ø", "-"),
            ("", "-"),
        ];
        for (replacement, wanted) in rows {
            let replaced =
                |text: &str, all| Glob::new("a?").unwrap().replace("ab-ac", text, all, 100).unwrap();
            assert_eq!(replaced(replacement, true), wanted, "{replacement}");
            assert_eq!(replaced(replacement, false), format!("{replacement}-ac"), "{replacement}");
        }
    }

    #[test]
    fn templates_hold_no_more_than_they_write() {
        let glob = Glob::new("").unwrap();
        let nothing = "$x$0".repeat(100_000);
        assert_eq!(glob.replace(&"a".repeat(500), &nothing, true, 10_000).unwrap(), "a".repeat(500));
        let much = "$0".repeat(1 << 20);
        assert_eq!(Glob::new("*").unwrap().replace(&"a".repeat(1 << 20), &much, true, 1 << 30), None);
        assert_eq!(Template::new("${1}a$2${0}b$x").parts, [("a".to_owned(), 1), ("b".to_owned(), 0)]);
    }

    #[test]
    fn wildcards_do_not_match_line_ends() {
        let glob = Glob::new("a*").unwrap();
        assert_eq!(glob.without_prefix("ab\nc", true), "\nc");
    }
}
