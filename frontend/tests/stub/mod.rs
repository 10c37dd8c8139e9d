//! A resolver that knows a few images and counts how often it is asked.

use frontend::{
    Diagnostic, ImageRequest, ImageResolver, LowerOptions, Lowered, ResolveError, ResolvedImage, SourceFile,
    TimeSource, lower, parse,
};
use oci::{DiffId, Digest, History, ImageConfig, Platform};
use solver::ImageSource;

/// Knows `busybox`, `rich` (with most of what a config can hold) and `onbuild` (with triggers).
#[derive(Default)]
pub(crate) struct Stub {
    /// The names that each call asked for.
    pub(crate) calls: Vec<Vec<String>>,
}

impl ImageResolver for Stub {
    fn resolve(&mut self, requests: &[ImageRequest]) -> Vec<Result<ResolvedImage, ResolveError>> {
        self.calls.push(requests.iter().map(|request| request.name.clone()).collect());
        requests.iter().map(resolve).collect()
    }

    fn time_of(&mut self, source: &TimeSource) -> Result<Option<i64>, ResolveError> {
        match source {
            TimeSource::Context(name) if name == "context" => Ok(Some(100)),
            TimeSource::Context(_) => Ok(None),
            TimeSource::Git(_) => Ok(Some(200)),
            TimeSource::Http(http) if http.url == "https://h/f" && http.checksum.is_none() => Ok(Some(300)),
            TimeSource::Http(http) => Err(ResolveError { message: format!("{} cannot be had", http.url) }),
        }
    }
}

fn resolve(request: &ImageRequest) -> Result<ResolvedImage, ResolveError> {
    let mut config = ImageConfig {
        os: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        history: vec![History { created_by: Some("base".to_owned()), ..History::default() }],
        ..ImageConfig::default()
    };
    config.config.env = vec!["PATH=/bin".to_owned()];
    config.config.cmd = Some(vec!["sh".to_owned()]);
    match request.name.as_str() {
        "busybox" => {}
        "rich" => {
            config.config.env.push("BASE=b".to_owned());
            "/base".clone_into(&mut config.config.working_dir);
            "app".clone_into(&mut config.config.user);
            config.config.shell = vec!["/bin/sh".to_owned(), "-ec".to_owned()];
            config.config.labels.insert("from".to_owned(), "rich".to_owned());
        }
        "onbuild" => {
            config.config.on_build = vec!["COPY --from=tool /t /t".to_owned(), "RUN use /t".to_owned()];
        }
        name => return Err(ResolveError { message: format!("{name}: not found") }),
    }
    let digest = Digest::sha256(request.name.as_bytes());
    config.rootfs.diff_ids = vec![DiffId(digest.clone())];
    let source = ImageSource {
        name: format!("docker.io/library/{}:latest", request.name),
        manifest: digest.clone(),
        location: request.location.clone(),
        platform: request.platform.clone(),
    };
    Ok(ResolvedImage { source, config, index_or_manifest: digest })
}

/// Options of a plain build.
pub(crate) fn options() -> LowerOptions {
    LowerOptions::new(Platform::new("linux", "amd64", None))
}

/// Parses and lowers `text`.
pub(crate) fn build(text: &str, options: &LowerOptions) -> Result<Lowered, Vec<Diagnostic>> {
    let file = parse(&SourceFile { name: "Dockerfile".to_owned(), text: text.to_owned() });
    lower(&file, options, &mut Stub::default())
}
