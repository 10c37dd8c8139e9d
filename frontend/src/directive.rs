//! Parser directives: `# key=value` on the first lines of a file.

use crate::{Diagnostic, Span};

/// What the directives of a file say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// `escape`: the character that escapes and continues lines.
    pub escape: char,
    /// `syntax`: the image of the frontend that the file asks for, and where it does.
    pub syntax: Option<(String, Span)>,
    /// `check`: settings of the lint rules, as written, and where.
    pub check: Option<(String, Span)>,
}

impl Default for Directives {
    fn default() -> Self {
        Self { escape: '\\', syntax: None, check: None }
    }
}

/// Reads directives until the first line that is none.
#[derive(Debug, Default)]
pub(crate) struct DirectiveReader {
    pub(crate) directives: Directives,
    lines: u32,
    finished: bool,
    /// Whether a line was indented: `escape` may follow, but `syntax` and `check` count no more.
    was_indented: bool,
    seen: Vec<String>,
    has_interpreter: bool,
}

impl DirectiveReader {
    /// A reader that knows no directives.
    pub(crate) fn finished() -> Self {
        Self { finished: true, ..Self::default() }
    }

    /// Looks at a line and tells whether it is a directive.
    pub(crate) fn read(&mut self, line: &str, span: Span) -> Result<bool, Diagnostic> {
        self.lines = self.lines.saturating_add(1);
        if self.finished {
            return Ok(false);
        }
        let whole = line;
        let line = whole.trim_start();
        self.was_indented |= line.len() < whole.len();
        // A first line `#!…` names an interpreter; it hides no `syntax` and no `check` below it, but `escape`.
        if self.lines == 1 && line.starts_with("#!") {
            self.has_interpreter = true;
            return Ok(false);
        }
        let known = ["escape", "syntax", "check"];
        let Some((key, value)) = split(line, "#").filter(|(key, _)| known.contains(&key.as_str())) else {
            self.finished = true;
            return self.foreign_comment(line, span).map(|()| false);
        };
        if self.seen.contains(&key) {
            let message = format!("only one {key} parser directive can be used");
            return Err(Diagnostic::error("duplicate-directive", span, message));
        }
        self.seen.push(key.clone());
        match (key.as_str(), value) {
            ("escape", _) if self.has_interpreter => return Ok(false),
            ("escape", "\\") => self.directives.escape = '\\',
            ("escape", "`") => self.directives.escape = '`',
            ("escape", other) => {
                let message = format!("invalid escape token '{other}' does not match ` or \\");
                return Err(Diagnostic::error("invalid-escape-directive", span, message));
            }
            _ if self.was_indented => {}
            ("syntax", image) => self.set_syntax(image, span)?,
            (_, settings) => self.directives.check = Some((settings.to_owned(), span)),
        }
        Ok(true)
    }

    /// `// syntax=…` on the first line: a file for another frontend.
    fn foreign_comment(&mut self, line: &str, span: Span) -> Result<(), Diagnostic> {
        if self.lines != 1 {
            return Ok(());
        }
        match split(line, "//") {
            Some((key, image)) if key == "syntax" && !self.was_indented => self.set_syntax(image, span),
            _ => Ok(()),
        }
    }

    fn set_syntax(&mut self, image: &str, span: Span) -> Result<(), Diagnostic> {
        self.directives.syntax = Some((image.to_owned(), span));
        check_syntax(image).map_err(|message| Diagnostic::error("foreign-syntax", span, message))
    }
}

/// Whether the built-in frontend stands for `image`.
///
/// # Errors
/// The text of a diagnostic, if it does not.
pub(crate) fn check_syntax(image: &str) -> Result<(), String> {
    // Arguments for the frontend may follow.
    let image = image.split(' ').next().unwrap_or_default();
    let short = image.strip_prefix("docker.io/").unwrap_or(image);
    let name = short.split([':', '@']).next().unwrap_or(short);
    if matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream" | "dockerfile.v0") {
        return Ok(());
    }
    Err(format!("the frontend image `{image}` cannot be run: only `docker/dockerfile` is built in"))
}

fn split<'a>(line: &'a str, prefix: &str) -> Option<(String, &'a str)> {
    let (key, value) = line.strip_prefix(prefix)?.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let is_word = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_word && !value.is_empty()).then(|| (key.to_ascii_lowercase(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Directives, Vec<String>) {
        let mut reader = DirectiveReader::default();
        let messages = text
            .lines()
            .filter_map(|line| reader.read(line, Span::default()).err())
            .map(|diagnostic| diagnostic.message)
            .collect();
        (reader.directives, messages)
    }

    #[test]
    fn directives_are_read_until_the_first_other_line() {
        let (directives, messages) = read("#  EsCaPe  =  `  \n# check=skip=all\n# remark\n# syntax=x/y");
        assert_eq!(directives.escape, '`');
        assert_eq!(directives.check.unwrap().0, "skip=all");
        assert_eq!(directives.syntax, None);
        assert_eq!(messages, [""; 0]);
        let (directives, messages) = read("  # syntax=x/y\n# check=skip=all\n# escape=`");
        assert_eq!((directives.escape, directives.check, directives.syntax), ('`', None, None));
        assert_eq!(messages, [""; 0]);
        assert_eq!(read("# colour=blue\n# escape=`").0.escape, '\\');
        assert_eq!(read("\n# escape=`").0.escape, '\\');
        let (directives, _) = read("#!/usr/bin/rbuild\n# check=skip=all\n# escape=`");
        assert_eq!((directives.escape, directives.check.unwrap().0.as_str()), ('\\', "skip=all"));
    }

    #[test]
    fn frontends_that_are_not_built_in_are_refused() {
        for image in [
            "docker/dockerfile:1",
            "docker.io/docker/dockerfile:1.7-labs",
            "docker/dockerfile-upstream:master",
            "docker/dockerfile:1 with arguments",
        ] {
            assert_eq!(read(&format!("# syntax={image}")).1, [""; 0], "{image}");
        }
        for line in [
            "# syntax=example.org/mine:1",
            "// syntax=example.org/mine:1",
            "#!/bin/x\n# syntax=example.org/mine:1",
        ] {
            assert_eq!(
                read(line).1,
                [
                    "the frontend image `example.org/mine:1` cannot be run: only `docker/dockerfile` is built in"
                ],
                "{line}"
            );
        }
    }
}
