//! The second layer of the parser: logical lines become instructions, and instructions stages.

use std::ops::Range;

use crate::diagnostic::Phase;
use crate::flags::{FlagKind, Flags};
use crate::heredoc::{self, Heredoc};
use crate::lines::{LineReader, LogicalLine};
use crate::suggest::{self, Case};
use crate::tree::{Argument, Command, Dockerfile, Instruction, InstructionKind, Pair, Stage, Token};
use crate::words::{self, RawWord};
use crate::{Diagnostic, Edit, Fix, SourceFile, Span};

mod files;
mod health;
mod process;

/// All keywords.
const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Makes a tree of a Dockerfile. It never fails: everything that is wrong, from the first line to the last, is in
/// [`Dockerfile::diagnostics`], and instructions that are wrong are not in the tree.
pub fn parse(source: &SourceFile) -> Dockerfile {
    let mut file = Dockerfile { name: source.name.clone(), ..Dockerfile::default() };
    if source.text.is_empty() {
        file.diagnostics
            .push(Diagnostic::error_without_place("empty-file", "the Dockerfile cannot be empty"));
        return file;
    }
    let mut reader = LineReader::new(&source.text);
    let mut is_empty = true;
    while let Some(line) = reader.next_logical() {
        is_empty = false;
        add_line(&mut file, &mut reader, line);
    }
    if is_empty {
        let message = "file with no instructions";
        let diagnostic = Diagnostic::error("no-instructions", reader.last_line(), message);
        file.diagnostics.push(diagnostic.in_phase(Phase::Lines));
    } else if file.stages.is_empty() && file.diagnostics.is_empty() {
        let message = "dockerfile contains no stages to build";
        file.diagnostics.push(Diagnostic::error("no-stages", reader.last_line(), message));
    }
    file.diagnostics.append(&mut reader.diagnostics);
    file.diagnostics.sort_by_key(|diagnostic| diagnostic.span.map_or(0, |span| span.start));
    file.empty_continuations = std::mem::take(&mut reader.empty_continuations);
    file.directives = reader.into_directives();
    file
}

fn add_line(file: &mut Dockerfile, reader: &mut LineReader<'_>, mut line: LogicalLine) {
    let request = match read_request(reader, &mut line) {
        Ok(request) => request,
        Err(diagnostic) => return file.diagnostics.push(diagnostic),
    };
    if request.keyword == "FROM" {
        // A FROM that is wrong still begins a stage, so that its instructions are read too.
        let keyword = request.keyword_token();
        let comments = request.line.comments.clone();
        let mut stage = Stage { span: request.line.span, keyword, comments, ..Stage::default() };
        file.diagnostics.extend(parse_from(&request, &mut stage).err());
        return file.stages.push(stage);
    }
    match (parse_request(&request), file.stages.last_mut()) {
        (Err(diagnostic), _) => file.diagnostics.push(diagnostic),
        (Ok(instruction), Some(stage)) => stage.instructions.push(instruction),
        (Ok(instruction), None) => match instruction.kind {
            InstructionKind::Arg(_) => file.global_arguments.push(instruction),
            _ => file.diagnostics.push(Diagnostic::error(
                "no-stage",
                instruction.span,
                "no build stage in current context",
            )),
        },
    }
}

/// Reads the text of an ONBUILD trigger; everything in it is said to be at `place`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse_trigger(text: &str, place: Span) -> Result<Vec<Instruction>, Vec<Diagnostic>> {
    let mut reader = LineReader::at_place(text, place);
    let mut instructions = Vec::new();
    let mut diagnostics = Vec::new();
    while let Some(mut line) = reader.next_logical() {
        let instruction = read_request(&mut reader, &mut line).and_then(|request| {
            check_trigger(&request.keyword, request.line.span)?;
            parse_request(&request)
        });
        match instruction {
            Ok(instruction) => instructions.push(instruction),
            Err(diagnostic) => diagnostics.push(diagnostic),
        }
    }
    diagnostics.append(&mut reader.diagnostics);
    if diagnostics.is_empty() { Ok(instructions) } else { Err(diagnostics) }
}

/// Some instructions cannot be triggers.
fn check_trigger(keyword: &str, span: Span) -> Result<(), Diagnostic> {
    let message = match keyword {
        "ONBUILD" => "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned(),
        "FROM" | "MAINTAINER" => format!("{keyword} isn't allowed as an ONBUILD trigger"),
        _ => return Ok(()),
    };
    Err(Diagnostic::error("invalid-trigger", span, message))
}

/// A logical line taken apart: keyword, flags, the rest.
struct Request<'a> {
    line: &'a LogicalLine,
    /// In capitals.
    keyword: String,
    keyword_range: Range<usize>,
    flags: Vec<RawWord>,
    rest: Range<usize>,
    heredocs: Vec<Heredoc>,
    escape: char,
}

impl Request<'_> {
    fn rest(&self) -> &str {
        &self.line.text[self.rest.clone()]
    }

    fn error(&self, code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(code, self.line.span, message).in_phase(Phase::Instructions)
    }

    /// An error that is told before any instruction is looked at on its own.
    fn line_error(&self, code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(code, self.line.span, message).in_phase(Phase::Lines)
    }

    fn keyword_token(&self) -> Token {
        let text = self.line.text[self.keyword_range.clone()].to_owned();
        Token { text, span: self.line.span_of(&self.keyword_range) }
    }

    fn token(&self, word: RawWord) -> Token {
        Token { span: self.line.span_of(&word.range), text: word.text }
    }

    fn flags(&self, known: &[(&'static str, FlagKind)]) -> Result<Flags, Diagnostic> {
        Flags::parse(self.line, &self.flags, known)
    }

    fn no_flags(&self) -> Result<(), Diagnostic> {
        self.flags(&[]).map(|_| ())
    }

    /// The rest as words: a JSON list, or what stands between blanks.
    fn list(&self) -> Result<Vec<Token>, Diagnostic> {
        Ok(self.json()?.unwrap_or_else(|| self.blank_words()))
    }

    fn blank_words(&self) -> Vec<Token> {
        let words = words::blank_words(&self.line.text, self.rest.clone());
        words.into_iter().map(|word| self.token(word)).collect()
    }

    /// The rest as a JSON list of strings. What is not a JSON list is none, but a list must hold strings alone.
    fn json(&self) -> Result<Option<Vec<Token>>, Diagnostic> {
        self.json_in(self.rest.clone())
    }

    fn json_in(&self, range: Range<usize>) -> Result<Option<Vec<Token>>, Diagnostic> {
        let text = &self.line.text[range.clone()];
        let list = json_list(text).map_err(|message| self.line_error("json-not-strings", message))?;
        Ok(list.map(|list| {
            let places =
                string_literals(text).map(|place| range.start + place.start..range.start + place.end);
            let tokens = list.into_iter().zip(places);
            tokens.map(|(text, place)| Token { text, span: self.line.span_of(&place) }).collect()
        }))
    }

    fn command(&self) -> Result<Command, Diagnostic> {
        Ok(match self.json()? {
            Some(list) => Command::Exec(list),
            None => Command::Shell(self.rest_token()),
        })
    }

    fn rest_token(&self) -> Token {
        Token { text: self.rest().to_owned(), span: self.line.span_of(&self.rest) }
    }

    /// The whole rest as the one argument.
    fn single(&self) -> Result<Token, Diagnostic> {
        let argument = self.single_behind_any_flags()?;
        self.no_flags()?;
        Ok(argument)
    }

    /// The same where BuildKit passes over flags.
    fn single_behind_any_flags(&self) -> Result<Token, Diagnostic> {
        if self.rest.is_empty() {
            let message = format!("{} requires exactly one argument", self.keyword);
            return Err(self.error("missing-argument", message));
        }
        Ok(self.rest_token())
    }

    fn at_least_one(&self) -> Diagnostic {
        self.error("missing-argument", format!("{} requires at least one argument", self.keyword))
    }
}

pub(crate) fn json_list(text: &str) -> Result<Option<Vec<String>>, String> {
    if !text.starts_with('[') {
        return Ok(None);
    }
    let read = |text: &str| serde_json::from_str::<Vec<serde_json::Value>>(text).ok();
    let values = read(text).or_else(|| read(&without_lone_surrogates(text)?));
    let Some(values) = values else { return Ok(None) };
    let strings = values.into_iter().map(|value| match value {
        serde_json::Value::String(text) => Some(text),
        _ => None,
    });
    let list: Option<Vec<String>> = strings.collect();
    let message = "when using JSON array syntax, arrays must be comprised of strings only";
    list.map(Some).ok_or_else(|| message.to_owned())
}

/// The text with U+FFFD for each escaped half of a surrogate pair that lacks its other half, as Go reads JSON;
/// `None` where there is no such half. All other text stays as it is, whether or not it is JSON.
fn without_lone_surrogates(text: &str) -> Option<String> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        let are_digits = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        u16::from_str_radix(digits, 16).ok().filter(|_| are_digits)
    };
    let mut changed = String::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = text[at..].find('\\') {
        at += found;
        at += match (unit(at), unit(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                changed += &text[copied..at];
                changed += "\\ufffd";
                copied = at + 6;
                6
            }
            (Some(_), _) => 6,
            // Of what is escaped only a backslash could be taken for the beginning of another escape.
            (None, _) => 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        };
    }
    (copied > 0).then(|| changed + &text[copied..])
}

/// Where the string literals of a JSON list of strings are.
fn string_literals(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut chars = text.char_indices();
    std::iter::from_fn(move || {
        let (start, _) = chars.find(|(_, c)| *c == '"')?;
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => drop(chars.next()),
                '"' => return Some(start..at + 1),
                _ => {}
            }
        }
        None
    })
}

/// Takes a line apart, and reads the bodies of its here-documents.
fn read_request<'a>(
    reader: &mut LineReader<'_>,
    line: &'a mut LogicalLine,
) -> Result<Request<'a>, Diagnostic> {
    let (keyword_range, rest) = words::split_keyword(&line.text);
    let (flags, rest) = words::take_flags(&line.text, rest);
    let keyword = line.text[keyword_range.clone()].to_ascii_uppercase();
    let mut heredocs = Vec::new();
    if may_have_heredocs(&keyword, &line.text[rest.clone()]) {
        heredocs = heredoc::of_line(&line.text);
        reader.retain_announced(&keyword, &mut heredocs);
        reader.read_bodies(line, &mut heredocs);
    }
    let request = Request { line, keyword, keyword_range, flags, rest, heredocs, escape: reader.escape() };
    if KEYWORDS.contains(&request.keyword.as_str()) { Ok(request) } else { Err(unknown_keyword(&request)) }
}

fn unknown_keyword(request: &Request<'_>) -> Diagnostic {
    let written = request.keyword_token();
    if written.text.is_empty() {
        return request
            .error("unknown-instruction", "unknown instruction: ")
            .with_help("the escape at the end of the line continues it, but nothing follows");
    }
    let hint = suggest::did_you_mean(&written.text, KEYWORDS, Case::Ignored);
    let message = format!("unknown instruction: {}{hint}", written.text);
    let fix = suggest::closest(&written.text, KEYWORDS, Case::Ignored)
        .map(|keyword| Fix::guess(format!("write `{keyword}`"), vec![Edit::new(written.span, keyword)]));
    request.error("unknown-instruction", message).at(written.span).with_fix(fix)
}

/// RUN, COPY and ADD that are not JSON, and ONBUILD of them.
pub(crate) fn may_have_heredocs(keyword: &str, rest: &str) -> bool {
    match keyword {
        "RUN" | "COPY" | "ADD" => !matches!(json_list(rest), Ok(Some(_))),
        "ONBUILD" => {
            let (inner, rest_range) = words::split_keyword(rest);
            let (_, rest_range) = words::take_flags(rest, rest_range);
            let inner = rest[inner].to_ascii_uppercase();
            inner != "ONBUILD" && may_have_heredocs(&inner, &rest[rest_range])
        }
        _ => false,
    }
}

fn parse_request(request: &Request<'_>) -> Result<Instruction, Diagnostic> {
    let kind = match request.keyword.as_str() {
        "ADD" => InstructionKind::Add(files::parse_add(request)?),
        "ARG" => InstructionKind::Arg(parse_arg(request)?),
        "CMD" => {
            request.no_flags()?;
            InstructionKind::Cmd(request.command()?)
        }
        "COPY" => InstructionKind::Copy(files::parse_copy(request)?),
        "ENTRYPOINT" => {
            request.no_flags()?;
            InstructionKind::Entrypoint(request.command()?)
        }
        "ENV" => InstructionKind::Env(parse_pairs(request)?),
        "EXPOSE" => InstructionKind::Expose(parse_expose(request)?),
        "HEALTHCHECK" => InstructionKind::Healthcheck(health::parse_healthcheck(request)?),
        "LABEL" => InstructionKind::Label(parse_pairs(request)?),
        "MAINTAINER" => InstructionKind::Maintainer(request.single()?),
        "ONBUILD" => InstructionKind::Onbuild(process::parse_onbuild(request)?),
        "RUN" => InstructionKind::Run(process::parse_run(request)?),
        "SHELL" => InstructionKind::Shell(process::parse_shell(request)?),
        "STOPSIGNAL" => InstructionKind::StopSignal(request.single_behind_any_flags()?),
        "USER" => InstructionKind::User(request.single()?),
        "VOLUME" => InstructionKind::Volume(parse_volume(request)?),
        "WORKDIR" => InstructionKind::Workdir(request.single()?),
        // FROM is taken by the caller; in a trigger it was refused.
        _ => return Err(request.error("misplaced-from", "FROM cannot stand here")),
    };
    Ok(Instruction {
        span: request.line.span,
        keyword: request.keyword_token(),
        comments: request.line.comments.clone(),
        text: request.line.text.clone(),
        rest: request.line.span_of(&request.rest),
        kind,
    })
}

fn parse_from(request: &Request<'_>, stage: &mut Stage) -> Result<(), Diagnostic> {
    let mut words = request.blank_words().into_iter();
    let name = match (words.next(), words.next(), words.next(), words.next()) {
        (Some(base), None, None, None) => {
            stage.base = base;
            None
        }
        (Some(base), Some(keyword), Some(name), None) => {
            stage.base = base;
            stage.as_keyword = Some(keyword);
            stage.written_name = Some(name);
            stage.written_name.as_ref()
        }
        _ => return Err(wrong_from(request)),
    };
    if let Some(name) = name {
        let is_as = stage.as_keyword.as_ref().is_some_and(|word| word.text.eq_ignore_ascii_case("as"));
        if !is_as {
            return Err(wrong_from(request));
        }
        let lower = name.text.to_lowercase();
        if !is_stage_name(&lower) {
            let message = format!(
                "invalid name for build stage: {}, name can't start with a number or contain symbols",
                crate::quote::go_quote(&name.text)
            );
            return Err(request.error("invalid-stage-name", message).at(name.span));
        }
        stage.name = Some(Token { text: lower, span: name.span });
    }
    let mut flags = request.flags(&[("platform", FlagKind::Text)])?;
    stage.platform = flags.text("platform");
    Ok(())
}

fn wrong_from(request: &Request<'_>) -> Diagnostic {
    request.error("from-arguments", "FROM requires either one or three arguments")
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'))
}

/// Like BuildKit, which passes over flags of ARG.
fn parse_arg(request: &Request<'_>) -> Result<Vec<Argument>, Diagnostic> {
    let words = words::quoted_words(&request.line.text, request.rest.clone(), request.escape);
    if words.is_empty() {
        return Err(request.at_least_one());
    }
    let arguments = words.into_iter().map(|word| {
        let Some(at) = word.text.find('=') else {
            return Ok(Argument { name: request.token(word), default: None });
        };
        if at == 0 {
            return Err(request.error("blank-name", "ARG names can not be blank"));
        }
        let (name, value) = split_pair(&word, at);
        Ok(Argument { name: request.token(name), default: Some(request.token(value)) })
    });
    arguments.collect()
}

fn split_pair(word: &RawWord, at: usize) -> (RawWord, RawWord) {
    // Up to the first `=` a word is as it stands in the line.
    let middle = word.range.start + at;
    let value = RawWord { text: word.text[at + 1..].to_owned(), range: middle + 1..word.range.end };
    (RawWord { text: word.text[..at].to_owned(), range: word.range.start..middle }, value)
}

/// ENV and LABEL: `name=value …`, or the old form `name rest of the line`.
fn parse_pairs(request: &Request<'_>) -> Result<Vec<Pair>, Diagnostic> {
    let keyword = &request.keyword;
    let words = words::quoted_words(&request.line.text, request.rest.clone(), request.escape);
    let Some(first) = words.first() else {
        request.no_flags()?;
        return Err(request.at_least_one());
    };
    if !first.text.contains('=') {
        let rest = request.rest();
        let Some(end) = rest.find(words::is_blank) else {
            return Err(request.line_error("pair-arguments", format!("{keyword} must have two arguments")));
        };
        let middle = request.rest.start + end;
        let blanks: usize = rest[end..].chars().take_while(|c| words::is_blank(*c)).map(char::len_utf8).sum();
        let value = middle + blanks..request.rest.end;
        request.no_flags()?;
        return Ok(vec![Pair {
            is_legacy: true,
            name: request.token(RawWord { text: rest[..end].to_owned(), range: request.rest.start..middle }),
            value: request.token(RawWord { text: request.line.text[value.clone()].to_owned(), range: value }),
        }]);
    }
    let pairs = words.into_iter().map(|word| match word.text.find('=') {
        None => {
            let word = crate::quote::go_quote(&word.text);
            let message = format!("Syntax error - can't find = in {word}. Must be of the form: name=value");
            Err(request.line_error("missing-equals", message))
        }
        Some(0) => Err(request.error("blank-name", format!("{keyword} names can not be blank"))),
        Some(at) => {
            let (name, value) = split_pair(&word, at);
            Ok(Pair { name: request.token(name), value: request.token(value), is_legacy: false })
        }
    });
    // What is wrong with the words is told first, whatever the flags are.
    let pairs: Result<Vec<Pair>, Diagnostic> = pairs.collect();
    let pairs = pairs?;
    request.no_flags()?;
    Ok(pairs)
}

fn parse_expose(request: &Request<'_>) -> Result<Vec<Token>, Diagnostic> {
    let words = request.blank_words();
    if words.is_empty() {
        return Err(request.at_least_one());
    }
    request.no_flags()?;
    Ok(words)
}

fn parse_volume(request: &Request<'_>) -> Result<Vec<Token>, Diagnostic> {
    let mut words = request.list()?;
    if words.is_empty() {
        return Err(request.at_least_one());
    }
    request.no_flags()?;
    for word in &mut words {
        word.text = word.text.trim().to_owned();
        if word.text.is_empty() {
            let message = "VOLUME specified can not be an empty string";
            return Err(request.error("empty-volume", message));
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::json_list;

    #[test]
    fn a_lone_surrogate_is_a_replacement_character() {
        let read = |text: &str| json_list(text).expect("no list of something else");
        for (text, wanted) in [
            (r#"["\ud800"]"#, "\u{fffd}"),
            (r#"["a\uDFFFb"]"#, "a\u{fffd}b"),
            (r#"["\ud83d\ude00\ud800"]"#, "\u{1f600}\u{fffd}"),
            (r#"["\ud800\ud83d\ude00"]"#, "\u{fffd}\u{1f600}"),
            (r#"["\ude00\ud83d\u0041"]"#, "\u{fffd}\u{fffd}A"),
            (r#"["\\ud800 \ud800"]"#, "\\ud800 \u{fffd}"),
            (r#"["\\ud800"]"#, "\\ud800"),
        ] {
            assert_eq!(read(text), Some(vec![wanted.to_owned()]), "{text}");
        }
        for text in [r#"["\ud80"]"#, r#"["\ud800"#, r#"["\ud800", \]"#, r#"["\ud800\"]"#, r#"["\ud800é\é"]"#]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
