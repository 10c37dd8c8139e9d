//! The formatter: one way to write what has no meaning.
//!
//! What is deliberately absent: opinions on what has. No line break is made or removed, nothing is quoted, sorted or
//! wrapped, and the text of shells, comments and here-documents belongs to its author alone.
//!
//! Lines are read by the parser's own reader and taken apart by its own functions (`parts`), so that the two cannot
//! disagree on what an instruction is. What changes in an instruction is a list of edits (`edits`): bytes that no
//! edit names stay as they are. The result is read again, and an instruction that would say something else stays
//! whole as it was written. There are such instructions: `COPY ["a b", "c"]` with a tab between `a` and `b` is no
//! JSON, since that has no control characters in its strings, and three words. With a space it is a list of two.

use crate::heredoc::Heredoc;
use crate::lines::{LineReader, LogicalLine};
use crate::{Diagnostic, SourceFile, parse};

mod edits;
mod parts;

use parts::{PartKind, Parts};

/// What ends a physical line.
const LINE_END: [char; 2] = ['\r', '\n'];

/// Formats a Dockerfile: keywords in capitals, one space between words, continuation lines of words indented by four
/// spaces, JSON lists as `["a", "b"]`, no blanks before instructions or behind them, one blank line at most, a line
/// end at the end.
///
/// The result builds the same: its graph, config and history are those of `source`. Formatting it again changes
/// nothing. Comments, here-documents, everything behind ONBUILD, the lines before the first instruction and the text
/// of commands for a shell are those of `source` byte for byte; each line keeps its line end. An instruction
/// that would say something else, or whose keyword is broken over lines, stays as it is.
///
/// # Errors
/// All errors of the parser: a file that does not parse is not formatted.
pub fn format(source: &SourceFile) -> Result<String, Vec<Diagnostic>> {
    let errors: Vec<_> = parse(source).diagnostics.into_iter().filter(Diagnostic::is_error).collect();
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut reader = LineReader::new(&source.text);
    let mut writer = Writer::new(&source.text);
    while let Some(mut line) = reader.next_logical() {
        let escape = reader.escape();
        let mut parts = Parts::of(&line.text, escape);
        writer.copy_up_to(line.span.start);
        let lines = instruction(&source.text, &line, &parts, escape);
        writer.replace_up_to(line.span.end, &lines);
        reader.retain_announced(&parts.keyword(&line.text), &mut parts.heredocs);
        if !parts.heredocs.is_empty() {
            reader.read_bodies(&mut line, &mut parts.heredocs);
            writer.copy_bodies_up_to(line.span.end);
        }
    }
    Ok(writer.finish())
}

/// The formatted lines of an instruction, without the end of the last and without here-documents.
fn instruction(source: &str, line: &LogicalLine, parts: &Parts, escape: char) -> String {
    let written = &source[line.span.start..line.span.end];
    let edited = edits::apply(source, line, &edits::of_instruction(source, line, parts, escape));
    match (Reading::of(written, escape), Reading::of(&edited, escape)) {
        (Some(before), Some(after)) if before == after => edited,
        _ => written.to_owned(),
    }
}

/// What the parser makes of the lines of one instruction.
#[derive(PartialEq)]
struct Reading {
    parts: Vec<(PartKind, String)>,
    /// Without their bodies.
    heredocs: Vec<Heredoc>,
    below: Option<String>,
}

impl Reading {
    /// Reads `lines`; nothing if something is wrong with them, a line that is too long above all.
    fn of(lines: &str, escape: char) -> Option<Self> {
        // The line below tells whether the last line goes on. An escape with a carriage return and a space behind it
        // continues nothing, and would if these were cut.
        let text = format!("# escape={escape}\n{lines}\nBELOW");
        let mut reader = LineReader::new(&text);
        let line = reader.next_logical()?;
        let below = reader.next_logical().map(|line| line.text);
        let parts = Parts::of(&line.text, escape);
        let meaning = parts.meaning(&line.text);
        reader.diagnostics.is_empty().then_some(Self { parts: meaning, heredocs: parts.heredocs, below })
    }
}

/// Puts the formatted text together.
struct Writer<'a> {
    source: &'a str,
    /// What of the source has been dealt with.
    at: usize,
    text: String,
    /// What of the text ends with the last here-document: a blank line in there is content, even the last one.
    settled: usize,
    is_behind_bodies: bool,
}

impl<'a> Writer<'a> {
    fn new(source: &'a str) -> Self {
        let text = String::with_capacity(source.len() + 1);
        Self { source, at: 0, text, settled: 0, is_behind_bodies: false }
    }

    /// Writes what stands between two instructions: the end of the first one's last line, comments and blank lines.
    fn copy_up_to(&mut self, end: usize) {
        let between = &self.source[self.at..end];
        if self.at == 0 {
            // A comment becomes a directive where the blank line above it goes.
            self.text.push_str(between);
        } else {
            self.copy_lines(between);
        }
        self.at = end;
    }

    fn copy_lines(&mut self, between: &str) {
        let mut lines = between.split_inclusive('\n');
        self.text.extend(lines.next());
        if std::mem::take(&mut self.is_behind_bodies) {
            self.settled = self.text.len();
        }
        let mut was_blank = false;
        for line in lines {
            let is_blank = line.trim().is_empty();
            if !is_blank {
                self.text.push_str(line);
            } else if !was_blank {
                let end = line.trim_end_matches(LINE_END).len();
                self.text.push_str(&line[end..]);
            }
            was_blank = is_blank;
        }
    }

    fn replace_up_to(&mut self, end: usize, text: &str) {
        self.text.push_str(text);
        self.at = end;
    }

    fn copy_bodies_up_to(&mut self, end: usize) {
        self.text.push_str(&self.source[self.at..end]);
        self.at = end;
        self.is_behind_bodies = true;
    }

    /// The whole text, with one line end at its end.
    fn finish(mut self) -> String {
        self.copy_up_to(self.source.len());
        // Blank lines may also be the last of an instruction that goes on up to the end of the file.
        let lines = self.text[self.settled..].split_inclusive('\n').rev();
        let blank: usize = lines.take_while(|line| line.trim().is_empty()).map(str::len).sum();
        self.text.truncate(self.text.len() - blank);
        if !self.text.ends_with('\n') {
            let above = self.text.rfind('\n').map_or("", |at| &self.text[..at]);
            let is_carriage_return_missing = above.ends_with('\r') && !self.text.ends_with('\r');
            self.text.push_str(if is_carriage_return_missing { "\r\n" } else { "\n" });
        }
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before and after.
    type Row = (&'static str, &'static str);

    #[track_caller]
    fn formatted(text: &str) -> String {
        let source = |text: &str| SourceFile { name: "Dockerfile".to_owned(), text: text.to_owned() };
        let once = format(&source(text)).unwrap();
        assert_eq!(format(&source(&once)).unwrap(), once, "{text:?}");
        once
    }

    #[track_caller]
    fn check_files(rows: &[Row]) {
        for (before, after) in rows {
            assert_eq!(formatted(before), *after, "{before:?}");
        }
    }

    /// Each of the texts is what follows a FROM.
    #[track_caller]
    fn check(rows: &[Row]) {
        for (before, after) in rows {
            assert_eq!(formatted(&format!("FROM a\n{before}")), format!("FROM a\n{after}"), "{before:?}");
        }
    }

    #[track_caller]
    fn check_unchanged(texts: &[&'static str]) {
        for text in texts {
            check(&[(text, text)]);
        }
    }

    #[test]
    fn words_stand_one_space_apart() {
        check(&[
            ("  add\ta  b \t/c/  \n", "ADD a b /c/\n"),
            ("Copy a\u{b}b \r c\n", "COPY a b c\n"),
            ("copy  --from=x   --chown=\"a  b\"  a b\n", "COPY --from=x --chown=\"a  b\" a b\n"),
            ("copy --link  --  --a b\n", "COPY --link -- --a b\n"),
            (
                "copy  <<A  <<-\"B\"  /c/\n $a  b  \nA\n\tx \n\tB\n",
                "COPY <<A <<-\"B\" /c/\n $a  b  \nA\n\tx \n\tB\n",
            ),
            ("volume  /a   /b\n", "VOLUME /a /b\n"),
            ("expose 80   81/udp\n", "EXPOSE 80 81/udp\n"),
            ("arg  A   B=\"x  y\"   C\n", "ARG A B=\"x  y\" C\n"),
            ("env  A=1   B='x  y'   C=x\\  y=z\n", "ENV A=1 B='x  y' C=x\\  y=z\n"),
            ("label a=1\u{a0}b=2\n", "LABEL a=1 b=2\n"),
            ("FROM  --platform=linux/amd64  b   as   c\n", "FROM --platform=linux/amd64 b AS c\n"),
            ("from as\nfrom as as as\n", "FROM as\nFROM as AS as\n"),
        ]);
    }

    #[test]
    fn lines_of_words_are_indented() {
        check(&[
            ("COPY a\\\n  b  \\ \t\n\tc\n", "COPY a \\\n    b \\\n    c\n"),
            (
                "COPY \\\n--link \\\n  a  b \\\n  \\\nc\n",
                "COPY \\\n    --link \\\n    a b \\\n    \\\n    c\n",
            ),
            ("ENV A=1 \\\n\n  # c  \n        B=2  C=3\n", "ENV A=1 \\\n\n  # c  \n    B=2 C=3\n"),
            ("LABEL a=b\\ \\\n c=d\n", "LABEL a=b\\  \\\n    c=d\n"),
            ("FROM \\\n b \\\n as \\\n c\n", "FROM \\\n    b \\\n    AS \\\n    c\n"),
            ("run  --network=none \\\n [\"a\"]\n", "RUN --network=none \\\n    [\"a\"]\n"),
            ("healthcheck \\\n  --retries=1 \\\n  none\n", "HEALTHCHECK \\\n    --retries=1 \\\n    NONE\n"),
        ]);
    }

    #[test]
    fn lines_below_a_broken_word_stay() {
        check(&[
            ("copy  a  b\\\nb   \\\n  c  d \n", "COPY a b\\\nb   \\\n  c  d \n"),
            ("env  A=\"x \\\n  y\"  B=1 \n", "ENV A=\"x \\\n  y\"  B=1 \n"),
            ("arg  A  B \\\n  C=\\\n1\n", "ARG A B \\\n  C=\\\n1\n"),
            ("run  --mount=type=cache,\\\ntarget=/x   a\n", "RUN --mount=type=cache,\\\ntarget=/x   a\n"),
        ]);
    }

    #[test]
    fn lists_are_spaced() {
        check(&[
            ("run [\"a\",\"b\"]\n", "RUN [\"a\", \"b\"]\n"),
            ("CMD  [ \"a\\\\\\\"]\" ,\t\"b , c\" ]  \n", "CMD [\"a\\\\\\\"]\", \"b , c\"]\n"),
            (
                "entrypoint [ ]\nSHELL [\"/s\"  ,\"\\u0041\"]\n",
                "ENTRYPOINT []\nSHELL [\"/s\", \"\\u0041\"]\n",
            ),
            ("volume [\"/a  b\",\"/c\"]\n", "VOLUME [\"/a  b\", \"/c\"]\n"),
            ("add --link  [\"a\",\"b\"]\n", "ADD --link [\"a\", \"b\"]\n"),
            ("copy \\\n [\"a\",\"b\"]\n", "COPY \\\n    [\"a\", \"b\"]\n"),
            ("healthcheck --retries=3  cmd  [\"a\",\"b\"]\n", "HEALTHCHECK --retries=3 CMD [\"a\", \"b\"]\n"),
            ("copy  [\"a\",  \\ \n\n  \"b\",\"c\"] \n", "COPY [\"a\",  \\\n\n  \"b\",\"c\"]\n"),
            ("run  [\"a\",b]\n", "RUN [\"a\",b]\n"),
            ("run  [\"a\",\"b\"] && c\n", "RUN [\"a\",\"b\"] && c\n"),
            ("workdir  [\"a\",\"b\"]\n", "WORKDIR [\"a\",\"b\"]\n"),
        ]);
    }

    #[test]
    fn texts_stay() {
        check(&[
            ("run   a  &&  b  \n", "RUN a  &&  b\n"),
            ("run\n", "RUN\n"),
            ("run  a  \\  \n# c  \n\n   b  \\\t\n  c\t\n", "RUN a  \\\n# c  \n\n   b  \\\n  c\n"),
            ("run   \\\n  # c\n  a   b\n", "RUN \\\n  # c\n  a   b\n"),
            (
                "run  --network=none\\\n  --security=sandbox   a  \\\n  b\n",
                "RUN --network=none \\\n  --security=sandbox a  \\\n  b\n",
            ),
            ("run  #a  \\ \n b\n", "RUN #a  \\\n b\n"),
            ("run  cat  <<A  >b  \n x  \nA\n", "RUN cat  <<A  >b\n x  \nA\n"),
            ("cmd  a  b\nentrypoint  a  b\n", "CMD a  b\nENTRYPOINT a  b\n"),
            (
                "healthcheck  --retries=1   cmd   a  b \\\n   c\n",
                "HEALTHCHECK --retries=1 CMD a  b \\\n   c\n",
            ),
            ("env  A  b  c\nlabel  A   b\n", "ENV A  b  c\nLABEL A   b\n"),
            ("maintainer  a  b\nuser  a:b\n", "MAINTAINER a  b\nUSER a:b\n"),
            ("workdir  /a  b \nstopsignal  TERM\n", "WORKDIR /a  b\nSTOPSIGNAL TERM\n"),
        ]);
    }

    #[test]
    fn triggers_are_recorded_as_they_are_written() {
        check(&[
            ("  onbuild   copy   a  b  \n", "ONBUILD copy   a  b  \n"),
            ("  onbuild   --  run  a \n", "ONBUILD --  run  a \n"),
            ("onbuild   run  [\"a\",\"b\"]\n", "ONBUILD run  [\"a\",\"b\"]\n"),
            ("onbuild  \\ \n  env A=1 \\ \n  B=2\n", "ONBUILD \\\n  env A=1 \\ \n  B=2\n"),
            ("onbuild  copy  <<A  /x \n a \nA\n", "ONBUILD copy  <<A  /x \n a \nA\n"),
        ]);
    }

    #[test]
    fn blank_lines_between_instructions_are_one() {
        check(&[
            ("\n\n \t\n# a\n\n\n  # b  \nRUN a\n\n", "\n# a\n\n  # b  \nRUN a\n"),
            ("RUN a\n  \nRUN b\n\n\n\n# c\n \n", "RUN a\n\nRUN b\n\n# c\n"),
            ("RUN <<A\n\n\n\nA\n\n\n\nRUN b", "RUN <<A\n\n\n\nA\n\nRUN b\n"),
            ("RUN a \\\n\n\n\n  b", "RUN a \\\n\n\n\n  b\n"),
            // The last line is what the here-document ends with.
            ("RUN <<' '\n\n ", "RUN <<' '\n\n \n"),
            ("RUN <<' '\n \n\n \n", "RUN <<' '\n \n"),
        ]);
        check_files(&[
            ("\n\n \n# escape=`\n\n\nFROM a", "\n\n \n# escape=`\n\n\nFROM a\n"),
            (
                "# escape=`\n \n#  b\n\n\n  from  a `\n\n\nas b\n",
                "# escape=`\n \n#  b\n\n\nFROM a `\n\n\n    AS b\n",
            ),
        ]);
    }

    #[test]
    fn lines_keep_their_ends() {
        check_files(&[
            ("\u{feff}  from a\r\n\r\n\r\nRUN b", "\u{feff}FROM a\r\n\r\nRUN b\r\n"),
            ("FROM a\r\ncopy a \\ \r\n\tb\nRUN b", "FROM a\r\nCOPY a \\\r\n    b\nRUN b\n"),
            ("FROM a\n\r\nRUN b\r", "FROM a\n\r\nRUN b\r\n"),
            ("FROM a\r\nRUN <<A\r\n x \r\nA", "FROM a\r\nRUN <<A\r\n x \r\nA\r\n"),
            ("FROM a", "FROM a\n"),
        ]);
    }

    #[test]
    fn the_escape_of_the_file_continues_lines() {
        check_files(&[(
            "# escape=`\nfrom a\ncopy  c:\\   `  \n  d:\\\nENV A=x`  y=z B=c:\\   C=1\n",
            "# escape=`\nFROM a\nCOPY c:\\ `\n    d:\\\nENV A=x`  y=z B=c:\\ C=1\n",
        )]);
    }

    #[test]
    fn the_last_line_may_go_on() {
        check(&[
            ("run a  \\", "RUN a  \\\n"),
            ("copy a  b  \\ \n\n \n", "COPY a b  \\ \n"),
            ("RUN a \\\n  # b  \n\n", "RUN a \\\n  # b  \n"),
            // This one does not, and escapes nothing.
            ("env  A=b \\\u{a0}\nRUN b\n", "ENV A=b \\\u{a0}\nRUN b\n"),
        ]);
    }

    #[test]
    fn what_would_say_something_else_stays() {
        check_unchanged(&[
            // A control character is not JSON's.
            "COPY  [\"a\tb\", \"c\"]\n",
            "volume  [\"a\",\u{b}\"b\"]\n",
            // The name of a here-document.
            "copy  <<\"E  F\" /x\ny\nE  F\n",
            // Without what is behind it, the escape would continue the line.
            "run  a\\\u{b}\nRUN b\n",
            "copy a  b\\\r \nRUN b\n",
            // The keyword is not on the first line, or on several.
            "\\\n  run  a\n",
            "r\\\nun  a\n",
            "healthcheck  c\\\nmd  a\n",
            "FROM b a\\\ns  c\n",
        ]);
    }

    #[test]
    fn no_line_becomes_too_long() {
        let list = |length| format!("FROM a\ncmd [\"{}\",\"b\"]\n", "x".repeat(length));
        assert!(formatted(&list(65522)).starts_with("FROM a\nCMD [\"x"));
        assert!(formatted(&list(65523)) == list(65523));
        let words = |length| format!("FROM a\ncopy {}\\\n b\n", "x".repeat(length));
        assert!(formatted(&words(65528)).ends_with("x \\\n    b\n"));
        assert!(formatted(&words(65529)) == words(65529));
    }

    #[test]
    fn what_does_not_parse_is_not_formatted() {
        for text in ["", "# a\n", "ARG A\n", "FROM a\nRUNN b\n", "FROM a\nRUN <<A\n"] {
            let source = SourceFile { name: "Dockerfile".to_owned(), text: text.to_owned() };
            let errors = parse(&source).diagnostics;
            assert_eq!(format(&source), Err(errors), "{text:?}");
        }
    }
}
