//! Registries that stand in for others.

use crate::*;

fn mirrors(hosts: &[&str]) -> Client {
    let mirrors = hosts.iter().map(|host| (*host).to_owned()).collect();
    let configs = BTreeMap::from([
        ("mirrored.invalid".to_owned(), HostConfig { mirrors, http: Some(true), ..HostConfig::default() }),
        ("127.0.0.1:1".to_owned(), HostConfig { http: Some(true), ..HostConfig::default() }),
    ]);
    Client::new(ClientOptions { hosts: configs.into(), ..options() })
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
                 `v1` of `mirrored.invalid/a:v1` was not found in the registry `HOST`: UNKNOWN: not here; \
                 the registry `127.0.0.1:1` cannot be reached for `mirrored.invalid/a:v1`: ";
    assert!(text.starts_with(start), "{text}");
    assert!(text.contains("the registry `mirrored.invalid` cannot be reached"), "{text}");
    assert!(!error.is_not_found());
}

#[tokio::test]
async fn a_mirror_that_fails_is_not_waited_for_long() {
    let (broken, (full, manifest, _)) = (ScriptedRegistry::start(), registry());
    broken.fault("GET", "/manifests/", 99, FaultKind::Status(503, None));
    let client = mirrors(&[broken.address(), full.address()]);
    let reference: ImageReference = "mirrored.invalid/a:v1".parse().unwrap();
    assert_eq!(client.resolve(&reference).await.unwrap().descriptor, manifest);
    assert_eq!(broken.count("GET", "/manifests/"), 2);
}

#[tokio::test]
async fn foreign_layers_are_fetched_from_their_addresses_without_credentials() {
    let (registry, other) = (ScriptedRegistry::start(), ScriptedRegistry::start());
    let content = vec![7; 3_000_000];
    other.put_file("/layer", testkit::WebFile { content: content.clone().into(), ..Default::default() });
    other.fault("GET", "/layer", 1, FaultKind::Reset { after_bytes: 1_000_000 });
    let mut layer = Descriptor::of("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", &content);
    layer.urls = vec!["ftp://x/layer".to_owned(), other.url("/gone"), other.url("/layer")];
    let password = Credential::Password { username: "me".to_owned(), password: "secret".to_owned() };
    let credentials = CredentialStore::anonymous().everywhere(password);
    let client = Client::new(ClientOptions { credentials, ..options() });
    let reference = reference(&registry, "a:v1");
    assert_eq!(read(&client, &reference, &layer).await.unwrap(), content);
    let seen: Vec<_> = other.requests().into_iter().map(|seen| (seen.path, seen.range)).collect();
    let rest = Some("bytes=1000000-".to_owned());
    let expected = [("/gone", None), ("/layer", None), ("/layer", rest)];
    assert_eq!(seen, expected.map(|(path, range)| (path.to_owned(), range)));
    // It asks in vain who we are.
    other.put_file(
        "/layer",
        testkit::WebFile { authorization: Some("Basic eDp5".to_owned()), ..Default::default() },
    );
    let error = read(&client, &reference, &layer).await.map(drop).unwrap_err();
    assert!(other.requests().iter().all(|request| request.authorization.is_none()), "{error}");
}

#[tokio::test]
async fn what_a_mirror_has_begun_another_host_ends() {
    let ((bad, _, blob), (good, ..)) = (registry(), registry());
    bad.fault("GET", "/blobs/", 1, FaultKind::Reset { after_bytes: 1_000_000 });
    let reference: ImageReference = "mirrored.invalid/a:v1".parse().unwrap();
    let client = mirrors(&[bad.address(), good.address()]);
    let mut stream = client.fetch_blob(&reference, &blob).await.unwrap();
    bad.fault("GET", "/blobs/", 99, FaultKind::Status(500, None));
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.chunk().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(Digest::sha256(&bytes), blob.digest);
    let ranges: Vec<_> = good.requests().into_iter().filter_map(|request| request.range).collect();
    assert_eq!(ranges, ["bytes=1000000-"]);

    good.fault("GET", "/blobs/", 99, FaultKind::Status(404, None));
    let error = read(&client, &reference, &blob).await.map(drop).unwrap_err();
    let text = error.to_string().replace(bad.address(), "BAD").replace(good.address(), "GOOD");
    let text = text.replace(blob.digest.as_str(), "BLOB");
    let start = "`mirrored.invalid/a:v1` could not be had: \
                 `BAD` answered 500 to GET blob of `mirrored.invalid/a:v1`: SCRIPTED: scripted; \
                 `BLOB` of `mirrored.invalid/a:v1` was not found in the registry `GOOD`: SCRIPTED: scripted; ";
    assert!(text.starts_with(start), "{text}");
}
