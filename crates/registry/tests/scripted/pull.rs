//! Manifests and blobs that are pulled.

use crate::*;

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
    assert_eq!(
        told(&error, &registry),
        "`v2` of `HOST/a:v2` was not found in the registry `HOST`: UNKNOWN: not here\n\
         hint: check the name and the tag"
    );
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
    assert_eq!(
        normalised(&error, &registry),
        "`HOST` answered 500 to GET manifest of `HOST/a:v1`: SCRIPTED: scripted"
    );
    assert_eq!(registry.count("GET", "/manifests/"), 3);

    registry.fault("GET", "/manifests/", 1, FaultKind::Status(429, Some("3600".to_owned())));
    let error = client().resolve(&reference).await.unwrap_err();
    assert_eq!(
        told(&error, &registry),
        "`HOST` limits the rate of requests for `HOST/a:v1` and wants a pause of 3600 s: SCRIPTED: scripted\n\
         hint: wait, log in to get a higher limit, or set a mirror in config.toml"
    );

    registry.fault("GET", "/manifests/", 1, FaultKind::Status(403, None));
    let error = client().resolve(&reference).await.unwrap_err();
    assert_eq!(normalised(&error, &registry), "`HOST` denies access to `HOST/a:v1`: SCRIPTED: scripted");
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
