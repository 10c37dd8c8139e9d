//! Images and named contexts: what a name that is no stage stands for.

use std::collections::{BTreeMap, HashMap};

use oci::{ImageReference, Platform};
use solver::ImageLocation;

use crate::options::{ImageRequest, ImageResolver, NamedContext, ResolvedImage};
use crate::quote::go_quote;
use crate::suggest::{self, Case};
use crate::{Diagnostic, Span};

/// Names that are often meant.
const COMMON_IMAGES: [&str; 16] = [
    "alpine", "busybox", "centos", "debian", "docker", "fedora", "golang", "httpd", "mysql", "nginx", "node",
    "php", "postgres", "python", "redis", "ubuntu",
];

/// What a stage or a copy starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image of [`Images`].
    Image(usize),
    /// A local named context.
    Context(String),
}

/// All images that are needed, each once.
pub(super) struct Images<'a> {
    /// What a name that leads nowhere may have been meant for.
    stage_names: Vec<&'a str>,
    contexts: HashMap<String, (&'a str, &'a NamedContext)>,
    entries: Vec<Entry>,
    index: HashMap<(ImageLocation, String), usize>,
}

struct Entry {
    request: ImageRequest,
    span: Span,
    wanted: bool,
    resolved: bool,
    image: Option<ResolvedImage>,
}

impl<'a> Images<'a> {
    pub(super) fn new(contexts: &'a BTreeMap<String, NamedContext>, stage_names: Vec<&'a str>) -> Self {
        let contexts = contexts.iter().map(|(name, context)| (normal_name(name), (name.as_str(), context)));
        Self { stage_names, contexts: contexts.collect(), entries: Vec::new(), index: HashMap::new() }
    }

    /// The named context that replaces `name`, if there is one.
    pub(super) fn context(&mut self, name: &str, platform: &Platform, span: Span) -> Option<Base> {
        let (key, context) = self.find_context(name, platform)?;
        let name = normal_name(name);
        let (location, shown) = match context {
            NamedContext::Local => return Some(Base::Context(key.to_owned())),
            NamedContext::Image(reference) => {
                (ImageLocation::Registry(reference.clone().with_default_tag()), reference.familiar())
            }
            NamedContext::OciLayout { path, tag_or_digest } => {
                let (path, tag_or_digest) = (path.clone(), tag_or_digest.clone());
                (ImageLocation::OciLayout { path, tag_or_digest }, name)
            }
        };
        Some(Base::Image(self.entry(location, platform, &shown, span)))
    }

    fn find_context(&self, name: &str, platform: &Platform) -> Option<(&'a str, &'a NamedContext)> {
        if matches!(name, "scratch" | "context") || self.contexts.is_empty() {
            return None;
        }
        let name = normal_name(name);
        let with_platform = format!("{name}::{platform}");
        self.contexts.get(&with_platform).or_else(|| self.contexts.get(&name)).copied()
    }

    /// What a name that is no stage stands for.
    pub(super) fn base(&mut self, name: &str, platform: &Platform, span: Span) -> Result<Base, Diagnostic> {
        if name == "scratch" {
            return Ok(Base::Scratch);
        }
        if let Some(base) = self.context(name, platform, span) {
            return Ok(base);
        }
        let reference: ImageReference = name.parse().map_err(|error: oci::ReferenceError| {
            // Capitals alone may be wrong; what else is no name is no name of a stage either.
            let is_near = name.to_lowercase().parse::<ImageReference>().is_ok();
            let stages = self.stage_names.iter().copied().filter(|_| is_near);
            let hint = suggest::did_you_mean(name, stages, Case::Sensitive);
            let message = format!("failed to parse stage name {}: {error}{hint}", go_quote(name));
            Diagnostic::error("invalid-reference", span, message)
        })?;
        let location = ImageLocation::Registry(reference.with_default_tag());
        Ok(Base::Image(self.entry(location, platform, name, span)))
    }

    fn entry(&mut self, location: ImageLocation, platform: &Platform, name: &str, span: Span) -> usize {
        let key = (location, platform.to_string());
        if let Some(&at) = self.index.get(&key) {
            return at;
        }
        let request =
            ImageRequest { location: key.0.clone(), platform: platform.clone(), name: name.to_owned() };
        self.index.insert(key, self.entries.len());
        self.entries.push(Entry { request, span, wanted: false, resolved: false, image: None });
        self.entries.len() - 1
    }

    /// Asks for an image in the next batch.
    pub(super) fn want(&mut self, image: usize) {
        self.entries[image].wanted = true;
    }

    /// Whether the image has been asked for, with or without an answer.
    pub(super) fn is_resolved(&self, image: usize) -> bool {
        self.entries[image].resolved
    }

    /// How an image differs from the platform that was wanted, in words; `None` if it does not, or stands for a named
    /// context.
    pub(super) fn mismatch(&self, image: usize, name: &str, wanted: &Platform) -> Option<String> {
        let config = &self.image(image)?.config;
        let differs = config.os != wanted.os || config.architecture != wanted.architecture;
        if !differs || self.find_context(name, wanted).is_some() {
            return None;
        }
        let found = Platform::new(&config.os, &config.architecture, config.variant.as_deref());
        let message = format!(
            "Base image {name} was pulled with platform {}, expected {} for current build",
            go_quote(&found.to_string()),
            go_quote(&wanted.to_string())
        );
        Some(message)
    }

    /// The same for an image that is known by its name.
    pub(super) fn mismatch_of(&self, name: &str, wanted: &Platform) -> Option<String> {
        let reference: ImageReference = name.parse().ok()?;
        let location = ImageLocation::Registry(reference.with_default_tag());
        self.mismatch(*self.index.get(&(location, wanted.to_string()))?, name, wanted)
    }

    /// The image, if it could be had.
    pub(super) fn image(&self, image: usize) -> Option<&ResolvedImage> {
        self.entries[image].image.as_ref()
    }

    /// Resolves everything that is wanted and not yet known, at once. `None` where there is nothing of that kind,
    /// else what went wrong.
    pub(super) fn resolve(&mut self, resolver: &mut dyn ImageResolver) -> Option<Vec<Diagnostic>> {
        let open = |entry: &&mut Entry| entry.wanted && !entry.resolved;
        let requests: Vec<ImageRequest> =
            self.entries.iter_mut().filter(open).map(|entry| entry.request.clone()).collect();
        if requests.is_empty() {
            return None;
        }
        let mut answers = resolver.resolve(&requests).into_iter();
        let mut diagnostics = Vec::new();
        for entry in self.entries.iter_mut().filter(open) {
            entry.resolved = true;
            let name = &entry.request.name;
            let message = match answers.next() {
                Some(Ok(image)) => {
                    entry.image = Some(image);
                    continue;
                }
                Some(Err(error)) => error.message,
                None => format!("no answer for image `{name}`"),
            };
            let names = self.stage_names.iter().copied().chain(COMMON_IMAGES);
            let hint = suggest::did_you_mean(name, names, Case::Sensitive);
            diagnostics.push(Diagnostic::error("base-image", entry.span, format!("{message}{hint}")));
        }
        Some(diagnostics)
    }
}

/// A name as images and named contexts are compared: familiar, without `:latest`.
fn normal_name(name: &str) -> String {
    let (name, platform) = match name.split_once("::") {
        Some((name, platform)) => (name, Some(platform)),
        None => (name, None),
    };
    let familiar = name.parse().map_or_else(|_| name.to_owned(), |name: ImageReference| name.familiar());
    let short = familiar.strip_suffix(":latest").unwrap_or(&familiar);
    let platform = platform.map(|text| text.parse::<Platform>().map_or(text.to_owned(), |p| p.to_string()));
    platform.map_or_else(|| short.to_owned(), |platform| format!("{short}::{platform}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_in_their_familiar_form() {
        let rows = [
            ("alpine", "alpine"),
            ("alpine:latest", "alpine"),
            ("docker.io/library/alpine:3", "alpine:3"),
            ("example.org/a/b", "example.org/a/b"),
            ("alpine::linux/x86_64", "alpine::linux/amd64"),
            ("My.Name", "My.Name"),
        ];
        for (name, wanted) in rows {
            assert_eq!(normal_name(name), wanted, "{name}");
        }
    }
}
