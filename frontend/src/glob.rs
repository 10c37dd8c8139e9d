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

    /// The number of parts.
    pub(crate) fn len(&self) -> usize {
        self.parts.len()
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

    /// `value` with the first match, or all, replaced; each match is as long as can be. `None` if the result would be
    /// longer than `limit` bytes.
    pub(crate) fn replace(&self, value: &str, replacement: &str, all: bool, limit: usize) -> Option<String> {
        let chars: Vec<char> = value.chars().collect();
        let mut result = String::new();
        let mut at = 0;
        let mut last_end = None;
        while at <= chars.len() {
            let end = match_length(&self.parts, &chars[at..], true).map(|length| at + length);
            match end {
                // An empty match right behind another match is none.
                Some(end) if end > at || last_end != Some(at) => {
                    result.push_str(replacement);
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

/// How many characters at the beginning of `chars` the parts match: as few or as many as possible.
fn match_length(parts: &[Part], chars: &[char], longest: bool) -> Option<usize> {
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
    fn wildcards_do_not_match_line_ends() {
        let glob = Glob::new("a*").unwrap();
        assert_eq!(glob.without_prefix("ab\nc", true), "\nc");
    }
}
