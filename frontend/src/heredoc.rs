//! Here-documents: which words announce one, and what they say.

use std::collections::HashMap;

use crate::expand::{Expander, Quotes};

/// A here-document of a RUN, COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it, quotes removed.
    pub name: String,
    /// Its body, every line with its end.
    pub content: String,
    /// Whether variables in the body are expanded: no part of the word stood in quotes. An escape does not count,
    /// unlike in a shell.
    pub expands: bool,
    /// Whether tabs at the beginning of its lines are dropped (`<<-`).
    pub strip_tabs: bool,
    /// Whether blanks stand before the word.
    pub(crate) is_spaced: bool,
}

impl Heredoc {
    /// The body as it is used.
    pub fn body(&self) -> String {
        if !self.strip_tabs {
            return self.content.clone();
        }
        let lines = self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t'));
        lines.collect()
    }
}

/// The here-document that a word announces, still without its body.
pub(crate) fn announced_by(word: &str) -> Option<Heredoc> {
    let behind_digits = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = behind_digits.strip_prefix("<<")?;
    let (rest, strip_tabs) = match rest.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let plain = words(rest, Quotes::Remove)?;
    let raw = words(rest, Quotes::Keep)?;
    let ([name], [raw]) = (plain.as_slice(), raw.as_slice()) else { return None };
    // Whether a quote has quoted is all that counts: an escaped one is in both, and an escape quotes nothing.
    let expands = quotes(name) == quotes(raw);
    let is_spaced = rest.starts_with(char::is_whitespace);
    Some(Heredoc { name: name.clone(), content: String::new(), expands, strip_tabs, is_spaced })
}

fn quotes(text: &str) -> usize {
    text.matches(['\'', '"']).count()
}

/// All here-documents that a line announces, in order.
pub(crate) fn of_line(text: &str) -> Vec<Heredoc> {
    if !text.contains("<<") {
        return Vec::new();
    }
    let words = words(text, Quotes::Keep).unwrap_or_default();
    words.iter().filter_map(|word| announced_by(word)).collect()
}

fn words(text: &str, quotes: Quotes) -> Option<Vec<String>> {
    let none: HashMap<String, String> = HashMap::new();
    let expander = Expander { quotes, keep_unset: true, ..Expander::new('\\') };
    expander.words(text, &none).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, whether it expands, whether tabs are stripped.
    type Announced = Option<(&'static str, bool, bool)>;

    #[test]
    fn words_that_announce_a_body() {
        let rows: [(&str, Announced); 17] = [
            ("<<EOF", Some(("EOF", true, false))),
            ("<<-EOF", Some(("EOF", true, true))),
            ("3<<X", Some(("X", true, false))),
            ("<<\"E F\"", Some(("E F", false, false))),
            ("<<'EOF'", Some(("EOF", false, false))),
            ("<<E\\OF", Some(("EOF", true, false))),
            ("<<\\EOF", Some(("EOF", true, false))),
            ("<<E\\'F", Some(("E'F", true, false))),
            ("<<E'O'\\\"F", Some(("EO\"F", false, false))),
            ("<<\"E'F\"", Some(("E'F", false, false))),
            ("<<$E", Some(("$E", true, false))),
            ("<<", None),
            ("<<''", None),
            ("<<<x", None),
            ("a<<EOF", None),
            ("<<EOF cat", None),
            ("<<'EOF", None),
        ];
        for (word, wanted) in rows {
            let found = announced_by(word);
            let found = found.as_ref().map(|h| (h.name.as_str(), h.expands, h.strip_tabs));
            assert_eq!(found, wanted, "{word}");
        }
    }

    #[test]
    fn lines_announce_several() {
        let names = |text| of_line(text).into_iter().map(|h| h.name).collect::<Vec<_>>();
        assert_eq!(names("RUN cat 3<<A <<B > x"), ["A", "B"]);
        assert_eq!(names("RUN cat << A 3<<\t'B' > x"), ["A", "B"]);
        assert_eq!(names("RUN echo \"<<EOF\" $((1<<4))"), [""; 0]);
        // It is the words that count, not what a shell would make of them.
        assert_eq!(names("RUN echo $((1 << 4))"), ["4))"]);
        assert_eq!(names("RUN cat <<- A"), [""; 0]);
        assert_eq!(names("RUN cat << -A <<< <<B"), ["-A", "B"]);
        assert_eq!(names("RUN cat < <A <<< x <<"), [""; 0]);
        assert_eq!(names("RUN echo it's <<EOF"), [""; 0]);
    }

    #[test]
    fn escapes_stay_in_the_words_of_a_line() {
        let found = of_line(r#"RUN cat \<<A <\<B 3<<\C <<-'D\' <<"E\"F" <<\'G"#);
        let found: Vec<_> = found.iter().map(|h| (h.name.as_str(), h.expands, h.strip_tabs)).collect();
        let wanted = [("C", true, false), (r"D\", false, true), ("E\"F", false, false), ("'G", true, false)];
        assert_eq!(found, wanted);
    }
}
