//! What a page says is shown, and what is.

const ANY: &str = "…";

/// Whether the lines are those of the pattern, in which `…` is any text, and any lines where it stands alone.
pub(crate) fn matches(pattern: &[String], lines: &[&str]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return lines.is_empty() };
    if first.trim() == ANY {
        return (0..=lines.len()).any(|from| matches(rest, &lines[from..]));
    }
    lines.split_first().is_some_and(|(line, others)| line_matches(first, line) && matches(rest, others))
}

fn line_matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split(ANY);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[test]
fn an_ellipsis_is_any_text_or_any_lines() {
    let is = |pattern: &str, text: &str| {
        let pattern: Vec<String> = pattern.lines().map(str::to_owned).collect();
        matches(&pattern, &text.lines().collect::<Vec<_>>())
    };
    assert!(is("a\nb", "a\nb") && !is("a", "a\nb") && !is("a\nb", "a") && !is("ab", "abc"));
    assert!(
        is("a\n…\nb", "a\nb") && is("a\n…\nb", "a\n1\n2\nb") && is("…\nb", "1\nb") && !is("…\nb", "b\n1")
    );
    assert!(is("sha256:…", "sha256:12") && is("a … b … c", "a 1 b 2 c") && !is("a … b … c", "a 1 c"));
}
