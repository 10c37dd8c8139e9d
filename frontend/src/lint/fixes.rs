//! What to write instead of what breaks a rule.

use crate::tree::{Pair, Token};
use crate::words;
use crate::{Edit, Fix, Span};

/// What a shell does itself: no program of that name can be started in its place (POSIX's reserved words and special
/// built-ins, and the regular ones that change the shell).
const SHELL_WORDS: [&str; 42] = [
    ".", ":", "alias", "bg", "break", "builtin", "case", "cd", "command", "continue", "declare", "do",
    "done", "elif", "else", "esac", "eval", "exec", "exit", "export", "fc", "fg", "fi", "for", "function",
    "getopts", "hash", "if", "jobs", "local", "read", "readonly", "return", "set", "shift", "source", "then",
    "trap", "type", "umask", "until", "while",
];

/// Whether a token stands in the file just as its text does: on one line, with nothing taken out.
fn is_verbatim(token: &Token) -> bool {
    token.span.first_line == token.span.last_line && token.span.end - token.span.start == token.text.len()
}

fn between(first: Span, second: Span) -> Span {
    Span { start: first.end, end: second.start, first_line: first.last_line, last_line: second.first_line }
}

fn at_end(span: Span) -> Span {
    Span { start: span.end, first_line: span.last_line, ..span }
}

/// MAINTAINER as the label that took its place.
pub(super) fn maintainer_label(keyword: &Token, author: &Token, escape: char) -> Option<Fix> {
    if !is_verbatim(author) {
        return None;
    }
    let mut quoted = String::new();
    for c in author.text.chars() {
        if matches!(c, '"' | '$') || c == escape {
            quoted.push(escape);
        }
        quoted.push(c);
    }
    let is_lower = keyword.text == keyword.text.to_lowercase();
    let label = if is_lower { "label" } else { "LABEL" };
    let text = format!("org.opencontainers.image.authors=\"{quoted}\"");
    let title = format!("write `{label} {text}`");
    Some(Fix::certain(title, vec![Edit::new(keyword.span, label), Edit::new(author.span, text)]))
}

/// `name value` of ENV and LABEL as `name=value`. None where the value would mean something else in quotes.
pub(crate) fn legacy_pair(keyword: &str, pair: &Pair, escape: char) -> Option<Fix> {
    let (name, value) = (&pair.name, &pair.value);
    // Lines between the two may be comments, which would get lost.
    if value.span.first_line > name.span.last_line + 1 || name.text.contains(['\'', '"', escape]) {
        return None;
    }
    let is_one_word = words::quoted_words(&value.text, 0..value.text.len(), escape).len() == 1;
    let equals = between(name.span, value.span);
    if is_one_word {
        let title = format!("write `{keyword} {}={}`", name.text, value.text);
        return Some(Fix::certain(title, vec![Edit::new(equals, "=")]));
    }
    if value.text.contains(['\'', '"', escape]) {
        return None;
    }
    let title = format!("write `{keyword} {}=\"{}\"`", name.text, value.text);
    Some(Fix::certain(title, vec![Edit::new(equals, "=\""), Edit::new(at_end(value.span), "\"")]))
}

/// The shell form of CMD and ENTRYPOINT as a JSON list. None where a shell would do more than split words.
pub(crate) fn json_form(keyword: &str, command: &Token) -> Option<Fix> {
    let is_plain = |c: char| {
        c.is_alphanumeric()
            || matches!(c, '_' | '-' | '.' | '/' | ':' | '@' | '%' | '+' | ',' | '=' | ' ' | '\t')
    };
    let program = command.text.split_whitespace().next()?;
    let is_for_shell = program.contains('=') || SHELL_WORDS.contains(&program);
    if !is_verbatim(command) || is_for_shell || !command.text.chars().all(is_plain) {
        return None;
    }
    let words: Vec<String> = command.text.split_whitespace().map(|word| format!("\"{word}\"")).collect();
    let list = format!("[{}]", words.join(", "));
    let title = format!("write `{keyword} {list}`");
    Some(Fix::certain(title, vec![Edit::new(command.span, list)]))
}

/// A port of EXPOSE with its protocol in lower case.
pub(crate) fn lower_protocol(port: &Token) -> Option<Fix> {
    let (number, protocol) = port.text.rsplit_once('/')?;
    if !is_verbatim(port) || protocol.contains('$') {
        return None;
    }
    let text = format!("{number}/{}", protocol.to_lowercase());
    Some(Fix::certain(format!("write `{text}`"), vec![Edit::new(port.span, text)]))
}

/// A port of EXPOSE without what only matters where a container is run.
pub(crate) fn without_host_port(port: &Token) -> Option<Fix> {
    let (_, container) = port.text.rsplit_once(':')?;
    if !is_verbatim(port) || port.text.contains('$') || container.is_empty() {
        return None;
    }
    Some(Fix::guess(format!("write `{container}`"), vec![Edit::new(port.span, container)]))
}

/// FROM without its `--platform`.
pub(crate) fn without_platform(flag: Span, base: Span) -> Option<Fix> {
    if flag.first_line != base.first_line {
        return None;
    }
    let place = Span { end: base.start, ..flag };
    Some(Fix::guess("remove `--platform`".to_owned(), vec![Edit::new(place, "")]))
}

/// Where a variable's name stands in a token.
pub(crate) fn variable_place(token: &Token, name: &str) -> Option<Span> {
    if !is_verbatim(token) {
        return None;
    }
    let text = &token.text;
    let found = text.match_indices(name).map(|(at, _)| at).find(|at| {
        let before = &text[..*at];
        let is_reference = before.ends_with('$') || before.ends_with("${");
        let goes_on = text[at + name.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
        is_reference && !goes_on
    })?;
    let start = token.span.start + found;
    Some(Span { start, end: start + name.len(), ..token.span })
}

/// The name that was probably meant.
pub(crate) fn rename_variable(place: Span, name: &str) -> Fix {
    Fix::guess(format!("write `{name}`"), vec![Edit::new(place, name)])
}

#[cfg(test)]
mod tests {
    use crate::fix::apply_fixes;
    use crate::tree::{Command, Instruction, InstructionKind};
    use crate::{Certainty, Diagnostic, SourceFile, parse};

    use super::*;

    /// The one instruction of a file behind `FROM a`, after a fix of it.
    fn fixed(line: &str, fix: impl Fn(&Instruction) -> Option<Fix>) -> Option<String> {
        let text = format!("FROM a\n{line}\n");
        let file = parse(&SourceFile { name: String::new(), text: text.clone() });
        assert_eq!(file.diagnostics, [], "{line}");
        let instruction = &file.stages[0].instructions[0];
        let diagnostic = Diagnostic::error("x", instruction.span, "x");
        let fix = fix(instruction).map(|fix| Fix { certainty: Certainty::Certain, ..fix });
        let text = apply_fixes(&text, &[diagnostic.with_fix(fix)])?;
        Some(text["FROM a\n".len()..].trim_end().to_owned())
    }

    #[track_caller]
    fn check(rows: &[(&str, Option<&str>)], fix: impl Fn(&Instruction) -> Option<Fix>) {
        for (line, wanted) in rows {
            assert_eq!(fixed(line, &fix).as_deref(), *wanted, "{line}");
        }
    }

    #[test]
    fn legacy_pairs_get_an_equals_sign() {
        let rows = [
            ("ENV a b", Some("ENV a=b")),
            ("ENV  a \t b=c", Some("ENV  a=b=c")),
            ("ENV a b c  d", Some("ENV a=\"b c  d\"")),
            ("ENV a \"b c\"", Some("ENV a=\"b c\"")),
            ("ENV a 'b'\"c d\"", Some("ENV a='b'\"c d\"")),
            ("ENV a b \"c d\"", None),
            (r"ENV a b\ c", Some(r"ENV a=b\ c")),
            (r"ENV a b\c d", None),
            ("ENV a $b ${c:-d e}", Some("ENV a=\"$b ${c:-d e}\"")),
            ("ENV \"a b\" c", None),
            ("LABEL a \\\n  b \\\n  # remark\n  c", Some("LABEL a=\"b \\\n  # remark\n  c\"")),
            ("LABEL a \\\n  # remark\n  b", None),
        ];
        check(&rows, |instruction| match &instruction.kind {
            InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => {
                legacy_pair("ENV", &pairs[0], '\\')
            }
            _ => None,
        });
    }

    #[test]
    fn commands_become_lists_where_no_shell_is_needed() {
        let rows = [
            ("CMD serve -p 80", Some("CMD [\"serve\", \"-p\", \"80\"]")),
            ("CMD  /bin/a\tb=c", Some("CMD  [\"/bin/a\", \"b=c\"]")),
            ("CMD A=1 run", None),
            ("CMD exec run", None),
            ("CMD cd /x", None),
            ("CMD run $X", None),
            ("CMD run 'a b'", None),
            ("CMD run; stop", None),
            ("CMD run *.x", None),
            ("CMD run ~/x", None),
            ("CMD run \\\n  it", None),
            ("CMD", None),
        ];
        check(&rows, |instruction| match &instruction.kind {
            InstructionKind::Cmd(Command::Shell(text)) => json_form("CMD", text),
            _ => None,
        });
    }

    #[test]
    fn maintainers_become_labels() {
        let rows = [
            ("MAINTAINER me <me@x.y>", Some("LABEL org.opencontainers.image.authors=\"me <me@x.y>\"")),
            ("maintainer me", Some("label org.opencontainers.image.authors=\"me\"")),
            (r#"MAINTAINER "A $B" \\x"#, Some(r#"LABEL org.opencontainers.image.authors="\"A \$B\" \\\\x""#)),
            ("MAINTAINER a \\\n b", None),
        ];
        check(&rows, |instruction| match &instruction.kind {
            InstructionKind::Maintainer(author) => maintainer_label(&instruction.keyword, author, '\\'),
            _ => None,
        });
    }

    #[test]
    fn ports_and_variables() {
        let ports = |fix: fn(&Token) -> Option<Fix>| {
            move |instruction: &Instruction| match &instruction.kind {
                InstructionKind::Expose(ports) => fix(&ports[0]),
                _ => None,
            }
        };
        check(&[("EXPOSE 80/TCP 1", Some("EXPOSE 80/tcp 1")), ("EXPOSE 80/$X", None)], ports(lower_protocol));
        check(
            &[("EXPOSE 127.0.0.1:8080:80/tcp", Some("EXPOSE 80/tcp")), ("EXPOSE $H:80", None)],
            ports(without_host_port),
        );
        let token = |text: &str| Token {
            text: text.to_owned(),
            span: Span { start: 10, end: 10 + text.len(), first_line: 1, last_line: 1 },
        };
        let place = |text: &str| variable_place(&token(text), "X").map(|span| span.start - 10);
        assert_eq!(place("$XY$X"), Some(4));
        assert_eq!(place("X${X:-X}"), Some(3));
        assert_eq!(place("X"), None);
    }
}
