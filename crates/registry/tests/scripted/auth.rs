//! Who we are.

use crate::*;

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

pub(crate) fn token_policy(anonymous_pull: bool) -> AuthPolicy {
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
