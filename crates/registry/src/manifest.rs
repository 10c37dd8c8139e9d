//! Manifests and indexes: resolve, fetch, push.

use bytes::Bytes;
use oci::{Descriptor, Digest, ImageReference, MediaType};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName};

use crate::body::Body;
use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::error::{HostFailure, RegistryError};
use crate::send::Call;

/// The longest manifest that is read; registries accept no longer ones.
const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// All that a tag may lead to.
const ACCEPTED: [&str; 4] =
    [MediaType::OCI_INDEX, MediaType::DOCKER_INDEX, MediaType::OCI_MANIFEST, MediaType::DOCKER_MANIFEST];
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What a reference leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The index or manifest: its type, digest and size.
    pub descriptor: Descriptor,
    /// Its bytes, which have this digest.
    pub bytes: Bytes,
}

impl Client {
    /// The index or manifest that `reference` leads to: by its digest if it has one, else by its tag, else `latest`.
    /// Its mirrors are asked first.
    pub async fn resolve(&self, reference: &ImageReference) -> Result<Resolved, RegistryError> {
        self.get_manifest(reference, reference.tag_or_digest(), reference.digest()).await
    }

    /// The index or manifest of `digest` in the repository of `reference`.
    pub async fn fetch_manifest(
        &self,
        reference: &ImageReference,
        digest: &Digest,
    ) -> Result<Resolved, RegistryError> {
        self.get_manifest(reference, digest.as_str(), Some(digest)).await
    }

    /// What `reference` leads to, without its bytes. Registries that do not tell a digest are asked for the bytes.
    pub async fn head(&self, reference: &ImageReference) -> Result<Descriptor, RegistryError> {
        let shared = &self.shared;
        let mut failures = Vec::new();
        for endpoint in Endpoint::for_pull(reference, &shared.options.hosts)? {
            let tail = format!("manifests/{}", reference.tag_or_digest());
            let call = accepting(Call::new(&endpoint, reference, Method::HEAD, &tail));
            match shared.send(&call).await {
                Ok(response) => match described(response.headers()) {
                    Some(found) if reference.digest().is_none_or(|digest| *digest == found.digest) => {
                        return Ok(found);
                    }
                    _ => return Ok(self.resolve(reference).await?.descriptor),
                },
                // Not all registries know the method.
                Err(RegistryError::Status { status: 400 | 405 | 501, .. }) => {
                    return Ok(self.resolve(reference).await?.descriptor);
                }
                Err(error) => note(&mut failures, &endpoint, error)?,
            }
        }
        Err(all_failed(reference, failures))
    }

    async fn get_manifest(
        &self,
        reference: &ImageReference,
        tag_or_digest: &str,
        expected: Option<&Digest>,
    ) -> Result<Resolved, RegistryError> {
        if let Some(digest) = expected {
            check_algorithm(reference, digest)?;
        }
        let mut failures = Vec::new();
        for endpoint in Endpoint::for_pull(reference, &self.shared.options.hosts)? {
            let tail = format!("manifests/{tag_or_digest}");
            let call = accepting(Call::new(&endpoint, reference, Method::GET, &tail));
            let found = match self.shared.send_and_read(&call, MAX_MANIFEST_BYTES).await {
                Ok((headers, bytes)) => check(&call, &headers, bytes, expected),
                Err(error) => Err(error),
            };
            match found {
                Ok(resolved) => return Ok(resolved),
                Err(error) => note(&mut failures, &endpoint, error)?,
            }
        }
        Err(all_failed(reference, failures))
    }

    /// Puts a manifest or index under the tag of `target`, or under its digest where `target` has no tag but one.
    /// The digest of what was pushed is returned.
    pub async fn push_manifest(
        &self,
        target: &ImageReference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest, RegistryError> {
        let digest = Digest::sha256(&bytes);
        let endpoint = Endpoint::origin(target, &self.shared.options.hosts);
        let name = match (target.tag(), target.digest()) {
            (Some(tag), _) => tag.to_owned(),
            (None, Some(digest)) => digest.to_string(),
            (None, None) => "latest".to_owned(),
        };
        let mut call = Call::new(&endpoint, target, Method::PUT, &format!("manifests/{name}"))
            .header(CONTENT_TYPE, media_type);
        call.body = Body::Bytes(bytes);
        let response = self.shared.send(&call).await?;
        if let Some(actual) = header_digest(response.headers())
            && actual.algorithm() == digest.algorithm()
            && actual != digest
        {
            let (reference, host) = (call.name(), call.host());
            return Err(RegistryError::DigestMismatch { reference, host, expected: digest, actual });
        }
        Ok(digest)
    }
}

/// Keeps the failure of one host, so that the next one is asked; an error that is not about the host ends it.
pub(crate) fn note(
    failures: &mut Vec<HostFailure>,
    endpoint: &Endpoint,
    error: RegistryError,
) -> Result<(), RegistryError> {
    if !error.is_about_the_host() {
        return Err(error);
    }
    failures.push(HostFailure { host: endpoint.host.clone(), error });
    Ok(())
}

/// The error of several hosts; that of a single one is itself.
pub(crate) fn all_failed(reference: &ImageReference, mut failures: Vec<HostFailure>) -> RegistryError {
    if failures.len() == 1
        && let Some(failure) = failures.pop()
    {
        return failure.error;
    }
    RegistryError::AllHosts { reference: reference.to_string(), failures }
}

/// Digests that cannot be computed cannot be verified.
pub(crate) fn check_algorithm(reference: &ImageReference, digest: &Digest) -> Result<(), RegistryError> {
    if digest.algorithm() == "sha256" {
        return Ok(());
    }
    Err(RegistryError::Algorithm { reference: reference.to_string(), digest: digest.clone() })
}

fn accepting(call: Call<'_>) -> Call<'_> {
    let all = ACCEPTED.join(", ");
    call.header(ACCEPT, &all)
}

/// Verifies a manifest's bytes: against the digest that was asked for, else against what the registry says it is.
fn check(
    call: &Call<'_>,
    headers: &HeaderMap,
    bytes: Bytes,
    expected: Option<&Digest>,
) -> Result<Resolved, RegistryError> {
    let actual = Digest::sha256(&bytes);
    let told = header_digest(headers).filter(|digest| digest.algorithm() == actual.algorithm());
    if let Some(expected) = expected.or(told.as_ref())
        && *expected != actual
    {
        let (reference, host) = (call.name(), call.host());
        return Err(RegistryError::DigestMismatch { reference, host, expected: expected.clone(), actual });
    }
    let media_type = media_type(headers, &bytes).map_err(|problem| call.protocol(problem))?;
    let descriptor = Descriptor::new(&media_type, actual, bytes.len() as u64);
    Ok(Resolved { descriptor, bytes })
}

fn header_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}

fn header_media_type(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    text.split(';').next().map(str::trim).filter(|text| is_known(text))
}

fn is_known(media_type: &str) -> bool {
    MediaType::is_index(media_type) || MediaType::is_manifest(media_type)
}

/// The type of a manifest: what it says itself, else what the header says, else what its members show (some registries
/// serve `application/json`). An error says what is wrong with it.
fn media_type(headers: &HeaderMap, bytes: &[u8]) -> Result<String, String> {
    let document: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| format!("it is not JSON: {error}"))?;
    let own = document.get("mediaType").and_then(serde_json::Value::as_str);
    if document.get("schemaVersion").and_then(serde_json::Value::as_u64) == Some(1) {
        return Err(
            "it is a manifest of Docker's schema 1, which nothing reads any more; push the image again \
                    with a tool of today"
                .to_owned(),
        );
    }
    if let Some(own) = own {
        return if is_known(own) {
            Ok(own.to_owned())
        } else {
            Err(format!("it is neither an image manifest nor an index, but `{own}`"))
        };
    }
    if let Some(known) = header_media_type(headers) {
        return Ok(known.to_owned());
    }
    if document.get("manifests").is_some() {
        return Ok(MediaType::OCI_INDEX.to_owned());
    }
    if document.get("config").is_some() && document.get("layers").is_some() {
        return Ok(MediaType::OCI_MANIFEST.to_owned());
    }
    Err("it is neither an image manifest nor an index".to_owned())
}

fn described(headers: &HeaderMap) -> Option<Descriptor> {
    let digest = header_digest(headers).filter(|digest| digest.algorithm() == "sha256")?;
    let media_type = header_media_type(headers)?;
    let size = headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
    Some(Descriptor::new(media_type, digest, size))
}
