//! The bodies of the fuzz targets.

use oci::{Digest, ImageConfig, Platform};
use solver::{ImageSource, VertexDigest};

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
        assert_eq!(outcome(&before), outcome(&source(text)), "the same is built");
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
