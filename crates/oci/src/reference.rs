//! Image references, `registry/repository:tag@digest`, as docker reads them (distribution's "reference" grammar).

use std::fmt;
use std::str::FromStr;

use crate::Digest;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library";
const MAX_NAME_LENGTH: usize = 255;

/// A reference with its registry spelt out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The text does not follow the grammar.
    #[error("invalid reference format: `{0}`")]
    Format(String),
    /// The repository has capitals.
    #[error("invalid reference format: repository name `{0}` must be lowercase")]
    Uppercase(String),
    /// The name is longer than 255 characters.
    #[error("repository name must not be more than 255 characters: `{0}`")]
    TooLong(String),
}

impl ImageReference {
    /// The registry, `host` or `host:port`; `docker.io` where none was written.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry, `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, where one was written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where one was written.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository, without tag and digest: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The tag or digest that a registry is asked for: the digest if there is one, else the tag, else `latest`.
    pub fn tag_or_digest(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }

    /// The same reference with the tag `latest` where it has neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// The same reference, pinned to `digest`.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// What has `digest` in the same repository, whatever its tag.
    #[must_use]
    pub fn by_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The same reference without its digest: the name, with the tag if there is one.
    #[must_use]
    pub fn without_digest(&self) -> Self {
        Self { digest: None, ..self.clone() }
    }

    /// The reference as docker shows it to people: without `docker.io/library/` and `docker.io/`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/").unwrap_or(&full);
        short.strip_prefix("library/").unwrap_or(short).to_owned()
    }
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let malformed = || ReferenceError::Format(text.to_owned());
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| malformed())?)),
            None => (text, None),
        };
        let last_slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest[last_slash..].find(':') {
            Some(colon) => (&rest[..last_slash + colon], Some(&rest[last_slash + colon + 1..])),
            None => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(malformed());
        }
        let (registry, repository) = split_registry(name);
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(repository));
        }
        if !repository.split('/').all(is_path_component) || !is_registry(&registry) {
            return Err(malformed());
        }
        // Sixty-four hexadecimal digits are an image's identifier, never a name.
        if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(malformed());
        }
        if registry.len() + 1 + repository.len() > MAX_NAME_LENGTH {
            return Err(ReferenceError::TooLong(text.to_owned()));
        }
        Ok(Self { registry, repository, tag: tag.map(str::to_owned), digest })
    }
}

fn split_registry(name: &str) -> (String, String) {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = match registry {
        "index.docker.io" => DEFAULT_REGISTRY,
        other => other,
    };
    if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        return (registry.to_owned(), format!("{DEFAULT_NAMESPACE}/{repository}"));
    }
    (registry.to_owned(), repository.to_owned())
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                if address.parse::<std::net::Ipv6Addr>().is_err() {
                    return false;
                }
                ("ipv6", port)
            }
            None => return false,
        },
        None => match text.find(':') {
            Some(colon) => text.split_at(colon),
            None => (text, ""),
        },
    };
    let port_is_right = port.is_empty()
        || port.strip_prefix(':').is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    port_is_right && host.split('.').all(is_label)
}

/// Lower-case letters and digits, separated by `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let is_word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(is_word) || !bytes.last().is_some_and(is_word) {
        return false;
    }
    bytes.split(is_word).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

fn is_tag(text: &str) -> bool {
    let is_first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let is_next = |b: u8| is_first(b) || b == b'.' || b == b'-';
    (1..=128).contains(&text.len()) && is_first(text.as_bytes()[0]) && text.bytes().all(is_next)
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_docker_reads_them() {
        let cases = [
            ("busybox", "docker.io/library/busybox"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("foo/bar", "docker.io/foo/bar"),
            ("index.docker.io/foo", "docker.io/library/foo"),
            ("localhost/foo", "localhost/foo"),
            ("localhost:5000/foo:x", "localhost:5000/foo:x"),
            ("127.0.0.1:5000/a/b-c/d__e", "127.0.0.1:5000/a/b-c/d__e"),
            ("[::1]:5000/a", "[::1]:5000/a"),
            ("ghcr.io/x/y:v1.2-a", "ghcr.io/x/y:v1.2-a"),
        ];
        for (text, full) in cases {
            assert_eq!(text.parse::<ImageReference>().unwrap().to_string(), full, "{text}");
        }
    }

    #[test]
    fn malformed_references_are_refused() {
        let long = "a".repeat(300);
        let id = "a".repeat(64);
        for text in ["", ":", "a:", "a@b", "a//b", "-a", "a..b", "a___b", "a/b:c:d", " a", "a b", &long, &id]
        {
            assert!(text.parse::<ImageReference>().is_err(), "{text}");
        }
        assert!(matches!("Foo".parse::<ImageReference>(), Err(ReferenceError::Uppercase(_))));
    }

    #[test]
    fn digest_wins_over_tag() {
        let digest = Digest::sha256(b"");
        let reference: ImageReference = format!("a:b@{digest}").parse().unwrap();
        assert_eq!(reference.tag_or_digest(), digest.as_str());
        assert_eq!(reference.tag(), Some("b"));
        assert_eq!(reference.familiar(), format!("a:b@{digest}"));
    }
}
