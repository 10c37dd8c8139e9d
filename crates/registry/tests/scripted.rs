//! The client against a registry that does what the test says: faults, authentication, mirrors.

#![allow(clippy::unwrap_used, reason = "all of it is test code, the functions between the tests too")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use oci::{Descriptor, Digest, ImageReference, MediaType};
use registry::{
    BlobSource, Client, ClientOptions, Credential, CredentialStore, HostConfig, HostConfigs, PushBlob,
    Pushed, RegistryError, RetryPolicy,
};
use testkit::{AuthPolicy, FaultKind, MountPolicy, ScriptedRegistry};

const OCTETS: &str = "application/octet-stream";

/// Options with pauses that a test does not notice.
fn options() -> ClientOptions {
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

fn client() -> Client {
    Client::new(options())
}

fn reference(registry: &ScriptedRegistry, rest: &str) -> ImageReference {
    format!("{}/{rest}", registry.address()).parse().unwrap()
}

fn manifest_bytes(text: &str) -> Bytes {
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
fn registry() -> (ScriptedRegistry, Descriptor, Descriptor) {
    let registry = ScriptedRegistry::start();
    let manifest = registry.put_manifest("a", Some("v1"), MediaType::OCI_MANIFEST, manifest_bytes("x"));
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let blob = registry.put_blob("a", OCTETS, bytes);
    (registry, manifest, blob)
}

async fn read(
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

fn normalised(error: &RegistryError, registry: &ScriptedRegistry) -> String {
    error.to_string().replace(registry.address(), "HOST")
}

#[tokio::test]
async fn tags_and_digests_resolve() {
    let (registry, manifest, _) = registry();
    for text in ["a:v1".to_owned(), format!("a@{}", manifest.digest), format!("a:gone@{}", manifest.digest)] {
        let resolved = client().resolve(&reference(&registry, &text)).await.unwrap();
        assert_eq!(resolved.descriptor, manifest, "{text}");
        assert_eq!(resolved.bytes, manifest_bytes("x"), "{text}");
    }
    assert_eq!(client().head(&reference(&registry, "a:v1")).await.unwrap(), manifest);
    registry.hide_digests();
    assert_eq!(client().head(&reference(&registry, "a:v1")).await.unwrap(), manifest);
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let (registry, ..) = registry();
    let error = client().resolve(&reference(&registry, "a:v2")).await.unwrap_err();
    assert_eq!(normalised(&error, &registry), "`v2` of `HOST/a:v2` was not found in the registry `HOST`");
    assert!(error.is_not_found());
}

#[tokio::test]
async fn a_registry_that_is_down_is_told_at_once() {
    let (registry, ..) = registry();
    let reference = reference(&registry, "a:v1");
    let host = registry.address().to_owned();
    drop(registry);
    let error = client().resolve(&reference).await.unwrap_err();
    assert_eq!(
        error.to_string().replace(&host, "HOST"),
        "the registry `HOST` cannot be reached for `HOST/a:v1`"
    );
    assert_eq!(
        error.hint().unwrap().replace(&host, "HOST"),
        "check that `HOST` runs and can be reached, or set a mirror in config.toml"
    );
}

#[tokio::test]
async fn wrong_manifests_are_refused() {
    let (registry, manifest, _) = registry();
    registry.fault("GET", "/manifests/", 2, FaultKind::WrongBytes);
    for text in ["a:v1".to_owned(), format!("a@{}", manifest.digest)] {
        let error = client().resolve(&reference(&registry, &text)).await.unwrap_err();
        assert!(matches!(error, RegistryError::DigestMismatch { .. }), "{error}");
    }
    registry.put_manifest("a", Some("none"), "application/json", "{}");
    let error = client().resolve(&reference(&registry, "a:none")).await.unwrap_err();
    assert_eq!(
        normalised(&error, &registry),
        "the answer of `HOST` for `HOST/a:none` cannot be used: it is neither an image manifest nor an index"
    );
    registry.put_manifest("a", Some("long"), MediaType::OCI_MANIFEST, vec![b' '; (4 << 20) + 1]);
    let error = client().resolve(&reference(&registry, "a:long")).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn passing_failures_are_repeated() {
    let (registry, manifest, _) = registry();
    let reference = reference(&registry, "a:v1");
    let faults = [
        FaultKind::Status(500, None),
        FaultKind::Status(503, None),
        FaultKind::Status(429, Some("0".to_owned())),
        FaultKind::Status(429, Some("Sun, 06 Nov 1994 08:49:37 GMT".to_owned())),
        FaultKind::Reset { after_bytes: 0 },
        FaultKind::Reset { after_bytes: 10 },
        FaultKind::Stall { after_bytes: 10 },
    ];
    for fault in faults {
        registry.fault("GET", "/manifests/", 2, fault.clone());
        let resolved = client().resolve(&reference).await;
        assert_eq!(resolved.unwrap_or_else(|error| panic!("{fault:?}: {error}")).descriptor, manifest);
    }
}

#[tokio::test]
async fn attempts_are_bounded() {
    let (registry, ..) = registry();
    let reference = reference(&registry, "a:v1");
    registry.fault("GET", "/manifests/", 3, FaultKind::Status(500, None));
    let error = client().resolve(&reference).await.unwrap_err();
    assert_eq!(normalised(&error, &registry), "`HOST` answered 500 to GET manifest of `HOST/a:v1`: scripted");
    assert_eq!(registry.count("GET", "/manifests/"), 3);

    registry.fault("GET", "/manifests/", 1, FaultKind::Status(429, Some("3600".to_owned())));
    let error = client().resolve(&reference).await.unwrap_err();
    assert_eq!(
        normalised(&error, &registry),
        "`HOST` limits the rate of requests for `HOST/a:v1` and wants a pause of 3600 s"
    );

    registry.fault("GET", "/manifests/", 1, FaultKind::Status(403, None));
    let error = client().resolve(&reference).await.unwrap_err();
    assert_eq!(normalised(&error, &registry), "`HOST` denies access to `HOST/a:v1`: scripted");
}

#[tokio::test]
async fn blobs_are_streamed_and_verified() {
    let (registry, _, blob) = registry();
    let reference = reference(&registry, "a:v1");
    let bytes = read(&client(), &reference, &blob).await.unwrap();
    assert_eq!(Digest::sha256(&bytes), blob.digest);
    assert_eq!(client().fetch_blob_bytes(&reference, &blob).await.unwrap(), bytes);

    registry.fault("GET", "/blobs/", 1, FaultKind::WrongBytes);
    let error = read(&client(), &reference, &blob).await.unwrap_err();
    assert!(matches!(&error, RegistryError::DigestMismatch { expected, .. } if *expected == blob.digest));

    let longer = Descriptor { size: blob.size + 1, ..blob.clone() };
    let error = read(&client(), &reference, &longer).await.unwrap_err();
    assert!(matches!(error, RegistryError::WrongSize { actual: 3_000_000, .. }), "{error}");
    let shorter = Descriptor { size: blob.size - 1, ..blob };
    let error = read(&client(), &reference, &shorter).await.unwrap_err();
    assert!(matches!(error, RegistryError::WrongSize { .. }), "{error}");
}

#[tokio::test]
async fn broken_bodies_are_resumed() {
    let (registry, _, blob) = registry();
    let reference = reference(&registry, "a:v1");
    let faults = [
        FaultKind::Reset { after_bytes: 1_000_000 },
        FaultKind::Short { bytes: 1_000_000 },
        FaultKind::Stall { after_bytes: 1_000_000 },
    ];
    for fault in faults {
        let before = registry.requests().len();
        registry.fault("GET", "/blobs/", 1, fault.clone());
        let bytes =
            read(&client(), &reference, &blob).await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(Digest::sha256(&bytes), blob.digest, "{fault:?}");
        let blobs = registry.requests().split_off(before);
        let ranges: Vec<_> = blobs
            .iter()
            .filter(|seen| seen.path.contains("/blobs/"))
            .map(|seen| seen.range.clone())
            .collect();
        assert_eq!(ranges, [None, Some("bytes=1000000-".to_owned())], "{fault:?}");
    }
    registry.forget_ranges();
    registry.fault("GET", "/blobs/", 2, FaultKind::Reset { after_bytes: 1_000_000 });
    let bytes = read(&client(), &reference, &blob).await.unwrap();
    assert_eq!(Digest::sha256(&bytes), blob.digest);
}

#[tokio::test]
async fn a_body_that_always_breaks_ends() {
    let (registry, _, blob) = registry();
    registry.fault("GET", "/blobs/", 100, FaultKind::Short { bytes: 0 });
    let error = read(&client(), &reference(&registry, "a:v1"), &blob).await.unwrap_err();
    assert!(matches!(error, RegistryError::WrongSize { actual: 0, .. }), "{error}");
    assert_eq!(registry.count("GET", "/blobs/"), 3);
}

#[tokio::test]
async fn redirects_are_followed_without_credentials() {
    let (registry, _, blob) = registry();
    let storage = ScriptedRegistry::start();
    let bytes = registry.blob("a", &blob.digest).unwrap();
    storage.put_blob("store", OCTETS, bytes);
    registry.set_auth(AuthPolicy::Basic("me".to_owned(), "secret".to_owned()));
    let address = format!("http://{}/v2/store/blobs/{}", storage.address(), blob.digest);
    registry.fault("GET", "/blobs/", 1, FaultKind::Redirect(address));
    let password = Credential::Password { username: "me".to_owned(), password: "secret".to_owned() };
    let credentials = CredentialStore::anonymous().fixed(registry.address(), password);
    let client = Client::new(ClientOptions { credentials, ..options() });
    read(&client, &reference(&registry, "a:v1"), &blob).await.unwrap();
    let seen = storage.requests();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].authorization, None);
}

fn token_policy(anonymous_pull: bool) -> AuthPolicy {
    AuthPolicy::Token {
        username: "me".to_owned(),
        password: "secret".to_owned(),
        identity_token: "refresh".to_owned(),
        anonymous_pull,
    }
}

/// docker's config.json with `entry` for the registry.
fn docker_config(registry: &ScriptedRegistry, entry: &str) -> (tempfile::TempDir, CredentialStore) {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("config.json");
    std::fs::write(&path, format!(r#"{{"auths":{{"http://{}/v1/":{entry}}}}}"#, registry.address())).unwrap();
    (directory, CredentialStore::docker_config(path))
}

#[tokio::test]
async fn anonymous_tokens_are_fetched_once() {
    let (registry, manifest, blob) = registry();
    registry.set_auth(token_policy(true));
    let (client, reference) = (client(), reference(&registry, "a:v1"));
    assert_eq!(client.resolve(&reference).await.unwrap().descriptor, manifest);
    read(&client, &reference, &blob).await.unwrap();
    assert_eq!(registry.count("GET", "/token"), 1);
    registry.expire_tokens();
    read(&client, &reference, &blob).await.unwrap();
    assert_eq!(registry.count("GET", "/token"), 2);
    let push = PushBlob {
        target: reference.clone(),
        descriptor: Descriptor::of(OCTETS, b"new"),
        mount_from: Vec::new(),
        source: BlobSource::Bytes(Bytes::from_static(b"new")),
    };
    let error = client.push_blob(&push).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error}");
}

#[tokio::test]
async fn credentials_come_from_dockers_config() {
    let (registry, manifest, _) = registry();
    let reference = reference(&registry, "a:v1");
    // "bWU6c2VjcmV0" is `me:secret`.
    let entries = [
        (token_policy(false), r#"{"auth":"bWU6c2VjcmV0"}"#),
        (token_policy(false), r#"{"auth":"","identitytoken":"refresh"}"#),
        (token_policy(false), r#"{"username":"me","password":"secret"}"#),
        (AuthPolicy::Basic("me".to_owned(), "secret".to_owned()), r#"{"auth":"bWU6c2VjcmV0"}"#),
    ];
    for (policy, entry) in entries {
        registry.set_auth(policy.clone());
        let (_directory, credentials) = docker_config(&registry, entry);
        let client = Client::new(ClientOptions { credentials, ..options() });
        let resolved = client.resolve(&reference).await;
        let resolved = resolved.unwrap_or_else(|error| panic!("{policy:?} {entry}: {error}"));
        assert_eq!(resolved.descriptor, manifest);
        let push = PushBlob {
            target: reference.clone(),
            descriptor: Descriptor::of(OCTETS, entry.as_bytes()),
            mount_from: Vec::new(),
            source: BlobSource::Bytes(Bytes::copy_from_slice(entry.as_bytes())),
        };
        client.push_blob(&push).await.unwrap_or_else(|error| panic!("{policy:?} {entry}: {error}"));
    }
}

#[tokio::test]
async fn refused_credentials_are_told() {
    let (registry, ..) = registry();
    let reference = reference(&registry, "a:v1");
    for policy in [token_policy(true), AuthPolicy::Basic("me".to_owned(), "secret".to_owned())] {
        registry.set_auth(policy.clone());
        let (_directory, credentials) = docker_config(&registry, r#"{"username":"me","password":"wrong"}"#);
        let client = Client::new(ClientOptions { credentials, ..options() });
        let error = client.resolve(&reference).await.unwrap_err();
        assert_eq!(
            normalised(&error, &registry),
            "401 unauthorized: `HOST` wants credentials for `HOST/a:v1` and refuses those it got",
            "{policy:?}"
        );
    }
    registry.set_auth(token_policy(false));
    let error = client().resolve(&reference).await.unwrap_err();
    assert_eq!(normalised(&error, &registry), "401 unauthorized: `HOST` wants credentials for `HOST/a:v1`");
}

#[tokio::test]
async fn a_damaged_docker_config_is_told() {
    let (registry, ..) = registry();
    registry.set_auth(token_policy(false));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    std::fs::write(&path, "{").unwrap();
    let credentials = CredentialStore::docker_config(&path);
    let client = Client::new(ClientOptions { credentials, ..options() });
    let error = client.resolve(&reference(&registry, "a:v1")).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, format!("`{}` is not a docker configuration", path.display()));
}

fn mirrors(hosts: &[&str]) -> Client {
    let mirrors = hosts.iter().map(|host| (*host).to_owned()).collect();
    let configs = BTreeMap::from([
        ("mirrored.invalid".to_owned(), HostConfig { mirrors, http: Some(true), ..HostConfig::default() }),
        ("127.0.0.1:1".to_owned(), HostConfig { http: Some(true), ..HostConfig::default() }),
    ]);
    Client::new(ClientOptions { hosts: HostConfigs(configs), ..options() })
}

#[tokio::test]
async fn mirrors_are_tried_in_order() {
    let (empty, (full, manifest, blob)) = (ScriptedRegistry::start(), registry());
    let sub = ScriptedRegistry::start();
    sub.put_manifest("sub/path/a", Some("v1"), MediaType::OCI_MANIFEST, manifest_bytes("x"));
    let reference: ImageReference = "mirrored.invalid/a:v1".parse().unwrap();
    let client = mirrors(&["127.0.0.1:1", empty.address(), full.address()]);
    assert_eq!(client.resolve(&reference).await.unwrap().descriptor, manifest);
    read(&client, &reference, &blob).await.unwrap();
    assert_eq!(empty.count("GET", "/v2/a/manifests/v1?ns=mirrored.invalid"), 1);
    let client = mirrors(&[&format!("{}/sub/path", sub.address())]);
    assert_eq!(client.resolve(&reference).await.unwrap().descriptor, manifest);
}

#[tokio::test]
async fn all_hosts_that_failed_are_named() {
    let empty = ScriptedRegistry::start();
    let client = mirrors(&[empty.address(), "127.0.0.1:1"]);
    let error = client.resolve(&"mirrored.invalid/a:v1".parse().unwrap()).await.unwrap_err();
    let text = normalised(&error, &empty);
    let start = "`mirrored.invalid/a:v1` could not be had: \
                 `v1` of `mirrored.invalid/a:v1` was not found in the registry `HOST`; \
                 the registry `127.0.0.1:1` cannot be reached for `mirrored.invalid/a:v1`: ";
    assert!(text.starts_with(start), "{text}");
    assert!(text.contains("the registry `mirrored.invalid` cannot be reached"), "{text}");
    assert!(!error.is_not_found());
}

fn push(registry: &ScriptedRegistry, bytes: &'static [u8], mount_from: &[&str]) -> PushBlob {
    PushBlob {
        target: reference(registry, "b:v1"),
        descriptor: Descriptor::of(OCTETS, bytes),
        mount_from: mount_from.iter().map(|name| (*name).to_owned()).collect(),
        source: BlobSource::Bytes(Bytes::from_static(bytes)),
    }
}

#[tokio::test]
async fn blobs_are_pushed_once() {
    let registry = ScriptedRegistry::start();
    let push = push(&registry, b"content", &[]);
    assert_eq!(client().push_blob(&push).await.unwrap(), Pushed::Uploaded);
    assert_eq!(registry.blob("b", &push.descriptor.digest).unwrap(), "content");
    assert_eq!(client().push_blob(&push).await.unwrap(), Pushed::Existed);
    assert_eq!(registry.count("PUT", "/blobs/"), 1);
}

#[tokio::test]
async fn every_step_of_a_push_is_repeated() {
    for (method, part) in [("HEAD", "/blobs/sha256"), ("POST", "/uploads/"), ("PUT", "/uploads/")] {
        for fault in [FaultKind::Status(503, None), FaultKind::Reset { after_bytes: 0 }] {
            let registry = ScriptedRegistry::start();
            registry.fault(method, part, 2, fault.clone());
            let push = push(&registry, b"content", &[]);
            let pushed = client().push_blob(&push).await;
            let pushed = pushed.unwrap_or_else(|error| panic!("{method} {fault:?}: {error}"));
            assert_eq!(pushed, Pushed::Uploaded);
            assert_eq!(registry.blob("b", &push.descriptor.digest).unwrap(), "content");
        }
    }
}

#[tokio::test]
async fn files_and_readers_are_pushed() {
    let registry = ScriptedRegistry::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    let bytes = vec![7; 1_000_000];
    std::fs::write(&path, &bytes).unwrap();
    registry.fault("PUT", "/uploads/", 1, FaultKind::Status(500, None));
    let descriptor = Descriptor::of(OCTETS, &bytes);
    let mut push = push(&registry, b"", &[]);
    push.descriptor = descriptor.clone();
    push.source = BlobSource::File(path.clone());
    assert_eq!(client().push_blob(&push).await.unwrap(), Pushed::Uploaded);
    assert_eq!(registry.blob("b", &descriptor.digest).unwrap(), bytes);

    push.target = reference(&registry, "c:v1");
    push.source = BlobSource::File(directory.path().join("gone"));
    let error = client().push_blob(&push).await.unwrap_err();
    let expected = format!("cannot read `{}` for the push to `HOST/c:v1`", descriptor.digest);
    assert_eq!(normalised(&error, &registry), expected);
}

#[tokio::test]
async fn blobs_are_mounted_where_the_registry_mounts() {
    let registry = ScriptedRegistry::start();
    registry.put_blob("other", OCTETS, "content");
    let push = push(&registry, b"content", &["empty", "other"]);
    assert_eq!(client().push_blob(&push).await.unwrap(), Pushed::Mounted);
    assert_eq!(registry.count("PUT", "/blobs/"), 0);
    assert!(client().mount_blob(&reference(&registry, "c"), &push.descriptor, "other").await.unwrap());
    assert!(!client().mount_blob(&reference(&registry, "d"), &push.descriptor, "empty").await.unwrap());
}

#[tokio::test]
async fn a_mount_that_becomes_an_upload_is_used() {
    let registry = ScriptedRegistry::start();
    registry.set_mount(MountPolicy::Upload);
    registry.put_blob("other", OCTETS, "content");
    let push = push(&registry, b"content", &["other"]);
    assert_eq!(client().push_blob(&push).await.unwrap(), Pushed::Uploaded);
    assert_eq!(registry.count("POST", "/uploads/"), 1);
    assert!(!client().mount_blob(&reference(&registry, "c"), &push.descriptor, "other").await.unwrap());
    assert_eq!(registry.count("DELETE", "/uploads/"), 1);
}

#[tokio::test]
async fn uploads_of_unknown_digest_go_in_chunks() {
    let registry = ScriptedRegistry::start();
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|at| (at % 251) as u8).collect();
    registry.fault("PATCH", "/uploads/", 1, FaultKind::Status(502, None));
    let mut upload = client().start_upload(&reference(&registry, "b")).await.unwrap();
    for part in bytes.chunks(300_000) {
        upload.write(Bytes::copy_from_slice(part)).await.unwrap();
    }
    let digest = Digest::sha256(&bytes);
    assert_eq!(upload.finish(&digest).await.unwrap(), 20_000_000);
    assert_eq!(registry.blob("b", &digest).unwrap(), bytes);
    assert_eq!(registry.count("PATCH", "/uploads/"), 4);

    let mut upload = client().start_upload(&reference(&registry, "b")).await.unwrap();
    upload.write(Bytes::from_static(b"x")).await.unwrap();
    let error = upload.finish(&Digest::sha256(b"y")).await.unwrap_err();
    assert_eq!(normalised(&error, &registry), "`HOST` answered 400 to PUT blob of `HOST/b`: wrong digest");
}

#[tokio::test]
async fn manifests_are_pushed() {
    let registry = ScriptedRegistry::start();
    let bytes = manifest_bytes("y");
    let digest = Digest::sha256(&bytes);
    let target = reference(&registry, "b:v1");
    registry.fault("PUT", "/manifests/", 1, FaultKind::Status(500, None));
    let pushed = client().push_manifest(&target, MediaType::OCI_MANIFEST, bytes.clone()).await.unwrap();
    assert_eq!(pushed, digest);
    assert_eq!(registry.manifest("b", "v1").unwrap(), (MediaType::OCI_MANIFEST.to_owned(), bytes));
}

#[tokio::test]
async fn transfers_at_once_are_limited() {
    let (registry, _, blob) = registry();
    let mut limited = options();
    limited.limits.downloads = 1;
    let client = Client::new(limited);
    let reference = reference(&registry, "a:v1");
    let first = client.fetch_blob(&reference, &blob).await.unwrap();
    let second = client.fetch_blob(&reference, &blob);
    tokio::pin!(second);
    tokio::select! {
        biased;
        _ = &mut second => panic!("the second transfer did not wait"),
        resolved = client.resolve(&reference) => drop(resolved.unwrap()),
    }
    drop(first);
    second.await.unwrap();
}
