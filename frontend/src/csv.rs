//! A record of comma-separated values: the options of `--mount`, and flags of the command line.

/// The fields of a record: what stands between commas, or in double quotes, within which `""` is a quote. Nothing is
/// trimmed. The rules are those of Go's `encoding/csv` with its defaults, so a quote has no place in a field that did
/// not begin with one, and nothing but a comma may follow the closing one.
///
/// # Errors
/// What is wrong, with its column: a byte, the first being 1. A text without anything is no record.
pub fn fields(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Err("EOF".to_owned());
    }
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let (field, end) = if text[at..].starts_with('"') { quoted(text, at + 1)? } else { plain(text, at)? };
        fields.push(field);
        if end == text.len() {
            return Ok(fields);
        }
        at = end + 1;
    }
}

/// A field without quotes, and where it ends.
fn plain(text: &str, start: usize) -> Result<(String, usize), String> {
    let end = text[start..].find(',').map_or(text.len(), |length| start + length);
    let field = &text[start..end];
    match field.find('"') {
        Some(quote) => Err(mistake(start + quote, "bare \" in non-quoted field")),
        None => Ok((field.to_owned(), end)),
    }
}

/// A field whose opening quote stands before `start`, and where it ends: at a comma or the end of the text.
fn quoted(text: &str, start: usize) -> Result<(String, usize), String> {
    let mut field = String::new();
    let mut at = start;
    loop {
        let Some(length) = text[at..].find('"') else { return Err(misplaced_quote(at)) };
        let quote = at + length;
        field.push_str(&text[at..quote]);
        at = quote + 1;
        match text[at..].chars().next() {
            Some('"') => {
                field.push('"');
                at += 1;
            }
            Some(',') | None => return Ok((field, at)),
            Some(_) => return Err(misplaced_quote(quote)),
        }
    }
}

fn misplaced_quote(at: usize) -> String {
    mistake(at, "extraneous or missing \" in quoted-field")
}

fn mistake(at: usize, what: &str) -> String {
    // A record of a Dockerfile has no second line.
    format!("parse error on line 1, column {}: {what}", at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_fields() {
        let rows: &[(&str, &[&str])] = &[
            ("a", &["a"]),
            ("a,b=c, d ", &["a", "b=c", " d "]),
            (",a,,b,", &["", "a", "", "b", ""]),
            (" ", &[" "]),
            ("\"\"", &[""]),
            ("a,\"b,c d\",e", &["a", "b,c d", "e"]),
            ("\"a\"\"b\"\"\",\"\"", &["a\"b\"", ""]),
            ("'a,b'", &["'a", "b'"]),
            ("ø,\"☃,\"", &["ø", "☃,"]),
        ];
        for (text, wanted) in rows {
            assert_eq!(fields(text).unwrap(), *wanted, "{text}");
        }
    }

    #[test]
    fn mistakes_have_a_column() {
        let bare = "bare \" in non-quoted field";
        let extraneous = "extraneous or missing \" in quoted-field";
        let rows = [
            ("foo,aa\"bb,cc", 7, bare),
            ("a\"\"b,c", 2, bare),
            (" \"a\"", 2, bare),
            ("ø\"", 3, bare),
            ("\"a word\",b\"", 11, bare),
            ("\"a \"word\",\"b\"", 4, extraneous),
            ("\"a\" ,b", 3, extraneous),
            ("\"", 2, extraneous),
            ("\"\"\"", 4, extraneous),
            ("a,\"b", 4, extraneous),
        ];
        for (text, column, what) in rows {
            let wanted = format!("parse error on line 1, column {column}: {what}");
            assert_eq!(fields(text), Err(wanted), "{text}");
        }
        assert_eq!(fields(""), Err("EOF".to_owned()));
    }
}
