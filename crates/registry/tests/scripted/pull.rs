//! Manifests and blobs that are pulled.

use std::fmt::Write as _;

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
    registry.fault("HEAD", "/manifests/", 1, FaultKind::Status(405, None));
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
    let odd = [
        (
            r#"{"schemaVersion":1,"name":"a"}"#,
            "it is a manifest of Docker's schema 1, which nothing reads any more; \
          push the image again with a tool of today",
        ),
        (
            r#"{"schemaVersion":2,"mediaType":"text/x"}"#,
            "it is neither an image manifest nor an index, but `text/x`",
        ),
        ("hello", "it is not JSON: expected value at line 1 column 1"),
    ];
    for (bytes, problem) in odd {
        registry.put_manifest(
            "a",
            Some("odd"),
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            bytes,
        );
        let error = client().resolve(&reference(&registry, "a:odd")).await.unwrap_err();
        let expected = format!("the answer of `HOST` for `HOST/a:odd` cannot be used: {problem}");
        assert_eq!(told(&error, &registry), expected);
    }
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
async fn a_slow_body_is_waited_for() {
    let (registry, _, blob) = registry();
    // Twice as long as the longest time without a byte.
    let slow = FaultKind::Slow { pieces: 10, pause: Duration::from_millis(60) };
    registry.fault("GET", "/blobs/", 1, slow);
    let bytes = read(&client(), &reference(&registry, "a:v1"), &blob).await.unwrap();
    assert_eq!(Digest::sha256(&bytes), blob.digest);
    assert_eq!(registry.count("GET", "/blobs/"), 1);
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
    let own = HostConfig { max_concurrency: Some(1), ..HostConfig::default() };
    let hosts = BTreeMap::from([(registry.address().to_owned(), own)]).into();
    for options in [limited, ClientOptions { hosts, ..options() }] {
        one_waits_for_the_other(&Client::new(options), &reference(&registry, "a:v1"), &blob).await;
    }
}

async fn one_waits_for_the_other(client: &Client, reference: &ImageReference, blob: &Descriptor) {
    let first = client.fetch_blob(reference, blob).await.unwrap();
    let second = client.fetch_blob(reference, blob);
    tokio::pin!(second);
    tokio::select! {
        biased;
        _ = &mut second => panic!("the second transfer did not wait"),
        resolved = client.resolve(reference) => drop(resolved.unwrap()),
    }
    drop(first);
    second.await.unwrap();
}

/// What a person is told of each fault of a pull, and how many requests it took.
#[tokio::test]
async fn faults_are_told_in_plain_words() {
    let later = || Some("3600".to_owned());
    let faults = |after_bytes| {
        [
            FaultKind::Status(400, None),
            FaultKind::Status(403, None),
            FaultKind::Status(404, None),
            FaultKind::Status(408, None),
            FaultKind::Status(429, None),
            FaultKind::Status(429, later()),
            FaultKind::Status(503, later()),
            FaultKind::Text(500, r#"{"errors":[{"code":"DENIED"},{"code":"X","message":"y"}]}"#.to_owned()),
            FaultKind::Text(502, "<html>bad gateway</html>".to_owned()),
            FaultKind::Text(504, "the proxy is tired\nof it".to_owned()),
            FaultKind::Reset { after_bytes: 0 },
            FaultKind::Reset { after_bytes },
            FaultKind::Stall { after_bytes },
            FaultKind::Short { bytes: after_bytes },
            FaultKind::WrongBytes,
            FaultKind::Redirect("ftp://elsewhere/".to_owned()),
            FaultKind::Redirect("/v2/round".to_owned()),
        ]
    };
    // A blob that moves at all is not given up.
    for (path, after_bytes, expected) in [
        ("/manifests/", 10, include_str!("manifest_faults.txt")),
        ("/blobs/", 0, include_str!("blob_faults.txt")),
    ] {
        let mut text = String::new();
        for fault in faults(after_bytes) {
            let registry = ScriptedRegistry::start();
            registry.put_manifest("a", Some("v1"), MediaType::OCI_MANIFEST, manifest_bytes("x"));
            let blob = registry.put_blob("a", OCTETS, "some bytes");
            registry.fault("GET", path, 99, fault.clone());
            registry.fault("GET", "/round", 99, fault.clone());
            let reference = reference(&registry, "a:v1");
            let error = match path {
                "/blobs/" => read(&client(), &reference, &blob).await.map(drop).unwrap_err(),
                _ => client().resolve(&reference).await.map(drop).unwrap_err(),
            };
            let told = told(&error, &registry).replace('\n', "\n  ");
            let _ = writeln!(text, "{fault:?}, {} requests:\n  {told}", sequence(&registry).len());
        }
        assert!(text == expected, "{path}\n{text}");
    }
}
