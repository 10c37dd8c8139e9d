//! What went wrong, for people: the one place that renders errors.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;

use frontend::{Diagnostic, SourceFile};

/// The words that BuildKit's users look for.
const SOLVE: &str = "failed to build: failed to solve: ";

/// Why the program ends without what was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: FailureKind,
    message: String,
    hints: Vec<String>,
    /// What stands above the message: excerpts, the last output of a step.
    details: String,
}

/// Whose fault it is, which makes the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The build, or what a command was to do, failed.
    Build,
    /// The command line or a configuration file is wrong.
    Usage,
    /// The machine does not have or allow what is needed.
    Environment,
    /// A signal of this number ended it.
    Signal(i32),
    /// What was to be run in an image was not: as with docker, a code of its own tells that from the command's.
    NotRun,
}

/// Failures that are told together.
#[derive(Debug, Default)]
pub(crate) struct Failures(Vec<Failure>);

impl Failures {
    /// What there is of a result; its failure is kept.
    pub(crate) fn keep<T>(&mut self, result: Result<T, Failure>) -> Option<T> {
        result.map_err(|failure| self.0.push(failure)).ok()
    }

    /// The value of a flag, or nothing in its place; the mistake is kept.
    pub(crate) fn value<T: Default>(&mut self, result: Result<T, String>) -> T {
        self.keep(result.map_err(Failure::usage)).unwrap_or_default()
    }

    /// Whether nothing has failed.
    pub(crate) fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them as one; to be asked for where something has failed.
    pub(crate) fn end(self) -> Failure {
        Failure::all(self.0).expect("something has failed")
    }
}

impl FailureKind {
    /// The exit code of the program.
    pub(crate) fn exit_code(self) -> i32 {
        match self {
            Self::Build => 1,
            Self::Usage => 2,
            Self::Environment => 3,
            // As shells have it.
            Self::Signal(number) => 128 + number,
            Self::NotRun => 125,
        }
    }
}

impl Failure {
    /// A failure with a message.
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hints: Vec::new(), details: String::new() }
    }

    /// A wrong command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Usage, message)
    }

    /// Several failures as one, of the first one's kind: the last message is the message. `None` if there are none.
    pub(crate) fn all(failures: impl IntoIterator<Item = Self>) -> Option<Self> {
        failures.into_iter().reduce(|all, next| {
            let details = format!("{}\n{}", all.render(), next.details);
            Self { kind: all.kind, details, ..next }
        })
    }

    /// An error of a library with its causes.
    pub(crate) fn from_error(kind: FailureKind, error: &dyn Error) -> Self {
        Self::new(kind, chain(error))
    }

    /// A failed solve or what belongs to it.
    pub(crate) fn solve(message: &str) -> Self {
        Self::new(FailureKind::Build, format!("{SOLVE}{message}"))
    }

    /// The mistakes of a Dockerfile that cannot be built.
    pub(crate) fn diagnostics(file: &SourceFile, diagnostics: &[Diagnostic]) -> Self {
        let mistakes = Self::mistakes(file, diagnostics);
        Self { message: Self::solve(&mistakes.message).message, ..mistakes }
    }

    /// Everything that is wrong with a Dockerfile: one excerpt for each mistake, the last mistake as the message.
    pub(crate) fn mistakes(file: &SourceFile, diagnostics: &[Diagnostic]) -> Self {
        let mut errors: Vec<&Diagnostic> =
            diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).collect();
        errors.sort_by_key(|error| error.span.map_or(0, |span| span.start));
        let mut details = String::new();
        let mut hints = Vec::new();
        for (index, diagnostic) in errors.iter().enumerate() {
            if let Some(span) = diagnostic.span {
                details += &excerpt(file, span.first_line, span.last_line);
            }
            // The last one stands beneath its excerpt as the program's last line.
            if index + 1 < errors.len() {
                let _ = writeln!(details, "ERROR: {}\n", diagnostic.message);
            }
            hints.extend(diagnostic.help.clone());
        }
        let message = errors
            .last()
            .map_or_else(|| "the Dockerfile cannot be built".to_owned(), |error| error.summary());
        Self { hints, details, ..Self::new(FailureKind::Build, message) }
    }

    /// Whether the command line is what is wrong.
    pub(crate) fn is_usage(&self) -> bool {
        self.kind == FailureKind::Usage
    }

    /// The signal that was the end, if one was.
    pub(crate) fn signal(&self) -> Option<i32> {
        match self.kind {
            FailureKind::Signal(number) => Some(number),
            _ => None,
        }
    }

    /// The same as another kind.
    #[must_use]
    pub(crate) fn of_kind(self, kind: FailureKind) -> Self {
        Self { kind, ..self }
    }

    /// The same with a hint.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The same with hints.
    #[must_use]
    pub(crate) fn with_hints(mut self, hints: impl IntoIterator<Item = String>) -> Self {
        self.hints.extend(hints);
        self
    }

    /// The same with a hint for a machine that does not play along, where there is no better one.
    #[must_use]
    pub(crate) fn with_environment_hint(self, hint: impl FnOnce() -> String) -> Self {
        let is_needed = self.kind == FailureKind::Environment && self.hints.is_empty();
        if is_needed { self.with_hint(hint()) } else { self }
    }

    /// The same with something above its message.
    #[must_use]
    pub(crate) fn with_details(mut self, details: &str) -> Self {
        self.details += details;
        self
    }

    /// The same with something at the very top.
    #[must_use]
    pub(crate) fn after(mut self, text: &str) -> Self {
        self.details.insert_str(0, text);
        self
    }

    /// The message without the words that every failed solve begins with.
    pub(crate) fn cause(&self) -> &str {
        self.message.strip_prefix(SOLVE).unwrap_or(&self.message)
    }

    /// What may help.
    pub(crate) fn hints(&self) -> &[String] {
        &self.hints
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> i32 {
        self.kind.exit_code()
    }

    /// All of it as text.
    pub(crate) fn render(&self) -> String {
        let mut text = format!("{}ERROR: {}\n", self.details, self.message);
        for hint in &self.hints {
            let _ = writeln!(text, "hint: {hint}");
        }
        text
    }

    /// Writes it to standard error.
    pub(crate) fn print(&self) {
        // Nobody is left to be told if standard error is closed.
        let _ = std::io::stderr().lock().write_all(self.render().as_bytes());
    }
}

/// Whether a failed step is the build's own fault, or that of a machine without room or without a program.
pub(crate) fn kind_of(error: &(dyn Error + 'static)) -> FailureKind {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let is_disk = error.downcast_ref::<std::io::Error>().is_some_and(|error| {
            use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
            matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
        });
        let is_without_program = error.downcast_ref::<worker::WorkerError>().is_some_and(|error| {
            use worker::WorkerError::{NoNetwork, NotExecuted, Remote};
            matches!(error, Remote(worker::RemoteError::NoGit) | NoNetwork(_) | NotExecuted { .. })
        });
        if is_disk || is_without_program {
            return FailureKind::Environment;
        }
        cause = error.source();
    }
    FailureKind::Build
}

/// An error and its causes, in one line. A cause that the text before it repeats already is left out.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

/// Lines of a Dockerfile with those around them, in BuildKit's form:
///
/// ```text
/// Dockerfile:2
/// --------------------
///    1 |     FROM busybox
///    2 | >>> COPY a.txt /
/// --------------------
/// ```
pub(crate) fn excerpt(file: &SourceFile, first: u32, last: u32) -> String {
    let lines: Vec<&str> =
        file.text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
    let (first, last) = (first as usize, (last as usize).min(lines.len()));
    if first == 0 || first > last {
        return String::new();
    }
    let (mut start, mut end) = (first, last);
    let around = if first == last { 4 } else { 2 };
    let mut shown = 0;
    while shown < around {
        if start > 1 {
            start -= 1;
            shown += 1;
        }
        if end != lines.len() {
            end += 1;
            shown += 1;
        }
        shown += 1;
    }
    let rule = "--------------------";
    let mut text = format!("{}:{first}\n{rule}\n", file.name);
    for (number, line) in lines.iter().enumerate().take(end).skip(start - 1) {
        let number = number + 1;
        let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
        let _ = writeln!(text, " {number:>3} | {mark} {line}");
    }
    let _ = writeln!(text, "{rule}");
    text
}

#[cfg(test)]
mod tests {
    use frontend::{Severity, Span};

    use super::*;

    fn file() -> SourceFile {
        SourceFile { name: "Dockerfile".into(), text: "FROM busybox\nEXPOSE 80/ftp\n".into() }
    }

    #[test]
    fn an_excerpt_looks_like_buildkits() {
        let expected = "\
Dockerfile:2
--------------------
   1 |     FROM busybox
   2 | >>> EXPOSE 80/ftp
   3 |     \n--------------------
";
        assert_eq!(excerpt(&file(), 2, 2), expected);
        assert_eq!(excerpt(&file(), 9, 9), "");
    }

    #[test]
    fn all_mistakes_are_told_and_warnings_are_not() {
        let span = |line| Span { start: 0, end: 0, first_line: line, last_line: line };
        let mut warning = Diagnostic::error("c", span(1), "careful");
        warning.severity = Severity::Warning;
        let diagnostics = [
            Diagnostic::error("a", span(1), "first"),
            warning,
            Diagnostic::error("b", span(2), "second").with_help("write it right"),
        ];
        let text = Failure::diagnostics(&file(), &diagnostics).render();
        assert!(text.starts_with("Dockerfile:1\n"), "{text}");
        assert!(text.contains("ERROR: first\n\nDockerfile:2\n"), "{text}");
        assert!(
            text.ends_with("ERROR: failed to build: failed to solve: second\nhint: write it right\n"),
            "{text}"
        );
    }

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::num::ParseIntError);
        let error = Outer("x".parse::<u8>().unwrap_err());
        assert_eq!(chain(&error), "outer: invalid digit found in string");
    }
}
