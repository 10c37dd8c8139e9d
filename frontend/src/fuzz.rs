//! The bodies of the fuzz targets.

use std::collections::HashMap;

use oci::{Digest, ImageConfig, Platform};
use solver::{ImageSource, VertexDigest};

use crate::expand::{Expander, MAX_GROWTH_BYTES, Quotes};
use crate::options::{ImageRequest, ImageResolver, LowerOptions, Lowered, ResolveError, ResolvedImage};
use crate::{Diagnostic, Rule, SourceFile, Span, apply_fixes, check, format, lower, parse};

/// Answers every request with an image that has a layer, an environment and triggers.
struct AnyImage;

impl ImageResolver for AnyImage {
    fn resolve(&mut self, requests: &[ImageRequest]) -> Vec<Result<ResolvedImage, ResolveError>> {
        requests.iter().map(image).collect()
    }
}

fn image(request: &ImageRequest) -> Result<ResolvedImage, ResolveError> {
    if request.name.starts_with("missing") {
        return Err(ResolveError { message: format!("{}: not found", request.name) });
    }
    let digest = Digest::sha256(request.name.as_bytes());
    let mut config = ImageConfig {
        os: request.platform.os.clone(),
        architecture: request.platform.architecture.clone(),
        ..ImageConfig::default()
    };
    config.config.env = vec!["A=a".to_owned(), "B".to_owned()];
    config.config.on_build = vec!["COPY --from=other a <<X /b\n$A\nX".to_owned(), "RUN true".to_owned()];
    config.rootfs.diff_ids = vec![oci::DiffId(digest.clone())];
    let source = ImageSource {
        name: request.name.clone(),
        manifest: digest.clone(),
        location: request.location.clone(),
        platform: request.platform.clone(),
    };
    Ok(ResolvedImage { source, config, index_or_manifest: digest })
}

fn source(text: String) -> SourceFile {
    SourceFile { name: "Dockerfile".to_owned(), text }
}

/// Parses and lowers arbitrary bytes as a Dockerfile. Mistakes are found or not; it must end, and not panic.
pub fn fuzz_parse(data: &[u8]) {
    let source = source(String::from_utf8_lossy(data).into_owned());
    let length = source.text.len();
    let file = parse(&source);
    let spans = file.diagnostics.iter().filter_map(|diagnostic| diagnostic.span);
    for span in spans {
        assert!(span.start <= span.end && span.end <= length, "a span is within its file: {span:?}");
    }
    if let Ok(lowered) = lower(&file, &options(), &mut AnyImage) {
        assert!(lowered.target.index() < lowered.graph.vertices().len(), "the target is in the graph");
    }
}

fn options() -> LowerOptions {
    LowerOptions::new(Platform::new("linux", "amd64", None))
}

/// Formats arbitrary bytes as a Dockerfile. What can be formatted builds the same as before, and is not changed when it
/// is formatted again.
pub fn fuzz_format(data: &[u8]) {
    let before = source(String::from_utf8_lossy(data).into_owned());
    let Ok(text) = format(&before) else { return };
    let after = source(text);
    assert_eq!(format(&after).as_ref(), Ok(&after.text), "the second time changes nothing");
    assert_eq!(outcome(&before), outcome(&after), "the same is built");
}

/// The vertices, which one is the target, and the config.
type Built = (Vec<VertexDigest>, usize, ImageConfig);

/// What is built; where nothing is, all mistakes, each with its code and its message.
fn outcome(source: &SourceFile) -> Result<Built, Vec<(&'static str, String)>> {
    let built = |lowered: Lowered| {
        let vertices = lowered.graph.vertices().iter().map(|vertex| vertex.digest).collect();
        (vertices, lowered.target.index(), lowered.config)
    };
    let mistake = |diagnostic: Diagnostic| (diagnostic.code, diagnostic.message);
    let lowered = lower(&parse(source), &options(), &mut AnyImage);
    // Some warnings are about the layout itself.
    let mistakes =
        |list: Vec<Diagnostic>| list.into_iter().filter(Diagnostic::is_error).map(mistake).collect();
    lowered.map(built).map_err(mistakes)
}

/// Looks for what breaks lint rules in arbitrary bytes, and fixes it. Places are within the text, fixes lead to a text
/// that parses where it did before, they come to an end, and those that only change how a thing is said build the same.
pub fn fuzz_lint(data: &[u8]) {
    let before = source(String::from_utf8_lossy(data).into_owned());
    let findings = check(&parse(&before), &options(), &mut AnyImage);
    for place in findings.iter().flat_map(places) {
        let is_within = before.text.get(place.start..place.end).is_some();
        assert!(is_within, "a place is within its file: {place:?}");
    }
    let is_saying = |diagnostic: &Diagnostic| {
        !matches!(diagnostic.rule, Some(Rule::MaintainerDeprecated | Rule::JsonArgsRecommended))
    };
    let saying: Vec<Diagnostic> = findings.iter().filter(|found| is_saying(found)).cloned().collect();
    if let Some(text) = apply_fixes(&before.text, &saying) {
        // Messages have names in them, whose case a fix may change.
        let codes = |mistakes: Vec<(&'static str, String)>| -> Vec<&'static str> {
            mistakes.into_iter().map(|(code, _)| code).collect()
        };
        let built = |source| outcome(source).map_err(codes);
        assert_eq!(built(&before), built(&source(text)), "the same is built");
    }
    let parses = |source: &SourceFile| !parse(source).diagnostics.iter().any(Diagnostic::is_error);
    let (mut fixed, mut findings) = (before.clone(), findings);
    for round in 0.. {
        let Some(text) = apply_fixes(&fixed.text, &findings) else { break };
        assert!(round < 5, "fixes come to an end: {text:?}");
        fixed = source(text);
        findings = check(&parse(&fixed), &options(), &mut AnyImage);
        assert!(parses(&fixed) || !parses(&before), "what parsed still does: {:?}", fixed.text);
    }
}

/// All places that a diagnostic names.
fn places(diagnostic: &Diagnostic) -> Vec<Span> {
    let edits = diagnostic.fix.iter().flat_map(|fix| fix.edits.iter().map(|edit| edit.span));
    edits.chain(diagnostic.span).chain(diagnostic.focus.as_deref().copied()).collect()
}

/// Expands an arbitrary text with arbitrary variables. Mistakes are found or not; it must end, not panic, and keep to
/// what is true of all texts.
///
/// The data are a line that says how to expand, lines `NAME=value`, an empty line, and the text. In the first line a
/// backtick makes itself the escape character, `k` keeps quotes, `l` makes them characters like any other, and `u`
/// keeps references to what is not set.
pub fn fuzz_expand(data: &[u8]) {
    let data = String::from_utf8_lossy(data);
    let (how, mut text) = data.split_once('\n').unwrap_or(("", &data));
    let mut variables = HashMap::new();
    while let Some((line, rest)) = text.split_once('\n') {
        text = rest;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        variables.insert(name.to_owned(), value.to_owned());
    }
    let expander = expander_of(how);
    check_expansion(expander, text, &variables);
    check_unset(expander, text);
    check_quoted(expander, text, &variables);
}

fn expander_of(how: &str) -> Expander {
    let quotes = match how.chars().find(|c| matches!(c, 'k' | 'l')) {
        Some('k') => Quotes::Keep,
        Some(_) => Quotes::Literal,
        None => Quotes::Remove,
    };
    let escape = if how.contains('`') { '`' } else { '\\' };
    Expander { escape, quotes, keep_unset: how.contains('u') }
}

/// Text and words tell the same, within the limit. Without a `$` no variable matters, and what has nothing to expand
/// stays as it is.
fn check_expansion(expander: Expander, text: &str, variables: &HashMap<String, String>) {
    let result = expander.text(text, variables);
    match (&result, expander.words(text, variables)) {
        (Ok(whole), Ok(words)) => {
            assert!(whole.len() <= text.len() + MAX_GROWTH_BYTES, "{} bytes", whole.len());
            check_words(whole, &words);
        }
        (Err(cause), Err(other)) => assert_eq!(*cause, other),
        (_, words) => panic!("{result:?} as a text, {words:?} as words"),
    }
    if !text.contains('$') {
        assert_eq!(result, expander.text(text, &HashMap::new()), "there are no variables in it");
    }
    if !text.contains(['$', '\'', '"', expander.escape]) {
        assert_eq!(result.as_deref(), Ok(text), "there is nothing to expand");
    }
}

/// Words are parts of the text in its order, with white space alone between them.
fn check_words(text: &str, words: &[String]) {
    let mut rest = text;
    for word in words {
        assert!(!word.is_empty(), "a word has at least a character");
        // The first match is the right one, or both are white space.
        let parts = rest.split_once(word.as_str());
        let (blanks, behind) = parts.unwrap_or_else(|| panic!("{word:?} is not in {rest:?}"));
        assert_eq!(blanks.trim(), "", "words are not separated by anything else");
        rest = behind;
    }
    assert_eq!(rest.trim(), "", "no word is left out");
}

/// With nothing set, references that are to stay do, to the letter. An escape within braces is used up, though, and
/// `${a//b/c}` becomes `${a/b/c}`, as it does in BuildKit.
fn check_unset(expander: Expander, text: &str) {
    let loses_quotes = expander.quotes == Quotes::Remove && text.contains(['\'', '"']);
    if loses_quotes || text.contains(expander.escape) || text.contains("//") {
        return;
    }
    let expander = Expander { keep_unset: true, ..expander };
    if let Ok(kept) = expander.text(text, &HashMap::new()) {
        assert_eq!(kept, text, "nothing is set");
    }
}

/// Quotes keep a text, and hold it together as one word.
fn check_quoted(expander: Expander, text: &str, variables: &HashMap<String, String>) {
    let expander = Expander { quotes: Quotes::Remove, ..expander };
    let special = ['"', '$', expander.escape];
    let escaped =
        text.chars().flat_map(|c| special.contains(&c).then_some(expander.escape).into_iter().chain([c]));
    let double_quoted = format!("\"{}\"", escaped.collect::<String>());
    let single_quoted = (!text.contains('\'')).then(|| format!("'{text}'"));
    // There are no empty words.
    let word: Vec<String> = (!text.is_empty()).then(|| text.to_owned()).into_iter().collect();
    for quoted in single_quoted.into_iter().chain([double_quoted]) {
        assert_eq!(expander.text(&quoted, variables).as_deref(), Ok(text), "{quoted}");
        assert_eq!(expander.words(&quoted, variables).as_ref(), Ok(&word), "{quoted}");
    }
}
