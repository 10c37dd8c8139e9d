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
