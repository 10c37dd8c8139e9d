//! The client against a registry that does what the test says: faults, authentication, mirrors.

#![allow(clippy::unwrap_used, reason = "all of it is test code, the functions between the tests too")]

mod auth;
mod mirrors;
mod pull;
mod push;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use oci::{Descriptor, Digest, ImageReference, MediaType};
use registry::{
    BlobSource, Client, ClientOptions, Credential, CredentialStore, HostConfig, PushBlob, Pushed,
    RegistryError, RetryPolicy, Watcher,
};
use testkit::{AuthPolicy, FaultKind, MountPolicy, ScriptedRegistry};

pub(crate) const OCTETS: &str = "application/octet-stream";

/// Options with pauses that a test does not notice.
pub(crate) fn options() -> ClientOptions {
    ClientOptions {
        retry: RetryPolicy {
            attempts: 3,
            first_delay: Duration::from_millis(1),
            longest_delay: Duration::from_secs(2),
        },
        idle_timeout: Duration::from_millis(300),
        ..ClientOptions::default()
    }
}

pub(crate) fn client() -> Client {
    Client::new(options())
}

pub(crate) fn reference(registry: &ScriptedRegistry, rest: &str) -> ImageReference {
    format!("{}/{rest}", registry.address()).parse().unwrap()
}

pub(crate) fn manifest_bytes(text: &str) -> Bytes {
    let config = Descriptor::of(MediaType::OCI_CONFIG, text.as_bytes());
    let manifest = oci::Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config,
        layers: Vec::new(),
        subject: None,
        annotations: BTreeMap::new(),
    };
    serde_json::to_vec(&manifest).unwrap().into()
}

/// A registry with a manifest `a:v1` and a blob of 3 MB in `a`.
pub(crate) fn registry() -> (ScriptedRegistry, Descriptor, Descriptor) {
    let registry = ScriptedRegistry::start();
    let manifest = registry.put_manifest("a", Some("v1"), MediaType::OCI_MANIFEST, manifest_bytes("x"));
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let blob = registry.put_blob("a", OCTETS, bytes);
    (registry, manifest, blob)
}

pub(crate) async fn read(
    client: &Client,
    reference: &ImageReference,
    blob: &Descriptor,
) -> Result<Vec<u8>, RegistryError> {
    let mut stream = client.fetch_blob(reference, blob).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

pub(crate) fn normalised(error: &RegistryError, registry: &ScriptedRegistry) -> String {
    error.to_string().replace(registry.address(), "HOST")
}

/// All that a person is told: the error with its causes, and the hint.
pub(crate) fn told(error: &RegistryError, registry: &ScriptedRegistry) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    if let Some(hint) = error.hint() {
        text = format!("{text}\nhint: {hint}");
    }
    text.replace(registry.address(), "HOST")
}

/// The requests so far but those for tokens, without the addresses of uploads: `PUT blob 17` has 17 bytes of body.
pub(crate) fn sequence(registry: &ScriptedRegistry) -> Vec<String> {
    let requests = registry.requests().into_iter().filter(|request| request.path != "/v2/");
    let line = |request: testkit::SeenRequest| {
        let kinds =
            [("/token", "token"), ("/uploads/", "upload"), ("/blobs/", "blob"), ("/manifests/", "manifest")];
        let kind = kinds.iter().find(|(part, _)| request.path.contains(part)).map_or("", |(_, kind)| kind);
        format!("{} {kind} {}", request.method, request.body_bytes)
    };
    requests.map(line).collect()
}
