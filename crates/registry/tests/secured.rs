//! The client against `docker-registry` with passwords, tokens and TLS.

#![allow(clippy::unwrap_used, reason = "all of it is test code, the functions between the tests too")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use oci::{Descriptor, ImageReference, MediaType};
use registry::{
    BlobSource, Client, ClientOptions, Credential, CredentialStore, HostConfig, KeyPair, PushBlob, Pushed,
    RegistryError, Watcher,
};
use testkit::{Authority, Certificate, RealAccess, RealRegistry, RealSettings, TokenServer};

const HERE: &str = "IP:127.0.0.1";

fn bases() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/bases/oci")
}

fn start(settings: &RealSettings<'_>) -> RealRegistry {
    let registry = RealRegistry::start_with(settings);
    registry.load_oci_layout(bases(), "base");
    registry
}

fn password(password: &str) -> Credential {
    Credential::Password { username: "me".to_owned(), password: password.to_owned() }
}

fn with_password(secret: &str) -> ClientOptions {
    let credentials = CredentialStore::anonymous().everywhere(password(secret));
    ClientOptions { credentials, ..ClientOptions::default() }
}

/// Options for a registry whose certificate counts although it is on loopback.
fn strict(registry: &RealRegistry, config: HostConfig) -> ClientOptions {
    let config = HostConfig { http: Some(false), insecure: Some(false), ..config };
    let hosts = BTreeMap::from([(registry.address().to_owned(), config)]).into();
    ClientOptions { hosts, ..ClientOptions::default() }
}

fn reference(registry: &RealRegistry, rest: &str) -> ImageReference {
    format!("{}/{rest}", registry.address()).parse().unwrap()
}

async fn resolve(registry: &RealRegistry, options: ClientOptions) -> Result<Descriptor, RegistryError> {
    let resolved = Client::new(options).resolve(&reference(registry, "base/busybox:latest")).await;
    resolved.map(|resolved| resolved.descriptor)
}

/// All that a person is told of a failure to pull.
async fn told(registry: &RealRegistry, options: ClientOptions) -> String {
    let error = resolve(registry, options).await.unwrap_err();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    format!("{text}\nhint: {}", error.hint().unwrap_or_default()).replace(registry.address(), "HOST")
}

/// Pulls, pushes a blob and mounts it in another repository.
async fn use_all(registry: &RealRegistry, options: ClientOptions) {
    let client = Client::new(options.clone());
    resolve(registry, options).await.unwrap();
    let push = |repository, mount_from| PushBlob {
        target: reference(registry, repository),
        descriptor: Descriptor::of(MediaType::OCI_CONFIG, b"content"),
        mount_from,
        source: BlobSource::Bytes(Bytes::from_static(b"content")),
        watcher: Watcher::default(),
    };
    assert_eq!(client.push_blob(&push("mine/a", Vec::new())).await.unwrap(), Pushed::Uploaded);
    assert_eq!(client.push_blob(&push("mine/a", Vec::new())).await.unwrap(), Pushed::Existed);
    assert_eq!(client.push_blob(&push("mine/b", vec!["mine/a".to_owned()])).await.unwrap(), Pushed::Mounted);
}

const DENIED: &str = "401 unauthorized: `HOST` wants credentials for `HOST/base/busybox:latest`";
const LOG_IN: &str = "\nhint: log in with `docker login HOST`; rbuild reads docker's config.json";
const LOG_IN_AGAIN: &str =
    "\nhint: the credentials in docker's config.json may be out of date: `docker login HOST`";

#[tokio::test]
async fn passwords() {
    let registry = start(&RealSettings { access: RealAccess::Password, ..RealSettings::default() });
    use_all(&registry, with_password("secret")).await;
    assert_eq!(told(&registry, ClientOptions::default()).await, format!("{DENIED}{LOG_IN}"));
    let expected = format!("{DENIED} and refuses those it got{LOG_IN_AGAIN}");
    assert_eq!(told(&registry, with_password("wrong")).await, expected);
}

#[tokio::test]
async fn tokens() {
    let authority = Authority::new();
    let server = TokenServer::start(&authority, "me", "secret");
    let registry = start(&RealSettings { access: RealAccess::Tokens(&server), ..RealSettings::default() });
    use_all(&registry, with_password("secret")).await;
    // The right to mount is asked for together with the right to push.
    let mount = "scope=repository%3Amine%2Fa%3Apull&scope=repository%3Amine%2Fb%3Apull%2Cpush";
    assert!(server.asked().iter().any(|query| query.contains(mount)), "{:?}", server.asked());

    // A token that the registry no longer takes is renewed.
    let before = server.asked().len();
    server.give_stale_tokens(1);
    resolve(&registry, with_password("secret")).await.unwrap();
    assert_eq!(server.asked().len(), before + 2);

    let refused = "and refuses those it got: incorrect username or password";
    assert_eq!(told(&registry, with_password("wrong")).await, format!("{DENIED} {refused}{LOG_IN_AGAIN}"));
    let anonymous = format!("{DENIED}: incorrect username or password{LOG_IN}");
    assert_eq!(told(&registry, ClientOptions::default()).await, anonymous);
}

const UNTRUSTED: &str = "the certificate of `HOST` is not trusted, for `HOST/base/busybox:latest`: ";
const UNTRUSTED_HINT: &str = "\nhint: put its authority into /etc/docker/certs.d/HOST/ca.crt, or name it with `ca` in \
                              `[registry.\"HOST\"]` of config.toml; `insecure = true` there accepts any certificate";

#[tokio::test]
async fn certificates() {
    let authority = Authority::new();
    let certificate = authority.certificate("server", HERE, 2);
    let registry = start(&RealSettings { certificate: Some(&certificate), ..RealSettings::default() });
    let ca = vec![authority.root().certificate];
    use_all(&registry, strict(&registry, HostConfig { ca, ..HostConfig::default() })).await;
    // On loopback certificates do not count, unless an authority is named.
    resolve(&registry, ClientOptions::default()).await.unwrap();

    let unknown = strict(&registry, HostConfig::default());
    let expected = format!("{UNTRUSTED}its authority is not known{UNTRUSTED_HINT}");
    assert_eq!(told(&registry, unknown).await, expected);
    let other = Authority::new();
    let wrong = HostConfig { ca: vec![other.root().certificate], ..HostConfig::default() };
    assert_eq!(told(&registry, strict(&registry, wrong)).await, expected);
}

#[tokio::test]
async fn certificates_that_are_not_right() {
    let authority = Authority::new();
    let ca = vec![authority.root().certificate];
    let trusting = HostConfig { ca, ..HostConfig::default() };
    let bad = |problem| {
        format!(
            "the certificate of `HOST` cannot be accepted, for `HOST/base/busybox:latest`: {problem}\n\
             hint: the registry needs another one; `insecure = true` in `[registry.\"HOST\"]` of config.toml accepts \
             any certificate"
        )
    };
    let names = "DNS:other.example,IP:10.0.0.1";
    let cases = [
        (authority.certificate("old", HERE, -1), bad("it has expired")),
        (authority.certificate("other", names, 2), bad("it is for another host: other.example, 10.0.0.1")),
        (authority.self_signed("self", HERE), format!("{UNTRUSTED}it is signed by itself{UNTRUSTED_HINT}")),
    ];
    for (certificate, problem) in &cases {
        let registry = start(&RealSettings { certificate: Some(certificate), ..RealSettings::default() });
        let text = told(&registry, strict(&registry, trusting.clone())).await;
        assert_eq!(text, *problem);
    }
    // One that signs itself is trusted where it is pinned.
    let own = &cases[2].0;
    let registry = start(&RealSettings { certificate: Some(own), ..RealSettings::default() });
    let pinned = HostConfig { ca: vec![own.certificate.clone()], ..HostConfig::default() };
    use_all(&registry, strict(&registry, pinned)).await;
    let plain = HostConfig { http: Some(true), ..HostConfig::default() };
    let hosts = BTreeMap::from([(registry.address().to_owned(), plain)]).into();
    let text = told(&registry, ClientOptions { hosts, ..ClientOptions::default() }).await;
    let expected = "`HOST` answered 400 to GET manifest of `HOST/base/busybox:latest`: \
                    Client sent an HTTP request to an HTTPS server.\n\
                    hint: it speaks TLS: take `http = true` out of `[registry.\"HOST\"]`";
    assert_eq!(text, expected);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(from, to).unwrap();
}

#[tokio::test]
async fn client_certificates_and_directories_of_certificates() {
    let authority = Authority::new();
    let certificate = authority.certificate("server", HERE, 2);
    let settings = RealSettings {
        certificate: Some(&certificate),
        clients: Some(&authority),
        access: RealAccess::Password,
        ..RealSettings::default()
    };
    let registry = start(&settings);
    let credentials = CredentialStore::anonymous().everywhere(password("secret"));
    let with = |config| ClientOptions { credentials: credentials.clone(), ..strict(&registry, config) };
    let Certificate { certificate: cert, key } = authority.certificate("client", "DNS:me", 2);
    let ca = vec![authority.root().certificate];
    let keypair = vec![KeyPair { key: key.clone(), cert: cert.clone() }];
    use_all(&registry, with(HostConfig { ca: ca.clone(), keypair, ..HostConfig::default() })).await;

    let expected = "`HOST` wants a client certificate that it trusts, for `HOST/base/busybox:latest`\nhint: put it \
                    into /etc/docker/certs.d/HOST/client.cert and client.key, or name it with `keypair` in \
                    `[registry.\"HOST\"]` of config.toml";
    let without = with(HostConfig { ca: ca.clone(), ..HostConfig::default() });
    assert_eq!(told(&registry, without).await, expected);
    let other = Authority::new();
    let stranger = other.certificate("client", "DNS:me", 2);
    let keypair = vec![KeyPair { key: stranger.key, cert: stranger.certificate }];
    let wrong = with(HostConfig { ca: ca.clone(), keypair, ..HostConfig::default() });
    assert_eq!(told(&registry, wrong).await, expected);

    // The same out of directories.
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join(registry.address());
    copy(&ca[0], &own.join("ca.crt"));
    copy(&cert, &own.join("client.cert"));
    let options = || ClientOptions {
        certificate_directories: vec!["/nonexistent".into(), directory.path().to_owned()],
        ..with(HostConfig::default())
    };
    let text = told(&registry, options()).await.replace(&own.display().to_string(), "DIR");
    let text = text.replace(&directory.path().display().to_string(), "CERTS");
    assert_eq!(
        text,
        "`CERTS/HOST/client.cert` cannot be used for TLS with `HOST`: its key `CERTS/HOST/client.key` is missing; \
         authorities end in `.crt`\nhint: "
    );
    copy(&key, &own.join("client.key"));
    resolve(&registry, options()).await.unwrap();
    let named = with(HostConfig { tls_directories: vec![own], ..HostConfig::default() });
    resolve(&registry, named).await.unwrap();
}

#[tokio::test]
async fn a_registry_without_tls() {
    let registry = start(&RealSettings::default());
    assert_eq!(
        told(&registry, strict(&registry, HostConfig::default())).await,
        "`HOST` speaks HTTP without TLS, and `HOST/base/busybox:latest` was asked for with TLS\n\
         hint: set `http = true` in `[registry.\"HOST\"]` of config.toml"
    );
}

#[tokio::test]
async fn a_mirror_that_fetches_what_it_lacks() {
    let origin = start(&RealSettings::default());
    let mirror = RealRegistry::start_with(&RealSettings {
        mirror_of: Some(origin.address()),
        ..RealSettings::default()
    });
    let config = HostConfig { mirrors: vec![mirror.address().to_owned()], ..HostConfig::default() };
    let hosts = BTreeMap::from([("mirrored.invalid".to_owned(), config)]).into();
    let client = Client::new(ClientOptions { hosts, ..ClientOptions::default() });
    let image: ImageReference = "mirrored.invalid/base/busybox:latest".parse().unwrap();
    let resolved = client.resolve(&image).await.unwrap();
    let manifest: oci::Manifest = serde_json::from_slice(&resolved.bytes).unwrap();
    for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
        let mut stream = client.fetch_blob(&image, blob).await.unwrap();
        while stream.chunk().await.unwrap().is_some() {}
    }
}

#[tokio::test]
async fn storage_elsewhere_gets_no_credentials_and_needs_tls_too() {
    let storage = testkit::ScriptedRegistry::start();
    let address = storage.url("/");
    let settings =
        RealSettings { access: RealAccess::Password, storage_url: Some(&address), ..RealSettings::default() };
    let registry = start(&settings);
    let client = Client::new(with_password("secret"));
    let image = reference(&registry, "base/busybox:latest");
    let manifest = client.resolve(&image).await.unwrap();
    let manifest: oci::Manifest = serde_json::from_slice(&manifest.bytes).unwrap();
    let layer = &manifest.layers[0];
    let hex = layer.digest.hex();
    let path = format!("/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    let content = std::fs::read(bases().join("blobs/sha256").join(hex)).unwrap();
    storage.put_file(&path, testkit::WebFile { content: content.into(), ..testkit::WebFile::default() });
    client.fetch_blob_bytes(&image, layer).await.unwrap();
    let seen = storage.requests();
    assert_eq!(seen.iter().map(|request| request.authorization.as_deref()).collect::<Vec<_>>(), [None]);

    let authority = Authority::new();
    let certificate = authority.certificate("server", HERE, 2);
    let registry = start(&RealSettings {
        certificate: Some(&certificate),
        storage_url: Some(&address),
        ..RealSettings::default()
    });
    let ca = vec![authority.root().certificate];
    let client = Client::new(strict(&registry, HostConfig { ca, ..HostConfig::default() }));
    let image = reference(&registry, "base/busybox:latest");
    let error = client.fetch_blob_bytes(&image, layer).await.unwrap_err();
    assert_eq!(
        error.to_string().replace(registry.address(), "HOST").replace(storage.address(), "STORAGE"),
        "the answer of `HOST` for `HOST/base/busybox:latest` cannot be used: a redirect from HTTPS to HTTP, to `STORAGE`"
    );
}
