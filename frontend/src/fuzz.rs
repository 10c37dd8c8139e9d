//! The body of the fuzz target.

use oci::{Digest, ImageConfig, Platform};
use solver::ImageSource;

use crate::options::{ImageRequest, ImageResolver, LowerOptions, ResolveError, ResolvedImage};
use crate::{SourceFile, lower, parse};

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

/// Parses and lowers arbitrary bytes as a Dockerfile. Mistakes are found or not; it must end, and not panic.
pub fn fuzz_parse(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let length = text.len();
    let file = parse(&SourceFile { name: "Dockerfile".to_owned(), text });
    let spans = file.diagnostics.iter().filter_map(|diagnostic| diagnostic.span);
    for span in spans {
        assert!(span.start <= span.end && span.end <= length, "a span is within its file: {span:?}");
    }
    let options = LowerOptions::new(Platform::new("linux", "amd64", None));
    if let Ok(lowered) = lower(&file, &options, &mut AnyImage) {
        assert!(lowered.target.index() < lowered.graph.vertices().len(), "the target is in the graph");
    }
}
