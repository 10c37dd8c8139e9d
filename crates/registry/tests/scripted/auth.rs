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
    (directory, CredentialStore::files([path]))
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
        watcher: Watcher::default(),
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
            watcher: Watcher::default(),
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

/// A directory with `config.json` and the helper `docker-credential-test`, which appends its input to `asked`.
fn with_helper(config: &str, script: &str) -> (tempfile::TempDir, Client) {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("docker-credential-test");
    let asked = directory.path().join("asked");
    let source = directory.path().join("source");
    std::fs::write(&source, format!("#!/bin/sh\ncat >> {}\n{script}\n", asked.display())).unwrap();
    // A program that this process wrote might still be open in a child of another test, and not be run then.
    let copied = std::process::Command::new("install").args(["-m", "755"]).args([&source, &program]).status();
    assert!(copied.unwrap().success());
    let file = directory.path().join("config.json");
    std::fs::write(&file, config).unwrap();
    let path = format!("{}:/usr/bin:/bin", directory.path().display());
    let credentials = CredentialStore::files([file]).search_path(path.into());
    (directory, Client::new(ClientOptions { credentials, ..options() }))
}

#[tokio::test]
async fn helpers_are_asked_once() {
    let (registry, manifest, blob) = registry();
    let reference = reference(&registry, "a:v1");
    let host = registry.address();
    let scripts = [
        r#"echo '{"ServerURL":"x","Username":"me","Secret":"secret"}'"#,
        r#"echo '{"Username":"<token>","Secret":"refresh"}'"#,
    ];
    for script in scripts {
        for config in [
            r#"{"credsStore":"test"}"#.to_owned(),
            format!(r#"{{"credHelpers":{{"{host}":"test"}},"auths":{{"{host}":{{"auth":"eDp5"}}}}}}"#),
        ] {
            registry.set_auth(token_policy(false));
            let (directory, client) = with_helper(&config, script);
            assert_eq!(client.resolve(&reference).await.unwrap().descriptor, manifest, "{config}");
            read(&client, &reference, &blob).await.unwrap();
            assert_eq!(std::fs::read_to_string(directory.path().join("asked")).unwrap(), host);
        }
    }
}

#[tokio::test]
async fn a_helper_that_knows_nothing_makes_anonymous() {
    let (registry, manifest, _) = registry();
    registry.set_auth(token_policy(true));
    let (_directory, client) =
        with_helper(r#"{"credsStore":"test"}"#, "echo credentials not found in native keychain; exit 1");
    assert_eq!(client.resolve(&reference(&registry, "a:v1")).await.unwrap().descriptor, manifest);
}

#[tokio::test]
async fn helpers_that_fail_are_named() {
    let (registry, ..) = registry();
    registry.set_auth(token_policy(true));
    let failure = |config: &'static str, script: &'static str| {
        let (registry, reference) = (&registry, reference(&registry, "a:v1"));
        async move {
            let (directory, client) = with_helper(config, script);
            let error = client.resolve(&reference).await.unwrap_err();
            told(&error, registry).replace(&directory.path().display().to_string(), "DIR")
        }
    };
    let own = r#"{"credsStore":"test"}"#;
    assert_eq!(
        failure(own, "echo the keychain is locked >&2; exit 1").await,
        "the credentials for `HOST` cannot be read: the credential helper `docker-credential-test` failed: \
         the keychain is locked"
    );
    assert_eq!(
        failure(own, "echo secret").await,
        "the credentials for `HOST` cannot be read: the credential helper `docker-credential-test` failed: \
         its answer is not JSON: expected value at line 1 column 1"
    );
    assert_eq!(
        failure(r#"{"credsStore":"desktop"}"#, "").await,
        "the credentials for `HOST` cannot be read: there is no credential helper `docker-credential-desktop` in \
         PATH, and `DIR/config.json` names it\n\
         hint: install `docker-credential-desktop`, or take `desktop` out of `DIR/config.json`"
    );
    assert_eq!(
        failure("{", "").await,
        "the credentials for `HOST` cannot be read: `DIR/config.json` is not a file of credentials: \
         EOF while parsing an object at line 1 column 1"
    );
}

#[tokio::test]
async fn repositories_have_credentials_of_their_own() {
    let (registry, manifest, _) = registry();
    registry.put_manifest("team/app", Some("v1"), MediaType::OCI_MANIFEST, manifest_bytes("x"));
    let host = registry.address();
    // "bWU6c2VjcmV0" is `me:secret`, "eDp5" is `x:y`.
    let podman =
        format!(r#"{{"auths":{{"{host}/team":{{"auth":"bWU6c2VjcmV0"}},"{host}":{{"auth":"eDp5"}}}}}}"#);
    for policy in [token_policy(false), AuthPolicy::Basic("me".to_owned(), "secret".to_owned())] {
        registry.set_auth(policy);
        let directory = tempfile::tempdir().unwrap();
        let (empty, full) = (directory.path().join("config.json"), directory.path().join("auth.json"));
        std::fs::write(&empty, r#"{"auths":{"other.example":{"auth":"eDp5"}}}"#).unwrap();
        std::fs::write(&full, &podman).unwrap();
        let credentials = CredentialStore::files([directory.path().join("gone"), empty, full]);
        let client = Client::new(ClientOptions { credentials, ..options() });
        assert_eq!(client.resolve(&reference(&registry, "team/app:v1")).await.unwrap().descriptor, manifest);
        let error = client.resolve(&reference(&registry, "a:v1")).await.unwrap_err();
        assert_eq!(
            told(&error, &registry),
            "401 unauthorized: `HOST` wants credentials for `HOST/a:v1` and refuses those it got\n\
             hint: the credentials in docker's config.json may be out of date: `docker login HOST`"
        );
    }
}

#[tokio::test]
async fn of_several_challenges_a_token_is_chosen() {
    let (registry, manifest, _) = registry();
    registry.offer_more_challenges();
    for (policy, tokens) in
        [(token_policy(false), 1), (AuthPolicy::Basic("me".to_owned(), "secret".to_owned()), 1)]
    {
        registry.set_auth(policy);
        let (_directory, credentials) = docker_config(&registry, r#"{"username":"me","password":"secret"}"#);
        let client = Client::new(ClientOptions { credentials, ..options() });
        assert_eq!(client.resolve(&reference(&registry, "a:v1")).await.unwrap().descriptor, manifest);
        assert_eq!(registry.count("GET", "/token"), tokens);
    }
}

#[tokio::test]
async fn one_token_lets_mount_and_push() {
    let registry = ScriptedRegistry::start();
    registry.put_blob("other/a", OCTETS, "content");
    registry.set_auth(token_policy(false));
    let (_directory, credentials) = docker_config(&registry, r#"{"username":"me","password":"secret"}"#);
    let client = Client::new(ClientOptions { credentials, ..options() });
    let push = PushBlob {
        target: reference(&registry, "b:v1"),
        descriptor: Descriptor::of(OCTETS, b"content"),
        mount_from: vec!["other/a".to_owned()],
        source: BlobSource::Bytes(Bytes::from_static(b"content")),
        watcher: Watcher::default(),
    };
    assert_eq!(client.push_blob(&push).await.unwrap(), Pushed::Mounted);
    let asked: Vec<_> = registry.requests().into_iter().map(|request| request.path).collect();
    let asked: Vec<_> =
        asked.iter().filter_map(|path| path.strip_prefix("/token?service=scripted&")).collect();
    let mount = "scope=repository%3Ab%3Apull%2Cpush&scope=repository%3Aother%2Fa%3Apull&account=me";
    assert_eq!(asked, ["scope=repository%3Ab%3Apull%2Cpush&account=me", mount]);
}

#[tokio::test]
async fn a_token_of_the_registry_is_sent_as_it_is() {
    let (registry, manifest, _) = registry();
    registry.set_auth(token_policy(true));
    let reference = reference(&registry, "a:v1");
    client().resolve(&reference).await.unwrap();
    let (_directory, credentials) = docker_config(&registry, r#"{"registrytoken":"token-1"}"#);
    let client = Client::new(ClientOptions { credentials, ..options() });
    assert_eq!(client.resolve(&reference).await.unwrap().descriptor, manifest);
    assert_eq!(registry.count("GET", "/token"), 1);
}
